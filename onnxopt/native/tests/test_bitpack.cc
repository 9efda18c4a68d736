#include "test_codec.h"

using namespace onnxopt;

int main() {
  check_golden(codecs::bitpack, {2, 5}, {0, 3, -1, 0, 0, 0, 7, 0, -20, 0},
               {0x27, 0x05, 0xf4, 0x4e, 0x4a, 0xe9, 0xa6, 0x80, 0x02});
  check_golden(codecs::bitpack, {3, 3}, {-1, 2, -1, 1, -3, 1, 0, 1, 0}, {0x05, 0x03, 0xaa, 0x08, 0x8e, 0x03});
  check_golden(codecs::bitpack, {0, 4}, {}, {0x00, 0x00});
}
