// Context: the header, then range-coded decisions (context_model.h, docs/format/context.md).
#include <cstdlib>

#include "choose.h"
#include "context_model.h"

namespace onnxopt {
namespace {

// The logistic function at k / 8, k = 0..48, in 1/2^16: round(65536 / (1 + exp(-k / 8))).
constexpr uint16_t kLogisticKnots[49] = {32768, 34813, 36843, 38841, 40793, 42687, 44511, 46254, 47911, 49474,
                                         50941, 52310, 53581, 54754, 55834, 56822, 57724, 58544, 59287, 59959,
                                         60565, 61109, 61598, 62036, 62428, 62778, 63090, 63368, 63615, 63835,
                                         64030, 64203, 64357, 64494, 64614, 64721, 64816, 64900, 64974, 65039,
                                         65097, 65149, 65194, 65234, 65269, 65300, 65328, 65352, 65374};

int32_t logistic_at(int32_t odds) {  // odds in 1/256 within [-1536, 1536]; linear between the knots
  const int32_t x = std::abs(odds);
  const int32_t k = std::min(x >> 5, 47);
  const int32_t lo = kLogisticKnots[k], hi = kLogisticKnots[k + 1];
  const int32_t p = lo + (((hi - lo) * (x - 32 * k)) >> 5);
  return odds < 0 ? (1 << 16) - p : p;
}

// t / (1 + t)
uint32_t half16(uint64_t t32) { return static_cast<uint32_t>((t32 << 16) / ((uint64_t{1} << 32) + t32)); }

}  // namespace

const Logistic& Logistic::get() {
  static const Logistic tables = [] {
    Logistic t{};
    for (int32_t d = -kLimit; d <= kLimit; ++d)
      t.squash[static_cast<size_t>(int64_t{d} + kLimit)] = static_cast<uint16_t>(logistic_at(d));
    int32_t d = -kLimit;
    for (int32_t p = 0; p < 4096;
         ++p) {  // the smallest log-odds that reach the middle of this probability's cell
      while (d < kLimit && logistic_at(d) < 16 * p + 8) ++d;
      t.stretch[static_cast<size_t>(p)] = static_cast<int16_t>(d);
    }
    return t;
  }();
  return tables;
}

ContextModel::ContextModel(Shape shape, const ContextHeader& header)
    : logistic_(Logistic::get()), header_(header) {
  constexpr unsigned kConfidence = 8;  // observations that the first guess is worth
  const std::array<uint64_t, 32> power = geometric_powers(header.excess256());
  std::array<uint64_t, kBuckets + 1>
      beyond{};  // P(m >= 2^b) in 1/2^32: the share of magnitudes in buckets above b
  beyond[0] = uint64_t{2 * header.nonzero + 1} << 23;
  for (unsigned b = 1; b <= kBuckets; ++b) beyond[b] = beyond[b - 1] * power[b - 1] >> 32;
  start_ = 1;
  while (start_ < kBuckets - 1 && beyond[start_] >= uint64_t{1} << 31) ++start_;
  for (unsigned b = 0; b < kBuckets; ++b) {
    uint64_t p = beyond[b];  // of the first decision
    if (b + 1 < start_)
      p = ((beyond[b] - beyond[b + 1]) << 32) / ((uint64_t{1} << 32) - beyond[b + 1]);  // not above b + 1
    if (b + 1 > start_) p = power[b - 1];                                               // above b - 1
    plain_[b] = Bit::of(static_cast<uint32_t>(p >> 16), kConfidence);
    for (unsigned node = 1; b >= 2 && node < 8; ++node) {
      const unsigned depth = node >= 4 ? 3 : node >= 2 ? 2 : 1;
      if (b > depth) mantissa_[b][node] = Bit::of(half16(power[b - 1 - depth]), kConfidence);
    }
  }
  sign_.fill(Bit::of(1u << 15, 2));
  mean_ = static_cast<uint32_t>(std::clamp<uint64_t>(header.mean256(), 1, uint64_t{kMagnitude} << 8));
  columns_.assign(shape.cols, {mean_, 0, 0});
}

void ContextModel::start_row() {
  left_ = left2_ = left_sign_ = 0;
  row_mean_ = mean_;
  row_seen_ = 8;
  base_ = log2_of(mean_, 5);
  column_seen_ += column_seen_ < kColumnMemory;
}

void ContextModel::copy_plain(Set& set) {
  set = plain_;
  for (Bit& bit : set) bit.seen = std::min<uint16_t>(bit.seen, 2);
}

namespace {

std::vector<uint8_t> encode(const int32_t* q, Shape shape) {
  const ContextHeader header = ContextHeader::of(q, shape);
  std::vector<uint8_t> out;
  Writer writer(out);
  header.write(writer);
  RangeEncoder coder(out);
  ContextModel model(shape, header);
  for (size_t r = 0; r < shape.rows; ++r) {
    model.start_row();
    for (size_t c = 0; c < shape.cols; ++c) model.code(coder, c, *q++);
  }
  coder.finish();
  return out;
}

void decode(Bytes in, Shape shape, Sink& sink) {
  Reader reader(in);
  const ContextHeader header = ContextHeader::read(reader, "context", 0);
  if (shape.size() / kMaxIntegersPerByte > in.size) {
    fail("context: %zu bytes cannot hold %zu integers", in.size, shape.size());
  }
  RangeDecoder coder(reader.rest());
  ContextModel model(shape, header);
  int32_t run[Sink::kRun];
  size_t first = 0, n = 0;
  const auto flush = [&] {
    sink.put(first, run, n);
    first += n;
    n = 0;
  };
  for (size_t r = 0; r < shape.rows; ++r) {
    model.start_row();
    for (size_t c = 0; c < shape.cols; ++c) {
      run[n++] = model.code(coder, c, 0);
      if (n == Sink::kRun) flush();
    }
  }
  if (n != 0) flush();
  coder.finish("context");
}

}  // namespace

const Codec codecs::context{4, "context", encode, decode};

}  // namespace onnxopt
