// The weights: taps of all phases become points, packed in units as the product kernel reads them.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <utility>

#include "algorithms/winograd/choice.hpp"
#include "algorithms/winograd/layout.hpp"
#include "memory.hpp"
#include "winograd_columns_abi.hpp"
#include "winograd_pack_abi.hpp"
#include "winograd_turn_abi.hpp"

namespace tconv::filtering {

// Rows of taps that wait near the core while they are packed.
inline constexpr int64_t kPackedRows = 512;
// Vectors of columns that are packed side by side.
inline constexpr int64_t kMostPackedVectors = 16;
// Maps whose weights are on their way to the core while others are turned.
inline constexpr int64_t kTurnedAhead = 3;
// Bytes of weights on their way to the core while others are packed.
inline constexpr int64_t kFetchedBytes = 2 << 10;

template <class T>
class Weights {
 public:
  // Rows of lanes, one for each map and tap, of all taps of the kernel or those of a phase.
  struct PlainTaps {
    const T* rows;
    int64_t map;           // from one to the next
    int64_t step[kAxes];   // from one tap to the next
    int64_t every[kAxes];  // kernel indices of which one is there

    int64_t at(int axis, int64_t k) const noexcept { return k / every[axis] * step[axis]; }
  };

  explicit Weights(const Layout& layout)
      : layout_(layout),
        maps_(layout.maps),
        pack_args_(pack_args(layout.problem, layout.tiling.axes[0], layout.y(), layout.x())),
        packs_columns_(packs_columns(layout.problem, layout.tiling.axes[0], layout.y(), layout.x())),
        strip_(kernel(Family::strip, layout.problem.dtype, layout.problem.isa)),
        taps_(kernel(layout.turned() ? Family::winogradin : Family::winogradtaps,
                     compute_dtype(layout.problem.dtype), layout.problem.isa)),
        pack_(kernel(Family::winogradpack, layout.problem.dtype, layout.problem.isa)),
        columns_(kernel(Family::winogradcolumns, layout.problem.dtype, layout.problem.isa)),
        turn_(kernel(Family::winogradturn, layout.problem.dtype, layout.problem.isa)) {}

  // Packs some vectors of columns of a unit for the read maps from `begin` to before `end`, where `packed`
  // holds the part `depth`.
  bool pack_blocks(const void* weight, T* packed, int64_t unit, int64_t first, int64_t last, int64_t begin,
                   int64_t end, const Depth& depth) const noexcept {
    bool finite = true;
    if (packs_columns_) {
      const int64_t whole =
          std::clamp(maps_.columns / maps_.lanes - unit % layout_.units * layout_.unit_blocks, first, last);
      while (first < whole) {
        const int64_t some = std::min(first + kMostPackedVectors, whole);
        finite &= pack_columns(weight, packed, unit, first, some, begin, end, depth);
        first = some;
      }
    }
    for (; first < last; ++first) finite &= pack_block(weight, packed, unit, first, begin, end, depth);
    return finite;
  }

  // Turns the plain weights of one vector of columns of a unit into rows of lanes.
  bool turn(const void* weight, int64_t unit, int64_t block, T* turned) const noexcept {
    const auto& axes = layout_.problem.geometry.axes;
    const int64_t taps = layout_.problem.geometry.taps();
    std::array<void*, kMostTaps> row_at;
    std::array<int64_t, kMostTaps> row_step;
    for (int64_t tap = 0; tap < taps; ++tap) {
      const std::array<int64_t, kAxes> k{tap / axes[2].kernel / axes[1].kernel,
                                         tap / axes[2].kernel % axes[1].kernel, tap % axes[2].kernel};
      int64_t phase = 0;
      for (size_t a = 0; a < kAxes; ++a) {
        phase = phase * layout_.tiling.axes[a].phases +
                layout_.tiling.axes[a].phase_of[static_cast<size_t>(k[a])];
      }
      const PlainTaps to = turned_taps(turned, phase);
      row_at[static_cast<size_t>(tap)] =
          turned + (to.rows - turned) + to.at(0, k[0]) + to.at(1, k[1]) + to.at(2, k[2]);
      row_step[static_cast<size_t>(tap)] = to.map;
    }
    bool finite = true;
    const StripArgs strip = plain_strip(weight, unit, block, finite);
    turn_(WinogradTurnArgs{strip.src, row_at.data(), row_step.data(), &finite, layout_.plain_strides().depth,
                           strip.position_stride, strip.map_stride, strip.maps, taps, maps_.depth,
                           kTurnedAhead});
    return finite;
  }

  // The taps of a phase among the rows that turn() makes of one vector of columns: [phase][map][tap][lane].
  PlainTaps turned_taps(const T* turned, int64_t phase) const noexcept {
    for (int64_t before = 0; before < phase; ++before) {
      turned += taps_of_phase(before) * maps_.depth * maps_.lanes;
    }
    PlainTaps from{turned, maps_.lanes, {}, {}};
    const auto of = layout_.along_axes(phase);
    for (size_t a = kAxes; a-- > 0;) {
      from.step[a] = from.map;
      from.every[a] = layout_.tiling.axes[a].tap_step;
      from.map *= layout_.tiling.axes[a].phase_taps[static_cast<size_t>(of[a])];
    }
    return from;
  }

  // The rows of a phase from the map `begin` that make a slice.
  Fetch turned_slice(const T* turned, int64_t phase, int64_t begin) const noexcept {
    if (phase == layout_.phases) return {};
    const PlainTaps from = turned_taps(turned, phase);
    const int64_t maps = std::min(layout_.slice_maps, maps_.depth - begin);
    const auto bytes = static_cast<int64_t>(sizeof(T));
    return {reinterpret_cast<const char*>(from.rows + begin * from.map),
            maps * from.map * bytes,
            {layout_.turned_elements() * bytes, 0},
            layout_.unit_blocks,
            1,
            0,
            0};
  }

  // Transforms the taps of a phase for the read maps from `begin` to before `end`.
  void transform_phase(const PlainTaps& from, int64_t phase, int64_t begin, int64_t end, const Depth& depth,
                       T* to, WinogradInArgs& args) const noexcept {
    const TiledAxis& z = layout_.tiling.axes[0];
    int64_t view = 0;
    for (int64_t vz = 0; vz < z.views; ++vz) {
      const int64_t* kz = z.taps_of(phase / x().phases / y().phases, vz);
      for (int64_t vy = 0; vy < y().views; ++vy) {
        const int64_t* ky = y().taps_of(phase / x().phases % y().phases, vy);
        for (int64_t vx = 0; vx < x().views; ++vx) {
          const std::array<const int64_t*, kAxes> k{kz, ky, x().taps_of(phase % x().phases, vx)};
          for (int64_t i = begin; i < end; i += args.tiles) {
            args.tiles = std::min(end - i, layout_.depth_block - i % layout_.depth_block);
            args.dst = to + (layout_.depth_at(i, view) - depth.begin) * layout_.chunk_lanes;
            PlainTaps some = from;
            some.rows += (i - begin) * from.map;
            transform_view(some, k, args);
          }
          ++view;
        }
      }
    }
  }

 private:
  const TiledAxis& y() const noexcept { return layout_.y(); }
  const TiledAxis& x() const noexcept { return layout_.x(); }

  int64_t taps_of_phase(int64_t phase) const noexcept {
    const auto of = layout_.along_axes(phase);
    int64_t count = 1;
    for (size_t a = 0; a < kAxes; ++a) count *= layout_.tiling.axes[a].phase_taps[static_cast<size_t>(of[a])];
    return count;
  }

  // The same by the kernel for columns that lie together.
  bool pack_columns(const void* weight, T* packed, int64_t unit, int64_t first, int64_t last, int64_t begin,
                    int64_t end, const Depth& depth) const noexcept {
    const auto [column_stride, depth_stride, tap_stride] = layout_.plain_strides();
    const auto element = static_cast<int64_t>(storage_bytes(layout_.problem.dtype));
    const int64_t start =
        layout_.plain_start(unit) + (unit % layout_.units * layout_.unit_blocks + first) * maps_.lanes;
    bool finite = true;
    std::array<int64_t, kMostPackedVectors> vector_at;
    WinogradColumnsArgs args{};
    args.finite = &finite;
    args.vector_at = vector_at.data();
    args.vectors = last - first;
    args.map_stride = depth_stride;
    args.point_stride = layout_.point_weights(depth.count());
    args.map_step = layout_.chunk_lanes;
    args.fetched =
        std::max<int64_t>(1, kFetchedBytes / (args.vectors * maps_.lanes * x().tile_taps() * element));
    args.tile = x().tile;
    for (int64_t phase = 0; phase < layout_.phases; ++phase) {
      for (int64_t block = first; block < last; ++block) {
        const int64_t at = layout_.place(block, phase);
        vector_at[static_cast<size_t>(block - first)] =
            layout_.chunk_start[static_cast<size_t>(at / maps_.vectors)] * args.point_stride +
            at % maps_.vectors * maps_.lanes;
      }
      for (int64_t view = 0; view < layout_.views; ++view) {
        const int64_t* const k = x().taps_of(phase, view);
        args.tap_stride = (k[1] - k[0]) * tap_stride;
        for (int64_t d = begin; d < end; d += args.maps) {
          args.maps = std::min(end - d, layout_.depth_block - d % layout_.depth_block);
          args.src =
              static_cast<const char*>(weight) + (start + d * depth_stride + k[0] * tap_stride) * element;
          args.dst = packed + (layout_.depth_at(d, view) - depth.begin) * layout_.chunk_lanes;
          columns_(args);
        }
      }
    }
    return finite;
  }

  // Packs one vector of columns of a unit for the read maps from `begin` to before `end`, where `packed`
  // holds the part `depth`.
  bool pack_block(const void* weight, T* packed, int64_t unit, int64_t block, int64_t begin, int64_t end,
                  const Depth& depth) const noexcept {
    const int64_t column = (unit % layout_.units * layout_.unit_blocks + block) * maps_.lanes;
    if (pack_args_ && column + maps_.lanes <= maps_.columns)
      return pack_whole(weight, packed, unit, block, begin, end, depth);
    return pack_taps(weight, packed, unit, block, begin, end, depth);
  }

  // The same by the kernel that knows the layer.
  bool pack_whole(const void* weight, T* packed, int64_t unit, int64_t block, int64_t begin, int64_t end,
                  const Depth& depth) const noexcept {
    const auto [column_stride, depth_stride, tap_stride] = layout_.plain_strides();
    const int64_t column = (unit % layout_.units * layout_.unit_blocks + block) * maps_.lanes;
    const auto element = static_cast<int64_t>(storage_bytes(layout_.problem.dtype));
    bool finite = true;
    int64_t phase_at[kMostWinogradPackPhases];
    WinogradPackArgs args = *pack_args_;
    args.src = static_cast<const char*>(weight) +
               (layout_.plain_start(unit) + column * column_stride + begin * depth_stride) * element;
    args.dst = packed + (layout_.depth_at(begin, 0) - depth.begin) * layout_.chunk_lanes;
    args.finite = &finite;
    args.phase_at = phase_at;
    args.map_stride = depth_stride;
    args.map_step = layout_.chunk_lanes;
    args.point_stride = layout_.point_weights(depth.count());
    args.maps = end - begin;
    args.fetched = std::max<int64_t>(1, kFetchedBytes / (column_stride * maps_.lanes * element));
    for (int64_t phase = 0; phase < layout_.phases; ++phase) {
      // The first tap of the phase.
      const int64_t tap_y = (phase / x().phases + y().late) % y().phases;
      const int64_t tap_x = (phase % x().phases + x().late) % x().phases;
      const int64_t at = layout_.place(block, phase);
      phase_at[tap_y * x().phases + tap_x] =
          layout_.chunk_start[static_cast<size_t>(at / maps_.vectors)] * args.point_stride +
          at % maps_.vectors * maps_.lanes;
    }
    pack_(args);
    return finite;
  }

  // The same by way of a copy of the taps.
  bool pack_taps(const void* weight, T* packed, int64_t unit, int64_t block, int64_t begin, int64_t end,
                 const Depth& depth) const noexcept {
    const auto& axes = layout_.problem.geometry.axes;
    const int64_t taps = layout_.problem.geometry.taps();
    const auto [column_stride, depth_stride, tap_stride] = layout_.plain_strides();
    const auto element = static_cast<int64_t>(storage_bytes(layout_.problem.dtype));
    bool finite = true;
    alignas(kAlignment) T plain[kMostTaps * kMostLanes];
    StripArgs strip = plain_strip(weight, unit, block, finite);
    const char* const first = static_cast<const char*>(strip.src);
    WinogradInArgs args{};
    args.point_stride = layout_.point_weights(depth.count());
    args.tile_stride = layout_.chunk_lanes;
    // Maps that lie together are read together, a tap at a time; else the taps of a map at a time.
    const bool neighbours = depth_stride == 1 && column_stride > 1;
    const int64_t most = neighbours ? std::clamp<int64_t>(kMostTaps / taps, 1, kPackedMaps)
                                    : std::max<int64_t>(1, kPackedRows / taps);
    // Rows of neighbours that a map's weights are.
    const int64_t fetched_rows = column_stride == 1 ? taps : column_stride == taps * tap_stride ? 1 : 0;
    const int64_t fetched = (column_stride == 1 ? strip.maps : strip.maps * taps) * element;
    const int64_t ahead = std::max<int64_t>(1, kFetchedBytes / std::max<int64_t>(1, fetched * fetched_rows));
    for (int64_t d = begin; d < end; d += most) {
      const int64_t maps = std::min(most, end - d);
      const int64_t tap_rows = (neighbours ? maps : 1) * maps_.lanes;
      const int64_t map_rows = (neighbours ? 1 : taps) * maps_.lanes;
      if (neighbours) {
        strip.position_stride = 1;
        strip.count = strip.size = maps;
        for (int64_t tap = 0; tap < taps; ++tap) {
          strip.src = first + (d + tap * tap_stride) * element;
          strip.dst = plain + tap * tap_rows;
          strip_(strip);
        }
      } else {
        for (int64_t i = 0; i < maps; ++i) {
          strip.src = first + (d + i) * depth_stride * element;
          strip.dst = plain + i * map_rows;
          if (d + i + ahead < maps_.depth) {
            const char* next = static_cast<const char*>(strip.src) + ahead * depth_stride * element;
            for (int64_t row = 0; row < fetched_rows; ++row, next += tap_stride * element) {
              for (int64_t at = 0; at < fetched; at += kAlignment) __builtin_prefetch(next + at);
            }
          }
          strip_(strip);
        }
      }
      for (int64_t phase = 0; phase < layout_.phases; ++phase) {
        const int64_t at = layout_.place(block, phase);
        const int64_t chunk = at / maps_.vectors;
        const Form& form = layout_.form_of(chunk);
        if (form.points == 0) continue;
        for (int a = 0; a < kAxes; ++a) args.tile[a] = form.tile[a];
        T* const to = packed + layout_.chunk_start[static_cast<size_t>(chunk)] * args.point_stride +
                      at % maps_.vectors * maps_.lanes;
        transform_phase({plain,
                         map_rows,
                         {axes[1].kernel * axes[2].kernel * tap_rows, axes[2].kernel * tap_rows, tap_rows},
                         {1, 1, 1}},
                        phase, d, d + maps, depth, to, args);
      }
    }
    return finite;
  }

  // What turns the plain weights of a vector of columns of a unit, all taps of one map at a time.
  StripArgs plain_strip(const void* weight, int64_t unit, int64_t block, bool& finite) const noexcept {
    const auto [column_stride, depth_stride, tap_stride] = layout_.plain_strides();
    const int64_t column = (unit % layout_.units * layout_.unit_blocks + block) * maps_.lanes;
    const int64_t start = layout_.plain_start(unit) + std::min(column, maps_.columns - 1) * column_stride;
    StripArgs strip{};
    strip.src =
        static_cast<const char*>(weight) + start * static_cast<int64_t>(storage_bytes(layout_.problem.dtype));
    strip.finite = &finite;
    strip.map_stride = column_stride;
    strip.position_stride = tap_stride;
    strip.maps = std::clamp<int64_t>(maps_.columns - column, 0, maps_.lanes);
    strip.count = strip.size = layout_.problem.geometry.taps();
    return strip;
  }

  // Transforms the taps `k` of one view for some maps.
  void transform_view(const PlainTaps& from, const std::array<const int64_t*, kAxes>& k,
                      WinogradInArgs& args) const noexcept {
    args.src = from.rows;
    args.tile_step = from.map;
    bool whole = true;
    for (int a = 0; a < kAxes; ++a) {
      const int count = layout_.tiling.axes[a].taps_through(args.tile[a]);
      whole &= std::find(k[a], k[a] + count, -1) == k[a] + count;
      args.src = static_cast<const T*>(args.src) + from.at(a, k[a][0]);
      args.step[a] = count > 1 ? from.at(a, k[a][1]) - from.at(a, k[a][0]) : 0;
    }
    if (whole) {
      taps_(args);
      return;
    }
    // Absent taps are zeros.
    alignas(kAlignment) T grid[kWinogradMostTaps * kWinogradMostTaps * kWinogradMostTaps * kMostLanes];
    const int nz = layout_.tiling.axes[0].taps_through(args.tile[0]);
    const int ny = y().taps_through(args.tile[1]);
    const int nx = x().taps_through(args.tile[2]);
    WinogradInArgs one = args;
    one.src = grid;
    one.tiles = 1;
    one.step[0] = ny * nx * maps_.lanes;
    one.step[1] = nx * maps_.lanes;
    one.step[2] = maps_.lanes;
    for (int64_t i = 0; i < args.tiles; ++i) {
      for (int tap = 0; tap < nz * ny * nx; ++tap) {
        const int64_t at[kAxes] = {k[0][tap / nx / ny], k[1][tap / nx % ny], k[2][tap % nx]};
        T* row = grid + tap * maps_.lanes;
        if (std::min({at[0], at[1], at[2]}) < 0) {
          std::fill_n(row, maps_.lanes, T{0});
        } else {
          std::copy_n(from.rows + i * from.map + from.at(0, at[0]) + from.at(1, at[1]) + from.at(2, at[2]),
                      maps_.lanes, row);
        }
      }
      one.dst = static_cast<T*>(args.dst) + i * args.tile_stride;
      taps_(one);
    }
  }

  const Layout& layout_;
  const Maps& maps_;
  std::optional<WinogradPackArgs> pack_args_;
  bool packs_columns_;
  const Kernel& strip_;
  const Kernel& taps_;
  const Kernel& pack_;
  const Kernel& columns_;
  const Kernel& turn_;
};

}  // namespace tconv::filtering
