// Writes lossless streams: every mode but those of repeats, whichever is smallest.
#include <algorithm>
#include <unordered_set>

#include "choose.h"
#include "lossless_parts.h"

namespace onnxopt {
namespace {

constexpr size_t kFewZeros = 64;  // one element in so many: below, 1 % of the bytes is not worth the time

// [u8 codec][varint length][coded bytes]
void write_coded(LosslessStream& out, const Coded& coded) {
  if (coded.codec == codecs::adaptive.id) out.version = 3;
  Writer writer(out.bytes);
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

void write_planes(LosslessStream& out, const uint8_t* data, size_t width, Shape shape) {
  const size_t n = shape.size();
  if (n == 0) return;
  Writer writer(out.bytes);
  std::vector<int32_t> plane(n);
  for (size_t b = width; b-- > 0;) {
    for (size_t i = 0; i < n; ++i) {
      plane[i] = static_cast<int32_t>(rotate_left(load(data + i * width, width), width) >> (8 * b) & 255);
    }
    Coded coded;
    if (!looks_random(plane)) coded = encode_best(plane.data(), shape, Prefer::kQuick);
    if (!coded.bytes.empty() && coded.bytes.size() + 4 < n) {
      write_coded(out, coded);
    } else {
      writer.u8(kStored);
      for (size_t i = 0; i < n; ++i) writer.u8(static_cast<uint8_t>(plane[i]));
    }
  }
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

// Two bytes whose exponent and first bits of the mantissa are coded together.
std::vector<int32_t> as_rotated(const uint8_t* data, size_t n) {
  std::vector<int32_t> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = static_cast<int32_t>(rotate_left(load(data + 2 * i, 2), 2));
  return out;
}

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

void write_palette(LosslessStream& out, const std::vector<uint64_t>& table, const uint8_t* data, size_t width,
                   Shape shape) {
  Writer(out.bytes).varint(table.size());
  std::vector<uint8_t> elements(table.size() * width);
  for (size_t k = 0; k < table.size(); ++k) store(elements.data() + k * width, width, table[k]);
  write_planes(out, elements.data(), width, {1, table.size()});
  std::vector<int32_t> indices(shape.size());
  for (size_t i = 0; i < indices.size(); ++i) {
    const uint64_t key = order_key(load(data + i * width, width), width);
    const auto at = std::lower_bound(table.begin(), table.end(), key,
                                     [&](uint64_t v, uint64_t k) { return order_key(v, width) < k; });
    indices[i] = static_cast<int32_t>(at - table.begin());
  }
  write_coded(out, encode_best(indices.data(), shape, Prefer::kQuick));
}

// Modes 0 to 2, whichever is smallest.
LosslessStream encode_dense(const uint8_t* data, size_t width, Shape shape) {
  const size_t n = shape.size();
  LosslessStream best;
  const auto offer = [&](Mode mode, auto write) {
    LosslessStream out{{static_cast<uint8_t>(mode)}, mode == Mode::kRotated ? 2 : 1};
    write(out);
    if (best.bytes.empty() || out.bytes.size() < best.bytes.size()) best = std::move(out);
  };
  if (n != 0) {
    const std::vector<int32_t> integers = as_integers(data, width, n);
    if (!integers.empty()) {
      offer(Mode::kIntegers, [&](LosslessStream& out) {
        write_coded(out, encode_best(integers.data(), shape, Prefer::kQuick));
      });
    }
    const std::vector<uint64_t> table = distinct(data, width, n);
    if (!table.empty())
      offer(Mode::kPalette, [&](LosslessStream& out) { write_palette(out, table, data, width, shape); });
    if (!best.bytes.empty() && best.bytes.size() < n / 4 * width)
      return best;  // few distinct values: planes cannot win
    if (width == 2) {
      const std::vector<int32_t> rotated = as_rotated(data, n);
      offer(Mode::kRotated, [&](LosslessStream& out) {
        write_coded(out, encode_best(rotated.data(), shape, Prefer::kQuick));
      });
    }
  }
  offer(Mode::kPlanes, [&](LosslessStream& out) { write_planes(out, data, width, shape); });
  return best;
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

LosslessStream encode_sparse(const std::vector<int32_t>& marks, const uint8_t* data, size_t width,
                             Shape shape) {
  LosslessStream out{{static_cast<uint8_t>(Mode::kSparse)}, 1};
  write_coded(out, encode_best(marks.data(), shape, Prefer::kQuick));
  std::vector<uint8_t> others;
  for (size_t i = 0; i < marks.size(); ++i) {
    if (static_cast<Mark>(marks[i]) != Mark::kOther) continue;
    others.insert(others.end(), data + i * width, data + (i + 1) * width);
  }
  const LosslessStream coded = encode_dense(others.data(), width, {1, others.size() / width});
  Writer(out.bytes).bytes({coded.bytes.data(), coded.bytes.size()});
  out.version = std::max(out.version, coded.version);
  return out;
}

}  // namespace

LosslessStream lossless_encode(const uint8_t* data, size_t width, Shape shape) {
  check_width(width);
  LosslessStream best = encode_dense(data, width, shape);
  const std::vector<int32_t> marks = marks_of_zeros(data, width, shape.size());
  if (marks.empty()) return best;
  LosslessStream sparse = encode_sparse(marks, data, width, shape);
  return sparse.bytes.size() < best.bytes.size() ? sparse : best;
}

}  // namespace onnxopt
