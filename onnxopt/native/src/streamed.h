// Streamed residence: weights that stay compressed in memory. A node of the inner model decodes each one just
// before the node that uses it, in every run.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "container.h"
#include "ort_runtime.h"

namespace onnxopt {

// What the config entry onnxopt.residence says.
struct Residence {
  bool streamed = false;
  uint64_t decoded = 0;  // bytes of weights that may be decoded once, for good

  // "loaded" or "", "streamed", "streamed:N", "streamed:NKiB", "streamed:NMiB". Throws Error for anything
  // else.
  explicit Residence(const std::string& entry);
};

// The weights of a container that are streamed: floats of at least kSmallest bytes that a node uses beside a
// value which is computed. That value is an input of the node that decodes, so the runtime cannot run it
// before.
class Streamed {
 public:
  static constexpr size_t kSmallest = 4096;

  // Of the weights that could be streamed, up to `decoded` bytes are not: those that decode slowest, and
  // small ones before large ones. `container` may own the bytes that it reads. Throws Error where the inner
  // model is none.
  Streamed(std::shared_ptr<const Container> container, uint64_t decoded, unsigned threads);
  ~Streamed() = default;
  Streamed(const Streamed&) = delete;
  Streamed& operator=(const Streamed&) = delete;

  bool has(size_t entry) const { return chosen_[entry]; }
  bool empty() const;
  // The inner model, serialized, with a node in the place of each streamed weight.
  std::string model() const;
  // Adds the operator of these nodes.
  void add_to(const Runtime& runtime, OrtSessionOptions* options);
  // The session is there: from now on the container lives as long as its nodes do.
  void finish() { source_.reset(); }

 private:
  struct Source {
    std::shared_ptr<const Container> container;
    unsigned threads;
  };
  struct Op : ort::CustomOp {
    Streamed* owner;
    int dtype;
  };
  struct Kernel;
  void keep(uint64_t bytes);

  std::shared_ptr<const Source> source_;
  std::vector<bool> chosen_;        // by entry
  std::vector<std::string> after_;  // by entry: the value that must be there first
  Op ops_[2]{};                     // of float32 and of float16
  Owned<OrtCustomOpDomain> domain_{nullptr, nullptr};
};

}  // namespace onnxopt
