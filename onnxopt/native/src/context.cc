// Context: an adaptive binary coder (see context_model.h for the model of one integer).
#include <algorithm>

#include "codec.h"
#include "context_model.h"

namespace onnxopt {
namespace {

std::vector<uint8_t> encode(const int32_t* q, Shape shape) {
  std::vector<uint8_t> out;
  RangeEncoder coder(out);
  ContextModel model(shape);
  for (size_t r = 0, i = 0; r < shape.rows; ++r) {
    model.start_row();
    for (size_t c = 0; c < shape.cols; ++c) model.code(coder, c, q[i++]);
  }
  coder.finish();
  return out;
}

void decode(Bytes in, Shape shape, Sink& sink) {
  if (shape.size() / 4096 > in.size) throw Error("context: too few bytes for so many integers");
  RangeDecoder coder(in);
  ContextModel model(shape);
  int32_t run[Sink::kRun];
  size_t first = 0, n = 0;
  for (size_t r = 0; r < shape.rows; ++r) {
    model.start_row();
    for (size_t c = 0; c < shape.cols; ++c) {
      run[n++] = model.code(coder, c, 0);
      if (n == Sink::kRun) {
        sink.put(first, run, n);
        first += n;
        n = 0;
      }
    }
  }
  if (n != 0) sink.put(first, run, n);
  coder.finish("context");
}

}  // namespace

const Codec kContext{4, "context", encode, decode};

}  // namespace onnxopt
