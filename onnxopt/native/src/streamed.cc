// Field numbers are those of onnx.proto: ModelProto.graph = 7, opset_import = 8; OperatorSetIdProto.domain =
// 1, version = 2; GraphProto.node = 1, initializer = 5, input = 11, output = 12, value_info = 13;
// NodeProto.input = 1, output = 2, op_type = 4, attribute = 5, domain = 7; AttributeProto.name = 1, i = 3,
// type = 20; TensorProto.name = 8.
#include "streamed.h"

#include <algorithm>
#include <string_view>

#include "onnx_file.h"

namespace onnxopt {
namespace {

constexpr const char* kStreamedDomain = "onnxopt.streamed";
constexpr const char* kEntry = "entry";
// An operator for each type of element that is streamed.
constexpr int kTypes[] = {ort::kFloat32, ort::kFloat16};
constexpr const char* kOperators[] = {"DecodeFloat32", "DecodeFloat16"};

bool has_operator(int dtype) { return dtype == kTypes[0] || dtype == kTypes[1]; }
const char* operator_of(int dtype) { return kOperators[dtype == kTypes[0] ? 0 : 1]; }

using Names = std::vector<std::string_view>;

bool contains(const Names& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// How fast codecs are by comparison.
int speed_of(const Entry& e) {
  return e.codec == codecs::context.id    ? 0
         : e.codec == codecs::adaptive.id ? 1
         : e.codec == codecs::huffman.id  ? 2
                                          : 3;
}

// Adds to a graph a node that decodes an entry, and what it gives.
void add_node(Message& graph, const Entry& e, size_t index, std::string_view after) {
  Message attribute;
  attribute.add(1, kEntry).add(3, index).add(20, 2);
  Message node;
  node.add(1, after).add(2, e.name).add(4, operator_of(e.dtype)).add(5, attribute).add(7, kStreamedDomain);
  graph.add(1, node).add(13, value_info(e.name, e.dtype, e.dims));
}

}  // namespace

Residence::Residence(const std::string& entry) {
  constexpr std::string_view kStreamed = "streamed";
  if (entry.empty() || entry == "loaded") return;
  streamed = entry.compare(0, kStreamed.size(), kStreamed) == 0;
  size_t at = kStreamed.size();
  if (streamed && at == entry.size()) return;
  const size_t digits = entry.find_first_not_of("0123456789", at + 1);
  const std::string unit = digits == std::string::npos ? "" : entry.substr(digits);
  const unsigned shift = unit == "KiB" ? 10 : unit == "MiB" ? 20 : 0;
  const size_t count = std::min(digits, entry.size()) - at - 1;
  if (!streamed || entry[at] != ':' || count < 1 || count > 9 || (shift == 0 && !unit.empty())) {
    fail("onnxopt.residence is '%s', expected loaded, streamed or streamed:64MiB", entry.c_str());
  }
  decoded = std::stoull(entry.substr(at + 1, count)) << shift;
}

struct Streamed::Kernel {
  ort::Api api;
  std::shared_ptr<const Source> source;
  size_t entry;

  void compute(OrtKernelContext* context) const {
    const Container& container = *source->container;
    const Entry& e = container.entries()[entry];
    OrtValue* value = nullptr;
    check(api, api.KernelContext_GetOutput()(context, 0, e.dims.data(), e.dims.size(), &value));
    std::vector<void*> out(container.entries().size());
    check(api, api.GetTensorMutableData()(value, &out[entry]));
    container.decode(out, source->threads);
  }
};

Streamed::Streamed(std::shared_ptr<const Container> container, uint64_t decoded, unsigned threads)
    : source_(std::make_shared<Source>(Source{std::move(container), threads})) {
  const std::vector<Entry>& entries = source_->container->entries();
  const Bytes model = bytes_in(source_->container->model());
  Names constant{""};
  Names border;  // what the caller sees stays as it is
  each_graph_field(model, [&](const Field& f) {
    if (f.number == 5) constant.push_back(text_of(f.bytes, 8));
    if (f.number == 11 || f.number == 12) border.push_back(text_of(f.bytes, 1));
  });
  after_.resize(entries.size());
  const auto offer = [&](std::string_view name, std::string_view computed) {
    for (size_t i = 0; i < entries.size(); ++i) {
      const Entry& e = entries[i];
      if (e.name != name || e.hidden || !has_operator(e.dtype) || e.size < kSmallest) continue;
      if (after_[i].empty() && !contains(border, name)) after_[i] = computed;
    }
  };
  each_graph_field(model, [&](const Field& f) {
    if (f.number != 1) return;
    Names inputs;
    Names outputs;
    each_field(f.bytes, [&](const Field& part) {
      if (part.number == 1) inputs.push_back(part.text());
      if (part.number == 2) outputs.push_back(part.text());
    });
    const auto computed = std::find_if(inputs.begin(), inputs.end(),
                                       [&](std::string_view name) { return !contains(constant, name); });
    if (computed == inputs.end()) {
      constant.insert(constant.end(), outputs.begin(), outputs.end());
      return;
    }
    for (const std::string_view name : inputs) offer(name, *computed);
  });
  chosen_.resize(entries.size());
  for (size_t i = 0; i < entries.size(); ++i) chosen_[i] = !after_[i].empty();
  keep(decoded);
}

// Decoded for good: slow codecs before fast ones, small weights before large ones.
void Streamed::keep(uint64_t bytes) {
  const std::vector<Entry>& entries = source_->container->entries();
  const auto before = [](const Entry& a, const Entry& b) {
    return speed_of(a) != speed_of(b) ? speed_of(a) < speed_of(b) : a.size < b.size;
  };
  for (;;) {
    size_t next = entries.size();
    for (size_t i = 0; i < entries.size(); ++i) {
      if (chosen_[i] && (next == entries.size() || before(entries[i], entries[next]))) next = i;
    }
    if (next == entries.size() || entries[next].size > bytes) return;
    bytes -= entries[next].size;
    chosen_[next] = false;
  }
}

bool Streamed::empty() const { return std::find(chosen_.begin(), chosen_.end(), true) == chosen_.end(); }

std::string Streamed::model() const {
  const std::vector<Entry>& entries = source_->container->entries();
  const Bytes model = bytes_in(source_->container->model());
  Names gone;
  Message graph;
  for (size_t i = 0; i < entries.size(); ++i) {
    if (!chosen_[i]) continue;
    gone.push_back(entries[i].name);
    add_node(graph, entries[i], i, after_[i]);
  }
  each_graph_field(model, [&](const Field& f) {
    if (f.number != 5 || !contains(gone, text_of(f.bytes, 8))) graph.add(f);
  });
  return std::move(
      without_graph(model).add(7, graph).add(8, Message().add(1, kStreamedDomain).add(2, 1)).text());
}

void Streamed::add_to(const Runtime& runtime, OrtSessionOptions* options) {
  using ort::CustomOp;
  const ort::Api& api = runtime.api;
  OrtCustomOpDomain* domain = nullptr;
  runtime.check(api.CreateCustomOpDomain()(kStreamedDomain, &domain));
  domain_ = {domain, api.ReleaseCustomOpDomain()};
  for (size_t kind = 0; kind < std::size(ops_); ++kind) {
    Op& op = ops_[kind];
    op.owner = this;
    op.dtype = kTypes[kind];
    set_defaults(op);
    op.name = [](const CustomOp* self) { return operator_of(static_cast<const Op*>(self)->dtype); };
    op.input_type = [](const CustomOp*, size_t) -> int { return ort::kUndefined; };
    op.output_type = [](const CustomOp* self, size_t) -> int { return static_cast<const Op*>(self)->dtype; };
    op.create_kernel_v2 = [](const CustomOp* self, const OrtApi* table, const OrtKernelInfo* info,
                             void** kernel) -> OrtStatus* {
      const auto& made = *static_cast<const Op*>(self);
      const ort::Api functions(table);
      return guarded(functions, [&] {
        int64_t entry = -1;
        check(functions, functions.KernelInfoGetAttribute_int64()(info, kEntry, &entry));
        const std::shared_ptr<const Source>& source = made.owner->source_;
        if (source == nullptr) fail("a session of other options cannot decode these weights");
        const std::vector<Entry>& entries = source->container->entries();
        const auto index = static_cast<size_t>(entry);
        if (entry < 0 || index >= entries.size() || entries[index].hidden ||
            entries[index].dtype != made.dtype) {
          fail("a node decodes entry %" PRId64 ", which is no such weight", entry);
        }
        *kernel = new Kernel{functions, source, index};
      });
    };
    op.compute_v2 = [](void* kernel, OrtKernelContext* context) -> OrtStatus* {
      const auto& decoding = *static_cast<const Kernel*>(kernel);
      return guarded(decoding.api, [&] { decoding.compute(context); });
    };
    op.destroy_kernel = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
    runtime.check(api.CustomOpDomain_Add()(domain, &op));
  }
  runtime.check(api.AddCustomOpDomain()(options, domain));
}

}  // namespace onnxopt
