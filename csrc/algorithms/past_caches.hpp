// Which outputs are stored past the caches.
#pragma once

#include <atomic>

#include "algorithms/algorithm.hpp"

namespace tconv {

// An output of so many bytes has left the caches before anyone can read it; a smaller one is read soon, and
// costs its reader what its stores save.
inline constexpr int64_t kPastCachesBytes = 32 << 20;

inline bool goes_past_caches(const Problem& problem) noexcept {
  const Geometry& g = problem.geometry;
  const int64_t elements = problem.pass == Pass::forward ? g.large_elements() : g.small_elements();
  return elements * static_cast<int64_t>(storage_bytes(problem.dtype)) >= kPastCachesBytes;
}

// To be called by a thread that stored so, before it tells that it is done.
inline void finish_past_caches() noexcept { std::atomic_thread_fence(std::memory_order_seq_cst); }

}  // namespace tconv
