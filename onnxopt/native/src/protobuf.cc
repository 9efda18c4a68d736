#include "protobuf.h"

namespace onnxopt {
namespace {

// Unlike Reader::varint this takes padded forms, which protobuf allows.
uint64_t protobuf_varint(Reader& r) {
  uint64_t value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    const uint8_t byte = r.u8();
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
  fail("a variable-length integer of more than ten bytes");
}

}  // namespace

Field next_field(Reader& r) {
  const Bytes before = r.rest();
  const uint64_t tag = protobuf_varint(r);
  Field field;
  field.number = tag >> 3;
  switch (tag & 7) {
    case 0:
      field.value = protobuf_varint(r);
      break;
    case 1:
      r.bytes(8);
      break;
    case 2:
      field.bytes = r.bytes(protobuf_varint(r));
      break;
    case 5:
      r.bytes(4);
      break;
    default:
      fail("a field of wire type %d", static_cast<int>(tag & 7));
  }
  if (field.number == 0) fail("a field numbered 0");
  field.whole = {before.data, before.size - r.left()};
  return field;
}

}  // namespace onnxopt
