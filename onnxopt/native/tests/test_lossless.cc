#include <cstring>

#include "lossless.h"
#include "test_codec.h"

using namespace onnxopt;

namespace {

std::vector<uint8_t> decoded_bytes(const std::vector<uint8_t>& coded, size_t width, Shape shape) {
  const std::vector<uint8_t> exact(coded);
  std::vector<uint8_t> out(shape.size() * width);
  lossless_decode({exact.data(), exact.size()}, width, shape, out.data());
  return out;
}

bool refused_bytes(const std::vector<uint8_t>& coded, size_t width, Shape shape) {
  try {
    decoded_bytes(coded, width, shape);
    return false;
  } catch (const Error&) {
    return true;
  }
}

void check(const std::vector<uint8_t>& data, size_t width, Shape shape, size_t most) {
  const std::vector<uint8_t> coded = lossless_encode(data.data(), width, shape).bytes;
  CHECK(decoded_bytes(coded, width, shape) == data);
  CHECK(coded.size() <= most);
  CHECK(shape.size() / kMaxIntegersPerByte <= coded.size());
  std::vector<uint8_t> longer(coded);
  longer.push_back(0);
  CHECK(refused_bytes(longer, width, shape));
  const size_t step = coded.size() / 50 + 1;
  for (size_t n = 0; n < coded.size(); n += step) {
    CHECK(refused_bytes({coded.begin(), coded.begin() + static_cast<long>(n)}, width, shape));
  }
  for (size_t i = 0; i < coded.size(); i += i < 50 ? 1 : step) {
    for (const uint8_t flip : {1, 2, 64, 255}) {
      std::vector<uint8_t> bad(coded);
      bad[i] = static_cast<uint8_t>(bad[i] ^ flip);
      refused_bytes(bad, width, shape);
    }
  }
}

template <class T>
void check_all(const std::vector<T>& values, Shape shape, double most) {
  std::vector<uint8_t> data(values.size() * sizeof(T));
  if (!data.empty()) std::memcpy(data.data(), values.data(), data.size());
  check(data, sizeof(T), shape, static_cast<size_t>(most * static_cast<double>(data.size())) + 16);
}

template <class T, class Draw>
std::vector<T> draw(size_t n, Draw one) {
  std::vector<T> out(n);
  for (T& v : out) v = static_cast<T>(one());
  return out;
}

// Order-0 bits of a sequence of what occurs so often.
double entropy(std::initializer_list<size_t> counts) {
  size_t n = 0;
  double bits = 0;
  for (const size_t count : counts) {
    n += count;
    if (count != 0) bits -= static_cast<double>(count) * std::log2(count);
  }
  return bits + static_cast<double>(n) * std::log2(n);
}

// Where a share is zero, of which some are negative: no more than telling them apart and the others take.
template <class T>
void check_zeros(Random& random, double share, double negative) {
  const Shape s{120, 100};
  std::vector<T> others;
  size_t negatives = 0;
  const std::vector<T> values = draw<T>(s.size(), [&] {
    if (random.uniform() < share) {
      if (random.uniform() >= negative) return 0.0;
      ++negatives;
      return -0.0;
    }
    others.push_back(static_cast<T>(0.05 * random.gaussian()));
    return double{others.back()};
  });
  const double apart = entropy({negatives, s.size() - others.size() - negatives, others.size()}) / 8;
  const auto* bytes = reinterpret_cast<const uint8_t*>(others.data());
  const size_t rest = lossless_encode(bytes, sizeof(T), {1, others.size()}).bytes.size();
  check_all(values, s,
            (1.02 * apart + static_cast<double>(rest)) / static_cast<double>(s.size() * sizeof(T)));
}

std::vector<uint8_t> bytes_of(std::initializer_list<int> values) { return {values.begin(), values.end()}; }

// Mode 3 by hand: marks coded by codec 0, the others in mode 0, their bytes as they are.
void check_marks() {
  const std::vector<uint8_t> marks = bytes_of({3, 0, 5, 1, 0, 1, 2, 1});
  const auto with = [&](std::initializer_list<int> more) {
    std::vector<uint8_t> out(marks);
    out.insert(out.end(), more.begin(), more.end());
    return out;
  };
  CHECK(decoded_bytes(with({0, 255, 0x12, 0x34, 255, 0x56, 0x78}), 2, {2, 2}) ==
        bytes_of({0, 0, 0x2b, 0x09, 0, 0x80, 0x3c, 0x1a}));
  CHECK(decoded_bytes(with({0, 255, 7, 9}), 1, {4, 1}) == bytes_of({0, 7, 0x80, 9}));
  CHECK(refused_bytes(with({}), 2, {2, 2}));
  CHECK(refused_bytes(with({3, 0, 3, 1, 1, 1, 0, 255, 0, 0, 255, 0, 0}), 2, {2, 2}));  // not again
  CHECK(refused_bytes(with({0, 255, 0x12, 0x34, 255, 0x56}), 2, {2, 2}));
  CHECK(refused_bytes(with({0, 255, 0x12, 0x34, 255, 0x56, 0x78, 0}), 2, {2, 2}));
  CHECK(refused_bytes(with({0, 255, 0x12, 0x34, 255, 0x56, 0x78}), 2, {2, 3}));
  for (const int mark : {3, 127, 128, 255}) {
    std::vector<uint8_t> bad = with({0, 255, 0x12, 0x34, 255, 0x56, 0x78});
    bad[7] = static_cast<uint8_t>(mark);
    CHECK(refused_bytes(bad, 2, {2, 2}));
  }
  CHECK(decoded_bytes(bytes_of({3, 0, 1, 1, 0}), 4, {0, 9}).empty());
}

}  // namespace

int main() {
  check_marks();
  Random random(4);
  for (const double share : {0.02, 0.5, 0.95, 0.999}) {
    for (const double negative : {0.0, 0.5}) {
      check_zeros<float>(random, share, negative);
      check_zeros<double>(random, share, negative);
    }
  }
  for (const Shape s : {Shape{0, 0}, Shape{0, 3}, Shape{1, 1}, Shape{1, 5}, Shape{40, 30}}) {
    const size_t n = s.size();
    check_all(draw<float>(n, [&] { return 0.05 * random.gaussian(); }), s, n > 100 ? 0.9 : 2);
    check_all(draw<double>(n, [&] { return 0.05 * random.gaussian(); }), s, n > 100 ? 0.97 : 2);
    check_all(draw<float>(n, [&] { return static_cast<double>(random.next() % 9) * 0.125 - 0.5; }), s,
              n > 100 ? 0.15 : 2);
    check_all(draw<int64_t>(n, [&] { return static_cast<double>(random.next() % 1000) - 500; }), s,
              n > 100 ? 0.17 : 2);
    check_all(draw<int8_t>(n, [&] { return std::rint(6 * random.gaussian()); }), s, n > 100 ? 0.65 : 4);
    check_all(draw<uint8_t>(n, [&] { return std::rint(128 + 6 * random.gaussian()); }), s,
              n > 100 ? 0.65 : 4);
    for (const size_t width :
         {1u, 2u, 4u, 8u}) {  // any bits at all: NaNs, infinities, denormals, negative zeros
      check(draw<uint8_t>(n * width, [&] { return random.next() >> 3; }), width, s, n * width + 16);
    }
  }
  check_all(std::vector<float>(10000, 0.0f), {100, 100}, 0.0002);
  check_all(std::vector<float>(10000, -0.0f), {100, 100}, 0.0005);
  std::vector<uint32_t> odd{0x80000000, 0, 0x7fc00001, 0xffc12345, 0x7f800000,
                            0xff800000, 1, 0x80000001, 0x007fffff};
  check_all(odd, {3, 3}, 2);
  for (int i = 0; i < 12; ++i) odd.insert(odd.end(), odd.begin(), odd.begin() + 9);
  check_all(odd, {odd.size() / 9, 9}, 1);
  CHECK_THROWS(lossless_encode(nullptr, 3, {0, 0}));
  for (int i = 0; i < 20000; ++i) {
    std::vector<uint8_t> noise(random.next() % 40);
    for (uint8_t& b : noise) b = static_cast<uint8_t>(random.next() >> (random.next() % 8));
    if (!noise.empty()) noise[0] = static_cast<uint8_t>(noise[0] & 3);
    refused_bytes(noise, size_t{1} << random.next() % 4, {1 + random.below(6), random.below(20)});
  }
}
