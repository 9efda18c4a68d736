// What lossless.cc, repeats.cc and lossless_encode.cc share. docs/format/lossless.md has the bytes.
#pragma once

#include "lossless.h"

namespace onnxopt {

enum class Mode : uint8_t {
  kPlanes = 0,
  kIntegers = 1,
  kPalette = 2,
  kSparse = 3,
  // Since version 2 of the container:
  kRepeats = 4,
  kTransposed = 5,
  kRotated = 6,
};
// What kSparse says of each element; the others are stored.
enum class Mark : uint8_t { kZero = 0, kOther = 1, kMinusZero = 2 };

constexpr size_t kMaxPalette = 4096;

inline uint64_t load(const uint8_t* p, size_t width) {
  uint64_t v = 0;
  for (size_t b = 0; b < width; ++b) v |= uint64_t{p[b]} << (8 * b);
  return v;
}

inline void store(uint8_t* p, size_t width, uint64_t v) {
  for (size_t b = 0; b < width; ++b) p[b] = static_cast<uint8_t>(v >> (8 * b));
}

// The sign goes from the top to the bottom, so that a float's exponent fills the top byte alone. One byte
// stays.
inline uint64_t rotate_left(uint64_t v, size_t width) {
  const size_t top = 8 * width - 1;
  return width == 1 ? v : (v << 1 | v >> top) & (~uint64_t{0} >> (63 - top));
}

inline uint64_t rotate_right(uint64_t v, size_t width) {
  const size_t top = 8 * width - 1;
  return width == 1 ? v : v >> 1 | (v & 1) << top;
}

inline int64_t sign_extend(uint64_t v, size_t width) {
  const size_t unused = 64 - 8 * width;
  return static_cast<int64_t>(v << unused) >> unused;
}

inline void check_width(size_t width) {
  if (width != 1 && width != 2 && width != 4 && width != 8) {
    fail("lossless: elements of %zu bytes, 1, 2, 4 or 8 expected", width);
  }
}

// What follows the id of a coded matrix.
void read_coded(Reader& reader, uint8_t id, Shape shape, Sink& sink);
// What follows the mode's byte; all modes but kRepeats and kTransposed, which repeats.cc reads.
void read_single(Reader& reader, uint8_t mode, size_t width, Shape shape, uint8_t* out);

}  // namespace onnxopt
