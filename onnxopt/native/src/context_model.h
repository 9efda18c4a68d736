// The context coder's model: how likely each binary decision of an integer is, learnt from the integers
// before it. docs/format/context.md states the same byte for byte. Integer arithmetic only, so every machine
// agrees.
#pragma once

#include <algorithm>
#include <array>

#include "context_header.h"
#include "range_coder.h"

namespace onnxopt {

// Probability that a decision is 1, in 1/2^16: the mean of a fast and a slow running average, both exact at
// the start.
struct Bit {
  uint16_t fast = 1u << 15;
  uint16_t slow = 1u << 15;
  uint16_t seen = 0;

  static constexpr unsigned kFast = 32, kSlow = 256;
  // No decision is ever free: an integer costs at least 1/237 bit, so no file is a decompression bomb
  // (kMaxIntegersPerByte), and a surprise costs at most 9 bits.
  static constexpr int32_t kFloor = 192;

  static Bit of(uint32_t p, unsigned confidence) {
    const auto p16 = static_cast<uint16_t>(std::clamp<uint32_t>(p, kFloor, (1u << 16) - kFloor));
    return {p16, p16, static_cast<uint16_t>(confidence)};
  }
  unsigned p() const { return (unsigned{fast} + slow) >> 1; }
  void update(unsigned bit) {
    const int32_t target = bit ? (1 << 16) - 1 : 0;
    fast = static_cast<uint16_t>(fast + step(target - fast, std::min<unsigned>(seen, kFast)));
    slow = static_cast<uint16_t>(slow + step(target - slow, seen));
    seen = static_cast<uint16_t>(seen + (seen < kSlow));
  }
};

inline unsigned clamp_probability(int32_t p) {
  return static_cast<unsigned>(std::clamp(p, Bit::kFloor, (1 << 16) - Bit::kFloor));
}

// Logistic mixing [Mahoney 2005, PAQ]: probabilities meet as log-odds (in 1/256, within +-6).
struct Logistic {
  static constexpr int32_t kLimit = 6 * 256 - 1;
  std::array<uint16_t, 2 * kLimit + 1> squash;  // log-odds + kLimit -> probability in 1/2^16
  std::array<int16_t, 4096> stretch;            // probability in 1/2^12 -> log-odds

  static const Logistic& get();
};

struct Mixer {
  int32_t weight[3] = {19661, 26214, 19661};  // 0.3, 0.4, 0.3 in 1/2^16

  static constexpr int32_t kMaxWeight = 1 << 20;

  template <class Coder>
  unsigned code(Coder& coder, const Logistic& logistic, Bit& a, Bit& b, Bit& c, unsigned value) {
    const int32_t in[3] = {logistic.stretch[a.p() >> 4], logistic.stretch[b.p() >> 4],
                           logistic.stretch[c.p() >> 4]};
    int64_t sum = 0;
    for (int i = 0; i < 3; ++i) sum += int64_t{weight[i]} * in[i];
    const auto odds =
        static_cast<int32_t>(std::clamp<int64_t>(sum >> 16, -Logistic::kLimit, Logistic::kLimit));
    const unsigned p =
        clamp_probability(logistic.squash[static_cast<size_t>(int64_t{odds} + Logistic::kLimit)]);
    const unsigned bit = coder.code(p, value);
    // Gradient of the code length, at a learning rate of 1/256.
    const int32_t error = static_cast<int32_t>(bit << 16) - static_cast<int32_t>(p);
    for (int i = 0; i < 3; ++i) {
      weight[i] = std::clamp(weight[i] + ((error * in[i]) >> 16), -kMaxWeight, kMaxWeight);
    }
    a.update(bit);
    b.update(bit);
    c.update(bit);
    return bit;
  }
};

// Codes integers one by one in row-major order; Coder is a RangeEncoder or a RangeDecoder (which ignores the
// value).
class ContextModel {
 public:
  ContextModel(Shape shape, const ContextHeader& header);

  void start_row();
  template <class Coder>
  int32_t code(Coder& coder, size_t col, int32_t value);

 private:
  static constexpr unsigned kBuckets = 16;          // bucket b holds the magnitudes of b significant bits
  static constexpr unsigned kLevels = 96;           // of expected magnitude: quarter octaves from 1/256
  static constexpr unsigned kLocals = 24;           // of the neighbours' magnitude: half octaves
  static constexpr uint32_t kMagnitude = 1u << 16;  // contexts see no larger ones
  // Integers that the running mean of a row and of a column remember.
  static constexpr unsigned kRowMemory = 64, kColumnMemory = 32;

  using Set = std::array<Bit, kBuckets>;

  void copy_plain(Set& set);
  template <class Coder>
  static unsigned decide(Coder& coder, Bit& bit, unsigned value) {
    const unsigned out = coder.code(clamp_probability(static_cast<int32_t>(bit.p())), value);
    bit.update(out);
    return out;
  }
  template <class Coder>
  unsigned code_bucket(Coder& coder, Set& level, Set& local, unsigned bucket);
  template <class Coder>
  uint32_t code_mantissa(Coder& coder, unsigned bucket, uint32_t magnitude);

  const Logistic& logistic_;
  ContextHeader header_;
  unsigned start_;  // the bucket that the first decision splits at
  Set plain_;       // no context at all: learns first, and is what a new context starts from
  std::array<std::array<Bit, 8>, kBuckets> mantissa_;
  static constexpr unsigned kOnes = 12;
  std::array<std::array<Bit, kOnes>, kBuckets> ones_;
  std::array<Bit, 27> sign_;
  std::array<Mixer, kBuckets> mixer_;
  std::array<Set, kLevels> level_;
  std::array<Set, kLocals> local_;
  std::array<bool, kLevels> level_used_{};
  std::array<bool, kLocals> local_used_{};

  struct Column {
    uint32_t mean;
    uint32_t magnitude;  // of the newest integer in this column
    uint32_t sign;       // 0: that integer was zero, 1: positive, 2: negative
  };
  std::vector<Column> columns_;
  uint32_t left_ = 0, left2_ = 0, left_sign_ = 0;
  uint32_t mean_, row_mean_ = 0;
  unsigned seen_ = 0, row_seen_ = 0, column_seen_ = 3;
  unsigned base_ = 0;  // log2 of the mean when the row began
};

template <class Coder>
unsigned ContextModel::code_bucket(Coder& coder, Set& level, Set& local, unsigned bucket) {
  const auto above = [&](unsigned b) {  // is it in a bucket above b?
    const unsigned i = std::min(b, kBuckets - 1);
    return mixer_[i].code(coder, logistic_, plain_[i], level[i], local[i], bucket > b);
  };
  unsigned b = start_ - 1;
  if (above(b)) {
    do ++b;
    while (b < 32 && above(b));
  } else {
    while (b > 0 && !above(b - 1)) --b;
  }
  return b;
}

template <class Coder>
uint32_t ContextModel::code_mantissa(Coder& coder, unsigned bucket, uint32_t magnitude) {
  if (bucket < 2) return bucket;
  const unsigned bits = bucket - 1, led = std::min(bits, 3u), rest = bits - led;
  std::array<Bit, 8>& tree = mantissa_[std::min(bucket, kBuckets - 1)];
  unsigned node = 1;
  for (unsigned i = 0; i < led; ++i)
    node = 2 * node + decide(coder, tree[node], magnitude >> (bits - 1 - i) & 1);
  unsigned left = rest;
  // A matrix scaled to its largest magnitude has a 2^k - 1 in every row: worth a context down to the last
  // bit.
  bool ones = node == 15;
  for (; ones && left != 0; --left) {
    ones = decide(coder, ones_[std::min(bucket, kBuckets - 1)][std::min(left - 1, kOnes - 1)],
                  magnitude >> (left - 1) & 1);
    node = 2 * node + ones;
  }
  return node << left | coder.code_raw(left, magnitude & ((1u << left) - 1));
}

template <class Coder>
int32_t ContextModel::code(Coder& coder, size_t col, int32_t value) {
  Column& here = columns_[col];
  const Column far =
      col >= header_.distance ? columns_[col - header_.distance] : Column{0, here.magnitude, 0};
  const auto energy =
      static_cast<int>(log2_of(row_mean_, 5) + log2_of(here.mean, 5)) - static_cast<int>(base_);
  const auto level = static_cast<unsigned>(std::clamp(energy >> 3, 0, static_cast<int>(kLevels) - 1));
  const uint32_t near = 2 * left_ + left2_ + 2 * here.magnitude + far.magnitude;
  const unsigned local = near < 3 ? near : std::min(log2_of(near, 1), kLocals - 1);
  if (!level_used_[level]) level_used_[level] = true, copy_plain(level_[level]);
  if (!local_used_[local]) local_used_[local] = true, copy_plain(local_[local]);

  const uint32_t centred = static_cast<uint32_t>(value) - static_cast<uint32_t>(header_.centre);
  const unsigned negative = centred >> 31;
  const uint32_t magnitude = negative ? 0u - centred : centred;
  const unsigned bucket = code_bucket(coder, level_[level], local_[local], bit_length(magnitude));
  const uint32_t out = code_mantissa(coder, bucket, magnitude);
  uint32_t sign = 0;
  if (out != 0) sign = 1 + decide(coder, sign_[left_sign_ + 3 * here.sign + 9 * far.sign], negative);

  const uint32_t seen = std::min(out, kMagnitude);
  left2_ = left_;
  left_ = seen;
  left_sign_ = sign;
  follow(row_mean_, seen << 8, row_seen_);
  follow(here.mean, seen << 8, column_seen_);
  follow(mean_, seen << 8, seen_);
  row_seen_ += row_seen_ < kRowMemory;
  seen_ += seen_ < 256;
  here.magnitude = seen;
  here.sign = sign;
  return static_cast<int32_t>((sign == 2 ? 0u - out : out) + static_cast<uint32_t>(header_.centre));
}

}  // namespace onnxopt
