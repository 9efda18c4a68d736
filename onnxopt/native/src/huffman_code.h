// Canonical Huffman codes of at most 15 bits, their tables in a file, and their code words.
#pragma once

#include <array>

#include "codec.h"

namespace onnxopt::huffman {

constexpr unsigned kMaxLength = 15;   // of a code word: its length fits half a byte
constexpr size_t kMaxSymbols = 4096;  // with more distinct values a code table is no longer worth its bytes
constexpr unsigned kPeek = 10;        // code words up to so many bits decode with one look-up

// Lengths of an optimal prefix code; symbols of count 0 get length 0, a lone symbol length 1.
std::vector<uint8_t> code_lengths(std::vector<uint64_t> counts);

// A canonical code over symbols in ascending order; a symbol is a value or a gap.
struct Code {
  std::vector<int32_t> symbols;
  std::vector<uint8_t> lengths;  // 1..15

  // Code words: shorter first, then by symbol.
  std::vector<uint16_t> words() const;
  // Last symbol - first + 1; 0 where there is none.
  uint64_t span() const;
};

void write_code(Writer& writer, const Code& code);
Code read_code(Reader& reader);

class BitWriter {
 public:
  explicit BitWriter(std::vector<uint8_t>& out) : out_(out) {}
  void put(unsigned word, unsigned length) {
    pending_ = pending_ << length | word;
    for (filled_ += length; filled_ >= 8; filled_ -= 8)
      out_.push_back(static_cast<uint8_t>(pending_ >> (filled_ - 8)));
  }
  void finish() {
    if (filled_ != 0) out_.push_back(static_cast<uint8_t>(pending_ << (8 - filled_)));
  }

 private:
  std::vector<uint8_t>& out_;
  uint64_t pending_ = 0;
  unsigned filled_ = 0;
};

// Bits, most significant first; zeros follow the last byte, and finish() tells if any of them were used.
class BitReader {
 public:
  explicit BitReader(Bytes in) : in_(in) {}

  uint32_t peek() {  // the next 15 bits
    if (filled_ < kMaxLength) refill();
    return static_cast<uint32_t>(pending_ >> (64 - kMaxLength));
  }
  void skip(unsigned n) {
    pending_ <<= n;
    filled_ -= n;
  }
  void finish() const {
    const size_t unread = filled_ / 8;
    if (at_ > in_.size + unread) fail("huffman: truncated code words");
    if (at_ < in_.size + unread) {
      fail("huffman: %zu bytes left over", in_.size + unread - at_);
    }
    if (filled_ % 8 != 0 && pending_ >> (64 - filled_ % 8) != 0)
      fail("huffman: bits set after the last code word");
  }

 private:
  void refill() {
    if (at_ >= in_.size + 16) fail("huffman: truncated code words");
    for (; filled_ <= 56; filled_ += 8, ++at_) {
      pending_ |= (at_ < in_.size ? uint64_t{in_.data[at_]} : 0) << (56 - filled_);
    }
  }

  Bytes in_;
  size_t at_ = 0;
  uint64_t pending_ = 0;
  unsigned filled_ = 0;
};

class Decoder {
 public:
  explicit Decoder(const Code& code);

  int32_t next(BitReader& reader) const {
    const uint32_t bits = reader.peek();
    const Slot& slot = table_[bits >> (kMaxLength - kPeek)];
    if (slot.length != 0) {
      reader.skip(slot.length);
      return slot.symbol;
    }
    const unsigned l = length_of(bits);
    if (l > kMaxLength) fail("huffman: no such code word");
    reader.skip(l);
    return symbols_[(bits >> (kMaxLength - l)) + offset_[l]];
  }

 private:
  struct Slot {
    int32_t symbol = 0;
    unsigned length = 0;
  };
  unsigned length_of(uint32_t bits) const {
    unsigned l = 1;
    while (l <= kMaxLength && bits >= limit_[l]) ++l;
    return l;
  }

  std::array<uint32_t, kMaxLength + 1> limit_{}, offset_{};
  std::vector<int32_t> symbols_;  // in the order of their code words
  std::array<Slot, 1u << kPeek> table_{};
};

}  // namespace onnxopt::huffman
