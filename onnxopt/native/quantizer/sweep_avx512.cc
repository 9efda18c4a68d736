#if defined(__AVX512F__)
#include "sweep_lanes.h"

namespace onnxopt::quantizer {
const Kernel kAvx512Kernel{kLanes, sweep_rows};
}  // namespace onnxopt::quantizer
#endif
