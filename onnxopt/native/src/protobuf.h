// Reading protobuf messages field by field, without a protobuf library.
#pragma once

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

// Calls take(field) for every field of the message.
template <typename Take>
void each_field(Bytes message, Take take) {
  Reader r(message);
  while (r.left() != 0) take(next_field(r));
}

}  // namespace onnxopt
