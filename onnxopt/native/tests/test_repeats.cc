// Modes 4 to 6 of the lossless codec, and what finds repeats: streams by hand, and that every match found is
// one.
#include <cstring>

#include "find_repeats.h"
#include "lossless.h"
#include "test_codec.h"

using namespace onnxopt;

namespace {

using Stream = std::vector<uint8_t>;

void append(Stream& out, const Stream& more) { out.insert(out.end(), more.begin(), more.end()); }

// A coded matrix [1, n].
Stream row(const std::vector<int32_t>& values) {
  const Coded coded = encode_best(values.data(), {1, values.size()}, Prefer::kFastest);
  Stream out{coded.codec};
  Writer writer(out);
  writer.varint(coded.bytes.size());
  writer.bytes({coded.bytes.data(), coded.bytes.size()});
  return out;
}

struct Repeats {
  std::vector<int32_t> gaps, lengths, distances, ways;
};

Stream stream_of(const Repeats& repeats, const Stream& stored) {
  Stream out{4};
  Writer(out).varint(repeats.gaps.size());
  for (const auto* values : {&repeats.gaps, &repeats.lengths, &repeats.distances, &repeats.ways})
    append(out, row(*values));
  append(out, stored);
  return out;
}

template <class T>
std::vector<T> decoded(const Stream& stream, Shape shape) {
  const Stream exact(stream);
  std::vector<T> out(shape.size());
  lossless_decode({exact.data(), exact.size()}, sizeof(T), shape, reinterpret_cast<uint8_t*>(out.data()));
  return out;
}

template <class T>
Stream single(const std::vector<T>& values) {
  return lossless_encode(reinterpret_cast<const uint8_t*>(values.data()), sizeof(T), {1, values.size()})
      .bytes;
}

template <class T>
Repeats found(const std::vector<T>& values, size_t shortest) {
  const size_t capacity = values.size() / shortest;
  std::vector<int32_t> out(4 * capacity + 1);
  const ptrdiff_t count =
      onnxopt_find_repeats(values.data(), sizeof(T), values.size(), shortest, capacity, out.data());
  CHECK(count >= 0 && static_cast<size_t>(count) <= capacity);
  const auto part = [&](size_t k) {
    const auto first = out.begin() + static_cast<long>(k * capacity);
    return std::vector<int32_t>(first, first + count);
  };
  return {part(0), part(1), part(2), part(3)};
}

void by_hand() {
  const Stream stored = single(std::vector<uint16_t>{1, 2, 3});
  using Words = std::vector<uint16_t>;
  const auto one = [&](int32_t gap, int32_t length, int32_t distance, int32_t ways) {
    return decoded<uint16_t>(stream_of({{gap}, {length}, {distance}, {ways}}, stored), {1, 8});
  };
  const Words forward{1, 2, 3, 1, 2, 3, 1, 2}, overlapping{1, 2, 3, 3, 3, 3, 3, 3};
  CHECK(one(3, 5, 3, 0) == forward);
  CHECK(one(3, 5, 1, 0) == overlapping);
  CHECK(one(2, 5, 1, 2) == (Words{1, 2, 0x8002, 0x8002, 2, 2, 0x8002, 3}));
  CHECK(one(2, 5, 2, 4) == (Words{1, 2, 1, 0x8002, 1, 2, 1, 3}));
  CHECK(decoded<uint16_t>(stream_of({{3}, {3}, {1}, {7}}, stored), {2, 3}) ==
        (Words{1, 2, 3, 0x8003, 0x8002, 0x8001}));
  CHECK_THROWS(one(3, 6, 3, 0));
  CHECK_THROWS(one(3, 5, 4, 0));
  CHECK_THROWS(one(2, 5, 2, 1));
  CHECK(decoded<uint16_t>(stream_of({{}, {}, {}, {}}, stored), {1, 3}) == (Words{1, 2, 3}));

  Stream columns{5, 2};
  append(columns, single(Words{1, 2, 3, 4, 5, 6}));
  CHECK(decoded<uint16_t>(columns, {1, 6}) == (Words{1, 4, 2, 5, 3, 6}));
  columns[1] = 4;
  CHECK_THROWS(decoded<uint16_t>(columns, {1, 6}));

  Stream rotated{6};
  append(rotated, row({0, 1, 65535, 0x1234}));
  CHECK(decoded<uint16_t>(rotated, {2, 2}) == (Words{0, 0x8000, 0xffff, 0x091a}));
  CHECK_THROWS(decoded<uint32_t>(rotated, {2, 2}));
}

// Rows of random elements, copied, negated, mirrored, alternating: decoding what was found gives them back.
template <class T>
void found_comes_back(Random& random) {
  constexpr T kTop = static_cast<T>(T{1} << (8 * sizeof(T) - 1));
  for (const size_t cols : {size_t{1}, size_t{7}, size_t{64}, size_t{301}}) {
    std::vector<T> values;
    for (size_t r = 0; r < 12; ++r) {
      const size_t from = r == 0 ? 0 : random.next() % r * cols;
      const unsigned how = r == 0 ? 9 : static_cast<unsigned>(random.next() % 10);
      for (size_t c = 0; c < cols; ++c) {
        if (how == 9) {
          values.push_back(static_cast<T>(random.next()));
        } else {
          const T v = values[from + (how & 1 ? cols - 1 - c : c)];
          values.push_back(static_cast<T>(v ^ ((how & 2 && c % 2 == 0) || (how & 4 && c % 2) ? kTop : T{0})));
        }
      }
    }
    for (const size_t shortest : {size_t{1}, size_t{2}, size_t{8}, size_t{40}}) {
      const Repeats repeats = found(values, shortest);
      std::vector<T> stored;
      size_t at = 0;
      for (size_t i = 0; i < repeats.gaps.size(); ++i) {
        CHECK(repeats.lengths[i] >= static_cast<int32_t>(shortest));
        for (int32_t k = 0; k < repeats.gaps[i]; ++k) stored.push_back(values[at++]);
        at += static_cast<size_t>(repeats.lengths[i]);
      }
      stored.insert(stored.end(), values.begin() + static_cast<long>(at), values.end());
      if (cols == 301 && sizeof(T) > 1 && shortest == 8) CHECK(stored.size() < values.size());
      CHECK(decoded<T>(stream_of(repeats, single(stored)), {12, cols}) == values);
    }
  }
}

void hostile(Random& random) {
  std::vector<uint32_t> values;
  for (size_t i = 0; i < 40; ++i) values.push_back(static_cast<uint32_t>(random.next()));
  for (size_t i = 0; i < 200; ++i) values.push_back(values[i]);
  const Repeats repeats = found(values, 2);
  const Stream whole = stream_of(repeats, single(std::vector<uint32_t>(values.begin(), values.begin() + 40)));
  CHECK(decoded<uint32_t>(whole, {6, 40}) == values);
  const auto refused = [](const Stream& stream) {
    try {
      decoded<uint32_t>(stream, {6, 40});
      return false;
    } catch (const Error&) {
      return true;
    }
  };
  for (size_t n = 0; n < whole.size(); ++n)
    CHECK(refused({whole.begin(), whole.begin() + static_cast<long>(n)}));
  for (size_t i = 0; i < 8 * whole.size(); ++i) {
    Stream bad(whole);
    bad[i / 8] = static_cast<uint8_t>(bad[i / 8] ^ 1 << i % 8);
    refused(bad);
  }
  for (int i = 0; i < 20000; ++i) {
    Stream noise(2 + random.next() % 60);
    for (uint8_t& b : noise) b = static_cast<uint8_t>(random.next() >> (random.next() % 8));
    noise[0] = static_cast<uint8_t>(4 + random.next() % 3);
    refused(noise);
  }
}

}  // namespace

int main() {
  by_hand();
  Random random(5);
  found_comes_back<uint8_t>(random);
  found_comes_back<uint16_t>(random);
  found_comes_back<uint32_t>(random);
  found_comes_back<uint64_t>(random);
  hostile(random);
}
