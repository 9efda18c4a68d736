// The writer's choice of codec for one matrix of integers.
#pragma once

#include "codec.h"

namespace onnxopt {

// What a byte is worth against decoding time; kQuick lies between kBalanced and kFastest.
enum class Prefer { kSmallest = 0, kBalanced = 1, kFastest = 2, kQuick = 3 };

struct Coded {
  uint8_t codec = 0;
  std::vector<uint8_t> bytes;
};

// A chunk may not hold more integers than this for each of its bytes: the reader refuses such a file as a
// decompression bomb, so the writer never makes one.
constexpr size_t kMaxIntegersPerByte = 2048;

// Tries every codec that applies and keeps the cheapest. Deterministic.
Coded encode_best(const int32_t* q, Shape shape, Prefer prefer);

}  // namespace onnxopt
