#include "bytes.h"

#include <cstdarg>
#include <cstdio>

#if defined(__wasm__)
// Throws a JavaScript error of this message: the instance is not used again.
extern "C" __attribute__((import_module("env"), import_name("fail"), noreturn)) void onnxopt_host_fail(
    const char* text, size_t size);
#endif

namespace onnxopt {
namespace {

// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): the innermost of each thread
thread_local const Subject* innermost = nullptr;

}  // namespace

Subject::Subject(std::string text) : text_(std::move(text)), outer_(innermost) { innermost = this; }

Subject::~Subject() { innermost = outer_; }

std::string Subject::all() {
  std::string all;
  for (const Subject* s = innermost; s != nullptr; s = s->outer_) all.insert(0, s->text_ + ": ");
  return all;
}

void fail(const char* format, ...) {
  char text[1024];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof(text), format, args);
  va_end(args);
  const std::string message = Subject::all() + text;
#if defined(__wasm__)
  onnxopt_host_fail(message.data(), message.size());
#else
  throw Error(message);
#endif
}

uint64_t Reader::varint() {
  uint64_t value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    const uint8_t byte = u8();
    if ((shift == 63 && byte > 1) || (shift > 0 && byte == 0)) break;
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
  fail("malformed variable-length integer");
}

}  // namespace onnxopt
