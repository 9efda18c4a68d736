// What the rANS encoder decides before it codes: classes of rows and columns, alphabet, escapes, tables.
#pragma once

#include "rans.h"

namespace onnxopt::rans {

// Symbols before escapes are chosen, of the integers less their low bits: symbol s stands for lowest + s;
// integers outside the window are `outside`.
struct Symbols {
  unsigned low_bits = 0;  // stand uncoded
  int32_t lowest = 0;
  size_t count = 0;          // of symbols, `outside` included where there are any such integers
  bool has_outside = false;  // then the last symbol is `outside`
  std::vector<uint8_t> of;   // one an element
};

struct Classes {
  ClassMap rows;
  ClassMap columns;
  std::vector<Counts> counts;  // of symbols, one a table; table = row class * column classes + column class
};

// Groupings worth pricing: the one without classes, then, where wanted and it seems to pay, the best one
// with.
std::vector<Classes> propose_classes(const Symbols& symbols, Shape shape, bool with_classes);

struct Plan {
  uint64_t bits = UINT64_MAX;  // of the whole stream
  const Classes* classes = nullptr;
  unsigned precision = 0;
  size_t first = 0;  // direct symbols are first .. first + direct of Symbols
  size_t direct = 0;
  bool escape = false;  // symbol `direct` of the tables: the integer stands in the escape list
  TableCode code;
  std::vector<Levels> levels;  // one a table
};

// The cheapest plan for these classes with frequencies of so many bits.
Plan price(const Classes& classes, const Symbols& symbols, unsigned escape_width, unsigned precision);

}  // namespace onnxopt::rans
