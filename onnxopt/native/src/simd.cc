#include "simd.h"

#include <atomic>
#include <cstring>

namespace onnxopt {
namespace {

constexpr const char* kNames[] = {"scalar", "avx2", "avx512"};

Simd best() {
#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    return Simd::kAvx512;
  }
  if (avx2) return Simd::kAvx2;
#endif
  return Simd::kScalar;
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
  for (int i = 0; i <= static_cast<int>(best()); ++i) {
    if (std::strcmp(name, kNames[i]) != 0) continue;
    level() = static_cast<Simd>(i);
    return true;
  }
  return false;
}

}  // namespace onnxopt
