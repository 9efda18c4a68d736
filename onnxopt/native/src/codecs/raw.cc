// Raw: [u8 width = 1, 2 or 4] then every integer in that many bytes, little-endian, two's complement.
#include <algorithm>

#include "codec.h"

namespace onnxopt {
namespace {

size_t width_for(int32_t lo, int32_t hi) {
  if (lo >= INT8_MIN && hi <= INT8_MAX) return 1;
  if (lo >= INT16_MIN && hi <= INT16_MAX) return 2;
  return 4;
}

std::vector<uint8_t> encode(const int32_t* q, Shape shape) {
  const size_t n = shape.size();
  const auto [lo, hi] = n ? std::minmax_element(q, q + n) : std::pair{q, q};
  const size_t width = n ? width_for(*lo, *hi) : 1;
  std::vector<uint8_t> out(1 + n * width);
  out[0] = static_cast<uint8_t>(width);
  uint8_t* p = out.data() + 1;
  for (size_t i = 0; i < n; ++i) {
    const auto v = static_cast<uint32_t>(q[i]);
    for (size_t b = 0; b < width; ++b) *p++ = static_cast<uint8_t>(v >> (8 * b));
  }
  return out;
}

void decode(Bytes in, Shape shape, Sink& sink) {
  Reader reader(in);
  const size_t width = reader.u8();
  if (width != 1 && width != 2 && width != 4) fail("raw: width %zu is not 1, 2 or 4", width);
  if (reader.left() / width != shape.size() || reader.left() % width != 0) {
    fail("raw: %zu bytes for %zu integers of %zu", reader.left(), shape.size(), width);
  }
  const uint8_t* p = reader.rest().data;
  const auto unused = static_cast<unsigned>(32 - 8 * width);
  int32_t run[Sink::kRun];
  for (size_t first = 0; first < shape.size(); first += Sink::kRun) {
    const size_t n = std::min(Sink::kRun, shape.size() - first);
    for (size_t i = 0; i < n; ++i) {
      uint32_t v = 0;
      for (size_t b = 0; b < width; ++b) v |= static_cast<uint32_t>(*p++) << (8 * b);
      run[i] = static_cast<int32_t>(v << unused) >> unused;  // sign-extend
    }
    sink.put(first, run, n);
  }
}

}  // namespace

const Codec codecs::raw{0, "raw", encode, decode};

}  // namespace onnxopt
