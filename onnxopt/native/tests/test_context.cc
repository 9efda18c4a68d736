#include "test_codec.h"

using namespace onnxopt;

int main() {
  check_golden(codecs::context, {2, 5}, {0, 3, -1, 0, 0, 0, 7, 0, -20, 0},
               {0x23, 0x66, 0x02, 0x8c, 0xab, 0x1a, 0x49, 0x96});
  check_golden(codecs::context, {3, 3}, {-1, 2, -1, 1, -3, 1, 0, 1, 0},
               {0x13, 0xc7, 0x02, 0x48, 0x6c, 0x09, 0xb5});
  check_golden(codecs::context, {0, 4}, {}, {0x00, 0x00, 0x01, 0x00});
}
