// onnxopt for C++17: values that own what the functions of onnxopt.h hand out. Header only.
//
//   #include <onnxopt.hpp>
//
//   Ort::Session session = onnxopt::create_session("small.onnx");    // a session like any other
//
//   onnxopt::Container container(file.data(), file.size());          // what the file holds
//   std::vector<std::uint8_t> weight = container.decode(0);
//
// Sessions need ONNX Runtime's own C++ header, onnxruntime_cxx_api.h, and its library. Without that header,
// this one only reads. Failures are exceptions, as in ONNX Runtime's header: Ort::Exception where a session
// is made, onnxopt::Error where a file is read. Their texts are those of the C functions.
#ifndef ONNXOPT_HPP_
#define ONNXOPT_HPP_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "onnxopt.h"

#if __has_include(<onnxruntime_cxx_api.h>)
#include <onnxruntime_cxx_api.h>
#define ONNXOPT_HAS_SESSIONS 1
#endif

namespace onnxopt {
inline namespace cxx {  // a program may have the library linked in, which has names of its own in onnxopt

// A file cannot be read; what() is one sentence.
class Error : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The container of a compressed model. It can be moved, not copied.
class Container {
 public:
  // `data`, a compressed .onnx file or a bare container, must outlive this object. Throws Error.
  Container(const void* data, std::size_t size) : handle_(onnxopt_open(data, size)) {
    if (!handle_) throw Error(onnxopt_last_error());
  }

  // How many tensors are stored, with those that are hidden: scales and tables.
  std::size_t size() const { return onnxopt_entry_count(handle_.get()); }

  // The tensor with index i < size(). Its texts live as long as the container. Throws Error.
  onnxopt_entry entry(std::size_t i) const {
    onnxopt_entry info{};
    check(onnxopt_entry_info(handle_.get(), i, &info));
    return info;
  }

  // The values of tensor i, as entry(i).dtype says, decoded on `threads` threads (0: all cores). Throws
  // Error.
  std::vector<std::uint8_t> decode(std::size_t i, unsigned threads = 0) const {
    std::vector<std::uint8_t> values(static_cast<std::size_t>(entry(i).size));
    std::vector<void*> out(size());
    out[i] = values.data();
    decode(out, threads);
    return values;
  }

  // Tensor i into out[i], which has room for entry(i).size bytes, for every i whose out[i] is not null. out
  // has size() elements. Throws Error.
  void decode(const std::vector<void*>& out, unsigned threads = 0) const {
    if (out.size() != size()) throw Error("decode: a pointer for each stored tensor is expected");
    check(onnxopt_decode(handle_.get(), out.data(), threads));
  }

  // The ONNX model whose weights are stored, as bytes that live as long as the container.
  std::string_view model() const { return bytes(onnxopt_model); }
  // How each weight was compressed, as JSON that lives as long as the container.
  std::string_view plan() const { return bytes(onnxopt_plan); }
  std::uint32_t format_version() const { return onnxopt_format_version(handle_.get()); }
  // For what this class lacks.
  onnxopt_container* get() const { return handle_.get(); }

 private:
  struct Close {
    void operator()(onnxopt_container* container) const { onnxopt_close(container); }
  };

  static void check(int status) {
    if (status < 0) throw Error(onnxopt_last_error());
  }

  std::string_view bytes(const void* (*of)(const onnxopt_container*, std::size_t*)) const {
    std::size_t size = 0;
    const void* data = of(handle_.get(), &size);
    return {static_cast<const char*>(data), size};
  }

  std::unique_ptr<onnxopt_container, Close> handle_;
};

#if defined(ONNXOPT_HAS_SESSIONS)

// Registers this library as it is, linked into the program: for iOS, and wherever no library can be loaded
// from a file. Compressed models then load like any other. Elsewhere, options.RegisterCustomOpsLibrary(path)
// does the same. Throws Ort::Exception.
inline void register_ops(Ort::SessionOptions& options) {
  Ort::ThrowOnError(RegisterCustomOps(options, OrtGetApiBase()));
}

namespace detail {

// Older headers of ONNX Runtime have no constructor for this.
struct Owned : Ort::Session {
  explicit Owned(OrtSession* session) : Ort::Session(nullptr) { this->p_ = session; }
};

inline Ort::Session create(const char* path, const void* data, std::size_t size,
                           const Ort::SessionOptions& options) {
  OrtSession* session = nullptr;
  Ort::ThrowOnError(onnxopt_create_session(OrtGetApiBase(), path, data, size, options, &session));
  return Owned(session);
}

}  // namespace detail

// A session of the compressed model in a file. Nothing need be registered; an Ort::Env must exist. Throws
// Ort::Exception.
inline Ort::Session create_session(const std::filesystem::path& path,
                                   const Ort::SessionOptions& options = Ort::SessionOptions{nullptr}) {
  const auto text = path.u8string();
  return detail::create(reinterpret_cast<const char*>(text.c_str()), nullptr, 0, options);
}

// The same of data[0, size), which may be freed once this returns.
inline Ort::Session create_session(const void* data, std::size_t size,
                                   const Ort::SessionOptions& options = Ort::SessionOptions{nullptr}) {
  return detail::create(nullptr, data, size, options);
}

#endif

}  // namespace cxx
}  // namespace onnxopt

#endif  // ONNXOPT_HPP_
