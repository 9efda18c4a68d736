// Which rows and columns share a table: both axes are ranked by energy (the sum of their integers' distances
// from the commonest one), cut into groups, and neighbouring groups merged by dynamic programming where that
// saves bits.
#include <algorithm>
#include <cstdlib>
#include <numeric>

#include "rans_plan.h"

namespace onnxopt::rans {
namespace {

constexpr size_t kMinElements = 4096;  // below, no second table pays for itself
constexpr size_t kRowGroups = 16;
constexpr size_t kColumnGroups = 12;
constexpr size_t kMaxColumnClasses = 4;
constexpr uint64_t kBitsPerLevel = 4;    // of a table, roughly
constexpr size_t kElementsPerCount = 4;  // a group has, on average, for each of its counts
constexpr size_t kKernels[] = {9};  // 3 x 3 convolutions: columns of their weights repeat with this period

// Axis i belongs to position i / span % period of a map.
struct Grid {
  size_t span;
  size_t period;
  size_t of(size_t i) const { return i / span % period; }
};

// Ranks positions by energy and cuts the ranking into equal groups.
std::vector<uint8_t> rank_groups(const std::vector<uint64_t>& energy, size_t groups) {
  std::vector<uint32_t> order(energy.size());
  std::iota(order.begin(), order.end(), 0U);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return energy[a] < energy[b]; });
  std::vector<uint8_t> group(energy.size());
  for (size_t i = 0; i < order.size(); ++i) group[order[i]] = static_cast<uint8_t>(i * groups / order.size());
  return group;
}

// Histograms of every (row group, column group).
struct Joint {
  size_t rows;  // groups
  size_t columns;
  size_t symbols;
  std::vector<uint32_t> counts;  // [rows, columns, symbols]

  uint32_t* at(size_t row, size_t column) { return counts.data() + (row * columns + column) * symbols; }
  const uint32_t* at(size_t row, size_t column) const {
    return counts.data() + (row * columns + column) * symbols;
  }
};

// Bits of the elements counted, at their own entropy, times 2^16; and of their table.
uint64_t entropy_bits(const uint32_t* counts, size_t symbols) {
  uint64_t total = 0;
  uint64_t bits = 0;
  uint64_t present = 0;
  for (size_t s = 0; s < symbols; ++s) {
    if (!counts[s]) continue;
    total += counts[s];
    ++present;
    bits += static_cast<uint64_t>(counts[s]) * log2_fixed(counts[s]);
  }
  if (total == 0) return 0;
  return total * log2_fixed(total) - bits + (present * kBitsPerLevel << 16);
}

// Cuts 0 .. n into at most `most` intervals of least total cost. cost[a * (n + 1) + b] is the cost of [a, b).
// Entry k - 1 of the result: total cost and ends of the intervals when there are exactly k.
struct Cut {
  uint64_t cost = 0;
  std::vector<size_t> ends;
};
std::vector<Cut> best_cuts(const std::vector<uint64_t>& cost, size_t n, size_t most) {
  const size_t width = n + 1;
  std::vector<Cut> out;
  std::vector<std::vector<uint64_t>> total{{}};
  std::vector<std::vector<size_t>> from{{}};
  for (size_t b = 0; b <= n; ++b) total[0].push_back(cost[b]);
  from[0].assign(width, 0);
  for (size_t k = 0; k < std::min(most, n); ++k) {
    if (k > 0) {
      total.emplace_back(width, UINT64_MAX);
      from.emplace_back(width, 0);
      for (size_t b = k + 1; b <= n; ++b) {
        for (size_t a = k; a < b; ++a) {
          const uint64_t sum = total[k - 1][a] + cost[a * width + b];
          if (sum < total[k][b]) {
            total[k][b] = sum;
            from[k][b] = a;
          }
        }
      }
    }
    Cut cut{total[k][n], std::vector<size_t>(k + 1)};
    for (size_t j = k + 1, b = n; j-- > 0; b = from[j][b]) cut.ends[j] = b;
    out.push_back(std::move(cut));
  }
  return out;
}

// Group -> class.
std::vector<uint8_t> classes_of(const Cut& cut) {
  std::vector<uint8_t> out;
  for (size_t c = 0; c < cut.ends.size(); ++c) out.resize(cut.ends[c], static_cast<uint8_t>(c));
  return out;
}

void add(uint32_t* to, const uint32_t* from, size_t n) {
  for (size_t i = 0; i < n; ++i) to[i] += from[i];
}

Joint merge_columns(const Joint& joint, const Cut& cut) {
  Joint out{joint.rows, cut.ends.size(), joint.symbols, {}};
  out.counts.resize(out.rows * out.columns * out.symbols);
  const std::vector<uint8_t> to = classes_of(cut);
  for (size_t r = 0; r < joint.rows; ++r) {
    for (size_t c = 0; c < joint.columns; ++c) add(out.at(r, to[c]), joint.at(r, c), out.symbols);
  }
  return out;
}

std::vector<Cut> cut_rows(const Joint& joint) {
  const size_t n = joint.rows;
  std::vector<uint64_t> cost((n + 1) * (n + 1));
  std::vector<uint32_t> sum(joint.columns * joint.symbols);
  for (size_t a = 0; a < n; ++a) {
    std::fill(sum.begin(), sum.end(), 0U);
    for (size_t b = a; b < n; ++b) {
      add(sum.data(), joint.at(b, 0), sum.size());
      uint64_t bits = 0;
      for (size_t c = 0; c < joint.columns; ++c)
        bits += entropy_bits(sum.data() + c * joint.symbols, joint.symbols);
      cost[a * (n + 1) + b + 1] = bits;
    }
  }
  return best_cuts(cost, n, kMaxClasses);
}

std::vector<Cut> cut_columns(const Joint& joint) {
  Joint transposed{joint.columns, 1, joint.symbols, {}};
  transposed.counts.resize(joint.columns * joint.symbols);
  for (size_t r = 0; r < joint.rows; ++r) {
    for (size_t c = 0; c < joint.columns; ++c) add(transposed.at(c, 0), joint.at(r, c), joint.symbols);
  }
  std::vector<Cut> cuts = cut_rows(transposed);
  cuts.resize(std::min(cuts.size(), kMaxColumnClasses));
  return cuts;
}

uint64_t map_bits(size_t classes, size_t period) {
  return classes == 1 ? 0 : static_cast<uint64_t>(period * bits_for(classes) + 24) << 16;
}

ClassMap make_map(const Grid& grid, const std::vector<uint8_t>& group, const Cut& cut) {
  ClassMap out;
  out.classes = cut.ends.size();
  if (out.classes == 1) return out;
  const std::vector<uint8_t> to = classes_of(cut);
  out.span = grid.span;
  out.map.resize(grid.period);
  for (size_t i = 0; i < grid.period; ++i) out.map[i] = to[group[i]];
  return out;
}

// The columns' groups, and how they may be merged into classes.
struct Split {
  uint64_t cost;  // of the best of the cuts, all rows alike
  Grid grid;
  std::vector<uint8_t> group;  // of a position
  Joint joint;
  std::vector<Cut> cuts;
};

void count(const Symbols& symbols, Shape shape, const std::vector<uint8_t>& row_group, Split& split) {
  Joint& joint = split.joint;
  joint.counts.resize(joint.rows * joint.columns * joint.symbols);
  std::vector<uint32_t> offset(shape.cols);
  for (size_t c = 0; c < shape.cols; ++c) {
    offset[c] = static_cast<uint32_t>(split.group[split.grid.of(c)] * joint.symbols);
  }
  for (size_t r = 0, i = 0; r < shape.rows; ++r) {
    uint32_t* row = joint.at(row_group[r], 0);
    for (size_t c = 0; c < shape.cols; ++c, ++i) ++row[offset[c] + symbols.of[i]];
  }
}

Classes make_classes(ClassMap rows, ClassMap columns, const Joint& joint, const Cut& row_cut) {
  Classes out{std::move(rows), std::move(columns), {}};
  out.counts.assign(row_cut.ends.size() * joint.columns, Counts{});
  const std::vector<uint8_t> to = classes_of(row_cut);
  for (size_t r = 0; r < joint.rows; ++r) {
    for (size_t c = 0; c < joint.columns; ++c) {
      add(out.counts[to[r] * joint.columns + c].data(), joint.at(r, c), joint.symbols);
    }
  }
  return out;
}

}  // namespace

std::vector<Classes> propose_classes(const Symbols& symbols, Shape shape, bool with_classes) {
  std::vector<Classes> out(1);
  Counts counts{};
  for (const uint8_t s : symbols.of) ++counts[s];
  out[0].counts.push_back(counts);
  if (!with_classes || shape.size() < kMinElements) return out;

  const auto mode = static_cast<int>(std::max_element(counts.begin(), counts.end()) - counts.begin());
  std::vector<uint64_t> row_energy(shape.rows);
  std::vector<uint64_t> column_energy(shape.cols);
  for (size_t r = 0, i = 0; r < shape.rows; ++r) {
    uint64_t sum = 0;
    for (size_t c = 0; c < shape.cols; ++c, ++i) {
      const auto distance = static_cast<uint64_t>(std::abs(symbols.of[i] - mode));
      sum += distance;
      column_energy[c] += distance;
    }
    row_energy[r] = sum;
  }

  // One row has one element at each position: a map of these would tell more than it saves, and take a sort.
  std::vector<Grid> grids{shape.rows == 1 ? Grid{shape.cols, 1} : Grid{1, shape.cols}};
  for (const size_t k : kKernels) {
    if (shape.cols % k != 0 || shape.cols == k) continue;
    grids.push_back({k, shape.cols / k});
    grids.push_back({1, k});
  }
  const size_t enough =
      shape.size() / (kElementsPerCount * symbols.count);  // groups that still have statistics
  const size_t row_groups = std::min(shape.rows, std::clamp<size_t>(enough, 2, kRowGroups));
  const std::vector<uint8_t> row_group = rank_groups(row_energy, row_groups);
  const auto split_columns = [&](const Grid& grid) {
    std::vector<uint64_t> energy(grid.period);
    for (size_t c = 0; c < shape.cols; ++c) energy[grid.of(c)] += column_energy[c];
    const size_t groups = std::min(grid.period, std::clamp<size_t>(enough, 2, kColumnGroups));
    Split split{UINT64_MAX, grid, rank_groups(energy, groups), {row_groups, groups, symbols.count, {}}, {}};
    count(symbols, shape, row_group, split);
    split.cuts = cut_columns(split.joint);
    for (const Cut& cut : split.cuts)
      split.cost = std::min(split.cost, cut.cost + map_bits(cut.ends.size(), grid.period));
    return split;
  };
  Split best_split = split_columns(grids[0]);
  for (size_t g = 1; g < grids.size(); ++g) {
    Split other = split_columns(grids[g]);
    if (other.cost < best_split.cost) best_split = std::move(other);
  }

  uint64_t best = entropy_bits(counts.data(), symbols.count);
  for (const Cut& column_cut : best_split.cuts) {
    const Joint merged = merge_columns(best_split.joint, column_cut);
    for (const Cut& row_cut : cut_rows(merged)) {
      const uint64_t cost = row_cut.cost + map_bits(row_cut.ends.size(), shape.rows) +
                            map_bits(column_cut.ends.size(), best_split.grid.period);
      if (cost >= best) continue;
      best = cost;
      out.resize(1);
      out.push_back(make_classes(make_map({1, shape.rows}, row_group, row_cut),
                                 make_map(best_split.grid, best_split.group, column_cut), merged, row_cut));
    }
  }
  return out;
}

}  // namespace onnxopt::rans
