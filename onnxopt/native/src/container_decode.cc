#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "container_parts.h"
#include "lossless.h"
#include "parallel.h"
#include "reconstruct.h"

namespace onnxopt {
namespace {

constexpr size_t kSmallWork = size_t{1} << 16;  // integers that are decoded before a thread has started
constexpr size_t kSlowness = 16;  // of adaptive codecs, which decode integer by integer, for a coded byte

// A decoded auxiliary entry: float32 scales, a table of elements, or a whole tensor.
struct Table {
  std::vector<float> scales;
  std::vector<uint8_t> elements;
  const uint8_t* whole = nullptr;  // what a relative entry is relative to
};

// Scales are stored as quarters of a power of two: 2^(k/4).
float exp2_quarter(int16_t k) {
  // float32(2^(j/4)), written out so that every machine multiplies by the same bits.
  static constexpr float kRoots[4] = {0x1.000000p+0F, 0x1.306fe0p+0F, 0x1.6a09e6p+0F, 0x1.ae89fap+0F};
  const int whole = (k - (k & 3)) / 4;
  if (whole < -126 || whole > 127) fail("scale 2^(%d/4) is no normal float32", k);
  return std::ldexp(kRoots[k & 3], whole);
}

void check_bools(const uint8_t* values, size_t n) {
  if (std::any_of(values, values + n, [](uint8_t v) { return v > 1; })) fail("a bool is neither 0 nor 1");
}

// Decodes one chunk into `out`, where the whole tensor goes. `table` belongs to the entry's auxiliary entry.
void decode_chunk(const Entry& e, size_t index, const Table& table, uint8_t* out) {
  const Chunk& chunk = e.chunks[index];
  if (!checksum_matches(chunk.bytes, chunk.crc)) {
    const Bytes b = chunk.bytes;
    const auto zeros = static_cast<size_t>(std::count(b.data, b.data + b.size, 0));
    fail(
        zeros
            ? "checksum mismatch: most bytes are zeros. Was the model saved by a session that had given them "
              "back? onnxopt.keep_container = 1 keeps them"
            : "checksum mismatch");
  }
  const size_t first = index * e.chunk_rows;
  const Shape shape{std::min(e.chunk_rows, e.shape.rows - first), e.shape.cols};
  const size_t width = dtype_bytes(e.dtype);
  out += first * e.shape.cols * width;
  if (e.codec == kLossless) {
    lossless_decode(chunk.bytes, width, shape, out);
    if (static_cast<Dtype>(e.dtype) == Dtype::kBool) check_bools(out, shape.size());
    return;
  }
  const Codec& codec = *find_codec(e.codec);
  switch (e.reconstruction) {
    case Reconstruction::kRaw:
      return decode_into(codec, chunk.bytes, shape, first, e.dtype, Raw{}, out);
    case Reconstruction::kAffine:
      return decode_into(
          codec, chunk.bytes, shape, first, e.dtype,
          Affine{table.scales.data(), table.scales.size(), e.scales_by_row || table.scales.size() == 1}, out);
    case Reconstruction::kCodebook:
      return decode_into(codec, chunk.bytes, shape, first, e.dtype,
                         Codebook{table.elements.data(), table.elements.size() / width}, out);
    case Reconstruction::kRelative:
      decode_into(codec, chunk.bytes, shape, first, e.dtype,
                  Relative{table.whole, e.shape.rows, e.transposed, e.scaled, e.scale}, out);
      if (static_cast<Dtype>(e.dtype) == Dtype::kBool) check_bools(out, shape.size());
  }
}

// Fills what `wanted` needs of the table that entry e holds, unless an entry before has done so.
void decode_table(const Entry& e, Reconstruction wanted, Table& table) {
  const bool codebook = wanted == Reconstruction::kCodebook;
  if (codebook ? !table.elements.empty() : !table.scales.empty()) return;
  std::vector<uint8_t> raw = decode_raw(e);
  if (codebook) {
    table.elements = std::move(raw);
  } else if (static_cast<Dtype>(e.dtype) == Dtype::kFloat32) {
    std::vector<float> scales(e.size / sizeof(float));
    std::memcpy(scales.data(), raw.data(), e.size);
    if (!std::all_of(scales.begin(), scales.end(), [](float s) { return std::isfinite(s); })) {
      fail("a scale is not finite");
    }
    table.scales = std::move(scales);
  } else {
    std::vector<float> scales;
    for (size_t at = 0; at < e.size; at += sizeof(int16_t)) {
      int16_t k = 0;
      std::memcpy(&k, raw.data() + at, sizeof(k));
      scales.push_back(exp2_quarter(k));
    }
    table.scales = std::move(scales);
  }
}

}  // namespace

// In the fuzzer's build every checksum matches, so that mutated bytes get past them.
bool checksum_matches(Bytes b, uint32_t crc) {
#ifdef ONNXOPT_FUZZING
  (void)b, (void)crc;
  return true;
#else
  return static_cast<uint32_t>(crc32_z(crc32_z(0, nullptr, 0), b.data, b.size)) == crc;
#endif
}

// For messages: one line, whatever the name.
std::string quoted(const Entry& e) {
  if (e.hidden) return "hidden entry";
  std::string name = e.name;
  for (char& c : name) c = static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  return "entry '" + name + "'";
}

std::vector<uint8_t> decode_raw(const Entry& e) {
  std::vector<uint8_t> raw(e.size);
  for (size_t i = 0; i < e.chunks.size(); ++i) decode_chunk(e, i, {}, raw.data());
  return raw;
}

void Container::decode(const std::vector<void*>& out, unsigned threads) const {
  if (out.size() != entries_.size()) {
    fail("%zu buffers for %zu entries", out.size(), entries_.size());
  }
  // By auxiliary entry, however many use it: else a small file could claim one large table many times over.
  std::vector<Table> tables(entries_.size());
  struct Task {
    size_t entry, chunk, cost;
  };
  std::vector<Task> tasks;
  size_t work = 0;
  std::vector<void*> to(out.size());  // what is asked for, and what relative entries need besides
  const auto add = [&](size_t i, void* where) {
    const Entry& e = entries_[i];
    to[i] = where;
    const bool slow = e.codec == codecs::adaptive.id || e.codec == codecs::context.id;
    for (size_t c = 0; c < e.chunks.size(); ++c) {
      tasks.push_back({i, c, e.chunks[c].bytes.size * (slow ? kSlowness : 1)});
    }
    work += e.shape.size();
    if (e.reconstruction == Reconstruction::kAffine || e.reconstruction == Reconstruction::kCodebook) {
      const Subject subject(quoted(e));
      decode_table(entries_[e.auxiliary], e.reconstruction, tables[e.auxiliary]);
    }
  };
  const auto dearer = [](const Task& a, const Task& b) { return a.cost > b.cost; };
  const auto run = [&] {
    // What takes longest comes first, so that all threads end together.
    std::make_heap(tasks.begin(), tasks.end(), dearer);
    std::sort_heap(tasks.begin(), tasks.end(), dearer);
    parallel_for(tasks.size(), work < kSmallWork ? 1 : threads, [&](size_t t) {
      const Entry& e = entries_[tasks[t].entry];
      const Subject subject(quoted(e));
      decode_chunk(e, tasks[t].chunk, tables[e.auxiliary], static_cast<uint8_t*>(to[tasks[t].entry]));
    });
    tasks.clear();
  };
  std::vector<size_t> relatives;
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (out[i] == nullptr) continue;
    if (entries_[i].reconstruction == Reconstruction::kRelative) {
      relatives.push_back(i);
    } else {
      add(i, out[i]);
    }
  }
  std::vector<std::vector<uint8_t>> besides;  // what they hold stays where it is
  for (const size_t i : relatives) {
    const size_t other = entries_[i].auxiliary;
    if (to[other] == nullptr) add(other, besides.emplace_back(entries_[other].size).data());
  }
  run();
  for (const size_t i : relatives) {
    add(i, out[i]);
    tables[entries_[i].auxiliary].whole = static_cast<const uint8_t*>(to[entries_[i].auxiliary]);
  }
  run();
}

}  // namespace onnxopt
