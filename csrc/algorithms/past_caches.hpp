// Which outputs are stored past the caches.
#pragma once

#include <atomic>

#include "algorithms/algorithm.hpp"

namespace tconv {

// An output of so many bytes is stored past the caches where products hide what stores take: its lines need
// not come before they are written, which is worth what a reader loses that would have found some in the last
// cache.
inline constexpr int64_t kPastCachesBytes = 8 << 20;
// The same where stores are what is waited for: it has left the caches before anyone can read it.
inline constexpr int64_t kBarePastCachesBytes = 32 << 20;

inline bool goes_past_caches(const Problem& problem, int64_t least = kPastCachesBytes) noexcept {
  const Geometry& g = problem.geometry;
  const int64_t elements = problem.pass == Pass::forward ? g.large_elements() : g.small_elements();
  return elements * static_cast<int64_t>(storage_bytes(problem.dtype)) >= least;
}

// To be called by a thread that stored so, before it tells that it is done.
inline void finish_past_caches() noexcept { std::atomic_thread_fence(std::memory_order_seq_cst); }

}  // namespace tconv
