#include "inner_options.h"

#include <algorithm>

namespace onnxopt {
namespace {

// -1 where there is no such entry.
int thread_count(const Runtime& runtime, const OrtSessionOptions* options, const char* key) {
  const std::string value = config_entry(runtime, options, key);
  if (value.empty()) return -1;
  if (value.size() > 4 || value.find_first_not_of("0123456789") != std::string::npos) {
    fail("%s is '%s', expected a number of threads, 0 for all cores", key, value.c_str());
  }
  return std::stoi(value);
}

int optimization_level(const Runtime& runtime, const OrtSessionOptions* options, const char* key) {
  static constexpr struct {
    const char* name;
    int level;
  } kLevels[] = {{"", -1}, {"disabled", 0}, {"basic", 1}, {"extended", 2}, {"all", 99}};
  const std::string value = config_entry(runtime, options, key);
  for (const auto& known : kLevels) {
    if (value == known.name) return known.level;
  }
  fail("%s is '%s', expected disabled, basic, extended or all", key, value.c_str());
}

// Takes a copy of "key=value;key=value" apart in place: each part then ends with a zero.
void split(const char* entry, const std::string& value, std::string& text, std::vector<const char*>& keys,
           std::vector<const char*>& values) {
  text = value;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(';', begin), text.size());
    const size_t equals = text.find('=', begin);
    if (equals >= end) fail("%s is '%s', expected key=value;key=value", entry, value.c_str());
    text[equals] = '\0';
    if (end < text.size()) text[end] = '\0';
    keys.push_back(text.data() + begin);
    values.push_back(text.data() + equals + 1);
    begin = end + 1;
  }
}

// Execution providers of libraries that were registered with the environment go by their devices. Whether
// there are any of this name, which are then appended.
bool append_plugin(const Runtime& runtime, OrtSessionOptions* options, const std::string& name,
                   const std::vector<const char*>& keys, const std::vector<const char*>& values) {
  if (!runtime.is_new()) return false;
  const ort::Api& api = runtime.api;
  const Owned<OrtEnv> env = runtime.environment();
  const OrtEpDevice* const* devices = nullptr;  // the environment's
  size_t count = 0;
  runtime.check(api.GetEpDevices()(env.get(), &devices, &count));
  std::vector<const OrtEpDevice*> chosen;
  for (size_t i = 0; i < count; ++i) {
    if (name == api.EpDevice_EpName()(devices[i])) chosen.push_back(devices[i]);
  }
  if (chosen.empty()) return false;
  runtime.check(api.SessionOptionsAppendExecutionProvider_V2()(
      options, env.get(), chosen.data(), chosen.size(), keys.data(), values.data(), keys.size()));
  return true;
}

std::string refusal(const std::string& prefix, const std::string& name, const char* why) {
  return prefix + ".name is '" + name +
         "', which this ONNX Runtime cannot use: the model runs without it. It said: " + why;
}

}  // namespace

std::string config_entry(const Runtime& runtime, const OrtSessionOptions* options, const char* key) {
  int there = 0;
  runtime.check(runtime.api.HasSessionConfigEntry()(options, key, &there));
  if (there == 0) return "";
  size_t size = 0;
  runtime.check(runtime.api.GetSessionConfigEntry()(options, key, nullptr, &size));
  std::string value(size, '\0');
  runtime.check(runtime.api.GetSessionConfigEntry()(options, key, value.data(), &size));
  value.resize(size - 1);  // the terminating zero
  return value;
}

bool flag(const Runtime& runtime, const OrtSessionOptions* options, const char* key) {
  const std::string value = config_entry(runtime, options, key);
  if (value.empty() || value == "0") return false;
  if (value == "1") return true;
  fail("%s is '%s', expected 0 or 1", key, value.c_str());
}

Settings::Settings(const Runtime& runtime, const OrtSessionOptions* options)
    : intra_op_threads(thread_count(runtime, options, "onnxopt.intra_op_num_threads")),
      inter_op_threads(thread_count(runtime, options, "onnxopt.inter_op_num_threads")),
      level(optimization_level(runtime, options, "onnxopt.graph_optimization_level")),
      // In ONNX Runtime's own format tensors may lie in the caller's memory.
      keep_container(flag(runtime, options, "onnxopt.keep_container") ||
                     flag(runtime, options, "session.use_ort_model_bytes_for_initializers")),
      use_up_container(config_entry(runtime, options, "onnxopt.keep_container") == "0"),
      may_use_cpu(!flag(runtime, options, "session.disable_cpu_ep_fallback")),
      residence(config_entry(runtime, options, "onnxopt.residence")) {
  use_up_container = use_up_container && !keep_container && !residence.streamed;
  if (residence.streamed && !may_use_cpu) {
    fail("onnxopt.residence is streamed, which decodes on the CPU, and session.disable_cpu_ep_fallback is 1");
  }
}

void Settings::apply(const Runtime& runtime, OrtSessionOptions* options) const {
  const ort::Api& api = runtime.api;
  if (intra_op_threads >= 0) runtime.check(api.SetIntraOpNumThreads()(options, intra_op_threads));
  if (inter_op_threads >= 0) runtime.check(api.SetInterOpNumThreads()(options, inter_op_threads));
  if (level >= 0) runtime.check(api.SetSessionGraphOptimizationLevel()(options, level));
}

Owned<OrtSessionOptions> new_options(const Runtime& runtime, const OrtSessionOptions* like) {
  OrtSessionOptions* options = nullptr;
  runtime.check(like == nullptr ? runtime.api.CreateSessionOptions()(&options)
                                : runtime.api.CloneSessionOptions()(like, &options));
  return {options, runtime.api.ReleaseSessionOptions()};
}

Owned<OrtSessionOptions> inner_options(const Runtime& runtime, const OrtSessionOptions* outer,
                                       std::vector<std::string>& refused) {
  const ort::Api& api = runtime.api;
  Owned<OrtSessionOptions> options = new_options(runtime, outer);
  static constexpr ort::PathChar kNoPath[] = {0};
  runtime.check(api.DisableProfiling()(options.get()));
  runtime.check(api.SetOptimizedModelFilePath()(options.get(), kNoPath));
  // The inner model is no ORT-format model where the outer one is, and has no place for a compiled one.
  static constexpr const char* kReset[][2] = {{"session.load_model_format", "ONNX"},
                                              {"ep.context_enable", "0"}};
  for (const auto& [key, value] : kReset) {
    if (config_entry(runtime, outer, key).empty()) continue;
    runtime.check(api.AddSessionConfigEntry()(options.get(), key, value));
  }
  for (int i = 0;; ++i) {
    const std::string prefix = "onnxopt.ep." + std::to_string(i);
    const std::string name = config_entry(runtime, outer, (prefix + ".name").c_str());
    if (name.empty()) return options;
    const std::string entry = prefix + ".options";
    std::string text;
    std::vector<const char*> keys;
    std::vector<const char*> values;
    split(entry.c_str(), config_entry(runtime, outer, entry.c_str()), text, keys, values);
    try {
      if (append_plugin(runtime, options.get(), name, keys, values)) continue;
      runtime.check(api.SessionOptionsAppendExecutionProvider()(options.get(), name.c_str(), keys.data(),
                                                                values.data(), keys.size()));
    } catch (const Error& error) {
      refused.push_back(refusal(prefix, name, error.what()));
    }
  }
}

}  // namespace onnxopt
