// Where maps become lanes, memory is read a strip at a time: what the next one reads can come meanwhile.
#pragma once

#include <algorithm>
#include <cstdint>

#include "winograd_abi.hpp"

namespace tconv {

// Fetches into the cache what a strip reads that begins at `src` and is else like `strip`, its elements being
// of so many bytes.
[[gnu::always_inline]] inline void fetch_strip(const char* src, const StripArgs& strip,
                                               int64_t element) noexcept {
  const int64_t begin = std::max<int64_t>(0, strip.first);
  const int64_t positions = std::min(strip.size, strip.first + strip.count) - begin;
  // The neighbours are positions of a map or, a vector at most, maps of a position.
  const bool together = strip.position_stride != 1;
  const int64_t rows = together ? positions : strip.maps;
  const int64_t bytes = (together ? strip.maps : positions) * element;
  const int64_t step = (together ? strip.position_stride : strip.map_stride) * element;
  const char* row = src + begin * strip.position_stride * element;
  for (int64_t r = 0; r < rows; ++r, row += step) {
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at, 0, 2);
  }
}

}  // namespace tconv
