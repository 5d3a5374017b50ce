// The side that is made: products of tiles become outputs, and these are stored where the image has them.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "algorithms/algorithm.hpp"
#include "algorithms/winograd/layout.hpp"
#include "algorithms/winograd/worker.hpp"
#include "memory.hpp"
#include "winograd_line_abi.hpp"

namespace tconv::filtering {

template <class T>
class Outputs {
 public:
  explicit Outputs(const Layout& layout)
      : layout_(layout),
        maps_(layout.maps),
        activate_(layout.problem),
        unstrip_(kernel(Family::unstrip, layout.problem.dtype, layout.problem.isa)),
        out_(kernel(Family::winogradout, compute_dtype(layout.problem.dtype), layout.problem.isa)),
        sum_(kernel(Family::winogradsum, compute_dtype(layout.problem.dtype), layout.problem.isa)),
        write_(kernel(Family::winogradwrite, layout.problem.dtype, layout.problem.isa)) {}

  void spread_bias(const void* bias, T* spread) const noexcept {
    const int64_t width = layout_.units * layout_.unit_blocks * maps_.lanes;
    std::fill_n(spread, maps_.groups * width, T{0});
    if (bias == nullptr) return;
    with_dtype(layout_.problem.dtype, [&](auto e) {
      const auto* from = static_cast<const typename decltype(e)::storage*>(bias);
      for (int64_t g = 0; g < maps_.groups; ++g) {
        for (int64_t c = 0; c < maps_.columns; ++c) {
          spread[g * width + c] = static_cast<T>(e.load(from[g * maps_.columns + c]));
        }
      }
    });
  }

  // Lists the lines of memory that the outputs of a unit go to.
  int64_t list_outputs(const Part<T>& part, const Worker<T>& w, int64_t segments, int64_t unit,
                       Fetch* fetch) const noexcept {
    const auto element = static_cast<int64_t>(storage_bytes(layout_.problem.dtype));
    const int64_t map = unit * layout_.unit_blocks * maps_.lanes;
    const int64_t maps = std::min(layout_.unit_blocks * maps_.lanes, maps_.columns - map);
    int64_t count = 0;
    for (int64_t i = 0; i < segments; ++i) {
      const Segment& s = w.segments[i];
      const Run run = run_of(s);
      for (int64_t r = 0; run.count > 0 && r < layout_.output_rows(); ++r) {
        const int64_t row = row_at(s, r);
        if (row < 0) continue;
        const int64_t offset =
            row + (part.group * maps_.columns + map) * layout_.dst.map + run.at * layout_.dst.axis[2];
        fetch[count++] = layout_.lines_of(static_cast<const char*>(part.call.out) + offset * element,
                                          run.count, maps, layout_.dst);
      }
    }
    return count;
  }

  // Makes outputs of the products of a chunk.
  void finish_chunk(const Part<T>& part, const Worker<T>& w, int64_t segments, int64_t unit,
                    int64_t chunk) const noexcept {
    for (int64_t v = 0; v < maps_.vectors; ++v) {
      const auto [block, phase] = layout_.content(chunk * maps_.vectors + v);
      if (unit * layout_.unit_blocks + block < maps_.column_blocks()) {
        to_outputs(part, w, segments, unit, v, block, phase, layout_.form_of(chunk));
      }
    }
  }

  void store_unit(const Part<T>& part, const Worker<T>& w, int64_t segments, int64_t unit) const noexcept {
    for (int64_t block = 0; block < layout_.unit_blocks; ++block) {
      if (unit * layout_.unit_blocks + block < maps_.column_blocks()) store(part, w, segments, unit, block);
    }
  }

  // The same where there is one axis, from the products of all chunks.
  void write_unit(const Part<T>& part, const Worker<T>& w, int64_t segments, int64_t unit,
                  const T* products) const noexcept {
    const int64_t tiles = Layout::tiles_in(w.segments, segments);
    const auto element = static_cast<int64_t>(storage_bytes(layout_.problem.dtype));
    std::array<int64_t, kMostStride> phase_at;
    WinogradWriteArgs args{};
    args.activation = activate_.get();
    args.phase_at = phase_at.data();
    args.phases = layout_.phases;
    args.map_stride = layout_.dst.map;
    args.position_stride = layout_.dst.axis[2];
    args.size = x().dst_size;
    args.point_stride = tiles * layout_.chunk_lanes;
    args.tile_stride = layout_.chunk_lanes;
    args.tile = x().tile;
    for (int64_t block = 0; block < layout_.unit_blocks; ++block) {
      const int64_t map = (unit * layout_.unit_blocks + block) * maps_.lanes;
      if (map >= maps_.columns) return;
      for (int64_t phase = 0; phase < layout_.phases; ++phase) {
        const int64_t at = layout_.place(block, phase);
        phase_at[static_cast<size_t>(phase)] =
            at / maps_.vectors * layout_.product_elements() + at % maps_.vectors * maps_.lanes;
      }
      args.maps = std::min(maps_.lanes, maps_.columns - map);
      args.bias = part.bias + part.group * layout_.units * layout_.unit_blocks * maps_.lanes + map;
      for (int64_t i = 0; i < segments; ++i) {
        const Segment& s = w.segments[i];
        args.src = products + s.place * layout_.chunk_lanes;
        args.dst =
            static_cast<char*>(part.call.out) +
            (s.sample * layout_.dst.sample + (part.group * maps_.columns + map) * layout_.dst.map) * element;
        args.first = s.x * x().outputs() * x().phases + x().first;
        args.tiles = s.tiles;
        write_(args);
      }
    }
  }

 private:
  // What is on the image of the rows of outputs of a segment: the first position, its place on the image, and
  // how many there are.
  struct Run {
    int64_t begin;
    int64_t at;
    int64_t count;
  };

  const TiledAxis& y() const noexcept { return layout_.y(); }
  const TiledAxis& x() const noexcept { return layout_.x(); }

  Run run_of(const Segment& s) const noexcept {
    const int64_t start = x().start_of(s.x) * x().spread + x().first;
    const int64_t begin = std::max<int64_t>(0, -start);
    const int64_t width = width_of(s);
    return {begin, start + begin, std::min(width, x().dst_size - start) - begin};
  }

  // Elements of such a row, those of the tiles that its last turn lacks included.
  int64_t width_of(const Segment& s) const noexcept {
    return x().turns_of(s.tiles) * x().turn() * x().spread;
  }

  // Where such a row starts in a map of the output, -1 if it is off the image.
  int64_t row_at(const Segment& s, int64_t row) const noexcept {
    const TiledAxis& z = layout_.tiling.axes[0];
    const int64_t y_rows = y().outputs() * y().spread;
    const auto at = [](const TiledAxis& axis, int64_t tile, int64_t of) {
      if (axis.gap == 1) return axis.start_of(tile) * axis.spread + of + axis.first;
      return (axis.start_of(tile) + of / axis.spread * axis.gap) * axis.spread + of % axis.spread +
             axis.first;
    };
    const int64_t at_z = at(z, s.z, row / y_rows);
    const int64_t at_y = at(y(), s.y, row % y_rows);
    if (at_z < 0 || at_z >= z.dst_size || at_y < 0 || at_y >= y().dst_size) return -1;
    return s.sample * layout_.dst.sample + at_z * layout_.dst.axis[0] + at_y * layout_.dst.axis[1];
  }

  // Where outputs of a segment start: [block of maps][segment][z][y][x][map]. Segments of a block are equal.
  T* outputs_of(const Worker<T>& w, int64_t index, const Segment& s) const noexcept {
    return w.outputs + index * layout_.output_rows() * width_of(s) * maps_.lanes;
  }

  void to_outputs(const Part<T>& part, const Worker<T>& w, int64_t segments, int64_t unit, int64_t vector,
                  int64_t block, int64_t phase, const Form& form) const noexcept {
    if (phase >= layout_.tiling.counts.spread) {
      WinogradSumArgs sum{};
      sum.accumulate = true;
      return to_outputs(w, segments, vector, block, phase, form, sum_, sum);
    }
    WinogradOutArgs out{};
    out.bias = part.bias + ((part.group * layout_.units + unit) * layout_.unit_blocks + block) * maps_.lanes;
    to_outputs(w, segments, vector, block, phase, form, out_, out);
  }

  template <class Args>
  void to_outputs(const Worker<T>& w, int64_t segments, int64_t vector, int64_t block, int64_t phase,
                  const Form& form, const Kernel& kernel, Args& args) const noexcept {
    // The sum over no taps.
    alignas(kAlignment) constexpr static T kNothing[kMostLanes] = {};
    const int64_t tiles = Layout::tiles_in(w.segments, segments);
    const TiledAxis& z = layout_.tiling.axes[0];
    const int64_t px = phase % x().phases % x().spread;
    const int64_t py = phase / x().phases % y().phases % y().spread;
    const int64_t pz = phase / x().phases / y().phases % z.spread;
    args.point_stride = form.all_copies() * tiles * layout_.chunk_lanes;
    const int64_t next = form.points == 0 ? 0 : layout_.chunk_lanes;
    args.step[2] = x().gap * x().spread * maps_.lanes;
    for (int a = 0; a < kAxes; ++a) args.tile[a] = form.tile[a];
    for (int64_t i = 0; i < segments; ++i) {
      const Segment& s = w.segments[i];
      const int64_t row = width_of(s) * maps_.lanes;
      const int64_t plane = y().outputs() * y().spread * row;
      T* const to = outputs_of(w, block * segments + i, s) + pz * plane + py * row + px * maps_.lanes;
      args.step[1] = y().spread * row;
      args.step[0] = z.spread * plane;
      for (int64_t copy = 0; copy < form.all_copies(); ++copy) {
        const T* const from = form.points == 0 ? kNothing
                                               : w.products + (copy * tiles + s.place) * layout_.chunk_lanes +
                                                     vector * maps_.lanes;
        T* const first = to + form.output(copy, 0) * args.step[0] + form.output(copy, 1) * args.step[1] +
                         form.output(copy, 2) * args.step[2];
        for_runs(x(), s.tiles, [&](const TileRun& run) noexcept {
          args.src = from + run.first * next;
          args.dst = first + x().start_of(run.first) * x().spread * maps_.lanes;
          args.tile_stride = run.step * next;
          args.tile_step = run.positions * x().spread * maps_.lanes;
          args.tiles = run.count;
          kernel(args);
        });
      }
    }
  }

  void store(const Part<T>& part, const Worker<T>& w, int64_t segments, int64_t unit,
             int64_t block) const noexcept {
    const auto element = static_cast<int64_t>(storage_bytes(layout_.problem.dtype));
    const int64_t map = (unit * layout_.unit_blocks + block) * maps_.lanes;
    UnstripArgs args{};
    args.map_stride = layout_.dst.map;
    args.position_stride = layout_.dst.axis[2];
    args.maps = std::min(maps_.lanes, maps_.columns - map);
    for (int64_t i = 0; i < segments; ++i) {
      const Segment& s = w.segments[i];
      T* const outputs = outputs_of(w, block * segments + i, s);
      const int64_t width = width_of(s);
      activate_(outputs, layout_.output_rows() * width * maps_.lanes);
      const Run run = run_of(s);
      args.count = run.count;
      if (args.count <= 0) continue;
      for (int64_t r = 0; r < layout_.output_rows(); ++r) {
        const int64_t row = row_at(s, r);
        if (row < 0) continue;
        const int64_t offset =
            row + (part.group * maps_.columns + map) * layout_.dst.map + run.at * layout_.dst.axis[2];
        args.src = outputs + (r * width + run.begin) * maps_.lanes;
        args.dst = static_cast<char*>(part.call.out) + offset * element;
        unstrip_(args);
      }
    }
  }

  const Layout& layout_;
  const Maps& maps_;
  Activate activate_;
  const Kernel& unstrip_;
  const Kernel& out_;
  const Kernel& sum_;
  const Kernel& write_;
};

}  // namespace tconv::filtering
