#include "container.h"

#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <unordered_set>

#include "choose.h"
#include "container_parts.h"
#include "reconstruct.h"

namespace onnxopt {
namespace {

constexpr char kMagic[8] = {'o', 'n', 'n', 'x', 'o', 'p', 't', '\0'};
constexpr uint16_t kOldest = 1, kNewest = 3;
constexpr size_t kHeaderSize = 52;
constexpr size_t kMaxRank = 16;
constexpr uint64_t kMaxInflation = 1032;          // deflate cannot expand by more
constexpr uint64_t kMaxMeta = uint64_t{1} << 31;  // protobuf's own limit

struct Header {
  uint16_t version;
  uint32_t entries;
  uint64_t meta_packed, meta_size, data_size;
  uint32_t meta_crc, values_crc;
};

Header read_header(Bytes file) {
  if (file.size < kHeaderSize || std::memcmp(file.data, kMagic, sizeof(kMagic)) != 0) {
    fail("not an onnxopt container: its first bytes are not 'onnxopt'");
  }
  Reader r({file.data + sizeof(kMagic), kHeaderSize - sizeof(kMagic)});
  Header h{};
  h.version = r.u16();
  if (h.version < kOldest || h.version > kNewest) {
    fail("container version %u; this library reads versions %u to %u: update onnxopt", h.version, kOldest,
         kNewest);
  }
  const uint16_t flags = r.u16();
  h.entries = r.u32();
  h.meta_packed = r.u64();
  h.meta_size = r.u64();
  h.data_size = r.u64();
  h.meta_crc = r.u32();
  h.values_crc = r.u32();
  if (!checksum_matches({file.data, kHeaderSize - 4}, r.u32())) fail("container header: checksum mismatch");
  if (flags != 0) fail("container header: unknown flags %u", flags);
  const uint64_t body = file.size - kHeaderSize;
  if (h.meta_packed > body || h.data_size != body - h.meta_packed) {
    fail("container header: %" PRIu64 " + %" PRIu64 " bytes announced, %" PRIu64 " there", h.meta_packed,
         h.data_size, body);
  }
  if (h.meta_size > kMaxMeta || h.meta_size > h.meta_packed * kMaxInflation) {
    fail("container header: %" PRIu64 " deflated bytes cannot hold %" PRIu64, h.meta_packed, h.meta_size);
  }
  return h;
}

std::vector<uint8_t> inflate_exactly(Bytes in, size_t size) {
  std::vector<uint8_t> out(size);
  z_stream z{};
  if (inflateInit2(&z, -15) != Z_OK) fail("zlib: inflateInit2 failed");  // raw deflate: the CRC is ours
  size_t taken = 0;
  size_t made = 0;
  int status = Z_OK;
  // zlib counts in 32 bits, so feed it at most 1 GiB at a time.
  constexpr size_t kStep = size_t{1} << 30;
  while (status == Z_OK) {
    const size_t give = std::min(kStep, in.size - taken);
    const size_t room = std::min(kStep, size - made);
    z.next_in = const_cast<Bytef*>(in.data + taken);
    z.avail_in = static_cast<uInt>(give);
    uint8_t spare = 0;  // inflate refuses a null output, also where nothing more may come
    z.next_out = room ? out.data() + made : &spare;
    z.avail_out = static_cast<uInt>(room);
    status = inflate(&z, Z_NO_FLUSH);
    taken += give - z.avail_in;
    made += room - z.avail_out;
  }
  inflateEnd(&z);
  if (status != Z_STREAM_END || made != size || taken != in.size) {
    fail("container metadata: not the deflate stream of %zu bytes it claims to be", size);
  }
  return out;
}

// The tensor as a matrix: what comes after the axis is a row, or, where nothing does, the axis itself is. Of
// pairs, half as many columns or, where that is no whole number, one row.
void set_matrix_view(Entry& e) {
  size_t outer = 1;
  size_t inner = 1;
  for (size_t i = 0; i < e.dims.size(); ++i) (i < e.axis ? outer : inner) *= static_cast<size_t>(e.dims[i]);
  const auto along = static_cast<size_t>(e.dims[e.axis]);
  inner /= along;
  e.scales_by_row = inner > 1;
  e.shape = e.scales_by_row ? Shape{outer * along, inner} : Shape{outer, along};
  if (is_paired(e.dtype)) {
    e.shape = e.shape.cols % 2 == 0 ? Shape{e.shape.rows, e.shape.cols / 2} : Shape{1, e.size};
  }
}

// Well-formed UTF-8 (the Unicode Standard, table 3-7) without zero bytes: callers see names as C strings and
// as text, and two names must not look the same to them.
bool is_text(Bytes b) {
  Reader r(b);
  while (r.left() != 0) {
    const uint8_t lead = r.u8();
    if (lead == 0) return false;
    if (lead < 0x80) continue;
    if (lead < 0xc2 || lead > 0xf4) return false;
    const size_t more = lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
    if (r.left() < more) return false;
    const uint8_t* next = r.bytes(more).data;
    const uint8_t lo = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    const uint8_t hi = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    if (next[0] < lo || next[0] > hi) return false;
    for (size_t i = 1; i < more; ++i) {
      if (next[i] < 0x80 || next[i] > 0xbf) return false;
    }
  }
  return true;
}

void read_dims(Reader& r, Entry& e, uint16_t version) {
  const size_t rank = r.u8();
  if (rank == 0 || rank > kMaxRank) {
    fail("%s: rank %zu, expected 1 to %zu", quoted(e).c_str(), rank, kMaxRank);
  }
  const size_t width = dtype_bytes(e.dtype);
  if (width == 0 || (version < 2 && e.dtype > static_cast<uint8_t>(Dtype::kBfloat16))) {
    fail("%s: element type %u is not one containers hold", quoted(e).c_str(), e.dtype);
  }
  uint64_t count = 1;
  for (size_t i = 0; i < rank; ++i) {
    const uint64_t dim = r.varint();
    constexpr uint64_t kMost = uint64_t{1} << 48;
    if (dim == 0 || dim > kMost / count) fail("%s: impossible shape", quoted(e).c_str());
    count *= dim;
    e.dims.push_back(static_cast<int64_t>(dim));
  }
  if (count > PTRDIFF_MAX / width) fail("%s: more than this machine's memory", quoted(e).c_str());
  e.size =
      is_paired(e.dtype) ? static_cast<size_t>(count / 2 + count % 2) : static_cast<size_t>(count) * width;
}

void read_chunks(Reader& r, Entry& e, Reader& data) {
  const uint64_t chunk_rows = r.varint();
  if (chunk_rows == 0 || chunk_rows > e.shape.rows) {
    fail("%s: chunks of %" PRIu64 " rows in %zu", quoted(e).c_str(), chunk_rows, e.shape.rows);
  }
  e.chunk_rows = static_cast<size_t>(chunk_rows);
  for (size_t row = 0; row < e.shape.rows; row += e.chunk_rows) {
    const uint64_t length = r.varint();
    const size_t count = std::min(e.chunk_rows, e.shape.rows - row) * e.shape.cols;
    if ((count - 1) / kMaxIntegersPerByte >= length) {
      fail("%s: %" PRIu64 " bytes cannot hold %zu elements: this looks like a decompression bomb",
           quoted(e).c_str(), length, count);
    }
    e.chunks.push_back({data.bytes(length), r.u32()});
  }
}

void check_auxiliary(const Entry& e, const Entry& aux) {
  const auto dtype = static_cast<Dtype>(aux.dtype);
  if (e.reconstruction == Reconstruction::kRelative) {
    if (aux.reconstruction == Reconstruction::kRelative || aux.dtype != e.dtype || aux.size != e.size) {
      fail("%s: what it is relative to does not fit it", quoted(e).c_str());
    }
    return;
  }
  bool fits = aux.hidden && aux.dims.size() == 1 && aux.reconstruction == Reconstruction::kRaw;
  if (e.reconstruction == Reconstruction::kAffine) {
    fits = fits && (dtype == Dtype::kInt16 || dtype == Dtype::kFloat32) &&
           (aux.dims[0] == e.dims[e.axis] || aux.dims[0] == 1);
  } else {
    fits = fits && aux.dtype == e.dtype;
  }
  if (!fits) fail("%s: its scales or table do not fit it", quoted(e).c_str());
}

// How an entry is relative: bit 0: transposed, bit 1: a scale follows.
void read_relation(Reader& r, Entry& e) {
  const uint8_t form = r.u8();
  if (form > 3) fail("%s: unknown relation %u", quoted(e).c_str(), form);
  e.transposed = form & 1;
  e.scaled = form & 2;
  if (!e.scaled) return;
  const uint32_t bits = r.u32();
  std::memcpy(&e.scale, &bits, sizeof bits);
  if (static_cast<Dtype>(e.dtype) != Dtype::kFloat32 || !std::isfinite(e.scale)) {
    fail("%s: its scale is not finite, or it has other elements than float32", quoted(e).c_str());
  }
}

Entry read_entry(Reader& r, Reader& data, const std::vector<Entry>& before, uint16_t version) {
  Entry e;
  const Bytes name = r.bytes(r.varint());
  if (!is_text(name)) fail("an entry's name is not UTF-8 text");
  e.name.assign(reinterpret_cast<const char*>(name.data), name.size);
  e.hidden = e.name.empty();
  e.dtype = r.u8();
  read_dims(r, e, version);
  const uint8_t reconstruction = r.u8();
  if (reconstruction >
      static_cast<uint8_t>(version < 2 ? Reconstruction::kCodebook : Reconstruction::kRelative)) {
    fail("%s: unknown reconstruction %u: update onnxopt", quoted(e).c_str(), reconstruction);
  }
  e.reconstruction = static_cast<Reconstruction>(reconstruction);
  if (is_paired(e.dtype) && e.reconstruction != Reconstruction::kRaw) {
    fail("%s: elements of 4 bits have no reconstruction", quoted(e).c_str());
  }
  e.axis = r.u8();
  if (e.axis >= e.dims.size()) fail("%s: axis %u is beyond its rank", quoted(e).c_str(), e.axis);
  set_matrix_view(e);
  e.codec = r.u8();
  const bool newer = e.codec == codecs::adaptive.id && version < 3;
  if (newer || (e.codec != kLossless && find_codec(e.codec) == nullptr)) {
    fail("%s: unknown codec %u: update onnxopt", quoted(e).c_str(), e.codec);
  }
  if (e.codec == kLossless && e.reconstruction != Reconstruction::kRaw) {
    fail("%s: lossless elements cannot be reconstructed from integers", quoted(e).c_str());
  }
  if (e.reconstruction != Reconstruction::kRaw) {
    const uint64_t auxiliary = r.varint();
    if (auxiliary >= before.size()) fail("%s: its scales or table must stand before it", quoted(e).c_str());
    e.auxiliary = static_cast<size_t>(auxiliary);
    check_auxiliary(e, before[e.auxiliary]);
  }
  if (e.reconstruction == Reconstruction::kRelative) read_relation(r, e);
  read_chunks(r, e, data);
  return e;
}

}  // namespace

size_t Entry::coded_size() const {
  size_t total = 0;
  for (const Chunk& chunk : chunks) total += chunk.bytes.size;
  return total;
}

Container::Container(Bytes file) {
  const Header header = read_header(file);
  const Bytes packed{file.data + kHeaderSize, static_cast<size_t>(header.meta_packed)};
  if (!checksum_matches(packed, header.meta_crc)) fail("container metadata: checksum mismatch");
  const std::vector<uint8_t> meta = inflate_exactly(packed, static_cast<size_t>(header.meta_size));
  version_ = header.version;
  values_crc_ = header.values_crc;

  Reader reader({meta.data(), meta.size()});
  const uint64_t table_size = reader.varint();
  const uint64_t model_size = reader.varint();
  const uint64_t splices_size = version_ < 2 ? 0 : reader.varint();
  Reader table(reader.bytes(table_size));
  const Bytes model = reader.bytes(model_size);
  const Bytes splices = reader.bytes(splices_size);
  const Bytes plan = reader.rest();
  plan_.assign(reinterpret_cast<const char*>(plan.data), plan.size);

  Reader data({packed.data + packed.size, static_cast<size_t>(header.data_size)});
  std::unordered_set<std::string> names;
  for (uint32_t i = 0; i < header.entries; ++i) {
    entries_.push_back(read_entry(table, data, entries_, version_));
    const Entry& e = entries_.back();
    if (!e.hidden && !names.insert(e.name).second)
      fail("%s stands twice in the container", quoted(e).c_str());
  }
  table.expect_end("container entries");
  data.expect_end("container data");
  model_ = spliced(model, Reader(splices));
}

// Puts the pieces that stand in hidden entries where they belong in the inner model.
std::string Container::spliced(Bytes model, Reader splices) const {
  struct Pieces {
    std::vector<uint8_t> bytes;
    size_t used = 0;
  };
  std::map<uint64_t, Pieces> pieces;  // by entry
  std::string out;
  Reader rest(model);
  const auto append = [&](Bytes b) { out.append(reinterpret_cast<const char*>(b.data), b.size); };
  while (splices.left() != 0) {
    const uint64_t index = splices.varint();
    append(rest.bytes(splices.varint()));
    const uint64_t length = splices.varint();
    if (index >= entries_.size()) fail("container metadata: a piece of the model is in no entry");
    const Entry& e = entries_[static_cast<size_t>(index)];
    Pieces& from = pieces[index];
    if (from.bytes.empty()) {
      if (!e.hidden || e.reconstruction != Reconstruction::kRaw || e.size > e.coded_size() * kMaxInflation) {
        fail("container metadata: %s holds no pieces of the model", quoted(e).c_str());
      }
      const Subject subject(quoted(e));
      from.bytes = decode_raw(e);
    }
    if (length > from.bytes.size() - from.used || length > kMaxMeta - out.size()) {
      fail("container metadata: a piece of the model is longer than what there is");
    }
    append({from.bytes.data() + from.used, static_cast<size_t>(length)});
    from.used += static_cast<size_t>(length);
  }
  append(rest.rest());
  return out;
}

}  // namespace onnxopt
