// Runs the inner model inside a kernel of the outer one.
#pragma once

#include <mutex>
#include <string>
#include <vector>

#include "inner_model.h"

namespace onnxopt {

class InnerSession {
 public:
  // `done_with` is dropped at the first run: see create_kernel in ort_loader.cc.
  InnerSession(const Runtime& runtime, Owned<OrtEnv> env, InnerSessionParts parts, Bytes done_with);

  // The kernel's inputs from the second on go in, its outputs come out. Any number of threads at once. Throws
  // Error.
  void run(OrtKernelContext* context);
  const ort::Api& api() const { return runtime_.api; }

 private:
  using Dims = std::vector<int64_t>;
  struct Port {
    std::string name;
    int dtype = ort::kUndefined;       // kUndefined where it is no tensor
    Dims dims;                         // -1 where only a run can tell
    std::vector<std::string> symbols;  // "" where a dimension has no name
  };

  Port port(bool input, size_t index) const;
  Dims dims_of(const OrtValue* value) const;
  int dtype_of(const OrtValue* value) const;
  bool predict(const std::vector<Dims>& inputs, const Port& output, Dims& dims) const;
  void copy(OrtValue* from, OrtValue* to, int dtype, const Dims& dims) const;
  void copy_strings(const OrtValue* from, OrtValue* to, size_t count) const;

  Runtime runtime_;
  Owned<OrtEnv> env_;
  InnerSessionParts parts_;
  std::vector<Port> inputs_, outputs_;
  std::vector<const char*> input_names_, output_names_;
  Bytes done_with_;
  std::once_flag dropped_;
  std::mutex mutex_;
  std::vector<Dims> proven_;  // shapes of inputs with which every predicted output shape came true
};

}  // namespace onnxopt
