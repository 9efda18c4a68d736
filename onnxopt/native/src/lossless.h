// The lossless codec: elements of 1, 2, 4 or 8 bytes, given back bit for bit.
#pragma once

#include "codec.h"

namespace onnxopt {

// data[rows, cols] elements of `width` bytes each.
std::vector<uint8_t> lossless_encode(const uint8_t* data, size_t width, Shape shape);
// Writes rows * cols * width bytes. Throws Error on malformed bytes.
void lossless_decode(Bytes in, size_t width, Shape shape, uint8_t* out);

// --- what repeats.cc and lossless.cc share ---

// The modes that repeats.cc reads.
constexpr uint8_t kRepeats = 4, kTransposed = 5;
// What follows the id of a coded matrix inside a lossless stream.
void read_coded(Reader& reader, uint8_t id, Shape shape, Sink& sink);
// What follows the mode's byte, in modes 0 to 3.
void read_single(Reader& reader, uint8_t mode, size_t width, Shape shape, uint8_t* out);

}  // namespace onnxopt
