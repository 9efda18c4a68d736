// Work on all cores.
#pragma once

#if defined(__wasm__)

#include <cstddef>

namespace onnxopt {

// Calls work(0) .. work(count - 1): here, an instance has no threads.
template <typename Work>
void parallel_for(size_t count, unsigned, Work work) {
  for (size_t i = 0; i < count; ++i) work(i);
}

}  // namespace onnxopt

#else

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace onnxopt {

// Calls work(0) .. work(count - 1), each once, on up to `threads` threads (0: one a core). The first
// exception stops the rest and is thrown again here.
template <typename Work>
void parallel_for(size_t count, unsigned threads, Work work) {
  if (threads == 0) threads = std::max(1U, std::thread::hardware_concurrency());
  std::atomic<size_t> next{0};
  std::exception_ptr failure;
  std::mutex mutex;
  const auto run = [&] {
    try {
      for (size_t i = next++; i < count; i = next++) work(i);
    } catch (...) {
      next = count;
      const std::scoped_lock lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  };
  std::vector<std::thread> pool;
  pool.reserve(std::min<size_t>(threads, count));  // it must not throw where threads run
  try {
    for (size_t t = 1; t < std::min<size_t>(threads, count); ++t) pool.emplace_back(run);
  } catch (const std::system_error&) {  // NOLINT(bugprone-empty-catch)
    // No more threads to be had: those there are do the work.
  }
  run();
  for (std::thread& thread : pool) thread.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace onnxopt

#endif
