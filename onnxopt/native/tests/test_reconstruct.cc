// Integers -> tensor elements: every type, scale layouts, rounding, range checks.
#include <cmath>
#include <limits>
#include <random>

#include "check.h"
#include "reconstruct.h"

namespace onnxopt {
namespace {

using Matrix = std::vector<int32_t>;

template <typename T, typename How>
std::vector<T> rebuild(const Matrix& q, Shape shape, Dtype dtype, const How& how, size_t first_row = 0) {
  const std::vector<uint8_t> coded = codecs::raw.encode(q.data(), shape);
  std::vector<T> out(shape.size());
  decode_into(codecs::raw, {coded.data(), coded.size()}, shape, first_row, static_cast<uint8_t>(dtype), how,
              reinterpret_cast<uint8_t*>(out.data()));
  return out;
}

Matrix noise(size_t n, int32_t lo, int32_t hi) {
  std::mt19937 random(1);
  Matrix q(n);
  for (int32_t& v : q) v = lo + static_cast<int32_t>(random() % static_cast<uint32_t>(hi - lo + 1));
  return q;
}

template <typename T>
void cast(Dtype dtype, int32_t lo, int32_t hi) {
  const Matrix q = noise(5000, -1, 2);
  Matrix fits(q);
  for (int32_t& v : fits) v = v < 0 ? lo : v > 1 ? hi : v;
  const std::vector<T> out = rebuild<T>(fits, {50, 100}, dtype, Raw{});
  for (size_t i = 0; i < fits.size(); ++i) CHECK(static_cast<int64_t>(out[i]) == fits[i]);
  if (lo > INT32_MIN) CHECK_THROWS(rebuild<T>({0, lo - 1}, {1, 2}, dtype, Raw{}));
  if (hi < INT32_MAX) CHECK_THROWS(rebuild<T>({hi + 1, 0}, {1, 2}, dtype, Raw{}));
}

void casts() {
  cast<uint8_t>(Dtype::kUint8, 0, 255);
  cast<int8_t>(Dtype::kInt8, -128, 127);
  cast<uint8_t>(Dtype::kBool, 0, 1);
  cast<uint16_t>(Dtype::kUint16, 0, 65535);
  cast<int16_t>(Dtype::kInt16, -32768, 32767);
  cast<int32_t>(Dtype::kInt32, INT32_MIN, INT32_MAX);
  cast<uint32_t>(Dtype::kUint32, 0, INT32_MAX);
  cast<int64_t>(Dtype::kInt64, INT32_MIN, INT32_MAX);
  cast<uint64_t>(Dtype::kUint64, 0, INT32_MAX);
  CHECK_THROWS(rebuild<float>({1}, {1, 1}, Dtype::kFloat32, Raw{}));
}

void scales() {
  for (const Shape shape : {Shape{3, 5}, Shape{7, 4096}, Shape{2, 9000}, Shape{3000, 3}, Shape{1, 1}}) {
    const Matrix q = noise(shape.size(), -2000, 2000);
    std::vector<float> by_row(5);
    for (size_t i = 0; i < by_row.size(); ++i) by_row[i] = 0.001F * static_cast<float>(i + 1);
    std::vector<float> by_col(shape.cols);
    for (size_t i = 0; i < by_col.size(); ++i) by_col[i] = 1.0F / static_cast<float>(i + 3);
    const size_t first_row = 13;
    const auto rows =
        rebuild<float>(q, shape, Dtype::kFloat32, Affine{by_row.data(), by_row.size(), true}, first_row);
    const auto cols =
        rebuild<float>(q, shape, Dtype::kFloat32, Affine{by_col.data(), by_col.size(), false}, first_row);
    const auto doubles =
        rebuild<double>(q, shape, Dtype::kFloat64, Affine{by_row.data(), by_row.size(), true}, first_row);
    for (size_t i = 0; i < q.size(); ++i) {
      const float row_value = static_cast<float>(q[i]) * by_row[(first_row + i / shape.cols) % by_row.size()];
      CHECK(rows[i] == row_value);
      CHECK(doubles[i] == static_cast<double>(row_value));
      CHECK(cols[i] == static_cast<float>(q[i]) * by_col[i % shape.cols]);
    }
  }
  const float one = 1.0F;
  CHECK_THROWS(rebuild<int8_t>({1}, {1, 1}, Dtype::kInt8, Affine{&one, 1, true}));
  CHECK_THROWS(rebuild<float>({1}, {1, 1}, Dtype::kFloat32, Affine{&one, 0, true}));
}

// A float16's or bfloat16's value, from its definition.
double value_of(uint16_t bits, int exponent_bits) {
  const int mantissa_bits = 15 - exponent_bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = bits >> mantissa_bits & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const double sign = bits >> 15 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1)
    return mantissa ? NAN : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

// Every finite value comes back; halfway between two neighbours goes to the even one, either side of it to
// the nearer.
void rounding(Dtype dtype, int exponent_bits) {
  const int infinity = ((1 << exponent_bits) - 1) << (15 - exponent_bits);
  const auto round = [&](float scale) {
    return rebuild<uint16_t>({1, -1}, {1, 2}, dtype, Affine{&scale, 1, true});
  };
  for (int bits = 0; bits + 1 < infinity; ++bits) {
    const double low = value_of(static_cast<uint16_t>(bits), exponent_bits);
    const double high = value_of(static_cast<uint16_t>(bits + 1), exponent_bits);
    const auto exact = static_cast<float>(low);
    const auto middle = static_cast<float>((low + high) / 2);
    CHECK(round(exact)[0] == bits && round(exact)[1] == (bits | 0x8000));
    if (static_cast<double>(middle) != (low + high) / 2) continue;  // below float32's own subnormals
    CHECK(round(middle)[0] == bits + bits % 2);
    CHECK(round(std::nextafter(middle, 0.0F))[0] == bits);
    CHECK(round(std::nextafter(middle, std::numeric_limits<float>::infinity()))[0] == bits + 1);
  }
  CHECK(round(std::numeric_limits<float>::infinity())[0] == infinity);
  CHECK(round(std::numeric_limits<float>::max())[0] == infinity);
  CHECK(std::isnan(value_of(round(NAN)[0], exponent_bits)));
}

void codebooks() {
  const std::vector<float> table{-1.5F, 0.25F, 3.0F};
  const Codebook codebook{reinterpret_cast<const uint8_t*>(table.data()), table.size()};
  const Matrix q = noise(10000, 0, 2);
  const auto out = rebuild<float>(q, {100, 100}, Dtype::kFloat32, codebook);
  for (size_t i = 0; i < q.size(); ++i) CHECK(out[i] == table[static_cast<size_t>(q[i])]);
  CHECK_THROWS(rebuild<float>({0, 3}, {1, 2}, Dtype::kFloat32, codebook));
  CHECK_THROWS(rebuild<float>({0, -1}, {1, 2}, Dtype::kFloat32, codebook));
  const std::vector<uint8_t> bytes{9, 8};
  CHECK(rebuild<uint8_t>({1, 0}, {1, 2}, Dtype::kUint8, Codebook{bytes.data(), 2}) ==
        (std::vector<uint8_t>{8, 9}));
}

void sizes() {
  CHECK(dtype_bytes(1) == 4 && dtype_bytes(3) == 1 && dtype_bytes(10) == 2 && dtype_bytes(13) == 8);
  CHECK(dtype_bytes(0) == 0 && dtype_bytes(8) == 0 && dtype_bytes(255) == 0);
}

}  // namespace
}  // namespace onnxopt

int main() {
  onnxopt::casts();
  onnxopt::scales();
  onnxopt::rounding(onnxopt::Dtype::kFloat16, 5);
  onnxopt::rounding(onnxopt::Dtype::kBfloat16, 8);
  onnxopt::codebooks();
  onnxopt::sizes();
}
