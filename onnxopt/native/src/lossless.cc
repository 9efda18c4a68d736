// Reads lossless streams: elements given back bit for bit, as byte planes, as integers, as a palette with a
// matrix of indices, or as marks of zeros with the other elements. repeats.cc reads the other modes.
#include "lossless.h"

#include <algorithm>

#include "lossless_parts.h"
#include "repeats.h"

namespace onnxopt {
namespace {

class PlaneSink : public Sink {
 public:
  PlaneSink(uint8_t* out, size_t width) : out_(out), width_(width) {}
  void put(size_t first, const int32_t* q, size_t n) override {
    uint8_t* p = out_ + first * width_;
    uint32_t all = 0;
    for (size_t i = 0; i < n; ++i, p += width_) {
      all |= static_cast<uint32_t>(q[i]);
      *p = static_cast<uint8_t>(q[i]);
    }
    if (all <= 255) return;
    const int32_t* wrong = std::find_if(q, q + n, [](int32_t v) { return v < 0 || v > 255; });
    fail("lossless: %d in a plane of bytes", *wrong);
  }

 private:
  uint8_t* out_;
  size_t width_;
};

template <class Word>
void turn_right(uint8_t* out, size_t n) {
  for (size_t i = 0; i < n; ++i, out += sizeof(Word)) {
    Word v;
    std::memcpy(&v, out, sizeof v);
    v = static_cast<Word>(v >> 1 | v << (8 * sizeof v - 1));
    std::memcpy(out, &v, sizeof v);
  }
}

void read_planes(Reader& reader, size_t width, Shape shape, uint8_t* out) {
  const size_t n = shape.size();
  if (n == 0) return;
  for (size_t b = width; b-- > 0;) {
    const uint8_t id = reader.u8();
    if (id == kStored) {
      const uint8_t* from = reader.bytes(n).data;
      for (size_t i = 0; i < n; ++i) out[i * width + b] = from[i];
    } else {
      PlaneSink sink(out + b, width);
      read_coded(reader, id, shape, sink);
    }
  }
  if (width == 2) return turn_right<uint16_t>(out, n);
  if (width == 4) return turn_right<uint32_t>(out, n);
  if (width == 8) turn_right<uint64_t>(out, n);
}

class IntegerSink : public Sink {
 public:
  IntegerSink(uint8_t* out, size_t width, bool rotated) : out_(out), width_(width), rotated_(rotated) {}
  void put(size_t first, const int32_t* q, size_t n) override {
    for (size_t i = 0; i < n; ++i) {
      const auto bits = static_cast<uint64_t>(int64_t{q[i]});
      if (rotated_ ? bits >> (8 * width_) != 0 : sign_extend(bits, width_) != q[i]) {
        fail("lossless: %d does not fit %zu bytes", q[i], width_);
      }
      store(out_ + (first + i) * width_, width_, rotated_ ? rotate_right(bits, width_) : bits);
    }
  }

 private:
  uint8_t* out_;
  size_t width_;
  bool rotated_;
};

class PaletteSink : public Sink {
 public:
  PaletteSink(const std::vector<uint8_t>& table, uint8_t* out, size_t width)
      : table_(table), size_(table.size() / width), out_(out), width_(width) {}
  void put(size_t first, const int32_t* q, size_t n) override {
    for (size_t i = 0; i < n; ++i) {
      const auto k = static_cast<uint32_t>(q[i]);
      if (k >= size_) {
        fail("lossless: index %d outside a palette of %zu", q[i], size_);
      }
      std::copy_n(table_.data() + k * width_, width_, out_ + (first + i) * width_);
    }
  }

 private:
  const std::vector<uint8_t>& table_;
  size_t size_;
  uint8_t* out_;
  size_t width_;
};

void read_palette(Reader& reader, size_t width, Shape shape, uint8_t* out) {
  const uint64_t size = reader.varint();
  if (size > kMaxPalette) {
    fail("lossless: a palette of %" PRIu64 ", at most %zu expected", size, kMaxPalette);
  }
  std::vector<uint8_t> table(static_cast<size_t>(size) * width);
  read_planes(reader, width, {1, static_cast<size_t>(size)}, table.data());
  PaletteSink sink(table, out, width);
  read_coded(reader, reader.u8(), shape, sink);
}

void read_dense(Reader& reader, uint8_t mode, size_t width, Shape shape, uint8_t* out) {
  switch (static_cast<Mode>(mode)) {
    case Mode::kPlanes:
      return read_planes(reader, width, shape, out);
    case Mode::kRotated:
      if (width != 2) fail("lossless: rotated elements of %zu bytes, 2 expected", width);
      [[fallthrough]];
    case Mode::kIntegers: {
      IntegerSink sink(out, width, static_cast<Mode>(mode) == Mode::kRotated);
      return read_coded(reader, reader.u8(), shape, sink);
    }
    case Mode::kPalette:
      return read_palette(reader, width, shape, out);
    default:
      fail("lossless: no mode %u is known here", mode);
  }
}

class MarkSink : public Sink {
 public:
  explicit MarkSink(size_t n) : marks_(n) {}
  void put(size_t first, const int32_t* q, size_t n) override {
    uint32_t most = 0;
    for (size_t i = 0; i < n; ++i) {
      most = std::max(most, static_cast<uint32_t>(q[i]));
      marks_[first + i] = static_cast<Mark>(q[i]);
    }
    if (most > static_cast<uint32_t>(Mark::kMinusZero)) {
      fail("lossless: mark %d, 0 to 2 expected", static_cast<int32_t>(most));
    }
  }
  const std::vector<Mark>& marks() const { return marks_; }

 private:
  std::vector<Mark> marks_;
};

// The others stand at the end of `out` and move to their places, none behind where it stood: so none is
// written over before it has moved.
template <size_t kWidth>
void spread(const std::vector<Mark>& marks, const uint8_t* others, uint8_t* out) {
  const uint8_t zero[kWidth] = {};
  uint8_t minus_zero[kWidth] = {};
  minus_zero[kWidth - 1] = 0x80;
  const uint8_t* from[] = {zero, others, minus_zero};  // by mark: a branch would be missed half the time
  for (const Mark mark : marks) {
    std::memmove(out, from[static_cast<size_t>(mark)], kWidth);
    from[static_cast<size_t>(Mark::kOther)] += mark == Mark::kOther ? kWidth : 0;
    out += kWidth;
  }
}

void read_sparse(Reader& reader, size_t width, Shape shape, uint8_t* out) {
  MarkSink sink(shape.size());
  read_coded(reader, reader.u8(), shape, sink);
  const std::vector<Mark>& marks = sink.marks();
  const auto count = static_cast<size_t>(std::count(marks.begin(), marks.end(), Mark::kOther));
  uint8_t* others = out + (shape.size() - count) * width;
  read_dense(reader, reader.u8(), width, {1, count}, others);
  switch (width) {
    case 1:
      return spread<1>(marks, others, out);
    case 2:
      return spread<2>(marks, others, out);
    case 4:
      return spread<4>(marks, others, out);
    default:
      return spread<8>(marks, others, out);
  }
}

}  // namespace

void read_single(Reader& reader, uint8_t mode, size_t width, Shape shape, uint8_t* out) {
  if (static_cast<Mode>(mode) == Mode::kSparse) return read_sparse(reader, width, shape, out);
  read_dense(reader, mode, width, shape, out);
}

void read_coded(Reader& reader, uint8_t id, Shape shape, Sink& sink) {
  const Codec* codec = find_codec(id);
  if (codec == nullptr) fail("lossless: there is no integer codec %u", id);
  codec->decode(reader.bytes(reader.varint()), shape, sink);
}

void lossless_decode(Bytes in, size_t width, Shape shape, uint8_t* out) {
  check_width(width);
  Reader reader(in);
  const uint8_t mode = reader.u8();
  switch (static_cast<Mode>(mode)) {
    case Mode::kRepeats:
      read_repeats(reader, width, shape, out);
      break;
    case Mode::kTransposed:
      read_transposed(reader, width, shape, out);
      break;
    default:
      read_single(reader, mode, width, shape, out);
  }
  reader.expect_end("lossless");
}

}  // namespace onnxopt
