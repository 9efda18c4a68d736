#include "codec.h"

namespace onnxopt {

const std::vector<const Codec*>& codecs() {
  static const std::vector<const Codec*> all{&kRaw, &kBitpack, &kHuffman, &kRans, &kContext};
  return all;
}

const Codec* find_codec(uint8_t id) {
  for (const Codec* codec : codecs()) {
    if (codec->id == id) return codec;
  }
  return nullptr;
}

}  // namespace onnxopt
