// What an inner session is created with: the user's session options, and config entries of our own.
#pragma once

#include <string>
#include <vector>

#include "ort_runtime.h"
#include "streamed.h"

namespace onnxopt {

// Whether the entry is 1; false where it is 0 or is not there. Throws Error for anything else.
bool flag(const Runtime& runtime, const OrtSessionOptions* options, const char* key);
// The entry, "" where it is not there.
std::string config_entry(const Runtime& runtime, const OrtSessionOptions* options, const char* key);

// The config entries; -1 means as the session options have it.
struct Settings {
  int intra_op_threads = -1;
  int inter_op_threads = -1;
  int level = -1;
  bool keep_container = false;    // else its pages are given back at the first run
  bool use_up_container = false;  // its pages are given back while it is decoded, so only once
  bool may_use_cpu = true;        // false: session.disable_cpu_ep_fallback
  Residence residence{""};

  // Throws Error where an entry has no meaning.
  Settings(const Runtime& runtime, const OrtSessionOptions* options);

  unsigned decoding_threads() const {
    return intra_op_threads < 0 ? 0 : static_cast<unsigned>(intra_op_threads);
  }
  void apply(const Runtime& runtime, OrtSessionOptions* options) const;
};

// New options, or a copy.
Owned<OrtSessionOptions> new_options(const Runtime& runtime, const OrtSessionOptions* like);

// Options for sessions inside of sessions with the options `outer`: a copy with their execution providers and
// those of the entries onnxopt.ep.N.name, without what names a file that the outer session writes. Appends to
// `refused` what the runtime says of providers that it does not have. Throws Error where an entry has no
// meaning.
Owned<OrtSessionOptions> inner_options(const Runtime& runtime, const OrtSessionOptions* outer,
                                       std::vector<std::string>& refused);

}  // namespace onnxopt
