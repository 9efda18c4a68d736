#if defined(__AVX2__)
#include "sweep_lanes.h"

namespace onnxopt::quantizer {
const Kernel kAvx2Kernel{kLanes, sweep_rows};
}  // namespace onnxopt::quantizer
#endif
