// A library of custom operators as a user may have one: my.ops::Negate, y = -x for floats of any shape.
#include <vector>

#include "ort_abi.h"

namespace {

using namespace onnxopt::ort;

const OrtApi* table = nullptr;

struct Negate : CustomOp {
  Negate() : CustomOp{} {
    version = kApiVersion;
    create_kernel = [](const CustomOp* op, const OrtApi*, const OrtKernelInfo*) -> void* {
      return const_cast<CustomOp*>(op);
    };
    name = [](const CustomOp*) { return "Negate"; };
    execution_provider = [](const CustomOp*) -> const char* { return nullptr; };
    input_type = output_type = [](const CustomOp*, size_t) -> int { return 1; };
    input_count = output_count = [](const CustomOp*) -> size_t { return 1; };
    input_characteristic = output_characteristic = [](const CustomOp*, size_t) -> int { return kRequired; };
    input_memory_type = [](const CustomOp*, size_t) -> int { return kDefaultMemory; };
    destroy_kernel = [](void*) {};
    compute = [](void*, OrtKernelContext* context) {
      const Api api(table);
      const OrtValue* x = nullptr;
      OrtTensorTypeAndShapeInfo* shape = nullptr;
      size_t rank = 0, count = 0;
      api.KernelContext_GetInput()(context, 0, &x);
      api.GetTensorTypeAndShape()(x, &shape);
      api.GetDimensionsCount()(shape, &rank);
      api.GetTensorShapeElementCount()(shape, &count);
      std::vector<int64_t> dims(rank);
      api.GetDimensions()(shape, dims.data(), rank);
      api.ReleaseTensorTypeAndShapeInfo()(shape);
      OrtValue* y = nullptr;
      api.KernelContext_GetOutput()(context, 0, dims.data(), rank, &y);
      void *from = nullptr, *to = nullptr;
      api.GetTensorMutableData()(const_cast<OrtValue*>(x), &from);
      api.GetTensorMutableData()(y, &to);
      for (size_t i = 0; i < count; ++i) static_cast<float*>(to)[i] = -static_cast<const float*>(from)[i];
    };
  }
};

}  // namespace

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                               const OrtApiBase* base) {
  static const Negate op;
  table = reinterpret_cast<const ApiBase*>(base)->get_api(kApiVersion);
  const Api api(table);
  OrtCustomOpDomain* domain = nullptr;  // as long as the process
  if (OrtStatus* failed = api.CreateCustomOpDomain()("my.ops", &domain)) return failed;
  if (OrtStatus* failed = api.CustomOpDomain_Add()(domain, &op)) return failed;
  return api.AddCustomOpDomain()(options, domain);
}
