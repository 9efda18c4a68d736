// Weights that a session uses where they were decoded: the model editor of ONNX Runtime 1.22 and newer.
//
// The session is opened with a model that has the weights as inputs. Once they are decoded, the editor makes
// them initializers. The runtime owns them: as with a plain model, it frees each as soon as it has packed it
// for a kernel.
#pragma once

#include "ort_runtime.h"

namespace onnxopt {

class InnerModel;

class Lender {
 public:
  static constexpr size_t kSmallest = 4096;  // bytes of a weight that is worth lending

  // Whether the runtime has what it takes, and the serialized model has inputs: the editor takes no list of
  // none.
  static bool works_with(const Runtime& runtime, Bytes model);

  explicit Lender(const Runtime& runtime);
  ~Lender() = default;
  Lender(const Lender&) = delete;
  Lender& operator=(const Lender&) = delete;

  // A session that cannot run yet.
  Owned<OrtSession> open(const OrtEnv* env, const OrtSessionOptions* options, Bytes model) const;
  // Gives it the weights that are lent, and makes it ready.
  void lend(OrtSession* session, const OrtSessionOptions* options, InnerModel& model);

 private:
  struct Deleter : ort::Allocator {
    const OrtMemoryInfo* memory;
  };

  ort::Api api_;
  ort::Editor editor_;
  Owned<OrtMemoryInfo> memory_;
  Deleter deleter_{};
};

}  // namespace onnxopt
