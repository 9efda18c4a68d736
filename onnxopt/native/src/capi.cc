// The C ABI over the reader and the codecs. Exceptions end here.
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "choose.h"
#include "container.h"
#include "inner_model.h"
#include "lossless.h"
#include "onnx_file.h"
#include "onnxopt.h"
#include "reconstruct.h"
#include "simd.h"

struct onnxopt_container {
  onnxopt::Container container;
};

namespace {

using onnxopt::Bytes;
using onnxopt::Shape;

// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): one a thread is what the ABI promises
thread_local std::string last_error;

// Runs body; a failure becomes `failed` and a sentence for onnxopt_last_error.
template <typename Result, typename Body>
Result guarded(Result failed, Body body) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    last_error = "out of memory";
  } catch (const std::exception& error) {
    last_error = error.what();
  }
  return failed;
}

// The same for what encodes: a library for devices has no code for it.
template <typename Body>
int encoding(Body body) {
#if defined(ONNXOPT_DECODER_ONLY)
  (void)body;
  return guarded(-1, []() -> int { onnxopt::fail("this library was built without encoders"); });
#else
  return guarded(-1, body);
#endif
}

Bytes view(const void* data, size_t size) { return {static_cast<const uint8_t*>(data), size}; }

Shape checked_shape(size_t rows, size_t cols) {
  if (cols != 0 && rows > PTRDIFF_MAX / sizeof(int64_t) / cols) onnxopt::fail("impossible shape");
  return {rows, cols};
}

const onnxopt::Codec& codec_of(int id) {
  const onnxopt::Codec* codec =
      id >= 0 && id <= UINT8_MAX ? onnxopt::find_codec(static_cast<uint8_t>(id)) : nullptr;
  if (codec == nullptr) onnxopt::fail("no integer codec has the id %d", id);
  return *codec;
}

void hand_over(const std::vector<uint8_t>& bytes, uint8_t** out, size_t* size) {
  *out = static_cast<uint8_t*>(std::malloc(std::max<size_t>(bytes.size(), 1)));
  if (*out == nullptr) throw std::bad_alloc();
  std::copy(bytes.begin(), bytes.end(), *out);
  *size = bytes.size();
}

class IntegerSink final : public onnxopt::Sink {
 public:
  explicit IntegerSink(int32_t* out) : out_(out) {}
  void put(size_t first, const int32_t* q, size_t n) override { std::copy(q, q + n, out_ + first); }

 private:
  int32_t* out_;
};

}  // namespace

const char* onnxopt_version(void) { return ONNXOPT_VERSION; }

const char* onnxopt_last_error(void) { return last_error.c_str(); }

onnxopt_container* onnxopt_open(const void* data, size_t size) {
  return guarded<onnxopt_container*>(nullptr, [&] {
    return new onnxopt_container{onnxopt::Container(onnxopt::find_container(view(data, size)))};
  });
}

void onnxopt_close(onnxopt_container* container) { delete container; }

size_t onnxopt_entry_count(const onnxopt_container* container) {
  return container->container.entries().size();
}

int onnxopt_entry_info(const onnxopt_container* container, size_t index, onnxopt_entry* info) {
  return guarded(-1, [&] {
    const auto& entries = container->container.entries();
    if (index >= entries.size()) onnxopt::fail("no entry %zu", index);
    const onnxopt::Entry& e = entries[index];
    *info = {};
    info->name = e.name.c_str();
    info->dims = e.dims.data();
    info->codec = onnxopt_codec_name(e.codec);
    info->coded_size = e.coded_size();
    info->size = e.size;
    info->rank = static_cast<uint32_t>(e.dims.size());
    info->dtype = e.dtype;
    info->axis = e.axis;
    info->reconstruction = static_cast<uint32_t>(e.reconstruction);
    info->auxiliary = static_cast<uint32_t>(e.auxiliary);
    info->hidden = e.hidden ? 1 : 0;
    return 0;
  });
}

uint64_t onnxopt_prepare(const onnxopt_container* container, unsigned threads, const void** model,
                         size_t* size) {
  return guarded<uint64_t>(0, [&] {
    Bytes bytes;
    const uint64_t id = onnxopt::prepare(container->container, threads, bytes);
    *model = bytes.data;
    *size = bytes.size;
    return id;
  });
}

void onnxopt_finish(uint64_t id) { onnxopt::finish_prepared(id); }

const void* onnxopt_model(const onnxopt_container* container, size_t* size) {
  *size = container->container.model().size();
  return container->container.model().data();
}

const void* onnxopt_plan(const onnxopt_container* container, size_t* size) {
  *size = container->container.plan().size();
  return container->container.plan().data();
}

uint32_t onnxopt_format_version(const onnxopt_container* container) { return container->container.version(); }

uint32_t onnxopt_values_crc(const onnxopt_container* container) { return container->container.values_crc(); }

int onnxopt_decode(const onnxopt_container* container, void* const* out, unsigned threads) {
  return guarded(-1, [&] {
    const onnxopt::Container& c = container->container;
    c.decode(std::vector<void*>(out, out + c.entries().size()), threads);
    return 0;
  });
}

int onnxopt_encode(const int32_t* q, size_t rows, size_t cols, int codec, int prefer, uint8_t** out,
                   size_t* size) {
  return encoding([&] {
    const Shape shape = checked_shape(rows, cols);
    if (codec < 0) {
      const onnxopt::Coded best = onnxopt::encode_best(q, shape, static_cast<onnxopt::Prefer>(prefer));
      hand_over(best.bytes, out, size);
      return static_cast<int>(best.codec);
    }
    const onnxopt::Codec& chosen = codec_of(codec);
    const std::vector<uint8_t> bytes = chosen.encode(q, shape);
    if (bytes.empty()) onnxopt::fail("%s cannot hold these integers", chosen.name);
    hand_over(bytes, out, size);
    return codec;
  });
}

int onnxopt_encode_lossless(const void* data, size_t width, size_t rows, size_t cols, uint8_t** out,
                            size_t* size) {
  return encoding([&] {
    const onnxopt::LosslessStream stream =
        onnxopt::lossless_encode(static_cast<const uint8_t*>(data), width, checked_shape(rows, cols));
    hand_over(stream.bytes, out, size);
    return stream.version;
  });
}

int onnxopt_decode_integers(int codec, const void* data, size_t size, size_t rows, size_t cols, int32_t* q) {
  return guarded(-1, [&] {
    IntegerSink sink(q);
    codec_of(codec).decode(view(data, size), checked_shape(rows, cols), sink);
    return 0;
  });
}

int onnxopt_decode_lossless(const void* data, size_t size, size_t width, size_t rows, size_t cols,
                            void* out) {
  return guarded(-1, [&] {
    onnxopt::lossless_decode(view(data, size), width, checked_shape(rows, cols), static_cast<uint8_t*>(out));
    return 0;
  });
}

int onnxopt_decode_floats(int codec, const void* data, size_t size, size_t rows, size_t cols,
                          const float* scales, float* out) {
  return guarded(-1, [&] {
    onnxopt::decode_into(codec_of(codec), view(data, size), checked_shape(rows, cols), 0,
                         static_cast<uint8_t>(onnxopt::Dtype::kFloat32), onnxopt::Affine{scales, rows, true},
                         reinterpret_cast<uint8_t*>(out));
    return 0;
  });
}

const char* onnxopt_codec_name(int codec) {
  if (codec == onnxopt::kLossless) return "lossless";
  return guarded<const char*>(nullptr, [&] { return codec_of(codec).name; });
}

const char* onnxopt_simd(void) { return onnxopt::simd_name(); }

int onnxopt_set_simd(const char* name) {
  return guarded(-1, [&] {
    if (!onnxopt::set_simd(name)) onnxopt::fail("this machine has no %s", name);
    return 0;
  });
}

void onnxopt_free(void* data) { std::free(data); }
