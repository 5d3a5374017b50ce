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

PhaseAxis::PhaseAxis(const Axis& of, Pass pass) noexcept
    : axis(of),
      forward(pass == Pass::forward),
      src_size(forward ? axis.size : axis.out),
      dst_size(forward ? axis.out : axis.size),
      src_step(forward ? 1 : axis.stride),
      dst_step(forward ? axis.stride : 1),
      kernel(axis.kernel),
      positions(count(0)),
      most_taps(ceil_div(kernel, dst_step / std::gcd(dst_step, axis.dilation))),
      lowest_offset(std::min(offset_of(0), offset_of(kernel - 1))),
      highest_offset(std::max(offset_of(0), offset_of(kernel - 1))),
      // From tap to tap they change by at most one, or by at least one.
      offset_count(std::min(kernel, highest_offset - lowest_offset + 1)) {}

// A tap has but one phase, and so one offset.
int64_t PhaseAxis::offset_of(int64_t k) const noexcept {
  return forward ? ceil_div(axis.pad_lo - k * axis.dilation, axis.stride) : k * axis.dilation - axis.pad_lo;
}

void PhaseAxis::list() {
  taps.resize(static_cast<size_t>(kernel));
  offsets.resize(static_cast<size_t>(offset_count));
  if (forward) {
    list_phases();
  } else {
    first_tap = {0, kernel};
    packed_tap = {0};
    for (int64_t k = 0; k < kernel; ++k)
      taps[static_cast<size_t>(k)] = {k, k * axis.dilation - axis.pad_lo, k};
  }
  const bool differ = offset_count == kernel;
  for (PhaseTap& tap : taps) {
    if (forward) tap.slot = differ ? kernel - 1 - tap.k : tap.offset - lowest_offset;
    offsets[static_cast<size_t>(tap.slot)] = tap.offset;
  }
}

void PhaseAxis::list_phases() {
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
  first_tap.clear();
  packed_tap.clear();
  first_tap.reserve(static_cast<size_t>(axis.stride) + 1);
  packed_tap.reserve(static_cast<size_t>(axis.stride));
  auto residue = static_cast<size_t>(modulo(axis.pad_lo, axis.stride));
  for (int64_t phase = 0; phase < axis.stride; ++phase) {
    first_tap.push_back(static_cast<int64_t>(next));
    packed_tap.push_back(starts[residue]);
    int64_t k = first_k[residue];
    int64_t offset = (phase + axis.pad_lo - k * axis.dilation) / axis.stride;
    for (int64_t i = starts[residue]; i < starts[residue + 1]; ++i) {
      taps[next++] = {k, offset, 0};
      k += period;
      offset -= hop;
    }
    if (++residue == static_cast<size_t>(axis.stride)) residue = 0;
  }
  first_tap.push_back(static_cast<int64_t>(next));
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
