// Where the build is given ONNX Runtime's own header, compares ort_abi.h with it; else this file is empty.
#if defined(ONNXOPT_HAVE_ORT_HEADERS)
#include <onnxruntime_c_api.h>

#include "ort_abi.h"

namespace onnxopt::ort {

#define ONNXOPT_CHECK_SLOT(slot, result, name, arguments) \
  static_assert(offsetof(OrtApi, name) == (slot) * sizeof(void*), #name " is in another slot");
ONNXOPT_ORT_FUNCTIONS(ONNXOPT_CHECK_SLOT)
#undef ONNXOPT_CHECK_SLOT

#define ONNXOPT_CHECK_SLOT(slot, name, arguments) \
  static_assert(offsetof(OrtModelEditorApi, name) == (slot) * sizeof(void*), #name " is in another slot");
ONNXOPT_ORT_EDITOR_FUNCTIONS(ONNXOPT_CHECK_SLOT)
#undef ONNXOPT_CHECK_SLOT

static_assert(offsetof(Allocator, allocate) == offsetof(OrtAllocator, Alloc));
static_assert(offsetof(Allocator, free) == offsetof(OrtAllocator, Free));
static_assert(offsetof(Allocator, info) == offsetof(OrtAllocator, Info));
static_assert(sizeof(Allocator) >= sizeof(OrtAllocator));

#define ONNXOPT_CHECK_MEMBER(ours, theirs) \
  static_assert(offsetof(CustomOp, ours) == offsetof(OrtCustomOp, theirs), #theirs " is elsewhere");
ONNXOPT_CHECK_MEMBER(create_kernel, CreateKernel)
ONNXOPT_CHECK_MEMBER(name, GetName)
ONNXOPT_CHECK_MEMBER(execution_provider, GetExecutionProviderType)
ONNXOPT_CHECK_MEMBER(input_type, GetInputType)
ONNXOPT_CHECK_MEMBER(input_count, GetInputTypeCount)
ONNXOPT_CHECK_MEMBER(output_type, GetOutputType)
ONNXOPT_CHECK_MEMBER(output_count, GetOutputTypeCount)
ONNXOPT_CHECK_MEMBER(compute, KernelCompute)
ONNXOPT_CHECK_MEMBER(destroy_kernel, KernelDestroy)
ONNXOPT_CHECK_MEMBER(input_characteristic, GetInputCharacteristic)
ONNXOPT_CHECK_MEMBER(output_characteristic, GetOutputCharacteristic)
ONNXOPT_CHECK_MEMBER(input_memory_type, GetInputMemoryType)
ONNXOPT_CHECK_MEMBER(variadic_input_min_arity, GetVariadicInputMinArity)
ONNXOPT_CHECK_MEMBER(variadic_input_homogeneity, GetVariadicInputHomogeneity)
ONNXOPT_CHECK_MEMBER(variadic_output_min_arity, GetVariadicOutputMinArity)
ONNXOPT_CHECK_MEMBER(variadic_output_homogeneity, GetVariadicOutputHomogeneity)
ONNXOPT_CHECK_MEMBER(create_kernel_v2, CreateKernelV2)
ONNXOPT_CHECK_MEMBER(compute_v2, KernelComputeV2)
#undef ONNXOPT_CHECK_MEMBER

static_assert(static_cast<int>(kUndefined) == ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED);
static_assert(static_cast<int>(kUint8) == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
static_assert(static_cast<int>(kString) == ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING);
static_assert(static_cast<int>(kRequired) == INPUT_OUTPUT_REQUIRED);
static_assert(static_cast<int>(kOptional) == INPUT_OUTPUT_OPTIONAL);
static_assert(static_cast<int>(kVariadic) == INPUT_OUTPUT_VARIADIC);
static_assert(static_cast<int>(kFail) == ORT_FAIL && static_cast<int>(kWarning) == ORT_LOGGING_LEVEL_WARNING);

}  // namespace onnxopt::ort
#endif
