/* Runs a compressed model with a given ONNX Runtime library and prints what comes out.
 *
 *   cc run_model.c -I../include -L<folder> -lonnxopt -ldl -o run_model
 *   ./run_model libonnxruntime.so model.onnx libonnxopt.so    registers the library, loads the file as any
 * other
 *   ./run_model libonnxruntime.so model.onnx linked           registers what is linked into the program
 *   ./run_model libonnxruntime.so model.onnx                  onnxopt_create_session does it all
 *
 * Inputs and outputs are float32; inputs get 0, 0.01, 0.02 ..., 0.99, 0, ..., and 2 for free dimensions.
 * With onnxruntime_c_api.h its OrtApi replaces the one below, which has the few functions that are used here.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "onnxopt.h"

typedef struct OrtStatus* Status; /* null: no error */
typedef struct OrtSession* Session;
typedef struct { /* toN: the unused places up to N */
  Status to2[2];
  const char* (*GetErrorMessage)(Status);
  Status (*CreateEnv)(int log_level, const char* name, void** env);
  Status to7[3], (*CreateSession)(void* env, const char* path, void* options, Session*);
  Status to9[1],
      (*Run)(Session, void* options, char** names, void** inputs, size_t, char** to, size_t, void** outputs);
  Status (*CreateSessionOptions)(void** options);
  Status to29[18], (*RegisterCustomOpsLibrary)(void* options, const char* path, void** library);
  Status (*SessionGetInputCount)(Session, size_t*), (*SessionGetOutputCount)(Session, size_t*);
  Status to33[1], (*SessionGetInputTypeInfo)(Session, size_t, void** type);
  Status to36[2], (*SessionGetInputName)(Session, size_t, void* allocator, char** name);
  Status (*SessionGetOutputName)(Session, size_t, void* allocator, char** name);
  Status to49[11], (*CreateTensorWithDataAsOrtValue)(void* memory, void* data, size_t bytes, int64_t* dims,
                                                     size_t rank, int type, void** value);
  Status to51[1], (*GetTensorMutableData)(void* value, void* data);
  Status to55[3], (*CastTypeInfoToTensorInfo)(void* type, void** info);
  Status to61[5], (*GetDimensionsCount)(void* info, size_t* rank),
      (*GetDimensions)(void* info, int64_t*, size_t);
  Status to65[2], (*GetTensorTypeAndShape)(void* value, void** info);
  Status to69[3], (*CreateCpuMemoryInfo)(int allocator, int memory, void** info);
  Status to78[8], (*GetAllocatorWithDefaultOptions)(void** allocator);
} OrtApi;
struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
};

enum { kApiVersion = 16, kWarning = 2, kFloat = 1, kMost = 16 };
static const OrtApi* api;

static _Noreturn void fail(const char* why) {
  fprintf(stderr, "%s\n", why);
  exit(1);
}

static void check(Status status) {
  if (status != NULL) fail(api->GetErrorMessage(status));
}

static size_t shape(void* info, int64_t dims[kMost], size_t* rank) {
  size_t count = 1;
  check(api->GetDimensionsCount(info, rank));
  if (*rank > kMost) fail("too many dimensions");
  check(api->GetDimensions(info, dims, *rank));
  for (size_t d = 0; d < *rank; ++d) count *= (size_t)(dims[d] = dims[d] < 0 ? 2 : dims[d]);
  return count;
}

int main(int argc, char** argv) {
  if (argc < 3) fail("usage: run_model libonnxruntime.so model.onnx [libonnxopt.so | linked]");
  void* runtime = dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL);
  if (runtime == NULL) fail(dlerror());
  const struct OrtApiBase* base = ((const struct OrtApiBase* (*)(void))dlsym(runtime, "OrtGetApiBase"))();
  if ((api = base->GetApi(kApiVersion)) == NULL) fail("this ONNX Runtime is older than 1.16");

  void *env, *options, *library, *memory, *allocator, *info, *values[2][kMost] = {{NULL}};
  Session session;
  check(api->CreateEnv(kWarning, "run_model", &env));
  check(api->CreateSessionOptions(&options));
  if (argc > 3) {
    if (strcmp(argv[3], "linked") == 0) {
      check(RegisterCustomOps(options, base));
    } else {
      check(api->RegisterCustomOpsLibrary(options, argv[3], &library));
    }
    check(api->CreateSession(env, argv[2], options, &session));
  } else {
    check(onnxopt_create_session(base, argv[2], NULL, 0, options, &session));
  }

  size_t inputs, outputs, rank;
  int64_t dims[kMost];
  char* names[2][kMost];
  check(api->GetAllocatorWithDefaultOptions(&allocator));
  check(api->CreateCpuMemoryInfo(0, 0, &memory));
  check(api->SessionGetInputCount(session, &inputs));
  check(api->SessionGetOutputCount(session, &outputs));
  if (inputs > kMost || outputs > kMost) fail("too many inputs or outputs");
  for (size_t i = 0; i < inputs; ++i) {
    check(api->SessionGetInputName(session, i, allocator, &names[0][i]));
    check(api->SessionGetInputTypeInfo(session, i, &info));
    check(api->CastTypeInfoToTensorInfo(info, &info));
    const size_t count = shape(info, dims, &rank);
    float* data = malloc((count + 1) * sizeof(float));
    for (size_t k = 0; k < count; ++k) data[k] = (float)(k % 100) / 100;
    check(api->CreateTensorWithDataAsOrtValue(memory, data, count * sizeof(float), dims, rank, kFloat,
                                              &values[0][i]));
  }
  for (size_t i = 0; i < outputs; ++i) check(api->SessionGetOutputName(session, i, allocator, &names[1][i]));
  check(api->Run(session, NULL, names[0], values[0], inputs, names[1], outputs, values[1]));
  float* data;
  for (size_t i = 0; i < outputs; ++i) {
    check(api->GetTensorTypeAndShape(values[1][i], &info));
    check(api->GetTensorMutableData(values[1][i], &data));
    const size_t count = shape(info, dims, &rank);
    printf("%s [", names[1][i]);
    for (size_t d = 0; d < rank; ++d) printf("%s%lld", d ? ", " : "", (long long)dims[d]);
    printf("]:");
    for (size_t k = 0; k < count && k < 8; ++k) printf(" %.6g", data[k]);
    printf("\n");
  }
}
