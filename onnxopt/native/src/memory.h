// Giving memory back to the system. What a platform has no call for is simply not done.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#if defined(__linux__)
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace onnxopt {

// Freed memory that the allocator still holds, in every thread's arena.
inline void trim_heap() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

// The whole pages in data[0, size), which nobody will read again: they become zeros that take no memory.
inline void drop_pages(const void* data, size_t size) {
#if defined(__linux__)
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const size_t before = (page - reinterpret_cast<uintptr_t>(data) % page) % page;
  if (size < before + page) return;
  auto* begin = static_cast<char*>(const_cast<void*>(data)) + before;
  madvise(begin, (size - before) / page * page, MADV_DONTNEED);
#else
  (void)data;
  (void)size;
#endif
}

// Memory of its own pages: what is freed goes back to the system at once, whatever else is allocated.
namespace block {

constexpr size_t kAlignment = 64;  // a cache line, and what the widest vector loads like

// Throws std::bad_alloc.
inline void* allocate(size_t size) {
  const size_t whole = size + kAlignment;  // the size stands before the block
#if defined(__linux__)
  void* made = mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (made == MAP_FAILED) throw std::bad_alloc();
#else
  void* made = ::operator new(whole, std::align_val_t{kAlignment});
#endif
  *static_cast<size_t*>(made) = whole;
  return static_cast<uint8_t*>(made) + kAlignment;
}

inline void free(void* data) {
  if (data == nullptr) return;
  void* made = static_cast<uint8_t*>(data) - kAlignment;
#if defined(__linux__)
  munmap(made, *static_cast<size_t*>(made));
#else
  ::operator delete(made, std::align_val_t{kAlignment});
#endif
}

struct Free {
  void operator()(uint8_t* data) const { free(data); }
};

}  // namespace block

using Block = std::unique_ptr<uint8_t, block::Free>;

inline Block new_block(size_t size) { return Block(static_cast<uint8_t*>(block::allocate(size))); }

}  // namespace onnxopt
