// The side that is read: maps of the source become lanes, and windows of tiles become points.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "algorithms/fetch_strip.hpp"
#include "algorithms/winograd/layout.hpp"
#include "algorithms/winograd/worker.hpp"
#include "winograd_line_abi.hpp"

namespace tconv::filtering {

template <class T>
class Windows {
 public:
  explicit Windows(const Layout& layout)
      : layout_(layout),
        maps_(layout.maps),
        strip_(kernel(Family::strip, layout.problem.dtype, layout.problem.isa)),
        in_(kernel(layout.turned() ? Family::winogradtaps : Family::winogradin,
                   compute_dtype(layout.problem.dtype), layout.problem.isa)),
        read_(kernel(Family::winogradread, layout.problem.dtype, layout.problem.isa)) {}

  // Transforms one part of the windows of one segment: those of one vector of maps, or some tiles.
  void transform(const Part<T>& part, Worker<T>& w, int64_t segments, int64_t index) const noexcept {
    if (layout_.reads_together()) return transform_together(part, w, segments, index);
    const Segment& s = w.segments[index / layout_.depth_blocks()];
    const int64_t tiles = Layout::tiles_in(w.segments, segments);
    // The last vector starts early rather than be filled up.
    const int64_t map = std::min(index % layout_.depth_blocks() * maps_.lanes,
                                 std::max<int64_t>(0, maps_.depth - maps_.lanes));
    const int64_t width = layout_.strip_width();
    const TiledAxis& z = layout_.tiling.axes[0];
    const auto element = static_cast<int64_t>(storage_bytes(layout_.problem.dtype));
    bool finite = true;
    const int64_t ahead = to_next_windows(w, segments, index) * element;
    StripArgs strip{};
    strip.finite = &finite;
    strip.map_stride = layout_.src.map;
    strip.position_stride = layout_.src.axis[2];
    strip.maps = std::min(maps_.lanes, maps_.depth - map);
    strip.first = x().start_of(s.x) * x().src_step + layout_.low_origin;
    strip.count = layout_.strip_positions(s.tiles);
    strip.size = x().src_size;
    WinogradInArgs in{};
    in.step[0] = y().window * width * maps_.lanes;
    in.step[1] = width * maps_.lanes;
    in.step[2] = x().gap * x().src_step * maps_.lanes;
    int64_t start = 0;  // of windows, where they are read backwards
    for (int a = 0; a < kAxes; ++a) {
      if (!layout_.tiling.axes[a].turned) continue;
      start += (layout_.tiling.axes[a].window - 1) * in.step[a];
      in.step[a] = -in.step[a];
    }
    if (layout_.line) {
      const int64_t offset =
          s.sample * layout_.src.sample + (part.group * maps_.depth + map) * layout_.src.map;
      strip.src = static_cast<const char*>(part.call.source) + offset * element;
      if (ahead != 0) fetch_strip(static_cast<const char*>(strip.src) + ahead, strip, element);
      read_(WinogradReadArgs{strip.src, w.transformed + s.place * layout_.row + map, &finite,
                             strip.map_stride, strip.position_stride, strip.maps, strip.first, strip.size,
                             tiles * layout_.row, layout_.row, s.tiles, x().tile});
      if (!finite) part.finite.store(false, std::memory_order_relaxed);
      return;
    }
    const int64_t start_z = z.start_of(s.z);
    const int64_t start_y = y().start_of(s.y);
    for (int64_t vz = 0; vz < z.origins(); ++vz) {
      for (int64_t vy = 0; vy < y().origins(); ++vy) {
        for (int64_t i = 0; i < z.window * y().window; ++i) {
          const int64_t at_z = (start_z + i / y().window * z.gap) * z.src_step + z.origin_at(vz);
          const int64_t at_y = (start_y + i % y().window * y().gap) * y().src_step + y().origin_at(vy);
          T* row = w.strip + i * width * maps_.lanes;
          if (at_z < 0 || at_z >= z.src_size || at_y < 0 || at_y >= y().src_size) {
            std::fill_n(row, strip.count * maps_.lanes, T{0});
            continue;
          }
          const int64_t offset = s.sample * layout_.src.sample +
                                 (part.group * maps_.depth + map) * layout_.src.map +
                                 at_z * layout_.src.axis[0] + at_y * layout_.src.axis[1];
          strip.src = static_cast<const char*>(part.call.source) + offset * element;
          strip.dst = row;
          if (ahead != 0) fetch_strip(static_cast<const char*>(strip.src) + ahead, strip, element);
          strip_(strip);
        }
        for (int64_t vx = 0; vx < x().origins(); ++vx) {
          const int64_t view = (z.view_at(vz) * y().views + y().view_at(vy)) * x().views + x().view_at(vx);
          const T* const window = w.strip + start + (x().origin_at(vx) - layout_.low_origin) * maps_.lanes;
          for (const Form& form : layout_.forms) {
            if (form.points == 0 || !reads(form, {vz, vy, vx})) continue;
            T* const to =
                w.transformed + (form.start * tiles + s.place) * layout_.row + layout_.depth_at(map, view);
            in.point_stride = form.all_copies() * tiles * layout_.row;
            for (int a = 0; a < kAxes; ++a) in.tile[a] = form.tile[a];
            for (int64_t i = 0; i < form.all_copies(); ++i) {
              const T* from = window;
              for (int a = 0; a < kAxes; ++a) from += (form.offset[a] + form.output(i, a)) * in.step[a];
              for_runs(x(), s.tiles, [&](const TileRun& run) noexcept {
                in.src = from + x().start_of(run.first) * x().src_step * maps_.lanes;
                in.dst = to + (i * tiles + run.first) * layout_.row;
                in.tile_step = run.positions * x().src_step * maps_.lanes;
                in.tile_stride = run.step * layout_.row;
                in.tiles = run.count;
                in_(in);
              });
            }
          }
        }
      }
    }
    if (!finite) part.finite.store(false, std::memory_order_relaxed);
  }

  // Lists the lines of memory that the windows of a block are made of.
  int64_t list_sources(const Part<T>& part, const Worker<T>& w, int64_t block, Fetch* fetch) const noexcept {
    const auto element = static_cast<int64_t>(storage_bytes(layout_.problem.dtype));
    int64_t count = 0;
    const int64_t segments = layout_.list_segments(block, w.next);
    for (int64_t i = 0; i < segments; ++i) {
      const Segment& s = w.next[i];
      const int64_t first = x().start_of(s.x) * x().src_step + layout_.low_origin;
      const int64_t begin = std::max<int64_t>(0, first);
      const int64_t positions = std::min(x().src_size, first + layout_.strip_width()) - begin;
      if (positions <= 0) continue;
      const int64_t offset = s.sample * layout_.src.sample + part.group * maps_.depth * layout_.src.map +
                             begin * layout_.src.axis[2];
      fetch[count++] = layout_.lines_of(static_cast<const char*>(part.call.source) + offset * element,
                                        positions, maps_.depth, layout_.src);
    }
    return count;
  }

 private:
  void transform_together(const Part<T>& part, Worker<T>& w, int64_t segments, int64_t index) const noexcept {
    const Segment& s = w.segments[index / layout_.segment_parts()];
    const int64_t first = index % layout_.segment_parts() * kTilesTogether;
    const auto element = static_cast<int64_t>(storage_bytes(layout_.problem.dtype));
    const int64_t offset = s.sample * layout_.src.sample + part.group * maps_.depth;
    bool finite = true;
    read_(WinogradReadArgs{static_cast<const char*>(part.call.source) + offset * element,
                           w.transformed + (s.place + first) * layout_.row, &finite, layout_.src.map,
                           layout_.src.axis[2], maps_.depth,
                           (s.x + first) * x().outputs() + layout_.low_origin, x().src_size,
                           Layout::tiles_in(w.segments, segments) * layout_.row, layout_.row,
                           std::min(s.tiles - first, kTilesTogether), x().tile});
    if (!finite) part.finite.store(false, std::memory_order_relaxed);
  }

  const TiledAxis& y() const noexcept { return layout_.y(); }
  const TiledAxis& x() const noexcept { return layout_.x(); }

  // Where the windows of a segment begin in the source, for one vector of maps.
  int64_t windows_at(const Segment& s, int64_t depth_block) const noexcept {
    const TiledAxis& z = layout_.tiling.axes[0];
    return s.sample * layout_.src.sample + depth_block * maps_.lanes * layout_.src.map +
           z.start_of(s.z) * z.src_step * layout_.src.axis[0] +
           y().start_of(s.y) * y().src_step * layout_.src.axis[1] +
           x().start_of(s.x) * x().src_step * layout_.src.axis[2];
  }

  // Elements from the windows of `index` to those that are fetched meanwhile: the next, or where maps lie
  // together, and every position is a line of its own that comes late, those after the next.
  int64_t to_next_windows(const Worker<T>& w, int64_t segments, int64_t index) const noexcept {
    const int64_t next = index + (layout_.src.map == 1 ? 2 : 1);
    if (next >= segments * layout_.depth_blocks()) return 0;
    return windows_at(w.segments[next / layout_.depth_blocks()], next % layout_.depth_blocks()) -
           windows_at(w.segments[index / layout_.depth_blocks()], index % layout_.depth_blocks());
  }

  // Whether phases of a class read the windows at some origins.
  bool reads(const Form& form, const std::array<int64_t, kAxes>& origins) const noexcept {
    for (size_t a = 0; a < kAxes; ++a) {
      if (layout_.tiling.axes[a].adds_phases() && form.origin[a] != origins[a]) return false;
    }
    return true;
  }

  const Layout& layout_;
  const Maps& maps_;
  const Kernel& strip_;
  const Kernel& in_;
  const Kernel& read_;
};

}  // namespace tconv::filtering
