// Toy: [u8 0] then every integer in four bytes, big-endian. Never the smallest, so no file changes with it.
#include "codec.h"

namespace onnxopt {
namespace {

std::vector<uint8_t> encode(const int32_t* q, Shape shape) {
  std::vector<uint8_t> out{0};
  for (size_t i = 0; i < shape.size(); ++i) {
    for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<uint8_t>(q[i] >> shift));
  }
  return out;
}

void decode(Bytes in, Shape shape, Sink& sink) {
  Reader reader(in);
  if (reader.u8() != 0) fail("toy: no zero at the beginning");
  for (size_t i = 0; i < shape.size(); ++i) {
    uint32_t v = 0;
    for (int b = 0; b < 4; ++b) v = v << 8 | reader.u8();
    const auto q = static_cast<int32_t>(v);
    sink.put(i, &q, 1);
  }
  reader.expect_end("toy");
}

}  // namespace

const Codec codecs::toy{200, "toy", encode, decode};

}  // namespace onnxopt
