// What the adaptive codecs (4, context, and 6, adaptive) tell the decoder before the first integer.
#pragma once

#include <array>
#include <cstring>

#include "codec.h"

namespace onnxopt {

struct ContextHeader {
  unsigned scale = 0;     // mean magnitude of the nonzeros less 1: (4 + scale % 4) << scale / 4, in 1/256
  unsigned nonzero = 0;   // their share: (2 * nonzero + 1) / 512
  int32_t centre = 0;     // subtracted from every integer
  unsigned distance = 1;  // of the second left neighbour: the kernel's width finds the weight one row above
  unsigned detail = 0;    // of tokens, 0..3; codec 4 has none

  static constexpr unsigned kMaxScale = 4 * 37;
  uint64_t excess256() const { return uint64_t{4 + scale % 4} << scale / 4; }
  uint64_t mean256() const { return ((excess256() + 256) * (2 * nonzero + 1)) >> 9; }

  // Of q[rows, cols], without detail.
  static ContextHeader of(const int32_t* q, Shape shape);
  // [u8 scale][u8 nonzero][u8 distance | 16 * centred | 32 * detail][svarint centre, if centred]
  void write(Writer& writer) const;
  // Throws Error, which names `codec`, where a field is out of range.
  static ContextHeader read(Reader& reader, const char* codec, unsigned max_detail);
};

// Nonzero magnitudes as if geometric, P(m >= k + 1 | m >= k) = theta = excess / (excess + 1): where the
// models start from. Returns theta^(2^j), j = 0.., in 1/2^32.
std::array<uint64_t, 32> geometric_powers(uint64_t excess256);

inline unsigned bit_length(uint64_t v) {
#if defined(__GNUC__)
  return v == 0 ? 0 : 64U - static_cast<unsigned>(__builtin_clzll(v));
#else
  unsigned n = 0;
  for (; v != 0; v >>= 1) ++n;
  return n;
#endif
}

// log2(v) in 1/2^bits, linear between powers of two; v > 0.
inline unsigned log2_of(uint64_t v, unsigned bits) {
  const unsigned whole = bit_length(v) - 1;
  return (whole << bits) + static_cast<unsigned>((v << bits >> whole) & ((1U << bits) - 1));
}

// log2_of(v, 1), v < 2^53.
inline unsigned half_octaves(uint64_t v) {
#if defined(__SSE2__)
  // The exponent of a double, and its first bit: counting zeros takes longer where it is not an instruction.
  const auto exact = static_cast<double>(static_cast<int64_t>(v));
  uint64_t bits = 0;
  std::memcpy(&bits, &exact, sizeof bits);
  return static_cast<unsigned>(bits >> 51) - 2 * 1023;
#else
  return log2_of(v, 1);
#endif
}

// kRate[n] = 2^15 / (n + 1.5): the weight of the newest of n + 1 observations (Krichevsky-Trofimov).
constexpr int kRates = 257;
inline constexpr std::array<int32_t, kRates> kRate = [] {
  std::array<int32_t, kRates> rate{};
  for (int n = 0; n < kRates; ++n) rate[static_cast<size_t>(n)] = (1 << 16) / (2 * n + 3);
  return rate;
}();

inline int32_t step(int32_t delta, unsigned n) {
  return static_cast<int32_t>((static_cast<int64_t>(delta) * kRate[n]) >> 15);
}

// A running mean of magnitudes, all in 1/256 and never 0, after one more.
inline void follow(uint32_t& mean, uint32_t magnitude256, unsigned n) {
  mean = static_cast<uint32_t>(static_cast<int32_t>(mean) +
                               step(static_cast<int32_t>(magnitude256) - static_cast<int32_t>(mean), n));
  mean += mean == 0;
}

}  // namespace onnxopt
