// Context: [u8 scale][u8 nonzero][u8 distance | 16 * centred][svarint centre, if centred] then range-coded
// decisions (context_model.h, docs/format/context.md).
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

// Nonzero magnitudes as if geometric, P(m >= k + 1 | m >= k) = theta = excess / (excess + 1): where the model
// starts from. Returns theta^(2^j), j = 0.., in 1/2^32.
std::array<uint64_t, 32> geometric_powers(uint64_t excess256) {
  std::array<uint64_t, 32> power{};
  power[0] = ((excess256 << 24) / (excess256 + 256)) << 8;
  for (size_t j = 1; j < power.size(); ++j) power[j] = power[j - 1] * power[j - 1] >> 32;
  return power;
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

constexpr unsigned kCentred = 16;  // flag beside the distance

uint64_t total_magnitude(const int32_t* q, size_t n, int32_t centre) {
  uint64_t sum = 0;
  for (size_t i = 0; i < n; ++i) sum += static_cast<uint64_t>(std::abs(int64_t{q[i]} - centre));
  return sum;
}

// Zero, unless the integers lie around something else (unsigned tensors, indices).
int32_t best_centre(const int32_t* q, size_t n) {
  int64_t sum = 0;
  for (size_t i = 0; i < n; ++i) sum += q[i];
  const int64_t mean = sum / static_cast<int64_t>(n);
  const auto centre = static_cast<int32_t>(mean);
  return total_magnitude(q, n, centre) / 3 < total_magnitude(q, n, 0) / 4 ? centre : 0;
}

// The distance in 2..9 at which signs agree or disagree most: the width of a convolution's kernel, if any.
unsigned best_distance(const int32_t* q, Shape shape, int32_t centre) {
  constexpr size_t kEnough = size_t{1} << 16;
  const auto sign = [&](size_t i) { return (q[i] > centre) - (q[i] < centre); };
  const size_t rows = std::min(shape.rows, kEnough / std::max<size_t>(shape.cols, 1) + 1);
  unsigned best = 1;
  int64_t most = static_cast<int64_t>(std::min(rows * shape.cols, kEnough) / 64);
  for (unsigned d = 2; d <= 9; ++d) {
    int64_t agree = 0;
    for (size_t r = 0; r < rows; ++r) {
      const size_t end = (r + 1) * shape.cols;
      for (size_t i = r * shape.cols + d; i < end; ++i) agree += int64_t{sign(i)} * sign(i - d);
    }
    if (std::abs(agree) > most) {
      most = std::abs(agree);
      best = d;
    }
  }
  return best;
}

ContextHeader make_header(const int32_t* q, Shape shape) {
  ContextHeader header;
  const size_t n = shape.size();
  if (n == 0) return header;
  header.centre = best_centre(q, n);
  header.distance = best_distance(q, shape, header.centre);
  const auto nonzeros = n - static_cast<size_t>(std::count(q, q + n, header.centre));
  header.nonzero = static_cast<unsigned>(std::min<uint64_t>(uint64_t{nonzeros} * 256 / n, 255));
  if (nonzeros == 0) return header;
  const uint64_t excess = total_magnitude(q, n, header.centre) - nonzeros;
  const uint64_t excess256 = excess / nonzeros * 256 + excess % nonzeros * 256 / nonzeros;
  while (header.scale < ContextHeader::kMaxScale && header.excess256() < excess256) ++header.scale;
  return header;
}

std::vector<uint8_t> encode(const int32_t* q, Shape shape) {
  const ContextHeader header = make_header(q, shape);
  std::vector<uint8_t> out;
  Writer writer(out);
  writer.u8(static_cast<uint8_t>(header.scale));
  writer.u8(static_cast<uint8_t>(header.nonzero));
  writer.u8(static_cast<uint8_t>(header.distance | (header.centre != 0 ? kCentred : 0)));
  if (header.centre != 0) writer.svarint(header.centre);
  RangeEncoder coder(out);
  ContextModel model(shape, header);
  for (size_t r = 0; r < shape.rows; ++r) {
    model.start_row();
    for (size_t c = 0; c < shape.cols; ++c) model.code(coder, c, *q++);
  }
  coder.finish();
  return out;
}

ContextHeader read_header(Reader& reader) {
  ContextHeader header;
  header.scale = reader.u8();
  if (header.scale > ContextHeader::kMaxScale) {
    fail("context: scale %u, at most %u expected", header.scale, ContextHeader::kMaxScale);
  }
  header.nonzero = reader.u8();
  const unsigned second = reader.u8();
  header.distance = second & (kCentred - 1);
  if (header.distance == 0 || second >= 2 * kCentred) fail("context: distance or flags out of range");
  if (second & kCentred) {
    const int64_t centre = reader.svarint();
    if (centre < INT32_MIN || centre > INT32_MAX) fail("context: centre is not a 32-bit integer");
    header.centre = static_cast<int32_t>(centre);
  }
  return header;
}

void decode(Bytes in, Shape shape, Sink& sink) {
  Reader reader(in);
  const ContextHeader header = read_header(reader);
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
