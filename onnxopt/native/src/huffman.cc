// Huffman: Deep Compression's sparse format [Han, Mao & Dally 2016]: for every nonzero integer the gap to the one
// before it, in `bits` bits, with a filler zero wherever a gap does not fit; gaps and values are each coded with a
// canonical Huffman code. docs/format/huffman.md has the bytes.
#include <algorithm>
#include <array>
#include <numeric>

#include "codec.h"

namespace onnxopt {
namespace {

constexpr unsigned kMaxLength = 15;      // of a code word: its length fits half a byte
constexpr size_t kMaxSymbols = 4096;     // with more distinct values a code table is no longer worth its bytes
constexpr unsigned kMinGapBits = 2, kMaxGapBits = 8;
constexpr unsigned kPeek = 10;           // code words up to so many bits decode with one look-up

// Lengths of an optimal prefix code by Huffman's algorithm on two queues [van Leeuwen 1976]; counts are halved until
// no word is too long, which costs next to nothing. Symbols of count 0 get length 0, a lone symbol length 1.
std::vector<uint8_t> code_lengths(std::vector<uint64_t> counts) {
  std::vector<uint8_t> lengths(counts.size());
  std::vector<size_t> order;
  for (size_t s = 0; s < counts.size(); ++s) {
    if (counts[s] != 0) order.push_back(s);
  }
  const size_t leaves = order.size();
  if (leaves == 1) lengths[order[0]] = 1;
  if (leaves < 2) return lengths;
  for (;;) {
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return counts[a] < counts[b]; });
    std::vector<uint64_t> weight(leaves);
    for (size_t i = 0; i < leaves; ++i) weight[i] = counts[order[i]];
    std::vector<size_t> parent(2 * leaves - 1);
    size_t leaf = 0, inner = leaves;
    const auto lightest = [&] { return leaf < leaves && (inner == weight.size() || weight[leaf] <= weight[inner]) ? leaf++ : inner++; };
    while (weight.size() < 2 * leaves - 1) {
      const size_t a = lightest(), b = lightest();
      parent[a] = parent[b] = weight.size();
      weight.push_back(weight[a] + weight[b]);
    }
    std::vector<unsigned> depth(2 * leaves - 1);
    unsigned deepest = 0;
    for (size_t i = 2 * leaves - 2; i-- > 0;) {
      depth[i] = depth[parent[i]] + 1;
      deepest = std::max(deepest, depth[i]);
    }
    if (deepest <= kMaxLength) {
      for (size_t i = 0; i < leaves; ++i) lengths[order[i]] = static_cast<uint8_t>(depth[i]);
      return lengths;
    }
    for (uint64_t& count : counts) count = (count + 1) / 2;
  }
}

// A canonical code over symbols in ascending order; a symbol is a value or a gap.
struct Code {
  std::vector<int32_t> symbols;
  std::vector<uint8_t> lengths;  // 1..15

  // Code words: shorter first, then by symbol.
  std::vector<uint16_t> words() const {
    std::array<unsigned, kMaxLength + 2> next{};
    for (const uint8_t length : lengths) ++next[length + 1u];
    for (unsigned l = 1; l <= kMaxLength; ++l) next[l] = (next[l - 1] + next[l]) << 1;
    std::vector<uint16_t> out(lengths.size());
    for (size_t s = 0; s < out.size(); ++s) out[s] = static_cast<uint16_t>(next[lengths[s]]++);
    return out;
  }
};

uint64_t span_of(const Code& code) {
  return code.symbols.empty() ? 0 : static_cast<uint64_t>(int64_t{code.symbols.back()} - code.symbols.front()) + 1;
}

void write_nibbles(Writer& writer, const std::vector<uint8_t>& nibbles) {
  for (size_t i = 0; i < nibbles.size(); i += 2) {
    writer.u8(static_cast<uint8_t>(nibbles[i] | (i + 1 < nibbles.size() ? nibbles[i + 1] << 4 : 0)));
  }
}

// [varint symbols][svarint first], then the lengths, half a byte each, either of every integer from the first to the
// last symbol ([varint span], 0 for absent ones) or of the listed symbols ([varint 0], [varint step - 1] each).
void write_code(Writer& writer, const Code& code) {
  writer.varint(code.symbols.size());
  if (code.symbols.empty()) return;
  writer.svarint(code.symbols[0]);
  const uint64_t span = span_of(code);
  if (span <= 3 * code.symbols.size()) {
    writer.varint(span);
    std::vector<uint8_t> dense(span);
    for (size_t s = 0; s < code.symbols.size(); ++s) {
      dense[static_cast<size_t>(int64_t{code.symbols[s]} - code.symbols[0])] = code.lengths[s];
    }
    write_nibbles(writer, dense);
    return;
  }
  writer.varint(0);
  for (size_t s = 1; s < code.symbols.size(); ++s) {
    writer.varint(static_cast<uint64_t>(int64_t{code.symbols[s]} - code.symbols[s - 1] - 1));
  }
  write_nibbles(writer, code.lengths);
}

std::vector<uint8_t> read_nibbles(Reader& reader, size_t n) {
  const Bytes packed = reader.bytes((n + 1) / 2);
  if (n % 2 != 0 && packed.data[packed.size - 1] >> 4 != 0) throw Error("huffman: bits set after the last code length");
  std::vector<uint8_t> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = packed.data[i / 2] >> (i % 2 * 4) & 15;
  return out;
}

void expect_complete(const Code& code) {
  uint32_t used = 0;
  for (const uint8_t length : code.lengths) {
    if (length == 0) throw Error("huffman: a symbol without a code word");
    used += 1u << (kMaxLength - length);
  }
  const bool lone = code.lengths.size() == 1 && code.lengths[0] == 1;
  if (!lone && used != 1u << kMaxLength) throw Error("huffman: code lengths make no complete prefix code");
}

int32_t checked_symbol(int64_t symbol) {
  if (symbol < INT32_MIN || symbol > INT32_MAX) throw Error("huffman: a symbol is not a 32-bit integer");
  return static_cast<int32_t>(symbol);
}

Code read_code(Reader& reader) {
  Code code;
  const uint64_t n = reader.varint();
  if (n > kMaxSymbols) {
    throw Error("huffman: " + std::to_string(n) + " symbols, at most " + std::to_string(kMaxSymbols) + " expected");
  }
  if (n == 0) return code;
  int64_t symbol = checked_symbol(reader.svarint());
  const uint64_t span = reader.varint();
  if (span > 3 * n) throw Error("huffman: code lengths of " + std::to_string(span) + " integers for fewer symbols");
  if (span != 0) {
    const std::vector<uint8_t> dense = read_nibbles(reader, span);
    for (size_t i = 0; i < span; ++i) {
      if (dense[i] == 0) continue;
      code.symbols.push_back(checked_symbol(symbol + static_cast<int64_t>(i)));
      code.lengths.push_back(dense[i]);
    }
    if (code.symbols.size() != n || dense[0] == 0 || dense[span - 1] == 0) {
      throw Error("huffman: " + std::to_string(code.symbols.size()) + " code lengths, " + std::to_string(n) + " expected");
    }
  } else {
    code.symbols.push_back(checked_symbol(symbol));
    for (size_t s = 1; s < n; ++s) {
      const uint64_t gap = reader.varint();
      if (gap > UINT32_MAX) throw Error("huffman: a symbol is not a 32-bit integer");
      symbol = checked_symbol(symbol + static_cast<int64_t>(gap) + 1);
      code.symbols.push_back(static_cast<int32_t>(symbol));
    }
    code.lengths = read_nibbles(reader, n);
  }
  expect_complete(code);
  return code;
}

struct Tokens {
  std::vector<uint8_t> gaps;
  std::vector<int32_t> values;
};

Tokens tokenize(const int32_t* q, size_t n, unsigned bits) {
  const size_t full = size_t{1} << bits;
  Tokens out;
  size_t gap = 0;
  for (size_t i = 0; i < n; ++i) {
    if (q[i] == 0) {
      ++gap;
      continue;
    }
    for (; gap >= full; gap -= full) {
      out.gaps.push_back(static_cast<uint8_t>(full - 1));
      out.values.push_back(0);
    }
    out.gaps.push_back(static_cast<uint8_t>(gap));
    out.values.push_back(q[i]);
    gap = 0;
  }
  return out;
}

// Codes for the tokens, and how many bits these then take.
struct Codes {
  Code values, gaps;
  uint64_t bits = 0;
};

Code make_code(const std::vector<int32_t>& symbols, const std::vector<uint64_t>& counts, uint64_t& bits) {
  const std::vector<uint8_t> lengths = code_lengths(counts);
  Code code;
  for (size_t s = 0; s < symbols.size(); ++s) {
    if (lengths[s] == 0) continue;
    code.symbols.push_back(symbols[s]);
    code.lengths.push_back(lengths[s]);
    bits += counts[s] * lengths[s];
  }
  bits += 4 * std::min<uint64_t>(span_of(code), 3 * code.symbols.size());  // about what the table takes
  return code;
}

// The distinct nonzero integers with their counts, zero among them with count 0; empty where there are too many.
struct Histogram {
  std::vector<int32_t> values;
  std::vector<uint64_t> counts;
  size_t zero = 0;
};

Histogram count_values(const int32_t* q, size_t n) {
  Histogram out;
  std::vector<int32_t> seen{0};
  for (size_t i = 0; i < n;) {  // block by block, so that hopeless matrices are given up early
    const size_t end = std::min(n, i + (size_t{1} << 14));
    seen.insert(seen.end(), q + i, q + end);
    std::sort(seen.begin(), seen.end());
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    if (seen.size() > kMaxSymbols) return out;
    i = end;
  }
  out.counts.resize(seen.size());
  const auto index = [&](int32_t v) { return static_cast<size_t>(std::lower_bound(seen.begin(), seen.end(), v) - seen.begin()); };
  for (size_t i = 0; i < n; ++i) ++out.counts[index(q[i])];
  out.zero = index(0);
  out.counts[out.zero] = 0;
  out.values = std::move(seen);
  return out;
}

// Gaps before each nonzero, as counts: the lists for every `bits` follow from it.
Codes plan(const Histogram& values, const std::vector<size_t>& gaps, unsigned bits) {
  const size_t full = size_t{1} << bits;
  std::vector<uint64_t> gap_counts(full), counts = values.counts;
  for (const size_t gap : gaps) {
    counts[values.zero] += gap / full;
    gap_counts[full - 1] += gap / full;
    ++gap_counts[gap % full];
  }
  std::vector<int32_t> symbols(full);
  std::iota(symbols.begin(), symbols.end(), 0);
  Codes out;
  out.values = make_code(values.values, counts, out.bits);
  out.gaps = make_code(symbols, gap_counts, out.bits);
  return out;
}

class BitWriter {
 public:
  explicit BitWriter(std::vector<uint8_t>& out) : out_(out) {}
  void put(unsigned word, unsigned length) {
    pending_ = pending_ << length | word;
    for (filled_ += length; filled_ >= 8; filled_ -= 8) out_.push_back(static_cast<uint8_t>(pending_ >> (filled_ - 8)));
  }
  void finish() {
    if (filled_ != 0) out_.push_back(static_cast<uint8_t>(pending_ << (8 - filled_)));
  }

 private:
  std::vector<uint8_t>& out_;
  uint64_t pending_ = 0;
  unsigned filled_ = 0;
};

std::vector<uint8_t> encode(const int32_t* q, Shape shape) {
  const size_t n = shape.size();
  std::vector<uint8_t> out;
  const Histogram values = count_values(q, n);
  if (values.values.empty()) return out;
  std::vector<size_t> gaps;
  for (size_t i = 0, last = 0; i < n; ++i) {
    if (q[i] == 0) continue;
    gaps.push_back(i - last);
    last = i + 1;
  }
  unsigned bits = kMinGapBits;
  Codes codes = plan(values, gaps, bits);
  for (unsigned b = kMinGapBits + 1; b <= kMaxGapBits; ++b) {
    Codes other = plan(values, gaps, b);
    if (other.bits < codes.bits) codes = std::move(other), bits = b;
  }
  const Tokens tokens = tokenize(q, n, bits);
  Writer writer(out);
  writer.u8(static_cast<uint8_t>(bits));
  writer.varint(tokens.values.size());
  write_code(writer, codes.values);
  write_code(writer, codes.gaps);
  const std::vector<uint16_t> value_words = codes.values.words(), gap_words = codes.gaps.words();
  const auto emit = [](BitWriter& to, const Code& code, const std::vector<uint16_t>& words, int32_t symbol) {
    const auto s = static_cast<size_t>(std::lower_bound(code.symbols.begin(), code.symbols.end(), symbol) - code.symbols.begin());
    to.put(words[s], code.lengths[s]);
  };
  BitWriter bit_writer(out);
  for (size_t t = 0; t < tokens.values.size(); ++t) {
    emit(bit_writer, codes.gaps, gap_words, tokens.gaps[t]);
    emit(bit_writer, codes.values, value_words, tokens.values[t]);
  }
  bit_writer.finish();
  return out;
}

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
    if (at_ > in_.size + unread) throw Error("huffman: truncated code words");
    if (at_ < in_.size + unread) {
      throw Error("huffman: " + std::to_string(in_.size + unread - at_) + " bytes left over");
    }
    if (filled_ % 8 != 0 && pending_ >> (64 - filled_ % 8) != 0) throw Error("huffman: bits set after the last code word");
  }

 private:
  void refill() {
    if (at_ >= in_.size + 16) throw Error("huffman: truncated code words");
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
  explicit Decoder(const Code& code) {
    std::array<uint32_t, kMaxLength + 2> count{};
    for (const uint8_t length : code.lengths) ++count[length];
    uint32_t word = 0, index = 0;
    for (unsigned l = 1; l <= kMaxLength; ++l) {  // words of length l, left-aligned in 15 bits, end at limit_[l]
      offset_[l] = index - word;
      index += count[l];
      word += count[l];
      limit_[l] = word << (kMaxLength - l);
      word <<= 1;
    }
    for (unsigned l = 1; l <= kMaxLength; ++l) {
      for (size_t s = 0; s < code.lengths.size(); ++s) {
        if (code.lengths[s] == l) symbols_.push_back(code.symbols[s]);
      }
    }
    for (uint32_t p = 0; p < 1u << kPeek; ++p) {
      const uint32_t bits = p << (kMaxLength - kPeek);
      const unsigned l = length_of(bits);
      if (l <= kPeek) table_[p] = {symbols_[(bits >> (kMaxLength - l)) + offset_[l]], l};
    }
  }

  int32_t next(BitReader& reader) const {
    const uint32_t bits = reader.peek();
    const Slot& slot = table_[bits >> (kMaxLength - kPeek)];
    if (slot.length != 0) {
      reader.skip(slot.length);
      return slot.symbol;
    }
    const unsigned l = length_of(bits);
    if (l > kMaxLength) throw Error("huffman: no such code word");
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

// Hands integers over in runs, with zeros between them.
class SparseSink {
 public:
  SparseSink(Sink& sink, size_t size) : sink_(sink), size_(size) {}

  void put(size_t gap, int32_t value) {
    if (gap >= size_ - at_) throw Error("huffman: an integer lies outside the matrix");
    zeros(gap);
    push(value);
  }
  void finish() {
    zeros(size_ - at_);
    if (n_ != 0) sink_.put(at_ - n_, run_, n_);
  }

 private:
  void zeros(size_t n) {
    for (; n != 0; --n) push(0);
  }
  void push(int32_t value) {
    run_[n_++] = value;
    ++at_;
    if (n_ < Sink::kRun) return;
    sink_.put(at_ - n_, run_, n_);
    n_ = 0;
  }

  Sink& sink_;
  size_t size_, at_ = 0, n_ = 0;
  int32_t run_[Sink::kRun];
};

void decode(Bytes in, Shape shape, Sink& sink) {
  Reader reader(in);
  const unsigned bits = reader.u8();
  if (bits < kMinGapBits || bits > kMaxGapBits) {
    throw Error("huffman: gaps of " + std::to_string(bits) + " bits, 2 to 8 expected");
  }
  const uint64_t tokens = reader.varint();
  const Code values = read_code(reader), gaps = read_code(reader);
  if (tokens > shape.size() || (tokens != 0) != !values.symbols.empty() || values.symbols.empty() != gaps.symbols.empty()) {
    throw Error("huffman: " + std::to_string(tokens) + " code words do not fit the code or the matrix");
  }
  if (!gaps.symbols.empty() && (gaps.symbols.front() < 0 || gaps.symbols.back() >> bits != 0)) {
    throw Error("huffman: a gap is wider than " + std::to_string(bits) + " bits");
  }
  BitReader bit_reader(reader.rest());
  SparseSink sparse(sink, shape.size());
  if (tokens != 0) {
    const Decoder next_value(values), next_gap(gaps);
    for (uint64_t t = 0; t < tokens; ++t) {
      const auto gap = static_cast<size_t>(next_gap.next(bit_reader));
      sparse.put(gap, next_value.next(bit_reader));
    }
  }
  bit_reader.finish();
  sparse.finish();
}

}  // namespace

const Codec kHuffman{2, "huffman", encode, decode};

}  // namespace onnxopt
