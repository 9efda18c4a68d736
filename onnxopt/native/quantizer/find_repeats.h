// Finds repeats among the elements of a tensor, for mode 4 of the lossless codec (docs/format/lossless.md):
// on the machine that compresses only.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "quantizer.h"

#ifdef __cplusplus
extern "C" {
#endif

// Matches among n elements of `width` (1, 2, 4 or 8) bytes, n < 2^31, greedily with one step of looking
// ahead: each of at least `shortest` (>= 1) elements, forward or backward, equal but for the top bits, which
// may be inverted in every even or every odd place. Writes four arrays of `capacity` (n / shortest holds all)
// one behind the other: elements between the match before and this one, its length, how far back its first
// element is found, its ways (bit 0: read backward; bits 1 and 2: even, odd places inverted). Returns the
// number of matches, -1 where there is not enough memory.
ONNXOPT_API ptrdiff_t onnxopt_find_repeats(const void* data, size_t width, size_t n, size_t shortest,
                                           size_t capacity, int32_t* matches);

#ifdef __cplusplus
}
#endif
