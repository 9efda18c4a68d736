// Huffman: Deep Compression's sparse format [Han, Mao & Dally 2016]: for every nonzero integer the gap to the
// one before it, in `bits` bits, with a filler zero wherever a gap does not fit; gaps and values are each
// coded with a canonical Huffman code. docs/format/huffman.md has the bytes.
#include <algorithm>
#include <numeric>

#include "choose.h"
#include "huffman_code.h"

namespace onnxopt {
namespace huffman {
namespace {

constexpr unsigned kMinGapBits = 2, kMaxGapBits = 8;

struct Tokens {
  std::vector<uint8_t> gaps;
  std::vector<int32_t> values;
};

// With fillers for so many zeros at the end.
Tokens tokenize(const int32_t* q, size_t n, unsigned bits, size_t zeros) {
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
  out.gaps.resize(out.gaps.size() + zeros / full, static_cast<uint8_t>(full - 1));
  out.values.resize(out.gaps.size());
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
  bits += 4 * std::min<uint64_t>(code.span(), 3 * code.symbols.size());  // about what the table takes
  return code;
}

// The distinct nonzero integers with their counts, zero among them with count 0; empty where there are too
// many.
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
  const auto index = [&](int32_t v) {
    return static_cast<size_t>(std::lower_bound(seen.begin(), seen.end(), v) - seen.begin());
  };
  for (size_t i = 0; i < n; ++i) ++out.counts[index(q[i])];
  out.zero = index(0);
  out.counts[out.zero] = 0;
  out.values = std::move(seen);
  return out;
}

// Gaps before each nonzero, as counts: the lists for every `bits` follow from it.
Codes plan(const Histogram& values, const std::vector<size_t>& gaps, unsigned bits, size_t zeros = 0) {
  const size_t full = size_t{1} << bits;
  std::vector<uint64_t> gap_counts(full), counts = values.counts;
  counts[values.zero] += zeros / full;
  gap_counts[full - 1] += zeros / full;
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

std::vector<uint8_t> encode(const int32_t* q, Shape shape) {
  const size_t n = shape.size();
  std::vector<uint8_t> out;
  const Histogram values = count_values(q, n);
  if (values.values.empty()) return out;
  std::vector<size_t> gaps;
  size_t last = 0, zeros = 0;
  for (size_t i = 0; i < n; ++i) {
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
  if (codes.bits / 8 < n / kMaxIntegersPerByte) {  // a bomb: then the zeros at the end take a few bits, too
    zeros = n - last;
    bits = kMaxGapBits;
    codes = plan(values, gaps, bits, zeros);
  }
  const Tokens tokens = tokenize(q, n, bits, zeros);
  Writer writer(out);
  writer.u8(static_cast<uint8_t>(bits));
  writer.varint(tokens.values.size());
  write_code(writer, codes.values);
  write_code(writer, codes.gaps);
  const std::vector<uint16_t> value_words = codes.values.words(), gap_words = codes.gaps.words();
  const auto emit = [](BitWriter& to, const Code& code, const std::vector<uint16_t>& words, int32_t symbol) {
    const auto s = static_cast<size_t>(std::lower_bound(code.symbols.begin(), code.symbols.end(), symbol) -
                                       code.symbols.begin());
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

// Hands integers over in runs, with zeros between them.
class SparseSink {
 public:
  SparseSink(Sink& sink, size_t size) : sink_(sink), size_(size) {}

  void put(size_t gap, int32_t value) {
    if (gap >= size_ - at_) fail("huffman: an integer lies outside the matrix");
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
    fail("huffman: gaps of %u bits, 2 to 8 expected", bits);
  }
  const uint64_t tokens = reader.varint();
  const Code values = read_code(reader), gaps = read_code(reader);
  if (tokens > shape.size() || (tokens != 0) != !values.symbols.empty() ||
      values.symbols.empty() != gaps.symbols.empty()) {
    fail("huffman: %" PRIu64 " code words do not fit the code or the matrix", tokens);
  }
  if (!gaps.symbols.empty() && (gaps.symbols.front() < 0 || gaps.symbols.back() >> bits != 0)) {
    fail("huffman: a gap is wider than %u bits", bits);
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
}  // namespace huffman

const Codec codecs::huffman{2, "huffman", huffman::encode, huffman::decode};

}  // namespace onnxopt
