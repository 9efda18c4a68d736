// The lossless codec: elements of 1, 2, 4 or 8 bytes, given back bit for bit.
#pragma once

#include "codec.h"

namespace onnxopt {

struct LosslessStream {
  std::vector<uint8_t> bytes;
  int version = 1;  // of the container, at least, so that its readers know all that is inside
};

// data[rows, cols] elements of `width` bytes each.
LosslessStream lossless_encode(const uint8_t* data, size_t width, Shape shape);
// Writes rows * cols * width bytes. Throws Error on malformed bytes.
void lossless_decode(Bytes in, size_t width, Shape shape, uint8_t* out);

}  // namespace onnxopt
