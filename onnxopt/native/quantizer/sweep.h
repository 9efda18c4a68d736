// One sweep over some rows of a matrix: sweep_lanes.h, compiled for each set of vector instructions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace onnxopt::quantizer {

constexpr size_t kTile = 8;  // columns

// The feedback of cols columns, strictly upper, as strips of kTile columns, each from row 0 down to its
// diagonal. So a strip is read from end to end, and nothing below the diagonal is.
constexpr size_t strip_offset(size_t tile) { return kTile * kTile * (tile * (tile + 1) / 2); }

struct Sweep {
  size_t rows;  // at most the kernel's lanes
  size_t cols;
  const float* w;          // [rows][cols]
  const float* packed;     // strips of the feedback, or null
  const float* variance;   // [cols]
  const float* step;       // [rows]
  const float* price;      // [rows]
  const float* row_level;  // [rows]
  const float* col_level;  // [cols]
  const float* bits;       // [kClasses][kBuckets]
  float max_level;
  float* errors;  // scratch: [cols][lanes], in steps
  int32_t* q;     // [rows][cols]
  double* cost;   // [rows]
};

struct Kernel {
  size_t lanes;  // rows at once
  void (*sweep)(const Sweep&);
  void (*beam)(const Sweep&);  // the best of several alternatives to a row; with feedback only
};

extern const Kernel kScalarKernel, kAvx2Kernel, kAvx512Kernel;

// The best for this machine, or what set_simd() asks for.
const Kernel& kernel();

}  // namespace onnxopt::quantizer
