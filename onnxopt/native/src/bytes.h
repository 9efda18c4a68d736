// Views of bytes, the one error type, and bounds-checked reading and writing of little-endian fields.
#pragma once

#include <cinttypes>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace onnxopt {

// Everything that can be wrong with a file ends as this: one sentence, what was found and what was expected.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Throws Error with a message made as by printf, behind what the Subjects of this thread are. Out of line, so
// that checks cost little code where they stand. In WebAssembly, which has no exceptions here, the host
// throws.
[[noreturn]] void fail(const char* format, ...)
#if defined(__MINGW32__) && !defined(__clang__)
    __attribute__((cold, noinline, format(gnu_printf, 1, 2)))
#elif defined(__GNUC__)
    __attribute__((cold, noinline, format(printf, 1, 2)))
#endif
    ;

// What errors are about while this lives: fail() puts "subject: " before its message, that of the outer one
// first.
class Subject {
 public:
  explicit Subject(std::string text);
  ~Subject();
  Subject(const Subject&) = delete;
  Subject& operator=(const Subject&) = delete;

  // The subjects of this thread, each followed by a colon.
  static std::string all();

 private:
  std::string text_;
  const Subject* outer_;
};

struct Bytes {
  const uint8_t* data = nullptr;
  size_t size = 0;
};

// The bytes of a text, which must outlive them.
inline Bytes bytes_in(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// A cursor over untrusted bytes: every read is checked against the end first.
class Reader {
 public:
  explicit Reader(Bytes in) : at_(in.data), end_(in.data + in.size) {}

  size_t left() const { return static_cast<size_t>(end_ - at_); }
  Bytes rest() const { return {at_, left()}; }

  Bytes bytes(uint64_t n) {
    if (n > left()) fail("truncated: %" PRIu64 " bytes expected, %zu left", n, left());
    const Bytes out{at_, static_cast<size_t>(n)};
    at_ += n;
    return out;
  }

  uint8_t u8() { return *bytes(1).data; }
  uint16_t u16() { return fixed<uint16_t>(); }
  uint32_t u32() { return fixed<uint32_t>(); }
  uint64_t u64() { return fixed<uint64_t>(); }

  // LEB128, at most ten bytes, the shortest form only.
  uint64_t varint();

  // Zigzag: 0, -1, 1, -2, ... as 0, 1, 2, 3, ...
  int64_t svarint() {
    const uint64_t z = varint();
    return static_cast<int64_t>(z >> 1) ^ -static_cast<int64_t>(z & 1);
  }

  void expect_end(const char* what) const {
    if (left() != 0) fail("%s: %zu bytes left over", what, left());
  }

 private:
  template <typename T>
  T fixed() {
    const Bytes b = bytes(sizeof(T));
    T value = 0;
    for (size_t i = 0; i < sizeof(T); ++i)
      value = static_cast<T>(value | static_cast<T>(b.data[i]) << (8 * i));
    return value;
  }

  const uint8_t* at_;
  const uint8_t* end_;
};

// Appends little-endian fields to a vector.
class Writer {
 public:
  explicit Writer(std::vector<uint8_t>& out) : out_(out) {}

  void u8(uint8_t v) { out_.push_back(v); }
  void u16(uint16_t v) { fixed(v); }
  void u32(uint32_t v) { fixed(v); }
  void u64(uint64_t v) { fixed(v); }
  void bytes(Bytes b) { out_.insert(out_.end(), b.data, b.data + b.size); }

  void varint(uint64_t v) {
    for (; v >= 0x80; v >>= 7) out_.push_back(static_cast<uint8_t>(v | 0x80));
    out_.push_back(static_cast<uint8_t>(v));
  }
  void svarint(int64_t v) { varint(static_cast<uint64_t>(v) << 1 ^ static_cast<uint64_t>(v >> 63)); }

 private:
  template <typename T>
  void fixed(T v) {
    for (size_t i = 0; i < sizeof(T); ++i) out_.push_back(static_cast<uint8_t>(v >> (8 * i)));
  }

  std::vector<uint8_t>& out_;
};

}  // namespace onnxopt
