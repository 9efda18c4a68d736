#include "rans_plan.h"

#include <algorithm>

namespace onnxopt::rans {
namespace {

// A symbol seen at most `rare` times, or fewer than once in 2^one_in elements of its table, is escaped.
struct EscapeRule {
  uint32_t rare;
  unsigned one_in;
};
constexpr unsigned kSmoothing[] = {0, 4};  // passes tried
constexpr EscapeRule kRules[] = {{0, 32}, {1, 32}, {0, 13}, {0, 11}};

bool escaped(const EscapeRule& rule, uint32_t count, uint64_t total) {
  return count <= rule.rare || (static_cast<uint64_t>(count) << rule.one_in) < total;
}

struct Direct {
  std::vector<Counts> counts;  // symbols first .. first + direct, then the escapes
  uint64_t escapes = 0;
  size_t first = 0;
  size_t direct = 0;
};

Direct apply_rule(const EscapeRule& rule, const std::vector<Counts>& counts, const Symbols& symbols) {
  const size_t candidates = symbols.count - (symbols.has_outside ? 1 : 0);
  Direct out;
  size_t first = candidates;
  size_t end = 0;
  std::vector<Counts> kept(counts.size());
  std::vector<uint32_t> escapes(counts.size());
  for (size_t t = 0; t < counts.size(); ++t) {
    uint64_t total = 0;
    for (size_t s = 0; s < symbols.count; ++s) total += counts[t][s];
    kept[t].fill(0);
    for (size_t s = 0; s < symbols.count; ++s) {
      const uint32_t c = counts[t][s];
      if (c == 0) continue;
      if (s >= candidates || escaped(rule, c, total)) {
        escapes[t] += c;
      } else {
        kept[t][s] = c;
        first = std::min(first, s);
        end = std::max(end, s + 1);
      }
    }
    out.escapes += escapes[t];
  }
  if (first >= end) return out;                                   // nothing direct is left
  if (end - first == kMaxSymbols && out.escapes > 0) return out;  // no room for the escape
  out.first = first;
  out.direct = end - first;
  out.counts.resize(counts.size());
  for (size_t t = 0; t < counts.size(); ++t) {
    out.counts[t].fill(0);
    std::copy_n(kept[t].begin() + static_cast<std::ptrdiff_t>(first), out.direct, out.counts[t].begin());
    if (out.escapes > 0) out.counts[t][out.direct] = escapes[t];
  }
  return out;
}

// Counts averaged with their neighbours' (binomial weights 1 2 1, so many times over), times 16: where counts
// are small their noise costs more to write than it saves.
void smooth(const Counts& counts, size_t symbols, unsigned passes, Counts& out) {
  size_t first = 0;
  size_t end = symbols;
  while (first < end && counts[first] == 0) ++first;
  while (end > first && counts[end - 1] == 0) --end;
  for (size_t s = 0; s < out.size(); ++s) out[s] = counts[s] * 16;
  for (unsigned pass = 0; pass < passes; ++pass) {
    uint32_t left = first < end ? out[first] : 0;
    for (size_t s = first; s < end; ++s) {
      const uint32_t middle = out[s];
      const uint32_t right = s + 1 < end ? out[s + 1] : middle;
      out[s] = std::max<uint32_t>(1, (left + 2 * middle + right) / 4);
      left = middle;
    }
  }
}

// Bits of the coded symbols.
uint64_t data_bits(const Counts& counts, const Freqs& freqs, size_t symbols, unsigned precision) {
  uint64_t cost = 0;
  for (size_t s = 0; s < symbols; ++s) {
    if (counts[s]) cost += static_cast<uint64_t>(counts[s]) * ((precision << 16) - log2_fixed(freqs[s]));
  }
  return cost >> 16;
}

uint64_t map_bits(const ClassMap& map) {
  return map.classes == 1 ? 0 : 32 + map.map.size() * bits_for(map.classes);
}

}  // namespace

Plan price(const Classes& classes, const Symbols& symbols, unsigned escape_width, unsigned precision) {
  Plan best;
  const uint64_t maps = map_bits(classes.rows) + map_bits(classes.columns);
  uint64_t previous_escapes = UINT64_MAX;
  for (const EscapeRule& rule : kRules) {
    const Direct direct = apply_rule(rule, classes.counts, symbols);
    if (direct.direct == 0 || direct.escapes == previous_escapes) continue;
    previous_escapes = direct.escapes;
    const bool escape = direct.escapes > 0;
    const size_t all = direct.direct + (escape ? 1 : 0);
    const uint64_t list = escape ? direct.escapes * escape_width + 48 : 0;
    for (const unsigned passes : kSmoothing) {
      for (unsigned resolution = 0; resolution <= kMaxResolution; ++resolution) {
        std::vector<Levels> levels(classes.counts.size());
        uint64_t data = 0;
        LevelCosts costs;
        for (size_t t = 0; t < levels.size(); ++t) {
          Freqs freqs;
          levels[t].fill(0);
          Counts smoothed;
          smooth(direct.counts[t], direct.direct, passes, smoothed);
          if (escape) smoothed[direct.direct] = direct.counts[t][direct.direct] * 16;
          fit_levels(smoothed, all, resolution, precision, levels[t]);
          frequencies(levels[t], all, resolution, precision, freqs);
          data += data_bits(direct.counts[t], freqs, all, precision);
          costs.add(levels[t], direct.direct, escape);
        }
        const auto [code, table_bits] = costs.best(resolution);
        const uint64_t bits = data + table_bits + maps + list;
        if (bits >= best.bits) continue;
        best = {bits, &classes, precision, direct.first, direct.direct, escape, code, std::move(levels)};
      }
    }
  }
  return best;
}

}  // namespace onnxopt::rans
