#include "rans_tables.h"

#include <algorithm>

namespace onnxopt::rans {
namespace {

constexpr unsigned kOctaves = 14;    // between the least and the largest level
constexpr unsigned kMaxUnary = 511;  // no zigzagged difference of two levels is larger

// Log2 of 1 + i / 4096 by repeated squaring: each squaring of the mantissa yields one more bit of its
// logarithm.
std::array<uint16_t, 4096> log2_mantissas() {
  std::array<uint16_t, 4096> table{};
  for (size_t i = 0; i < table.size(); ++i) {
    uint64_t m = (uint64_t{4096} + i) << 19;  // in [2^31, 2^32)
    uint32_t log = 0;
    for (int bit = 0; bit < 16; ++bit) {
      m = m * m >> 31;
      log <<= 1;
      if (m >> 32) {
        m >>= 1;
        log |= 1;
      }
    }
    table[i] = static_cast<uint16_t>(log);
  }
  return table;
}

// round(2^(i / 16) * 2^8)
constexpr std::array<uint16_t, 16> kPow2 = {256, 267, 279, 292, 304, 318, 332, 347,
                                            362, 378, 395, 412, 431, 450, 470, 490};

// Prediction of levels[s] inside [first, end) of a table.
unsigned predict(const Levels& levels, size_t s, size_t first, unsigned predictor) {
  if (s == first) return 1;
  const int a = levels[s - 1];
  if (predictor == 0 || s - first < 2) return static_cast<unsigned>(a);
  return static_cast<unsigned>(std::clamp(2 * a - levels[s - 2], 0, 255));
}

uint32_t zigzag(int v) { return v < 0 ? static_cast<uint32_t>(-v) * 2 - 1 : static_cast<uint32_t>(v) * 2; }
int unzigzag(uint32_t z) { return (z & 1) ? -static_cast<int>(z / 2) - 1 : static_cast<int>(z / 2); }

struct Range {
  size_t first, end;
};
Range present(const Levels& levels, size_t symbols) {
  size_t first = 0;
  size_t end = symbols;
  while (first < end && levels[first] == 0) ++first;
  while (end > first && levels[end - 1] == 0) --end;
  return {first, end};
}

}  // namespace

uint32_t log2_fixed(uint64_t x) {
  static const std::array<uint16_t, 4096> mantissas = log2_mantissas();
#if defined(__GNUC__) || defined(__clang__)
  const unsigned top = 63U - static_cast<unsigned>(__builtin_clzll(x));
#else
  unsigned top = 63;
  while (!(x >> top)) --top;
#endif
  const uint64_t mantissa = top >= 12 ? x >> (top - 12) : x << (12 - top);
  return (top << 16) + mantissas[mantissa & 4095];
}

uint32_t level_weight(unsigned level, unsigned resolution) {
  const unsigned step = level - 1;
  return static_cast<uint32_t>(kPow2[(step << (kMaxResolution - resolution)) & 15]) << (step >> resolution);
}

void frequencies(const Levels& levels, size_t symbols, unsigned resolution, unsigned precision, Freqs& out) {
  uint64_t sum = 0;
  uint64_t count = 0;
  for (size_t s = 0; s < symbols; ++s) {
    if (levels[s] == 0) continue;
    sum += level_weight(levels[s], resolution);
    ++count;
  }
  const uint64_t shared = (uint64_t{1} << precision) - count;
  uint64_t below = 0;  // weights so far; rounding them, not each share, makes the sum exact
  uint64_t given = 0;
  for (size_t s = 0; s < symbols; ++s) {
    out[s] = 0;
    if (levels[s] == 0) continue;
    below += level_weight(levels[s], resolution);
    const uint64_t until = below * shared / sum;
    out[s] = static_cast<uint16_t>(1 + until - given);
    given = until;
  }
}

void fit_levels(const Counts& counts, size_t symbols, unsigned resolution, unsigned precision, Levels& out) {
  uint64_t total = 0;
  for (size_t s = 0; s < symbols; ++s) total += counts[s];
  // What a symbol should get beyond its one slot, in 1/256 of a slot, at least 2^-kOctaves of all slots.
  const auto target = [&](size_t s) {
    const uint64_t ideal = (static_cast<uint64_t>(counts[s]) << (precision + 8)) / total;
    return std::max<uint64_t>(ideal, 256 + (uint64_t{256} << precision >> kOctaves)) - 256;
  };
  uint64_t least = UINT64_MAX;
  uint64_t most = 0;
  for (size_t s = 0; s < symbols; ++s) {
    if (!counts[s]) continue;
    least = std::min(least, target(s));
    most = std::max(most, target(s));
  }
  // Where one symbol takes most of the slots, rounding its level costs more than all others' together: fine
  // tables choose the steps' phase so that it needs none.
  uint32_t phase = 1U << 15;
  if (precision > kPackedPrecision)
    phase = (1U << 16) - ((((log2_fixed(most) - log2_fixed(least)) << resolution) + phase) & 0xffff);
  for (size_t s = 0; s < symbols; ++s) {
    out[s] = 0;
    if (!counts[s]) continue;
    const uint32_t octaves = log2_fixed(target(s)) - log2_fixed(least);  // 2^16 each, below 14
    out[s] = static_cast<uint8_t>(1 + (((octaves << resolution) + phase) >> 16));
  }
}

void write_levels(const Levels& levels, size_t symbols, bool escape, const TableCode& code, BitWriter& bits) {
  const Range range = present(levels, symbols);
  bits.put(range.first == symbols ? 0 : range.first, bits_for(symbols));
  bits.put(range.end - range.first, bits_for(symbols + 1));
  for (size_t s = range.first; s < range.end; ++s) {
    const uint32_t z = zigzag(levels[s] - static_cast<int>(predict(levels, s, range.first, code.predictor)));
    for (uint32_t unary = z >> code.rice; unary > 0; --unary) bits.put(1, 1);
    bits.put(0, 1);
    bits.put(z & ((1U << code.rice) - 1), code.rice);
  }
  if (escape) bits.put(levels[symbols], 8);
}

void LevelCosts::add(const Levels& levels, size_t symbols, bool escape) {
  const Range range = present(levels, symbols);
  fixed_ += (escape ? 8 : 0) + bits_for(symbols) + bits_for(symbols + 1);
  for (unsigned predictor = 0; predictor < 2; ++predictor) {
    for (size_t s = range.first; s < range.end; ++s) {
      const uint32_t z = zigzag(levels[s] - static_cast<int>(predict(levels, s, range.first, predictor)));
      for (unsigned rice = 0; rice <= kMaxRice; ++rice) bits_[predictor][rice] += (z >> rice) + 1 + rice;
    }
  }
}

std::pair<TableCode, uint64_t> LevelCosts::best(unsigned resolution) const {
  std::pair<TableCode, uint64_t> out{{}, UINT64_MAX};
  for (unsigned predictor = 0; predictor < 2; ++predictor) {
    for (unsigned rice = 0; rice <= kMaxRice; ++rice) {
      const uint64_t bits = fixed_ + bits_[predictor][rice];
      if (bits < out.second) out = {{resolution, predictor, rice}, bits};
    }
  }
  return out;
}

void read_levels(BitReader& bits, size_t symbols, bool escape, const TableCode& code, Levels& out) {
  out.fill(0);
  const int top = 1 + (kOctaves << code.resolution);
  const size_t first = bits.get(bits_for(symbols));
  const size_t count = bits.get(bits_for(symbols + 1));
  if (first + count > symbols) fail("rans: a table's symbols end past the alphabet");
  for (size_t s = first; s < first + count; ++s) {
    uint32_t unary = 0;
    while (bits.get(1)) {
      if (++unary > kMaxUnary) fail("rans: a table's level is out of range");
    }
    const uint32_t z = unary << code.rice | bits.get(code.rice);
    const int level = static_cast<int>(predict(out, s, first, code.predictor)) + unzigzag(z);
    if (level < 0 || level > top) fail("rans: a table's level is out of range");
    out[s] = static_cast<uint8_t>(level);
  }
  if (escape) {
    const uint32_t level = bits.get(8);
    if (level > static_cast<uint32_t>(top)) fail("rans: a table's level is out of range");
    out[symbols] = static_cast<uint8_t>(level);
  }
  for (const uint8_t level : out) {
    if (level != 0) return;
  }
  fail("rans: a table has no symbols");
}

void fill_slots(const Freqs& freqs, size_t symbols, uint32_t* slots) {
  for (size_t s = 0; s < symbols; ++s) {
    const uint32_t freq = freqs[s];
    const uint32_t first = pack(static_cast<uint32_t>(s), freq, 0);
    for (uint32_t i = 0; i < freq; ++i) *slots++ = first + i;
  }
}

void fill_fine(const Freqs& freqs, size_t symbols, uint8_t* slots, uint32_t* ranges) {
  uint32_t start = 0;
  for (size_t s = 0; s < symbols; ++s) {
    std::fill_n(slots + start, freqs[s], static_cast<uint8_t>(s));
    ranges[s] = static_cast<uint32_t>(freqs[s]) << 16 | start;
    start += freqs[s];
  }
}

}  // namespace onnxopt::rans
