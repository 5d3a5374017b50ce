// Which tiles a problem takes, and what they are expected to cost.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "algorithms/algorithm.hpp"
#include "algorithms/winograd/tiles.hpp"
#include "machine.hpp"
#include "winograd_pack_abi.hpp"

namespace tconv::filtering {

// Of a layer along an axis, of a layer, and of a vector.
inline constexpr int64_t kMostStride = 64;
inline constexpr int64_t kMostTaps = 1024;
inline constexpr int kMostLanes = 16;
// Of a block.
inline constexpr int64_t kTransformedBytes = 704 << 10;
inline constexpr int64_t kLeastBlockTiles = 36;
inline constexpr int64_t kMostBlockTiles = 120;

// Maps on both sides, and how they fill vectors.
struct Maps {
  int64_t groups;
  int64_t depth;    // read maps of a group
  int64_t columns;  // made maps of a group
  int64_t lanes;    // of a vector
  int64_t vectors;  // of a chunk, which is what the product kernel makes at a time
  int64_t rows;     // of tiles that it makes at a time

  Maps(const Problem& problem, const Kernel& gemm) noexcept
      : groups(problem.geometry.groups),
        depth((problem.pass == Pass::forward ? problem.geometry.channels : problem.geometry.filters) /
              groups),
        columns((problem.pass == Pass::forward ? problem.geometry.filters : problem.geometry.channels) /
                groups),
        lanes(static_cast<int64_t>(machine::lanes(compute_dtype(problem.dtype), problem.isa))),
        vectors(gemm.lanes / lanes),
        rows(gemm.rows) {}

  int64_t column_blocks() const noexcept { return ceil_div(columns, lanes); }
  int64_t padded_depth() const noexcept { return std::max(depth, lanes); }
};

// The kernel that makes the columns of a group, and the rest of its last chunk, in the least time.
const Kernel& product_kernel(const Problem& problem);

// The arguments of the kernel that packs whole vectors of columns, of which strides and tiles are set; none
// where it does not know the layer.
std::optional<WinogradPackArgs> pack_args(const Problem& problem, const AxisTiles& z, const AxisTiles& y,
                                          const AxisTiles& x) noexcept;

// Whether the columns of plain weights lie together, and the taps of every phase fill tiles of one axis.
bool packs_columns(const Problem& problem, const AxisTiles& z, const AxisTiles& y,
                   const AxisTiles& x) noexcept;

// Expected seconds of one sample: products at nearly full speed, transforms a few instructions a vector.
double sample_seconds(const Counts& counts, const Maps& maps) noexcept;

// The tiles of least cost. Sizes decide them, never batch, threads or workspace, so that those leave bits
// alone. Whoever makes a plan asks several times in a row, and the next plan is often of about the same
// sizes, so the last answer is remembered.
Choice best_choice(const Problem& problem, const Maps& maps);

// Of the algorithm.
std::optional<std::string> refusal(const Problem& problem);
double cost(const Problem& problem);

}  // namespace tconv::filtering
