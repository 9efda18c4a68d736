// Field numbers are those of onnx.proto: ModelProto.graph = 7, opset_import = 8; OperatorSetIdProto.domain =
// 1; GraphProto.node = 1, initializer = 5, input = 11, output = 12; ValueInfoProto.name = 1; NodeProto.input
// = 1, output = 2, op_type = 4, domain = 7; TensorProto.data_type = 2, name = 8, raw_data = 9, external_data
// = 13; StringStringEntryProto.key = 1, value = 2.
#include "onnx_file.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

namespace onnxopt {
namespace {

constexpr std::string_view kContainerMagic{"onnxopt\0", 8};
constexpr std::string_view kDomain = "onnxopt";
constexpr std::string_view kOp = "CompressedModel";

constexpr uint64_t kUint8 = 2;  // TensorProto.DataType

uint64_t number_of(std::string_view text) {
  uint64_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9' || value > (UINT64_MAX - 9) / 10)
      fail("'%s' is no number", std::string(text.substr(0, 40)).c_str());
    value = value * 10 + static_cast<uint64_t>(c - '0');
  }
  return value;
}

void read_external(Bytes entry, Payload& payload) {
  std::string_view key;
  std::string_view value;
  each_field(entry, [&](const Field& f) {
    if (f.number == 1) key = f.text();
    if (f.number == 2) value = f.text();
  });
  if (key == "location") payload.location = value;
  if (key == "offset") payload.offset = number_of(value);
  if (key == "length") payload.length = number_of(value);
}

// Reads the tensor if it has this name.
bool read_if_called(std::string_view name, Bytes tensor, Payload& payload) {
  Payload found;
  bool named = false;
  uint64_t dtype = 0;
  each_field(tensor, [&](const Field& f) {
    if (f.number == 2) dtype = f.value;
    if (f.number == 8) named = f.text() == name;
    if (f.number == 9) found.bytes = f.bytes;
    if (f.number == 13) read_external(f.bytes, found);
  });
  if (!named) return false;
  if (dtype != kUint8) fail("the container is a tensor of element type %" PRIu64 ", not uint8", dtype);
  payload = std::move(found);
  return true;
}

// The names at the border of a graph or of a node.
struct Border {
  std::vector<std::string_view> inputs;
  std::vector<std::string_view> outputs;
};

bool is_compressed_node(Bytes node, Border& border) {
  std::string_view op;
  std::string_view domain;
  Border found;
  each_field(node, [&](const Field& f) {
    if (f.number == 1) found.inputs.push_back(f.text());
    if (f.number == 2) found.outputs.push_back(f.text());
    if (f.number == 4) op = f.text();
    if (f.number == 7) domain = f.text();
  });
  if (op != kOp || domain != kDomain) return false;
  border = std::move(found);
  return true;
}

// The node has the container as its first input.
bool same_border(const Border& graph, const Border& node) {
  return node.inputs.size() == graph.inputs.size() + 1 && graph.outputs == node.outputs &&
         std::equal(graph.inputs.begin(), graph.inputs.end(), node.inputs.begin() + 1);
}

Payload walk_model(Bytes file) {
  Payload payload;
  size_t nodes = 0;
  Border graph;
  Border node;
  bool has_tensor = false;
  bool has_node = false;
  each_graph_field(file, [&](const Field& f) {
    if (f.number == 1) {
      ++nodes;
      has_node = has_node || is_compressed_node(f.bytes, node);
    }
    if (f.number == 11) graph.inputs.push_back(text_of(f.bytes, 1));
    if (f.number == 12) graph.outputs.push_back(text_of(f.bytes, 1));
  });
  const std::string_view name = node.inputs.empty() ? std::string_view() : node.inputs.front();
  each_graph_field(file, [&](const Field& f) {
    if (has_node && f.number == 5 && !has_tensor) has_tensor = read_if_called(name, f.bytes, payload);
  });
  if (!has_node || !has_tensor) fail("it holds no compressed model: was it written by onnxopt?");
  payload.alone = nodes == 1 && same_border(graph, node);
  return payload;
}

}  // namespace

// ValueInfoProto.name = 1, type = 2; TypeProto.tensor_type = 1, with elem_type = 1 and shape = 2;
// TensorShapeProto.dim = 1; Dimension.dim_value = 1.
Message value_info(std::string_view name, int dtype, const std::vector<int64_t>& dims) {
  Message shape;
  for (const int64_t dim : dims) shape.add(1, Message().add(1, static_cast<uint64_t>(dim)));
  Message tensor;
  tensor.add(1, static_cast<uint64_t>(dtype)).add(2, shape);
  Message out;
  out.add(1, name).add(2, Message().add(1, tensor));
  return out;
}

Message without_graph(Bytes model) {
  Message out;
  each_field(model, [&](const Field& f) {
    if (f.number != 7) out.add(f);
  });
  return out;
}

Payload find_payload(Bytes file) {
  if (file.size >= kContainerMagic.size() &&
      std::equal(kContainerMagic.begin(), kContainerMagic.end(), file.data)) {
    Payload bare;
    bare.bytes = file;
    return bare;
  }
  const Subject subject("not a compressed ONNX model");
  return walk_model(file);
}

bool has_foreign_operators(Bytes model) {
  constexpr std::string_view kKnown[] = {"ai.onnx", "ai.onnx.ml", "ai.onnx.training", "onnxopt.loader",
                                         "onnxopt.streamed"};
  constexpr std::string_view kFamilies[] = {"com.microsoft", "com.ms.", "ai.onnx.preview"};
  bool foreign = false;
  each_field(model, [&](const Field& model_field) {
    if (model_field.number != 8) return;
    each_field(model_field.bytes, [&](const Field& f) {
      if (f.number != 1 || f.bytes.size == 0) return;
      const std::string_view domain = f.text();
      const auto begins = [&](std::string_view family) { return domain.substr(0, family.size()) == family; };
      const bool known = std::find(std::begin(kKnown), std::end(kKnown), domain) != std::end(kKnown);
      const bool relative = std::any_of(std::begin(kFamilies), std::end(kFamilies), begins);
      foreign = foreign || (!known && !relative);
    });
  });
  return foreign;
}

bool has_control_flow(Bytes model) {
  constexpr std::string_view kOps[] = {"If", "Loop", "Scan", "SequenceMap"};
  bool found = false;
  each_graph_field(model, [&](const Field& graph_field) {
    if (graph_field.number != 1) return;
    each_field(graph_field.bytes, [&](const Field& f) {
      found =
          found || (f.number == 4 && std::find(std::begin(kOps), std::end(kOps), f.text()) != std::end(kOps));
    });
  });
  return found;
}

Bytes find_container(Bytes file) {
  const Payload payload = find_payload(file);
  if (payload.bytes.data == nullptr) {
    fail("the container lies in another file, '%s': open the model by its path", payload.location.c_str());
  }
  return payload.bytes;
}

}  // namespace onnxopt
