#include "choose.h"

#include <algorithm>

#include "rans.h"

namespace onnxopt {
namespace {

// Below so many integers nobody feels the adaptive codecs' decoding time.
constexpr size_t kSmall = size_t{1} << 17;
// Below so many, `context`'s is as short as that of `adaptive`, and every reader knows it.
constexpr size_t kTiny = size_t{1} << 10;
// Under kQuick larger matrices never get them, as they save 0.1 % of most weights, and others only where they
// save so many percent: small weights that are kept whole must not take longer than all others.
constexpr size_t kSmallQuick = size_t{1} << 12, kWorthwhileQuick = 15;
// What each must save on what is decoded faster, in percent: `adaptive` on a matrix that is not small, where
// `rans` is ten times as fast; `context` on any, as `adaptive` is three times as fast. Under kSmallest,
// nothing. Matrices from kLarge on decide how long a model takes to load.
constexpr size_t kLarge = size_t{1} << 19;
constexpr size_t kWorthwhile = 1, kWorthwhileOnLarge = 3;
// The same of `context` on a matrix that takes next to nothing: others decode it a hundred times as fast.
constexpr size_t kNextToNothing = 200;
// A larger matrix is given to them only where they win on this many integers.
constexpr size_t kSample = size_t{1} << 16, kSampleOfSmall = size_t{1} << 14;

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

// On whole rows from the middle, or a part of one row where it alone is long enough.
bool wins_sample(const Codec& codec, const int32_t* q, Shape shape, size_t size, const Codec& rival,
                 size_t handicap) {
  if (shape.size() <= size) return true;
  const bool long_rows = shape.cols > size;
  const Shape sample{long_rows ? 1 : size / shape.cols, long_rows ? size : shape.cols};
  const int32_t* middle = q + (shape.rows - sample.rows) / 2 * shape.cols;
  return cheaper(codec.encode(middle, sample).size(), handicap, rival.encode(middle, sample).size());
}

// What an adaptive codec must save on the one before it in percent.
size_t worthwhile(const Codec& codec, size_t n, Prefer prefer) {
  const bool slower = n >= kSmall || (n >= kTiny && codec.id == codecs::context.id);
  if (!slower || prefer == Prefer::kSmallest) return 0;
  return n < kLarge ? kWorthwhile : kWorthwhileOnLarge;
}

}  // namespace

Coded encode_best(const int32_t* q, Shape shape, Prefer prefer) {
  const size_t n = shape.size();
  Candidates candidates{q, shape};
  const Codec quick_rans{codecs::rans.id, codecs::rans.name, rans::encode_quick, codecs::rans.decode};
  for (const Codec* codec : all_codecs()) {
    if (codec->id == codecs::adaptive.id || codec->id == codecs::context.id) continue;
    if (codec->id == codecs::huffman.id && (prefer == Prefer::kFastest || !mostly_zero(q, n))) continue;
    candidates.offer(prefer == Prefer::kQuick && codec == &codecs::rans ? quick_rans : *codec);
  }
  if (candidates.any_refused) {
    // The context coder never is, as its every integer costs something; nor is the other where most are zero.
    if (prefer == Prefer::kFastest) candidates.offer(codecs::huffman);
    candidates.offer(codecs::context, prefer == Prefer::kSmallest ? 0 : kNextToNothing);
    return std::move(candidates.best);
  }
  if (prefer == Prefer::kFastest || (prefer == Prefer::kQuick && n > kSmallQuick)) {
    return std::move(candidates.best);
  }
  size_t handicap = prefer == Prefer::kQuick ? kWorthwhileQuick : 0;
  for (const Codec* codec : {&codecs::adaptive, &codecs::context}) {
    if (codec == &codecs::adaptive && n < kTiny) continue;
    handicap += worthwhile(*codec, n, prefer);
    const Codec& rival = *find_codec(candidates.best.codec);
    if (wins_sample(*codec, q, shape, n < kSmall ? kSampleOfSmall : kSample, rival, handicap)) {
      candidates.offer(*codec, handicap);
    }
  }
  return std::move(candidates.best);
}

}  // namespace onnxopt
