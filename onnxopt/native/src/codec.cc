#include "codec.h"

#include <algorithm>

namespace onnxopt {
namespace {

std::vector<const Codec*> in_order_of_id() {
  std::vector<const Codec*> all{
#define ONNXOPT_CODEC(name) &codecs::name,
#include "codec_list.inc"
#undef ONNXOPT_CODEC
  };
  std::sort(all.begin(), all.end(), [](const Codec* a, const Codec* b) { return a->id < b->id; });
  for (size_t i = 0; i < all.size(); ++i) {
    const Codec& codec = *all[i];
    if (codec.id == kLossless || codec.id == kStored)
      fail("codec %s: the id %u is reserved", codec.name, codec.id);
    if (i != 0 && codec.id == all[i - 1]->id) {
      fail("codecs %s and %s both have the id %u", all[i - 1]->name, codec.name, codec.id);
    }
  }
  return all;
}

}  // namespace

const std::vector<const Codec*>& all_codecs() {
  static const std::vector<const Codec*> all = in_order_of_id();
  return all;
}

const Codec* find_codec(uint8_t id) {
  for (const Codec* codec : all_codecs()) {
    if (codec->id == id) return codec;
  }
  return nullptr;
}

}  // namespace onnxopt
