#include "rate_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>

namespace onnxopt::quantizer {
namespace {

constexpr double kConfidence = 8;  // observations that the law is worth which a class starts from
constexpr double kShrinkage = 8;   // elements that the mean is worth beside a row's or a column's own

size_t bucket_of(int32_t magnitude) {
  if (magnitude < 16) return static_cast<size_t>(magnitude);
  const auto value = static_cast<float>(magnitude);
  int32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<size_t>(bits >> 20) - (130 << 3) + 8;  // exponent and three bits; 8.0 is bucket 8
}

int32_t lowest_of(int bucket) { return bucket < 16 ? bucket : (8 + bucket % 8) << (bucket / 8 - 1); }

using Law = std::array<double, kBuckets>;

// Two-sided geometric of this mean magnitude, and a little everywhere.
Law law_of(double mean) {
  const double theta = mean / (1 + mean);
  Law law{};
  double total = 0;
  for (int b = 0; b < kBuckets; ++b) {
    const double sides = b == 0 ? 1 : 2;
    law[b] = sides * (std::pow(theta, lowest_of(b)) - std::pow(theta, lowest_of(b + 1))) + 1e-5;
    total += law[b];
  }
  for (double& p : law) p *= kConfidence / total;
  return law;
}

// Of each row or column of n, from the sums of their magnitudes. Short ones are drawn to the mean, one of a
// single element altogether: an element must not tell of itself.
std::vector<float> levels(const std::vector<int64_t>& sums, size_t n, double mean) {
  const auto others = static_cast<double>(n - 1);
  const double trust = others / (others + kShrinkage);
  std::vector<float> out(sums.size());
  std::transform(sums.begin(), sums.end(), out.begin(), [&](int64_t sum) {
    const double own = static_cast<double>(sum) / static_cast<double>(n);
    return static_cast<float>(kPerOctave * std::log2(mean + trust * (own - mean)));
  });
  return out;
}

}  // namespace

double RateModel::learn(const int32_t* q, size_t rows, size_t cols) {
  std::vector<int64_t> row_sum(rows), col_sum(cols);
  int64_t sum = 0;
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < cols; ++c) {
      const int32_t magnitude = std::abs(q[r * cols + c]);
      row_sum[r] += magnitude;
      col_sum[c] += magnitude;
    }
    sum += row_sum[r];
  }
  const double mean = static_cast<double>(sum) / static_cast<double>(rows * cols) + 1e-9;
  row_level = levels(row_sum, cols, mean);
  col_level = levels(col_sum, rows, mean);
  const auto origin = static_cast<float>(0.5 - kPerOctave * (kLowestOctave + std::log2(mean)));
  for (float& level : row_level) level += origin;

  std::vector<std::array<int64_t, kBuckets>> histogram(kClasses);
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < cols; ++c) {
      const float level = std::clamp(row_level[r] + col_level[c], 0.0F, kClasses - 1.0F);
      ++histogram[static_cast<size_t>(level)][bucket_of(std::abs(q[r * cols + c]))];
    }
  }

  bits.resize(size_t{kClasses} * kBuckets);
  const double ln2 = std::log(2.0);
  double length = 0;
  for (int k = 0; k < kClasses; ++k) {
    const Law law = law_of(std::exp2(kLowestOctave + static_cast<double>(k) / kPerOctave));
    int64_t n = 0;
    for (const int64_t count : histogram[k]) n += count;
    const double total = static_cast<double>(n) + kConfidence;
    length += std::lgamma(total) - std::lgamma(kConfidence);
    for (int b = 0; b < kBuckets; ++b) {
      const auto count = static_cast<double>(histogram[k][b]);
      const double within = b == 0 ? 0 : 1 + std::log2(lowest_of(b + 1) - lowest_of(b));
      bits[static_cast<size_t>(k) * kBuckets + b] =
          static_cast<float>(within - std::log2((count + law[b]) / total));
      if (count > 0) length += std::lgamma(law[b]) - std::lgamma(count + law[b]) + count * within * ln2;
    }
  }
  return length / ln2;
}

}  // namespace onnxopt::quantizer
