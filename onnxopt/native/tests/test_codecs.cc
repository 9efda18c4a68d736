// The contract over every codec in src/codecs/, those of tomorrow too.
#include <set>
#include <string>

#include "test_codec.h"

using namespace onnxopt;

int main() {
  std::set<std::string> names{"lossless"};
  for (const Codec* codec : all_codecs()) {
    CHECK(find_codec(codec->id) == codec);
    CHECK(names.insert(codec->name).second);
    check_codec(*codec);
  }
  CHECK(find_codec(kLossless) == nullptr && find_codec(kStored) == nullptr);
}
