// Mode 4 of the lossless codec: elements that repeat earlier ones. docs/format/lossless.md has the bytes.
#pragma once

#include "codec.h"

namespace onnxopt {

// Elements [first, first + length) equal those from `source` on, read forward or backward, but for top bits.
struct Match {
  size_t first, length, source;
  uint32_t ways;  // bit 0: backward; bits 1 and 2: the top bits of even and of odd places are inverted
};

// What a lossless stream says of n elements, checked: every match lies behind the one before it and refers to
// elements before it.
std::vector<Match> read_matches(Reader& reader, size_t n);

// Elements of `width` bytes that no match covers stand at the end of `out`, which holds n of them: puts all
// in their places.
void apply_matches(const std::vector<Match>& matches, size_t width, size_t n, uint8_t* out);

}  // namespace onnxopt
