#include "inner_model.h"

#include <algorithm>
#include <cstdlib>

#include "memory.h"

namespace onnxopt {
namespace {

constexpr size_t kAlignment = 64;  // a cache line, and what the widest vector loads like
constexpr const char* kReleaseDomain = "onnxopt.loader";
constexpr const char* kReleaseName = "Release";
constexpr int kNewestTested = 31;  // ONNX Runtime 1.31

// A length-delimited protobuf field, shorter than 128 bytes.
std::string field(unsigned number, const std::string& value) {
  return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(value.size())} + value;
}

}  // namespace

Runtime::Runtime(const OrtApiBase* base) : api(nullptr), tested(false) {
  const auto* entry = reinterpret_cast<const ort::ApiBase*>(base);
  const std::string version = entry->version();
  const OrtApi* table = entry->get_api(ort::kApiVersion);
  if (table == nullptr) {
    throw Error("ONNX Runtime " + version + " is too old for compressed models, 1." +
                std::to_string(ort::kApiVersion) +
                " or newer is needed; in Python, onnxopt.load(path) may do");
  }
  api = ort::Api(table);
  const size_t dot = version.find('.');
  const int minor = dot == std::string::npos ? INT32_MAX : std::atoi(version.c_str() + dot + 1);
  tested = version.rfind("1.", 0) == 0 && minor <= kNewestTested;
}

Owned<OrtEnv> Runtime::environment() const {
  OrtEnv* env = nullptr;
  OrtStatus* status = api.CreateEnv()(ort::kWarning, "onnxopt", &env);
  if (status != nullptr) {
    const Owned<OrtStatus> owned(status, api.ReleaseStatus());
    throw Error(
        "this build of ONNX Runtime keeps its environment to itself (Python wheels before 1.23 do): load the "
        "model with onnxopt.load(path) in Python, onnxopt_create_session in C, or update onnxruntime. ONNX "
        "Runtime said: " +
        std::string(api.GetErrorMessage()(status)));
  }
  return {env, api.ReleaseEnv()};
}

InnerModel::InnerModel(const Container& container, unsigned threads) : model_(container.model()) {
  const std::vector<Entry>& entries = container.entries();
  size_t total = 0;
  for (const Entry& e : entries) {
    if (e.hidden) continue;
    if (e.size > PTRDIFF_MAX - kAlignment - total)
      throw Error("the weights do not fit this machine's memory");
    weights_.push_back({e.name, e.dims, static_cast<int>(e.dtype), total, e.size});
    total += (e.size + kAlignment - 1) / kAlignment * kAlignment;
  }
  buffer_.reset(new uint8_t[std::max<size_t>(total, 1)]);
  std::vector<void*> out(entries.size());
  size_t next = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    if (!entries[i].hidden) out[i] = buffer_.get() + weights_[next++].offset;
  }
  container.decode(out, threads);
}

std::string ReleaseOp::node() {
  // Protobuf messages merge when they are concatenated: ModelProto's opset_import = 8 gets one more, and its
  // graph = 7 one more node = 1, with output = 2, op_type = 4 and domain = 7. It has an output because ONNX
  // Runtime drops nodes that have none.
  const std::string node = field(2, "onnxopt.released") + field(4, kReleaseName) + field(7, kReleaseDomain);
  const std::string opset = field(1, kReleaseDomain) + std::string{2 << 3, 1};
  return field(8, opset) + field(7, field(1, node));
}

ReleaseOp::ReleaseOp(const Runtime& runtime, InnerModel& model)
    : domain_(nullptr, runtime.api.ReleaseCustomOpDomain()) {
  using ort::CustomOp;
  op_.model = &model;
  op_.version = ort::kApiVersion;
  op_.name = [](const CustomOp*) { return kReleaseName; };
  op_.execution_provider = [](const CustomOp*) -> const char* { return nullptr; };
  op_.input_type = [](const CustomOp*, size_t) -> int { return ort::kUint8; };
  op_.input_count = [](const CustomOp*) -> size_t { return 0; };
  op_.output_type = op_.input_type;
  op_.output_count = [](const CustomOp*) -> size_t { return 1; };
  op_.input_characteristic = [](const CustomOp*, size_t) -> int { return ort::kRequired; };
  op_.output_characteristic = [](const CustomOp*, size_t) -> int { return ort::kOptional; };
  op_.input_memory_type = [](const CustomOp*, size_t) -> int { return ort::kDefaultMemory; };
  op_.create_kernel_v2 = [](const CustomOp* op, const OrtApi*, const OrtKernelInfo*,
                            void** kernel) -> OrtStatus* {
    if (InnerModel* model_of = static_cast<const Op*>(op)->model; model_of != nullptr) model_of->release();
    *kernel = const_cast<CustomOp*>(op);  // anything but null
    return nullptr;
  };
  op_.destroy_kernel = [](void*) {};
  op_.compute_v2 = [](void*, OrtKernelContext*) -> OrtStatus* { return nullptr; };
  OrtCustomOpDomain* domain = nullptr;
  runtime.check(runtime.api.CreateCustomOpDomain()(kReleaseDomain, &domain));
  domain_.reset(domain);
  runtime.check(runtime.api.CustomOpDomain_Add()(domain, &op_));
}

InnerSessionParts create_session(const Runtime& runtime, const OrtEnv* env, OrtSessionOptions* options,
                                 InnerModel model) {
  const ort::Api& api = runtime.api;
  InnerSessionParts parts{nullptr, {nullptr, api.ReleaseSession()}};

  OrtMemoryInfo* info = nullptr;
  runtime.check(api.CreateCpuMemoryInfo()(ort::kDeviceAllocator, ort::kDefaultMemory, &info));
  const Owned<OrtMemoryInfo> cpu(info, api.ReleaseMemoryInfo());
  std::vector<Owned<OrtValue>> values;
  std::vector<const OrtValue*> pointers;
  std::vector<const char*> names;
  for (const InnerModel::Weight& w : model.weights()) {
    OrtValue* value = nullptr;
    runtime.check(api.CreateTensorWithDataAsOrtValue()(info, model.data() + w.offset, w.size, w.dims.data(),
                                                       w.dims.size(), w.dtype, &value));
    values.emplace_back(value, api.ReleaseValue());
    pointers.push_back(value);
    names.push_back(w.name.c_str());
  }

  std::string bytes = model.model();
  if (!names.empty()) {
    runtime.check(api.AddExternalInitializers()(options, names.data(), pointers.data(), names.size()));
    if (runtime.tested) {
      parts.release = std::make_unique<ReleaseOp>(runtime, model);
      runtime.check(api.AddCustomOpDomain()(options, parts.release->domain()));
      bytes += ReleaseOp::node();
    }
  }
  OrtSession* session = nullptr;
  runtime.check(api.CreateSessionFromArray()(env, bytes.data(), bytes.size(), options, &session));
  parts.session.reset(session);
  if (parts.release != nullptr) parts.release->forget();
  model.release();
  trim_heap();
  return parts;
}

}  // namespace onnxopt
