// The two ways in: the custom op that a registered library gives ONNX Runtime, and onnxopt_create_session.
#include <algorithm>
#include <cinttypes>
#include <filesystem>
#include <fstream>
#include <memory>
#include <vector>

#include "container.h"
#include "inner_session.h"
#include "onnx_file.h"
#include "onnxopt.h"
#include "other_libraries.h"

namespace onnxopt {
namespace {

constexpr const char* kDomain = "onnxopt";
constexpr const char* kOpName = "CompressedModel";

// --- options ---

std::string config_entry(const Runtime& runtime, const OrtSessionOptions* options, const char* key) {
  int there = 0;
  runtime.check(runtime.api.HasSessionConfigEntry()(options, key, &there));
  if (there == 0) return "";
  size_t size = 0;
  runtime.check(runtime.api.GetSessionConfigEntry()(options, key, nullptr, &size));
  std::string value(size, '\0');
  runtime.check(runtime.api.GetSessionConfigEntry()(options, key, value.data(), &size));
  value.resize(size - 1);  // the terminating zero
  return value;
}

bool flag(const Runtime& runtime, const OrtSessionOptions* options, const char* key) {
  const std::string value = config_entry(runtime, options, key);
  if (value.empty() || value == "0") return false;
  if (value == "1") return true;
  fail("%s is '%s', expected 0 or 1", key, value.c_str());
}

// -1 where there is no such entry.
int thread_count(const Runtime& runtime, const OrtSessionOptions* options, const char* key) {
  const std::string value = config_entry(runtime, options, key);
  if (value.empty()) return -1;
  if (value.size() > 4 || value.find_first_not_of("0123456789") != std::string::npos) {
    fail("%s is '%s', expected a number of threads, 0 for all cores", key, value.c_str());
  }
  return std::stoi(value);
}

int optimization_level(const Runtime& runtime, const OrtSessionOptions* options, const char* key) {
  static constexpr struct {
    const char* name;
    int level;
  } kLevels[] = {{"", -1}, {"disabled", 0}, {"basic", 1}, {"extended", 2}, {"all", 99}};
  const std::string value = config_entry(runtime, options, key);
  for (const auto& known : kLevels) {
    if (value == known.name) return known.level;
  }
  fail("%s is '%s', expected disabled, basic, extended or all", key, value.c_str());
}

constexpr const char* kSpinning = "session.intra_op.allow_spinning";

// How inner sessions are made; -1 means as the runtime does it.
struct Settings {
  int intra_op_threads = -1;
  int inter_op_threads = -1;
  int level = -1;
  std::string spinning;  // of intra-op threads, as for the outer session; "" means as the runtime does it
  bool keep_container = false;  // else its pages are given back once it is decoded

  Settings() = default;
  Settings(const Runtime& runtime, const OrtSessionOptions* options)
      : intra_op_threads(thread_count(runtime, options, "onnxopt.intra_op_num_threads")),
        inter_op_threads(thread_count(runtime, options, "onnxopt.inter_op_num_threads")),
        level(optimization_level(runtime, options, "onnxopt.graph_optimization_level")),
        spinning(config_entry(runtime, options, kSpinning)),
        // In ONNX Runtime's own format tensors may lie in the caller's memory.
        keep_container(flag(runtime, options, "onnxopt.keep_container") ||
                       flag(runtime, options, "session.use_ort_model_bytes_for_initializers")) {}

  unsigned decoding_threads() const { return static_cast<unsigned>(std::max(intra_op_threads, 0)); }

  void apply(const Runtime& runtime, OrtSessionOptions* options) const {
    const ort::Api& api = runtime.api;
    if (intra_op_threads >= 0) runtime.check(api.SetIntraOpNumThreads()(options, intra_op_threads));
    if (inter_op_threads >= 0) runtime.check(api.SetInterOpNumThreads()(options, inter_op_threads));
    if (level >= 0) runtime.check(api.SetSessionGraphOptimizationLevel()(options, level));
  }
};

Owned<OrtSessionOptions> new_options(const Runtime& runtime, const OrtSessionOptions* like) {
  OrtSessionOptions* options = nullptr;
  runtime.check(like == nullptr ? runtime.api.CreateSessionOptions()(&options)
                                : runtime.api.CloneSessionOptions()(like, &options));
  return {options, runtime.api.ReleaseSessionOptions()};
}

// --- the custom op ---

struct CompressedModelOp : ort::CustomOp {
  CompressedModelOp(const Runtime& with, const OrtSessionOptions* options);

  Runtime runtime;
  Settings settings;
  Owned<OrtCustomOpDomain> domain;
};

std::unique_ptr<InnerSession> create_kernel(const CompressedModelOp& op, const OrtKernelInfo* info) {
  const Runtime& runtime = op.runtime;
  int is_constant = 0;
  const OrtValue* tensor = nullptr;  // belongs to the runtime
  runtime.check(runtime.api.KernelInfoGetConstantInput_tensor()(info, 0, &is_constant, &tensor));
  if (is_constant == 0 || tensor == nullptr) fail("the first input of CompressedModel is no initializer");
  OrtTensorTypeAndShapeInfo* shape = nullptr;
  runtime.check(runtime.api.GetTensorTypeAndShape()(tensor, &shape));
  const Owned<OrtTensorTypeAndShapeInfo> owned(shape, runtime.api.ReleaseTensorTypeAndShapeInfo());
  size_t size = 0;
  runtime.check(runtime.api.GetTensorShapeElementCount()(shape, &size));
  void* data = nullptr;
  runtime.check(runtime.api.GetTensorMutableData()(const_cast<OrtValue*>(tensor), &data));

  Owned<OrtEnv> env = runtime.environment();
  const Owned<OrtSessionOptions> options = new_options(runtime, nullptr);
  op.settings.apply(runtime, options.get());
  if (!op.settings.spinning.empty()) {
    runtime.check(
        runtime.api.AddSessionConfigEntry()(options.get(), kSpinning, op.settings.spinning.c_str()));
  }
  const Bytes payload{static_cast<const uint8_t*>(data), size};
  InnerModel model(Container(payload), op.settings.decoding_threads());
  register_other_libraries(runtime, model.bytes(), options.get());
  InnerSessionParts parts = create_session(runtime, env.get(), options.get(), std::move(model));
  // The runtime keeps the container for as long as the outer session lives, and only this kernel ever reads
  // it. At the first run, when the runtime has also written its optimized model where it was asked to, its
  // pages can go.
  const Bytes done_with = runtime.tested && !op.settings.keep_container ? payload : Bytes{};
  return std::make_unique<InnerSession>(runtime, std::move(env), std::move(parts), done_with);
}

CompressedModelOp::CompressedModelOp(const Runtime& with, const OrtSessionOptions* options)
    : CustomOp{}, runtime(with), settings(with, options), domain(nullptr, with.api.ReleaseCustomOpDomain()) {
  using ort::CustomOp;
  version = ort::kApiVersion;
  name = [](const CustomOp*) { return kOpName; };
  execution_provider = [](const CustomOp*) -> const char* { return nullptr; };
  input_count = [](const CustomOp*) -> size_t { return 2; };
  input_type = [](const CustomOp*, size_t index) -> int {
    return index == 0 ? ort::kUint8 : ort::kUndefined;
  };
  input_characteristic = [](const CustomOp*, size_t index) -> int {
    return index == 0 ? ort::kRequired : ort::kVariadic;
  };
  input_memory_type = [](const CustomOp*, size_t) -> int { return ort::kDefaultMemory; };
  output_count = [](const CustomOp*) -> size_t { return 1; };
  output_type = [](const CustomOp*, size_t) -> int { return ort::kUndefined; };
  output_characteristic = [](const CustomOp*, size_t) -> int { return ort::kVariadic; };
  variadic_input_min_arity = [](const CustomOp*) -> int { return 0; };
  variadic_input_homogeneity = [](const CustomOp*) -> int { return 0; };
  variadic_output_min_arity = [](const CustomOp*) -> int { return 1; };
  variadic_output_homogeneity = [](const CustomOp*) -> int { return 0; };
  create_kernel_v2 = [](const CustomOp* op, const OrtApi*, const OrtKernelInfo* info,
                        void** kernel) -> OrtStatus* {
    const auto& self = *static_cast<const CompressedModelOp*>(op);
    return guarded(self.runtime.api, [&] { *kernel = onnxopt::create_kernel(self, info).release(); });
  };
  compute_v2 = [](void* kernel, OrtKernelContext* context) -> OrtStatus* {
    auto& session = *static_cast<InnerSession*>(kernel);
    return guarded(session.api(), [&] { session.run(context); });
  };
  destroy_kernel = [](void* kernel) { delete static_cast<InnerSession*>(kernel); };

  OrtCustomOpDomain* created = nullptr;
  runtime.check(runtime.api.CreateCustomOpDomain()(kDomain, &created));
  domain.reset(created);
  runtime.check(runtime.api.CustomOpDomain_Add()(created, this));
}

// Registering twice does no harm: the runtime would refuse the second domain of one name.
void register_op(const Runtime& runtime, OrtSessionOptions* options) {
  static constexpr const char* kRegistered = "onnxopt.registered";
  if (flag(runtime, options, kRegistered)) return;
  const std::string prepared = config_entry(runtime, options, "onnxopt.prepared");
  if (!prepared.empty()) return attach_prepared(runtime, prepared, options);
  const auto* op = keep_forever(std::make_unique<CompressedModelOp>(runtime, options));
  runtime.check(runtime.api.AddCustomOpDomain()(options, op->domain.get()));
  runtime.check(runtime.api.AddSessionConfigEntry()(options, kRegistered, "1"));
}

// --- onnxopt_create_session ---

std::vector<uint8_t> read_file(const std::filesystem::path& path, uint64_t offset = 0, uint64_t length = 0) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) fail("%s: cannot be opened", path.u8string().c_str());
  const auto size = static_cast<uint64_t>(file.tellg());
  if (offset > size || length > size - offset) {
    fail("%s: %" PRIu64 " bytes, at least %" PRIu64 " + %" PRIu64 " expected", path.u8string().c_str(), size,
         offset, length);
  }
  std::vector<uint8_t> data(static_cast<size_t>(length == 0 ? size - offset : length));
  file.seekg(static_cast<std::streamoff>(offset));
  if (!file.read(reinterpret_cast<char*>(data.data()), static_cast<std::streamsize>(data.size()))) {
    fail("%s: cannot be read", path.u8string().c_str());
  }
  return data;
}

// The external data of a model must lie in its folder, as ONNX demands.
std::filesystem::path beside(const char* model, const std::string& location) {
  const std::filesystem::path relative = std::filesystem::u8path(location);
  const bool climbs = std::find(relative.begin(), relative.end(), "..") != relative.end();
  if (relative.empty() || !relative.is_relative() || climbs) {
    fail("external data '%s' is outside the model's folder", location.c_str());
  }
  return std::filesystem::u8path(model).parent_path() / relative;
}

InnerModel decode(const char* path, Bytes file, const Payload& payload, unsigned threads) {
  if (payload.bytes.data != nullptr) return {Container(payload.bytes), threads};
  if (path == nullptr) find_container(file);  // throws what is to be said
  const std::vector<uint8_t> external =
      read_file(beside(path, payload.location), payload.offset, payload.length);
  return {Container({external.data(), external.size()}), threads};
}

OrtSession* create_session_of(const OrtApiBase* base, const char* path, Bytes file,
                              const OrtSessionOptions* like) {
  const Runtime runtime(base);
  const ort::Api& api = runtime.api;
  std::vector<uint8_t> content;
  if (file.data == nullptr) {
    if (path == nullptr) fail("neither a path nor data was given");
    content = read_file(std::filesystem::u8path(path));
    file = {content.data(), content.size()};
  } else {
    path = nullptr;
  }
  const Payload payload = find_payload(file);
  const Owned<OrtSessionOptions> options = new_options(runtime, like);
  // The session needs the environment for as long as the caller keeps it: this reference is never given back.
  OrtEnv* env = runtime.environment().release();
  OrtSession* session = nullptr;
  if (payload.alone) {
    const Settings settings(runtime, options.get());
    settings.apply(runtime, options.get());
    InnerModel model = decode(path, file, payload, settings.decoding_threads());
    std::vector<uint8_t>().swap(content);
    // A clone has the libraries that were registered with the original; the runtime refuses any twice.
    if (like == nullptr) register_other_libraries(runtime, model.bytes(), options.get());
    InnerSessionParts parts = create_session(runtime, env, options.get(), std::move(model));
    keep_forever(std::move(parts.release));
    return parts.session.release();
  }
  register_op(runtime, options.get());
  if (path != nullptr) {
    const auto native_path = std::filesystem::u8path(path);
    runtime.check(api.CreateSession()(env, native_path.c_str(), options.get(), &session));
  } else {
    runtime.check(api.CreateSessionFromArray()(env, file.data, file.size, options.get(), &session));
  }
  return session;
}

// Functions that every version of the runtime has: enough to report that it is too old.
ort::Api oldest_api(const OrtApiBase* base) {
  return ort::Api(reinterpret_cast<const ort::ApiBase*>(base)->get_api(1));
}

}  // namespace
}  // namespace onnxopt

OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  return onnxopt::guarded(onnxopt::oldest_api(base),
                          [&] { onnxopt::register_op(onnxopt::Runtime(base), options); });
}

OrtStatus* onnxopt_create_session(const OrtApiBase* base, const char* path, const void* data, size_t size,
                                  const OrtSessionOptions* options, OrtSession** session) {
  return onnxopt::guarded(onnxopt::oldest_api(base), [&] {
    *session = onnxopt::create_session_of(base, path, {static_cast<const uint8_t*>(data), size}, options);
  });
}
