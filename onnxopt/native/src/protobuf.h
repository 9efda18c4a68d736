// Reading and writing protobuf messages field by field, without a protobuf library.
#pragma once

#include <string>
#include <string_view>

#include "bytes.h"

namespace onnxopt {

// One field of a message; `bytes` is empty unless it is length-delimited, `value` 0 unless it is a varint.
struct Field {
  uint64_t number = 0;
  Bytes bytes;
  uint64_t value = 0;
  Bytes whole;  // as it stands in the message, with its tag
  std::string_view text() const { return {reinterpret_cast<const char*>(bytes.data), bytes.size}; }
};

// Reads one field. Throws Error on malformed bytes.
Field next_field(Reader& r);

// A message that is written field by field: varints and length-delimited ones.
class Message {
 public:
  Message& add(unsigned number, uint64_t value);
  Message& add(unsigned number, std::string_view value);
  Message& add(const Field& field) {
    return append({reinterpret_cast<const char*>(field.whole.data), field.whole.size});
  }
  Message& append(std::string_view fields);
  operator std::string_view() const { return text_; }  // NOLINT(*-explicit-*): a field of another message
  std::string& text() { return text_; }

 private:
  std::string text_;
};

// Calls take(field) for every field of the message.
template <typename Take>
void each_field(Bytes message, Take take) {
  Reader r(message);
  while (r.left() != 0) take(next_field(r));
}

// The text of a field; empty where the message has none.
std::string_view text_of(Bytes message, uint64_t number);

}  // namespace onnxopt
