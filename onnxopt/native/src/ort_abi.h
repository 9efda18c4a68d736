// The part of ONNX Runtime's C ABI that the loader uses, declared in our own words.
//
// The runtime hands out a table of function pointers whose order never changes and only grows, so a function
// is its slot. Where the build has the runtime's own header, ort_abi_check.cc compares every slot and member
// with it.
#pragma once

#include <cstddef>
#include <cstdint>

struct OrtAllocator;
struct OrtApi;
struct OrtApiBase;
struct OrtCustomOpDomain;
struct OrtEnv;
struct OrtEpDevice;
struct OrtGraph;
struct OrtKernelContext;
struct OrtKernelInfo;
struct OrtLogger;
struct OrtMemoryInfo;
struct OrtModel;
struct OrtModelEditorApi;
struct OrtPrepackedWeightsContainer;
struct OrtRunOptions;
struct OrtSession;
struct OrtSessionOptions;
struct OrtStatus;
struct OrtTensorTypeAndShapeInfo;
struct OrtTypeInfo;
struct OrtValue;
struct OrtValueInfo;

namespace onnxopt::ort {

#if defined(_WIN32)
#define ONNXOPT_ORT_CALL __stdcall
using PathChar = wchar_t;
#else
#define ONNXOPT_ORT_CALL
using PathChar = char;
#endif

// The API version asked for: CreateKernelV2 and KernelComputeV2 came with 16, so 1.16 and newer runtimes will
// do.
constexpr uint32_t kApiVersion = 16;
// What came later is called only where the runtime has this version.
constexpr uint32_t kNewApiVersion = 22;

enum ErrorCode : int { kFail = 1 };
enum ElementType : int { kUndefined = 0, kFloat32 = 1, kUint8 = 2, kString = 8, kFloat16 = 10 };
enum Characteristic : int { kRequired = 0, kOptional = 1, kVariadic = 2 };
enum AllocatorType : int { kDeviceAllocator = 0 };
enum MemoryType : int { kDefaultMemory = 0 };
enum LoggingLevel : int { kWarning = 2 };

// X(slot, result, name, arguments)
#define ONNXOPT_ORT_FUNCTIONS(X)                                                                             \
  X(0, OrtStatus*, CreateStatus, (int code, const char* message))                                            \
  X(1, int, GetErrorCode, (const OrtStatus*))                                                                \
  X(2, const char*, GetErrorMessage, (const OrtStatus*))                                                     \
  X(3, OrtStatus*, CreateEnv, (int logging_level, const char* id, OrtEnv**))                                 \
  X(7, OrtStatus*, CreateSession, (const OrtEnv*, const PathChar*, const OrtSessionOptions*, OrtSession**))  \
  X(8, OrtStatus*, CreateSessionFromArray,                                                                   \
    (const OrtEnv*, const void* model, size_t size, const OrtSessionOptions*, OrtSession**))                 \
  X(9, OrtStatus*, Run,                                                                                      \
    (OrtSession*, const OrtRunOptions*, const char* const* input_names, const OrtValue* const* inputs,       \
     size_t input_count, const char* const* output_names, size_t output_count, OrtValue** outputs))          \
  X(10, OrtStatus*, CreateSessionOptions, (OrtSessionOptions**))                                             \
  X(11, OrtStatus*, SetOptimizedModelFilePath, (OrtSessionOptions*, const PathChar*))                        \
  X(12, OrtStatus*, CloneSessionOptions, (const OrtSessionOptions*, OrtSessionOptions**))                    \
  X(15, OrtStatus*, DisableProfiling, (OrtSessionOptions*))                                                  \
  X(23, OrtStatus*, SetSessionGraphOptimizationLevel, (OrtSessionOptions*, int))                             \
  X(24, OrtStatus*, SetIntraOpNumThreads, (OrtSessionOptions*, int))                                         \
  X(25, OrtStatus*, SetInterOpNumThreads, (OrtSessionOptions*, int))                                         \
  X(26, OrtStatus*, CreateCustomOpDomain, (const char*, OrtCustomOpDomain**))                                \
  X(27, OrtStatus*, CustomOpDomain_Add, (OrtCustomOpDomain*, const void* op))                                \
  X(28, OrtStatus*, AddCustomOpDomain, (OrtSessionOptions*, OrtCustomOpDomain*))                             \
  X(30, OrtStatus*, SessionGetInputCount, (const OrtSession*, size_t*))                                      \
  X(31, OrtStatus*, SessionGetOutputCount, (const OrtSession*, size_t*))                                     \
  X(33, OrtStatus*, SessionGetInputTypeInfo, (const OrtSession*, size_t, OrtTypeInfo**))                     \
  X(34, OrtStatus*, SessionGetOutputTypeInfo, (const OrtSession*, size_t, OrtTypeInfo**))                    \
  X(36, OrtStatus*, SessionGetInputName, (const OrtSession*, size_t, OrtAllocator*, char**))                 \
  X(37, OrtStatus*, SessionGetOutputName, (const OrtSession*, size_t, OrtAllocator*, char**))                \
  X(49, OrtStatus*, CreateTensorWithDataAsOrtValue,                                                          \
    (const OrtMemoryInfo*, void* data, size_t bytes, const int64_t* dims, size_t rank, int type,             \
     OrtValue**))                                                                                            \
  X(50, OrtStatus*, IsTensor, (const OrtValue*, int*))                                                       \
  X(51, OrtStatus*, GetTensorMutableData, (OrtValue*, void**))                                               \
  X(52, OrtStatus*, FillStringTensor, (OrtValue*, const char* const*, size_t count))                         \
  X(53, OrtStatus*, GetStringTensorDataLength, (const OrtValue*, size_t*))                                   \
  X(54, OrtStatus*, GetStringTensorContent, (const OrtValue*, void*, size_t, size_t* offsets, size_t count)) \
  X(55, OrtStatus*, CastTypeInfoToTensorInfo, (const OrtTypeInfo*, const OrtTensorTypeAndShapeInfo**))       \
  X(60, OrtStatus*, GetTensorElementType, (const OrtTensorTypeAndShapeInfo*, int*))                          \
  X(61, OrtStatus*, GetDimensionsCount, (const OrtTensorTypeAndShapeInfo*, size_t*))                         \
  X(62, OrtStatus*, GetDimensions, (const OrtTensorTypeAndShapeInfo*, int64_t*, size_t))                     \
  X(63, OrtStatus*, GetSymbolicDimensions, (const OrtTensorTypeAndShapeInfo*, const char**, size_t))         \
  X(64, OrtStatus*, GetTensorShapeElementCount, (const OrtTensorTypeAndShapeInfo*, size_t*))                 \
  X(65, OrtStatus*, GetTensorTypeAndShape, (const OrtValue*, OrtTensorTypeAndShapeInfo**))                   \
  X(69, OrtStatus*, CreateCpuMemoryInfo, (int allocator_type, int memory_type, OrtMemoryInfo**))             \
  X(76, OrtStatus*, AllocatorFree, (OrtAllocator*, void*))                                                   \
  X(78, OrtStatus*, GetAllocatorWithDefaultOptions, (OrtAllocator**))                                        \
  X(86, OrtStatus*, KernelInfoGetAttribute_int64, (const OrtKernelInfo*, const char* name, int64_t*))        \
  X(88, OrtStatus*, KernelContext_GetInputCount, (const OrtKernelContext*, size_t*))                         \
  X(89, OrtStatus*, KernelContext_GetOutputCount, (const OrtKernelContext*, size_t*))                        \
  X(90, OrtStatus*, KernelContext_GetInput, (const OrtKernelContext*, size_t, const OrtValue**))             \
  X(91, OrtStatus*, KernelContext_GetOutput,                                                                 \
    (OrtKernelContext*, size_t, const int64_t* dims, size_t rank, OrtValue**))                               \
  X(92, void, ReleaseEnv, (OrtEnv*))                                                                         \
  X(93, void, ReleaseStatus, (OrtStatus*))                                                                   \
  X(94, void, ReleaseMemoryInfo, (OrtMemoryInfo*))                                                           \
  X(95, void, ReleaseSession, (OrtSession*))                                                                 \
  X(96, void, ReleaseValue, (OrtValue*))                                                                     \
  X(98, void, ReleaseTypeInfo, (OrtTypeInfo*))                                                               \
  X(99, void, ReleaseTensorTypeAndShapeInfo, (OrtTensorTypeAndShapeInfo*))                                   \
  X(100, void, ReleaseSessionOptions, (OrtSessionOptions*))                                                  \
  X(101, void, ReleaseCustomOpDomain, (OrtCustomOpDomain*))                                                  \
  X(130, OrtStatus*, AddSessionConfigEntry, (OrtSessionOptions*, const char* key, const char* value))        \
  X(210, OrtStatus*, AddExternalInitializers,                                                                \
    (OrtSessionOptions*, const char* const* names, const OrtValue* const* values, size_t count))             \
  X(216, OrtStatus*, SessionOptionsAppendExecutionProvider,                                                  \
    (OrtSessionOptions*, const char* name, const char* const* keys, const char* const* values,               \
     size_t count))                                                                                          \
  X(237, OrtStatus*, HasSessionConfigEntry, (const OrtSessionOptions*, const char* key, int*))               \
  X(238, OrtStatus*, GetSessionConfigEntry, (const OrtSessionOptions*, const char* key, char*, size_t*))     \
  X(245, OrtStatus*, KernelInfo_GetLogger, (const OrtKernelInfo*, const OrtLogger**))                        \
  X(247, OrtStatus*, Logger_LogMessage,                                                                      \
    (const OrtLogger*, int severity, const char* message, const PathChar* file, int line,                    \
     const char* function))                                                                                  \
  X(249, OrtStatus*, KernelInfoGetConstantInput_tensor,                                                      \
    (const OrtKernelInfo*, size_t, int*, const OrtValue**))                                                  \
  X(285, void, ReleaseValueInfo, (OrtValueInfo*))                                                            \
  X(287, void, ReleaseGraph, (OrtGraph*))                                                                    \
  X(288, void, ReleaseModel, (OrtModel*))                                                                    \
  X(291, const OrtModelEditorApi*, GetModelEditorApi, ())                                                    \
  X(292, OrtStatus*, CreateTensorWithDataAndDeleterAsOrtValue,                                               \
    (Allocator * deleter, void* data, size_t bytes, const int64_t* dims, size_t rank, int type, OrtValue**)) \
  X(303, OrtStatus*, GetEpDevices, (const OrtEnv*, const OrtEpDevice* const**, size_t* count))               \
  X(304, OrtStatus*, SessionOptionsAppendExecutionProvider_V2,                                               \
    (OrtSessionOptions*, OrtEnv*, const OrtEpDevice* const*, size_t devices, const char* const* keys,        \
     const char* const* values, size_t count))                                                               \
  X(312, const char*, EpDevice_EpName, (const OrtEpDevice*))

// X(slot, name, arguments): functions of the model editor, which return a status.
#define ONNXOPT_ORT_EDITOR_FUNCTIONS(X)                                                           \
  X(5, CreateValueInfo, (const char* name, const OrtTypeInfo*, OrtValueInfo**))                   \
  X(7, CreateGraph, (OrtGraph**))                                                                 \
  X(8, SetGraphInputs, (OrtGraph*, OrtValueInfo**, size_t count))                                 \
  X(10, AddInitializerToGraph, (OrtGraph*, const char* name, OrtValue*, bool data_is_external))   \
  X(12, CreateModel, (const char* const* domains, const int* versions, size_t count, OrtModel**)) \
  X(13, AddGraphToModel, (OrtModel*, OrtGraph*))                                                  \
  X(16, CreateModelEditorSessionFromArray,                                                        \
    (const OrtEnv*, const void* model, size_t size, const OrtSessionOptions*, OrtSession**))      \
  X(18, ApplyModelToModelEditorSession, (OrtSession*, OrtModel*))                                 \
  X(19, FinalizeModelEditorSession, (OrtSession*, const OrtSessionOptions*, OrtPrepackedWeightsContainer*))

// What frees a tensor's memory. The runtime calls the members that are not null.
struct Allocator {
  uint32_t version;
  void*(ONNXOPT_ORT_CALL* allocate)(Allocator*, size_t);
  void(ONNXOPT_ORT_CALL* free)(Allocator*, void*);
  const OrtMemoryInfo*(ONNXOPT_ORT_CALL* info)(const Allocator*);
  void* newer[8];  // of newer versions
};

enum class Slot : size_t {
#define ONNXOPT_ORT_SLOT(slot, result, name, arguments) name = slot,
  ONNXOPT_ORT_FUNCTIONS(ONNXOPT_ORT_SLOT)
#undef ONNXOPT_ORT_SLOT
};

// The runtime's functions by name: `Api(table).CreateStatus()(code, message)`.
class Api {
 public:
  explicit Api(const OrtApi* table) : table_(reinterpret_cast<Function const*>(table)) {}

#define ONNXOPT_ORT_ACCESSOR(slot, result, name, arguments) \
  auto name() const { return reinterpret_cast<result(ONNXOPT_ORT_CALL*) arguments>(table_[slot]); }
  ONNXOPT_ORT_FUNCTIONS(ONNXOPT_ORT_ACCESSOR)
#undef ONNXOPT_ORT_ACCESSOR

 private:
  using Function = void(ONNXOPT_ORT_CALL*)();
  Function const* table_;
};

// The same for the model editor: `Editor(table).CreateGraph()(&graph)`.
class Editor {
 public:
  explicit Editor(const OrtModelEditorApi* table) : table_(reinterpret_cast<Function const*>(table)) {}
  explicit operator bool() const { return table_ != nullptr; }

#define ONNXOPT_ORT_ACCESSOR(slot, name, arguments) \
  auto name() const { return reinterpret_cast<OrtStatus*(ONNXOPT_ORT_CALL*)arguments>(table_[slot]); }
  ONNXOPT_ORT_EDITOR_FUNCTIONS(ONNXOPT_ORT_ACCESSOR)
#undef ONNXOPT_ORT_ACCESSOR

 private:
  using Function = void(ONNXOPT_ORT_CALL*)();
  Function const* table_;
};

struct ApiBase {
  const OrtApi*(ONNXOPT_ORT_CALL* get_api)(uint32_t version);
  const char*(ONNXOPT_ORT_CALL* version)();
};

// What the runtime calls back. It reads only the members that `version` had.
struct CustomOp {
  uint32_t version;
  void*(ONNXOPT_ORT_CALL* create_kernel)(const CustomOp*, const OrtApi*, const OrtKernelInfo*);
  const char*(ONNXOPT_ORT_CALL* name)(const CustomOp*);
  const char*(ONNXOPT_ORT_CALL* execution_provider)(const CustomOp*);
  int(ONNXOPT_ORT_CALL* input_type)(const CustomOp*, size_t);
  size_t(ONNXOPT_ORT_CALL* input_count)(const CustomOp*);
  int(ONNXOPT_ORT_CALL* output_type)(const CustomOp*, size_t);
  size_t(ONNXOPT_ORT_CALL* output_count)(const CustomOp*);
  void(ONNXOPT_ORT_CALL* compute)(void* kernel, OrtKernelContext*);
  void(ONNXOPT_ORT_CALL* destroy_kernel)(void* kernel);
  int(ONNXOPT_ORT_CALL* input_characteristic)(const CustomOp*, size_t);
  int(ONNXOPT_ORT_CALL* output_characteristic)(const CustomOp*, size_t);
  int(ONNXOPT_ORT_CALL* input_memory_type)(const CustomOp*, size_t);
  int(ONNXOPT_ORT_CALL* variadic_input_min_arity)(const CustomOp*);
  int(ONNXOPT_ORT_CALL* variadic_input_homogeneity)(const CustomOp*);
  int(ONNXOPT_ORT_CALL* variadic_output_min_arity)(const CustomOp*);
  int(ONNXOPT_ORT_CALL* variadic_output_homogeneity)(const CustomOp*);
  OrtStatus*(ONNXOPT_ORT_CALL* create_kernel_v2)(const CustomOp*, const OrtApi*, const OrtKernelInfo*,
                                                 void**);
  OrtStatus*(ONNXOPT_ORT_CALL* compute_v2)(void* kernel, OrtKernelContext*);
};

}  // namespace onnxopt::ort
