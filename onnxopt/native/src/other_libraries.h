// Operators of other libraries in the inner session.
#pragma once

#include "ort_runtime.h"

namespace onnxopt {

// Registers with `options` the operators of every other library in this process that exports
// RegisterCustomOps, if the serialized model imports operators that ONNX Runtime does not have. The runtime
// tells a kernel nothing of the libraries that its session was given. Each stays loaded, as sessions refer
// to it.
void register_other_libraries(const Runtime& runtime, Bytes model, OrtSessionOptions* options);

}  // namespace onnxopt
