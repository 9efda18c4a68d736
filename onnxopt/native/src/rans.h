// Codec 3, rANS [Duda 2013]: what its encoder, its decoder and its vector kernels share. docs/format/rans.md
// is the specification.
#pragma once

#include "codec.h"
#include "rans_tables.h"

namespace onnxopt::rans {

constexpr size_t kMaxLanes = 64;
constexpr uint32_t kLow = 1U << 16;  // states are in [2^16, 2^32); renormalisation moves 16-bit words
constexpr size_t kMaxClasses = 8;    // of rows, and of columns
constexpr unsigned kMaxLowBits = 16;
constexpr unsigned kConstant = 0xf0;  // first byte of a matrix that holds one value

// Rows (or columns) i grouped into classes: class = map[i / span % map.size()].
struct ClassMap {
  size_t span = 1;
  std::vector<uint8_t> map{0};
  size_t classes = 1;

  size_t of(size_t i) const { return map[i / span % map.size()]; }
};

// Element i is coded by lane i % lanes, all lanes share one stream of words.
struct Lanes {
  uint32_t state[kMaxLanes];
  const uint8_t* at;  // next word
  const uint8_t* end;
};

// Decodes symbols [0, n) as base + symbol, in whole rounds of all lanes. offsets[i] is where the slots of
// element i's table start; null: at 0. Stops early where fewer bytes are left than a round could read;
// returns how many symbols it decoded.
using Kernel = size_t (*)(const uint32_t* slots, unsigned precision, const uint32_t* offsets, int32_t base,
                          Lanes& lanes, int32_t* out, size_t n);
// The kernel for so many lanes; null where there is none.
Kernel avx2_kernel(size_t lanes, bool with_offsets);
Kernel avx512_kernel(size_t lanes, bool with_offsets);
Kernel neon_kernel(size_t lanes, bool with_offsets);

std::vector<uint8_t> encode(const int32_t* q, Shape shape);
// In eight lanes at least where that is 2 % at most: fewer decode at a third of the speed.
std::vector<uint8_t> encode_quick(const int32_t* q, Shape shape);
void decode(Bytes in, Shape shape, Sink& sink);

}  // namespace onnxopt::rans
