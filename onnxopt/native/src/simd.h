// Which vector instructions the decoders use: the best this machine has, unless a test or a benchmark says
// otherwise.
#pragma once

namespace onnxopt {

// Every 64-bit ARM processor has it; the kernels take its lanes for little-endian.
#if defined(__aarch64__) && !defined(__AARCH64EB__)
#define ONNXOPT_NEON
#endif

enum class Simd { kScalar = 0, kAvx2 = 1, kAvx512 = 2, kNeon = 3 };

Simd simd();
// "scalar", "avx2", "avx512" or "neon".
const char* simd_name();
// Forces one of these, or the best again where null. False, and nothing changed, where this machine lacks it.
bool set_simd(const char* name);

}  // namespace onnxopt
