// Which vector instructions the decoders use: the best this machine has, unless a test or a benchmark says
// otherwise.
#pragma once

namespace onnxopt {

enum class Simd { kScalar = 0, kAvx2 = 1, kAvx512 = 2 };

Simd simd();
// "scalar", "avx2" or "avx512".
const char* simd_name();
// Forces one of these, or the best again where null. False, and nothing changed, where this machine lacks it.
bool set_simd(const char* name);

}  // namespace onnxopt
