// Decoded weights are freed as soon as the runtime has a copy of them, and never while it may read them: with
// a runtime of a few functions, which copies what it is given or uses it in place.
#include <filesystem>
#include <fstream>
#include <iterator>

#include "check.h"
#include "inner_model.h"
#include "onnx_file.h"

namespace onnxopt {
namespace {

enum class Has { kCopy, kOriginal, kNothing };

Has has = Has::kCopy;
const ort::CustomOp* release_op = nullptr;
std::vector<const uint8_t*> given;  // the weights

OrtStatus* create_domain(const char*, OrtCustomOpDomain** out) {
  *out = reinterpret_cast<OrtCustomOpDomain*>(&release_op);
  return nullptr;
}
OrtStatus* add_op(OrtCustomOpDomain*, const void* op) {
  release_op = static_cast<const ort::CustomOp*>(op);
  return nullptr;
}
OrtStatus* add_domain(OrtSessionOptions*, OrtCustomOpDomain*) { return nullptr; }
OrtStatus* create_memory_info(int, int, OrtMemoryInfo** out) {
  *out = reinterpret_cast<OrtMemoryInfo*>(&release_op);
  return nullptr;
}
OrtStatus* create_tensor(const OrtMemoryInfo*, void* data, size_t, const int64_t*, size_t, int,
                         OrtValue** out) {
  given.push_back(static_cast<const uint8_t*>(data));
  *out = static_cast<OrtValue*>(data);
  return nullptr;
}
OrtStatus* add_initializers(OrtSessionOptions*, const char* const*, const OrtValue* const*, size_t) {
  return nullptr;
}
OrtStatus* constant_input(const OrtKernelInfo*, size_t, int* is_constant, const OrtValue** out) {
  static const uint8_t copy = 0;
  *is_constant = has != Has::kNothing ? 1 : 0;
  *out = has == Has::kNothing    ? nullptr
         : has == Has::kOriginal ? reinterpret_cast<const OrtValue*>(given.back())
                                 : reinterpret_cast<const OrtValue*>(&copy);
  return nullptr;
}
OrtStatus* tensor_data(OrtValue* value, void** out) {
  *out = value;
  return nullptr;
}
void release_nothing(void*) {}

using Function = void (*)();
Function table[300];
template <typename F>
void set(ort::Slot slot, F function) {
  table[static_cast<size_t>(slot)] = reinterpret_cast<Function>(function);
}

const OrtApi* get_api(uint32_t) { return reinterpret_cast<const OrtApi*>(table); }
const char* get_version() { return "1.99.0"; }

void fill_table() {
  using ort::Slot;
  set(Slot::CreateCustomOpDomain, create_domain);
  set(Slot::CustomOpDomain_Add, add_op);
  set(Slot::AddCustomOpDomain, add_domain);
  set(Slot::CreateCpuMemoryInfo, create_memory_info);
  set(Slot::CreateTensorWithDataAsOrtValue, create_tensor);
  set(Slot::AddExternalInitializers, add_initializers);
  set(Slot::KernelInfoGetConstantInput_tensor, constant_input);
  set(Slot::GetTensorMutableData, tensor_data);
  set(Slot::ReleaseCustomOpDomain, release_nothing);
  set(Slot::ReleaseMemoryInfo, release_nothing);
  set(Slot::ReleaseValue, release_nothing);
}

std::shared_ptr<const Container> borrowed(const Container& container) {
  return {std::shared_ptr<const Container>(), &container};
}

// Whether the weights are there while kernels are created, and once the session is.
std::pair<bool, bool> kept(const Runtime& runtime, const Container& container, Has what) {
  has = what;
  given.clear();
  InnerModel model(borrowed(container), Handover::kCopied);
  model.decode(false, 1, false);
  ReleaseOp op(runtime, model, nullptr);
  CHECK(given.size() == model.weights().size());
  const uint8_t* const first = given.front();
  const uint8_t value = *first;
  void* kernel = nullptr;
  CHECK(release_op->create_kernel_v2(release_op, get_api(16), nullptr, &kernel) == nullptr);
  CHECK(kernel != nullptr);
  const bool during = model.holds();
  op.finish();
  if (what == Has::kOriginal) CHECK(*first == value);  // a sanitizer sees it if that is freed
  return {during, op.keeps_weights()};
}

}  // namespace
}  // namespace onnxopt

int main() {
  using namespace onnxopt;
  fill_table();
  std::ifstream in(std::filesystem::path(ONNXOPT_NATIVE) / "fuzz" / "corpus" / "whole.onnx",
                   std::ios::binary);
  const std::vector<uint8_t> file{std::istreambuf_iterator<char>(in), {}};
  const Container container(find_container({file.data(), file.size()}));
  const ort::ApiBase base{get_api, get_version};
  const Runtime runtime(reinterpret_cast<const OrtApiBase*>(&base));
  CHECK(kept(runtime, container, Has::kCopy) == std::make_pair(false, false));
  CHECK(kept(runtime, container, Has::kNothing) == std::make_pair(true, false));
  CHECK(kept(runtime, container, Has::kOriginal) == std::make_pair(true, true));
  // Without its node the model needs no CPU, and no runtime is asked.
  const InnerModel without(borrowed(container), Handover::kCopiedUnfreed);
  CHECK(without.model() == container.model());
  return 0;
}
