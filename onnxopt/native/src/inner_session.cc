#include "inner_session.h"

#include <cstring>

#include "memory.h"

namespace onnxopt {
namespace {

// Bits an element of each ONNXTensorElementDataType; 0 where memory cannot be copied as it is.
unsigned bits_of(int dtype) {
  static constexpr uint8_t kBits[] = {0,  32, 8,  8,   16, 16, 32, 64, 0, 8, 16, 64,
                                      32, 64, 64, 128, 16, 8,  8,  8,  8, 4, 4};
  return dtype >= 0 && dtype < static_cast<int>(sizeof(kBits)) ? kBits[dtype] : 0;
}

size_t count_of(const std::vector<int64_t>& dims) {
  size_t count = 1;
  for (const int64_t dim : dims) count *= static_cast<size_t>(dim);
  return count;
}

}  // namespace

InnerSession::InnerSession(const Runtime& runtime, Owned<OrtEnv> env, InnerSessionParts parts,
                           Bytes done_with)
    : runtime_(runtime), env_(std::move(env)), parts_(std::move(parts)), done_with_(done_with) {
  size_t inputs = 0;
  size_t outputs = 0;
  runtime_.check(runtime_.api.SessionGetInputCount()(parts_.session.get(), &inputs));
  runtime_.check(runtime_.api.SessionGetOutputCount()(parts_.session.get(), &outputs));
  for (size_t i = 0; i < inputs; ++i) inputs_.push_back(port(true, i));
  for (size_t i = 0; i < outputs; ++i) outputs_.push_back(port(false, i));
  for (const Port& p : inputs_) input_names_.push_back(p.name.c_str());
  for (const Port& p : outputs_) output_names_.push_back(p.name.c_str());
}

InnerSession::Port InnerSession::port(bool input, size_t index) const {
  const ort::Api& api = runtime_.api;
  const OrtSession* session = parts_.session.get();
  Port out;
  OrtAllocator* allocator = nullptr;  // the runtime's own: not to be released
  runtime_.check(api.GetAllocatorWithDefaultOptions()(&allocator));
  char* name = nullptr;
  runtime_.check(
      (input ? api.SessionGetInputName() : api.SessionGetOutputName())(session, index, allocator, &name));
  out.name = name;
  runtime_.check(api.AllocatorFree()(allocator, name));

  OrtTypeInfo* type = nullptr;
  runtime_.check(
      (input ? api.SessionGetInputTypeInfo() : api.SessionGetOutputTypeInfo())(session, index, &type));
  const Owned<OrtTypeInfo> owned(type, api.ReleaseTypeInfo());
  const OrtTensorTypeAndShapeInfo* tensor = nullptr;  // belongs to the type
  runtime_.check(api.CastTypeInfoToTensorInfo()(type, &tensor));
  if (tensor == nullptr) return out;
  runtime_.check(api.GetTensorElementType()(tensor, &out.dtype));
  size_t rank = 0;
  runtime_.check(api.GetDimensionsCount()(tensor, &rank));
  out.dims.resize(rank);
  std::vector<const char*> symbols(rank);
  runtime_.check(api.GetDimensions()(tensor, out.dims.data(), rank));
  runtime_.check(api.GetSymbolicDimensions()(tensor, symbols.data(), rank));
  for (const char* symbol : symbols) out.symbols.emplace_back(symbol == nullptr ? "" : symbol);
  return out;
}

InnerSession::Dims InnerSession::dims_of(const OrtValue* value) const {
  const ort::Api& api = runtime_.api;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  runtime_.check(api.GetTensorTypeAndShape()(value, &info));
  const Owned<OrtTensorTypeAndShapeInfo> owned(info, api.ReleaseTensorTypeAndShapeInfo());
  size_t rank = 0;
  runtime_.check(api.GetDimensionsCount()(info, &rank));
  Dims dims(rank);
  runtime_.check(api.GetDimensions()(info, dims.data(), rank));
  return dims;
}

int InnerSession::dtype_of(const OrtValue* value) const {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  runtime_.check(runtime_.api.GetTensorTypeAndShape()(value, &info));
  const Owned<OrtTensorTypeAndShapeInfo> owned(info, runtime_.api.ReleaseTensorTypeAndShapeInfo());
  int dtype = 0;
  runtime_.check(runtime_.api.GetTensorElementType()(info, &dtype));
  return dtype;
}

// The output's shape, from what the model declares and the shapes of the inputs. Rank 0 may also mean
// "unknown".
bool InnerSession::predict(const std::vector<Dims>& inputs, const Port& output, Dims& dims) const {
  if (!parts_.sure_shapes || bits_of(output.dtype) == 0 || output.dims.empty()) return false;
  dims = output.dims;
  for (size_t d = 0; d < dims.size(); ++d) {
    for (size_t i = 0; dims[d] < 0 && !output.symbols[d].empty() && i < inputs.size(); ++i) {
      const std::vector<std::string>& symbols = inputs_[i].symbols;
      for (size_t s = 0; s < symbols.size() && s < inputs[i].size(); ++s) {
        if (symbols[s] == output.symbols[d]) dims[d] = inputs[i][s];
      }
    }
    if (dims[d] < 0) return false;
  }
  return true;
}

void InnerSession::run(OrtKernelContext* context) {
  const ort::Api& api = runtime_.api;
  std::call_once(dropped_, [&] {
    if (done_with_.data == nullptr) return;
    const OrtValue* container = nullptr;
    runtime_.check(api.KernelContext_GetInput()(context, 0, &container));
    // Only what is still the container is dropped: the runtime may have moved it, and use the memory again.
    if (bytes_of(runtime_, container).data == done_with_.data) drop_pages(done_with_.data, done_with_.size);
  });
  size_t given = 0;
  runtime_.check(api.KernelContext_GetInputCount()(context, &given));
  if (given != inputs_.size() + 1) {
    fail("the compressed node has %zu inputs, its model needs %zu and the container", given, inputs_.size());
  }
  size_t wanted = 0;
  runtime_.check(api.KernelContext_GetOutputCount()(context, &wanted));
  if (wanted != outputs_.size()) {
    fail("the compressed node has %zu outputs, its model %zu", wanted, outputs_.size());
  }
  std::vector<const OrtValue*> inputs(inputs_.size());
  std::vector<Dims> shapes;
  for (size_t i = 0; i < inputs.size(); ++i) {
    runtime_.check(api.KernelContext_GetInput()(context, i + 1, &inputs[i]));
    if (inputs[i] == nullptr) fail("input '%s' is missing", inputs_[i].name.c_str());
    shapes.push_back(dims_of(inputs[i]));
  }

  // An output is written straight into the outer tensor where its shape is sure: declared, and seen to hold
  // in an earlier run with inputs of these shapes (declarations can be wrong; the runtime only warns).
  bool proven = false;
  {
    const std::scoped_lock lock(mutex_);
    proven = proven_ == shapes && !outputs_.empty();
  }
  std::vector<OrtValue*> outputs(outputs_.size());
  std::vector<Dims> predicted(outputs_.size());
  std::vector<bool> direct(outputs_.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    direct[i] = predict(shapes, outputs_[i], predicted[i]);
    if (direct[i] && proven) {
      runtime_.check(
          api.KernelContext_GetOutput()(context, i, predicted[i].data(), predicted[i].size(), &outputs[i]));
    }
  }
  const std::vector<OrtValue*> outer = outputs;
  runtime_.check(api.Run()(parts_.session.get(), nullptr, input_names_.data(), inputs.data(), inputs.size(),
                           output_names_.data(), outputs.size(), outputs.data()));
  std::vector<Owned<OrtValue>> made;
  made.reserve(outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    made.emplace_back(outer[i] == nullptr ? outputs[i] : nullptr, api.ReleaseValue());
  }
  bool holds = true;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (made[i] == nullptr) continue;
    int is_tensor = 0;
    runtime_.check(api.IsTensor()(made[i].get(), &is_tensor));
    if (is_tensor == 0) fail("output '%s' is no tensor", outputs_[i].name.c_str());
    const Dims dims = dims_of(made[i].get());
    OrtValue* to = nullptr;
    runtime_.check(api.KernelContext_GetOutput()(context, i, dims.data(), dims.size(), &to));
    if (to != nullptr) {
      // The outer model declares types of its own, and the runtime makes tensors of these.
      if (dtype_of(to) != outputs_[i].dtype) {
        fail("output '%s' is declared with another element type than its model gives",
             outputs_[i].name.c_str());
      }
      copy(made[i].get(), to, outputs_[i].dtype, dims);
    }
    holds = holds && (!direct[i] || dims == predicted[i]);
  }
  if (!proven && holds) {
    const std::scoped_lock lock(mutex_);
    proven_ = std::move(shapes);
  }
}

void InnerSession::copy(OrtValue* from, OrtValue* to, int dtype, const Dims& dims) const {
  const size_t count = count_of(dims);
  if (count == 0) return;
  if (dtype == ort::kString) return copy_strings(from, to, count);
  const unsigned bits = bits_of(dtype);
  if (bits == 0) fail("output of element type %d cannot be copied", dtype);
  void* source = nullptr;
  void* target = nullptr;
  runtime_.check(runtime_.api.GetTensorMutableData()(from, &source));
  runtime_.check(runtime_.api.GetTensorMutableData()(to, &target));
  std::memcpy(target, source, (count * bits + 7) / 8);
}

void InnerSession::copy_strings(const OrtValue* from, OrtValue* to, size_t count) const {
  size_t length = 0;
  runtime_.check(runtime_.api.GetStringTensorDataLength()(from, &length));
  std::vector<char> text(length);
  std::vector<size_t> offsets(count);
  runtime_.check(runtime_.api.GetStringTensorContent()(from, text.data(), length, offsets.data(), count));
  std::vector<std::string> strings;
  for (size_t i = 0; i < count; ++i) {
    const size_t end = i + 1 < count ? offsets[i + 1] : length;
    strings.emplace_back(text.data() + offsets[i], end - offsets[i]);
  }
  std::vector<const char*> pointers;
  pointers.reserve(count);
  for (const std::string& s : strings) pointers.push_back(s.c_str());
  runtime_.check(runtime_.api.FillStringTensor()(to, pointers.data(), count));
}

}  // namespace onnxopt
