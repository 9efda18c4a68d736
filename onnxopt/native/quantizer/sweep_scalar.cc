#include "beam_lanes.h"

namespace onnxopt::quantizer {
const Kernel kScalarKernel{kLanes, sweep_rows, beam_rows};
}  // namespace onnxopt::quantizer
