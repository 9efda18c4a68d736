#include "repeats.h"

#include <utility>

#include "lossless_parts.h"

namespace onnxopt {
namespace {

// Elements [first, first + length) equal those from `source` on, read forward or backward, but for top bits.
struct Match {
  size_t first, length, source;
  uint32_t ways;  // bit 0: backward; bits 1 and 2: the top bits of even and of odd places are inverted
};

constexpr uint32_t kBackward = 1, kEven = 2, kOdd = 4;

class VectorSink final : public Sink {
 public:
  explicit VectorSink(size_t n) : values(n) {}
  void put(size_t first, const int32_t* q, size_t n) override {
    for (size_t i = 0; i < n; ++i) values[first + i] = static_cast<uint32_t>(q[i]);
  }
  std::vector<uint32_t> values;  // negative ones become too large for anything
};

std::vector<uint32_t> read_row(Reader& reader, size_t n) {
  VectorSink sink(n);
  read_coded(reader, reader.u8(), {1, n}, sink);
  return std::move(sink.values);
}

// Stored elements stand at `stored` and go to where they belong, none behind where it stood: so none is
// written over before it has moved.
template <class Word>
void apply(const std::vector<Match>& matches, size_t n, size_t stored, uint8_t* bytes) {
  constexpr size_t kWidth = sizeof(Word);
  constexpr unsigned kTop = 8 * kWidth - 1;
  size_t at = 0;
  const auto move_to = [&](size_t end) {
    std::memmove(bytes + at * kWidth, bytes + stored * kWidth, (end - at) * kWidth);
    stored += end - at;
    at = end;
  };
  for (const Match& m : matches) {
    move_to(m.first);
    Word inverted[2] = {static_cast<Word>(Word{(m.ways & kEven) != 0} << kTop),
                        static_cast<Word>(Word{(m.ways & kOdd) != 0} << kTop)};
    const size_t step = m.ways & kBackward ? 0 - kWidth : kWidth;
    size_t from = m.source * kWidth;  // wraps around where the first element was the last one read
    for (size_t end = at + m.length; at != end; ++at, from += step) {
      Word v;
      std::memcpy(&v, bytes + from, kWidth);
      v = static_cast<Word>(v ^ inverted[0]);
      std::swap(inverted[0], inverted[1]);
      std::memcpy(bytes + at * kWidth, &v, kWidth);
    }
  }
  move_to(n);
}

// Every match lies behind the one before it and refers to elements before it.
std::vector<Match> read_matches(Reader& reader, size_t n) {
  const uint64_t count = reader.varint();
  if (count > n) fail("lossless: %" PRIu64 " repeats of %zu elements", count, n);
  const auto m = static_cast<size_t>(count);
  const std::vector<uint32_t> gaps = read_row(reader, m), lengths = read_row(reader, m);
  const std::vector<uint32_t> distances = read_row(reader, m), ways = read_row(reader, m);
  std::vector<Match> out(m);
  size_t at = 0;
  for (size_t i = 0; i < m; ++i) {
    if (gaps[i] > n - at || lengths[i] > n - at - gaps[i])
      fail("lossless: repeat %zu ends beyond the tensor", i);
    at += gaps[i];
    const size_t source = at - distances[i];
    if (distances[i] == 0 || distances[i] > at || ways[i] > (kBackward | kEven | kOdd) ||
        (ways[i] & kBackward && lengths[i] > source + 1)) {
      fail("lossless: repeat %zu is of something that is not there", i);
    }
    out[i] = {at, lengths[i], source, ways[i]};
    at += lengths[i];
  }
  return out;
}

// from[rows, cols] -> out[cols, rows]
void transpose(const uint8_t* from, size_t width, Shape shape, uint8_t* out) {
  for (size_t c = 0; c < shape.cols; ++c, from += width) {
    const uint8_t* at = from;
    for (size_t r = 0; r < shape.rows; ++r, at += shape.cols * width, out += width)
      std::memcpy(out, at, width);
  }
}

}  // namespace

void read_repeats(Reader& reader, size_t width, Shape shape, uint8_t* out) {
  const size_t n = shape.size();
  const std::vector<Match> matches = read_matches(reader, n);
  size_t repeated = 0;
  for (const Match& m : matches) repeated += m.length;
  read_single(reader, reader.u8(), width, {1, n - repeated}, out + repeated * width);
  if (width == 1) return apply<uint8_t>(matches, n, repeated, out);
  if (width == 2) return apply<uint16_t>(matches, n, repeated, out);
  if (width == 4) return apply<uint32_t>(matches, n, repeated, out);
  apply<uint64_t>(matches, n, repeated, out);
}

void read_transposed(Reader& reader, size_t width, Shape shape, uint8_t* out) {
  const size_t n = shape.size();
  const uint64_t columns = reader.varint();
  if (columns == 0 || columns > n || n % columns != 0) {
    fail("lossless: %" PRIu64 " columns of %zu elements", columns, n);
  }
  const Shape turned{static_cast<size_t>(columns), n / static_cast<size_t>(columns)};
  std::vector<uint8_t> bytes(n * width);
  const uint8_t mode = reader.u8();
  if (static_cast<Mode>(mode) == Mode::kRepeats) {
    read_repeats(reader, width, turned, bytes.data());
  } else {
    read_single(reader, mode, width, turned, bytes.data());
  }
  transpose(bytes.data(), width, turned, out);
}

}  // namespace onnxopt
