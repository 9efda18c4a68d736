// Bitpack: [svarint minimum][u8 width 0..32] then every integer's offset from the minimum in `width` bits,
// least significant bit first; the bits that fill the last byte are zero.
#include <algorithm>

#include "codec.h"

namespace onnxopt {
namespace {

unsigned bits_for(uint32_t v) {
  unsigned bits = 0;
  for (; v != 0; v >>= 1) ++bits;
  return bits;
}

std::vector<uint8_t> encode(const int32_t* q, Shape shape) {
  const size_t n = shape.size();
  const auto [lo, hi] = n ? std::minmax_element(q, q + n) : std::pair{q, q};
  const auto minimum = n ? static_cast<uint32_t>(*lo) : 0;
  const unsigned width = n ? bits_for(static_cast<uint32_t>(*hi) - minimum) : 0;
  std::vector<uint8_t> out;
  Writer writer(out);
  writer.svarint(static_cast<int32_t>(minimum));
  writer.u8(static_cast<uint8_t>(width));
  out.reserve(out.size() + n / 8 * width + width + 8);
  uint64_t pending = 0;
  unsigned filled = 0;
  for (size_t i = 0; width != 0 && i < n; ++i) {
    pending |= static_cast<uint64_t>(static_cast<uint32_t>(q[i]) - minimum) << filled;
    for (filled += width; filled >= 8; filled -= 8, pending >>= 8)
      out.push_back(static_cast<uint8_t>(pending));
  }
  if (filled != 0) out.push_back(static_cast<uint8_t>(pending));
  return out;
}

uint64_t load64(const uint8_t* p) {  // little-endian; compilers make one load of it
  uint64_t v = 0;
  for (unsigned b = 0; b < 8; ++b) v |= static_cast<uint64_t>(p[b]) << (8 * b);
  return v;
}

uint64_t load_tail(const uint8_t* p, size_t left) {
  uint64_t v = 0;
  for (size_t b = 0; b < std::min<size_t>(left, 8); ++b) v |= static_cast<uint64_t>(p[b]) << (8 * b);
  return v;
}

// ceil(n * width / 8) without overflow.
uint64_t packed_size(uint64_t n, unsigned width) { return n / 8 * width + (n % 8 * width + 7) / 8; }

void decode(Bytes in, Shape shape, Sink& sink) {
  Reader reader(in);
  const int64_t minimum = reader.svarint();
  const unsigned width = reader.u8();
  const uint64_t n = shape.size();
  if (minimum < INT32_MIN || minimum > INT32_MAX || width > 32) {
    fail("bitpack: minimum %" PRId64 " in %u bits, at most 32 bits expected", minimum, width);
  }
  const Bytes packed = reader.bytes(packed_size(n, width));
  reader.expect_end("bitpack");
  const auto unused = static_cast<unsigned>(packed.size * 8 - n * width);
  if (unused != 0 && packed.data[packed.size - 1] >> (8 - unused) != 0) {
    fail("bitpack: bits set after the last integer");
  }
  const uint64_t mask = (uint64_t{1} << width) - 1;
  const auto base = static_cast<uint32_t>(minimum);
  int32_t run[Sink::kRun];
  for (size_t first = 0; first < n; first += Sink::kRun) {
    const size_t count = std::min(Sink::kRun, static_cast<size_t>(n) - first);
    const uint8_t* p = packed.data + first / 8 * width;  // runs begin on whole bytes: kRun is a multiple of 8
    const size_t left = packed.size - first / 8 * width;
    const size_t whole = left < 8 || width == 0 ? 0 : std::min(count, (left - 8) * 8 / width);
    for (size_t i = 0; i < whole; ++i) {
      const size_t bit = i * width;
      run[i] = static_cast<int32_t>(base + static_cast<uint32_t>(load64(p + bit / 8) >> (bit % 8) & mask));
    }
    for (size_t i = whole; i < count; ++i) {
      const size_t bit = i * width;
      run[i] = static_cast<int32_t>(
          base + static_cast<uint32_t>(load_tail(p + bit / 8, left - bit / 8) >> (bit % 8) & mask));
    }
    sink.put(first, run, count);
  }
}

}  // namespace

const Codec codecs::bitpack{1, "bitpack", encode, decode};

}  // namespace onnxopt
