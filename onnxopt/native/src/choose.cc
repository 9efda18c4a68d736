#include "choose.h"

namespace onnxopt {
namespace {

// Below this many integers nobody feels the context coder's decoding time.
constexpr size_t kSmall = size_t{1} << 17;

bool allowed(size_t bytes, size_t integers) { return bytes != 0 && integers / kMaxIntegersPerByte <= bytes; }

}  // namespace

Coded encode_best(const int32_t* q, Shape shape, Prefer prefer) {
  const size_t n = shape.size();
  Coded best{kRaw.id, {}};
  const auto offer = [&](const Codec& codec, double handicap) {
    std::vector<uint8_t> bytes = codec.encode(q, shape);
    if (!allowed(bytes.size(), n)) return;
    if (best.bytes.empty() || static_cast<double>(bytes.size()) * handicap < static_cast<double>(best.bytes.size())) {
      best = {codec.id, std::move(bytes)};
    }
  };
  for (const Codec* codec : codecs()) {
    if (codec->id != kContext.id && (prefer != Prefer::kFastest || codec->id != kHuffman.id)) offer(*codec, 1);
  }
  if (prefer == Prefer::kFastest) return best;
  offer(kContext, prefer == Prefer::kSmallest || n < kSmall ? 1 : 1.02);
  return best;
}

}  // namespace onnxopt
