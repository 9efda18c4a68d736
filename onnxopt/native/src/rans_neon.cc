// The rANS decoder, 4 lanes a register: renormalisation words by a permutation looked up from the mask of the
// lanes that need one.
#include "rans.h"
#include "simd.h"

#if defined(ONNXOPT_NEON)
#include <arm_neon.h>

namespace onnxopt::rans {
namespace {

constexpr size_t kWidth = 4;     // lanes a register
constexpr uint8_t kZero = 0xff;  // an index that vqtbl1q takes for a byte 0

// Row m: for each lane of m the bytes of its word among those read; how many bytes that are.
struct Permutations {
  alignas(16) uint8_t index[16][16];
  uint8_t read[16];
};
constexpr Permutations permutations() {
  Permutations out{};
  for (unsigned mask = 0; mask < 16; ++mask) {
    uint8_t next = 0;
    for (unsigned lane = 0; lane < kWidth; ++lane) {
      uint8_t* bytes = out.index[mask] + size_t{4} * lane;
      const bool reads = mask >> lane & 1;
      bytes[0] = reads ? next++ : kZero;
      bytes[1] = reads ? next++ : kZero;
      bytes[2] = bytes[3] = kZero;
    }
    out.read[mask] = next;
  }
  return out;
}
constexpr Permutations kPermutations = permutations();

inline uint32x4_t lookup(const uint32_t* slots, uint32x4_t index) {
  uint32_t i[kWidth];
  vst1q_u32(i, index);
  uint32x4_t out = vld1q_dup_u32(slots + i[0]);
  out = vld1q_lane_u32(slots + i[1], out, 1);
  out = vld1q_lane_u32(slots + i[2], out, 2);
  return vld1q_lane_u32(slots + i[3], out, 3);
}

template <size_t kGroups, bool kOffsets>
size_t decode(const uint32_t* slots, unsigned precision, const uint32_t* offsets, int32_t base, Lanes& lanes,
              int32_t* out, size_t n) {
  constexpr size_t kLanes = kWidth * kGroups;
  constexpr std::ptrdiff_t kMostRead{2 * kLanes};
  const uint32x4_t slot_mask = vdupq_n_u32((1U << precision) - 1);
  const uint32x4_t low12 = vdupq_n_u32(0xfff);
  const uint32x4_t bases = vdupq_n_u32(static_cast<uint32_t>(base));
  const int32x4_t down = vdupq_n_s32(-static_cast<int32_t>(precision));
  const uint32x4_t bits = {1, 2, 4, 8};
  const uint8_t* at = lanes.at;
  uint32x4_t state[kGroups];
  for (size_t g = 0; g < kGroups; ++g) state[g] = vld1q_u32(lanes.state + kWidth * g);
  size_t i = 0;
  for (; i + kLanes <= n && lanes.end - at >= kMostRead; i += kLanes) {
#pragma GCC unroll 16
    for (size_t g = 0; g < kGroups; ++g) {
      uint32x4_t index = vandq_u32(state[g], slot_mask);
      if (kOffsets) index = vaddq_u32(index, vld1q_u32(offsets + i + kWidth * g));
      const uint32x4_t slot = lookup(slots, index);
      const uint32x4_t freq = vandq_u32(vshrq_n_u32(slot, 12), low12);  // less one
      const uint32x4_t high = vshlq_u32(state[g], down);
      const uint32x4_t x = vmlaq_u32(vaddq_u32(high, vandq_u32(slot, low12)), high, freq);
      const uint32x4_t value = vaddq_u32(bases, vshrq_n_u32(slot, 24));
      vst1q_s32(out + i + kWidth * g, vreinterpretq_s32_u32(value));
      const uint32x4_t below = vcltq_u32(x, vdupq_n_u32(kLow));
      const uint32_t mask = vaddvq_u32(vandq_u32(below, bits));
      const uint8x16_t words = vcombine_u8(vld1_u8(at), vdup_n_u8(0));
      const uint8x16_t filled = vqtbl1q_u8(words, vld1q_u8(kPermutations.index[mask]));
      const int32x4_t up = vreinterpretq_s32_u32(vandq_u32(below, vdupq_n_u32(16)));
      state[g] = vorrq_u32(vshlq_u32(x, up), vreinterpretq_u32_u8(filled));
      at += kPermutations.read[mask];
    }
  }
  for (size_t g = 0; g < kGroups; ++g) vst1q_u32(lanes.state + kWidth * g, state[g]);
  lanes.at = at;
  return i;
}

}  // namespace

Kernel neon_kernel(size_t lanes, bool with_offsets) {
  switch (lanes) {
    case 64:
      return with_offsets ? decode<16, true> : decode<16, false>;
    case 32:
      return with_offsets ? decode<8, true> : decode<8, false>;
    case 16:
      return with_offsets ? decode<4, true> : decode<4, false>;
    case 8:
      return with_offsets ? decode<2, true> : decode<2, false>;
    default:
      return nullptr;
  }
}

}  // namespace onnxopt::rans
#endif
