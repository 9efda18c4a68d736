// Modes 4 and 5 of the lossless codec: elements that repeat earlier ones, and the order of columns.
// docs/format/lossless.md has the bytes.
#pragma once

#include "codec.h"

namespace onnxopt {

// Rows * cols elements of `width` bytes in mode 4: some stored, the others repeats of elements before them.
void read_repeats(Reader& reader, size_t width, Shape shape, uint8_t* out);
// In mode 5: column by column, in one of the other modes.
void read_transposed(Reader& reader, size_t width, Shape shape, uint8_t* out);

}  // namespace onnxopt
