// What container.cc, which reads a container's tables, and container_decode.cc, which decodes its entries,
// share.
#pragma once

#include "container.h"

namespace onnxopt {

bool checksum_matches(Bytes b, uint32_t crc);
// For messages: one line, whatever the name.
std::string quoted(const Entry& e);
// The elements of a raw entry.
std::vector<uint8_t> decode_raw(const Entry& e);

}  // namespace onnxopt
