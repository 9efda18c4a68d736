// Finds the container inside a compressed .onnx file without a protobuf library.
#pragma once

#include "bytes.h"

namespace onnxopt {

// The container's bytes: a view into `file`, which may be a compressed .onnx model or a bare container.
// Throws Error where neither is found.
Bytes find_container(Bytes file);

}  // namespace onnxopt
