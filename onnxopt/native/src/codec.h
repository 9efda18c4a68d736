// The codec interface: integers in a matrix <-> bytes. A codec knows nothing of weights, scales or files.
//
// Adding a codec: one file codecs/NAME.cc that defines `const Codec codecs::NAME`. CMake finds it there, and
// the choice of codecs, the C ABI, Python and the contract tests then know it. Its id is forever.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "bytes.h"

namespace onnxopt {

// The matrix q[rows, cols] that a codec sees, stored row by row.
struct Shape {
  size_t rows = 0;
  size_t cols = 0;
  size_t size() const { return rows * cols; }
};

// Takes decoded integers. Codecs hand them over in runs short enough to stay in the first-level cache.
class Sink {
 public:
  static constexpr size_t kRun = 4096;  // the longest run, in integers

  virtual ~Sink() = default;
  // q[0, n) are the elements first .. first + n of the matrix in row-major order; a run may span several
  // rows. A codec hands over every element exactly once, in any order of runs.
  virtual void put(size_t first, const int32_t* q, size_t n) = 0;
};

struct Codec {
  // Returns the coded form of q[rows, cols]; empty where this codec cannot hold these integers.
  using Encode = std::vector<uint8_t> (*)(const int32_t* q, Shape shape);
  // Inverse of encode. Throws Error on malformed bytes, leftover bytes included; never reads past `in`.
  using Decode = void (*)(Bytes in, Shape shape, Sink& sink);

#if defined(ONNXOPT_DECODER_ONLY)
  // Nothing refers to the encoder, so that the linker leaves it out.
  constexpr Codec(uint8_t its_id, const char* its_name, Encode, Decode its_decode) noexcept
      : id(its_id), name(its_name), encode(nullptr), decode(its_decode) {}
#else
  constexpr Codec(uint8_t its_id, const char* its_name, Encode its_encode, Decode its_decode) noexcept
      : id(its_id), name(its_name), encode(its_encode), decode(its_decode) {}
#endif

  uint8_t id;  // in files; no two codecs may have the same
  const char* name;
  Encode encode;
  Decode decode;
};

// One for each file in codecs/.
namespace codecs {
#define ONNXOPT_CODEC(name) extern const Codec name;
#include "codec_list.inc"  // written by CMake
#undef ONNXOPT_CODEC
}  // namespace codecs

// Ids that no integer codec may have.
constexpr uint8_t kLossless = 5;  // the lossless codec, which codes elements, not integers; see lossless.h
constexpr uint8_t kStored = 255;  // inside lossless streams: bytes as they are

// Null where no integer codec has this id.
const Codec* find_codec(uint8_t id);
// Every integer codec, in order of id. Throws Error where two have the same id.
const std::vector<const Codec*>& all_codecs();

}  // namespace onnxopt
