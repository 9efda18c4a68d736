// The rANS decoder, 16 lanes a register: as the AVX2 one, but the expand instruction hands out the words.
#include "rans.h"

#if defined(__AVX512F__)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 on its own header (GCC bug 105593)
#endif
#include <immintrin.h>

namespace onnxopt::rans {
namespace {

inline __m128i four(const uint32_t* slots, const uint32_t* index) {
  __m128i out = _mm_cvtsi32_si128(static_cast<int>(slots[index[0]]));
  out = _mm_insert_epi32(out, static_cast<int>(slots[index[1]]), 1);
  out = _mm_insert_epi32(out, static_cast<int>(slots[index[2]]), 2);
  return _mm_insert_epi32(out, static_cast<int>(slots[index[3]]), 3);
}

// Single loads: faster than the gather instruction, which is microcode on some machines.
inline __m512i lookup(const uint32_t* slots, __m512i index) {
  alignas(64) uint32_t i[16];
  _mm512_store_si512(i, index);
  const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(four(slots, i)), four(slots, i + 4), 1);
  const __m256i high =
      _mm256_inserti128_si256(_mm256_castsi128_si256(four(slots, i + 8)), four(slots, i + 12), 1);
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

template <size_t kGroups, bool kOffsets>
size_t decode(const uint32_t* slots, unsigned precision, const uint32_t* offsets, int32_t base, Lanes& lanes,
              int32_t* out, size_t n) {
  constexpr size_t kLanes = 16 * kGroups;
  constexpr std::ptrdiff_t kMostRead{32 * kGroups};  // bytes a round loads, whether it uses them or not
  const __m512i slot_mask = _mm512_set1_epi32((1 << precision) - 1);
  const __m512i low12 = _mm512_set1_epi32(0xfff);
  const __m512i bases = _mm512_set1_epi32(base);
  const __m512i low = _mm512_set1_epi32(static_cast<int>(kLow));
  const __m128i shift = _mm_cvtsi32_si128(static_cast<int>(precision));
  const uint8_t* at = lanes.at;
  __m512i state[kGroups];
  for (size_t g = 0; g < kGroups; ++g) state[g] = _mm512_loadu_si512(lanes.state + 16 * g);
  size_t i = 0;
  for (; i + kLanes <= n && lanes.end - at >= kMostRead; i += kLanes) {
#pragma GCC unroll 4
    for (size_t g = 0; g < kGroups; ++g) {
      __m512i index = _mm512_and_si512(state[g], slot_mask);
      if (kOffsets) index = _mm512_add_epi32(index, _mm512_loadu_si512(offsets + i + 16 * g));
      const __m512i slot = lookup(slots, index);
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
      at += std::ptrdiff_t{2} * __builtin_popcount(below);
    }
  }
  for (size_t g = 0; g < kGroups; ++g) _mm512_storeu_si512(lanes.state + 16 * g, state[g]);
  lanes.at = at;
  return i;
}

}  // namespace

Kernel avx512_kernel(size_t lanes, bool with_offsets) {
  switch (lanes) {
    case 64:
      return with_offsets ? decode<4, true> : decode<4, false>;
    case 32:
      return with_offsets ? decode<2, true> : decode<2, false>;
    case 16:
      return with_offsets ? decode<1, true> : decode<1, false>;
    default:
      return nullptr;
  }
}

}  // namespace onnxopt::rans
#endif
