#if defined(__AVX2__)
#include "beam_lanes.h"

namespace onnxopt::quantizer {
const Kernel kAvx2Kernel{kLanes, sweep_rows, beam_rows};
}  // namespace onnxopt::quantizer
#endif
