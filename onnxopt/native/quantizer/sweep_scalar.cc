#include "sweep_lanes.h"

namespace onnxopt::quantizer {
const Kernel kScalarKernel{kLanes, sweep_rows};
}  // namespace onnxopt::quantizer
