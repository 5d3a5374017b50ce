// What panels are made of next comes to the second cache while the ones before are multiplied.
#pragma once

#include <algorithm>
#include <array>

#include "algorithms/algorithm.hpp"
#include "fetch_abi.hpp"

namespace tconv {

// Fetches for a product kernel. Hints: what is scattered too widely is left out.
class Fetches {
 public:
  void add_rows(const void* from, int64_t bytes, int64_t step_bytes, int64_t rows) noexcept {
    if (count_ < kMost) add({static_cast<const char*>(from), bytes, {step_bytes, 0}, rows, 1, 0, 0});
  }

  // What the windows of neighbouring positions, which are counted through all samples, hold of some maps, the
  // first one being `map` of a sample's; of all of them where they lie together.
  void add_windows(const Geometry& g, const void* large, int64_t element, int64_t map, int64_t maps,
                   int64_t position, int64_t positions) noexcept {
    const auto& [az, ay, ax] = g.axes;
    // What lies together, and what is apart.
    const int64_t unit = g.channels_last ? g.filters * element : element;
    const int64_t planes = g.channels_last ? 1 : g.filters;
    if (g.channels_last) map = 0, maps = 1;
    for (const int64_t end = position + positions; position < end && count_ + az.kernel <= kMost;) {
      const int64_t x = position % ax.size;
      const int64_t y = position / ax.size % ay.size;
      const int64_t z = position / ax.size / ay.size % az.size;
      const int64_t sample = position / ax.size / ay.size / az.size;
      // Rows of a plane, or part of a row.
      const int64_t rows = x > 0 ? 0 : std::min((end - position) / ax.size, ay.size - y);
      const int64_t run = rows > 0 ? rows * ax.size : std::min(end - position, ax.size - x);
      const int64_t length = rows > 0 ? rows * ay.stride * ax.out : run * ax.stride;
      for (int64_t tap = 0; tap < az.kernel; ++tap) {
        const int64_t line =
            ((sample * planes + map) * az.out + z * az.stride - az.pad_lo + tap * az.dilation) * ay.out +
            y * ay.stride - ay.pad_lo;
        add({static_cast<const char*>(large) + (line * ax.out + x * ax.stride - ax.pad_lo) * unit,
             length * unit,
             {ay.dilation * ax.out * unit, g.large_positions() * unit},
             rows > 0 ? 1 : ay.kernel,
             maps,
             0,
             0});
      }
      position += run;
    }
  }

  Fetch* data() noexcept { return list_.data(); }
  // How many of them a kernel is given that is called `calls` more times, for so many steps each: none while
  // there is time, lest what they fetch leaves the cache again.
  int64_t due(int64_t calls, int64_t steps) const noexcept { return calls * steps > 2 * lines_ ? 0 : count_; }

 private:
  static constexpr int64_t kMost = 48;
  static constexpr int64_t kLine = 64;

  void add(Fetch fetch) noexcept {
    // The line in which a run ends too.
    fetch.bytes += kLine - 1;
    lines_ += fetch.bytes / kLine * fetch.runs * fetch.rounds;
    list_[static_cast<size_t>(count_++)] = fetch;
  }

  std::array<Fetch, kMost> list_;
  int64_t count_ = 0;
  int64_t lines_ = 0;
};

}  // namespace tconv
