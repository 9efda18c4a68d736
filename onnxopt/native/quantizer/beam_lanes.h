// The sweep with kSurvivors alternatives to every row (M-algorithm: Anderson & Mohan 1984), which are the
// lanes of a vector: a column's survivors are a permutation of every vector that is still needed. As in
// sweep_lanes.h, what happens to a row does not depend on the width of vectors, and everything has internal
// linkage.
#include <vector>

#include "sweep_lanes.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace onnxopt::quantizer {
namespace {

constexpr size_t kSurvivors = 8;
// Tiles until a choice is final: survivors that disagree with the best one are given up then. So all older
// errors are one number a row, and passing them on costs what it does without survivors.
constexpr size_t kLag = 8;
constexpr size_t kPathBytes = kVectorBytes < 32 ? 32 : kVectorBytes;
constexpr size_t kPaths = kPathBytes / sizeof(float);
constexpr size_t kRows = kPaths / kSurvivors;  // in a vector
constexpr float kWorst = 1e30F;                // the cost of what is no survivor

using Paths = float __attribute__((vector_size(kPathBytes)));
using Marks = int32_t __attribute__((vector_size(kPathBytes)));

Marks lanes() {
  Marks out;
  for (size_t i = 0; i < kPaths; ++i) out[i] = static_cast<int32_t>(i);
  return out;
}

Paths permute(Paths x, Marks from) {
#if defined(__AVX512F__)
  return reinterpret_cast<Paths>(_mm512_permutexvar_ps(reinterpret_cast<__m512i>(from), x));
#elif defined(__AVX2__)
  return reinterpret_cast<Paths>(_mm256_permutevar8x32_ps(x, reinterpret_cast<__m256i>(from)));
#else
  float in[kPaths], out[kPaths];
  int32_t index[kPaths];
  __builtin_memcpy(in, &x, sizeof in);
  __builtin_memcpy(index, &from, sizeof index);
  for (size_t i = 0; i < kPaths; ++i) out[i] = in[index[i]];
  __builtin_memcpy(&x, out, sizeof x);
  return x;
#endif
}

// The bits of buckets in the tables of each row. The first 16 of a table, which are nearly all that is asked
// for, are two vectors or one.
Paths look_up(const float* bits, Marks table, Marks bucket) {
#if defined(__AVX512F__)
  if (_mm512_cmpgt_epi32_mask(reinterpret_cast<__m512i>(bucket), _mm512_set1_epi32(15)) == 0) {
    return _mm512_permutex2var_ps(_mm512_loadu_ps(bits + table[0]),
                                  reinterpret_cast<__m512i>(bucket | (lanes() & 8) << 1),
                                  _mm512_loadu_ps(bits + table[8]));
  }
#elif defined(__AVX2__)
  if (_mm256_movemask_ps(reinterpret_cast<__m256>(bucket > 15)) == 0) {
    const Paths low = permute(_mm256_loadu_ps(bits + table[0]), bucket),
                high = permute(_mm256_loadu_ps(bits + table[0] + 8), bucket);
    return bucket < 8 ? low : high;
  }
#endif
  return gather<Paths>(bits, table + bucket);
}

Marks permute(Marks x, Marks from) {
  return reinterpret_cast<Marks>(permute(reinterpret_cast<Paths>(x), from));
}
Marks lower(Marks a, Marks b) { return a < b ? a : b; }
Marks higher(Marks a, Marks b) { return a < b ? b : a; }
Paths all(float x) { return Paths{} + x; }

// A number a row, from this row on, to all of its survivors.
Paths spread(const Lanes& rows, size_t row) {
  const float* number = reinterpret_cast<const float*>(&rows) + row;
  if constexpr (kRows == 1) return all(number[0]);
  return lanes() < static_cast<int32_t>(kSurvivors) ? all(number[0]) : all(number[kRows - 1]);
}

// Each row's lowest kSurvivors of a and b, in whatever order: one is sorted upwards, one downwards (Batcher
// 1968).
Marks lowest(Marks a, Marks b) {
  const Marks lane = lanes();
#pragma GCC unroll 3
  for (int32_t run = 2; run <= 8; run *= 2) {
#pragma GCC unroll 3
    for (int32_t apart = run / 2; apart > 0; apart /= 2) {
      const Marks other = lane ^ apart;
      const Marks first = ((lane & apart) == 0) == ((lane & run & 7) == 0);
      const Marks a2 = permute(a, other), b2 = permute(b, other);
      a = first ? lower(a, a2) : higher(a, a2);
      b = first ? higher(b, b2) : lower(b, b2);
    }
  }
  return lower(a, b);
}

struct Tile {
  Paths error[kTile];  // of the survivors of today, in steps
  Paths q[kTile];      // of those at the tile's end
  Marks origin;        // which of those each of today's comes from
};

struct Beam {
  Tile window[kLag];
  Paths cost, price, row_level;
  Paths x[kTile];        // of a tile, in steps
  Marks parents[kTile];  // where each column's survivors come from

  Tile& tile(size_t first) { return window[first / kTile % kLag]; }
};

Paths absolute(Paths x) { return x < 0 ? -x : x; }

struct Candidates {
  Marks floor, above, below;  // floor where there is none

  Candidates(Paths magnitude, float max_level) {
    const Paths limit = all(max_level);
    floor = __builtin_convertvector(magnitude < limit ? magnitude : limit, Marks);
    above = lower(floor + 1, __builtin_convertvector(limit, Marks));
    below = higher(floor - 1, Marks{});
  }
};

// Chooses column first + j's integers.
void choose(const Sweep& s, Beam& beam, size_t first, size_t j, const float* feedback) {
  const Marks lane = lanes(), zero{};
  const Paths x = beam.x[j], magnitude = absolute(x);
  const auto table = table_of<Marks>(beam.row_level + s.col_level[first + j]);
  // Costs are not negative, so they compare as integers; the last bits tell survivor and candidate.
  const auto key = [&](Marks candidate, Marks exists, int32_t kind) {
    const Paths found = __builtin_convertvector(candidate, Paths), error = magnitude - found;
    const Paths bits = look_up(s.bits, table, bucket_of(found, candidate));
    const Paths cost = beam.cost + (s.variance[first + j] * (error * error) + beam.price * bits);
    const Paths known = (cost < kWorst) & exists ? cost : all(kWorst);
    return (reinterpret_cast<Marks>(known) & ~31) | (lane & 7) | kind << 3;
  };
  const Candidates c(magnitude, s.max_level);
  const Marks floor = key(c.floor, zero == 0, 0), above = key(c.above, c.above > c.floor, 1);
  const Marks below = key(c.below, c.below < c.floor, 2), none = key(zero, c.below > 0, 3);
  const Marks near = lower(floor, above), far = lower(below, none);
  const Marks second = lower(higher(near, far), lower(higher(floor, above), higher(below, none)));
  // A third of one survivor's is never worth the sorting.
  const Marks kept = lowest(lower(near, far), second);

  const Marks parent = (kept & 7) | (lane & ~7), kind = kept >> 3;
  const Paths at = permute(x, parent);
  const Candidates of(absolute(at), s.max_level);
  const Marks integer =
      (kind & 2) == 0 ? ((kind & 1) == 0 ? of.floor : of.above) : ((kind & 1) == 0 ? of.below : zero);
  const Paths size = __builtin_convertvector(integer, Paths), q = at < 0 ? -size : size;
  const Paths error = at - q;
  Tile& tile = beam.tile(first);
  tile.error[j] = error;
  tile.q[j] = q;
  beam.parents[j] = parent;
  beam.cost = reinterpret_cast<Paths>(kept & ~31);
  for (size_t i = j + 1; i < kTile; ++i) beam.x[i] = permute(beam.x[i], parent) + feedback[i] * error;
}

// Brings what was chosen before to the survivors at the tile's end.
void follow(Beam& beam, size_t first, size_t width) {
  Tile& tile = beam.tile(first);
  Marks from = tile.origin = lanes();
  for (size_t j = width; j-- > 0;) {
    tile.error[j] = permute(tile.error[j], from);
    tile.q[j] = permute(tile.q[j], from);
    from = permute(beam.parents[j], from);
  }
  for (Tile& other : beam.window) {
    if (&other == &tile) continue;
    for (Paths& error : other.error) error = permute(error, from);
    other.origin = permute(other.origin, from);
  }
}

// Makes the best survivors' choices of a tile final; those who disagree are given up.
void settle(const Sweep& s, Beam& beam, size_t row, size_t first, size_t width, double* cost) {
  const Tile& tile = beam.tile(first);
  for (size_t r = 0; r < kRows && row + r < s.rows; ++r) {
    const size_t begin = r * kSurvivors, end = begin + kSurvivors;
    size_t best = begin;
    for (size_t i = begin; i < end; ++i)
      if (beam.cost[i] < beam.cost[best]) best = i;
    const float least = beam.cost[best];
    const int32_t origin = tile.origin[best];
    for (size_t i = begin; i < end; ++i)
      beam.cost[i] = tile.origin[i] == origin ? beam.cost[i] - least : kWorst;
    for (size_t j = 0; j < width; ++j) {
      const float error = tile.error[j][best];
      s.errors[(first + j) * kLanes + row + r] = error;
      s.q[(row + r) * s.cols + first + j] = static_cast<int32_t>(tile.q[j][origin]);
      cost[row + r] += double{s.variance[first + j]} * (double{error} * double{error});
    }
  }
}

void beam_rows(const Sweep& s) {
  const Lanes price = prices(s), row_level = row_levels(s);
  double cost[kLanes] = {};
  std::vector<Beam> beams((s.rows + kRows - 1) / kRows);
  for (size_t i = 0; i < beams.size(); ++i) {
    beams[i].price = spread(price, i * kRows);
    beams[i].row_level = spread(row_level, i * kRows);
    beams[i].cost = (lanes() & 7) == 0 ? Paths{} : all(kWorst);
  }
  const auto width_of = [&](size_t first) { return s.cols - first < kTile ? s.cols - first : kTile; };
  const auto settle_all = [&](size_t first) {
    for (size_t i = 0; i < beams.size(); ++i) settle(s, beams[i], i * kRows, first, width_of(first), cost);
  };
  size_t settled = 0;
  for (size_t first = 0; first < s.cols; first += kTile) {
    if (first == settled + kLag * kTile) {
      settle_all(settled);
      settled += kTile;
    }
    const size_t width = width_of(first);
    const float* strip = s.packed + strip_offset(first / kTile);
    Lanes x[kTile];
    load(s, first, width, x);
    feed<kVectors>(strip, reinterpret_cast<const Floats*>(s.errors), settled, x->v);
    for (size_t i = 0; i < beams.size(); ++i) {
      for (size_t j = 0; j < kTile; ++j) beams[i].x[j] = spread(x[j], i * kRows);
      for (size_t from = settled; from < first; from += kTile)
        feed<1>(strip + kTile * from, beams[i].tile(from).error, kTile, beams[i].x);
    }
    // Column by column, so that the processor works on several rows at once.
    for (size_t j = 0; j < width; ++j)
      for (Beam& beam : beams) choose(s, beam, first, j, strip + kTile * (first + j));
    for (Beam& beam : beams) follow(beam, first, width);
  }
  for (; settled < s.cols; settled += kTile) settle_all(settled);
  for (size_t r = 0; r < s.rows; ++r) s.cost[r] = cost[r] * (double{s.step[r]} * double{s.step[r]});
}

}  // namespace
}  // namespace onnxopt::quantizer
