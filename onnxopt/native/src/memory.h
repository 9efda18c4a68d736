// Giving memory back to the system. What a platform has no call for is simply not done.
#pragma once

#include <cstddef>
#include <cstdint>

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

}  // namespace onnxopt
