// The rANS decoder, 8 lanes a register: renormalisation words by a permutation looked up from
// the mask of the lanes that need one.
#include "rans.h"

#if defined(__AVX2__)
#include <immintrin.h>

namespace onnxopt::rans {
namespace {

// Row m: for each lane the index of its word among those read, lanes outside m aside.
struct Permutations {
  alignas(64) uint8_t index[256][8];
};
constexpr Permutations permutations() {
  Permutations out{};
  for (unsigned mask = 0; mask < 256; ++mask) {
    uint8_t next = 0;
    for (unsigned lane = 0; lane < 8; ++lane) {
      if (mask >> lane & 1) out.index[mask][lane] = next++;
    }
  }
  return out;
}
constexpr Permutations kPermutations = permutations();

inline __m128i four(const uint32_t* slots, const uint32_t* index) {
  __m128i out = _mm_cvtsi32_si128(static_cast<int>(slots[index[0]]));
  out = _mm_insert_epi32(out, static_cast<int>(slots[index[1]]), 1);
  out = _mm_insert_epi32(out, static_cast<int>(slots[index[2]]), 2);
  return _mm_insert_epi32(out, static_cast<int>(slots[index[3]]), 3);
}

// Single loads: faster than the gather instruction, which is microcode on some machines.
inline __m256i lookup(const uint32_t* slots, __m256i index) {
  alignas(32) uint32_t i[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(i), index);
  return _mm256_inserti128_si256(_mm256_castsi128_si256(four(slots, i)), four(slots, i + 4), 1);
}

template <size_t kGroups, bool kOffsets>
size_t decode(const uint32_t* slots, unsigned precision, const uint32_t* offsets, int32_t base, Lanes& lanes,
              int32_t* out, size_t n) {
  constexpr size_t kLanes = 8 * kGroups;
  constexpr std::ptrdiff_t kMostRead{16 * kGroups};  // bytes a round loads, whether it uses them or not
  const __m256i slot_mask = _mm256_set1_epi32((1 << precision) - 1);
  const __m256i low12 = _mm256_set1_epi32(0xfff);
  const __m256i bases = _mm256_set1_epi32(base);
  const __m128i shift = _mm_cvtsi32_si128(static_cast<int>(precision));
  const uint8_t* at = lanes.at;
  __m256i state[kGroups];
  for (size_t g = 0; g < kGroups; ++g)
    state[g] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lanes.state + 8 * g));
  size_t i = 0;
  for (; i + kLanes <= n && lanes.end - at >= kMostRead; i += kLanes) {
#pragma GCC unroll 8
    for (size_t g = 0; g < kGroups; ++g) {
      __m256i index = _mm256_and_si256(state[g], slot_mask);
      if (kOffsets) {
        index = _mm256_add_epi32(index,
                                 _mm256_loadu_si256(reinterpret_cast<const __m256i*>(offsets + i + 8 * g)));
      }
      const __m256i slot = lookup(slots, index);
      const __m256i freq = _mm256_and_si256(_mm256_srli_epi32(slot, 12), low12);  // less one
      const __m256i high = _mm256_srl_epi32(state[g], shift);
      const __m256i rest = _mm256_add_epi32(high, _mm256_and_si256(slot, low12));
      const __m256i x = _mm256_add_epi32(_mm256_mullo_epi32(high, freq), rest);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i + 8 * g),
                          _mm256_add_epi32(bases, _mm256_srli_epi32(slot, 24)));
      const __m256i below = _mm256_cmpeq_epi32(_mm256_srli_epi32(x, 16), _mm256_setzero_si256());
      const auto mask = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(below)));
      const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
      const __m256i order =
          _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kPermutations.index[mask])));
      const __m256i filled =
          _mm256_or_si256(_mm256_slli_epi32(x, 16), _mm256_permutevar8x32_epi32(words, order));
      state[g] = _mm256_blendv_epi8(x, filled, below);
      at += std::ptrdiff_t{2} * __builtin_popcount(mask);
    }
  }
  for (size_t g = 0; g < kGroups; ++g)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes.state + 8 * g), state[g]);
  lanes.at = at;
  return i;
}

}  // namespace

Kernel avx2_kernel(size_t lanes, bool with_offsets) {
  switch (lanes) {
    case 64:
      return with_offsets ? decode<8, true> : decode<8, false>;
    case 32:
      return with_offsets ? decode<4, true> : decode<4, false>;
    case 16:
      return with_offsets ? decode<2, true> : decode<2, false>;
    default:
      return nullptr;
  }
}

}  // namespace onnxopt::rans
#endif
