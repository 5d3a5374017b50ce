#include "phases.hpp"

#include <algorithm>
#include <numeric>

namespace tconv {
namespace {

int64_t modulo(int64_t value, int64_t divisor) noexcept {
  const int64_t rest = value % divisor;
  return rest < 0 ? rest + divisor : rest;
}

// Calls `body(k, residue)` for every tap, the residue being k * dilation modulo the stride; without a
// division, which long kernels would wait for.
template <class Body>
void for_taps(const Axis& axis, const Body& body) {
  const int64_t step = axis.dilation % axis.stride;
  int64_t residue = 0;
  for (int64_t k = 0; k < axis.kernel; ++k) {
    body(k, static_cast<size_t>(residue));
    residue += step;
    if (residue >= axis.stride) residue -= axis.stride;
  }
}

// First position of each residue, and the end, in the packed order.
std::vector<int64_t> residue_starts(const Axis& axis) {
  std::vector<int64_t> starts(static_cast<size_t>(axis.stride) + 1, 0);
  for_taps(axis, [&](int64_t, size_t residue) { ++starts[residue + 1]; });
  for (size_t r = 1; r < starts.size(); ++r) starts[r] += starts[r - 1];
  return starts;
}

}  // namespace

std::vector<int64_t> packed_order(const Axis& axis, Pass pass) {
  std::vector<int64_t> order(static_cast<size_t>(axis.kernel));
  if (pass != Pass::forward) {
    for (int64_t k = 0; k < axis.kernel; ++k) order[static_cast<size_t>(k)] = k;
    return order;
  }
  std::vector<int64_t> next = residue_starts(axis);
  for_taps(axis, [&](int64_t k, size_t residue) { order[static_cast<size_t>(k)] = next[residue]++; });
  return order;
}

PhaseAxis phase_axis(const Axis& axis, Pass pass) {
  PhaseAxis made{};
  made.kernel = axis.kernel;
  made.taps.resize(static_cast<size_t>(axis.kernel));
  if (pass == Pass::forward) {
    made.src_size = axis.size;
    made.dst_size = axis.out;
    made.src_step = 1;
    made.dst_step = axis.stride;
    const std::vector<int64_t> starts = residue_starts(axis);
    std::vector<int64_t> first_k(static_cast<size_t>(axis.stride));
    // Taps of a residue are every `period`-th, and read the source `hop` positions earlier from one to the
    // next.
    const int64_t period = axis.stride / std::gcd(axis.stride, axis.dilation);
    const int64_t hop = period * axis.dilation / axis.stride;
    Axis one_period = axis;
    one_period.kernel = std::min(period, axis.kernel);
    for_taps(one_period, [&](int64_t k, size_t residue) { first_k[residue] = k; });
    size_t next = 0;
    made.first_tap.reserve(static_cast<size_t>(axis.stride) + 1);
    made.packed_tap.reserve(static_cast<size_t>(axis.stride));
    auto residue = static_cast<size_t>(modulo(axis.pad_lo, axis.stride));
    for (int64_t phase = 0; phase < axis.stride; ++phase) {
      made.first_tap.push_back(static_cast<int64_t>(next));
      made.packed_tap.push_back(starts[residue]);
      int64_t k = first_k[residue];
      int64_t offset = (phase + axis.pad_lo - k * axis.dilation) / axis.stride;
      for (int64_t i = starts[residue]; i < starts[residue + 1]; ++i) {
        made.taps[next++] = {k, offset, 0};
        k += period;
        offset -= hop;
      }
      if (++residue == static_cast<size_t>(axis.stride)) residue = 0;
    }
    made.first_tap.push_back(static_cast<int64_t>(next));
  } else {
    made.src_size = axis.out;
    made.dst_size = axis.size;
    made.src_step = axis.stride;
    made.dst_step = 1;
    made.positions = axis.size;
    made.first_tap = {0, axis.kernel};
    made.packed_tap = {0};
    made.offsets.resize(made.taps.size());
    for (int64_t k = 0; k < axis.kernel; ++k) {
      const int64_t offset = k * axis.dilation - axis.pad_lo;
      made.offsets[static_cast<size_t>(k)] = offset;
      made.taps[static_cast<size_t>(k)] = {k, offset, k};
    }
    return made;
  }
  made.positions = made.count(0);
  // Offsets fall within a phase.
  int64_t lowest = INT64_MAX;
  int64_t highest = INT64_MIN;
  for (int64_t phase = 0; phase < made.phases(); ++phase) {
    if (made.tap_count(phase) == 0) continue;
    highest = std::max(highest, made.taps_of(phase)->offset);
    lowest = std::min(lowest, made.taps_of(phase)[made.tap_count(phase) - 1].offset);
  }
  const int64_t range = highest - lowest + 1;
  if (range <= 4 * axis.kernel + 64) {
    std::vector<int64_t> slot(static_cast<size_t>(range), -1);
    for (const PhaseTap& tap : made.taps) slot[static_cast<size_t>(tap.offset - lowest)] = 0;
    for (int64_t i = 0; i < range; ++i) {
      if (slot[static_cast<size_t>(i)] < 0) continue;
      slot[static_cast<size_t>(i)] = static_cast<int64_t>(made.offsets.size());
      made.offsets.push_back(lowest + i);
    }
    for (PhaseTap& tap : made.taps) tap.slot = slot[static_cast<size_t>(tap.offset - lowest)];
  } else {
    for (const PhaseTap& tap : made.taps) made.offsets.push_back(tap.offset);
    std::sort(made.offsets.begin(), made.offsets.end());
    made.offsets.erase(std::unique(made.offsets.begin(), made.offsets.end()), made.offsets.end());
    for (PhaseTap& tap : made.taps) {
      const auto found = std::lower_bound(made.offsets.begin(), made.offsets.end(), tap.offset);
      tap.slot = found - made.offsets.begin();
    }
  }
  return made;
}

int64_t chunk_maps(const Geometry& geometry, Pass pass, int64_t depth_maps) {
  // Steps of depth in one sum, at most about; bounds what has to be near the core at a time.
  constexpr int64_t most = 4096;
  int64_t taps = 1;
  for (const Axis& axis : geometry.axes) {
    taps *= pass == Pass::forward ? (axis.kernel + axis.stride - 1) / axis.stride : axis.kernel;
  }
  const int64_t chunks = (depth_maps * taps + most - 1) / most;
  return std::max<int64_t>(1, (depth_maps + chunks - 1) / chunks);
}

}  // namespace tconv
