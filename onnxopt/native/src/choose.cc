#include "choose.h"

#include <algorithm>

namespace onnxopt {
namespace {

// Below so many integers nobody feels the context coder's decoding time, nor its encoding time above all.
constexpr size_t kSmall = size_t{1} << 17;
// Under kQuick larger matrices never get it: it takes 0.05 us an integer, and saves 0.1 % of most weights.
constexpr size_t kSmallQuick = size_t{1} << 12;
// What the context coder must save on a larger matrix under kBalanced, in percent.
constexpr size_t kWorthwhile = 2;
// A larger matrix is given to the context coder only where it wins on this many integers.
constexpr size_t kSample = size_t{1} << 16;

// Is a, made dearer by `percent`, still cheaper than b?
bool cheaper(size_t a, size_t percent, size_t b) { return uint64_t{a} * (100 + percent) < uint64_t{b} * 100; }

struct Candidates {
  const int32_t* q = nullptr;
  Shape shape;
  Coded best{0, {}};
  bool any_refused = false;  // as a decompression bomb

  void offer(const Codec& codec, size_t handicap = 0) {
    std::vector<uint8_t> bytes = codec.encode(q, shape);
    if (bytes.empty()) return;
    if (bytes.size() < shape.size() / kMaxIntegersPerByte + (shape.size() % kMaxIntegersPerByte != 0)) {
      any_refused = true;
    } else if (best.bytes.empty() || cheaper(bytes.size(), handicap, best.bytes.size())) {
      best = {codec.id, std::move(bytes)};
    }
  }
};

// Deep Compression's format stores a gap with each nonzero: nothing to win where these are many.
bool mostly_zero(const int32_t* q, size_t n) { return static_cast<size_t>(std::count(q, q + n, 0)) > n / 2; }

// Whole rows from the middle, or a part of one row where it alone is long enough.
bool context_wins_sample(const int32_t* q, Shape shape, const Codec& rival, size_t handicap) {
  const bool long_rows = shape.cols > kSample;
  const Shape sample{long_rows ? 1 : kSample / shape.cols, long_rows ? kSample : shape.cols};
  const int32_t* middle = q + (shape.rows - sample.rows) / 2 * shape.cols;
  const size_t context = codecs::context.encode(middle, sample).size();
  return cheaper(context, handicap, rival.encode(middle, sample).size());
}

}  // namespace

Coded encode_best(const int32_t* q, Shape shape, Prefer prefer) {
  const size_t n = shape.size();
  Candidates candidates{q, shape};
  for (const Codec* codec : all_codecs()) {
    if (codec->id == codecs::context.id) continue;
    if (codec->id == codecs::huffman.id && (prefer == Prefer::kFastest || !mostly_zero(q, n))) continue;
    candidates.offer(*codec);
  }
  // The context coder's every integer costs something, so its bytes are never refused.
  if (prefer == Prefer::kFastest || (prefer == Prefer::kQuick && n > kSmallQuick)) {
    if (candidates.any_refused) candidates.offer(codecs::context);
    return std::move(candidates.best);
  }
  const bool large = n >= kSmall;
  const size_t handicap = large && prefer == Prefer::kBalanced && !candidates.any_refused ? kWorthwhile : 0;
  const Codec& rival = *find_codec(candidates.best.codec);
  if (!large || candidates.any_refused || context_wins_sample(q, shape, rival, handicap)) {
    candidates.offer(codecs::context, handicap);
  }
  return std::move(candidates.best);
}

}  // namespace onnxopt
