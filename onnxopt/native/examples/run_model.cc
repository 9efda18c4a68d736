// Runs a compressed model with ONNX Runtime's C++ API and prints what comes out, as run_model.c does.
//
//   c++ -std=c++17 run_model.cc -I../include -I<onnxruntime>/include -L<folders> -lonnxopt -lonnxruntime
//   ./run_model model.onnx register    registers what is linked in, loads the file as any other
//   ./run_model model.onnx             onnxopt::create_session does it all
//
// Inputs and outputs are float32; inputs get 0, 0.01, 0.02 ..., 0.99, 0, ..., and 2 for free dimensions.
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "onnxopt.hpp"

namespace {

Ort::Session load(const Ort::Env& env, const std::filesystem::path& path, bool registering) {
  if (!registering) return onnxopt::create_session(path);
  Ort::SessionOptions options;
  onnxopt::register_ops(options);
  return {env, path.c_str(), options};
}

void print(const char* name, const Ort::Value& value) {
  const std::vector<int64_t> shape = value.GetTensorTypeAndShapeInfo().GetShape();
  std::printf("%s [", name);
  for (size_t d = 0; d < shape.size(); ++d) {
    std::printf("%s%lld", d == 0 ? "" : ", ", static_cast<long long>(shape[d]));
  }
  std::printf("]:");
  const size_t count = value.GetTensorTypeAndShapeInfo().GetElementCount();
  const auto* data = value.GetTensorData<float>();
  for (size_t k = 0; k < std::min<size_t>(count, 8); ++k) std::printf(" %.6g", data[k]);
  std::printf("\n");
}

void run(Ort::Session& session) {
  Ort::AllocatorWithDefaultOptions allocator;
  std::vector<std::string> names;  // of the inputs, then of the outputs
  std::vector<Ort::Value> inputs;
  for (size_t i = 0; i < session.GetInputCount(); ++i) {
    names.emplace_back(session.GetInputNameAllocated(i, allocator).get());
    std::vector<int64_t> shape = session.GetInputTypeInfo(i).GetTensorTypeAndShapeInfo().GetShape();
    std::replace_if(shape.begin(), shape.end(), [](int64_t dim) { return dim < 0; }, 2);
    inputs.push_back(Ort::Value::CreateTensor<float>(allocator, shape.data(), shape.size()));
    const size_t count = inputs[i].GetTensorTypeAndShapeInfo().GetElementCount();
    auto* data = inputs[i].GetTensorMutableData<float>();
    for (size_t k = 0; k < count; ++k) data[k] = static_cast<float>(k % 100) / 100;
  }
  for (size_t i = 0; i < session.GetOutputCount(); ++i) {
    names.emplace_back(session.GetOutputNameAllocated(i, allocator).get());
  }
  std::vector<const char*> texts(names.size());
  std::transform(names.begin(), names.end(), texts.begin(),
                 [](const std::string& name) { return name.c_str(); });
  const char* const* output_names = texts.data() + inputs.size();
  const std::vector<Ort::Value> outputs = session.Run(Ort::RunOptions{nullptr}, texts.data(), inputs.data(),
                                                      inputs.size(), output_names, session.GetOutputCount());
  for (size_t i = 0; i < outputs.size(); ++i) print(output_names[i], outputs[i]);
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 2) throw onnxopt::Error("usage: run_model model.onnx [register]");
  const Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "run_model");
  Ort::Session session = load(env, argv[1], argc > 2);
  run(session);
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
