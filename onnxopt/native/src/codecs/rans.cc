// Rans: interleaved rANS with static tables by row and column class. The encoder is in rans_encode.cc and its
// plan in rans_plan.cc, the decoders in rans_decode.cc; docs/format/rans.md has the bytes.
#include "rans.h"

namespace onnxopt {

const Codec codecs::rans{3, "rans", rans::encode, rans::decode};

}  // namespace onnxopt
