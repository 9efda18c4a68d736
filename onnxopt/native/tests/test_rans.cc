// The rANS codec: round trips on every vector level, broken bytes, golden bytes.
#include <algorithm>
#include <random>

#include "check.h"
#include "codec.h"
#include "rans_tables.h"
#include "simd.h"

namespace onnxopt {
namespace {

constexpr const char* kLevels[] = {"scalar", "avx2", "avx512", "neon"};

class Collect final : public Sink {
 public:
  explicit Collect(size_t n) : values(n), seen(n) {}
  void put(size_t first, const int32_t* q, size_t n) override {
    CHECK(n <= kRun && first + n <= values.size());
    std::copy_n(q, n, values.begin() + static_cast<std::ptrdiff_t>(first));
    for (size_t i = first; i < first + n; ++i) {
      CHECK(!seen[i]);
      seen[i] = true;
    }
  }
  bool complete() const { return std::find(seen.begin(), seen.end(), false) == seen.end(); }

  std::vector<int32_t> values;

 private:
  std::vector<bool> seen;
};

using Matrix = std::vector<int32_t>;
using Coded = std::vector<uint8_t>;

std::vector<int32_t> decode(const Coded& coded, Shape shape) {
  Collect sink(shape.size());
  codecs::rans.decode({coded.data(), coded.size()}, shape, sink);
  CHECK(sink.complete());
  return sink.values;
}

// Integers of a rough bell shape, from the generator's bits alone: std's distributions differ between
// libraries.
Matrix bell(std::mt19937& random, Shape shape, unsigned spread, unsigned zeros_of_16, bool scaled_rows) {
  Matrix q(shape.size());
  for (size_t i = 0; i < q.size(); ++i) {
    int64_t sum = 0;
    for (int k = 0; k < 4; ++k) sum += random() % (2 * spread + 1);
    int64_t value = sum - 4 * static_cast<int64_t>(spread);
    if (scaled_rows) value = value * static_cast<int64_t>(1 + i / shape.cols % 4) / 4;
    q[i] = random() % 16 < zeros_of_16 ? 0 : static_cast<int32_t>(value);
  }
  return q;
}

Coded round_trip(const Matrix& q, Shape shape) {
  const Coded coded = codecs::rans.encode(q.data(), shape);
  CHECK(!coded.empty());
  for (const char* level : kLevels) {
    if (set_simd(level)) CHECK(decode(coded, shape) == q);
  }
  set_simd(nullptr);
  return coded;
}

void shapes_and_distributions() {
  std::mt19937 random(1);
  const Shape shapes[] = {{1, 1},  {1, 2},   {2, 1},    {3, 7},     {1, 4097},   {4097, 1},  {64, 64},
                          {31, 9}, {500, 9}, {64, 576}, {100, 333}, {128, 2048}, {300, 1000}};
  for (const Shape shape : shapes) {
    for (const unsigned spread : {1U, 3U, 20U, 100U, 1000U, 100000U}) {
      round_trip(bell(random, shape, spread, 0, false), shape);
      round_trip(bell(random, shape, spread, 14, true), shape);
    }
  }
}

void degenerate() {
  for (const Shape shape : {Shape{0, 0}, Shape{0, 5}, Shape{5, 0}}) CHECK(round_trip({}, shape).size() <= 2);
  for (const int32_t value : {0, -1, 7, INT32_MIN, INT32_MAX}) {
    for (const Shape shape : {Shape{1, 1}, Shape{100, 100}}) {
      CHECK(round_trip(Matrix(shape.size(), value), shape).size() <= 6);
    }
  }
  round_trip({INT32_MIN, INT32_MAX}, {1, 2});
  round_trip({INT32_MAX, INT32_MAX - 1, INT32_MAX - 255, INT32_MAX - 256}, {2, 2});
  round_trip({INT32_MIN, INT32_MIN + 1, INT32_MIN + 255, INT32_MIN + 256}, {4, 1});
}

void outliers_are_escaped() {
  std::mt19937 random(2);
  const Shape shape{100, 400};
  Matrix q = bell(random, shape, 3, 0, false);
  const size_t plain = round_trip(q, shape).size();
  for (const size_t i : {size_t{0}, size_t{777}, q.size() - 1}) q[i] = i % 2 ? INT32_MAX : INT32_MIN;
  CHECK(round_trip(q, shape).size() < plain + 40);
}

void all_256_symbols() {
  Matrix q(64 * 256);
  for (size_t i = 0; i < q.size(); ++i) q[i] = static_cast<int32_t>(i * 37 % 256) - 128;
  CHECK(round_trip(q, {64, 256}).size() < q.size() + 300);
}

void classes_pay() {
  std::mt19937 random(3);
  const Shape shape{256, 512};
  Matrix q = bell(random, shape, 8, 0, true);
  const size_t sorted = round_trip(q, shape).size();
  std::shuffle(q.begin(), q.end(), random);
  CHECK(sorted < round_trip(q, shape).size());
}

// Decodes to something or throws Error, the same on every level.
void decode_broken(const Coded& coded, Shape shape, bool must_throw) {
  Matrix first;
  int outcome = -1;
  for (const char* level : kLevels) {
    if (!set_simd(level)) continue;
    Matrix values;
    int now = 0;
    try {
      values = decode(coded, shape);
    } catch (const Error&) {
      now = 1;
    }
    CHECK(!must_throw || now == 1);
    CHECK(outcome == -1 || (now == outcome && values == first));
    outcome = now;
    first = values;
  }
  set_simd(nullptr);
}

void broken_bytes() {
  std::mt19937 random(4);
  struct Case {
    Shape shape;
    unsigned spread;
    unsigned zeros;
  };
  for (const Case c :
       {Case{{8, 9}, 2, 0}, Case{{40, 60}, 100, 4}, Case{{64, 90}, 3, 12}, Case{{80, 200}, 9, 0}}) {
    const Matrix q = bell(random, c.shape, c.spread, c.zeros, true);
    const Coded coded = codecs::rans.encode(q.data(), c.shape);
    for (size_t n = 0; n < coded.size(); n += 1 + n / 64) {
      decode_broken(Coded(coded.begin(), coded.begin() + static_cast<std::ptrdiff_t>(n)), c.shape, true);
    }
    Coded longer = coded;
    longer.push_back(0);
    decode_broken(longer, c.shape, true);
    for (int trial = 0; trial < 600; ++trial) {
      Coded flipped = coded;
      const size_t near = trial % 2 ? 64 : flipped.size();  // headers and tables stand first
      for (size_t flips = 1 + random() % 3; flips > 0; --flips) {
        flipped[random() % std::min(near, flipped.size())] ^= static_cast<uint8_t>(1U << random() % 8);
      }
      decode_broken(flipped, c.shape, false);
    }
  }
  for (int trial = 0; trial < 5000; ++trial) {
    Coded noise(random() % 200);
    for (uint8_t& b : noise) b = static_cast<uint8_t>(random());
    if (!noise.empty() && trial % 2)
      noise[0] = static_cast<uint8_t>((trial % 4 == 1 ? 0x40 : 0x70) | noise[0] % 15);
    decode_broken(noise, {1 + random() % 20, 1 + random() % 20}, false);
  }
}

// A sparse matrix of many values, whose frequencies 12 bits are too coarse for.
const Shape kSparse{256, 300};
Matrix sparse() {
  std::mt19937 random(7);
  return bell(random, kSparse, 30, 15, false);
}

void fine_frequencies() {
  const Coded coded = round_trip(sparse(), kSparse);
  CHECK(coded[0] >> 4 == rans::kMaxPrecision - rans::kMinPrecision);
  std::mt19937 random(8);
  for (size_t n = 0; n < coded.size(); n += 1 + n / 16) {
    decode_broken(Coded(coded.begin(), coded.begin() + static_cast<std::ptrdiff_t>(n)), kSparse, true);
  }
  for (int trial = 0; trial < 100; ++trial) {
    Coded flipped = coded;
    flipped[random() % (trial % 2 ? 64 : flipped.size())] ^= static_cast<uint8_t>(1U << random() % 8);
    decode_broken(flipped, kSparse, false);
  }
  for (unsigned precision = rans::kMaxPrecision + 1; precision < rans::kMinPrecision + 15; ++precision) {
    Coded finer = coded;
    finer[0] = static_cast<uint8_t>((precision - rans::kMinPrecision) << 4 | (coded[0] & 15));
    decode_broken(finer, kSparse, true);
  }
}

// Frequencies sum to the number of slots whatever the levels.
void frequencies_sum() {
  std::mt19937 random(5);
  for (int trial = 0; trial < 2000; ++trial) {
    const auto resolution = static_cast<unsigned>(random() % (rans::kMaxResolution + 1));
    const unsigned precision =
        rans::kMinPrecision +
        static_cast<unsigned>(random() % (rans::kMaxPrecision - rans::kMinPrecision + 1));
    const size_t symbols = 1 + random() % rans::kMaxSymbols;
    rans::Levels levels{};
    for (size_t s = 0; s < symbols; ++s) {
      levels[s] = random() % 3 ? static_cast<uint8_t>(random() % ((14U << resolution) + 2)) : uint8_t{0};
    }
    levels[random() % symbols] = 1;
    rans::Freqs freqs{};
    rans::frequencies(levels, symbols, resolution, precision, freqs);
    unsigned sum = 0;
    for (size_t s = 0; s < symbols; ++s) {
      CHECK((freqs[s] > 0) == (levels[s] > 0));
      sum += freqs[s];
    }
    CHECK(sum == 1U << precision);
  }
}

uint64_t fnv1a(const Coded& bytes) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const uint8_t b : bytes) hash = (hash ^ b) * 0x100000001b3;
  return hash;
}

// These bytes are forever: a change here breaks every file.
void golden_bytes() {
  const Matrix q{0, 1, -1, 2, 0, 0, 3, -2, 1, 0, -1, 0};
  const Coded expected{0x40, 0x03, 0x05, 0x00, 0x00, 0xf0, 0x10, 0x48, 0xf7, 0xb8, 0x3a, 0xb4, 0x3f};
  CHECK(round_trip(q, {3, 4}) == expected);

  // A large one, by hash: encoders on every machine agree.
  std::mt19937 random(6);
  const Shape shape{200, 1000};
  CHECK(fnv1a(round_trip(bell(random, shape, 6, 3, true), shape)) == 0x8f9b169930bda6e7);
  CHECK(fnv1a(round_trip(sparse(), kSparse)) == 0x90c035bd9e35b629);
}

void levels_of_simd() {
  CHECK(!set_simd("mmx"));
  CHECK(set_simd("scalar") && std::string(simd_name()) == "scalar");
#if defined(ONNXOPT_NEON)
  CHECK(set_simd("neon") && !set_simd("avx2"));
#else
  CHECK(!set_simd("neon"));
#endif
  CHECK(set_simd(nullptr));
}

}  // namespace
}  // namespace onnxopt

int main() {
  onnxopt::shapes_and_distributions();
  onnxopt::degenerate();
  onnxopt::outliers_are_escaped();
  onnxopt::all_256_symbols();
  onnxopt::classes_pay();
  onnxopt::broken_bytes();
  onnxopt::fine_frequencies();
  onnxopt::frequencies_sum();
  onnxopt::golden_bytes();
  onnxopt::levels_of_simd();
}
