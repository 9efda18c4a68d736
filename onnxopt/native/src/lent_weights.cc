#include "lent_weights.h"

#include "inner_model.h"
#include "onnx_file.h"

namespace onnxopt {
namespace {

// Whether it has one that is no initializer, too.
bool has_inputs(Bytes model) {
  bool found = false;
  each_graph_field(model, [&](const Field& input) {
    if (found || input.number != 11) return;
    found = true;
    each_graph_field(model, [&](const Field& f) {
      found = found && (f.number != 5 || text_of(f.bytes, 8) != text_of(input.bytes, 1));
    });
  });
  return found;
}

// What it points to has another owner from now on.
template <typename Pointer>
void given(Pointer& pointer) {
  static_cast<void>(pointer.release());
}

}  // namespace

bool Lender::works_with(const Runtime& runtime, Bytes model) {
  if (!has_inputs(model)) return false;
  return runtime.is_new() && runtime.api.GetModelEditorApi()() != nullptr;  // small builds have none
}

Lender::Lender(const Runtime& runtime)
    : api_(runtime.api),
      editor_(api_.GetModelEditorApi()()),
      memory_(nullptr, runtime.api.ReleaseMemoryInfo()) {
  OrtMemoryInfo* memory = nullptr;
  check(api_, api_.CreateCpuMemoryInfo()(ort::kDeviceAllocator, ort::kDefaultMemory, &memory));
  memory_.reset(memory);
  deleter_.version = ort::kApiVersion;
  deleter_.memory = memory;
  deleter_.allocate = [](ort::Allocator*, size_t) -> void* { return nullptr; };
  deleter_.free = [](ort::Allocator*, void* data) { block::free(data); };
  deleter_.info = [](const ort::Allocator* self) { return static_cast<const Deleter*>(self)->memory; };
}

Owned<OrtSession> Lender::open(const OrtEnv* env, const OrtSessionOptions* options, Bytes model) const {
  OrtSession* session = nullptr;
  check(api_, editor_.CreateModelEditorSessionFromArray()(env, model.data, model.size, options, &session));
  return {session, api_.ReleaseSession()};
}

void Lender::lend(OrtSession* session, const OrtSessionOptions* options, InnerModel& model) {
  OrtGraph* made = nullptr;
  check(api_, editor_.CreateGraph()(&made));
  Owned<OrtGraph> graph(made, api_.ReleaseGraph());

  for (InnerModel::Weight& w : model.weights()) {
    if (!w.lent) continue;
    OrtValue* tensor = nullptr;
    check(api_, api_.CreateTensorWithDataAndDeleterAsOrtValue()(
                    &deleter_, w.memory.get(), w.size, w.dims.data(), w.dims.size(), w.dtype, &tensor));
    given(w.memory);
    Owned<OrtValue> value(tensor, api_.ReleaseValue());
    check(api_, editor_.AddInitializerToGraph()(graph.get(), w.name.c_str(), tensor, true));
    given(value);
  }

  OrtAllocator* allocator = nullptr;  // the runtime's own: not to be released
  check(api_, api_.GetAllocatorWithDefaultOptions()(&allocator));
  std::vector<Owned<OrtValueInfo>> inputs;
  size_t count = 0;
  check(api_, api_.SessionGetInputCount()(session, &count));
  for (size_t i = 0; i < count; ++i) {
    char* text = nullptr;
    check(api_, api_.SessionGetInputName()(session, i, allocator, &text));
    const std::string name = text;
    check(api_, api_.AllocatorFree()(allocator, text));
    if (model.lends(name)) continue;
    OrtTypeInfo* type = nullptr;
    check(api_, api_.SessionGetInputTypeInfo()(session, i, &type));
    const Owned<OrtTypeInfo> owned(type, api_.ReleaseTypeInfo());
    OrtValueInfo* input = nullptr;
    check(api_, editor_.CreateValueInfo()(name.c_str(), type, &input));
    inputs.emplace_back(input, api_.ReleaseValueInfo());
  }
  std::vector<OrtValueInfo*> pointers;
  pointers.reserve(inputs.size());
  for (const auto& input : inputs) pointers.push_back(input.get());
  check(api_, editor_.SetGraphInputs()(graph.get(), pointers.data(), pointers.size()));
  for (auto& input : inputs) given(input);

  OrtModel* additions = nullptr;
  check(api_, editor_.CreateModel()(nullptr, nullptr, 0, &additions));
  Owned<OrtModel> owned(additions, api_.ReleaseModel());
  check(api_, editor_.AddGraphToModel()(additions, graph.get()));
  given(graph);
  check(api_, editor_.ApplyModelToModelEditorSession()(session, additions));
  owned.reset();  // it would hold the weights
  check(api_, editor_.FinalizeModelEditorSession()(session, options, nullptr));
}

}  // namespace onnxopt
