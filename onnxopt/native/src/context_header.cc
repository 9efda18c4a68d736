#include "context_header.h"

#include <algorithm>
#include <cstdlib>

namespace onnxopt {
namespace {

constexpr unsigned kCentred = 16, kDetail = 32;  // beside the distance

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

}  // namespace

ContextHeader ContextHeader::of(const int32_t* q, Shape shape) {
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
  while (header.scale < kMaxScale && header.excess256() < excess256) ++header.scale;
  return header;
}

void ContextHeader::write(Writer& writer) const {
  writer.u8(static_cast<uint8_t>(scale));
  writer.u8(static_cast<uint8_t>(nonzero));
  writer.u8(static_cast<uint8_t>(distance | (centre != 0 ? kCentred : 0) | detail * kDetail));
  if (centre != 0) writer.svarint(centre);
}

ContextHeader ContextHeader::read(Reader& reader, const char* codec, unsigned max_detail) {
  ContextHeader header;
  header.scale = reader.u8();
  if (header.scale > kMaxScale) fail("%s: scale %u, at most %u expected", codec, header.scale, kMaxScale);
  header.nonzero = reader.u8();
  const unsigned second = reader.u8();
  header.distance = second & (kCentred - 1);
  header.detail = second / kDetail;
  if (header.distance == 0 || header.detail > max_detail) fail("%s: distance or flags out of range", codec);
  if (second & kCentred) {
    const int64_t centre = reader.svarint();
    if (centre < INT32_MIN || centre > INT32_MAX) fail("%s: centre is not a 32-bit integer", codec);
    header.centre = static_cast<int32_t>(centre);
  }
  return header;
}

std::array<uint64_t, 32> geometric_powers(uint64_t excess256) {
  std::array<uint64_t, 32> power{};
  power[0] = ((excess256 << 24) / (excess256 + 256)) << 8;
  for (size_t j = 1; j < power.size(); ++j) power[j] = power[j - 1] * power[j - 1] >> 32;
  return power;
}

}  // namespace onnxopt
