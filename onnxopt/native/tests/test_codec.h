// What every integer codec must do, run over all of them by test_codecs.cc: round trips over many shapes and
// distributions, and hostile bytes that either decode or throw, never anything else.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "check.h"
#include "choose.h"

namespace onnxopt {

class Random {  // SplitMix64
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  size_t below(size_t n) { return static_cast<size_t>(next() % n); }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53 + 0x1p-54; }
  double gaussian() { return std::sqrt(-2 * std::log(uniform())) * std::cos(6.283185307179586 * uniform()); }
  double laplace() { return (next() & 1 ? -1 : 1) * std::log(uniform()); }

 private:
  uint64_t state_;
};

struct Matrix {
  std::string name;
  Shape shape;
  std::vector<int32_t> q;
};

template <class Draw>
Matrix matrix(std::string name, size_t rows, size_t cols, Draw draw) {
  Matrix m{std::move(name), {rows, cols}, std::vector<int32_t>(rows * cols)};
  for (int32_t& v : m.q) v = static_cast<int32_t>(draw());
  return m;
}

inline std::vector<Matrix> matrices() {
  Random random(1);
  std::vector<Matrix> all;
  const std::vector<Shape> shapes{{0, 0}, {0, 5}, {5, 0},    {1, 1},    {1, 7},
                                  {7, 1}, {3, 3}, {1, 4096}, {4097, 1}, {33, 130}};
  for (const Shape s : shapes) {
    for (const double scale : {0.3, 3.0, 40.0, 3000.0}) {
      all.push_back(matrix("gaussian", s.rows, s.cols, [&] { return std::rint(scale * random.gaussian()); }));
      all.push_back(matrix("laplace", s.rows, s.cols, [&] { return std::rint(scale * random.laplace()); }));
    }
    all.push_back(matrix("sparse", s.rows, s.cols,
                         [&] { return random.uniform() < 0.9 ? 0 : std::rint(9 * random.gaussian()); }));
    all.push_back(matrix("nearly empty", s.rows, s.cols, [&] { return random.uniform() < 0.999 ? 0 : 1; }));
    for (const int32_t c : {0, 1, -1, 77, INT32_MIN, INT32_MAX}) {
      all.push_back(matrix("constant", s.rows, s.cols, [&] { return c; }));
    }
    all.push_back(
        matrix("extremes", s.rows, s.cols, [&] { return random.next() & 1 ? INT32_MIN : INT32_MAX; }));
    all.push_back(matrix("any", s.rows, s.cols, [&] { return static_cast<int32_t>(random.next()); }));
    all.push_back(
        matrix("unsigned", s.rows, s.cols, [&] { return std::rint(128 + 20 * random.gaussian()); }));
    all.push_back(
        matrix("far", s.rows, s.cols, [&] { return INT32_MAX - static_cast<int32_t>(random.next() & 7); }));
  }
  all.push_back(matrix("long", 70, 1000, [&] { return std::rint(5 * random.gaussian()); }));
  all.push_back(matrix("all zero", 256, 1024, [] { return 0; }));
  return all;
}

// Counts that every element came exactly once.
class CheckedSink : public Sink {
 public:
  explicit CheckedSink(size_t n) : q(n), times_(n) {}
  void put(size_t first, const int32_t* from, size_t n) override {
    CHECK(n <= kRun && first <= q.size() && n <= q.size() - first);
    for (size_t i = 0; i < n; ++i) {
      q[first + i] = from[i];
      CHECK(++times_[first + i] == 1);
    }
  }
  void expect_all() const {
    for (const int t : times_) CHECK(t == 1);
  }
  std::vector<int32_t> q;

 private:
  std::vector<int> times_;
};

inline std::vector<int32_t> decoded(const Codec& codec, const std::vector<uint8_t>& bytes, Shape shape) {
  // A copy of exactly this size, so that a sanitizer sees any read past its end.
  const std::vector<uint8_t> exact(bytes);
  CheckedSink sink(shape.size());
  codec.decode({exact.data(), exact.size()}, shape, sink);
  sink.expect_all();
  return sink.q;
}

// Whatever the bytes: integers or an Error. Returns whether it was an Error.
inline bool refused(const Codec& codec, const std::vector<uint8_t>& bytes, Shape shape) {
  try {
    decoded(codec, bytes, shape);
    return false;
  } catch (const Error&) {
    return true;
  }
}

inline void check_codec(const Codec& codec) {
  for (const Matrix& m : matrices()) {
    const std::vector<uint8_t> bytes = codec.encode(m.q.data(), m.shape);
    if (bytes.empty()) continue;
    CHECK(decoded(codec, bytes, m.shape) == m.q);
    CHECK(codec.encode(m.q.data(), m.shape) == bytes);
    std::vector<uint8_t> longer(bytes);
    longer.push_back(0);
    CHECK(refused(codec, longer, m.shape));
    longer.back() = 0xa5;  // may at most be another matrix's bytes
    CHECK(refused(codec, longer, m.shape) || decoded(codec, longer, m.shape) != m.q);
    const size_t places = m.shape.size() < 1000 ? 40 : 10;  // to damage, at the start and all over
    const size_t step = bytes.size() / places + 1;
    for (size_t n = 0; n < bytes.size(); n += step)
      refused(codec, {bytes.begin(), bytes.begin() + static_cast<long>(n)}, m.shape);
    CHECK(refused(codec, {}, m.shape));
    for (size_t i = 0; i < bytes.size(); i += i < places ? 1 : step) {
      for (const uint8_t flip : {1, 16, 128, 255}) {
        std::vector<uint8_t> bad(bytes);
        bad[i] = static_cast<uint8_t>(bad[i] ^ flip);
        refused(codec, bad, m.shape);
      }
    }
    refused(codec, bytes, {m.shape.rows + 1, m.shape.cols});
    if (m.shape.rows != 0) refused(codec, bytes, {m.shape.rows - 1, m.shape.cols});
  }
  Random random(2);
  for (int i = 0; i < 5000; ++i) {
    std::vector<uint8_t> noise(random.next() % 48);
    for (uint8_t& b : noise) b = static_cast<uint8_t>(random.next() >> (random.next() % 8));
    refused(codec, noise, {1 + random.below(6), random.below(40)});
  }
}

inline void check_golden(const Codec& codec, Shape shape, const std::vector<int32_t>& q,
                         const std::vector<uint8_t>& expected) {
  const std::vector<uint8_t> bytes = codec.encode(q.data(), shape);
  if (bytes != expected) {
    std::fprintf(stderr, "%s: {", codec.name);
    for (const uint8_t b : bytes) std::fprintf(stderr, "0x%02x, ", b);
    std::fprintf(stderr, "}\n");
  }
  CHECK(bytes == expected);
  CHECK(decoded(codec, expected, shape) == q);
}

}  // namespace onnxopt
