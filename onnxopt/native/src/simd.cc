#include "simd.h"

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#include <cpuid.h>
#endif

#include <atomic>
#include <cstring>

namespace onnxopt {
namespace {

constexpr const char* kNames[] = {"scalar", "avx2", "avx512", "neon"};

// What the processor has and the system saves registers of: Intel's manual, volume 2A on CPUID, and volume 1,
// 14.3 and 15.2. The compiler's own __builtin_cpu_supports knows every processor there ever was, in 4.5 kB.
Simd best() {
#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
  constexpr unsigned kAvx2 = bit_AVX2 | bit_BMI2;
  constexpr unsigned kAvx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
  constexpr unsigned kYmm = 0x06, kZmm = 0xe6;  // in XCR0, the registers that the system saves
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & bit_OSXSAVE) == 0 || (ecx & bit_F16C) == 0) {
    return Simd::kScalar;
  }
  unsigned saved = 0;
  __asm__("xgetbv" : "=a"(saved), "=d"(edx) : "c"(0));
  if ((saved & kYmm) != kYmm || __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 ||
      (ebx & kAvx2) != kAvx2) {
    return Simd::kScalar;
  }
  return (saved & kZmm) == kZmm && (ebx & kAvx512) == kAvx512 ? Simd::kAvx512 : Simd::kAvx2;
#elif defined(ONNXOPT_NEON)
  return Simd::kNeon;
#else
  return Simd::kScalar;
#endif
}

// Whether this machine has a level: all of x86 have those below them.
bool has(Simd wanted) {
  const Simd most = best();
  return wanted == Simd::kScalar || wanted == most || (wanted < most && most != Simd::kNeon);
}

std::atomic<Simd>& level() {
  static std::atomic<Simd> current{best()};
  return current;
}

}  // namespace

Simd simd() { return level().load(std::memory_order_relaxed); }

const char* simd_name() { return kNames[static_cast<int>(simd())]; }

bool set_simd(const char* name) {
  if (!name) {
    level() = best();
    return true;
  }
  for (int i = 0; i <= static_cast<int>(Simd::kNeon); ++i) {
    const auto wanted = static_cast<Simd>(i);
    if (std::strcmp(name, kNames[i]) != 0 || !has(wanted)) continue;
    level() = wanted;
    return true;
  }
  return false;
}

}  // namespace onnxopt
