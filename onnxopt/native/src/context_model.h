// The context coder's model of one integer. PLAIN FIRST VERSION: the bitstream will change.
#pragma once

#include <algorithm>
#include <array>

#include "codec.h"
#include "range_coder.h"

namespace onnxopt {

// Probability that a decision is 1: the mean of a fast and a slow running average, both quick at the start.
class Bit {
 public:
  unsigned p() const { return std::clamp((fast_ + slow_) >> 1, 192u, 65536u - 192u); }
  void update(unsigned bit) {
    const unsigned target = bit ? 65535 : 0;
    const unsigned fast = std::min(seen_ + 1u, 5u), slow = std::min(seen_ + 1u, 7u);
    fast_ += static_cast<unsigned>(static_cast<int>(target - fast_) >> fast);
    slow_ += static_cast<unsigned>(static_cast<int>(target - slow_) >> slow);
    if (seen_ < 255) ++seen_;
  }

 private:
  unsigned fast_ = 1u << 15;
  unsigned slow_ = 1u << 15;
  unsigned seen_ = 0;
};

class ContextModel {
 public:
  explicit ContextModel(Shape shape) : above_(shape.cols), above2_(shape.cols) {}

  void start_row() { left_ = left2_ = 0; }

  template <class Coder>
  int32_t code(Coder& coder, size_t col, int32_t value) {
    const uint64_t energy = uint64_t{2} * left_ + left2_ + uint64_t{2} * above_[col] + above2_[col];
    unsigned level = 0;
    for (uint64_t e = energy; e != 0 && level < kLevels - 1; e >>= 1) ++level;
    const uint32_t sign = value < 0;
    const uint32_t magnitude = sign ? 0u - static_cast<uint32_t>(value) : static_cast<uint32_t>(value);
    unsigned bucket = 0;
    for (uint32_t m = magnitude; m != 0; m >>= 1) ++bucket;
    unsigned b = 0;
    while (b < 32 && decide(coder, buckets_[level][b], bucket > b)) ++b;
    uint32_t out = b != 0;
    if (b > 1) {
      const unsigned rest = b - 1, led = std::min(rest, 3u);
      unsigned node = 1;
      for (unsigned i = 0; i < led; ++i) {
        node = 2 * node + decide(coder, mantissa_[b][node], magnitude >> (rest - 1 - i) & 1);
      }
      out = node << (rest - led) | coder.code_raw(rest - led, magnitude & ((1u << (rest - led)) - 1));
    }
    above2_[col] = above_[col];
    left2_ = left_;
    left_ = out;
    above_[col] = out;
    if (out != 0 && decide(coder, sign_, sign)) return static_cast<int32_t>(0u - out);
    return static_cast<int32_t>(out);
  }

 private:
  static constexpr unsigned kLevels = 12;

  template <class Coder>
  static unsigned decide(Coder& coder, Bit& bit, unsigned value) {
    const unsigned out = coder.code(bit.p(), value);
    bit.update(out);
    return out;
  }

  std::array<std::array<Bit, 33>, kLevels> buckets_;
  std::array<std::array<Bit, 8>, 33> mantissa_;
  Bit sign_;
  uint32_t left_ = 0, left2_ = 0;
  std::vector<uint32_t> above_, above2_;
};

}  // namespace onnxopt
