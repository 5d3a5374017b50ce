// Forward for large strides and few filters: lanes are the phases of a position, neighbours in the output and
// in a row of the weights as they lie, rows are positions. Input is copied once, a strip at a time, with its
// border of zeros.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <span>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "packing.hpp"
#include "phases_abi.hpp"

namespace tconv {
namespace {

constexpr int64_t kMostTaps = 4096;
constexpr int64_t kStripBytes = 384 << 10;
constexpr int64_t kPanelBytes = 256 << 10;
constexpr int64_t kPanelRun = 8;  // panels of a unit, at least
constexpr int kMostRows = 32;     // of a tile
constexpr int kMostLanes = 64;    // of a tile
// The runs of a panel are found for a row of positions.
constexpr double kRowSeconds = 70 / machine::kHertz;
// A panel of weights from the last cache.
constexpr double kPanelBytesPerSecond = 80e9;

// One axis: dst = q * stride + phase - pad reads src = q - tap, for weights k = tap * stride + phase.
struct PhaseLane {
  int64_t src_size;
  int64_t dst_size;
  int64_t stride;
  int64_t pad;
  int64_t taps;
  int64_t first;      // lowest q
  int64_t positions;  // number of q

  PhaseLane(const Axis& axis) noexcept
      : src_size(axis.size),
        dst_size(axis.out),
        stride(axis.stride),
        pad(axis.pad_lo),
        taps(axis.kernel / axis.stride),
        first(floor_div(pad, stride)),
        positions(floor_div(pad + dst_size - 1, stride) - first + 1) {}
};

// Columns are all outputs of a position, those of a run being neighbours: (filter, z, y; x), or (z, y; x,
// filter) where maps are innermost. Weights alone decide this.
struct Columns {
  int64_t channels;  // of a group
  int64_t filters;   // of a group
  int64_t unit;      // columns of a place of the output
  int64_t run;
  int64_t count;
  int64_t taps;
  const Kernel* tile;
  int64_t panels;

  explicit Columns(const Problem& problem) noexcept {
    const Geometry& g = problem.geometry;
    channels = g.channels / g.groups;
    filters = g.filters / g.groups;
    unit = g.channels_last ? filters : 1;
    run = g.axes[2].stride * unit;
    count = filters;
    taps = 1;
    for (const Axis& axis : g.axes) {
      count *= axis.stride;
      taps *= axis.kernel / axis.stride;
    }
    tile = &tconv::kernel(Family::phases, problem.dtype, problem.isa);
    panels = ceil_div(count, tile->lanes);
  }

  int64_t panel_elements() const noexcept { return taps * channels * tile->lanes; }
};

// How positions are cut into blocks, and the strip that one block reads.
struct Strips {
  int64_t size[kAxes];   // positions of a block
  int64_t strip[kAxes];  // with the border
  int64_t count[kAxes];
  int64_t plane;  // elements of a map

  Strips(const std::array<PhaseLane, kAxes>& axes, const int64_t (&block)[kAxes]) noexcept {
    plane = 1;
    for (int a = 0; a < kAxes; ++a) {
      count[a] = ceil_div(axes[a].positions, block[a]);
      size[a] = ceil_div(axes[a].positions, count[a]);
      strip[a] = size[a] + axes[a].taps - 1;
      plane *= strip[a];
    }
    // An odd number of lines, so that the maps of a tile do not meet in one set of the cache.
    plane = ((plane + 15) / 16 | 1) * 16;
  }

  int64_t blocks() const noexcept { return count[0] * count[1] * count[2]; }
};

template <class T>
class PhaseLanes final : public Recipe {
 public:
  explicit PhaseLanes(const Problem& problem)
      : problem_(problem),
        activate_(problem),
        columns_(problem),
        tile_(*columns_.tile),
        pair_(pair_kernel(tile_)),
        load_(tconv::kernel(Family::load, problem.dtype, problem.isa)),
        axes_{PhaseLane(problem.geometry.axes[0]), PhaseLane(problem.geometry.axes[1]),
              PhaseLane(problem.geometry.axes[2])},
        strips_(axes_, {1, 1, 1}),
        element_(static_cast<int64_t>(storage_bytes(problem.dtype))) {
    const Geometry& g = problem.geometry;
    src_x_ = g.channels_last ? g.channels : 1;
    src_map_ = g.channels_last ? 1 : g.small_positions();
    dst_row_ = axes_[2].dst_size * columns_.unit;
    // Where maps are innermost, the panels of a run fill the output's lines and pages together.
    together_ = g.channels_last ? std::clamp<int64_t>(kPanelBytes / static_cast<int64_t>(panel_bytes()), 1,
                                                      ceil_div(columns_.run, tile_.lanes))
                                : 1;
    cut();
  }

  std::string kernel() const override { return tile_.name; }
  size_t workspace_bytes() const noexcept override { return workspace_; }
  size_t packed_bytes() const noexcept override {
    return panel_bytes() * static_cast<size_t>(problem_.geometry.groups * columns_.panels);
  }

  std::string packing_key() const override {
    const Geometry& g = problem_.geometry;
    std::string key = key_of(pair_ == nullptr ? "phase_lanes" : "phase_lanes pairs",
                             {static_cast<int64_t>(problem_.dtype), int64_t{tile_.lanes}, g.channels,
                              g.filters, g.groups, int64_t{g.channels_last}});
    for (const Axis& axis : g.axes)
      key += "x" + std::to_string(axis.kernel) + "s" + std::to_string(axis.stride);
    return key;
  }

  // Packed: [group][panel][tap][channel][lane]; pairs of channels take the first half of a panel.
  bool pack(const void* weight, char* packed, Crew& crew) const override {
    const double seconds = static_cast<double>(packed_bytes()) / machine::kPackBytesPerSecond;
    return share_finite(
        crew, problem_.geometry.groups * columns_.panels, seconds, [&](int64_t unit, int) noexcept {
          return pack_panel(weight, reinterpret_cast<T*>(packed + static_cast<size_t>(unit) * panel_bytes()),
                            unit / columns_.panels, unit % columns_.panels);
        });
  }

  bool run(const Call& call) const override {
    const Geometry& g = problem_.geometry;
    const Buffer scratch(workspace_);
    Pieces pieces(scratch.data());
    T* bias = pieces.take<T>(bias_bytes());
    if (call.bias == nullptr) {
      bias = nullptr;
    } else {
      spread_bias(call.bias, bias);
    }
    int64_t* const a_offset = pieces.take<int64_t>(offset_bytes());
    spread_offsets(a_offset);
    char* const workers = pieces.rest();
    call.crew.limit(threads_);
    const int64_t blocks = g.batch * g.groups * strips_.blocks();
    // Panels are shared out only where blocks are too few, because each part copies the strip.
    const int64_t parts = std::clamp<int64_t>(threads_ == 1 ? 1 : 4 * threads_ / blocks, 1,
                                              std::max<int64_t>(1, columns_.panels / kPanelRun));
    std::atomic<bool> finite{true};
    call.crew.share(
        blocks * parts, machine::seconds(problem_) * threads_, [&](int64_t unit, int member) noexcept {
          const int64_t part = unit % parts;
          const int64_t block = unit / parts;
          const int64_t image = block / strips_.blocks();
          Work work{};
          work.call = &call;
          work.bias = bias;
          work.a_offset = a_offset;
          work.sample = image / g.groups;
          work.group = image % g.groups;
          int64_t rest = block % strips_.blocks();
          for (int a = kAxes - 1; a >= 0; --a) {
            work.begin[a] = rest % strips_.count[a] * strips_.size[a];
            work.size[a] = std::min(strips_.size[a], axes_[static_cast<size_t>(a)].positions - work.begin[a]);
            rest /= strips_.count[a];
            if (work.size[a] <= 0) return;
          }
          Pieces own(workers + static_cast<size_t>(member) * worker_bytes());
          work.strip = own.take<T>(strip_bytes());
          work.sums = own.take(sums_bytes());
          work.panels = problem_.packed ? nullptr : own.take(panel_bytes() * static_cast<size_t>(together_));
          fill_strip(work);
          const int64_t end = columns_.panels * (part + 1) / parts;
          for (int64_t panel = columns_.panels * part / parts; panel < end; panel += together_) {
            if (call.crew.stopped(member)) return;
            if (!run_panels(work, panel, std::min(panel + together_, end)))
              finite.store(false, std::memory_order_relaxed);
          }
        });
    return finite.load();
  }

 private:
  // A block, in positions from the first, and what one thread computes it with.
  struct Work {
    const Call* call;
    const T* bias;
    const int64_t* a_offset;
    int64_t sample;
    int64_t group;
    int64_t begin[kAxes];
    int64_t size[kAxes];
    T* strip;
    char* sums;  // of a tile, as stored
    char* panels;
  };

  // Lanes of a panel that are neighbours in the output.
  struct Run {
    int64_t filter;  // zero where maps are innermost
    int64_t phase_z;
    int64_t phase_y;
    int64_t first;  // column of its run
    int64_t lane;
    int64_t lanes;
  };

  size_t panel_bytes() const noexcept {
    return aligned(static_cast<size_t>(columns_.panel_elements()) * sizeof(T));
  }
  size_t bias_bytes() const noexcept {
    return static_cast<size_t>(problem_.geometry.groups * columns_.panels * tile_.lanes) * sizeof(T);
  }
  size_t offset_bytes() const noexcept { return static_cast<size_t>(columns_.taps) * 8; }
  size_t strip_bytes() const noexcept {
    return static_cast<size_t>(columns_.channels * strips_.plane) * sizeof(T);
  }
  size_t sums_bytes() const noexcept { return static_cast<size_t>(tile_.rows * tile_.lanes * element_); }
  size_t worker_bytes() const noexcept {
    return aligned(strip_bytes()) + aligned(sums_bytes()) +
           (problem_.packed ? 0 : panel_bytes() * static_cast<size_t>(together_));
  }

  // Decides blocks and threads, so that the workspace holds them.
  void cut() {
    threads_ = 1;
    const auto total = [&] {
      return aligned(bias_bytes()) + aligned(offset_bytes()) + worker_bytes() * static_cast<size_t>(threads_);
    };
    workspace_ = total();
    if (workspace_ > problem_.workspace) return;
    threads_ = problem_.threads;
    while (threads_ > 1 && total() > problem_.workspace) --threads_;
    int64_t block[kAxes];
    for (int a = 0; a < kAxes; ++a) block[a] = axes_[static_cast<size_t>(a)].positions;
    while (true) {
      strips_ = Strips(axes_, block);
      if (total() <= problem_.workspace && static_cast<int64_t>(strip_bytes()) <= kStripBytes) {
        break;
      }
      if (block[0] > 1) {
        block[0] = (block[0] + 1) / 2;
      } else if (block[1] > 1) {
        block[1] = (block[1] + 1) / 2;
      } else if (block[2] > tile_.rows || (block[2] > 1 && total() > problem_.workspace)) {
        block[2] = (block[2] + 1) / 2;
      } else {
        break;
      }
    }
    workspace_ = total();
  }

  // The runs of a panel, fewer than it has lanes.
  int runs_of(int64_t panel, Run (&runs)[kMostLanes]) const noexcept {
    const int64_t end = std::min((panel + 1) * tile_.lanes, columns_.count);
    const int64_t start = panel * tile_.lanes;
    int count = 0;
    for (int64_t column = start; column < end; ++count) {
      const int64_t outer = column / columns_.run;
      Run& run = runs[count];
      run.phase_y = outer % axes_[1].stride;
      run.phase_z = outer / axes_[1].stride % axes_[0].stride;
      run.filter = outer / axes_[1].stride / axes_[0].stride;
      run.first = column % columns_.run;
      run.lane = column - start;
      run.lanes = std::min(columns_.run - run.first, end - column);
      column += run.lanes;
    }
    return count;
  }

  void spread_bias(const void* bias, T* spread) const noexcept {
    with_dtype(problem_.dtype, [&](auto e) {
      const auto* from = static_cast<const typename decltype(e)::storage*>(bias);
      for (int64_t group = 0; group < problem_.geometry.groups; ++group, from += columns_.filters) {
        T* to = spread + group * columns_.panels * tile_.lanes;
        for (int64_t column = 0; column < columns_.panels * tile_.lanes; ++column) {
          const int64_t filter = problem_.geometry.channels_last
                                     ? column % columns_.filters
                                     : column / (columns_.count / columns_.filters);
          to[column] = column < columns_.count ? static_cast<T>(e.load(from[filter])) : T{0};
        }
      }
    });
  }

  // Of each tap, z slowest, from where a position has its last.
  void spread_offsets(int64_t* offset) const noexcept {
    const auto& [z, y, x] = axes_;
    int64_t tap = 0;
    for (int64_t tz = 0; tz < z.taps; ++tz) {
      for (int64_t ty = 0; ty < y.taps; ++ty) {
        for (int64_t tx = 0; tx < x.taps; ++tx) {
          offset[tap] =
              ((z.taps - 1 - tz) * strips_.strip[1] + y.taps - 1 - ty) * strips_.strip[2] + x.taps - 1 - tx;
          ++tap;
        }
      }
    }
  }

  // Returns false where it meets an infinity or NaN.
  bool pack_panel(const void* weight, T* packed, int64_t group, int64_t panel) const noexcept {
    const Geometry& g = problem_.geometry;
    const auto& [z, y, x] = axes_;
    if (columns_.count < (panel + 1) * tile_.lanes)
      std::memset(packed, 0, static_cast<size_t>(columns_.panel_elements()) * sizeof(T));
    MoveArgs args{};
    args.src_row = columns_.filters * g.taps();
    args.src_column = args.dst_column = 1;
    args.dst_row = tile_.lanes;
    args.rows = columns_.channels;
    Run runs[kMostLanes];
    const int count = runs_of(panel, runs);
    for (int i = 0; i < count; ++i) {
      const Run& run = runs[i];
      args.columns = run.lanes;
      T* to = packed + run.lane;
      for (int64_t tz = 0; tz < z.taps; ++tz) {
        for (int64_t ty = 0; ty < y.taps; ++ty) {
          const int64_t line = (tz * z.stride + run.phase_z) * g.axes[1].kernel + ty * y.stride + run.phase_y;
          for (int64_t tx = 0; tx < x.taps; ++tx) {
            const int64_t at = group * columns_.channels * args.src_row + run.filter * g.taps() +
                               (line * g.axes[2].kernel + tx * x.stride) * columns_.unit + run.first;
            args.src = static_cast<const char*>(weight) + at * element_;
            args.dst = to;
            load_(args);
            to += columns_.channels * tile_.lanes;
          }
        }
      }
    }
    const bool finite = all_finite(packed, columns_.panel_elements());
    if (pair_ != nullptr) (*pair_)(PairArgs{packed, columns_.taps, columns_.channels, tile_.lanes});
    return finite;
  }

  void fill_strip(const Work& work) const noexcept {
    copy_strip(work);
    if (pair_ != nullptr) (*pair_)(PairArgs{work.strip, 1, columns_.channels, strips_.plane});
  }

  void copy_strip(const Work& work) const noexcept {
    std::memset(work.strip, 0, strip_bytes());
    int64_t from[kAxes];
    int64_t to[kAxes];
    int64_t count[kAxes];
    for (int a = 0; a < kAxes; ++a) {
      const PhaseLane& axis = axes_[static_cast<size_t>(a)];
      const int64_t origin = axis.first + work.begin[a] - (axis.taps - 1);
      from[a] = std::max<int64_t>(origin, 0);
      to[a] = from[a] - origin;
      count[a] = std::min(origin + work.size[a] + axis.taps - 1, axis.src_size) - from[a];
      if (count[a] <= 0) return;
    }
    const auto& [z, y, x] = axes_;
    const Geometry& g = problem_.geometry;
    const char* const maps =
        static_cast<const char*>(work.call->source) +
        (work.sample * g.channels * g.small_positions() + work.group * columns_.channels * src_map_) *
            element_;
    MoveArgs args{};
    for (int64_t iz = 0; iz < count[0]; ++iz) {
      const int64_t slab = ((from[0] + iz) * y.src_size + from[1]) * x.src_size + from[2];
      T* const at = work.strip + ((to[0] + iz) * strips_.strip[1] + to[1]) * strips_.strip[2] + to[2];
      if (g.channels_last) {
        args.src_row = src_x_;
        args.src_column = args.dst_row = 1;
        args.dst_column = strips_.plane;
        args.rows = count[2];
        args.columns = columns_.channels;
        for (int64_t iy = 0; iy < count[1]; ++iy) {
          args.src = maps + (slab + iy * x.src_size) * src_x_ * element_;
          args.dst = at + iy * strips_.strip[2];
          load_(args);
        }
      } else {
        args.src_row = x.src_size;
        args.src_column = args.dst_column = 1;
        args.dst_row = strips_.strip[2];
        args.rows = count[1];
        args.columns = count[2];
        for (int64_t map = 0; map < columns_.channels; ++map) {
          args.src = maps + (map * src_map_ + slab) * element_;
          args.dst = at + map * strips_.plane;
          load_(args);
        }
      }
    }
  }

  // Returns false where the weights are not finite.
  bool run_panels(const Work& work, int64_t first, int64_t last) const noexcept {
    bool finite = true;
    const char* panels = work.panels;
    if (panels == nullptr) {
      panels = static_cast<const char*>(work.call->packed) +
               static_cast<size_t>(work.group * columns_.panels + first) * panel_bytes();
    } else {
      for (int64_t panel = first; panel < last; ++panel) {
        T* const packed =
            reinterpret_cast<T*>(work.panels + static_cast<size_t>(panel - first) * panel_bytes());
        finite &= pack_panel(work.call->weight, packed, work.group, panel);
      }
    }
    for (int64_t iz = 0; iz < work.size[0]; ++iz) {
      for (int64_t iy = 0; iy < work.size[1]; ++iy) {
        for (int64_t panel = first; panel < last; ++panel)
          run_row(work, panels + static_cast<size_t>(panel - first) * panel_bytes(), panel, iz, iy);
      }
    }
    return finite;
  }

  // A panel for a row of positions.
  void run_row(const Work& work, const void* packed, int64_t panel, int64_t iz, int64_t iy) const noexcept {
    Spread spread;
    spread_runs(work, panel, iz, iy, spread);
    if (spread.count == 0) return;
    PhasesArgs args{};
    args.b = packed;
    args.a_offset = work.a_offset;
    args.taps = columns_.taps;
    args.depth = ceil_div(columns_.channels, steps_of_element(tile_));
    args.a_step = strips_.plane;
    args.activation = activate_.get();
    if (work.bias != nullptr) args.bias = work.bias + (work.group * columns_.panels + panel) * tile_.lanes;
    const T* row = work.strip + (iz * strips_.strip[1] + iy) * strips_.strip[2];
    const int64_t pieces = ceil_div(work.size[2], tile_.rows);
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t begin = work.size[2] * piece / pieces;
      args.rows = static_cast<int32_t>(work.size[2] * (piece + 1) / pieces - begin);
      args.a = row + begin;
      run_tile(work, args, spread, axes_[2].first + work.begin[2] + begin);
    }
  }

  // Where the lanes of a panel go for a row of positions, from where the row of the output would begin for a
  // position at its start.
  struct Spread {
    SpreadRun run[2 * kMostLanes];
    int64_t column[2 * kMostLanes];  // of each run's first lane, of a position
    int32_t first_run[kMostLanes + 1];
    int32_t count;
    int64_t first;  // column of the first and after the last of a position, in its row
    int64_t last;
  };

  void spread_runs(const Work& work, int64_t panel, int64_t iz, int64_t iy, Spread& spread) const noexcept {
    Run runs[kMostLanes];
    const int count = runs_of(panel, runs);
    const auto& [z, y, x] = axes_;
    const auto width = static_cast<int64_t>(machine::lanes(compute_dtype(tile_.dtype), tile_.isa));
    spread.count = 0;
    spread.first = INT64_MAX;
    spread.last = 0;
    int64_t vector = 0;
    spread.first_run[0] = 0;
    for (const Run& run : std::span(runs, static_cast<size_t>(count))) {
      const int64_t at_z = (z.first + work.begin[0] + iz) * z.stride + run.phase_z - z.pad;
      const int64_t at_y = (y.first + work.begin[1] + iy) * y.stride + run.phase_y - y.pad;
      const bool inside = at_z >= 0 && at_z < z.dst_size && at_y >= 0 && at_y < y.dst_size;
      const int64_t line = ((run.filter * z.dst_size + at_z) * y.dst_size + at_y) * dst_row_ + run.first;
      for (int64_t lane = run.lane; lane < run.lane + run.lanes;) {
        while (lane >= (vector + 1) * width) spread.first_run[++vector] = spread.count;
        const int64_t end = std::min((vector + 1) * width, run.lane + run.lanes);
        if (inside) {
          spread.column[spread.count] = run.first + lane - run.lane;
          spread.run[spread.count++] = {line + lane - run.lane, static_cast<int32_t>(lane - vector * width),
                                        static_cast<int32_t>(end - vector * width)};
        }
        lane = end;
      }
      if (inside) {
        spread.first = std::min(spread.first, run.first);
        spread.last = std::max(spread.last, run.first + run.lanes);
      }
    }
    while ((vector + 1) * width <= tile_.lanes) spread.first_run[++vector] = spread.count;
  }

  void run_tile(const Work& work, PhasesArgs& args, const Spread& spread, int64_t q_x) const noexcept {
    const PhaseLane& x = axes_[2];
    const int64_t step = columns_.run;
    const int64_t origin = (q_x * x.stride - x.pad) * columns_.unit;  // of the first position, in its row
    const int64_t image = work.sample * problem_.geometry.groups + work.group;
    char* const out = static_cast<char*>(work.call->out) +
                      image * (problem_.geometry.channels_last ? 1 : columns_.filters) * axes_[0].dst_size *
                          axes_[1].dst_size * dst_row_ * element_;
    void* rows[kMostRows];
    args.c = rows;
    args.run = spread.run;
    args.first_run = spread.first_run;
    args.aside = 0;
    for (int64_t r = 0; r < args.rows; ++r) {
      const int64_t at = origin + r * step;
      if (at + spread.first >= 0 && at + spread.last <= dst_row_) {
        rows[r] = out + at * element_;
      } else {
        args.aside |= 1u << r;
        rows[r] = work.sums + r * tile_.lanes * element_;
      }
    }
    tile_(args);
    for (int64_t r = 0; args.aside != 0 && r < args.rows; ++r) {
      if (args.aside >> r & 1u)
        store_inside(spread, static_cast<const char*>(rows[r]), out, origin + r * step);
    }
  }

  // What of a position lies inside the output.
  void store_inside(const Spread& spread, const char* sums, char* out, int64_t origin) const noexcept {
    const auto width = static_cast<int64_t>(machine::lanes(compute_dtype(tile_.dtype), tile_.isa));
    for (int64_t v = 0; v < tile_.lanes / width; ++v) {
      for (int32_t i = spread.first_run[v]; i < spread.first_run[v + 1]; ++i) {
        const SpreadRun& run = spread.run[i];
        const int64_t at = origin + spread.column[i];
        const int64_t begin = std::max<int64_t>(0, -at);
        const int64_t end = std::min<int64_t>(run.end - run.begin, dst_row_ - at);
        if (begin >= end) continue;
        std::memcpy(out + (origin + run.offset + begin) * element_,
                    sums + (v * width + run.begin + begin) * element_,
                    static_cast<size_t>((end - begin) * element_));
      }
    }
  }

  Problem problem_;
  Activate activate_;
  Columns columns_;
  const Kernel& tile_;
  const Kernel* pair_;  // where products take pairs of channels
  const Kernel& load_;
  std::array<PhaseLane, kAxes> axes_;
  Strips strips_;
  int64_t element_;   // bytes, as stored
  int64_t together_;  // panels that take turns at a row of positions
  // Elements from one to the next.
  int64_t src_x_;
  int64_t src_map_;
  int64_t dst_row_;
  int threads_ = 1;
  size_t workspace_ = 0;
};

std::optional<std::string> refusal(const Problem& problem) {
  const Geometry& g = problem.geometry;
  for (const Axis& axis : g.axes) {
    if (axis.dilation != 1) return "dilation";
    if (axis.kernel % axis.stride != 0) return "a kernel that is no multiple of its stride";
  }
  if (g.channels_last && g.groups > 1) return "groups whose maps lie together";
  const int width = vector_floats(problem.isa);
  const int64_t run = g.axes[2].stride * (g.channels_last ? g.filters : 1);
  if (4 * run < width) return "fewer than a quarter vector of neighbours in the output of a position";
  int64_t taps = 1;
  for (const Axis& axis : g.axes) taps *= axis.kernel / axis.stride;
  if (taps > kMostTaps) return "more than " + std::to_string(kMostTaps) + " taps";
  return std::nullopt;
}

double cost(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const Columns columns(problem);
  const Kernel& tile = *columns.tile;
  const double width = machine::lanes(compute_dtype(tile.dtype), tile.isa);
  double rows = static_cast<double>(g.batch * g.groups);
  for (int a = 0; a < 2; ++a)
    rows *= static_cast<double>(PhaseLane(g.axes[static_cast<size_t>(a)]).positions);
  const int64_t positions = PhaseLane(g.axes[2]).positions;
  const auto panels = static_cast<double>(columns.panels);
  const double steps = static_cast<double>(columns.taps * ceil_div(columns.channels, steps_of_element(tile)));
  const double calls = static_cast<double>(ceil_div(positions, tile.rows));
  // A vector goes to its place at once, or in runs.
  const double runs = std::max(1.0, width / static_cast<double>(columns.run));
  const double stored = static_cast<double>(positions) * tile.lanes / width * runs;
  // A panel of long sums does not stay in the second cache beside the positions.
  const double panel = steps * tile.lanes * static_cast<double>(compute_bytes(tile.dtype));
  const double read = panel > machine::kSecondCacheBytes / 2 ? panel / kPanelBytesPerSecond : 0;
  return rows * panels *
             (kRowSeconds + steps * machine::rows_step_seconds(tile, positions) +
              calls * (machine::kCallSeconds + read) + stored * machine::kScatterSeconds) +
         machine::traffic_seconds(problem);
}

}  // namespace

extern const Algorithm phase_lanes;
const Algorithm phase_lanes{"phase_lanes", refusal, cost, make_computed<PhaseLanes>};

}  // namespace tconv
