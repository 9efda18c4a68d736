// The quantizer: a replay in double precision agrees with what it says, and neither threads nor vector
// instructions change a bit of it.
#include <algorithm>
#include <cmath>
#include <vector>

#include "check.h"
#include "quantizer.h"
#include "simd.h"
#include "test_codec.h"

namespace {

using onnxopt::Random;

struct Case {
  size_t groups, rows, cols;
  std::vector<float> w, feedback, variance, step, price;

  Case(size_t g, size_t r, size_t c, float price_of_bit)
      : groups(g),
        rows(r),
        cols(c),
        w(g * r * c),
        feedback(g * c * c),
        variance(g * c),
        step(g * r),
        price(g * r, price_of_bit) {
    Random random(g + 2 * r + 3 * c);
    for (float& x : w) x = static_cast<float>(random.laplace());
    // Below the diagonal: what must not be read.
    for (size_t i = 0; i < feedback.size(); ++i)
      feedback[i] = i / c % c < i % c ? static_cast<float>(random.gaussian() / (2 * std::sqrt(c))) : NAN;
    for (float& d : variance) d = static_cast<float>(0.5 + random.uniform());
    for (float& s : step) s = static_cast<float>(0.1 + random.uniform());
  }
};

struct Result {
  std::vector<int32_t> q;
  double cost = -1, bits = -1;

  bool operator==(const Result& other) const {
    return q == other.q && cost == other.cost && bits == other.bits;
  }
};

Result quantize(const Case& c, unsigned survivors, bool feedback = true, int32_t max_level = 1 << 22,
                unsigned threads = 1) {
  Result out;
  out.q.resize(c.w.size());
  CHECK(onnxopt_quantize(c.groups, c.rows, c.cols, c.w.data(), feedback ? c.feedback.data() : nullptr,
                         c.variance.data(), c.step.data(), c.price.data(), max_level, 2, survivors, threads,
                         out.q.data(), &out.cost, &out.bits) == 0);
  return out;
}

// Of the errors that each column had when it was quantized; `largest` in steps, of those within the bound.
double replayed_cost(const Case& c, const Result& result, bool feedback, int32_t max_level, double& largest) {
  double cost = 0;
  largest = 0;
  for (size_t row = 0; row < c.groups * c.rows; ++row) {
    const size_t group = row / c.rows;
    std::vector<double> x(c.w.begin() + row * c.cols, c.w.begin() + (row + 1) * c.cols);
    for (size_t i = 0; i < c.cols; ++i) {
      const int32_t q = result.q[row * c.cols + i];
      CHECK(std::abs(q) <= max_level);
      const double e = x[i] - double{c.step[row]} * q;
      cost += c.variance[group * c.cols + i] * e * e;
      if (std::abs(q) < max_level) largest = std::max(largest, std::abs(e) / c.step[row]);
      for (size_t j = i + 1; feedback && j < c.cols; ++j)
        x[j] += e * c.feedback[(group * c.cols + i) * c.cols + j];
    }
  }
  return cost;
}

void test_replay(const Case& c, unsigned survivors, bool feedback, int32_t max_level) {
  const Result result = quantize(c, survivors, feedback, max_level);
  double largest = 0;
  const double cost = replayed_cost(c, result, feedback, max_level, largest);
  CHECK(std::abs(cost - result.cost) <= 1e-3 * cost + 1e-9);
  CHECK(c.price[0] > 0 || survivors > 1 || largest < 0.501);
  CHECK(std::isfinite(result.bits));
}

void test_same(const Case& c, unsigned survivors) {
  const Result first = quantize(c, survivors);
  for (const unsigned threads : {2U, 7U, 0U}) CHECK(quantize(c, survivors, true, 1 << 22, threads) == first);
  for (const char* name : {"scalar", "avx2", "avx512"}) {
    if (onnxopt::set_simd(name)) CHECK(quantize(c, survivors) == first);
  }
  onnxopt::set_simd(nullptr);
}

}  // namespace

int main() {
  // 181 columns: more than two lags of the survivors' window.
  const size_t shapes[][3] = {{1, 1, 1},    {1, 70, 1}, {1, 1, 33},  {1, 33, 8},
                              {1, 100, 75}, {7, 1, 9},  {3, 40, 20}, {1, 37, 181}};
  for (const unsigned survivors : {1U, 8U}) {
    for (const auto& [groups, rows, cols] : shapes) {
      for (const float price : {0.0F, 0.05F}) {
        const Case c(groups, rows, cols, price);
        for (const bool feedback : {false, true}) {
          for (const int32_t max_level : {0, 1, 1 << 22}) test_replay(c, survivors, feedback, max_level);
        }
        test_same(c, survivors);
      }
    }
    CHECK(quantize(Case(0, 3, 4, 0), survivors).cost == 0);
    CHECK(quantize(Case(1, 3, 0, 0), survivors).bits == 0);
    // Not finite on the way: no crash, and within the bound.
    Case wild(1, 40, 20, 0.1F);
    std::fill(wild.feedback.begin(), wild.feedback.end(), 1e30F);
    for (const int32_t q : quantize(wild, survivors, true, 100).q) CHECK(std::abs(q) <= 100);
  }
  // Survivors find what is cheaper.
  const Case c(1, 100, 40, 0.05F);
  const Result one = quantize(c, 1), eight = quantize(c, 8);
  CHECK(eight.cost + 0.05 * eight.bits < 0.99 * (one.cost + 0.05 * one.bits));
}
