#include "other_libraries.h"

#if defined(_WIN32)
#include <windows.h>
// After windows.h.
#include <psapi.h>
#else
#include <dlfcn.h>
#if defined(__APPLE__)
#include <mach-o/dyld.h>
#else
#include <link.h>
#endif
#endif

#include <algorithm>
#include <string>
#include <vector>

#include "onnx_file.h"
#include "onnxopt.h"

namespace onnxopt {
namespace {

using Register = OrtStatus*(ONNXOPT_ORT_CALL*)(OrtSessionOptions*, const OrtApiBase*);
constexpr const char* kRegister = "RegisterCustomOps";

#if defined(_WIN32)

std::vector<Register> entry_points() {
  std::vector<HMODULE> modules(1024);
  DWORD needed = 0;
  const auto size = static_cast<DWORD>(modules.size() * sizeof(HMODULE));
  if (K32EnumProcessModules(GetCurrentProcess(), modules.data(), size, &needed) == 0) return {};
  modules.resize(std::min<size_t>(modules.size(), needed / sizeof(HMODULE)));
  std::vector<Register> found;
  for (HMODULE module : modules) {
    if (FARPROC entry = GetProcAddress(module, kRegister)) {
      GetModuleHandleExA(GET_MODULE_HANDLE_EX_FLAG_PIN | GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS,
                         reinterpret_cast<LPCSTR>(entry), &module);
      found.push_back(reinterpret_cast<Register>(entry));
    }
  }
  return found;
}

#else

std::vector<std::string> loaded_files() {
  std::vector<std::string> names;
#if defined(__APPLE__)
  for (uint32_t i = 0; i < _dyld_image_count(); ++i) names.emplace_back(_dyld_get_image_name(i));
#else
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* to) {
        static_cast<std::vector<std::string>*>(to)->emplace_back(info->dlpi_name);
        return 0;
      },
      &names);
#endif
  return names;
}

std::vector<Register> entry_points() {
  std::vector<Register> found;
  for (const std::string& name : loaded_files()) {
    void* library = dlopen(name.empty() ? nullptr : name.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (library == nullptr) continue;
    // The symbol may be that of a library that this one needs, so an entry may come up twice.
    if (void* entry = dlsym(library, kRegister)) {
      found.push_back(reinterpret_cast<Register>(entry));
    } else {
      dlclose(library);
    }
  }
  return found;
}

#endif

}  // namespace

void register_other_libraries(const Runtime& runtime, Bytes model, OrtSessionOptions* options) {
  if (!has_foreign_operators(model)) return;
  std::vector<Register> done{&RegisterCustomOps};
  for (const Register entry : entry_points()) {
    if (std::find(done.begin(), done.end(), entry) != done.end()) continue;
    done.push_back(entry);
    // One that fails is no fault of the model: if it was needed, the session says which operator is missing.
    if (OrtStatus* status = entry(options, runtime.base)) runtime.api.ReleaseStatus()(status);
  }
}

}  // namespace onnxopt
