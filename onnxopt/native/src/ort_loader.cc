// The two ways in: the custom op that a registered library gives ONNX Runtime, and onnxopt_create_session.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <vector>

#include "container.h"
#include "inner_options.h"
#include "inner_session.h"
#include "onnx_file.h"
#include "onnxopt.h"
#include "other_libraries.h"

namespace onnxopt {
namespace {

constexpr const char* kRegisteredDomain = "onnxopt";
constexpr const char* kOpName = "CompressedModel";

// --- the custom op ---

struct CompressedModelOp : ort::CustomOp {
  CompressedModelOp(const Runtime& with, const OrtSessionOptions* outer);

  Runtime runtime;
  Settings settings;
  std::vector<std::string> refused;  // execution providers, in words
  Owned<OrtSessionOptions> options;
  Owned<OrtCustomOpDomain> domain;
};

void warn(const Runtime& runtime, const OrtKernelInfo* info, const std::string& message) {
  static constexpr ort::PathChar kFile[] = {'o', 'r', 't', '_', 'l', 'o', 'a', 'd', 'e', 'r', 0};
  const OrtLogger* logger = nullptr;  // the outer session's
  runtime.check(runtime.api.KernelInfo_GetLogger()(info, &logger));
  runtime.check(runtime.api.Logger_LogMessage()(logger, ort::kWarning, ("onnxopt: " + message).c_str(), kFile,
                                                __LINE__, kOpName));
}

// The container, where the runtime has it.
Bytes container_of(const Runtime& runtime, const OrtKernelInfo* info) {
  int is_constant = 0;
  const OrtValue* tensor = nullptr;  // belongs to the runtime
  runtime.check(runtime.api.KernelInfoGetConstantInput_tensor()(info, 0, &is_constant, &tensor));
  if (is_constant == 0 || tensor == nullptr) fail("the first input of CompressedModel is no initializer");
  return bytes_of(runtime, tensor);
}

// The weights that the settings leave compressed; null where they are all loaded.
std::unique_ptr<Streamed> streamed_by(const Settings& settings, std::shared_ptr<const Container> container) {
  if (!settings.residence.streamed) return nullptr;
  auto streamed = std::make_unique<Streamed>(std::move(container), settings.residence.decoded,
                                             settings.decoding_threads());
  return streamed->empty() ? nullptr : std::move(streamed);
}

// How this runtime takes the weights of a container best.
Handover best_handover(const Runtime& runtime, const Settings& settings, const Container& container) {
  if (Lender::works_with(runtime, bytes_in(container.model()))) return Handover::kLent;
  return settings.may_use_cpu ? Handover::kCopied : Handover::kCopiedUnfreed;
}

// Creates the inner session with the outer one's options. Where that fails, it runs on the CPU: execution
// providers may refuse a model, or miss what they need on this machine.
InnerSessionParts create_inner(const CompressedModelOp& op, const OrtKernelInfo* info, const OrtEnv* env,
                               const std::shared_ptr<const Container>& container) {
  const Runtime& runtime = op.runtime;
  const bool foreign = has_foreign_operators(bytes_in(container->model()));
  const auto create = [&](const OrtSessionOptions* like, bool other_libraries, bool using_up = false) {
    const Owned<OrtSessionOptions> options = new_options(runtime, like);
    op.settings.apply(runtime, options.get());
    std::unique_ptr<Streamed> streamed = streamed_by(op.settings, container);
    InnerModel model(container, best_handover(runtime, op.settings, *container), streamed.get());
    if (other_libraries) register_other_libraries(runtime, model.bytes(), options.get());
    return create_session(runtime, env, options.get(), std::move(model), op.settings.decoding_threads(),
                          using_up, std::move(streamed));
  };
  if (op.settings.use_up_container && !foreign) return create(op.options.get(), false, true);
  try {
    return create(op.options.get(), false);
  } catch (const Error& error) {
    // The copy of the options has the libraries that were registered before this one, and takes none twice.
    // Those that were registered later have to be looked for.
    if (foreign) {
      try {
        return create(op.options.get(), true);
      } catch (const Error&) {  // NOLINT(bugprone-empty-catch)
      }
    }
    if (!op.settings.may_use_cpu) throw;
    InnerSessionParts parts = create(nullptr, true);
    warn(runtime, info,
         "the model runs on the CPU, without the session's options: with them, ONNX Runtime said: " +
             std::string(error.what()));
    return parts;
  }
}

std::unique_ptr<InnerSession> create_kernel(const CompressedModelOp& op, const OrtKernelInfo* info) {
  const Runtime& runtime = op.runtime;
  for (const std::string& message : op.refused) warn(runtime, info, message);
  const Bytes payload = container_of(runtime, info);
  Owned<OrtEnv> env = runtime.environment();
  InnerSessionParts parts = create_inner(op, info, env.get(), std::make_shared<Container>(payload));
  // The runtime keeps the container for as long as the outer session lives, and only this kernel ever reads
  // it. Unless its pages are gone by now, at the first run, when the runtime has also written its optimized
  // model where it was asked to, its pages can go, unless weights are decoded from it in every run.
  const Bytes done_with = op.settings.keep_container || parts.streamed != nullptr ? Bytes{} : payload;
  return std::make_unique<InnerSession>(runtime, std::move(env), std::move(parts), done_with);
}

CompressedModelOp::CompressedModelOp(const Runtime& with, const OrtSessionOptions* outer)
    : CustomOp{},
      runtime(with),
      settings(with, outer),
      options(inner_options(with, outer, refused)),
      domain(nullptr, with.api.ReleaseCustomOpDomain()) {
  using ort::CustomOp;
  set_defaults(*this);
  name = [](const CustomOp*) { return kOpName; };
  input_count = [](const CustomOp*) -> size_t { return 2; };
  input_type = [](const CustomOp*, size_t index) -> int {
    return index == 0 ? ort::kUint8 : ort::kUndefined;
  };
  input_characteristic = [](const CustomOp*, size_t index) -> int {
    return index == 0 ? ort::kRequired : ort::kVariadic;
  };
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
  runtime.check(runtime.api.CreateCustomOpDomain()(kRegisteredDomain, &created));
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

// A container and the memory that it reads.
struct OwnContainer {
  std::vector<uint8_t> bytes;
  Container container;

  OwnContainer(std::vector<uint8_t> from, Bytes part) : bytes(std::move(from)), container(part) {}
};

// The container lies in `part` of the bytes.
std::shared_ptr<const Container> own(std::vector<uint8_t> bytes, Bytes part) {
  const auto made = std::make_shared<OwnContainer>(std::move(bytes), part);
  return {made, &made->container};
}

std::shared_ptr<const Container> own(std::vector<uint8_t> bytes) {
  const Bytes whole{bytes.data(), bytes.size()};
  return own(std::move(bytes), whole);
}

// `content` is the file where it was read from its path, or empty where it is the caller's.
std::shared_ptr<const Container> open(const char* path, std::vector<uint8_t> content, Bytes file,
                                      const Payload& payload, const Settings& settings) {
  if (payload.bytes.data == nullptr) {
    if (path == nullptr) find_container(file);  // throws what is to be said
    return own(read_file(beside(path, payload.location), payload.offset, payload.length));
  }
  const Bytes bytes = payload.bytes;
  if (!content.empty()) return own(std::move(content), bytes);
  if (settings.residence.streamed) return own({bytes.data, bytes.data + bytes.size});
  return std::make_shared<Container>(bytes);
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
    std::shared_ptr<const Container> container = open(path, std::move(content), file, payload, settings);
    std::unique_ptr<Streamed> streamed = streamed_by(settings, container);
    const bool using_up = path != nullptr && streamed == nullptr;
    const Handover handover = best_handover(runtime, settings, *container);
    InnerModel model(std::move(container), handover, streamed.get());
    // A clone has the libraries that were registered with the original; the runtime refuses any twice.
    if (like == nullptr) register_other_libraries(runtime, model.bytes(), options.get());
    InnerSessionParts parts = create_session(runtime, env, options.get(), std::move(model),
                                             settings.decoding_threads(), using_up, std::move(streamed));
    keep_forever(std::move(parts.release));
    if (parts.lender != nullptr) keep_forever(std::move(parts.lender));
    if (parts.streamed != nullptr) keep_forever(std::move(parts.streamed));
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
