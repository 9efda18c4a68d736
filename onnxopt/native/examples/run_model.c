/* Runs a compressed model with a given ONNX Runtime library and prints what comes out.
 *
 *   cc run_model.c -I../include -L<folder> -lonnxopt -ldl -o run_model
 *   ./run_model libonnxruntime.so model.onnx libonnxopt.so    registers the library, loads the file like any
 * other
 *   ./run_model libonnxruntime.so model.onnx                  onnxopt_create_session does it all
 *
 * Every input must be float32; it gets the values 0, 0.01, 0.02 ..., 0.99, 0, ..., its free dimensions are 2.
 * The runtime's functions are called by their place in its table, so that this file builds without its
 * header; with onnxruntime_c_api.h, CALL(7, ...) reads api->CreateSession, and so on.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "onnxopt.h"

struct OrtApiBase {
  void* const* (*get_api)(uint32_t version);
  const char* (*version)(void);
};

static void* const* api;
#define CALL(slot, types, ...) check(((struct OrtStatus * (*)types) api[slot])(__VA_ARGS__))

static void check(struct OrtStatus* status) {
  if (status == NULL) return;
  fprintf(stderr, "%s\n", ((const char* (*)(const struct OrtStatus*))api[2])(status)); /* GetErrorMessage */
  exit(1);
}

static const struct OrtApiBase* open_runtime(const char* path) {
  void* library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  if (library == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    exit(1);
  }
  const struct OrtApiBase* (*get)(void) = (const struct OrtApiBase* (*)(void))dlsym(library, "OrtGetApiBase");
  api = get()->get_api(16);
  if (api != NULL) return get();
  fprintf(stderr, "ONNX Runtime %s is older than 1.16\n", get()->version());
  exit(1);
}

static void* load(const struct OrtApiBase* base, const char* model, const char* library) {
  void *env, *options, *handle;
  struct OrtSession* session;
  CALL(3, (int, const char*, void**), 2, "run_model", &env); /* CreateEnv */
  CALL(10, (void**), &options);                              /* CreateSessionOptions */
  if (library == NULL) {
    check(onnxopt_create_session(base, model, NULL, 0, options, &session));
  } else {
    CALL(29, (void*, const char*, void**), options, library, &handle);          /* RegisterCustomOpsLibrary */
    CALL(7, (void*, const char*, void*, void*), env, model, options, &session); /* CreateSession */
  }
  ((void (*)(void*))api[100])(options); /* ReleaseSessionOptions */
  return session;
}

/* The shape behind `info`, an OrtTensorTypeAndShapeInfo; returns the number of elements. */
static size_t shape(const void* info, int64_t dims[16], size_t* rank) {
  size_t count = 1;
  CALL(61, (const void*, size_t*), info, rank); /* GetDimensionsCount */
  if (*rank > 16) exit(1);
  CALL(62, (const void*, int64_t*, size_t), info, dims, *rank); /* GetDimensions */
  for (size_t d = 0; d < *rank; ++d) count *= (size_t)(dims[d] = dims[d] < 0 ? 2 : dims[d]);
  return count;
}

static void* make_input(void* session, size_t index) {
  void *type, *memory, *value;
  const void* info;
  int64_t dims[16];
  size_t rank;
  CALL(33, (void*, size_t, void**), session, index, &type); /* SessionGetInputTypeInfo */
  CALL(55, (void*, const void**), type, &info);             /* CastTypeInfoToTensorInfo */
  const size_t count = shape(info, dims, &rank);
  float* data = malloc((count + 1) * sizeof(float));
  for (size_t i = 0; i < count; ++i) data[i] = (float)(i % 100) / 100;
  CALL(69, (int, int, void**), 0, 0, &memory); /* CreateCpuMemoryInfo */
  CALL(49, (void*, void*, size_t, int64_t*, size_t, int, void**), memory, data, count * sizeof(float), dims,
       rank, 1, &value); /* CreateTensorWithDataAsOrtValue */
  return value;
}

static void print(const char* name, void* value) {
  void* info;
  float* data;
  int type;
  int64_t dims[16];
  size_t rank;
  CALL(65, (void*, void**), value, &info); /* GetTensorTypeAndShape */
  CALL(60, (void*, int*), info, &type);    /* GetTensorElementType */
  const size_t count = shape(info, dims, &rank);
  CALL(51, (void*, void**), value, (void**)&data); /* GetTensorMutableData */
  printf("%s [", name);
  for (size_t d = 0; d < rank; ++d) printf("%s%lld", d ? ", " : "", (long long)dims[d]);
  printf("]:");
  for (size_t i = 0; type == 1 && i < count && i < 8; ++i) printf(" %.6g", data[i]);
  printf("\n");
}

int main(int argc, char** argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: %s libonnxruntime.so model.onnx [libonnxopt.so]\n", argv[0]);
    return 2;
  }
  void* session = load(open_runtime(argv[1]), argv[2], argc > 3 ? argv[3] : NULL);
  size_t inputs, outputs;
  void* allocator;
  char* names[2][64];
  void* values[2][64] = {{0}};
  CALL(30, (void*, size_t*), session, &inputs);  /* SessionGetInputCount */
  CALL(31, (void*, size_t*), session, &outputs); /* SessionGetOutputCount */
  CALL(78, (void**), &allocator);                /* GetAllocatorWithDefaultOptions */
  if (inputs > 64 || outputs > 64) return 1;
  for (size_t i = 0; i < inputs; ++i) {
    CALL(36, (void*, size_t, void*, char**), session, i, allocator, &names[0][i]); /* SessionGetInputName */
    values[0][i] = make_input(session, i);
  }
  for (size_t i = 0; i < outputs; ++i) {
    CALL(37, (void*, size_t, void*, char**), session, i, allocator, &names[1][i]); /* SessionGetOutputName */
  }
  CALL(9, (void*, void*, char**, void**, size_t, char**, size_t, void**), session, NULL, names[0], values[0],
       inputs, names[1], outputs, values[1]); /* Run */
  for (size_t i = 0; i < outputs; ++i) print(names[1][i], values[1][i]);
  ((void (*)(void*))api[95])(session); /* ReleaseSession */
  return 0;
}
