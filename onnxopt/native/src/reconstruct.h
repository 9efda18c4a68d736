// Integers -> tensor elements, run by run as a codec decodes them.
#pragma once

#include "codec.h"

namespace onnxopt {

// Element types, numbered as ONNX's TensorProto.DataType.
enum class Dtype : uint8_t {
  kFloat32 = 1,
  kUint8 = 2,
  kInt8 = 3,
  kUint16 = 4,
  kInt16 = 5,
  kInt32 = 6,
  kInt64 = 7,
  kBool = 9,
  kFloat16 = 10,
  kFloat64 = 11,
  kUint32 = 12,
  kUint64 = 13,
  kBfloat16 = 16,
  kFloat8E4M3FN = 17,
  kFloat8E4M3FNUZ = 18,
  kFloat8E5M2 = 19,
  kFloat8E5M2FNUZ = 20,
  kUint4 = 21,
  kInt4 = 22,
  kFloat4E2M1 = 23,
};
// Bytes an element, or a pair of 4 bits each; 0 where containers do not hold this type.
size_t dtype_bytes(uint8_t dtype);
// Whether two elements share a byte, the first in its low half.
constexpr bool is_paired(uint8_t dtype) {
  return dtype >= static_cast<uint8_t>(Dtype::kUint4) && dtype <= static_cast<uint8_t>(Dtype::kFloat4E2M1);
}

// value = q: the tensor has an integer type that q must fit; for floats of 8 bits and pairs of 4 bits that is
// uint8.
struct Raw {};
// value = float32(q) * scale in float32, then rounded to the target type (float32, float16, float64,
// bfloat16). scales[row % period] where by_row, else scales[col].
struct Affine {
  const float* scales;
  size_t period;
  bool by_row;
};
// value = table[q]; an index outside the table throws Error.
struct Codebook {
  const uint8_t* table;  // size elements of the target type
  size_t size;
};

// bits(value) = bits(other) + q, in two's complement: the other tensor's element of the same number or, where
// transposed, that at [col, row] of its [cols, rows]. Where scaled, a float32 that is first multiplied by
// scale.
struct Relative {
  const uint8_t* other;  // as many elements as the whole tensor has
  size_t rows;           // of the whole tensor
  bool transposed, scaled;
  float scale;
};

// One of these sinks per chunk; `out` is where row 0 of the chunk starts, `first_row` is that row's number in
// the whole tensor (so that row scales are found).
void decode_into(const Codec& codec, Bytes in, Shape chunk, size_t first_row, uint8_t dtype, const Raw&,
                 uint8_t* out);
void decode_into(const Codec& codec, Bytes in, Shape chunk, size_t first_row, uint8_t dtype, const Affine&,
                 uint8_t* out);
void decode_into(const Codec& codec, Bytes in, Shape chunk, size_t first_row, uint8_t dtype, const Codebook&,
                 uint8_t* out);

void decode_into(const Codec& codec, Bytes in, Shape chunk, size_t first_row, uint8_t dtype, const Relative&,
                 uint8_t* out);

}  // namespace onnxopt
