#include <algorithm>

#include "rans_plan.h"

namespace onnxopt::rans {
namespace {

constexpr size_t kSample = 4096;
constexpr uint64_t kBytesPerLane = 2048;  // a lane costs three bytes: at most 0.15%
constexpr unsigned kQuickLanes = 3;       // log2, in a quick stream of so many bytes or more:
constexpr uint64_t kQuickBytes = 1024;

// Frequencies of more than 12 bits decode on scalar code alone: they must save 1/320 of a stream. They are
// worth the time to price them where there are many elements and one value, taking most slots, leaves few for
// the others.
constexpr uint64_t kFineGain = 320;
constexpr size_t kFineElements = 1 << 16;

std::vector<uint8_t> encode_constant(int32_t value) {
  std::vector<uint8_t> out;
  Writer writer(out);
  writer.u8(kConstant);
  writer.svarint(value);
  return out;
}

std::vector<int32_t> sorted_sample(const int32_t* q, size_t n) {
  std::vector<int32_t> sample;
  const size_t stride = std::max<size_t>(1, n / kSample);
  for (size_t i = 0; i < n; i += stride) sample.push_back(q[i]);
  std::sort(sample.begin(), sample.end());
  return sample;
}

// The window of values that get symbols: all, or the 255 around the median.
Symbols find_symbols(const int32_t* q, size_t n, int32_t lo, int32_t hi, int32_t median, unsigned low_bits) {
  Symbols out;
  out.low_bits = low_bits;
  out.lowest = lo >>= low_bits;
  hi >>= low_bits;
  const int64_t range = int64_t{hi} - lo + 1;
  out.has_outside = range > static_cast<int64_t>(kMaxSymbols);
  out.count = out.has_outside ? kMaxSymbols : static_cast<size_t>(range);
  if (out.has_outside) {
    const int64_t last_start = int64_t{hi} - static_cast<int64_t>(kMaxSymbols - 2);
    out.lowest = static_cast<int32_t>(std::clamp<int64_t>(int64_t{median >> low_bits} - 127, lo, last_start));
  }
  out.of.resize(n);
  const auto base = static_cast<uint32_t>(out.lowest);
  const auto last = static_cast<uint32_t>(kMaxSymbols - 1);
  for (size_t i = 0; i < n; ++i) {
    out.of[i] = static_cast<uint8_t>(std::min(static_cast<uint32_t>(q[i] >> low_bits) - base, last));
  }
  return out;
}

// So many low bits that all but one in 256 of the rest fit the symbols' window.
unsigned wanted_low_bits(const std::vector<int32_t>& sample) {
  const size_t aside = sample.size() / 512;
  const int64_t spread = int64_t{sample[sample.size() - 1 - aside]} - sample[aside];
  unsigned bits = 0;
  while (bits < kMaxLowBits && spread >> bits > 240) ++bits;
  return bits;
}

// Everything decided for one matrix.
struct Choice {
  Symbols symbols;
  std::vector<Classes> classes;  // what plan.classes points into
  Plan plan;
};

Choice choose(const int32_t* q, Shape shape, int32_t lo, int32_t hi, int32_t median, unsigned low_bits,
              bool classes) {
  Choice out;
  out.symbols = find_symbols(q, shape.size(), lo, hi, median, low_bits);
  const unsigned escape_width = bits_for(static_cast<uint64_t>(int64_t{hi} - lo) + 1) - low_bits;
  out.classes = propose_classes(out.symbols, shape, classes);
  const auto consider = [&](unsigned precision, uint64_t below) {
    for (const Classes& candidate : out.classes) {
      Plan plan = price(candidate, out.symbols, escape_width, precision);
      if (plan.bits < std::min(below, out.plan.bits)) out.plan = std::move(plan);
    }
  };
  consider(kPackedPrecision, UINT64_MAX);
  const Counts& counts = out.classes[0].counts[0];
  const bool one_rules = *std::max_element(counts.begin(), counts.end()) > shape.size() / 2;
  if (one_rules && shape.size() >= kFineElements)
    consider(kMaxPrecision, out.plan.bits - out.plan.bits / kFineGain);
  if (out.plan.classes) out.plan.bits += static_cast<uint64_t>(shape.size()) * low_bits;
  return out;
}

// How the encoder takes one symbol of one table.
struct Step {
  uint32_t freq = 0;  // 0: escaped, see the escape's own step
  uint32_t start = 0;
};

// Steps of every table, 256 each by Symbols' symbol; what the plan escapes has the escape's step.
std::vector<Step> make_steps(const Plan& plan) {
  const size_t all = plan.direct + (plan.escape ? 1 : 0);
  std::vector<Step> steps(plan.levels.size() * kMaxSymbols);
  for (size_t t = 0; t < plan.levels.size(); ++t) {
    Freqs freqs;
    frequencies(plan.levels[t], all, plan.code.resolution, plan.precision, freqs);
    Step direct[kMaxSymbols];
    uint32_t start = 0;
    for (size_t s = 0; s < all; ++s) {
      direct[s] = {freqs[s], start};
      start += freqs[s];
    }
    for (size_t s = 0; s < kMaxSymbols; ++s) {
      const bool in = s >= plan.first && s - plan.first < plan.direct && direct[s - plan.first].freq > 0;
      if (in)
        steps[t * kMaxSymbols + s] = direct[s - plan.first];
      else if (plan.escape)
        steps[t * kMaxSymbols + s] = direct[plan.direct];
    }
  }
  return steps;
}

bool is_escaped(const Plan& plan, size_t table, size_t symbol) {
  return symbol < plan.first || symbol - plan.first >= plan.direct ||
         plan.levels[table][symbol - plan.first] == 0;
}

void write_map(const ClassMap& map, Writer& writer, std::vector<uint8_t>& out) {
  if (map.classes == 1) return;
  writer.varint(map.span);
  writer.varint(map.map.size());
  BitWriter bits(out);
  for (const uint8_t c : map.map) bits.put(c, bits_for(map.classes));
}

void write_escapes(const int32_t* q, Shape shape, const Symbols& symbols, const Plan& plan,
                   const std::vector<uint8_t>& column_class, Writer& writer, std::vector<uint8_t>& out) {
  std::vector<int32_t> values;
  for (size_t row = 0, i = 0; row < shape.rows; ++row) {
    const size_t table = plan.classes->rows.of(row) * plan.classes->columns.classes;
    for (size_t col = 0; col < shape.cols; ++col, ++i) {
      if (is_escaped(plan, table + column_class[col], symbols.of[i]))
        values.push_back(q[i] >> symbols.low_bits);
    }
  }
  const auto [lo, hi] = std::minmax_element(values.begin(), values.end());
  const int64_t lowest = *lo;
  const unsigned width = bits_for(static_cast<uint64_t>(*hi - lowest) + 1);
  writer.varint(values.size());
  writer.svarint(lowest);
  writer.u8(static_cast<uint8_t>(width));
  BitWriter bits(out);
  for (const int32_t v : values) bits.put(static_cast<uint64_t>(v - lowest), width);
}

// The lanes' states and words: symbols are coded last to first, so that the decoder reads forward.
void write_lanes(Shape shape, const Symbols& symbols, const Plan& plan,
                 const std::vector<uint8_t>& column_class, size_t lanes, Writer& writer,
                 std::vector<uint8_t>& out) {
  const std::vector<Step> steps = make_steps(plan);
  std::vector<uint8_t> words(2 * shape.size());  // at most one word an integer
  uint8_t* at = words.data() + words.size();
  uint32_t state[kMaxLanes];
  std::fill_n(state, lanes, kLow);
  const unsigned precision = plan.precision;
  size_t i = shape.size();
  for (size_t row = shape.rows; row-- > 0;) {
    const size_t table = plan.classes->rows.of(row) * plan.classes->columns.classes;
    for (size_t col = shape.cols; col-- > 0;) {
      --i;
      const Step step = steps[(table + column_class[col]) * kMaxSymbols + symbols.of[i]];
      uint32_t x = state[i & (lanes - 1)];
      if (x >> (32 - precision) >= step.freq) {
        *--at = static_cast<uint8_t>(x >> 8);
        *--at = static_cast<uint8_t>(x);
        x >>= 16;
      }
      state[i & (lanes - 1)] = (x / step.freq << precision) + x % step.freq + step.start;
    }
  }
  for (size_t lane = 0; lane < lanes; ++lane) writer.u32(state[lane]);
  out.insert(out.end(), at, words.data() + words.size());
}

unsigned log2_lanes(uint64_t bytes) {
  unsigned log = 0;
  while ((2U << log) <= kMaxLanes && bytes >= kBytesPerLane * (2U << log)) ++log;
  return log;
}

std::vector<uint8_t> encode_with(const int32_t* q, Shape shape, bool quick) {
  const size_t n = shape.size();
  if (n == 0) return encode_constant(0);
  const auto ends = std::minmax_element(q, q + n);
  const int32_t lo = *ends.first, hi = *ends.second;
  if (lo == hi) return encode_constant(lo);

  const std::vector<int32_t> sample = sorted_sample(q, n);
  const int32_t median = sample[sample.size() / 2];
  const auto choose_with = [&](unsigned low_bits, bool classes) {
    return choose(q, shape, lo, hi, median, low_bits, classes);
  };
  unsigned low_bits = wanted_low_bits(sample);
  if (low_bits > 0 && choose_with(0, false).plan.bits <= choose_with(low_bits, false).plan.bits) low_bits = 0;
  const Choice choice = choose_with(low_bits, true);
  const Symbols& symbols = choice.symbols;
  const Plan& plan = choice.plan;

  const uint64_t bytes = plan.bits / 8;
  const unsigned log_lanes = std::max(log2_lanes(bytes), quick && bytes >= kQuickBytes ? kQuickLanes : 0);
  std::vector<uint8_t> out;
  out.reserve(static_cast<size_t>(plan.bits / 8) + 256);
  Writer writer(out);
  writer.u8(static_cast<uint8_t>(log_lanes | (plan.escape ? 8 : 0) | (plan.precision - kMinPrecision) << 4));
  writer.svarint(int64_t{symbols.lowest} + static_cast<int64_t>(plan.first));
  writer.u8(static_cast<uint8_t>(plan.direct + (plan.escape ? 1 : 0) - 1));
  const size_t classes = (plan.classes->rows.classes - 1) | (plan.classes->columns.classes - 1) << 4;
  writer.u8(static_cast<uint8_t>(classes | (symbols.low_bits ? 0x80 : 0)));
  if (symbols.low_bits) writer.u8(static_cast<uint8_t>(symbols.low_bits));
  write_map(plan.classes->rows, writer, out);
  write_map(plan.classes->columns, writer, out);
  writer.u8(plan.code.byte());
  {
    BitWriter bits(out);
    for (const Levels& levels : plan.levels) write_levels(levels, plan.direct, plan.escape, plan.code, bits);
  }
  std::vector<uint8_t> column_class(shape.cols);
  for (size_t col = 0; col < shape.cols; ++col)
    column_class[col] = static_cast<uint8_t>(plan.classes->columns.of(col));
  if (plan.escape) write_escapes(q, shape, symbols, plan, column_class, writer, out);
  if (symbols.low_bits) {
    BitWriter bits(out);
    for (size_t i = 0; i < n; ++i)
      bits.put(static_cast<uint32_t>(q[i]) & ((1U << symbols.low_bits) - 1), symbols.low_bits);
  }
  write_lanes(shape, symbols, plan, column_class, size_t{1} << log_lanes, writer, out);
  return out;
}

}  // namespace

std::vector<uint8_t> encode(const int32_t* q, Shape shape) { return encode_with(q, shape, false); }
std::vector<uint8_t> encode_quick(const int32_t* q, Shape shape) { return encode_with(q, shape, true); }

}  // namespace onnxopt::rans
