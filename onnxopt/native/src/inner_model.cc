#include "inner_model.h"

#include <algorithm>
#include <cstdlib>
#include <map>

#include "memory.h"
#include "onnx_file.h"

namespace onnxopt {
namespace {

constexpr size_t kBatch =
    size_t{64} << 20;  // bytes that are decoded before what they were made of is given back
constexpr const char* kReleaseDomain = "onnxopt.loader";
constexpr const char* kReleaseName = "Release";
constexpr size_t kProbeSize = 1024;  // more than the runtime would keep elsewhere than large tensors

// A name that the model does not have.
std::string free_name(const std::string& model, std::string name) {
  while (model.find(name) != std::string::npos && name.size() < 32) name += '+';
  return name;
}

// Appends what makes the model's graph end with the node.
void append_release_node(std::string& model, const std::string& probe) {
  // Protobuf messages merge when they are concatenated: ModelProto's opset_import = 8 gets one more, and its
  // graph = 7 one more initializer = 5, with dims = 1, data_type = 2, name = 8, external_data = 13 and
  // data_location = 14, and one more node = 1, with input = 1, output = 2, op_type = 4 and domain = 7. It has
  // an output because ONNX Runtime drops nodes that have none.
  Message node;
  node.add(1, probe).add(2, free_name(model, "onnxopt.released")).add(4, kReleaseName).add(7, kReleaseDomain);
  Message external;
  external.add(1, "location").add(2, "onnxopt");
  Message tensor;
  tensor.add(1, kProbeSize).add(2, ort::kUint8).add(8, probe).add(13, external).add(14, 1);
  model += Message()
               .add(8, Message().add(1, kReleaseDomain).add(2, 1))
               .add(7, Message().add(5, tensor).add(1, node));
}

struct Prepared {
  InnerModel model;
  std::unique_ptr<ReleaseOp> op;
};

struct PreparedModels {
  std::mutex mutex;
  std::map<uint64_t, std::unique_ptr<Prepared>> by_id;
  uint64_t last = 0;
};

PreparedModels& prepared_models() {
  static auto& models = *new PreparedModels;  // never destroyed: a thread may still use it at exit
  return models;
}

}  // namespace

Runtime::Runtime(const OrtApiBase* with) : base(with), api(nullptr) {
  const auto* entry = reinterpret_cast<const ort::ApiBase*>(with);
  const std::string version = entry->version();
  const OrtApi* table = entry->get_api(ort::kApiVersion);
  if (table == nullptr) {
    fail("ONNX Runtime %s is too old for compressed models, 1.%u or newer is needed", version.c_str(),
         ort::kApiVersion);
  }
  api = ort::Api(table);
}

Owned<OrtEnv> Runtime::environment() const {
  OrtEnv* env = nullptr;
  OrtStatus* status = api.CreateEnv()(ort::kWarning, "onnxopt", &env);
  if (status != nullptr) {
    const Owned<OrtStatus> owned(status, api.ReleaseStatus());
    fail(
        "this build of ONNX Runtime keeps its environment to itself (Python wheels before 1.23 do): load the "
        "model with onnxopt.load(path) in Python, onnxopt_create_session in C, or update onnxruntime. ONNX "
        "Runtime said: %s",
        api.GetErrorMessage()(status));
  }
  return {env, api.ReleaseEnv()};
}

Bytes bytes_of(const Runtime& runtime, const OrtValue* uint8_tensor) {
  OrtTensorTypeAndShapeInfo* shape = nullptr;
  runtime.check(runtime.api.GetTensorTypeAndShape()(uint8_tensor, &shape));
  const Owned<OrtTensorTypeAndShapeInfo> owned(shape, runtime.api.ReleaseTensorTypeAndShapeInfo());
  size_t size = 0;
  runtime.check(runtime.api.GetTensorShapeElementCount()(shape, &size));
  void* data = nullptr;
  runtime.check(runtime.api.GetTensorMutableData()(const_cast<OrtValue*>(uint8_tensor), &data));
  return {static_cast<const uint8_t*>(data), size};
}

InnerModel::InnerModel(std::shared_ptr<const Container> container, Handover handover,
                       const Streamed* streamed)
    : container_(std::move(container)),
      handover_(handover),
      model_(streamed == nullptr ? container_->model() : streamed->model()) {
  const std::vector<Entry>& entries = container_->entries();
  uint64_t total = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    const Entry& e = entries[i];
    if (e.hidden || (streamed != nullptr && streamed->has(i))) continue;
    if (e.size > PTRDIFF_MAX - block::kAlignment - total)
      fail("the weights do not fit this machine's memory");
    total += e.size + block::kAlignment;
    const bool lent = handover == Handover::kLent && e.size >= Lender::kSmallest;
    weights_.push_back({e.name, e.dims, static_cast<int>(e.dtype), e.size, i, lent, nullptr});
  }
  if (handover == Handover::kLent) model_ = with_inputs();
  if (handover != Handover::kCopied) return;
  weights_.push_back(
      {free_name(model_, "onnxopt.probe"), {kProbeSize}, ort::kUint8, kProbeSize, entries.size(), false, {}});
  append_release_node(model_, weights_.back().name);
}

// GraphProto.initializer = 5, input = 11, output = 12; TensorProto.name = 8; ValueInfoProto.name = 1.
std::string InnerModel::with_inputs() {
  each_graph_field(bytes(), [&](const Field& f) {
    if (f.number != 11 && f.number != 12) return;
    const std::string_view seen = text_of(f.bytes, 1);  // by the caller: stays as it is
    for (Weight& w : weights_) w.lent = w.lent && w.name != seen;
  });
  Message graph;
  for (const Weight& w : weights_) {
    if (!w.lent) continue;
    lent_.insert(w.name);
    graph.add(11, value_info(w.name, w.dtype, w.dims));
  }
  each_graph_field(bytes(), [&](const Field& f) {
    if (f.number != 5 || !lends(text_of(f.bytes, 8))) graph.add(f);
  });
  return std::move(without_graph(bytes()).add(7, graph).text());
}

void InnerModel::decode(bool lent, unsigned threads, bool using_up) {
  const std::vector<Entry>& entries = container_->entries();
  std::vector<bool> used(entries.size());  // by other entries
  for (const Entry& e : entries) {
    if (e.reconstruction != Reconstruction::kRaw) used[e.auxiliary] = true;
  }
  for (size_t first = 0; first < weights_.size();) {
    std::vector<void*> out(entries.size());
    size_t next = first;
    for (size_t size = 0; next < weights_.size() && (!using_up || size < kBatch); ++next) {
      Weight& w = weights_[next];
      if (w.lent != lent) continue;
      w.memory = new_block(w.size);
      if (w.entry < entries.size()) out[w.entry] = w.memory.get();
      size += w.size;
    }
    container_->decode(out, threads);
    for (; first < next; ++first) {
      const Weight& w = weights_[first];
      if (!using_up || w.lent != lent || w.entry >= entries.size() || used[w.entry]) continue;
      const std::vector<Chunk>& chunks = entries[w.entry].chunks;
      if (chunks.empty()) continue;
      const uint8_t* begin = chunks.front().bytes.data;
      drop_pages(begin, static_cast<size_t>(chunks.back().bytes.data + chunks.back().bytes.size - begin));
    }
    first = next;
  }
}

void InnerModel::found_probe(const void* at) {
  in_use_ = in_use_ || at == weights_.back().memory.get();
  if (!in_use_) free_weights();
}

void InnerModel::free_weights() {
  for (Weight& w : weights_) w.memory.reset();
}

std::vector<Block> InnerModel::finish() {
  if (!in_use_ && handover_ != Handover::kLent) free_weights();
  std::vector<Block> kept;
  for (Weight& w : weights_) {
    if (w.memory != nullptr) kept.push_back(std::move(w.memory));
  }
  return kept;
}

ReleaseOp::ReleaseOp(const Runtime& runtime, InnerModel& model, OrtSessionOptions* options)
    : domain_(nullptr, runtime.api.ReleaseCustomOpDomain()) {
  using ort::CustomOp;
  const ort::Api& api = runtime.api;
  op_.model = &model;
  set_defaults(op_);
  op_.name = [](const CustomOp* op) {
    const InnerModel* lent = static_cast<const Op*>(op)->model;
    return lent != nullptr && lent->holds() ? kReleaseName : "Released";
  };
  op_.input_type = [](const CustomOp*, size_t) -> int { return ort::kUint8; };
  op_.output_type = op_.input_type;
  op_.output_characteristic = [](const CustomOp*, size_t) -> int { return ort::kOptional; };
  op_.create_kernel_v2 = [](const CustomOp* op, const OrtApi* table, const OrtKernelInfo* info,
                            void** kernel) -> OrtStatus* {
    *kernel = const_cast<CustomOp*>(op);  // anything but null
    InnerModel* lent = static_cast<const Op*>(op)->model;
    const ort::Api functions(table);
    int is_constant = 0;
    const OrtValue* probe = nullptr;
    void* data = nullptr;
    OrtStatus* status = functions.KernelInfoGetConstantInput_tensor()(info, 0, &is_constant, &probe);
    if (status != nullptr || lent == nullptr || is_constant == 0 || probe == nullptr) return status;
    status = functions.GetTensorMutableData()(const_cast<OrtValue*>(probe), &data);
    if (status == nullptr) lent->found_probe(data);
    return status;
  };
  op_.destroy_kernel = [](void*) {};
  op_.compute_v2 = [](void*, OrtKernelContext*) -> OrtStatus* { return nullptr; };
  OrtCustomOpDomain* domain = nullptr;
  runtime.check(api.CreateCustomOpDomain()(kReleaseDomain, &domain));
  domain_.reset(domain);
  runtime.check(api.CustomOpDomain_Add()(domain, &op_));
  runtime.check(api.AddCustomOpDomain()(options, domain));

  OrtMemoryInfo* info = nullptr;
  runtime.check(api.CreateCpuMemoryInfo()(ort::kDeviceAllocator, ort::kDefaultMemory, &info));
  const Owned<OrtMemoryInfo> cpu(info, api.ReleaseMemoryInfo());
  std::vector<const OrtValue*> pointers;
  std::vector<const char*> names;
  for (const InnerModel::Weight& w : model.weights()) {
    if (w.lent) continue;
    OrtValue* value = nullptr;
    runtime.check(api.CreateTensorWithDataAsOrtValue()(info, w.memory.get(), w.size, w.dims.data(),
                                                       w.dims.size(), w.dtype, &value));
    values_.emplace_back(value, api.ReleaseValue());
    pointers.push_back(value);
    names.push_back(w.name.c_str());
  }
  if (names.empty()) return;
  runtime.check(api.AddExternalInitializers()(options, names.data(), pointers.data(), names.size()));
}

void ReleaseOp::finish() {
  kept_ = op_.model->finish();
  op_.model = nullptr;
  std::vector<Owned<OrtValue>>().swap(values_);
  trim_heap();
}

InnerSessionParts create_session(const Runtime& runtime, const OrtEnv* env, OrtSessionOptions* options,
                                 InnerModel model, unsigned threads, bool using_up,
                                 std::unique_ptr<Streamed> streamed) {
  const bool lends = model.handover() == Handover::kLent;
  model.decode(false, threads, using_up && !lends);
  InnerSessionParts parts{std::make_unique<ReleaseOp>(runtime, model, options),
                          lends ? std::make_unique<Lender>(runtime) : nullptr,
                          std::move(streamed),
                          {nullptr, runtime.api.ReleaseSession()},
                          !has_control_flow(model.bytes()) && !has_foreign_operators(model.bytes())};
  if (parts.streamed != nullptr) parts.streamed->add_to(runtime, options);
  if (lends) {
    parts.session = parts.lender->open(env, options, model.bytes());
    model.decode(true, threads, using_up);
    model.close();
    trim_heap();
    parts.lender->lend(parts.session.get(), options, model);
  } else {
    model.close();
    OrtSession* session = nullptr;
    runtime.check(runtime.api.CreateSessionFromArray()(env, model.model().data(), model.model().size(),
                                                       options, &session));
    parts.session.reset(session);
  }
  parts.release->finish();
  if (parts.streamed != nullptr) parts.streamed->finish();
  return parts;
}

uint64_t prepare(const Container& container, unsigned threads, Bytes& model) {
  const std::shared_ptr<const Container> borrowed(std::shared_ptr<const Container>(), &container);
  auto made = std::make_unique<Prepared>(Prepared{{borrowed, Handover::kCopied}, nullptr});
  made->model.decode(false, threads, false);
  made->model.close();
  model = made->model.bytes();
  PreparedModels& all = prepared_models();
  const std::scoped_lock lock(all.mutex);
  all.by_id.emplace(++all.last, std::move(made));
  return all.last;
}

void attach_prepared(const Runtime& runtime, const std::string& id, OrtSessionOptions* options) {
  PreparedModels& all = prepared_models();
  const std::scoped_lock lock(all.mutex);
  const auto found = all.by_id.find(std::strtoull(id.c_str(), nullptr, 10));
  if (found == all.by_id.end() || found->second->op != nullptr) {
    fail("onnxopt.prepared is '%s', expected an id of onnxopt_prepare that no session has used", id.c_str());
  }
  Prepared& prepared = *found->second;
  prepared.op = std::make_unique<ReleaseOp>(runtime, prepared.model, options);
}

void finish_prepared(uint64_t id) {
  PreparedModels& all = prepared_models();
  const std::scoped_lock lock(all.mutex);
  const auto found = all.by_id.find(id);
  if (found == all.by_id.end()) return;
  if (found->second->op != nullptr) {
    found->second->op->finish();
    keep_forever(std::move(found->second->op));
  }
  all.by_id.erase(found);
}

}  // namespace onnxopt
