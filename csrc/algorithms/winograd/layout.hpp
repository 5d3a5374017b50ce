// How a problem lies in memory while it runs: what is cut into blocks of tiles, what into units of columns,
// and the room that all of it takes.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "algorithms/winograd/choice.hpp"
#include "algorithms/winograd/tiles.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "winograd_abi.hpp"

namespace tconv::filtering {

// Tiles of which all maps are read together, by one thread.
inline constexpr int64_t kTilesTogether = 8;
// Read maps that one thread packs at a time.
inline constexpr int64_t kPackedMaps = 64;
// Of a product whose weights are packed, about the depth that is multiplied with all rows before the next.
inline constexpr int64_t kNearDepth = 700;

// One class of phases along all axes.
struct Form {
  WinogradTile tile[kAxes] = {};
  int64_t offset[kAxes] = {};
  int64_t origin[kAxes] = {};
  int64_t copies[kAxes] = {};
  int64_t points = 1;  // with weights of their own; 0 where phases have no taps
  int64_t start = 0;   // of its points among those of all classes

  Form(const std::array<PhaseClass, kAxes>& of, const Tiling& tiling) noexcept
      : points(of[0].points() * of[1].points() * of[2].points()) {
    for (size_t a = 0; a < kAxes; ++a) {
      tile[a] = points == 0 ? kPlain : of[a].tile;
      offset[a] = of[a].offset;
      origin[a] = of[a].origin;
      copies[a] = points == 0 ? tiling.axes[a].outputs() : of[a].copies;
    }
  }

  int64_t all_copies() const noexcept { return copies[0] * copies[1] * copies[2]; }
  // Which output of an axis copy `i` is.
  int64_t output(int64_t i, int axis) const noexcept {
    if (axis == 2) return i % copies[2];
    return axis == 1 ? i / copies[2] % copies[1] : i / copies[2] / copies[1];
  }
};

// A run of tiles along the last axis.
struct Segment {
  int64_t sample;
  int64_t z;
  int64_t y;
  int64_t x;  // first tile
  int64_t tiles;
  int64_t place;  // of its first tile in the block
};

struct Strides {
  int64_t map;
  int64_t axis[kAxes];
  int64_t sample;

  Strides(bool channels_last, int64_t maps, int64_t z, int64_t y, int64_t x) noexcept {
    map = channels_last ? 1 : z * y * x;
    axis[2] = channels_last ? maps : 1;
    axis[1] = x * axis[2];
    axis[0] = y * axis[1];
    sample = maps * z * y * x;
  }
};

// A part of the depth of the products.
struct Depth {
  int64_t begin;
  int64_t end;

  int64_t count() const noexcept { return end - begin; }
};

// From one element of plain weights to the next.
struct PlainStrides {
  int64_t column;
  int64_t depth;
  int64_t tap;
};

struct Layout {
  Problem problem;
  const Kernel& gemm;
  size_t element_bytes;  // of the type in which is computed
  Maps maps;
  Tiling tiling;
  Strides src;
  Strides dst;
  int64_t points;
  int64_t classes;
  int64_t views;
  int64_t phases;
  int64_t depth;              // of the products
  int64_t depth_block;        // read maps of one view that are neighbours in it
  int64_t chunk_lanes;        // columns of one product
  int64_t row = 0;            // elements from a tile to the next in transformed windows
  int64_t unit_chunks = 1;    // chunks that make whole vectors of columns with all their phases
  int64_t unit_blocks = 1;    // vectors of columns of a unit
  int64_t unit_points = 0;    // of all chunks of a unit
  int64_t unit_elements = 0;  // transformed weights of a unit
  int64_t all_points = 0;     // of a tile, for all classes
  std::vector<Form> forms;
  std::vector<int64_t> chunk_start;  // points of the chunks before
  int64_t units = 1;                 // of a group
  int64_t rows = 1;                  // of tiles
  int64_t low_origin = 0;
  int64_t origin_range = 0;
  int64_t row_segments = 1;
  int64_t segment_tiles = 1;
  int64_t block_segments = 1;
  int64_t blocks = 1;
  int64_t pack_units = 1;
  int64_t slice_maps = 1;  // read maps whose weights are packed at a time
  int threads = 1;
  bool line = false;      // one axis, whose tiles are transformed where they lie
  bool together = false;  // all threads work on one block at a time
  bool by_unit = false;   // weights are packed when their turn comes
  bool by_chunk = false;  // and multiplied one chunk after the other
  size_t workspace = 0;

  Layout(const Problem& problem, const Choice& choice);

  const TiledAxis& y() const noexcept { return tiling.axes[1]; }
  const TiledAxis& x() const noexcept { return tiling.axes[2]; }

  bool turned() const noexcept { return tiling.axes[0].turned || y().turned || x().turned; }

  // Where a read map of a view stands in the depth: views take turns, so that a range of maps is a range of
  // the depth.
  int64_t depth_at(int64_t map, int64_t view) const noexcept {
    return (map / depth_block * views + view) * depth_block + map % depth_block;
  }
  // Weights of a point, for some read maps. Those of the next begin a map later, else the points of a map
  // would meet in the same cache sets.
  int64_t point_weights(int64_t count) const noexcept { return (count + 1) * chunk_lanes; }
  // Vectors of columns of a unit by some read maps, which a thread packs at a time.
  int64_t unit_parts() const noexcept { return unit_blocks * ceil_div(maps.depth, kPackedMaps); }
  // How much of a depth is multiplied at a time: of packed weights, what leaves room in the second cache for
  // the next of them.
  int64_t near_depth(int64_t count) const noexcept {
    const int64_t parts = by_unit ? 1 : std::max<int64_t>(1, count / kNearDepth);
    return ceil_div(ceil_div(count, parts), maps.lanes) * maps.lanes;
  }
  size_t unit_bytes() const noexcept { return static_cast<size_t>(unit_elements) * element_bytes; }
  size_t bias_bytes() const noexcept {
    return static_cast<size_t>(maps.groups * units * unit_blocks * maps.lanes) * element_bytes;
  }
  // Positions of a row that the windows of some tiles are read from.
  int64_t strip_positions(int64_t tiles) const noexcept {
    return (((x().turns_of(tiles) - 1) * x().outputs() + x().window) * x().gap - 1) * x().src_step +
           origin_range + 1;
  }
  int64_t strip_width() const noexcept { return strip_positions(segment_tiles); }
  size_t strip_bytes() const noexcept {
    if (line) return 0;
    return static_cast<size_t>(tiling.axes[0].window * y().window * strip_width() * maps.lanes) *
           element_bytes;
  }
  size_t transformed_bytes() const noexcept {
    return static_cast<size_t>(all_points * block_tiles() * row) * element_bytes;
  }
  // Whether all threads read the same transformed windows, and how large those are.
  bool shares_windows() const noexcept { return together || by_unit; }
  size_t shared_bytes() const noexcept {
    return by_unit ? aligned(transformed_bytes()) * static_cast<size_t>(blocks) : transformed_bytes();
  }
  // Weights of a unit, or of a chunk, for `slice_maps` read maps, and the sums that slices add to.
  size_t slice_bytes() const noexcept {
    return static_cast<size_t>(points_at_once() * point_weights(slices() > 1 ? slice_maps * views : depth)) *
           element_bytes;
  }
  int64_t points_at_once() const noexcept {
    if (!by_chunk) return unit_points;
    int64_t most = 0;
    for (const Form& form : forms) most = std::max(most, form.points);
    return most;
  }
  int64_t slices() const noexcept { return ceil_div(maps.depth, slice_maps); }
  size_t all_sum_bytes() const noexcept {
    return product_bytes() * static_cast<size_t>((by_chunk ? 1 : unit_chunks) * blocks);
  }
  size_t sum_bytes() const noexcept {
    return slices() > 1 ? all_sum_bytes() : product_bytes() * static_cast<size_t>(line ? unit_chunks : 1);
  }
  // Plain weights of a vector of columns, as rows of lanes.
  int64_t turned_elements() const noexcept { return maps.depth * problem.geometry.taps() * maps.lanes; }
  size_t turned_bytes() const noexcept {
    return static_cast<size_t>(unit_blocks * turned_elements()) * element_bytes;
  }
  int64_t product_elements() const noexcept { return points * block_tiles() * chunk_lanes; }
  size_t product_bytes() const noexcept { return static_cast<size_t>(product_elements()) * element_bytes; }
  // Of one block, or of all where a chunk is multiplied with all of them before the next.
  int64_t output_elements() const noexcept {
    return unit_blocks * block_tiles() * tiling.counts.outputs * tiling.counts.spread * maps.lanes;
  }
  size_t output_bytes() const noexcept {
    if (line) return 0;
    return static_cast<size_t>(output_elements() * (by_chunk ? blocks : 1)) * element_bytes;
  }
  size_t segment_bytes() const noexcept { return static_cast<size_t>(block_segments) * sizeof(Segment); }
  // Whether what the next windows are made of is fetched: along one axis, for rows of several are shared with
  // the block before, and more of them would drive out what is needed sooner.
  bool fetches_windows() const noexcept { return y().src_size * tiling.axes[0].src_size == 1; }
  size_t next_bytes() const noexcept { return fetches_windows() ? segment_bytes() : 0; }
  // What is fetched while a unit is multiplied: weights of the next point, unless they are packed near the
  // core, its windows, plain weights, and the lines that outputs go to and the next windows come from.
  static constexpr int64_t kAhead = 2;
  size_t fetch_bytes() const noexcept {
    return static_cast<size_t>(kAhead + 1 + block_segments * (output_rows() + (fetches_windows() ? 1 : 0))) *
           sizeof(Fetch);
  }
  int64_t block_tiles() const noexcept { return block_segments * segment_tiles; }
  int64_t depth_blocks() const noexcept { return ceil_div(maps.depth, maps.lanes); }
  // Whether all maps of a tile are read together, as they lie.
  bool reads_together() const noexcept { return line && src.map == 1 && maps.depth >= maps.lanes; }
  // The parts of a segment that are transformed at a time: vectors of maps, or some tiles.
  int64_t segment_parts() const noexcept {
    return reads_together() ? ceil_div(segment_tiles, kTilesTogether) : depth_blocks();
  }
  // Rows of outputs of a tile.
  int64_t output_rows() const noexcept {
    const TiledAxis& z = tiling.axes[0];
    return z.outputs() * z.spread * y().outputs() * y().spread;
  }
  std::array<int64_t, kAxes> along_axes(int64_t phase) const noexcept {
    return {phase / x().phases / y().phases, phase / x().phases % y().phases, phase % x().phases};
  }

  // Vectors of a unit: the phases of a block of columns are neighbours, or where phases read apart the blocks
  // of a phase.
  int64_t place(int64_t block, int64_t phase) const noexcept {
    return classes > 1 ? phase * unit_blocks + block : block * phases + phase;
  }
  // The block and phase at a place.
  std::pair<int64_t, int64_t> content(int64_t place) const noexcept {
    if (classes > 1) return {place % unit_blocks, place / unit_blocks};
    return {place / phases, place % phases};
  }
  // How many chunks of a unit hold columns: the last unit may be longer than what is left of them.
  int64_t chunks_of(int64_t unit) const noexcept {
    if (classes > 1) return unit_chunks;
    const int64_t left = maps.column_blocks() - unit * unit_blocks;
    return ceil_div(std::min(unit_blocks, left) * phases, maps.vectors);
  }
  // What the phases of a chunk have in common.
  const Form& form_of(int64_t chunk) const noexcept;

  // The segments of a block; returns how many.
  int64_t list_segments(int64_t block, Segment* segments) const noexcept;
  static int64_t tiles_in(const Segment* segments, int64_t count) noexcept {
    return segments[count - 1].place + segments[count - 1].tiles;
  }

  PlainStrides plain_strides() const noexcept;
  // Where the plain weights of a unit's group start.
  int64_t plain_start(int64_t unit) const noexcept {
    return unit / units * problem.geometry.weight_elements() / maps.groups;
  }
  // The plain weights of a unit for the read maps from `begin` to before `end`.
  Fetch plain_weights(const void* weight, int64_t unit, int64_t begin, int64_t end) const noexcept;

  // The lines of some positions of a row, of some maps.
  Fetch lines_of(const char* at, int64_t positions, int64_t count, const Strides& strides) const noexcept;

  // Expected seconds of one thread.
  double all_seconds() const noexcept {
    return sample_seconds(tiling.counts, maps) * static_cast<double>(problem.geometry.batch);
  }
  // Whether transformed windows leave the second cache before they are multiplied with the next unit.
  bool windows_are_far() const noexcept {
    return by_unit || static_cast<double>(transformed_bytes()) > machine::kSecondCacheBytes;
  }

 private:
  // Whether there is one axis, whose phases read the same windows of neighbours.
  bool is_line() const noexcept;
  // A unit is made of the chunks that hold whole vectors of columns with all their phases, `width` times as
  // many of them.
  void set_unit(int64_t width);
  // How many units are better packed as one: memory gives short runs slowly.
  int64_t unit_width() const noexcept;
  // Blocks of at most so many tiles.
  int64_t fewest_blocks(int64_t tiles) const noexcept;
  // Cuts all tiles into at least so many blocks, if there are as many tiles. A block is one piece of a row,
  // or several whole rows.
  void set_blocks(int64_t count) noexcept;
  // Expected seconds of a group on `threads` threads. `by_block` they make the units of one block after the
  // other; else each has a run of all units of all blocks, and transforms what those read, so that hardly
  // anything goes from core to core. Weights are read anew for every block.
  double group_seconds(bool by_block) const noexcept;
  // Cuts tiles into blocks of at most `tiles`, for threads to share as costs least.
  void share_blocks(int64_t tiles) noexcept;
  // Whether transformed windows are fewer than packed weights, so that those may go and these must stay.
  bool windows_are_few() const noexcept;
  // Cuts the read maps so that packed weights, sums and the plain weights that come next stay in the second
  // cache, where each sum is over maps in their order.
  void slice() noexcept;
  // Whether the sums of a unit are so many that they would leave the second cache with every slice.
  bool sums_are_many() const noexcept;
  // Decides blocks, threads and how many weights are packed at a time, so that the workspace holds them.
  void cut();
};

}  // namespace tconv::filtering
