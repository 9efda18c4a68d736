// The model of codec 6, adaptive: how likely each token of an integer is, learnt from the integers before it.
// docs/format/adaptive.md states the same byte for byte. Integer arithmetic only, so every machine agrees.
//
// There is no branch on what is decoded but for escapes: the bits of weights are hard to predict.
#pragma once

#include <algorithm>
#include <vector>

#include "context_header.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__wasm_simd128__)
#include <wasm_simd128.h>
#endif

namespace onnxopt {

// Not a call: the loop around it keeps its arguments in registers.
#if defined(__GNUC__)
#define ONNXOPT_INLINE inline __attribute__((always_inline))
#else
#define ONNXOPT_INLINE inline
#endif

// Eight integers of 16 bits at a time.
#if defined(__SSE2__)
#define ONNXOPT_EIGHT
using Eight = __m128i;
inline Eight load8(const uint16_t* p) { return _mm_load_si128(reinterpret_cast<const __m128i*>(p)); }
inline void store8(uint16_t* p, Eight a) { _mm_store_si128(reinterpret_cast<__m128i*>(p), a); }
inline Eight all8(int a) { return _mm_set1_epi16(static_cast<int16_t>(a)); }
inline Eight sum8(Eight a, Eight b) { return _mm_add_epi16(a, b); }
inline Eight difference8(Eight a, Eight b) { return _mm_sub_epi16(a, b); }
inline Eight half8(Eight a) { return _mm_srli_epi16(a, 1); }
// A bit for each of sixteen.
inline unsigned greater16(Eight a, Eight b, Eight than) {
  return static_cast<unsigned>(
      _mm_movemask_epi8(_mm_packs_epi16(_mm_cmpgt_epi16(a, than), _mm_cmpgt_epi16(b, than))));
}
// Eight times f(shift).
template <typename F>
constexpr auto eight_by_shift(F f) {
  std::array<std::array<uint16_t, 8>, 8> out{};
  for (unsigned shift = 1; shift < out.size(); ++shift) {
    for (uint16_t& v : out[shift]) v = static_cast<uint16_t>(f(shift));
  }
  return out;
}
alignas(16) inline constexpr auto kHalf = eight_by_shift([](unsigned shift) { return 1U << shift >> 1; });
alignas(16) inline constexpr auto kFactor = eight_by_shift([](unsigned shift) { return 1U << 16 >> shift; });
// Divides by 2^shift, 1..7, and rounds to the nearest, as (a + half) >> shift does: a product is faster than
// a shift by what was just loaded.
class Divider {
 public:
  explicit Divider(unsigned shift)
      : half_(load8(kHalf[shift].data())), factor_(load8(kFactor[shift].data())) {}
  Eight operator()(Eight a) const { return _mm_mulhi_epi16(sum8(a, half_), factor_); }

 private:
  Eight half_, factor_;
};
#elif defined(__wasm_simd128__)
#define ONNXOPT_EIGHT
using Eight = v128_t;
inline Eight load8(const uint16_t* p) { return wasm_v128_load(p); }
inline void store8(uint16_t* p, Eight a) { wasm_v128_store(p, a); }
inline Eight all8(int a) { return wasm_i16x8_splat(static_cast<int16_t>(a)); }
inline Eight sum8(Eight a, Eight b) { return wasm_i16x8_add(a, b); }
inline Eight difference8(Eight a, Eight b) { return wasm_i16x8_sub(a, b); }
inline Eight half8(Eight a) { return wasm_u16x8_shr(a, 1); }
inline unsigned greater16(Eight a, Eight b, Eight than) {
  return wasm_i8x16_bitmask(wasm_i8x16_narrow_i16x8(wasm_i16x8_gt(a, than), wasm_i16x8_gt(b, than)));
}
class Divider {
 public:
  explicit Divider(unsigned shift) : factor_(all8(1 << 15 >> shift)) {}
  Eight operator()(Eight a) const { return wasm_i16x8_q15mulr_sat(a, factor_); }  // rounds to the nearest

 private:
  Eight factor_;
};
#endif

constexpr unsigned kTokens = 16;
constexpr unsigned kEscape = kTokens - 1;
constexpr unsigned kTokenBits = 15, kSignBits = 16;  // of their probabilities

// Token t stands for the magnitudes first[t] .. first[t] + 2^bits[t] - 1: below 2^(detail + 1) each has its
// own, then each octave has 2^detail. kEscape stands for all others.
struct TokenMap {
  std::array<uint16_t, kTokens> first{};
  std::array<uint8_t, kTokens> bits{};
  std::array<uint16_t, kTokens> middle{};
  bool any_bits = false;

  explicit TokenMap(unsigned detail) {
    for (unsigned t = 1; t < kTokens; ++t) {
      first[t] = static_cast<uint16_t>(first[t - 1] + (1U << bits[t - 1]));
      const unsigned width = bit_length(first[t]);
      bits[t] = static_cast<uint8_t>(t == kEscape || width <= detail + 1 ? 0 : width - 1 - detail);
      middle[t] = static_cast<uint16_t>(first[t] + (1U << bits[t] >> 1));
      any_bits = any_bits || bits[t] != 0;
    }
  }
};

// Shares of tokens are in 1/2^15. None is ever free: each keeps kFloor, so that no surprise costs
// more than 12 bits.
constexpr int kFloor = 9, kFree = (1 << kTokenBits) - kFloor * static_cast<int>(kTokens);

// The shares of the tokens below t where `token` is certain: [token][t].
alignas(16) inline constexpr auto kCertain = [] {
  std::array<std::array<uint16_t, kTokens>, kTokens> out{};
  for (unsigned token = 0; token < kTokens; ++token) {
    for (unsigned t = 0; t < kTokens; ++t)
      out[token][t] = static_cast<uint16_t>(kFloor * static_cast<int>(t) + (t > token ? kFree : 0));
  }
  return out;
}();

// Of a running mean that has seen so many: its rate is 1/2^shift, and it has seen `next` afterwards.
struct Age {
  uint8_t shift = 0, next = 0;
};
inline constexpr auto kAges = [] {
  constexpr unsigned kMemory = 85;
  std::array<Age, kMemory + 1> out{};
  for (unsigned seen = 0; seen <= kMemory; ++seen) {
    while ((3U * seen + 3U) >> 2 >> out[seen].shift != 0) ++out[seen].shift;
    out[seen].next = static_cast<uint8_t>(seen + (seen < kMemory));
  }
  return out;
}();

// Running means of shares, whose rate falls from 1/8 to 1/128; below[t] is the share of the tokens below t.
struct alignas(64) Tokens {
  std::array<uint16_t, kTokens + 1> below{};
  uint16_t seen = 0;  // 0: not used yet; else at least kConfidence

  void update(unsigned token) {
    const Age age = kAges[seen];
    const uint16_t* target = kCertain[token].data();
#if defined(ONNXOPT_EIGHT)
    const Divider divided(age.shift);
    for (unsigned t = 0; t < kTokens; t += 8) {
      const Eight was = load8(below.data() + t);
      store8(below.data() + t, sum8(was, divided(difference8(load8(target + t), was))));
    }
#else
    const int half = 1 << age.shift >> 1;
    for (unsigned t = 0; t < kTokens; ++t) {
      const auto difference = static_cast<int16_t>(target[t] - below[t] + half);
      below[t] = static_cast<uint16_t>(below[t] + (difference >> age.shift));
    }
#endif
    seen = age.next;
  }
};

// The share of the tokens below t in the mean of both.
inline uint32_t mean_below(const Tokens& a, const Tokens& b, unsigned t) {
  return (uint32_t{a.below[t]} + b.below[t]) >> 1;
}

// The token in whose share of that mean the number lies.
inline unsigned token_at(const Tokens& a, const Tokens& b, uint32_t at) {
#if defined(ONNXOPT_EIGHT)
  const auto mean = [&](unsigned t) {
    return half8(sum8(load8(a.below.data() + t), load8(b.below.data() + t)));
  };
  const unsigned behind = greater16(mean(0), mean(8), all8(static_cast<int>(at)));
  return static_cast<unsigned>(__builtin_ctz(behind | 1U << kTokens)) - 1;
#else
  unsigned found = 0;
  for (unsigned t = 1; t < kTokens; ++t) found += mean_below(a, b, t) <= at;
  return found;
#endif
}

// Codes integers one by one in row-major order. Coder has
//   bool kEncodes;
//   unsigned token(const Tokens& a, const Tokens& b, unsigned token), at the mean of both shares;
//   unsigned sign(uint32_t p, unsigned negative), p in 1/2^16 and 2^16 where it is certainly 1;
//   uint32_t bits(unsigned count, uint32_t bits), as they are;
// a decoder ignores what is to be coded, and all return it.
class AdaptiveModel {
 public:
  // What is known of the row so far. It is apart so that a loop over columns can keep it in registers.
  struct Row {
    uint32_t left = 0, left2 = 0;
    unsigned left_sign = 0;
    uint32_t mean = 0, mean_before = 0;  // the second without its newest
    unsigned seen = 8;
  };

  AdaptiveModel(Shape shape, const ContextHeader& header);

  // The next row, after the last one.
  Row row_after(const Row& last);
  template <class Coder>
  int32_t code(Coder& coder, Row& row, size_t col, int32_t value);

 private:
  static constexpr unsigned kLevels = 48;           // of expected magnitude: half octaves
  static constexpr unsigned kLocals = 32;           // of the neighbours' magnitude: half octaves
  static constexpr uint32_t kMagnitude = 1U << 16;  // contexts see no larger ones
  // What running means remember: those of a row and of a column, integers; that of the matrix, rows.
  static constexpr unsigned kRowMemory = 64, kColumnMemory = 32, kRowsMemory = 4;
  static constexpr uint16_t kConfidence = 6;  // observations that a first guess is worth
  static constexpr unsigned kSignContexts = 27, kNoSign = kSignContexts;

  struct Sign {
    uint32_t p = 1U << (kSignBits - 1);  // of a negative one, in 1/2^16
    unsigned seen = 2;

    static constexpr int32_t kFloor = 192;

    void update(unsigned negative) {
      const auto now = static_cast<int32_t>(p);
      const int32_t next = now + step(static_cast<int32_t>(negative << kSignBits) - now, seen);
      p = static_cast<uint32_t>(std::clamp(next, kFloor, (1 << kSignBits) - kFloor));
      seen += seen < kRates - 1;
    }
  };
  struct Column {
    uint32_t mean;
    uint32_t magnitude;  // of the newest integer in this column
    unsigned sign;       // 0: that integer was zero, 1: positive, 2: negative
  };

  unsigned token_of(uint32_t magnitude) const {
    return static_cast<unsigned>(std::upper_bound(map_.first.begin(), map_.first.end(), magnitude) -
                                 map_.first.begin() - 1);
  }
  // Where tokens are counted for the first time: as in their other context, where that is in use.
  void start(Tokens& tokens, const Tokens& other) const {
    if (tokens.seen != 0) return;
    tokens = other.seen != 0 ? other : start_;
    tokens.seen = std::min(tokens.seen, kConfidence);
  }
  template <class Coder>
  uint32_t code_escaped(Coder& coder, uint32_t magnitude);

  ContextHeader header_;
  TokenMap map_;
  Tokens start_;
  std::array<Tokens, kLevels> level_{};
  std::array<Tokens, kLocals> local_{};
  std::array<Sign, kSignContexts + 1> sign_;  // the last: of zero, which counts as negative
  std::vector<Column> columns_;
  uint32_t mean_;
  unsigned rows_ = 0, column_seen_ = 3;
  int base_ = 0;  // log2 of the mean when the row began
};

// [5 bits n][n bits]: what the magnitude is beyond the last token, and 1, without its leading bit.
template <class Coder>
uint32_t AdaptiveModel::code_escaped(Coder& coder, uint32_t magnitude) {
  const uint32_t first = map_.first[kEscape];
  const uint32_t beyond = magnitude - first + 1;
  const unsigned width = coder.bits(5, bit_length(beyond) - 1);
  const uint32_t leading = 1U << width;
  return first - 1 + (leading | coder.bits(width, beyond & (leading - 1)));
}

template <class Coder>
ONNXOPT_INLINE int32_t AdaptiveModel::code(Coder& coder, Row& row, size_t col, int32_t value) {
  Column& here = columns_[col];
  const Column far =
      col >= header_.distance ? columns_[col - header_.distance] : Column{0, here.magnitude, 0};
  const int energy = static_cast<int>(half_octaves(uint64_t{row.mean_before} * here.mean)) - base_;
  const uint32_t near = 2 * row.left + row.left2 + 2 * here.magnitude + far.magnitude;
  Tokens& level = level_[static_cast<unsigned>(std::clamp(energy, 0, static_cast<int>(kLevels) - 1))];
  Tokens& local = local_[std::min(half_octaves(near + 1), kLocals - 1)];
  start(level, local);
  start(local, level);

  const uint32_t centred = static_cast<uint32_t>(value) - static_cast<uint32_t>(header_.centre);
  const unsigned negative = centred >> 31;
  const uint32_t magnitude = negative ? 0U - centred : centred;
  const unsigned token = coder.token(level, local, Coder::kEncodes ? token_of(magnitude) : 0);
  level.update(token);
  local.update(token);

  const unsigned signs = row.left_sign + 3 * here.sign + 9 * far.sign;
  const unsigned nonzero = 0U - static_cast<unsigned>(token != 0);  // all ones, or none
  Sign& sign = sign_[kNoSign + ((signs - kNoSign) & nonzero)];
  const unsigned minus = coder.sign(sign.p, negative | (token == 0));
  sign.update(minus);
  sign_[kNoSign].p = 1U << kSignBits;

  uint32_t seen = map_.middle[token];
  uint32_t out = map_.first[token];
  if (map_.any_bits) out += coder.bits(map_.bits[token], magnitude - out);
  if (token == kEscape) {
    out = code_escaped(coder, magnitude);
    seen = std::min(out, kMagnitude);
  }
  row.left2 = row.left;
  row.left = seen;
  row.left_sign = (1 + minus) & nonzero;
  row.mean_before = row.mean;
  follow(row.mean, seen << 8, row.seen);
  follow(here.mean, seen << 8, column_seen_);
  row.seen += row.seen < kRowMemory;
  here.magnitude = seen;
  here.sign = row.left_sign;
  return static_cast<int32_t>(((out ^ (0U - minus)) + minus) + static_cast<uint32_t>(header_.centre));
}

}  // namespace onnxopt
