// From a container to a session of its inner model.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "container.h"
#include "lent_weights.h"
#include "memory.h"
#include "ort_runtime.h"
#include "streamed.h"

namespace onnxopt {

// How a session gets the weights.
enum class Handover {
  kLent,           // it uses them where they are, and frees each when it needs it no more: see Lender
  kCopied,         // it copies them, and a node of the model frees them then: see ReleaseOp
  kCopiedUnfreed,  // it copies them; they are freed when it exists. Nothing needs the CPU
};

// The inner model and its weights, each in memory of its own.
class InnerModel {
 public:
  // Weights that are lent are inputs of the model. `streamed` are weights of the container that are not
  // decoded here. Throws Error.
  InnerModel(std::shared_ptr<const Container> container, Handover handover,
             const Streamed* streamed = nullptr);

  struct Weight {
    std::string name;
    std::vector<int64_t> dims;
    int dtype;
    size_t size;   // bytes
    size_t entry;  // in the container; none for the probe
    bool lent;
    Block memory;  // null until it is decoded
  };

  // Decodes the weights that are lent, or the others, on `threads` threads; 0: one per core. If `using_up`,
  // the container's pages are given back meanwhile. Throws Error.
  void decode(bool lent, unsigned threads, bool using_up);
  // The container is needed no more.
  void close() { container_.reset(); }

  // Serialized.
  const std::string& model() const { return model_; }
  Bytes bytes() const { return bytes_in(model_); }
  Handover handover() const { return handover_; }
  std::vector<Weight>& weights() { return weights_; }
  // Whether it lends a weight of this name.
  bool lends(std::string_view name) const { return lent_.count(name) != 0; }
  // Told where the runtime has the last weight, the Release node's: frees the weights, unless that is here.
  void found_probe(const void* at);
  // Whether weights are here that the session may come to copy.
  bool holds() const { return !weights_.empty() && weights_.back().memory != nullptr; }
  // The session is there: gives away the weights if it uses them where they are, and else frees them.
  std::vector<Block> finish();

 private:
  std::string with_inputs();
  void free_weights();

  std::shared_ptr<const Container> container_;
  Handover handover_;
  std::string model_;
  std::vector<Weight> weights_;
  std::set<std::string, std::less<>> lent_;  // names
  bool in_use_ = false;
};

// Weights as session options hold them, and what frees them early.
//
// Where weights cannot be lent, ONNX Runtime copies external initializers when session creation begins and
// packs them for its kernels when it ends, so their originals would lie beside both. It creates the kernels
// in between: so the inner model has one more node, "onnxopt.loader::Release", whose kernel's constructor
// frees the originals. It computes nothing. Its input is a probe, one more weight: where the runtime has that
// in our memory, it uses what it was given in place, and the originals stay as long as the session. Where it
// does not show it, they stay until the session is there.
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
  bool keeps_weights() const { return !kept_.empty(); }

 private:
  struct Op : ort::CustomOp {
    InnerModel* model;
  };
  Op op_{};
  Owned<OrtCustomOpDomain> domain_;
  std::vector<Owned<OrtValue>> values_;
  std::vector<Block> kept_;
};

// A session and what must outlive it.
struct InnerSessionParts {
  std::unique_ptr<ReleaseOp> release;
  std::unique_ptr<Lender> lender;      // null where no weight is lent
  std::unique_ptr<Streamed> streamed;  // null where all weights are loaded
  Owned<OrtSession> session;
  // Whether the shapes of outputs follow from the shapes of inputs, as far as the runtime knows them. They
  // may not where it believed the declarations of a body, or a custom operator.
  bool sure_shapes = true;
};

// Decodes the weights on `threads` threads, and creates the session with `options`, to which it adds them. If
// `using_up`, the container's pages are given back meanwhile, and it is of no more use.
InnerSessionParts create_session(const Runtime& runtime, const OrtEnv* env, OrtSessionOptions* options,
                                 InnerModel model, unsigned threads, bool using_up,
                                 std::unique_ptr<Streamed> streamed = nullptr);

// For a session that someone else creates: see onnxopt_prepare. Throws Error.
uint64_t prepare(const Container& container, unsigned threads, Bytes& model);
void attach_prepared(const Runtime& runtime, const std::string& id, OrtSessionOptions* options);
void finish_prepared(uint64_t id);

}  // namespace onnxopt
