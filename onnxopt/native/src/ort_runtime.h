// The runtime at hand: its functions, its errors as exceptions, its objects owned.
#pragma once

#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "bytes.h"
#include "ort_abi.h"

namespace onnxopt {

template <typename T>
using Owned = std::unique_ptr<T, void(ONNXOPT_ORT_CALL*)(T*)>;

// Throws Error with the runtime's own words where it reports a failure.
inline void check(const ort::Api& api, OrtStatus* status) {
  if (status == nullptr) return;
  const Owned<OrtStatus> owned(status, api.ReleaseStatus());
  throw Error(api.GetErrorMessage()(status));  // at its full length
}

// What operators have alike: one input and one output, on the CPU, which must be there.
inline void set_defaults(ort::CustomOp& op) {
  using ort::CustomOp;
  op.version = ort::kApiVersion;
  op.execution_provider = [](const CustomOp*) -> const char* { return nullptr; };
  op.input_count = [](const CustomOp*) -> size_t { return 1; };
  op.output_count = op.input_count;
  op.input_characteristic = [](const CustomOp*, size_t) -> int { return ort::kRequired; };
  op.output_characteristic = op.input_characteristic;
  op.input_memory_type = [](const CustomOp*, size_t) -> int { return ort::kDefaultMemory; };
}

struct Runtime {
  const OrtApiBase* base;
  ort::Api api;

  // Throws Error where the runtime is too old.
  explicit Runtime(const OrtApiBase* with);

  // Whether it has the functions of kNewApiVersion: its table then goes on behind the older ones.
  bool is_new() const {
    return reinterpret_cast<const ort::ApiBase*>(base)->get_api(ort::kNewApiVersion) != nullptr;
  }

  void check(OrtStatus* status) const { onnxopt::check(api, status); }

  // The process's environment, one more reference to it.
  Owned<OrtEnv> environment() const;
};

// Where a tensor lies, which the runtime owns. Throws Error where it is no tensor.
Bytes bytes_of(const Runtime& runtime, const OrtValue* uint8_tensor);

// What lives as long as the library: sessions refer to it and nobody says when the last one is gone.
template <typename T>
T* keep_forever(std::unique_ptr<T> object) {
  static std::mutex mutex;
  static auto& kept =
      *new std::vector<std::unique_ptr<T>>;  // never destroyed: the runtime may be unloaded first
  const std::scoped_lock lock(mutex);
  kept.push_back(std::move(object));
  return kept.back().get();
}

// Calls body; what it throws becomes a status.
template <typename Body>
OrtStatus* guarded(const ort::Api& api, Body body) {
  try {
    body();
    return nullptr;
  } catch (const std::bad_alloc&) {
    return api.CreateStatus()(ort::kFail, "onnxopt: out of memory");
  } catch (const std::exception& error) {
    return api.CreateStatus()(ort::kFail, ("onnxopt: " + std::string(error.what())).c_str());
  }
}

}  // namespace onnxopt
