#include "quantizer.h"

#include <cmath>
#include <new>

#include "parallel.h"
#include "rate_model.h"
#include "simd.h"
#include "sweep.h"

namespace onnxopt::quantizer {
namespace {

struct Problem {
  size_t groups, rows, cols;
  const float *w, *feedback, *variance, *step, *price;
  int32_t max_level;
  unsigned threads;
};

struct alignas(64) Vector {  // the longest
  float lane[16];
};

size_t tiles(size_t cols) { return (cols + kTile - 1) / kTile; }

std::vector<float> pack(const Problem& p) {
  const size_t size = strip_offset(tiles(p.cols)), strips = tiles(p.cols);
  std::vector<float> packed(p.groups * size);
  parallel_for(p.groups * strips, p.threads, [&](size_t i) {
    const size_t group = i / strips, tile = i % strips, first = kTile * tile;
    const size_t end = std::min(first + kTile, p.cols);
    const float* from = p.feedback + group * p.cols * p.cols;
    float* to = packed.data() + group * size + strip_offset(tile);
    for (size_t k = 0; k < end; ++k, to += kTile)
      for (size_t j = std::max(first, k + 1); j < end; ++j) to[j - first] = from[k * p.cols + j];
  });
  return packed;
}

void round_to_nearest(const Problem& p, int32_t* q) {
  const auto limit = static_cast<float>(p.max_level);
  for (size_t r = 0; r < p.groups * p.rows; ++r)
    for (size_t i = r * p.cols; i < (r + 1) * p.cols; ++i)
      q[i] = static_cast<int32_t>(std::nearbyint(std::clamp(p.w[i] / p.step[r], -limit, limit)));
}

double sweep(const Problem& p, const float* packed, const RateModel& model, bool beam, int32_t* q) {
  const Kernel& k = kernel();
  const size_t panels = (p.rows + k.lanes - 1) / k.lanes;
  std::vector<double> cost(p.groups * p.rows);
  parallel_for(p.groups * panels, p.threads, [&](size_t i) {
    const size_t group = i / panels, first = i % panels * k.lanes, row = group * p.rows + first;
    std::vector<Vector> errors(p.cols * k.lanes * sizeof(float) / sizeof(Vector) + 1);
    Sweep s{};
    s.rows = std::min(k.lanes, p.rows - first);
    s.cols = p.cols;
    s.w = p.w + row * p.cols;
    s.packed = packed ? packed + group * strip_offset(tiles(p.cols)) : nullptr;
    s.variance = p.variance + group * p.cols;
    s.step = p.step + row;
    s.price = p.price + row;
    s.row_level = model.row_level.data() + row;
    s.col_level = model.col_level.data();
    s.bits = model.bits.data();
    s.max_level = static_cast<float>(p.max_level);
    s.errors = errors.data()->lane;
    s.q = q + row * p.cols;
    s.cost = cost.data() + row;
    (beam ? k.beam : k.sweep)(s);
  });
  double total = 0;
  for (const double c : cost) total += c;  // in order, whichever thread found it
  return total;
}

}  // namespace

const Kernel& kernel() {
#if defined(__x86_64__)
  if (simd() == Simd::kAvx512) return kAvx512Kernel;
  if (simd() == Simd::kAvx2) return kAvx2Kernel;
#endif
  return kScalarKernel;
}

}  // namespace onnxopt::quantizer

int onnxopt_quantize(size_t groups, size_t rows, size_t cols, const float* w, const float* feedback,
                     const float* variance, const float* step, const float* price, int32_t max_level,
                     unsigned sweeps, unsigned survivors, unsigned threads, int32_t* q, double* cost,
                     double* bits) {
  using namespace onnxopt::quantizer;
  *cost = *bits = 0;
  if (groups * rows * cols == 0) return 0;
  const Problem p{groups, rows, cols, w, feedback, variance, step, price, std::min(max_level, kMaxLevel),
                  threads};
  try {
    const std::vector<float> packed = feedback ? pack(p) : std::vector<float>();
    round_to_nearest(p, q);  // what the first sweep's bits are learnt from
    RateModel model;
    model.learn(q, groups * rows, cols);
    for (unsigned i = 0; i < sweeps; ++i) {
      // Without feedback no choice bears on another, and the best of every column is the best of all.
      const bool beam = feedback && survivors > 1 && i + 1 == sweeps;
      *cost = sweep(p, feedback ? packed.data() : nullptr, model, beam, q);
      *bits = model.learn(q, groups * rows, cols);
    }
  } catch (const std::bad_alloc&) {
    return -1;
  }
  return 0;
}
