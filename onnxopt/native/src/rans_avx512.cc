// The rANS decoder, 16 lanes a register: as the AVX2 one, but the expand instruction hands out the words.
#include "rans.h"

#if defined(__AVX512F__)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 on its own header (GCC bug 105593)
#endif
#include <immintrin.h>

namespace onnxopt::rans {
namespace {

template <bool kOffsets>
size_t decode(const uint32_t* slots, unsigned precision, const uint32_t* offsets, int32_t base, Lanes& lanes,
              int32_t* out, size_t n) {
  const __m512i slot_mask = _mm512_set1_epi32((1 << precision) - 1);
  const __m512i low12 = _mm512_set1_epi32(0xfff);
  const __m512i bases = _mm512_set1_epi32(base);
  const __m512i low = _mm512_set1_epi32(static_cast<int>(kLow));
  const __m128i shift = _mm_cvtsi32_si128(static_cast<int>(precision));
  const uint8_t* at = lanes.at;
  __m512i state[2] = {_mm512_loadu_si512(lanes.state), _mm512_loadu_si512(lanes.state + 16)};
  size_t i = 0;
  for (; i < n && static_cast<size_t>(lanes.end - at) >= kSlack; i += 32) {
#pragma GCC unroll 2
    for (int g = 0; g < 2; ++g) {
      __m512i index = _mm512_and_si512(state[g], slot_mask);
      if (kOffsets) index = _mm512_add_epi32(index, _mm512_loadu_si512(offsets + i + 16 * g));
      const __m512i slot = _mm512_i32gather_epi32(index, slots, 4);
      const __m512i freq = _mm512_and_si512(_mm512_srli_epi32(slot, 12), low12);  // less one
      const __m512i high = _mm512_srl_epi32(state[g], shift);
      const __m512i rest = _mm512_add_epi32(high, _mm512_and_si512(slot, low12));
      const __m512i x = _mm512_add_epi32(_mm512_mullo_epi32(high, freq), rest);
      _mm512_storeu_si512(out + i + 16 * g, _mm512_add_epi32(bases, _mm512_srli_epi32(slot, 24)));
      const __mmask16 below = _mm512_cmplt_epu32_mask(x, low);
      const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
      const __m512i filled =
          _mm512_or_si512(_mm512_slli_epi32(x, 16), _mm512_maskz_expand_epi32(below, words));
      state[g] = _mm512_mask_mov_epi32(x, below, filled);
      at += 2 * __builtin_popcount(below);
    }
  }
  _mm512_storeu_si512(lanes.state, state[0]);
  _mm512_storeu_si512(lanes.state + 16, state[1]);
  lanes.at = at;
  return i;
}

}  // namespace

size_t decode_avx512(const uint32_t* slots, unsigned precision, const uint32_t* offsets, int32_t base, Lanes& lanes,
                     int32_t* out, size_t n) {
  n -= n % kMaxLanes;
  return offsets ? decode<true>(slots, precision, offsets, base, lanes, out, n)
                 : decode<false>(slots, precision, offsets, base, lanes, out, n);
}

}  // namespace onnxopt::rans
#endif
