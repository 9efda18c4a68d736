// From a container to a session of its inner model.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "container.h"
#include "ort_runtime.h"
#include "streamed.h"

namespace onnxopt {

// The inner model with its weights decoded, beside each other in one buffer. Needs the container no more.
class InnerModel {
 public:
  // threads = 0: one per core. Without its Release node the model has nothing that needs the CPU. `streamed`
  // are weights of the container that are not decoded here. Throws Error.
  InnerModel(const Container& container, unsigned threads, bool with_node = true,
             const Streamed* streamed = nullptr);

  struct Weight {
    std::string name;
    std::vector<int64_t> dims;
    int dtype;
    size_t offset;  // in the buffer
    size_t size;    // bytes
  };

  // Serialized.
  const std::string& model() const { return model_; }
  Bytes bytes() const { return bytes_in(model_); }
  const std::vector<Weight>& weights() const { return weights_; }
  uint8_t* data() const { return buffer_.get(); }
  // Told where the runtime has the last weight, the Release node's: frees the weights, unless that is here.
  void found_probe(const void* at);
  // The session is there: gives away the weights if it uses them where they are, and else frees them.
  std::unique_ptr<uint8_t[]> finish();

 private:
  std::string model_;
  std::vector<Weight> weights_;
  std::unique_ptr<uint8_t[]> buffer_;
  bool in_use_ = false;
};

// Weights as session options hold them, and what makes loading take no more memory than a plain model does.
//
// ONNX Runtime copies external initializers when session creation begins and packs them for its kernels when
// it ends, so their originals would lie beside both. It creates the kernels in between: so the inner model
// has one more node, "onnxopt.loader::Release", whose kernel's constructor frees the originals. It computes
// nothing. Its input is a probe, one more weight: where the runtime has that in our memory, it uses what it
// was given in place, and the originals stay as long as the session. Where it does not show it, they stay
// until the session is there.
class ReleaseOp {
 public:
  // Adds the weights and the operator to `options`.
  ReleaseOp(const Runtime& runtime, InnerModel& model, OrtSessionOptions* options);
  ~ReleaseOp() = default;
  ReleaseOp(const ReleaseOp&) = delete;
  ReleaseOp& operator=(const ReleaseOp&) = delete;

  // The session is there, which still refers to the operator: frees the weights that it does not use. From
  // now on the runtime finds no Release in the options, so it cannot come to read weights that are gone.
  void finish();
  // Whether the session reads the weights where they were decoded.
  bool keeps_weights() const { return kept_ != nullptr; }

 private:
  struct Op : ort::CustomOp {
    InnerModel* model;
  };
  Op op_{};
  Owned<OrtCustomOpDomain> domain_;
  std::vector<Owned<OrtValue>> values_;
  std::unique_ptr<uint8_t[]> kept_;
};

// A session and what must outlive it.
struct InnerSessionParts {
  std::unique_ptr<ReleaseOp> release;
  std::unique_ptr<Streamed> streamed;  // null where all weights are loaded
  Owned<OrtSession> session;
  // Whether the shapes of outputs follow from the shapes of inputs, as far as the runtime knows them. They
  // may not where it believed the declarations of a body, or a custom operator.
  bool sure_shapes = true;
};

// Creates the session with `options`, to which it adds the weights; they are freed before
// this returns, unless the session uses them where they are.
InnerSessionParts create_session(const Runtime& runtime, const OrtEnv* env, OrtSessionOptions* options,
                                 InnerModel model, std::unique_ptr<Streamed> streamed = nullptr);

// For a session that someone else creates: see onnxopt_prepare. Throws Error.
uint64_t prepare(const Container& container, unsigned threads, Bytes& model);
void attach_prepared(const Runtime& runtime, const std::string& id, OrtSessionOptions* options);
void finish_prepared(uint64_t id);

}  // namespace onnxopt
