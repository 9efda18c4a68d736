#include "find_repeats.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <new>
#include <vector>

namespace onnxopt {
namespace {

constexpr uint32_t kNone = UINT32_MAX;
constexpr size_t kMostHashed = 8;    // elements that a hash sees
constexpr unsigned kMostBits = 24;   // of a hash: of longer arrays, places begin to share theirs
constexpr size_t kMostTried = 16;    // places with the same hash, the newest first
constexpr size_t kLongEnough = 256;  // nobody looks for a longer one
constexpr size_t kAhead = 8;  // places, half of the slots: memory takes about as long as so many searches

struct Found {
  size_t length = 0;
  size_t source = 0;
  uint32_t ways = 0;
};

// Element = top bit and *magnitude*: matches are of magnitudes, top bits may differ in one of four patterns.
template <class Word>
class Finder {
 public:
  Finder(const Word* words, size_t n, size_t shortest)
      : words_(words), n_(n), shortest_(shortest), hashed_(std::min(shortest, kMostHashed)) {
    while (bits_ < kMostBits && (size_t{1} << bits_) < n) ++bits_;
    newest_.assign(size_t{1} << bits_, kNone);
    before_.assign(n, kNone);
  }

  // Has memory fetch what searches a few places after `at` will read: nearly all of them miss the caches.
  void fetch(size_t at) {
    if (at + 2 * kAhead + hashed_ > n_) return;
    for (std::vector<Slot>* slots : {&forward_, &backward_}) {
      prefetch(&newest_[hash(at + 2 * kAhead, *slots)]);
      const uint32_t p = newest_[hash(at + kAhead, *slots)];
      if (p == kNone) continue;
      prefetch(&words_[p]);
      prefetch(&before_[p]);
    }
  }

  // Enters place p, so that later ones may refer to it.
  void enter(size_t p) {
    if (p + hashed_ > n_) return;
    uint32_t& newest = newest_[hash(p, forward_)];
    before_[p] = newest;
    newest = static_cast<uint32_t>(p);
  }

  // The longest match of what starts at `at`, length 0 where none is long enough. All before `at` is entered.
  Found longest(size_t at) {
    Found best;
    if (at + hashed_ > n_) return best;
    size_t tried = 0;
    for (uint32_t p = newest_[hash(at, forward_)]; p != kNone && ++tried <= kMostTried; p = before_[p]) {
      if (better(best, measure(at, p, 1))) return best;
    }
    tried = 0;
    for (uint32_t p = newest_[hash(at, backward_)]; p != kNone && ++tried <= kMostTried; p = before_[p]) {
      if (p + hashed_ - 1 < at && better(best, measure(at, p + hashed_ - 1, -1))) return best;
    }
    return best;
  }

 private:
  static constexpr unsigned kTop = 8 * sizeof(Word) - 1;
  static constexpr Word kMagnitude = static_cast<Word>(std::numeric_limits<Word>::max() >> 1);

  Word magnitude(size_t i) const { return words_[i] & kMagnitude; }
  uint32_t differs(size_t i, size_t j) const {
    return static_cast<uint32_t>((words_[i] ^ words_[j]) >> kTop);
  }

  // A hash that was computed: of the magnitudes of the elements at `place` and after it, from either end.
  struct Slot {
    size_t place = SIZE_MAX;
    size_t hash = 0;
  };

  size_t hash(size_t place, std::vector<Slot>& slots) const {
    Slot& slot = slots[place % slots.size()];
    if (slot.place == place) return slot.hash;
    uint64_t h = 0;
    for (size_t k = 0; k < hashed_; ++k) {
      const size_t at = &slots == &forward_ ? place + k : place + hashed_ - 1 - k;
      h = (h ^ magnitude(at)) * 0x9e3779b97f4a7c15 + (h >> 29);
    }
    slot = {place, static_cast<size_t>(h * 0xbf58476d1ce4e5b9 >> (64 - bits_))};
    return slot.hash;
  }

  static void prefetch(const void* address) {
#if defined(__GNUC__)
    __builtin_prefetch(address);
#else
    static_cast<void>(address);
#endif
  }

  Found measure(size_t at, size_t source, ptrdiff_t step) const {
    const size_t most = step > 0 ? n_ - at : std::min(n_ - at, source + 1);
    const auto of = [&](size_t t) { return step > 0 ? source + t : source - t; };
    size_t length = 0;
    uint32_t inverted[2] = {0, 0};
    for (; length < most && magnitude(at + length) == magnitude(of(length)); ++length) {
      const uint32_t bit = differs(at + length, of(length));
      if (length < 2) inverted[length] = bit;
      if (bit != inverted[length & 1]) break;
    }
    return {length, source, (step < 0) | inverted[0] << 1 | inverted[1] << 2};
  }

  // Keeps the longer one; true where it is long enough to look no further.
  bool better(Found& best, const Found& found) const {
    if (found.length >= shortest_ && found.length > best.length) best = found;
    return best.length >= kLongEnough;
  }

  const Word* words_;
  size_t n_;
  size_t shortest_;
  size_t hashed_;
  unsigned bits_ = 1;
  std::vector<Slot> forward_ = std::vector<Slot>(4 * kAhead);
  std::vector<Slot> backward_ = std::vector<Slot>(4 * kAhead);
  std::vector<uint32_t> newest_;  // by hash: the newest place
  std::vector<uint32_t> before_;  // by place: the one before it of the same hash
};

template <class Word>
size_t find(const Word* words, size_t n, size_t shortest, size_t capacity, int32_t* out) {
  Finder<Word> finder(words, n, shortest);
  size_t count = 0, stored = 0;
  for (size_t at = 0; at < n && count < capacity;) {
    finder.fetch(at);
    const Found found = finder.longest(at);
    finder.enter(at);
    // One element later a longer one may begin.
    if (found.length == 0 ||
        (found.length < kLongEnough && finder.longest(at + 1).length > found.length + 1)) {
      ++at;
      ++stored;
      continue;
    }
    int32_t* match = out + count++;
    match[0] = static_cast<int32_t>(stored);
    match[capacity] = static_cast<int32_t>(found.length);
    match[2 * capacity] = static_cast<int32_t>(at - found.source);
    match[3 * capacity] = static_cast<int32_t>(found.ways);
    stored = 0;
    for (const size_t end = at + found.length; ++at < end;) finder.enter(at);
  }
  return count;
}

}  // namespace
}  // namespace onnxopt

ptrdiff_t onnxopt_find_repeats(const void* data, size_t width, size_t n, size_t shortest, size_t capacity,
                               int32_t* matches) {
  using onnxopt::find;
  try {
    size_t count = 0;
    if (width == 1) count = find(static_cast<const uint8_t*>(data), n, shortest, capacity, matches);
    if (width == 2) count = find(static_cast<const uint16_t*>(data), n, shortest, capacity, matches);
    if (width == 4) count = find(static_cast<const uint32_t*>(data), n, shortest, capacity, matches);
    if (width == 8) count = find(static_cast<const uint64_t*>(data), n, shortest, capacity, matches);
    return static_cast<ptrdiff_t>(count);
  } catch (const std::bad_alloc&) {
    return -1;
  }
}
