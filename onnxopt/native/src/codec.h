// The codec interface: integers in a matrix <-> bytes. A codec knows nothing of weights, scales or files.
//
// Adding a codec: one new .cc file that defines a `const Codec`, and its line in codecs.cc. Its id is
// forever.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "bytes.h"

namespace onnxopt {

// The matrix q[rows, cols] that a codec sees, stored row by row.
struct Shape {
  size_t rows = 0;
  size_t cols = 0;
  size_t size() const { return rows * cols; }
};

// Takes decoded integers. Codecs hand them over in runs short enough to stay in the first-level cache.
class Sink {
 public:
  static constexpr size_t kRun = 4096;  // the longest run, in integers

  virtual ~Sink() = default;
  // q[0, n) are the elements first .. first + n of the matrix in row-major order; a run may span several
  // rows. A codec hands over every element exactly once, in any order of runs.
  virtual void put(size_t first, const int32_t* q, size_t n) = 0;
};

struct Codec {
  uint8_t id;
  const char* name;
  // Returns the coded form of q[rows, cols]; empty where this codec cannot hold these integers.
  std::vector<uint8_t> (*encode)(const int32_t* q, Shape shape);
  // Inverse of encode. Throws Error on malformed bytes, leftover bytes included; never reads past `in`.
  void (*decode)(Bytes in, Shape shape, Sink& sink);
};

extern const Codec kRaw;          // 0: little-endian integers of 1, 2 or 4 bytes
extern const Codec kBitpack;      // 1: fixed-width offsets from the minimum
extern const Codec kHuffman;      // 2: relative index + canonical Huffman (Deep Compression)
extern const Codec kRans;         // 3: interleaved rANS, static tables by row and column class
extern const Codec kContext;      // 4: adaptive binary context coder
constexpr uint8_t kLossless = 5;  // codes bytes, not integers; see lossless.h

// Null where no integer codec has this id.
const Codec* find_codec(uint8_t id);
// Every integer codec, in order of id.
const std::vector<const Codec*>& codecs();

}  // namespace onnxopt
