// Error-feedback quantization with rate-aware rounding: host side only, a library of its own that devices do
// not carry.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define ONNXOPT_API __declspec(dllexport)
#else
#define ONNXOPT_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

// Chooses the integers q of weights w[groups][rows][cols] on the grids step[groups][rows] * q, |q| <=
// max_level.
//
// Columns are quantized in order. The error e = w_i - step * q_i of column i costs variance[groups][cols]
// times e^2 and is passed on: every later column j gets w_j += e * feedback[groups][i][j] (elements on and
// below the diagonal are not read; null: nothing is passed on) [OBQ/GPTQ, Frantar et al. 2022, arXiv
// 2210.17323; LDLQ, Chee et al. 2023, arXiv 2307.13304]. An integer is the best of floor, ceil, one nearer to
// zero, and zero by
//
//     variance * e^2 + price[groups][rows] * bits(q),
//
// bits from the histograms of the sweep before, one for each class of row and column magnitude. With
// survivors = 8 instead of 1, and feedback, the last of the sweeps keeps the 8 best beginnings of every row
// (M-algorithm, Anderson & Mohan 1984) and takes the one that ends best.
//
// The result does not depend on `threads` (0: one a core) nor on the machine's vector instructions. *cost is
// the sum of variance * e^2, *bits what an adaptive coder with these classes would take. Returns 0, or -1
// where there is not enough memory.
ONNXOPT_API int onnxopt_quantize(size_t groups, size_t rows, size_t cols, const float* w,
                                 const float* feedback, const float* variance, const float* step,
                                 const float* price, int32_t max_level, unsigned sweeps, unsigned survivors,
                                 unsigned threads, int32_t* q, double* cost, double* bits);

#ifdef __cplusplus
}
#endif
