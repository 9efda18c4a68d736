#include "rans_plan.h"

namespace onnxopt::rans {

std::vector<Classes> propose_classes(const Symbols& symbols, Shape shape) {
  std::vector<Classes> out(1);
  Counts counts{};
  for (size_t i = 0; i < shape.size(); ++i) ++counts[symbols.of[i]];
  out[0].counts.push_back(counts);
  return out;
}

}  // namespace onnxopt::rans
