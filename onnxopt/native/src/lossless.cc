// Lossless: elements given back bit for bit, as byte planes, as integers, as a palette with a matrix of
// indices, or as marks of zeros with the other elements, whichever is smallest.
// docs/format/lossless.md has the bytes.
#include "lossless.h"

#include <algorithm>
#include <unordered_set>

#include "choose.h"
#include "repeats.h"

namespace onnxopt {
namespace {

enum class Mode : uint8_t { kPlanes = 0, kIntegers = 1, kPalette = 2, kSparse = 3 };
// What kSparse says of each element; the others are stored.
enum class Mark : uint8_t { kZero = 0, kOther = 1, kMinusZero = 2 };

constexpr size_t kMaxPalette = 4096;
constexpr size_t kFewZeros = 64;  // one element in so many: below, 1 % of the bytes is not worth the time

uint64_t load(const uint8_t* p, size_t width) {
  uint64_t v = 0;
  for (size_t b = 0; b < width; ++b) v |= uint64_t{p[b]} << (8 * b);
  return v;
}

void store(uint8_t* p, size_t width, uint64_t v) {
  for (size_t b = 0; b < width; ++b) p[b] = static_cast<uint8_t>(v >> (8 * b));
}

// The sign goes from the top to the bottom, so that a float's exponent fills the top byte alone. One byte
// stays.
uint64_t rotate_left(uint64_t v, size_t width) {
  const size_t top = 8 * width - 1;
  return width == 1 ? v : (v << 1 | v >> top) & (~uint64_t{0} >> (63 - top));
}

uint64_t rotate_right(uint64_t v, size_t width) {
  const size_t top = 8 * width - 1;
  return width == 1 ? v : v >> 1 | (v & 1) << top;
}

int64_t sign_extend(uint64_t v, size_t width) {
  const size_t unused = 64 - 8 * width;
  return static_cast<int64_t>(v << unused) >> unused;
}

void check_width(size_t width) {
  if (width != 1 && width != 2 && width != 4 && width != 8) {
    fail("lossless: elements of %zu bytes, 1, 2, 4 or 8 expected", width);
  }
}

// [u8 codec][varint length][coded bytes]
void write_coded(Writer& writer, const Coded& coded) {
  writer.u8(coded.codec);
  writer.varint(coded.bytes.size());
  writer.bytes({coded.bytes.data(), coded.bytes.size()});
}

// Sum of the squared counts: a plane of uniform bytes has about n^2 / 256 and is not worth a coder's time.
bool looks_random(const std::vector<int32_t>& plane) {
  uint64_t counts[256] = {};
  for (const int32_t byte : plane) ++counts[byte];
  uint64_t sum = 0;  // of floor(count^2 / n): as n^2 / 256 would overflow only beyond 2^32 elements
  for (const uint64_t count : counts) sum += count * count / plane.size();
  return sum < plane.size() / 256 + plane.size() / 4096 + 4;
}

void write_planes(Writer& writer, const uint8_t* data, size_t width, Shape shape) {
  const size_t n = shape.size();
  if (n == 0) return;
  std::vector<int32_t> plane(n);
  for (size_t b = width; b-- > 0;) {
    for (size_t i = 0; i < n; ++i) {
      plane[i] = static_cast<int32_t>(rotate_left(load(data + i * width, width), width) >> (8 * b) & 255);
    }
    Coded coded;
    if (!looks_random(plane)) coded = encode_best(plane.data(), shape, Prefer::kQuick);
    if (!coded.bytes.empty() && coded.bytes.size() + 4 < n) {
      write_coded(writer, coded);
    } else {
      writer.u8(kStored);
      for (size_t i = 0; i < n; ++i) writer.u8(static_cast<uint8_t>(plane[i]));
    }
  }
}

class PlaneSink : public Sink {
 public:
  PlaneSink(uint8_t* out, size_t width) : out_(out), width_(width) {}
  void put(size_t first, const int32_t* q, size_t n) override {
    uint8_t* p = out_ + first * width_;
    for (size_t i = 0; i < n; ++i, p += width_) {
      if (q[i] < 0 || q[i] > 255) fail("lossless: %d in a plane of bytes", q[i]);
      *p = static_cast<uint8_t>(q[i]);
    }
  }

 private:
  uint8_t* out_;
  size_t width_;
};

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
  if (width == 1) return;
  for (size_t i = 0; i < n; ++i)
    store(out + i * width, width, rotate_right(load(out + i * width, width), width));
}

// Two's complement integers that a coder of 32-bit integers can gain on; empty where they are not.
std::vector<int32_t> as_integers(const uint8_t* data, size_t width, size_t n) {
  constexpr int64_t kLargest = int64_t{1} << 24;  // floats look larger
  std::vector<int32_t> out(n);
  for (size_t i = 0; i < n; ++i) {
    const int64_t v = sign_extend(load(data + i * width, width), width);
    if (v > kLargest || v < -kLargest) return {};
    out[i] = static_cast<int32_t>(v);
  }
  return out;
}

class IntegerSink : public Sink {
 public:
  IntegerSink(uint8_t* out, size_t width) : out_(out), width_(width) {}
  void put(size_t first, const int32_t* q, size_t n) override {
    for (size_t i = 0; i < n; ++i) {
      const auto bits = static_cast<uint64_t>(int64_t{q[i]});
      if (sign_extend(bits, width_) != q[i]) {
        fail("lossless: %d does not fit %zu bytes", q[i], width_);
      }
      store(out_ + (first + i) * width_, width_, bits);
    }
  }

 private:
  uint8_t* out_;
  size_t width_;
};

// A key that sorts floats by value and integers by value within each sign.
uint64_t order_key(uint64_t v, size_t width) {
  const uint64_t sign = uint64_t{1} << (8 * width - 1);
  return v & sign ? ~v & (2 * sign - 1) : v | sign;
}

// The distinct elements in order, empty where there are too many to be worth it.
std::vector<uint64_t> distinct(const uint8_t* data, size_t width, size_t n) {
  const size_t most = std::min(kMaxPalette, n / 4 + 1);
  std::unordered_set<uint64_t> seen;
  uint64_t last = 0;
  for (size_t i = 0; i < n; ++i) {
    const uint64_t v = load(data + i * width, width);
    if (i != 0 && v == last) continue;
    last = v;
    if (seen.insert(v).second && seen.size() > most) return {};
  }
  std::vector<uint64_t> out(seen.begin(), seen.end());
  std::sort(out.begin(), out.end(),
            [&](uint64_t a, uint64_t b) { return order_key(a, width) < order_key(b, width); });
  return out;
}

void write_palette(Writer& writer, const std::vector<uint64_t>& table, const uint8_t* data, size_t width,
                   Shape shape) {
  writer.varint(table.size());
  std::vector<uint8_t> elements(table.size() * width);
  for (size_t k = 0; k < table.size(); ++k) store(elements.data() + k * width, width, table[k]);
  write_planes(writer, elements.data(), width, {1, table.size()});
  std::vector<int32_t> indices(shape.size());
  for (size_t i = 0; i < indices.size(); ++i) {
    const uint64_t key = order_key(load(data + i * width, width), width);
    const auto at = std::lower_bound(table.begin(), table.end(), key,
                                     [&](uint64_t v, uint64_t k) { return order_key(v, width) < k; });
    indices[i] = static_cast<int32_t>(at - table.begin());
  }
  write_coded(writer, encode_best(indices.data(), shape, Prefer::kQuick));
}

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
    fail("lossless: a palette of %lld, at most %zu expected", static_cast<long long>(size), kMaxPalette);
  }
  std::vector<uint8_t> table(static_cast<size_t>(size) * width);
  read_planes(reader, width, {1, static_cast<size_t>(size)}, table.data());
  PaletteSink sink(table, out, width);
  read_coded(reader, reader.u8(), shape, sink);
}

// Modes 0 to 2, whichever is smallest.
std::vector<uint8_t> encode_dense(const uint8_t* data, size_t width, Shape shape) {
  const size_t n = shape.size();
  std::vector<uint8_t> best;
  const auto offer = [&](Mode mode, auto write) {
    std::vector<uint8_t> out{static_cast<uint8_t>(mode)};
    Writer writer(out);
    write(writer);
    if (best.empty() || out.size() < best.size()) best = std::move(out);
  };
  if (n != 0) {
    const std::vector<int32_t> integers = as_integers(data, width, n);
    if (!integers.empty()) {
      offer(Mode::kIntegers,
            [&](Writer& w) { write_coded(w, encode_best(integers.data(), shape, Prefer::kQuick)); });
    }
    const std::vector<uint64_t> table = distinct(data, width, n);
    if (!table.empty())
      offer(Mode::kPalette, [&](Writer& w) { write_palette(w, table, data, width, shape); });
    if (!best.empty() && best.size() < n / 4 * width) return best;  // few distinct values: planes cannot win
  }
  offer(Mode::kPlanes, [&](Writer& w) { write_planes(w, data, width, shape); });
  return best;
}

void read_dense(Reader& reader, uint8_t mode, size_t width, Shape shape, uint8_t* out) {
  switch (static_cast<Mode>(mode)) {
    case Mode::kPlanes:
      return read_planes(reader, width, shape, out);
    case Mode::kIntegers: {
      IntegerSink sink(out, width);
      return read_coded(reader, reader.u8(), shape, sink);
    }
    case Mode::kPalette:
      return read_palette(reader, width, shape, out);
    default:
      fail("lossless: no mode %u is known here", mode);
  }
}

Mark mark_of(uint64_t v, size_t width) {
  if (v == 0) return Mark::kZero;
  return v == uint64_t{1} << (8 * width - 1) ? Mark::kMinusZero : Mark::kOther;
}

// One of each element; empty where nothing is to be won: there are few zeros, or nothing else, or a single
// plane, which tells zeros as well.
std::vector<int32_t> marks_of_zeros(const uint8_t* data, size_t width, size_t n) {
  if (width == 1) return {};
  std::vector<int32_t> marks(n);
  for (size_t i = 0; i < n; ++i) {
    marks[i] = static_cast<int32_t>(mark_of(load(data + i * width, width), width));
  }
  const auto others =
      static_cast<size_t>(std::count(marks.begin(), marks.end(), static_cast<int32_t>(Mark::kOther)));
  if (others == 0 || n - others <= n / kFewZeros) return {};
  return marks;
}

std::vector<uint8_t> encode_sparse(const std::vector<int32_t>& marks, const uint8_t* data, size_t width,
                                   Shape shape) {
  std::vector<uint8_t> out{static_cast<uint8_t>(Mode::kSparse)};
  Writer writer(out);
  write_coded(writer, encode_best(marks.data(), shape, Prefer::kQuick));
  std::vector<uint8_t> others;
  for (size_t i = 0; i < marks.size(); ++i) {
    if (static_cast<Mark>(marks[i]) != Mark::kOther) continue;
    others.insert(others.end(), data + i * width, data + (i + 1) * width);
  }
  const std::vector<uint8_t> coded = encode_dense(others.data(), width, {1, others.size() / width});
  writer.bytes({coded.data(), coded.size()});
  return out;
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

std::vector<uint8_t> lossless_encode(const uint8_t* data, size_t width, Shape shape) {
  check_width(width);
  std::vector<uint8_t> best = encode_dense(data, width, shape);
  const std::vector<int32_t> marks = marks_of_zeros(data, width, shape.size());
  if (marks.empty()) return best;
  std::vector<uint8_t> sparse = encode_sparse(marks, data, width, shape);
  return sparse.size() < best.size() ? sparse : best;
}

void lossless_decode(Bytes in, size_t width, Shape shape, uint8_t* out) {
  check_width(width);
  Reader reader(in);
  const uint8_t mode = reader.u8();
  if (mode == kRepeats) {
    read_repeats(reader, width, shape, out);
  } else if (mode == kTransposed) {
    read_transposed(reader, width, shape, out);
  } else {
    read_single(reader, mode, width, shape, out);
  }
  reader.expect_end("lossless");
}

}  // namespace onnxopt
