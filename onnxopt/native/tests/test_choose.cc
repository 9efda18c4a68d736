#include "test_codec.h"

using namespace onnxopt;

namespace {

void check(const Matrix& m) {
  size_t smallest = 0;
  for (const Prefer prefer : {Prefer::kSmallest, Prefer::kBalanced, Prefer::kFastest}) {
    const Coded coded = encode_best(m.q.data(), m.shape, prefer);
    const Codec* codec = find_codec(coded.codec);
    CHECK(codec != nullptr);
    CHECK(!coded.bytes.empty());
    CHECK(m.shape.size() <= coded.bytes.size() * kMaxIntegersPerByte);
    CHECK(decoded(*codec, coded.bytes, m.shape) == m.q);
    if (prefer == Prefer::kSmallest) smallest = coded.bytes.size();
    CHECK(coded.bytes.size() >= smallest);
  }
}

}  // namespace

int main() {
  for (const Matrix& m : matrices()) check(m);
  Random random(3);
  check(matrix("large", 600, 1000, [&] { return std::rint(3 * random.gaussian()); }));
  check(matrix("large, one value", 600, 1000, [] { return 5; }));
  check(matrix("large, zeros", 600, 1000, [] { return 0; }));
  check(matrix("large, sparse", 600, 1000,
               [&] { return random.uniform() < 0.95 ? 0 : std::rint(4 * random.laplace()); }));
}
