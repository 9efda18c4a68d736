/* onnxopt: reading compressed ONNX models and running them in ONNX Runtime. Plain C ABI.
 *
 * Two ways to run a compressed model:
 *   - register this library with the session options (RegisterCustomOpsLibrary_V2 or
 *     RegisterCustomOpsUsingFunction) and load the .onnx file like any other;
 *   - or call onnxopt_create_session, which needs no registration.
 *
 * Functions that can fail return 0 on success and a negative number otherwise; onnxopt_last_error() then says
 * why.
 */
#ifndef ONNXOPT_H_
#define ONNXOPT_H_

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define ONNXOPT_EXPORT __declspec(dllexport)
#else
#define ONNXOPT_EXPORT __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

struct OrtApiBase;
struct OrtSession;
struct OrtSessionOptions;
struct OrtStatus;

/* "1.2.3" */
ONNXOPT_EXPORT const char* onnxopt_version(void);
/* Why the last call on this thread failed: one sentence. Valid until the next call on this thread. */
ONNXOPT_EXPORT const char* onnxopt_last_error(void);

/* --- running --- */

/* What ONNX Runtime looks up in a registered library. */
ONNXOPT_EXPORT struct OrtStatus* RegisterCustomOps(struct OrtSessionOptions* options,
                                                   const struct OrtApiBase* api);

/* Creates a session of the compressed model in data[0, size), or, where data is null, in the file at `path`.
 * Release it with the runtime's ReleaseSession; data may be freed once this returns. `options` may be null;
 * the session runs with a copy of them, on their execution providers.
 * A model with custom operators needs their library registered with the options, or loaded where they are
 * null.
 */
ONNXOPT_EXPORT struct OrtStatus* onnxopt_create_session(const struct OrtApiBase* api, const char* path,
                                                        const void* data, size_t size,
                                                        const struct OrtSessionOptions* options,
                                                        struct OrtSession** session);

/* --- reading --- */

typedef struct onnxopt_container onnxopt_container;

typedef struct onnxopt_entry {
  const char* name;
  const int64_t* dims;
  const char* codec;
  uint64_t coded_size; /* bytes in the file */
  uint64_t size;       /* bytes when decoded */
  uint32_t rank;
  uint32_t dtype; /* ONNX TensorProto.DataType */
  uint32_t axis;
  uint32_t reconstruction; /* 0 raw, 1 affine, 2 codebook, 3 relative */
  uint32_t auxiliary;      /* entry that holds the scales, the table or what this one is relative to */
  uint32_t hidden;         /* 1: is no tensor of the model */
} onnxopt_entry;

/* `data` (a compressed .onnx file or a bare container) must outlive the container. Null on failure. */
ONNXOPT_EXPORT onnxopt_container* onnxopt_open(const void* data, size_t size);
ONNXOPT_EXPORT void onnxopt_close(onnxopt_container* container);
ONNXOPT_EXPORT size_t onnxopt_entry_count(const onnxopt_container* container);
ONNXOPT_EXPORT int onnxopt_entry_info(const onnxopt_container* container, size_t index, onnxopt_entry* info);
/* The inner ONNX model and the plan (JSON), as bytes owned by the container. */
ONNXOPT_EXPORT const void* onnxopt_model(const onnxopt_container* container, size_t* size);
ONNXOPT_EXPORT const void* onnxopt_plan(const onnxopt_container* container, size_t* size);
ONNXOPT_EXPORT uint32_t onnxopt_format_version(const onnxopt_container* container);
/* CRC-32 of all decoded tensors of the model, in order. */
ONNXOPT_EXPORT uint32_t onnxopt_values_crc(const onnxopt_container* container);
/* For bindings that create a session themselves, as Python's does: decodes the weights for one session on
 * `threads` threads (0: all cores). Set the session config entry "onnxopt.prepared" to the id that is
 * returned, in decimal, call RegisterCustomOps, create the session from model[0, size), then call
 * onnxopt_finish, which frees the weights and the model. The runtime refuses to create a second session with
 * these options. Returns 0 on failure. */
ONNXOPT_EXPORT uint64_t onnxopt_prepare(const onnxopt_container* container, unsigned threads,
                                        const void** model, size_t* size);
ONNXOPT_EXPORT void onnxopt_finish(uint64_t id);
/* Decodes entry i into out[i] (of its `size` bytes) for every i whose out[i] is not null; threads 0 = all
 * cores. */
ONNXOPT_EXPORT int onnxopt_decode(const onnxopt_container* container, void* const* out, unsigned threads);

/* --- coding: integers <-> bytes --- */

/* Codes q[rows, cols]. `codec` is a codec's id or -1: try all, keep the cheapest; `prefer` then weighs bytes
 * against decoding time: 0 smallest, 1 balanced, 2 fastest, 3 between the two before. The result is owned by
 * the caller: onnxopt_free it. Returns the codec's id, negative on failure. */
ONNXOPT_EXPORT int onnxopt_encode(const int32_t* q, size_t rows, size_t cols, int codec, int prefer,
                                  uint8_t** out, size_t* size);
/* The same for elements of `width` bytes, lossless, in every mode but those of repeats. Returns the version
 * of the container format that holds these bytes (1, 2 or 3), negative on failure. */
ONNXOPT_EXPORT int onnxopt_encode_lossless(const void* data, size_t width, size_t rows, size_t cols,
                                           uint8_t** out, size_t* size);
/* Decodes into q[rows, cols] on one thread. */
ONNXOPT_EXPORT int onnxopt_decode_integers(int codec, const void* data, size_t size, size_t rows, size_t cols,
                                           int32_t* q);
ONNXOPT_EXPORT int onnxopt_decode_lossless(const void* data, size_t size, size_t width, size_t rows,
                                           size_t cols, void* out);
/* Decodes into float32 values scale[row] * q on one thread. */
ONNXOPT_EXPORT int onnxopt_decode_floats(int codec, const void* data, size_t size, size_t rows, size_t cols,
                                         const float* scales, float* out);
/* Codec's name, null where there is none with this id. */
ONNXOPT_EXPORT const char* onnxopt_codec_name(int codec);
/* Which vector instructions this machine's decoder uses: "scalar", "avx2", "avx512", "neon". */
ONNXOPT_EXPORT const char* onnxopt_simd(void);
/* Forces one of these, or the best again where null: for benchmarks and tests. */
ONNXOPT_EXPORT int onnxopt_set_simd(const char* name);
ONNXOPT_EXPORT void onnxopt_free(void* data);

#ifdef __cplusplus
}
#endif
#endif /* ONNXOPT_H_ */
