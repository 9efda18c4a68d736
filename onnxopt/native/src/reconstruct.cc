#include "reconstruct.h"

#include <algorithm>
#include <limits>

namespace onnxopt {
namespace {

[[noreturn]] void unsupported(uint8_t dtype, const char* how) {
  fail("element type %u cannot be rebuilt from integers by %s", dtype, how);
}

// --- value = q ---

template <typename T>
class RawSink final : public Sink {
 public:
  explicit RawSink(uint8_t* out) : out_(out) {}

  void put(size_t first, const int32_t* q, size_t n) override {
    using Limits = std::numeric_limits<T>;
    // What of T's range an int32 can leave; int32 itself and wider types need no upper check.
    constexpr int32_t lo = Limits::is_signed && sizeof(T) < 4 ? static_cast<int32_t>(Limits::lowest())
                           : Limits::is_signed                ? INT32_MIN
                                                              : 0;
    constexpr int32_t hi = sizeof(T) < 4 ? static_cast<int32_t>(Limits::max()) : INT32_MAX;
    int32_t least = hi;
    int32_t most = lo;
    for (size_t i = 0; i < n; ++i) {
      least = std::min(least, q[i]);
      most = std::max(most, q[i]);
    }
    if (least < lo || most > hi) {
      fail("integer %d does not fit its element type, %d to %d", least < lo ? least : most, lo, hi);
    }
    uint8_t* to = out_ + first * sizeof(T);
    for (size_t i = 0; i < n; ++i) {
      const T value = static_cast<T>(q[i]);
      std::memcpy(to + i * sizeof(T), &value, sizeof(T));
    }
  }

 private:
  uint8_t* out_;
};

// --- value = q * scale ---

uint32_t bits_of(float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

float float_of(uint32_t bits) {
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

struct ToFloat32 {
  using Type = float;
  static float from(float value) { return value; }
};
struct ToFloat64 {
  using Type = double;
  static double from(float value) { return value; }
};

struct ToBfloat16 {
  using Type = uint16_t;
  // To nearest even: adding half of the last place kept, less one where that place is even, carries over when
  // needed.
  static uint16_t from(float value) {
    const uint32_t bits = bits_of(value);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    const bool nan = (bits & 0x7fffffff) > 0x7f800000;
    return static_cast<uint16_t>(nan ? (bits >> 16 | 0x40) : rounded);
  }
};

struct ToFloat16 {
  using Type = uint16_t;
  // To nearest even, in integers and one float addition, without branches [M. Dukhan's FP16 library]: scaling
  // up makes what overflows infinite; adding a power of two whose last place is float16's rounds the
  // mantissa, and subnormals with it.
  static uint16_t from(float value) {
    const uint32_t bits = bits_of(value);
    const uint32_t sign = bits & 0x80000000;
    const float magnitude = float_of(bits & 0x7fffffff);
    float scaled = magnitude * float_of(0x77800000);  // 2^112
    scaled = scaled * float_of(0x08800000);           // 2^-110
    uint32_t bias = bits << 1 & 0xff000000;
    bias = std::max(bias, uint32_t{0x71000000});
    scaled = float_of((bias >> 1) + 0x07800000) + scaled;
    const uint32_t rounded = bits_of(scaled);
    const uint32_t half = (rounded >> 13 & 0x7c00) + (rounded & 0x0fff);
    const bool nan = (bits & 0x7fffffff) > 0x7f800000;
    return static_cast<uint16_t>(sign >> 16 | (nan ? 0x7e00 : half));
  }
};

template <typename To>
class AffineSink final : public Sink {
 public:
  AffineSink(Shape shape, size_t first_row, const Affine& affine, uint8_t* out)
      : cols_(shape.cols), first_row_(first_row), affine_(affine), out_(out) {}

  void put(size_t first, const int32_t* q, size_t n) override {
    size_t row = first / cols_;
    size_t col = first % cols_;
    uint8_t* to = out_ + first * sizeof(Type);
    while (n > 0) {
      const size_t count = std::min(n, cols_ - col);
      if (affine_.by_row) {
        const float scale = affine_.scales[(first_row_ + row) % affine_.period];
        for (size_t i = 0; i < count; ++i) store(to, i, q[i], scale);
      } else {
        const float* scales = affine_.scales + col;
        for (size_t i = 0; i < count; ++i) store(to, i, q[i], scales[i]);
      }
      q += count;
      n -= count;
      to += count * sizeof(Type);
      col = 0;
      ++row;
    }
  }

 private:
  using Type = typename To::Type;

  // One conversion, one multiplication, one rounding each: the same bits on every machine.
  static void store(uint8_t* to, size_t i, int32_t q, float scale) {
    const Type value = To::from(static_cast<float>(q) * scale);
    std::memcpy(to + i * sizeof(Type), &value, sizeof(Type));
  }

  size_t cols_;
  size_t first_row_;
  Affine affine_;
  uint8_t* out_;
};

// --- value = table[q] ---

template <typename T>
class CodebookSink final : public Sink {
 public:
  CodebookSink(const Codebook& codebook, uint8_t* out) : codebook_(codebook), out_(out) {}

  void put(size_t first, const int32_t* q, size_t n) override {
    uint32_t most = 0;
    for (size_t i = 0; i < n; ++i) most = std::max(most, static_cast<uint32_t>(q[i]));
    if (n > 0 && most >= codebook_.size) {
      fail("index %d into a codebook of %zu", static_cast<int32_t>(most), codebook_.size);
    }
    uint8_t* to = out_ + first * sizeof(T);
    for (size_t i = 0; i < n; ++i) {
      std::memcpy(to + i * sizeof(T), codebook_.table + static_cast<size_t>(q[i]) * sizeof(T), sizeof(T));
    }
  }

 private:
  Codebook codebook_;
  uint8_t* out_;
};

// --- bits(value) = bits(other) + q ---

class RelativeSink final : public Sink {
 public:
  RelativeSink(Shape chunk, size_t first_row, size_t width, const Relative& relative, uint8_t* out)
      : relative_(relative), width_(width), cols_(chunk.cols), first_(first_row * chunk.cols), out_(out) {}

  void put(size_t first, const int32_t* q, size_t n) override {
    uint8_t* to = out_ + first * width_;
    for (size_t i = 0; i < n; ++i, to += width_) {
      size_t from = first_ + first + i;
      if (relative_.transposed) from = from % cols_ * relative_.rows + from / cols_;
      uint64_t bits = 0;  // machines are little-endian, as everywhere here
      std::memcpy(&bits, relative_.other + from * width_, width_);
      if (relative_.scaled) bits = bits_of(float_of(static_cast<uint32_t>(bits)) * relative_.scale);
      bits += static_cast<uint64_t>(int64_t{q[i]});
      std::memcpy(to, &bits, width_);
    }
  }

 private:
  Relative relative_;
  size_t width_, cols_, first_;
  uint8_t* out_;
};

}  // namespace

size_t dtype_bytes(uint8_t dtype) {
  switch (static_cast<Dtype>(dtype)) {
    case Dtype::kUint8:
    case Dtype::kInt8:
    case Dtype::kBool:
    case Dtype::kFloat8E4M3FN:
    case Dtype::kFloat8E4M3FNUZ:
    case Dtype::kFloat8E5M2:
    case Dtype::kFloat8E5M2FNUZ:
    case Dtype::kUint4:
    case Dtype::kInt4:
    case Dtype::kFloat4E2M1:
      return 1;
    case Dtype::kUint16:
    case Dtype::kInt16:
    case Dtype::kFloat16:
    case Dtype::kBfloat16:
      return 2;
    case Dtype::kFloat32:
    case Dtype::kInt32:
    case Dtype::kUint32:
      return 4;
    case Dtype::kInt64:
    case Dtype::kFloat64:
    case Dtype::kUint64:
      return 8;
  }
  return 0;
}

void decode_into(const Codec& codec, Bytes in, Shape chunk, size_t, uint8_t dtype, const Raw&, uint8_t* out) {
  const auto run = [&](auto sink) { codec.decode(in, chunk, sink); };
  switch (static_cast<Dtype>(dtype)) {
    case Dtype::kUint8:
      return run(RawSink<uint8_t>(out));
    case Dtype::kInt8:
      return run(RawSink<int8_t>(out));
    case Dtype::kBool:
      return run(RawSink<bool>(out));
    case Dtype::kUint16:
      return run(RawSink<uint16_t>(out));
    case Dtype::kInt16:
      return run(RawSink<int16_t>(out));
    case Dtype::kInt32:
      return run(RawSink<int32_t>(out));
    case Dtype::kUint32:
      return run(RawSink<uint32_t>(out));
    case Dtype::kInt64:
      return run(RawSink<int64_t>(out));
    case Dtype::kUint64:
      return run(RawSink<uint64_t>(out));
    default:
      if (dtype_bytes(dtype) == 1) return run(RawSink<uint8_t>(out));
      unsupported(dtype, "a cast");
  }
}

void decode_into(const Codec& codec, Bytes in, Shape chunk, size_t first_row, uint8_t dtype,
                 const Affine& affine, uint8_t* out) {
  if (affine.by_row && affine.period == 0 && chunk.rows > 0) fail("a tensor of scales is empty");
  const auto run = [&](auto to) {
    AffineSink<decltype(to)> sink(chunk, first_row, affine, out);
    codec.decode(in, chunk, sink);
  };
  switch (static_cast<Dtype>(dtype)) {
    case Dtype::kFloat32:
      return run(ToFloat32{});
    case Dtype::kFloat64:
      return run(ToFloat64{});
    case Dtype::kFloat16:
      return run(ToFloat16{});
    case Dtype::kBfloat16:
      return run(ToBfloat16{});
    default:
      unsupported(dtype, "scales");
  }
}

void decode_into(const Codec& codec, Bytes in, Shape chunk, size_t, uint8_t dtype, const Codebook& codebook,
                 uint8_t* out) {
  const auto run = [&](auto sink) { codec.decode(in, chunk, sink); };
  switch (dtype_bytes(dtype)) {
    case 1:
      return run(CodebookSink<uint8_t>(codebook, out));
    case 2:
      return run(CodebookSink<uint16_t>(codebook, out));
    case 4:
      return run(CodebookSink<uint32_t>(codebook, out));
    case 8:
      return run(CodebookSink<uint64_t>(codebook, out));
    default:
      unsupported(dtype, "a codebook");
  }
}

void decode_into(const Codec& codec, Bytes in, Shape chunk, size_t first_row, uint8_t dtype,
                 const Relative& relative, uint8_t* out) {
  RelativeSink sink(chunk, first_row, dtype_bytes(dtype), relative, out);
  codec.decode(in, chunk, sink);
}

}  // namespace onnxopt
