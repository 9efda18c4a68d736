// Bit fields, least significant bit first, as the rANS headers use them.
#pragma once

#include "bytes.h"

namespace onnxopt::rans {

class BitWriter {
 public:
  explicit BitWriter(std::vector<uint8_t>& out) : out_(out) {}
  ~BitWriter() { flush(); }
  BitWriter(const BitWriter&) = delete;
  BitWriter& operator=(const BitWriter&) = delete;

  void put(uint64_t value, unsigned bits) {  // bits <= 32
    pending_ |= value << count_;
    for (count_ += bits; count_ >= 8; count_ -= 8, pending_ >>= 8)
      out_.push_back(static_cast<uint8_t>(pending_));
  }
  void flush() {
    if (count_ > 0) out_.push_back(static_cast<uint8_t>(pending_));
    pending_ = 0;
    count_ = 0;
  }

 private:
  std::vector<uint8_t>& out_;
  uint64_t pending_ = 0;
  unsigned count_ = 0;
};

// Reads whole bytes from the reader as it needs them; whatever is left of the last byte must be zero: see
// end().
class BitReader {
 public:
  explicit BitReader(Reader& reader) : reader_(reader) {}

  uint32_t get(unsigned bits) {  // bits <= 32
    for (; count_ < bits; count_ += 8) pending_ |= static_cast<uint64_t>(reader_.u8()) << count_;
    const auto value = static_cast<uint32_t>(pending_ & ((uint64_t{1} << bits) - 1));
    pending_ >>= bits;
    count_ -= bits;
    return value;
  }
  void end() const {
    if (pending_ != 0) fail("rans: padding bits are not zero");
  }

 private:
  Reader& reader_;
  uint64_t pending_ = 0;
  unsigned count_ = 0;
};

// Bits that hold any number in 0 .. n - 1.
inline unsigned bits_for(uint64_t n) {
  unsigned bits = 0;
  while ((uint64_t{1} << bits) < n) ++bits;
  return bits;
}

}  // namespace onnxopt::rans
