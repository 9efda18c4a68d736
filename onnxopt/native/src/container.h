// The container's reader (FORMAT.md). Trusts nothing: every length is checked before it is used, and nothing
// is allocated on a file's word alone.
#pragma once

#include <string>
#include <vector>

#include "codec.h"

namespace onnxopt {

enum class Reconstruction : uint8_t { kRaw = 0, kAffine = 1, kCodebook = 2, kRelative = 3 };

// Whole rows of a tensor, coded so that they can be decoded by themselves.
struct Chunk {
  Bytes bytes;
  uint32_t crc = 0;  // of the bytes
};

// One stored tensor.
struct Entry {
  std::string name;
  uint8_t dtype = 0;  // ONNX's TensorProto.DataType
  std::vector<int64_t> dims;
  uint8_t axis = 0;  // of the scales, and of the view as a matrix
  uint8_t codec = 0;
  Reconstruction reconstruction = Reconstruction::kRaw;
  size_t auxiliary = 0;     // index of the entry with the scales, the table or what this one is relative to;
                            // it stands before this one
  bool transposed = false;  // relative: to the other's transpose
  bool scaled = false;      // relative: to the other times `scale`
  float scale = 1;
  bool hidden = false;         // holds scales, a table or pieces of the inner model: no tensor of the model
  Shape shape{};               // the matrix the codec sees
  bool scales_by_row = false;  // else by column: the axis is the matrix's columns
  size_t chunk_rows = 0;       // rows in every chunk but the last
  std::vector<Chunk> chunks;
  size_t size = 0;  // bytes when decoded

  size_t coded_size() const;
};

class Container {
 public:
  // Reads everything but the coded weights; `file` must outlive the container. Throws Error.
  explicit Container(Bytes file);

  const std::vector<Entry>& entries() const { return entries_; }
  const std::string& model() const { return model_; }  // the inner ONNX model, serialized
  const std::string& plan() const { return plan_; }    // JSON
  uint16_t version() const { return version_; }
  uint32_t values_crc() const { return values_crc_; }

  // Decodes entries[i] into out[i] (entries[i].size bytes) for every i whose out[i] is not null, chunks in
  // parallel. threads = 0: one per core. Checks each chunk's checksum first. Throws Error.
  void decode(const std::vector<void*>& out, unsigned threads) const;

 private:
  std::string spliced(Bytes model, Reader splices) const;

  std::vector<Entry> entries_;
  std::string model_;
  std::string plan_;
  uint16_t version_ = 0;
  uint32_t values_crc_ = 0;
};

}  // namespace onnxopt
