// From a container to a session of its inner model.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "container.h"
#include "ort_runtime.h"

namespace onnxopt {

// The inner model with its weights decoded, beside each other in one buffer. Needs the container no more.
class InnerModel {
 public:
  // threads = 0: one per core. Throws Error.
  InnerModel(const Container& container, unsigned threads);

  struct Weight {
    std::string name;
    std::vector<int64_t> dims;
    int dtype;
    size_t offset;  // in the buffer
    size_t size;    // bytes
  };

  const std::string& model() const { return model_; }
  const std::vector<Weight>& weights() const { return weights_; }
  uint8_t* data() const { return buffer_.get(); }
  void release() { buffer_.reset(); }

 private:
  std::string model_;
  std::vector<Weight> weights_;
  std::unique_ptr<uint8_t[]> buffer_;
};

// What makes loading take no more memory than a plain model does.
//
// ONNX Runtime copies external initializers when session creation begins and packs them for its kernels when
// it ends, so their originals would lie beside both. It creates the kernels in between: so the inner model
// gets one more node, "onnxopt.loader::Release", whose kernel's constructor frees the originals. It computes
// nothing. This is done only with runtimes it was tested with; later ones keep the originals until the
// session is there.
class ReleaseOp {
 public:
  ReleaseOp(const Runtime& runtime, InnerModel& model);
  ReleaseOp(const ReleaseOp&) = delete;
  ReleaseOp& operator=(const ReleaseOp&) = delete;

  OrtCustomOpDomain* domain() const { return domain_.get(); }
  // The model is gone: nothing is left to free.
  void forget() { op_.model = nullptr; }
  // What has to follow a serialized ModelProto so that its graph ends with the node.
  static std::string node();

 private:
  struct Op : ort::CustomOp {
    InnerModel* model;
  };
  Op op_{};
  Owned<OrtCustomOpDomain> domain_;
};

// A session and what must outlive it.
struct InnerSessionParts {
  std::unique_ptr<ReleaseOp> release;  // null where the runtime is not known to copy early
  Owned<OrtSession> session;
};

// Creates the session with `options`, to which it adds the weights; they are freed before this returns.
InnerSessionParts create_session(const Runtime& runtime, const OrtEnv* env, OrtSessionOptions* options,
                                 InnerModel model);

}  // namespace onnxopt
