// Finds the container inside a compressed .onnx file without a protobuf library.
#pragma once

#include <string>
#include <vector>

#include "protobuf.h"

namespace onnxopt {

// Calls take(field) for every field of the graph of a serialized model.
template <typename Take>
void each_graph_field(Bytes model, Take take) {
  each_field(model, [&](const Field& f) {
    if (f.number == 7) each_field(f.bytes, take);
  });
}

// A ValueInfoProto: the name and type of a tensor.
Message value_info(std::string_view name, int dtype, const std::vector<int64_t>& dims);

// A serialized model's other fields, to which its graph is to be added.
Message without_graph(Bytes model);

// Where the container lies.
struct Payload {
  Bytes bytes;           // a view into the file; null where the container lies in a file of its own:
  std::string location;  // that file, relative to the model's folder
  uint64_t offset = 0;
  uint64_t length = 0;  // 0: to its end
  // Whether the graph has nothing else, so that the model in the container has the same inputs and outputs.
  // False where nodes had to stay outside, or where the graph returns an input or a value twice.
  bool alone = true;
};

// `file` may be a compressed .onnx model or a bare container. Throws Error where it is neither.
Payload find_payload(Bytes file);

// The container's bytes: a view into `file`. Throws Error where it has none.
Bytes find_container(Bytes file);

// Whether a serialized model imports operators of domains that ONNX Runtime does not have. Throws Error where
// it is no model.
bool has_foreign_operators(Bytes model);

// Whether a serialized model's main graph has branches or loops. Throws Error where it is no model.
bool has_control_flow(Bytes model);

}  // namespace onnxopt
