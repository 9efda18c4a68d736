// Fuzz target of everything that reads untrusted bytes. The first byte of an input says what the rest is:
//
//   0 .. 4   [u8 rows][u16 cols] then a stream of the integer codec with this id
//   5        [u8 rows][u16 cols][u8 log2 of the element's bytes] then a lossless stream
//   6        [u8 entries][u16 n] then n bytes of metadata, not deflated, then data: packed into a container
//            of version 3
//   7        [u8 id] then as 0 .. 4, a stream of any integer codec
//   others   a compressed .onnx file or a bare container, as it is
//
// Built with ONNXOPT_FUZZING, every checksum matches. Beyond what sanitizers see, this checks that codecs
// hand over every element once, and that vector and scalar decoders agree, also on what is an error.
#include <zlib.h>

#include <cstdlib>
#include <optional>
#include <vector>

#include "container.h"
#include "lossless.h"
#include "onnx_file.h"
#include "simd.h"
#include "streamed.h"

namespace {

using onnxopt::Bytes;
using onnxopt::Codec;
using onnxopt::Container;
using onnxopt::Entry;
using onnxopt::Error;
using onnxopt::Reader;
using onnxopt::Shape;
using Values = std::optional<std::vector<uint8_t>>;  // nothing: the bytes were refused

constexpr uint64_t kMostDecoded = uint64_t{1}
                                  << 16;  // bytes, a few runs of elements: more would only be slow

class OnceSink final : public onnxopt::Sink {
 public:
  explicit OnceSink(size_t n) : values_(n), times_(n) {}
  void put(size_t first, const int32_t* q, size_t n) override {
    if (n > kRun || first > values_.size() || n > values_.size() - first) std::abort();
    for (size_t i = 0; i < n; ++i) {
      values_[first + i] = q[i];
      if (++times_[first + i] != 1) std::abort();
    }
  }
  std::vector<uint8_t> bytes() const {
    for (const uint8_t t : times_) {
      if (t != 1) std::abort();
    }
    std::vector<uint8_t> out(values_.size() * sizeof(int32_t));
    if (!out.empty()) std::memcpy(out.data(), values_.data(), out.size());
    return out;
  }

 private:
  std::vector<int32_t> values_;
  std::vector<uint8_t> times_;
};

Values integers(const Codec& codec, Bytes in, Shape shape) {
  OnceSink sink(shape.size());
  codec.decode(in, shape, sink);
  return sink.bytes();
}

Values elements(Bytes in, size_t width, Shape shape) {
  std::vector<uint8_t> out(shape.size() * width);
  onnxopt::lossless_decode(in, width, shape, out.data());
  return out;
}

// Reads the inner model as the loader does that streams its weights.
void rewrite(const Container& container) {
  try {
    const std::shared_ptr<const Container> borrowed(std::shared_ptr<void>(), &container);
    std::ignore = onnxopt::Streamed(borrowed, 0, 1).model();
  } catch (const Error&) {  // NOLINT(bugprone-empty-catch)
  }
}

Values weights(Bytes file) {
  const Container container(onnxopt::find_container(file));
  rewrite(container);
  uint64_t total = 0;
  for (const Entry& e : container.entries()) {
    if (e.size > kMostDecoded || (total += e.size) > kMostDecoded) return std::nullopt;
  }
  std::vector<std::vector<uint8_t>> tensors;
  std::vector<void*> out;
  for (const Entry& e : container.entries()) {
    tensors.emplace_back(e.size);
    out.push_back(tensors.back().data());
  }
  container.decode(out, 1);
  std::vector<uint8_t> all;
  for (const auto& t : tensors) all.insert(all.end(), t.begin(), t.end());
  return all;
}

// A container of this metadata, in one stored deflate block.
std::vector<uint8_t> container_of(uint32_t entries, Bytes meta, Bytes data) {
  const auto crc = [](Bytes b) {
    return static_cast<uint32_t>(crc32_z(crc32_z(0, nullptr, 0), b.data, b.size));
  };
  std::vector<uint8_t> packed;
  onnxopt::Writer block(packed);
  block.u8(1);  // the last block, stored
  block.u16(static_cast<uint16_t>(meta.size));
  block.u16(static_cast<uint16_t>(~meta.size));
  block.bytes(meta);
  std::vector<uint8_t> out;
  onnxopt::Writer w(out);
  w.bytes({reinterpret_cast<const uint8_t*>("onnxopt\0"), 8});
  w.u16(3);
  w.u16(0);
  w.u32(entries);
  w.u64(packed.size());
  w.u64(meta.size);
  w.u64(data.size);
  w.u32(crc({packed.data(), packed.size()}));
  w.u32(0);
  w.u32(crc({out.data(), out.size()}));
  w.bytes({packed.data(), packed.size()});
  w.bytes(data);
  return out;
}

Values decoded(Bytes input) {
  Reader r(input);
  const uint8_t kind = r.left() == 0 ? 255 : r.u8();
  if (kind > 7) return weights(input);
  if (kind == 6) {
    const uint32_t entries = r.u8();
    const Bytes meta = r.bytes(r.u16());
    const std::vector<uint8_t> container = container_of(entries, meta, r.rest());
    return weights({container.data(), container.size()});
  }
  const uint8_t id = kind == 7 ? r.u8() : kind;
  const size_t rows = r.u8();
  const Shape shape{rows, r.u16()};
  if (shape.size() > kMostDecoded / sizeof(uint64_t)) return std::nullopt;
  if (id == onnxopt::kLossless) {
    const size_t width = size_t{1} << (r.u8() & 3);
    return elements(r.rest(), width, shape);
  }
  const Codec* codec = onnxopt::find_codec(id);
  return codec == nullptr ? std::nullopt : integers(*codec, r.rest(), shape);
}

Values outcome(Bytes input, const char* simd) {
  onnxopt::set_simd(simd);
  try {
    return decoded(input);
  } catch (const Error&) {
    return std::nullopt;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Bytes input{data, size};
  if (outcome(input, "scalar") != outcome(input, nullptr)) std::abort();
  return 0;
}
