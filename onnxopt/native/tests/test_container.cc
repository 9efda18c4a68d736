// The reader trusts nothing: whatever happens to a valid file, it gives the same values or an Error, and no
// allocation is much larger than the file can pay for. The fuzzer's corpus and the attack files are replayed,
// for the sanitizers.
#include <zlib.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <new>
#include <optional>

#include "container.h"
#include "onnx_file.h"
#include "test_codec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);  // fuzz/fuzz_reader.cc

namespace {
size_t largest_allocation = 0;
size_t allocated = 0;  // in all, not less what was freed
}  // namespace

void* operator new(size_t size) {
  largest_allocation = std::max(largest_allocation, size);
  allocated += size;
  if (void* p = std::malloc(std::max<size_t>(size, 1))) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }

namespace onnxopt {
namespace {

namespace fs = std::filesystem;
using File = std::vector<uint8_t>;
using Values = std::optional<std::vector<File>>;  // nothing: refused

constexpr size_t kFlips = 1500;
constexpr size_t kMostDecoded = size_t{1}
                                << 20;  // bytes: a damaged table may ask for more, its caller need not
constexpr size_t kMostAllocated = size_t{64} << 20;  // the files here are below 10 kB

File read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  CHECK(in.good());
  return {std::istreambuf_iterator<char>(in), {}};
}

Bytes view(const File& file) { return {file.data(), file.size()}; }

// Of a copy of exactly this size, so that a sanitizer sees any read past its end.
Values decode(const File& bytes) {
  const File file(bytes);
  largest_allocation = 0;
  Values out;
  try {
    const Container container(find_container(view(file)));
    out.emplace();
    std::vector<void*> to;
    size_t total = 0;
    for (const Entry& e : container.entries()) {
      CHECK(e.size != 0);
      if (e.size > kMostDecoded || (total += e.size) > kMostDecoded) return std::nullopt;
      out->emplace_back(e.size);
      to.push_back(out->back().data());
    }
    container.decode(to, 1);
  } catch (const Error& error) {
    CHECK(error.what()[0] != '\0');
    out.reset();
  }
  CHECK(largest_allocation < kMostAllocated);
  return out;
}

void test_whole(const File& file) {
  const Values values = decode(file);
  CHECK(values && values->size() > 40);
  const File inside(find_container(view(file)).data,
                    find_container(view(file)).data + find_container(view(file)).size);
  CHECK(decode(inside) == values);
  const Container container(view(inside));
  std::vector<File> threaded;
  std::vector<void*> to;
  for (const Entry& e : container.entries()) {
    threaded.emplace_back(e.size);
    to.push_back(threaded.back().data());
  }
  container.decode(to, 3);
  CHECK(threaded == *values);
  CHECK_THROWS(container.decode({}, 1));
  // One by one, the others left out.
  for (size_t i = 0; i < to.size(); ++i) {
    File one(threaded[i].size());
    std::vector<void*> only(to.size());
    only[i] = one.data();
    container.decode(only, 1);
    CHECK(one == threaded[i]);
  }
}

// The outer model ends with what any protobuf reader skips or defaults, so an end that is cut off may change
// nothing.
void test_truncations(const File& file) {
  const Values values = decode(file);
  const Bytes inside = find_container(view(file));
  const auto needed = static_cast<size_t>(inside.data + inside.size - file.data());
  for (size_t n = 0; n < file.size(); ++n) {
    const Values got = decode({file.begin(), file.begin() + static_cast<std::ptrdiff_t>(n)});
    CHECK(!got || (n >= needed && got == values));
  }
  File longer(file);
  longer.push_back(0);
  CHECK(!decode(longer));
}

void test_flips(const File& file) {
  const Values values = decode(file);
  Random random(3);
  size_t refused_flips = 0;
  for (size_t i = 0; i < kFlips; ++i) {
    File bad(file);
    const uint64_t bit = random.next() % (8 * file.size());
    bad[bit / 8] = static_cast<uint8_t>(bad[bit / 8] ^ 1u << (bit % 8));
    const Values got = decode(bad);
    CHECK(!got || got == values);
    refused_flips += !got;
  }
  std::printf("%zu of %zu flipped bits refused, the others changed nothing\n", refused_flips, kFlips);
}

// --- what stands behind the checksums
// ---------------------------------------------------------------------------

uint32_t crc_of(Bytes b) { return static_cast<uint32_t>(crc32_z(crc32_z(0, nullptr, 0), b.data, b.size)); }

void put32(uint8_t* to, uint32_t v) {
  for (int i = 0; i < 4; ++i) to[i] = static_cast<uint8_t>(v >> (8 * i));
}

struct Parts {
  uint32_t entries;
  File meta, data;
  struct Crc {
    size_t at;           // in meta
    size_t first, size;  // of the chunk in data
  };
  std::vector<Crc> crcs;
};

Parts take_apart(const File& file) {
  Reader r({file.data() + 12, file.size() - 12});
  Parts out{r.u32(), {}, {}, {}};
  const uint64_t packed = r.u64();
  out.meta.resize(r.u64());
  const uint64_t data = r.u64();
  z_stream z{};
  CHECK(inflateInit2(&z, -15) == Z_OK);
  z.next_in = const_cast<uint8_t*>(file.data() + 52);
  z.avail_in = static_cast<unsigned>(packed);
  z.next_out = out.meta.data();
  z.avail_out = static_cast<unsigned>(out.meta.size());
  CHECK(inflate(&z, Z_FINISH) == Z_STREAM_END);
  inflateEnd(&z);
  out.data.assign(file.end() - static_cast<std::ptrdiff_t>(data), file.end());

  const Container container(view(file));
  size_t at = 0, first = 0;
  for (const Entry& e : container.entries()) {
    for (const Chunk& chunk : e.chunks) {
      uint8_t crc[4];
      put32(crc, chunk.crc);
      const auto found =
          std::search(out.meta.begin() + static_cast<std::ptrdiff_t>(at), out.meta.end(), crc, crc + 4);
      CHECK(found != out.meta.end());
      at = static_cast<size_t>(found - out.meta.begin());
      out.crcs.push_back({at, first, chunk.bytes.size});
      first += chunk.bytes.size;
      at += 4;
    }
  }
  CHECK(first == out.data.size());
  return out;
}

// A container of these parts with every checksum right; the metadata in one stored deflate block.
File put_together(const Parts& parts) {
  File packed, out;
  Writer block(packed), w(out);
  block.u8(1);
  block.u16(static_cast<uint16_t>(parts.meta.size()));
  block.u16(static_cast<uint16_t>(~parts.meta.size()));
  block.bytes(view(parts.meta));
  w.bytes({reinterpret_cast<const uint8_t*>("onnxopt\0"), 8});
  w.u32(3);  // the version; no flags
  w.u32(parts.entries);
  w.u64(packed.size());
  w.u64(parts.meta.size());
  w.u64(parts.data.size());
  w.u32(crc_of(view(packed)));
  w.u32(0);
  w.u32(crc_of(view(out)));
  w.bytes(view(packed));
  w.bytes(view(parts.data));
  return out;
}

void fix_header(File& file) {
  if (file.size() < 52) return;
  Reader r({file.data() + 16, 8});
  const uint64_t packed = r.u64();
  if (packed <= file.size() - 52)
    put32(file.data() + 40, crc_of({file.data() + 52, static_cast<size_t>(packed)}));
  put32(file.data() + 48, crc_of({file.data(), 48}));
}

// Any outcome is fine but a crash, a hang, or an allocation on the file's word.
void test_flips_with_checksums(const File& file) {
  const Bytes inside = find_container(view(file));
  const File bare(inside.data, inside.data + inside.size);
  const Parts parts = take_apart(bare);
  CHECK(parts.meta.size() <= UINT16_MAX);
  CHECK(decode(put_together(parts)) == decode(bare));

  Random random(4);
  size_t refused_flips = 0;
  for (size_t i = 0; i < kFlips; ++i) {
    Parts bad(parts);
    File& part = i % 3 == 0 ? bad.meta : bad.data;
    const uint64_t bit = random.next() % (8 * part.size());
    part[bit / 8] = static_cast<uint8_t>(part[bit / 8] ^ 1u << (bit % 8));
    for (const Parts::Crc& crc : bad.crcs) {
      if (i % 3 != 0) put32(bad.meta.data() + crc.at, crc_of({bad.data.data() + crc.first, crc.size}));
    }
    refused_flips += !decode(put_together(bad));
  }
  for (size_t bit = 0; bit < 8 * size_t{52}; ++bit) {
    File bad(bare);
    bad[bit / 8] = static_cast<uint8_t>(bad[bit / 8] ^ 1u << (bit % 8));
    fix_header(bad);
    decode(bad);
  }
  for (size_t i = 0; i < kFlips / 4; ++i) {  // in the deflated metadata
    File bad(bare);
    const uint64_t bit = random.next() % (8 * (bare.size() - parts.data.size() - 52));
    bad[52 + bit / 8] = static_cast<uint8_t>(bad[52 + bit / 8] ^ 1u << (bit % 8));
    fix_header(bad);
    decode(bad);
  }
  std::printf("%zu of %zu flipped bits under right checksums refused\n", refused_flips, kFlips);
}

// A large table that many entries use must not be there once for each of them.
void test_shared_table() {
  constexpr size_t kElements = 100000, kUsers = 500;
  Parts parts{1 + kUsers, {}, {}, {}};
  File table;
  Writer w(table);
  const auto record = [&](const std::string& name, size_t dim, std::vector<uint8_t> how, const File& chunk) {
    w.varint(name.size());
    w.bytes({reinterpret_cast<const uint8_t*>(name.data()), name.size()});
    w.u8(7);  // int64
    w.u8(1);
    w.varint(dim);
    w.bytes(view(how));
    w.varint(1);
    w.varint(chunk.size());
    w.u32(crc_of(view(chunk)));
    parts.data.insert(parts.data.end(), chunk.begin(), chunk.end());
  };
  File bits(2 + kElements / 8);  // bitpack: minimum 0, a bit each
  bits[1] = 1;
  record("", kElements, {0, 0, 1}, bits);
  for (size_t i = 0; i < kUsers; ++i) record(std::to_string(i), 1, {2, 0, 0, 0}, {1, 7});
  Writer meta(parts.meta);
  meta.varint(table.size());
  meta.varint(0);  // no model
  meta.varint(0);  // no splices
  meta.bytes(view(table));
  const File file = put_together(parts);

  const Container container(view(file));
  std::vector<uint8_t> values(kUsers * 8, 255);
  std::vector<void*> to{nullptr};
  for (size_t i = 0; i < kUsers; ++i) to.push_back(values.data() + 8 * i);
  allocated = 0;
  container.decode(to, 1);
  CHECK(allocated < 4 * kElements * 8);
  CHECK(values == std::vector<uint8_t>(kUsers * 8));
}

size_t replay(const fs::path& folder) {
  size_t count = 0;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file() || entry.path().extension() == ".py") continue;
    const File file = read(entry.path());
    decode(file);
    LLVMFuzzerTestOneInput(file.data(), file.size());
    ++count;
  }
  return count;
}

}  // namespace
}  // namespace onnxopt

int main() {
  using namespace onnxopt;
  const fs::path native(ONNXOPT_NATIVE);
  const File file = read(native / "fuzz" / "corpus" / "whole.onnx");
  test_whole(file);
  test_truncations(file);
  test_flips(file);
  test_flips_with_checksums(file);
  test_shared_table();
  CHECK(replay(native / "fuzz" / "corpus") > 300);
  CHECK(replay(native / ".." / ".." / "tests" / "attacks") > 220);
  return 0;
}
