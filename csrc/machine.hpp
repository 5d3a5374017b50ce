// What the cost models know of a machine. Figures are of a typical server core; ratios matter, not seconds.
#pragma once

#include <algorithm>

#include "algorithms/algorithm.hpp"
#include "registry.hpp"

namespace tconv::machine {

inline constexpr double kHertz = 3.5e9;
inline constexpr double kStoreBytesPerSecond = 10e9;
inline constexpr double kReadBytesPerSecond = 30e9;
inline constexpr double kPackBytesPerSecond = 6.5e9;
inline constexpr double kFarBytesPerSecond = 18e9;
inline constexpr double kNearGain = 2.5;            // of the last cache over memory
inline constexpr double kSecondCacheBytes = 768e3;  // what stays in it beside the rest
inline constexpr double kLastCacheBytes = 32e6;

// Lanes that one multiply-add instruction works on.
inline double lanes(DType compute, Isa isa) noexcept {
  return compute == DType::f64 ? vector_floats(isa) / 2.0 : vector_floats(isa);
}

// What a call of a product kernel costs beside its steps, and a vector gathered, or stored after a mirroring.
inline constexpr double kCallSeconds = 40 / kHertz;
inline constexpr double kGatherSeconds = 4 / kHertz;
inline constexpr double kScatterSeconds = 7 / kHertz;
// A vector copied between the nearer caches.
inline constexpr double kCopySeconds = 2.5 / kHertz;

// One step of depth of a tile of `rows`: bound by multiply-adds, by the loads that feed them, or by waiting
// for the sums of the step before.
inline double tile_step_seconds(const Kernel& gemm, int64_t rows) noexcept {
  const double width = lanes(gemm.dtype, gemm.isa);
  const double vectors = gemm.lanes / width;
  // A 64-byte vector takes a whole cycle of the multiplier and of the load port, a narrower one half.
  const double cycle = vector_floats(gemm.isa) >= 16 ? 1.0 : 0.5;
  const double arithmetic = static_cast<double>(rows) * vectors * cycle;
  const double loads = (vectors + static_cast<double>(rows)) * cycle;
  // Lanes come from the second cache, at about 27 bytes a cycle.
  const double lanes_bytes = gemm.lanes * (gemm.dtype == DType::f64 ? 8.0 : 4.0);
  return std::max({arithmetic, loads, lanes_bytes / 27, 4.0}) / kHertz;
}

// The same for `rows` split evenly into tiles.
inline double rows_step_seconds(const Kernel& gemm, int64_t rows) noexcept {
  const int64_t tiles = (rows + gemm.rows - 1) / gemm.rows;
  return static_cast<double>(tiles) * tile_step_seconds(gemm, (rows + tiles - 1) / tiles);
}

// Whether a problem's arrays stay in the last cache together.
inline bool stays_near(const Problem& problem) noexcept {
  const Geometry& g = problem.geometry;
  const double all = static_cast<double>(g.small_elements() + g.large_elements() + g.weight_elements()) *
                     static_cast<double>(storage_bytes(problem.dtype));
  return all <= kLastCacheBytes;
}

// The arrays once through the last cache, or memory; the large side is only read where it is a gradient.
// Weights are `growth` times as many once packed, and cost packing where they come plain.
inline double traffic_seconds(const Problem& problem, double growth = 1,
                              double pack_bytes_per_second = kPackBytesPerSecond) noexcept {
  const Geometry& g = problem.geometry;
  const auto element = static_cast<double>(storage_bytes(problem.dtype));
  const double faster = stays_near(problem) ? kNearGain : 1;
  const double large = problem.pass == Pass::data_gradient ? kReadBytesPerSecond : kStoreBytesPerSecond;
  const double maps = static_cast<double>(g.small_elements()) * element / kStoreBytesPerSecond +
                      static_cast<double>(g.large_elements()) * element / large;
  const double weights =
      static_cast<double>(g.weight_elements()) * growth * static_cast<double>(compute_bytes(problem.dtype));
  return maps / faster + weights / kReadBytesPerSecond +
         (problem.packed ? 0 : weights / pack_bytes_per_second);
}

// Reading or writing so many bytes of a problem's arrays past the caches, where they do not stay in the last
// one together. What does is charged with the vectors that move it.
inline double far_seconds(const Problem& problem, double bytes) noexcept {
  return stays_near(problem) ? 0 : bytes / kFarBytesPerSecond;
}

// Whether maps of a group are parts of lines of memory, which come anew for every group; and what one takes.
inline bool far_parts(const Problem& problem) noexcept {
  const Geometry& g = problem.geometry;
  return g.channels_last && g.groups > 1 && !stays_near(problem) &&
         static_cast<double>(g.filters) > lanes(compute_dtype(problem.dtype), problem.isa);
}
inline constexpr double kFarPartSeconds = 45 / kHertz;

// What an algorithm takes at least that does every product of the definition: those of the small positions
// whose windows the large side holds, at full speed.
inline double least_seconds(const Problem& problem) noexcept {
  const Geometry& g = problem.geometry;
  double positions = 1;
  for (const Axis& axis : g.axes) {
    const int64_t first = std::max<int64_t>(0, ceil_div(axis.pad_lo, axis.stride));
    const int64_t last =
        floor_div(axis.out - 1 + axis.pad_lo - (axis.kernel - 1) * axis.dilation, axis.stride);
    positions *= static_cast<double>(std::max<int64_t>(0, std::min(last, axis.size - 1) - first + 1));
  }
  const double share = positions / static_cast<double>(g.small_positions());
  const double vectors =
      (vector_floats(problem.isa) >= 16 ? 1.0 : 2.0) * (problem.dtype == DType::bf16 ? 2 : 1);
  const double rate = lanes(compute_dtype(problem.dtype), problem.isa) * kHertz * vectors;
  return g.multiply_adds() * share / (rate * std::max(1, problem.threads));
}

// A first guess for any algorithm: arithmetic at full speed, and the arrays once through memory.
inline double seconds(const Problem& problem) noexcept {
  const Geometry& g = problem.geometry;
  const double rate = lanes(compute_dtype(problem.dtype), problem.isa) * kHertz *
                      (vector_floats(problem.isa) == 8 ? 2.0 : 1.0) * std::max(1, problem.threads);
  return g.multiply_adds() / rate + traffic_seconds(problem);
}

}  // namespace tconv::machine
