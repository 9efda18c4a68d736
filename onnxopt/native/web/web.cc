// The decoder for WebAssembly: what decode.js calls. An instance decodes one file: an error leaves it by
// onnxopt_host_fail, and it is not used again.
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <unordered_map>

#include "container.h"
#include "onnx_file.h"
#include "protobuf.h"

#define ONNXOPT_WEB(name) extern "C" __attribute__((export_name(#name)))

using onnxopt::Bytes;
using onnxopt::Container;
using onnxopt::Entry;
using onnxopt::fail;
using onnxopt::Field;

namespace {

constexpr uint64_t kAlignment = 64;
constexpr size_t kBatch = size_t{1} << 18;  // weights are decoded in batches of about so many bytes, or one
constexpr std::string_view kLocation = "onnxopt";

uint64_t aligned(uint64_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

// Where a weight lies in the file of weights.
struct Place {
  uint64_t offset;
  uint64_t size;
};
using Places = std::unordered_map<std::string_view, Place>;

// Appends a length-delimited field.
void put(std::vector<uint8_t>& out, unsigned number, Bytes bytes) {
  onnxopt::Writer writer(out);
  writer.varint(number << 3 | 2);
  writer.varint(bytes.size);
  writer.bytes(bytes);
}

void put(std::vector<uint8_t>& out, unsigned number, std::string_view text) {
  put(out, number, Bytes{reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

// The message with its fields of this number rewritten, and all others as they are.
template <typename Rewrite>
std::vector<uint8_t> rewritten(Bytes message, unsigned number, Rewrite rewrite) {
  std::vector<uint8_t> out;
  onnxopt::each_field(message, [&](const Field& f) {
    if (f.number == number) {
      rewrite(out, f);
    } else {
      onnxopt::Writer(out).bytes(f.whole);
    }
  });
  return out;
}

// The model, whose weights lie in the file kLocation. Fields: ModelProto.graph = 7; GraphProto.initializer =
// 5; TensorProto.name = 8, external_data = 13; StringStringEntryProto.key = 1, value = 2.
std::vector<uint8_t> with_places(Bytes model, const Places& places) {
  const auto tensor = [&](std::vector<uint8_t>& out, const Field& initializer) {
    std::string_view name;
    onnxopt::each_field(initializer.bytes, [&](const Field& f) {
      if (f.number == 8) name = f.text();
    });
    const auto place = places.find(name);
    if (place == places.end()) return onnxopt::Writer(out).bytes(initializer.whole);
    std::vector<uint8_t> moved = rewritten(initializer.bytes, 13, [](auto&, const Field&) {});
    const auto add = [&](std::string_view key, std::string_view value) {
      std::vector<uint8_t> entry;
      put(entry, 1, key);
      put(entry, 2, value);
      put(moved, 13, {entry.data(), entry.size()});
    };
    add("location", kLocation);
    add("offset", std::to_string(place->second.offset));
    add("length", std::to_string(place->second.size));
    put(out, 5, {moved.data(), moved.size()});
  };
  return rewritten(model, 7, [&](std::vector<uint8_t>& out, const Field& f) {
    const std::vector<uint8_t> graph = rewritten(f.bytes, 5, tensor);
    put(out, 7, {graph.data(), graph.size()});
  });
}

Bytes container_of(Bytes file) {
  const onnxopt::Payload payload = onnxopt::find_payload(file);
  if (payload.bytes.data == nullptr) {
    fail("the container lies in another file, '%s': here a model must be one file", payload.location.c_str());
  }
  if (!payload.alone) {
    fail(
        "the model has nodes or outputs beside its compressed part, which only the native library runs: "
        "`onnxopt decompress` makes a plain model of it");
  }
  return payload.bytes;
}

// A file while it is decoded, from its first weight to its last.
class Decoding {
 public:
  explicit Decoding(Bytes file) : container_(container_of(file)) {
    Places places;
    for (const Entry& e : container_.entries()) {
      if (e.hidden) continue;
      places[e.name] = {size_, e.size};
      size_ += aligned(e.size);
    }
    const std::string& model = container_.model();
    model_ = with_places({reinterpret_cast<const uint8_t*>(model.data()), model.size()}, places);
  }

  const std::vector<uint8_t>& model() const { return model_; }
  uint64_t size() const { return size_; }

  // The next weights; none behind the last.
  Bytes next_batch() {
    const std::vector<Entry>& entries = container_.entries();
    const size_t first = next_;
    uint64_t size = 0;
    for (; next_ < entries.size(); ++next_) {
      if (entries[next_].hidden) continue;
      const uint64_t more = aligned(entries[next_].size);
      if (size != 0 && size + more > kBatch) break;
      size += more;
    }
    if (size > PTRDIFF_MAX) fail("a weight of %" PRIu64 " bytes is more than WebAssembly's memory", size);
    if (size > room_) {
      batch_.reset();
      batch_.reset(new uint8_t[static_cast<size_t>(size)]);
      room_ = size;
    }
    std::vector<void*> out(entries.size());
    uint8_t* at = batch_.get();
    for (size_t i = first; i < next_; ++i) {
      if (entries[i].hidden) continue;
      out[i] = at;
      uint8_t* end = at + entries[i].size;
      at += aligned(entries[i].size);
      std::fill(end, at, uint8_t{0});
    }
    container_.decode(out, 1);
    return {batch_.get(), static_cast<size_t>(size)};
  }

 private:
  Container container_;
  std::vector<uint8_t> model_;
  uint64_t size_ = 0;  // of all weights
  size_t next_ = 0;
  std::unique_ptr<uint8_t[]> batch_;
  uint64_t room_ = 0;  // in batch_
};

// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): one an instance
std::unique_ptr<Decoding> decoding;
// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables)
Bytes batch;

}  // namespace

// What the C++ library would end the program for.
void* operator new(size_t size) {
  void* made = std::malloc(std::max<size_t>(size, 1));
  if (made == nullptr) fail("out of memory: %zu bytes more are needed", size);
  return made;
}
void operator delete(void* made) noexcept { std::free(made); }
void operator delete(void* made, size_t) noexcept { std::free(made); }

// Room for a file of `size` bytes.
ONNXOPT_WEB(allocate) void* allocate(size_t size) { return operator new(size); }
// Reads a file, which stays where it is.
ONNXOPT_WEB(open) void open_file(const uint8_t* data, size_t size) {
  decoding = std::make_unique<Decoding>(Bytes{data, size});
}
// The serialized model, whose weights lie in the external file "onnxopt".
ONNXOPT_WEB(model) const uint8_t* model() { return decoding->model().data(); }
ONNXOPT_WEB(model_size) size_t model_size() { return decoding->model().size(); }
// Bytes of that file. It follows in batches: decode_next() decodes one, of batch_size() bytes, and says
// where.
ONNXOPT_WEB(weights_size) double weights_size() { return static_cast<double>(decoding->size()); }
ONNXOPT_WEB(decode_next) const uint8_t* decode_next() {
  batch = decoding->next_batch();
  return batch.data;
}
ONNXOPT_WEB(batch_size) size_t batch_size() { return batch.size; }
