// A binary arithmetic coder with 16-bit probabilities and a 48-bit window [Martin 1979, "Range encoding"].
//
// A decision splits range into (range >> 16) * p for "1" and the rest for "0"; the range is kept at or above
// 2^32 by moving 16 bits out at a time, so no probability is ever rounded away and one comparison a decision
// suffices.
#pragma once

#include "bytes.h"

namespace onnxopt {

constexpr unsigned kProbabilityBits = 16;

class RangeEncoder {
 public:
  explicit RangeEncoder(std::vector<uint8_t>& out) : out_(out), begin_(out.size()) {}

  // p: probability of `bit` being 1, in (0, 2^16).
  unsigned code(unsigned p, unsigned bit) {
    const uint64_t split = (range_ >> kProbabilityBits) * p;
    if (bit) {
      range_ = split;
    } else {
      low_ += split;
      range_ -= split;
    }
    if (range_ < kLow) shift();
    return bit;
  }

  // `count` bits at probability one half each.
  uint32_t code_raw(unsigned count, uint32_t bits) {
    for (unsigned i = count; i-- > 0;) code(1u << (kProbabilityBits - 1), bits >> i & 1);
    return bits;
  }

  // Ends with the shortest number inside [low, low + range): one byte where the range allows, else two. The
  // decoder knows the range, so it knows which.
  void finish() {
    const unsigned bytes = range_ >= kOneByte ? 1 : 2;
    const uint64_t unit = uint64_t{1} << (48 - 8 * bytes);
    low_ = (low_ + unit - 1) & ~(unit - 1);
    carry();
    for (unsigned i = 0; i < bytes; ++i) out_.push_back(static_cast<uint8_t>(low_ >> (40 - 8 * i)));
  }

  static constexpr uint64_t kLow = uint64_t{1} << 32;
  static constexpr uint64_t kTop = uint64_t{1} << 48;
  static constexpr uint64_t kOneByte = uint64_t{1} << 40;

 private:
  void carry() {
    if (low_ < kTop) return;
    low_ -= kTop;
    for (size_t i = out_.size(); i > begin_ && ++out_[i - 1] == 0; --i) continue;
  }

  void shift() {
    carry();
    out_.push_back(static_cast<uint8_t>(low_ >> 40));
    out_.push_back(static_cast<uint8_t>(low_ >> 32));
    low_ = (low_ << 16) & (kTop - 1);
    range_ <<= 16;
  }

  std::vector<uint8_t>& out_;
  size_t begin_;
  uint64_t low_ = 0;
  uint64_t range_ = kTop - 1;
};

class RangeDecoder {
 public:
  explicit RangeDecoder(Bytes in) : at_(in.data), end_(in.data + in.size) {
    for (int i = 0; i < 3; ++i) code_ = code_ << 16 | next();
  }

  unsigned code(unsigned p, unsigned = 0) {
    const uint64_t split = (range_ >> kProbabilityBits) * p;
    const unsigned bit = code_ < split;
    // Branch-free: the bits of weights are hard to predict.
    const uint64_t one = uint64_t{0} - bit;
    code_ -= split & ~one;
    range_ = (split & one) | ((range_ - split) & ~one);
    if (range_ < RangeEncoder::kLow) {
      range_ <<= 16;
      code_ = code_ << 16 | next();
    }
    return bit;
  }

  uint32_t code_raw(unsigned count, uint32_t = 0) {
    uint32_t bits = 0;
    for (unsigned i = 0; i < count; ++i) bits = bits << 1 | code(1u << (kProbabilityBits - 1));
    return bits;
  }

  // The encoder wrote exactly so many bytes: no more may be left, and no more than these were made up.
  void finish(const char* what) const {
    const int64_t written = range_ >= RangeEncoder::kOneByte ? 1 : 2;
    // Six bytes were ahead of the range's end; of these the encoder wrote one or two.
    const int64_t extra = (end_ - at_) - made_up_ + 6 - written;
    if (extra != 0) {
      fail("%s: %" PRId64 " bytes %s", what, extra < 0 ? -extra : extra, extra < 0 ? "missing" : "left over");
    }
  }

 private:
  uint64_t next() {
    if (end_ - at_ >= 2) {
      const uint64_t two = static_cast<uint64_t>(at_[0]) << 8 | at_[1];
      at_ += 2;
      return two;
    }
    return tail();
  }

  uint64_t tail() {  // zeros follow the last byte; the encoder leaves out at most five of them
    uint64_t two = 0;
    for (int i = 0; i < 2; ++i) {
      two <<= 8;
      if (at_ < end_) {
        two |= *at_++;
      } else if (++made_up_ > 5) {
        fail("truncated: range-coded bytes end early");
      }
    }
    return two;
  }

  const uint8_t* at_;
  const uint8_t* end_;
  int64_t made_up_ = 0;
  uint64_t range_ = RangeEncoder::kTop - 1;
  uint64_t code_ = 0;
};

}  // namespace onnxopt
