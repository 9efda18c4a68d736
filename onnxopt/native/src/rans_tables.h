// Frequency tables of the rANS codec: small integers ("levels") on a logarithmic scale, so that a table costs
// two to four bits a symbol and its rounding costs next to nothing: levels 2^-r octaves apart lose (ln 2 /
// 2^r)^2 / (24 ln 2) bits a weight, 0.0005 for r = 3.
#pragma once

#include <array>
#include <utility>

#include "rans_bits.h"

namespace onnxopt::rans {

constexpr unsigned kMinPrecision = 8;  // 2^8 slots hold all 256 symbols
constexpr unsigned kMaxPrecision = 15;
constexpr unsigned kPackedPrecision = 12;  // the most that a packed slot holds: see pack()
constexpr unsigned kMaxResolution = 4;     // levels an octave: 2^r
constexpr unsigned kMaxRice = 7;
constexpr size_t kMaxSymbols = 256;

using Levels = std::array<uint8_t, kMaxSymbols>;  // 0: the symbol is absent
using Freqs = std::array<uint16_t, kMaxSymbols>;  // sum 2^precision, 0 where absent
using Counts = std::array<uint32_t, kMaxSymbols>;

// How the tables of a stream are written.
struct TableCode {
  unsigned resolution = 0;  // r above
  unsigned predictor =
      0;              // of a level: 0 the symbol before, 1 a straight line through the two symbols before
  unsigned rice = 0;  // parameter of the Rice code of the differences

  uint8_t byte() const { return static_cast<uint8_t>(resolution | predictor << 3 | rice << 4); }
};

// log2(x) * 2^16 for x >= 1, to 12 bits of x: integers only, so that every machine makes the same choices.
uint32_t log2_fixed(uint64_t x);
// 2^(level - 1) in steps of 2^-resolution octaves, scaled.
uint32_t level_weight(unsigned level, unsigned resolution);

// Frequencies with sum 2^precision: one slot to each present symbol, the others shared by weight. At least
// one of levels[0, symbols) must not be 0.
void frequencies(const Levels& levels, size_t symbols, unsigned resolution, unsigned precision, Freqs& out);
// The levels whose frequencies come nearest to the counts; at least one count must not be 0.
void fit_levels(const Counts& counts, size_t symbols, unsigned resolution, unsigned precision, Levels& out);

// A table's level in `symbols` direct symbols, then of the escape symbol (index `symbols`) where there is
// one.
void write_levels(const Levels& levels, size_t symbols, bool escape, const TableCode& code, BitWriter& bits);
void read_levels(BitReader& bits, size_t symbols, bool escape, const TableCode& code, Levels& out);

// The cost of a stream's tables under every way to write them.
class LevelCosts {
 public:
  void add(const Levels& levels, size_t symbols, bool escape);
  // The cheapest way and its bits.
  std::pair<TableCode, uint64_t> best(unsigned resolution) const;

 private:
  uint64_t fixed_ = 0;
  uint64_t bits_[2][kMaxRice + 1] = {};
};

// One slot of the decoder: symbol in bits 24-31, frequency - 1 in 12-23, slot - start of its symbol in 0-11.
inline uint32_t pack(uint32_t symbol, uint32_t freq, uint32_t offset) {
  return symbol << 24 | (freq - 1) << 12 | offset;
}
// Fills slots[0, 2^precision).
void fill_slots(const Freqs& freqs, size_t symbols, uint32_t* slots);

// Finer frequencies do not fit there. They take two look-ups: a slot's symbol, then the symbol's frequency in
// bits 16-31 and its start in 0-15.
void fill_fine(const Freqs& freqs, size_t symbols, uint8_t* slots, uint32_t* ranges);

}  // namespace onnxopt::rans
