#include "huffman_code.h"

#include <algorithm>

namespace onnxopt::huffman {
namespace {

void write_nibbles(Writer& writer, const std::vector<uint8_t>& nibbles) {
  for (size_t i = 0; i < nibbles.size(); i += 2) {
    writer.u8(static_cast<uint8_t>(nibbles[i] | (i + 1 < nibbles.size() ? nibbles[i + 1] << 4 : 0)));
  }
}

std::vector<uint8_t> read_nibbles(Reader& reader, size_t n) {
  const Bytes packed = reader.bytes((n + 1) / 2);
  if (n % 2 != 0 && packed.data[packed.size - 1] >> 4 != 0)
    fail("huffman: bits set after the last code length");
  std::vector<uint8_t> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = packed.data[i / 2] >> (i % 2 * 4) & 15;
  return out;
}

void expect_complete(const Code& code) {
  uint32_t used = 0;
  for (const uint8_t length : code.lengths) {
    if (length == 0) fail("huffman: a symbol without a code word");
    used += 1u << (kMaxLength - length);
  }
  const bool lone = code.lengths.size() == 1 && code.lengths[0] == 1;
  if (!lone && used != 1u << kMaxLength) fail("huffman: code lengths make no complete prefix code");
}

int32_t checked_symbol(int64_t symbol) {
  if (symbol < INT32_MIN || symbol > INT32_MAX) fail("huffman: a symbol is not a 32-bit integer");
  return static_cast<int32_t>(symbol);
}

}  // namespace

// Lengths of an optimal prefix code by Huffman's algorithm on two queues [van Leeuwen 1976]; counts are
// halved until no word is too long, which costs next to nothing. Symbols of count 0 get length 0, a lone
// symbol length 1.
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
    const auto lightest = [&] {
      return leaf < leaves && (inner == weight.size() || weight[leaf] <= weight[inner]) ? leaf++ : inner++;
    };
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

std::vector<uint16_t> Code::words() const {
  std::array<unsigned, kMaxLength + 2> next{};
  for (const uint8_t length : lengths) ++next[length + 1u];
  for (unsigned l = 1; l <= kMaxLength; ++l) next[l] = (next[l - 1] + next[l]) << 1;
  std::vector<uint16_t> out(lengths.size());
  for (size_t s = 0; s < out.size(); ++s) out[s] = static_cast<uint16_t>(next[lengths[s]]++);
  return out;
}

uint64_t Code::span() const {
  return symbols.empty() ? 0 : static_cast<uint64_t>(int64_t{symbols.back()} - symbols.front()) + 1;
}

// [varint symbols][svarint first], then the lengths, half a byte each, either of every integer from the first
// to the last symbol ([varint span], 0 for absent ones) or of the listed symbols ([varint 0], [varint step -
// 1] each).
void write_code(Writer& writer, const Code& code) {
  writer.varint(code.symbols.size());
  if (code.symbols.empty()) return;
  writer.svarint(code.symbols[0]);
  const uint64_t span = code.span();
  if (span <= 3 * code.symbols.size()) {
    writer.varint(span);
    std::vector<uint8_t> dense(static_cast<size_t>(span));
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

Code read_code(Reader& reader) {
  Code code;
  const uint64_t n = reader.varint();
  if (n > kMaxSymbols) {
    fail("huffman: %" PRIu64 " symbols, at most %zu expected", n, kMaxSymbols);
  }
  if (n == 0) return code;
  int64_t symbol = checked_symbol(reader.svarint());
  const uint64_t span = reader.varint();
  if (span > 3 * n) fail("huffman: code lengths of %" PRIu64 " integers for fewer symbols", span);
  if (span != 0) {
    const std::vector<uint8_t> dense = read_nibbles(reader, static_cast<size_t>(span));
    for (size_t i = 0; i < dense.size(); ++i) {
      if (dense[i] == 0) continue;
      code.symbols.push_back(checked_symbol(symbol + static_cast<int64_t>(i)));
      code.lengths.push_back(dense[i]);
    }
    if (code.symbols.size() != n || dense.front() == 0 || dense.back() == 0) {
      fail("huffman: %zu code lengths, %" PRIu64 " expected", code.symbols.size(), n);
    }
  } else {
    code.symbols.push_back(checked_symbol(symbol));
    for (size_t s = 1; s < n; ++s) {
      const uint64_t gap = reader.varint();
      if (gap > UINT32_MAX) fail("huffman: a symbol is not a 32-bit integer");
      symbol = checked_symbol(symbol + static_cast<int64_t>(gap) + 1);
      code.symbols.push_back(static_cast<int32_t>(symbol));
    }
    code.lengths = read_nibbles(reader, static_cast<size_t>(n));
  }
  expect_complete(code);
  return code;
}

Decoder::Decoder(const Code& code) {
  std::array<uint32_t, kMaxLength + 2> count{};
  for (const uint8_t length : code.lengths) ++count[length];
  uint32_t word = 0, index = 0;
  for (unsigned l = 1; l <= kMaxLength;
       ++l) {  // words of length l, left-aligned in 15 bits, end at limit_[l]
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

}  // namespace onnxopt::huffman
