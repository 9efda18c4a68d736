#include <algorithm>
#include <optional>

#include "rans.h"
#include "simd.h"

namespace onnxopt::rans {
namespace {

constexpr size_t kRun =
    2048;  // shorter than Sink::kRun, so that slots, offsets and integers share the L1 cache
static_assert(kRun <= Sink::kRun && kRun % kMaxLanes == 0);

ClassMap read_map(Reader& reader, size_t classes, size_t length) {
  ClassMap out;
  if (classes == 1) return out;
  const uint64_t span = reader.varint();
  const uint64_t period = reader.varint();
  if (span < 1 || span > length || period < 1 || period > length) {
    fail("rans: class map of span %" PRIu64 " and period %" PRIu64 " for an axis of %zu", span, period,
         length);
  }
  const unsigned width = bits_for(classes);
  Reader section(reader.bytes((period * width + 7) / 8));
  BitReader bits(section);
  out.span = static_cast<size_t>(span);
  out.classes = classes;
  out.map.resize(static_cast<size_t>(period));
  for (uint8_t& c : out.map) {
    c = static_cast<uint8_t>(bits.get(width));
    if (c >= classes) fail("rans: class %u of %zu", c, classes);
  }
  bits.end();
  return out;
}

inline uint32_t word(const uint8_t* p) { return static_cast<uint32_t>(p[0] | p[1] << 8); }

// The integers that no symbol stands for, in order of their elements.
class Escapes {
 public:
  Escapes(Reader& reader, uint64_t elements, int32_t lowest, int32_t highest) : highest_(highest) {
    left_ = reader.varint();
    if (left_ > elements) fail("rans: more escaped integers than elements");
    lowest_ = reader.svarint();
    width_ = reader.u8();
    if (width_ > 32 || lowest_ < lowest || lowest_ > highest) fail("rans: malformed escape list");
    section_ = Reader(reader.bytes((left_ * width_ + 7) / 8));
  }

  void patch(int32_t marker, int32_t* q, size_t n) {
    constexpr size_t kBlock =
        64;  // escapes are rare: most blocks have none, and compilers make that check vector code
    for (size_t first = 0; first < n; first += kBlock) {
      const size_t end = std::min(first + kBlock, n);
      uint32_t found = 0;
      for (size_t i = first; i < end; ++i) found |= q[i] == marker ? 1U : 0U;
      if (!found) continue;
      for (size_t i = first; i < end; ++i) {
        if (q[i] == marker) q[i] = next();
      }
    }
  }
  void end() const {
    if (left_ != 0) fail("rans: %" PRIu64 " escaped integers left over", left_);
    bits_.end();
  }

 private:
  int32_t next() {
    if (left_ == 0) fail("rans: more escapes than escaped integers");
    --left_;
    const int64_t value = lowest_ + bits_.get(width_);
    if (value > highest_) fail("rans: an escaped integer does not fit 32 bits");
    return static_cast<int32_t>(value);
  }

  int32_t highest_;
  uint64_t left_ = 0;
  int64_t lowest_ = 0;
  unsigned width_ = 0;
  Reader section_{Bytes{}};
  BitReader bits_{section_};
};

// Appends to q[0, n) the `width` low bits that stand uncoded in `in`, element `first` of the matrix onwards.
// Reads up to three bytes past the last one it needs: the lanes' states stand there.
void append_low_bits(const uint8_t* in, unsigned width, size_t first, int32_t* q, size_t n) {
  const uint32_t mask = (1U << width) - 1;
  for (size_t i = 0; i < n; ++i) {
    const uint64_t bit = static_cast<uint64_t>(first + i) * width;
    const uint8_t* p = in + (bit >> 3);
    const uint32_t bytes = word(p) | word(p + 2) << 16;
    q[i] = static_cast<int32_t>(static_cast<uint32_t>(q[i]) << width | (bytes >> (bit & 7) & mask));
  }
}

// One symbol of one lane: the state that stays behind, before renormalisation.
inline uint32_t step(uint32_t x, uint32_t slot, unsigned precision) {
  return ((slot >> 12 & 0xfff) + 1) * (x >> precision) + (slot & 0xfff);
}

// What the states' low bits stand for, by table and then by slot. An offset names a table: its index <<
// precision.
class Tables {
 public:
  Tables(size_t count, unsigned precision)
      : precision_(precision),
        slots_(fine() ? 0 : count << precision),
        symbols_(fine() ? count << precision : 0),
        ranges_(fine() ? count * kMaxSymbols : 0) {}

  bool fine() const { return precision_ > kPackedPrecision; }
  const uint32_t* slots() const { return slots_.data(); }
  void fill(size_t table, const Freqs& freqs, size_t symbols) {
    const size_t at = table << precision_;
    if (fine())
      fill_fine(freqs, symbols, symbols_.data() + at, ranges_.data() + table * kMaxSymbols);
    else
      fill_slots(freqs, symbols, slots_.data() + at);
  }

  // Takes one symbol from a state, before renormalisation.
  template <bool kFine>
  uint32_t take(uint32_t& x, uint32_t offset) const {
    const uint32_t slot = x & ((1U << precision_) - 1);
    if constexpr (kFine) {
      const uint32_t symbol = symbols_[offset + slot];
      const uint32_t range = ranges_[(offset >> precision_) * kMaxSymbols + symbol];
      x = (range >> 16) * (x >> precision_) + slot - (range & 0xffff);
      return symbol;
    } else {
      const uint32_t packed = slots_[offset + slot];
      x = step(x, packed, precision_);
      return packed >> 24;
    }
  }

 private:
  unsigned precision_;
  std::vector<uint32_t> slots_;   // packed
  std::vector<uint8_t> symbols_;  // or fine: of every slot,
  std::vector<uint32_t> ranges_;  // and of every symbol
};

// As Kernel, for kCount lanes. Without branches: which lanes need a word is as good as random.
template <size_t kCount, bool kOffsets>
size_t decode_scalar(const uint32_t* slots, unsigned precision, const uint32_t* offsets, int32_t base,
                     Lanes& lanes, int32_t* out, size_t n) {
  constexpr size_t kGroup = 8;  // as many as compilers unroll
  const uint32_t mask = (1U << precision) - 1;
  const uint8_t* at = lanes.at;
  size_t i = 0;
  for (; i + kCount <= n && static_cast<size_t>(lanes.end - at) >= 2 * kCount; i += kCount) {
    for (size_t group = 0; group < kCount; group += kGroup) {
      for (size_t lane = group; lane < group + kGroup; ++lane) {
        const uint32_t state = lanes.state[lane];
        const uint32_t slot = slots[(state & mask) + (kOffsets ? offsets[i + lane] : 0)];
        const uint32_t x = step(state, slot, precision);
        const uint32_t low = x < kLow;
        const uint32_t used = 2 * low;  // bytes; as size_t, GCC 12's loop is a tenth slower
        lanes.state[lane] = x << (16 * low) | (word(at) & (0 - low));
        at += used;
        out[i + lane] = static_cast<int32_t>(static_cast<uint32_t>(base) + (slot >> 24));
      }
    }
  }
  lanes.at = at;
  return i;
}

// Any number of lanes, each word checked: for fine tables and the ends of streams. Starts at lane 0.
template <bool kFine>
void decode_checked(const Tables& tables, const uint32_t* offsets, int32_t base, Lanes& lanes, size_t count,
                    int32_t* out, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    uint32_t& x = lanes.state[i & (count - 1)];
    const uint32_t symbol = tables.take<kFine>(x, offsets ? offsets[i] : 0);
    if (x < kLow) {
      if (lanes.end - lanes.at < 2) fail("rans: truncated: the words end before the integers");
      x = x << 16 | word(lanes.at);
      lanes.at += 2;
    }
    out[i] = static_cast<int32_t>(static_cast<uint32_t>(base) + symbol);
  }
}

template <size_t kCount>
Kernel scalar(bool with_offsets) {
  return with_offsets ? decode_scalar<kCount, true> : decode_scalar<kCount, false>;
}

Kernel choose_kernel(size_t lanes, bool with_offsets) {
  Kernel kernel = nullptr;
#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
  if (simd() == Simd::kAvx512) kernel = avx512_kernel(lanes, with_offsets);
  if (simd() == Simd::kAvx2) kernel = avx2_kernel(lanes, with_offsets);
#elif defined(ONNXOPT_NEON)
  if (simd() == Simd::kNeon) kernel = neon_kernel(lanes, with_offsets);
#endif
  if (kernel) return kernel;
  switch (lanes) {
    case 64:
      return scalar<64>(with_offsets);
    case 32:
      return scalar<32>(with_offsets);
    case 16:
      return scalar<16>(with_offsets);
    case 8:
      return scalar<8>(with_offsets);
    default:
      return nullptr;
  }
}

// Where in the slots each element's table starts, run by run.
class Offsets {
 public:
  Offsets(ClassMap rows, const ClassMap& columns, Shape shape, unsigned precision)
      : rows_(std::move(rows)),
        row_stride_(static_cast<uint32_t>(columns.classes) << precision),
        columns_(shape.cols) {
    for (size_t j = 0; j < shape.cols; ++j) columns_[j] = static_cast<uint32_t>(columns.of(j)) << precision;
  }

  // The next n elements.
  const uint32_t* next(size_t n) {
    for (size_t i = 0; i < n;) {
      const size_t count = std::min(n - i, columns_.size() - col_);
      const uint32_t table = static_cast<uint32_t>(rows_.of(row_)) * row_stride_;
      for (size_t j = 0; j < count; ++j) run_[i + j] = table + columns_[col_ + j];
      i += count;
      col_ += count;
      if (col_ == columns_.size()) {
        col_ = 0;
        ++row_;
      }
    }
    return run_;
  }

 private:
  ClassMap rows_;
  uint32_t row_stride_;
  std::vector<uint32_t> columns_;
  size_t row_ = 0;
  size_t col_ = 0;
  uint32_t run_[kRun];
};

void decode_constant(Reader& reader, size_t n, Sink& sink) {
  const int64_t value = reader.svarint();
  if (value < INT32_MIN || value > INT32_MAX) fail("rans: the constant does not fit 32 bits");
  reader.expect_end("rans");
  int32_t run[kRun];
  std::fill_n(run, kRun, static_cast<int32_t>(value));
  for (size_t first = 0; first < n; first += kRun) sink.put(first, run, std::min(kRun, n - first));
}

Lanes read_lanes(Reader& reader, size_t count) {
  Lanes lanes{};
  for (size_t lane = 0; lane < count; ++lane) {
    lanes.state[lane] = reader.u32();
    if (lanes.state[lane] < kLow) fail("rans: a lane's state is below 65536");
  }
  lanes.at = reader.rest().data;
  lanes.end = lanes.at + reader.left();
  return lanes;
}

}  // namespace

void decode(Bytes in, Shape shape, Sink& sink) {
  Reader reader(in);
  const unsigned head = reader.u8();
  if (head == kConstant) return decode_constant(reader, shape.size(), sink);
  const size_t lane_count = size_t{1} << (head & 7);
  const bool escape = head >> 3 & 1;
  const unsigned precision = kMinPrecision + (head >> 4);
  if (lane_count > kMaxLanes || precision > kMaxPrecision || shape.size() == 0) {
    fail("rans: malformed header byte %u", head);
  }
  const int64_t base = reader.svarint();
  const size_t symbols = size_t{reader.u8()} + 1;  // the escape included
  const size_t direct = symbols - (escape ? 1 : 0);
  const unsigned classes = reader.u8();
  if (classes & 0x08) fail("rans: malformed class counts %u", classes);
  const unsigned low_bits = classes & 0x80 ? reader.u8() : 0;
  if (low_bits > kMaxLowBits) fail("rans: %u low bits, at most %u expected", low_bits, kMaxLowBits);
  const int32_t lowest = INT32_MIN >> low_bits;
  const int32_t highest = INT32_MAX >> low_bits;
  if (base < lowest || base + static_cast<int64_t>(direct) - 1 > highest) {
    fail("rans: the symbols do not fit 32 bits");
  }
  ClassMap rows = read_map(reader, (classes & 7) + 1, shape.rows);
  const ClassMap columns = read_map(reader, (classes >> 4 & 7) + 1, shape.cols);

  const size_t table_count = rows.classes * columns.classes;
  const unsigned code_byte = reader.u8();
  const TableCode code{code_byte & 7, code_byte >> 3 & 1, code_byte >> 4};
  if (code.resolution > kMaxResolution || code.rice > kMaxRice) fail("rans: malformed table code");
  Tables tables(table_count, precision);
  {
    BitReader bits(reader);
    for (size_t t = 0; t < table_count; ++t) {
      Levels levels;
      Freqs freqs;
      read_levels(bits, direct, escape, code, levels);
      frequencies(levels, symbols, code.resolution, precision, freqs);
      tables.fill(t, freqs, symbols);
    }
    bits.end();
  }
  std::optional<Escapes> escapes;
  if (escape) escapes.emplace(reader, shape.size(), lowest, highest);
  const Bytes low = reader.bytes((static_cast<uint64_t>(shape.size()) * low_bits + 7) / 8);
  Lanes lanes = read_lanes(reader, lane_count);
  std::optional<Offsets> offsets;
  if (table_count > 1) offsets.emplace(std::move(rows), columns, shape, precision);

  const Kernel kernel = tables.fine() ? nullptr : choose_kernel(lane_count, table_count > 1);
  const auto checked = tables.fine() ? decode_checked<true> : decode_checked<false>;
  const auto base32 = static_cast<int32_t>(base);
  const auto marker = static_cast<int32_t>(static_cast<uint32_t>(base32) + static_cast<uint32_t>(direct));
  alignas(64) int32_t run[kRun];
  for (size_t first = 0; first < shape.size(); first += kRun) {
    const size_t n = std::min(kRun, shape.size() - first);
    const uint32_t* at = offsets ? offsets->next(n) : nullptr;
    const size_t done = kernel ? kernel(tables.slots(), precision, at, base32, lanes, run, n) : 0;
    checked(tables, at ? at + done : nullptr, base32, lanes, lane_count, run + done, n - done);
    if (escapes) escapes->patch(marker, run, n);
    if (low_bits) append_low_bits(low.data, low_bits, first, run, n);
    sink.put(first, run, n);
  }
  if (lanes.at != lanes.end) fail("rans: bytes left over after the last integer");
  for (size_t lane = 0; lane < lane_count; ++lane) {
    if (lanes.state[lane] != kLow) fail("rans: a lane does not end in its initial state");
  }
  if (escapes) escapes->end();
}

}  // namespace onnxopt::rans
