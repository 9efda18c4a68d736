#if defined(__AVX512F__)
#include "beam_lanes.h"

namespace onnxopt::quantizer {
const Kernel kAvx512Kernel{kLanes, sweep_rows, beam_rows};
}  // namespace onnxopt::quantizer
#endif
