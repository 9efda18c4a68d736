// The sweep, with a row in every lane of the vectors: what happens to a row is the same, operation by
// operation, whatever their width, so every machine finds the same integers (no fused multiply-adds: see
// CMakeLists.txt). Included by files that are compiled for different instructions: everything here has
// internal linkage.
#include "rate_model.h"
#include "sweep.h"

namespace onnxopt::quantizer {
namespace {

#if defined(__AVX512F__)
constexpr size_t kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr size_t kVectorBytes = 32;
#else
constexpr size_t kVectorBytes = 16;
#endif
// Sums that stay in registers together: twice as many where there are 32 registers.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr size_t kSums = 16;
#else
constexpr size_t kSums = 8;
#endif
constexpr size_t kVectors = 2;  // a column of rows
constexpr size_t kWidth = kVectorBytes / sizeof(float);
constexpr size_t kLanes = kVectors * kWidth;

using Floats = float __attribute__((vector_size(kVectorBytes)));
using Ints = int32_t __attribute__((vector_size(kVectorBytes)));

struct Lanes {
  Floats v[kVectors];
};

template <typename F, typename I>
F gather(const float* table, I index) {
  F out;
  for (size_t i = 0; i < sizeof out / sizeof(float); ++i) out[i] = table[index[i]];
  return out;
}

template <typename F, typename I>
I bucket_of(F magnitude, I as_int) {
  I bits;
  __builtin_memcpy(&bits, &magnitude, sizeof bits);
  return as_int < 16 ? as_int : (bits >> 20) - (130 << 3) + 8;
}

// Where the bits of these classes begin.
template <typename I, typename F>
I table_of(F level) {
  const F zero{}, at_least = level > 0 ? level : zero;
  return __builtin_convertvector(at_least < kClasses - 1 ? at_least : zero + (kClasses - 1), I) * kBuckets;
}

// x[j] += sum over the first n columns of their error times feedback[.][j], a column being `vectors` vectors.
template <size_t vectors, typename F>
void feed(const float* strip, const F* errors, size_t n, F* x) {
  constexpr size_t kAtOnce = kSums / vectors < kTile ? kSums / vectors : kTile;
  for (size_t first = 0; first < kTile; first += kAtOnce) {
    F sum[kAtOnce][vectors];
    for (size_t j = 0; j < kAtOnce; ++j)
      for (size_t v = 0; v < vectors; ++v) sum[j][v] = x[(first + j) * vectors + v];
    for (size_t k = 0; k < n; ++k) {
      const float* f = strip + kTile * k + first;
#pragma GCC unroll 8
      for (size_t j = 0; j < kAtOnce; ++j)
#pragma GCC unroll 2
        for (size_t v = 0; v < vectors; ++v) sum[j][v] += f[j] * errors[k * vectors + v];
    }
    for (size_t j = 0; j < kAtOnce; ++j)
      for (size_t v = 0; v < vectors; ++v) x[(first + j) * vectors + v] = sum[j][v];
  }
}

struct Choice {
  const Sweep& s;
  Lanes price, row_level;

  // The best integers for x, all in steps.
  Floats best(Floats x, size_t col, size_t v) const {
    const Floats zero{}, magnitude = x < 0 ? -x : x;
    const Floats limit = zero + s.max_level;
    const Ints floor_int = __builtin_convertvector(magnitude < limit ? magnitude : limit, Ints);
    const auto table = table_of<Ints>(row_level.v[v] + s.col_level[col]);
    const auto cost = [&](Floats candidate, Ints bucket) {
      const Floats error = magnitude - candidate;
      return s.variance[col] * (error * error) + price.v[v] * gather<Floats>(s.bits, table + bucket);
    };
    Floats found = __builtin_convertvector(floor_int, Floats);
    Floats least = cost(found, bucket_of(found, floor_int));
    const auto consider = [&](Floats candidate, Ints as_int) {
      const Floats c = cost(candidate, bucket_of(candidate, as_int));
      found = c < least ? candidate : found;
      least = c < least ? c : least;
    };
    const Floats floor = found;
    const Ints above = floor + 1 > limit ? floor_int : floor_int + 1;
    const Ints below = floor_int > 0 ? floor_int - 1 : floor_int;
    consider(__builtin_convertvector(above, Floats), above);
    consider(__builtin_convertvector(below, Floats), below);
    consider(zero, floor_int - floor_int);
    return x < 0 ? -found : found;
  }
};

// What a bit costs in steps squared.
Lanes prices(const Sweep& s) {
  float values[kLanes] = {};
  for (size_t r = 0; r < s.rows; ++r)
    values[r] = static_cast<float>(double{s.price[r]} / (double{s.step[r]} * double{s.step[r]}));
  Lanes out;
  __builtin_memcpy(&out, values, sizeof out);
  return out;
}

Lanes row_levels(const Sweep& s) {
  float values[kLanes] = {};
  for (size_t r = 0; r < s.rows; ++r) values[r] = s.row_level[r];
  Lanes out;
  __builtin_memcpy(&out, values, sizeof out);
  return out;
}

// A tile's weights in steps.
void load(const Sweep& s, size_t first, size_t width, Lanes* x) {
  float values[kTile][kLanes] = {};
  for (size_t r = 0; r < s.rows; ++r)
    for (size_t j = 0; j < width; ++j) values[j][r] = s.w[r * s.cols + first + j] / s.step[r];
  __builtin_memcpy(x, values, sizeof values);
}

void sweep_rows(const Sweep& s) {
  const Choice choice{s, prices(s), row_levels(s)};
  double cost[kLanes] = {};
  auto* errors = reinterpret_cast<Lanes*>(s.errors);
  for (size_t first = 0; first < s.cols; first += kTile) {
    const size_t width = s.cols - first < kTile ? s.cols - first : kTile;
    float values[kTile][kLanes];
    Lanes x[kTile];
    load(s, first, width, x);
    const float* strip = s.packed ? s.packed + strip_offset(first / kTile) : nullptr;
    if (strip) feed<kVectors>(strip, errors->v, first, x->v);
    for (size_t j = 0; j < width; ++j) {
      Lanes chosen;
      for (size_t v = 0; v < kVectors; ++v) {
        Floats at = x[j].v[v];
        for (size_t i = 0; strip && i < j; ++i) at += strip[kTile * (first + i) + j] * errors[first + i].v[v];
        chosen.v[v] = choice.best(at, first + j, v);
        errors[first + j].v[v] = at - chosen.v[v];
      }
      __builtin_memcpy(values[j], &chosen, sizeof chosen);
      float error[kLanes];
      __builtin_memcpy(error, &errors[first + j], sizeof error);
      for (size_t r = 0; r < kLanes; ++r)
        cost[r] += double{s.variance[first + j]} * (double{error[r]} * double{error[r]});
    }
    for (size_t r = 0; r < s.rows; ++r)
      for (size_t j = 0; j < width; ++j) s.q[r * s.cols + first + j] = static_cast<int32_t>(values[j][r]);
  }
  for (size_t r = 0; r < s.rows; ++r) s.cost[r] = cost[r] * (double{s.step[r]} * double{s.step[r]});
}

}  // namespace
}  // namespace onnxopt::quantizer
