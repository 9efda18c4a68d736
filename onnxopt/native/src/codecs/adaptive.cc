// Adaptive: the header, [varint bytes of the rANS stream], the stream (a state of 1 to 8 bytes, then words of
// 4), then the bits that are coded as they are (adaptive_model.h, docs/format/adaptive.md).
//
// One rANS state [Duda 2013] codes a token and a sign at a time: 2^15 * 2^16 divides its lowest value, 2^31.
#include <algorithm>

#include "adaptive_model.h"
#include "choose.h"
#include "rans_bits.h"

namespace onnxopt {

AdaptiveModel::AdaptiveModel(Shape shape, const ContextHeader& header)
    : header_(header), map_(header.detail), columns_(shape.cols) {
  const std::array<uint64_t, 32> power = geometric_powers(header.excess256());
  for (unsigned t = 1; t < kTokens; ++t) {
    uint64_t beyond = uint64_t{2 * header.nonzero + 1} << 23;  // P(m >= first[t]) in 1/2^32
    const unsigned steps = map_.first[t] - 1U;
    for (unsigned j = 0; steps >> j != 0; ++j) {
      if (steps >> j & 1) beyond = beyond * power[j] >> 32;
    }
    const uint64_t below = ((uint64_t{1} << 32) - beyond) * kFree >> 32;
    start_.below[t] = static_cast<uint16_t>(below + uint64_t{kFloor} * t);
  }
  start_.below[0] = 0;
  start_.below[kTokens] = 1U << kTokenBits;
  start_.seen = kConfidence;
  sign_[kNoSign].p = 1U << kSignBits;
  mean_ = static_cast<uint32_t>(std::clamp<uint64_t>(header.mean256(), 1, uint64_t{kMagnitude} << 8));
  std::fill(columns_.begin(), columns_.end(), Column{mean_, 0, 0});
}

AdaptiveModel::Row AdaptiveModel::row_after(const Row& last) {
  if (rows_ != 0) follow(mean_, last.mean, std::min(rows_ - 1, kRowsMemory));
  ++rows_;
  base_ = static_cast<int>(half_octaves(mean_));
  column_seen_ += column_seen_ < kColumnMemory;
  Row row;
  row.mean = row.mean_before = mean_;
  return row;
}

namespace {

constexpr uint64_t kLow = uint64_t{1} << (kTokenBits + kSignBits);  // states are in [2^31, 2^63)
constexpr size_t kWord = 4, kState = 8;

class Encoder {
 public:
  static constexpr bool kEncodes = true;
  explicit Encoder(size_t integers) { steps_.reserve(integers); }

  unsigned token(const Tokens& a, const Tokens& b, unsigned token) {
    const uint32_t first = mean_below(a, b, token);
    steps_.push_back({first, mean_below(a, b, token + 1) - first, 0, 0});
    return token;
  }
  unsigned sign(uint32_t p, unsigned negative) {
    steps_.back().sign_first = negative ? 0 : p;
    steps_.back().sign_share = negative ? p : (1U << kSignBits) - p;
    return negative;
  }
  uint32_t bits(unsigned count, uint32_t bits) {
    plain_.put(bits & ((1U << count) - 1), count);
    return bits;
  }

  // rANS is last in, first out: the decoder takes the words from the end.
  void finish(Writer& writer) {
    plain_.flush();
    uint64_t state = 0;
    std::vector<uint32_t> words;
    for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) {
      if (state >> 32 >= uint64_t{step->share} * step->sign_share) {
        words.push_back(static_cast<uint32_t>(state));
        state >>= 32;
      }
      state = (state / step->sign_share << kSignBits) + state % step->sign_share + step->sign_first;
      state = (state / step->share << kTokenBits) + state % step->share + step->first;
    }
    size_t state_bytes = (bit_length(state) + 7) / 8;
    if (!words.empty()) state_bytes = std::max(state_bytes, kWord + 1);
    writer.varint(state_bytes + kWord * words.size());
    for (size_t i = 0; i < state_bytes; ++i) writer.u8(static_cast<uint8_t>(state >> (8 * i)));
    for (auto word = words.rbegin(); word != words.rend(); ++word) writer.u32(*word);
    writer.bytes({bytes_.data(), bytes_.size()});
  }

 private:
  struct Step {
    uint32_t first, share, sign_first, sign_share;
  };
  std::vector<Step> steps_;
  std::vector<uint8_t> bytes_;
  rans::BitWriter plain_{bytes_};
};

class Decoder {
 public:
  static constexpr bool kEncodes = false;
  explicit Decoder(Reader& reader) {
    const Bytes stream = reader.bytes(reader.varint());
    // At most 8 bytes are the state alone; else it takes 5 to 8, and whole words follow.
    const size_t state_bytes =
        stream.size <= kState ? stream.size : kWord + 1 + (stream.size - kWord - 1) % kWord;
    for (size_t i = state_bytes; i-- > 0;) state_ = state_ << 8 | stream.data[i];
    const Bytes plain = reader.rest();
    words_end_ = stream.size - state_bytes;
    plain_bits_ = uint64_t{plain.size} * 8;
    // A copy with zeros behind it, so that reading need not look for the end.
    bytes_.reserve(words_end_ + plain.size + kState);
    bytes_.insert(bytes_.end(), stream.data + state_bytes, stream.data + stream.size);
    bytes_.insert(bytes_.end(), plain.data, plain.data + plain.size);
    bytes_.resize(bytes_.size() + kState);
    data_ = bytes_.data();
  }

  unsigned token(const Tokens& a, const Tokens& b, unsigned = 0) {
    const auto slot = static_cast<uint32_t>(state_ & ((1U << kTokenBits) - 1));
    const unsigned found = token_at(a, b, slot);
    const uint32_t first = mean_below(a, b, found);
    state_ = uint64_t{mean_below(a, b, found + 1) - first} * (state_ >> kTokenBits) + slot - first;
    return found;
  }

  unsigned sign(uint32_t p, unsigned = 0) {
    const auto slot = static_cast<uint32_t>(state_ & ((1U << kSignBits) - 1));
    // No branch, as the bits of weights are hard to predict.
    const unsigned negative = slot < p;
    const uint32_t all = 0U - negative;
    const uint32_t positive_share = (1U << kSignBits) - p;
    const uint32_t share = positive_share + ((p - positive_share) & all);
    state_ = share * (state_ >> kSignBits) + (slot - p + (p & all));
    if (state_ < kLow && at_ != words_end_) {
      state_ = state_ << (8 * kWord) | word();
      at_ += kWord;
    }
    return negative;
  }

  uint32_t bits(unsigned count, uint32_t = 0) {
    const uint8_t* p = data_ + words_end_ + std::min(plain_at_, plain_bits_) / 8;
    const uint64_t window =
        (p[0] | uint64_t{p[1]} << 8 | uint64_t{p[2]} << 16 | uint64_t{p[3]} << 24 | uint64_t{p[4]} << 32 |
         uint64_t{p[5]} << 40 | uint64_t{p[6]} << 48 | uint64_t{p[7]} << 56) >>
        (plain_at_ % 8);
    plain_at_ += count;
    return static_cast<uint32_t>(window) & ((1U << count) - 1);
  }

  void finish() const {
    if (state_ != 0 || at_ != words_end_) fail("adaptive: the stream does not end with its last integer");
    if (plain_at_ > plain_bits_ || plain_bits_ - plain_at_ >= 8) {
      fail("adaptive: %" PRIu64 " bits were read, %" PRIu64 " are there", plain_at_, plain_bits_);
    }
    if (plain_at_ != plain_bits_ &&
        bytes_[static_cast<size_t>(words_end_ + plain_at_ / 8)] >> plain_at_ % 8 != 0) {
      fail("adaptive: padding bits are not zero");
    }
  }

 private:
  uint64_t word() const {
    const uint8_t* p = data_ + at_;
    return p[0] | uint32_t{p[1]} << 8 | uint32_t{p[2]} << 16 | uint32_t{p[3]} << 24;
  }

  std::vector<uint8_t> bytes_;
  const uint8_t* data_;
  uint64_t state_ = 0;
  size_t at_ = 0, words_end_ = 0;
  uint64_t plain_at_ = 0, plain_bits_ = 0;
};

// The finest that leaves few integers to escapes.
unsigned best_detail(const int32_t* q, size_t n, int32_t centre) {
  constexpr unsigned kFinest = 3;
  constexpr size_t kFew = 1024;  // one integer in so many
  for (unsigned detail = kFinest; detail > 0; --detail) {
    const int64_t last = TokenMap(detail).first[kEscape];
    const auto escaped = [&](int32_t v) { return std::abs(int64_t{v} - centre) >= last; };
    if (static_cast<size_t>(std::count_if(q, q + n, escaped)) <= n / kFew) return detail;
  }
  return 0;
}

std::vector<uint8_t> encode(const int32_t* q, Shape shape) {
  ContextHeader header = ContextHeader::of(q, shape);
  header.detail = best_detail(q, shape.size(), header.centre);
  Encoder coder(shape.size());
  AdaptiveModel model(shape, header);
  AdaptiveModel::Row row;
  for (size_t r = 0; r < shape.rows; ++r) {
    row = model.row_after(row);
    for (size_t c = 0; c < shape.cols; ++c) model.code(coder, row, c, *q++);
  }
  std::vector<uint8_t> out;
  Writer writer(out);
  header.write(writer);
  coder.finish(writer);
  // Zeros at the end leave the first state, 0, as it is: they can be too many for their bytes.
  if (shape.size() / kMaxIntegersPerByte > out.size()) out.clear();
  return out;
}

void decode(Bytes in, Shape shape, Sink& sink) {
  Reader reader(in);
  const ContextHeader header = ContextHeader::read(reader, "adaptive", 3);
  if (shape.size() / kMaxIntegersPerByte > in.size) {
    fail("adaptive: %zu bytes cannot hold %zu integers", in.size, shape.size());
  }
  Decoder coder(reader);
  AdaptiveModel model(shape, header);
  int32_t run[Sink::kRun];
  size_t first = 0, n = 0;
  AdaptiveModel::Row row;
  for (size_t r = 0; r < shape.rows; ++r) {
    row = model.row_after(row);
    for (size_t c = 0; c < shape.cols; ++c) {
      run[n++] = model.code(coder, row, c, 0);
      if (n < Sink::kRun) continue;
      sink.put(first, run, n);
      first += n;
      n = 0;
    }
  }
  if (n != 0) sink.put(first, run, n);
  coder.finish();
}

}  // namespace

const Codec codecs::adaptive{6, "adaptive", encode, decode};

}  // namespace onnxopt
