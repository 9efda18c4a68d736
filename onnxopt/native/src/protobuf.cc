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

void append_varint(std::string& text, uint64_t value) {
  for (; value >= 0x80; value >>= 7) text += static_cast<char>(value | 0x80);
  text += static_cast<char>(value);
}

}  // namespace

std::string_view text_of(Bytes message, uint64_t number) {
  std::string_view text;
  each_field(message, [&](const Field& f) {
    if (f.number == number) text = f.text();
  });
  return text;
}

Message& Message::add(unsigned number, uint64_t value) {
  append_varint(text_, number << 3);
  append_varint(text_, value);
  return *this;
}

Message& Message::add(unsigned number, std::string_view value) {
  append_varint(text_, number << 3 | 2);
  append_varint(text_, value.size());
  return append(value);
}

Message& Message::append(std::string_view fields) {
  text_ += fields;
  return *this;
}

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
