// What the algorithms for kernel = stride share whose lanes are positions of the small side.
#pragma once

#include <algorithm>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "machine.hpp"
#include "spread_abi.hpp"

namespace tconv {

// How many times as long it takes to move rows of `size` a vector of `lanes` at a time where they are
// shorter.
inline double short_rows(int64_t size, double lanes) noexcept {
  return std::clamp(lanes / static_cast<double>(size), 1.0, 4.0);
}

inline constexpr int64_t kMostSpreadRows = 1 << 20;
// Operands of Strassen's products that are made of weights, which lie in the order in which they are read.
inline constexpr double kQuarterBytesPerSecond = 14e9;
inline constexpr double kTurnedBytesPerSecond = 10e9;  // the same where they are turned first

// Why a window is too large, or nothing.
inline std::optional<std::string> window_refusal(const Geometry& g) {
  if (g.filters / g.groups * g.taps() <= kMostSpreadRows) return std::nullopt;
  return "more than " + std::to_string(kMostSpreadRows) + " taps and filters";
}

// Why the positions of the large side do not each belong to one of the small side, or nothing.
inline std::optional<std::string> overlap_refusal(const Geometry& g) {
  for (const Axis& axis : g.axes) {
    if (axis.kernel != axis.stride || axis.dilation != 1) return "kernel is not the stride";
    if (axis.pad_lo != 0 || axis.out != axis.size * axis.stride) return "pads or adj";
  }
  return window_refusal(g);
}

// Whether positions of either side are the same.
inline bool alike(const Geometry& g) noexcept {
  return g.taps() == 1 && g.large_positions() == g.small_positions();
}

// The geometry as if positions of the large side between windows, and beyond the last, belonged to those
// before.
inline Geometry without_gaps(Geometry g) noexcept {
  for (Axis& axis : g.axes) {
    if (axis.kernel > axis.stride || (axis.kernel > 1 && axis.dilation > 1)) continue;
    if (axis.out < (axis.size - 1) * axis.stride + axis.kernel) continue;
    axis.kernel = axis.stride;
    axis.dilation = 1;
    axis.out = axis.size * axis.stride;
  }
  return g;
}

// The same where lanes are neighbouring positions, of which a vector's outputs go to few rows.
inline std::optional<std::string> lanes_refusal(const Problem& problem) {
  if (problem.geometry.channels_last) return "maps lie together";
  // A gradient's large side is only read.
  const bool forward = problem.pass == Pass::forward;
  if (auto reason = overlap_refusal(forward ? problem.geometry : without_gaps(problem.geometry)))
    return reason;
  if (forward && problem.geometry.axes[2].stride > 2) return "stride above 2 along the last axis";
  return std::nullopt;
}

inline bool has_fewer_lanes(const Kernel& a, const Kernel& b) noexcept { return a.lanes < b.lanes; }

inline const Kernel& widest(std::span<const Kernel> candidates) {
  return *std::max_element(candidates.begin(), candidates.end(), has_fewer_lanes);
}

// Positions of each of the parts that Strassen's algorithm takes a sample in, but for the last one: whole
// vectors where a few more do not matter.
inline int64_t part_positions(const Geometry& g, int64_t parts, int64_t vector) noexcept {
  constexpr int64_t many_vectors = 16;
  const int64_t part = ceil_div(g.small_positions(), parts);
  return part < many_vectors * vector ? part : ceil_div(part, vector) * vector;
}

// The arrays once, weights `growth` times as many once packed; a gradient's maps are mostly charged with what
// moves them, unless they come from memory.
inline double array_seconds(const Problem& problem, double growth, double pack_bytes_per_second) noexcept {
  Problem maps = problem;
  maps.packed = true;
  const bool moved = problem.pass == Pass::data_gradient && machine::stays_near(problem);
  return machine::traffic_seconds(problem, growth, pack_bytes_per_second) -
         (moved ? 0.6 * machine::traffic_seconds(maps, 0) : 0);
}

// Neighbouring lanes of a sample, the same in all of these parts.
struct PartPiece {
  int64_t position;  // of the first lane, in the first part, of all samples
  int64_t count;
  int64_t left;  // positions of the sample from there on
  int64_t part;  // positions of a part

  // The piece that begins at a lane of all, and ends before another at the latest.
  PartPiece(int64_t lane, int64_t end, int64_t sample_positions, int64_t part_positions) noexcept
      : position(lane / part_positions * sample_positions + lane % part_positions),
        count(std::min(end - lane, part_positions - lane % part_positions)),
        left(sample_positions - lane % part_positions),
        part(part_positions) {}

  // Those that a part has.
  int64_t count_of(int64_t index) const noexcept {
    return std::clamp<int64_t>(left - index * part, 0, count);
  }
};

// Lanes are cut into panels of the widest kernel of a family and, so that few are wasted, up to two of the
// narrowest.
class Panels {
 public:
  Panels(std::span<const Kernel> candidates, int64_t lanes)
      : wide_(tconv::widest(candidates)),
        narrow_(*std::min_element(candidates.begin(), candidates.end(), has_fewer_lanes)) {
    int64_t least = 0;
    for (int64_t narrow = 0; narrow <= (narrow_.lanes < wide_.lanes ? kMostNarrow : 0); ++narrow) {
      const int64_t rest = std::max<int64_t>(0, lanes - narrow * narrow_.lanes);
      const int64_t wide = ceil_div(rest, wide_.lanes);
      const int64_t all = wide * wide_.lanes + narrow * narrow_.lanes;
      if (narrow > 0 && all >= least) continue;
      least = all;
      wide_count_ = wide;
      count_ = wide + narrow;
    }
  }

  const Kernel& widest() const noexcept { return wide_; }
  const Kernel& kernel(int64_t panel) const noexcept { return panel < wide_count_ ? wide_ : narrow_; }
  int64_t count() const noexcept { return count_; }
  // The first lane of a panel, of all.
  int64_t start(int64_t panel) const noexcept {
    const int64_t wide = std::min(panel, wide_count_);
    return wide * wide_.lanes + (panel - wide) * narrow_.lanes;
  }

 private:
  static constexpr int64_t kMostNarrow = 2;

  const Kernel& wide_;
  const Kernel& narrow_;
  int64_t wide_count_ = 0;  // the first ones
  int64_t count_ = 0;
};

// The rows of the small side that hold the positions of some lanes, the first one's being `first`, and where
// they lie on the large side.
inline int32_t find_rows(const Geometry& g, SpreadRun* rows, int64_t first, int64_t lane,
                         int64_t end) noexcept {
  const auto& [z, y, x] = g.axes;
  int32_t found = 0;
  for (int64_t position = first; lane < end;) {
    const int64_t row = position / x.size;
    const int64_t at = position % x.size;
    const int64_t length = std::min(end - lane, x.size - at);
    const int64_t at_y = row % y.size;
    const int64_t at_z = row / y.size % z.size;
    const int64_t sample = row / y.size / z.size;
    rows[found++] = {
        ((sample * g.filters * z.out + at_z * z.stride) * y.out + at_y * y.stride) * x.out + at * x.stride,
        static_cast<int32_t>(lane), static_cast<int32_t>(lane + length)};
    lane += length;
    position += length;
  }
  return found;
}

// Family `unspread` for the taps of a position along the last axis, which may be fewer than the stride. What
// family `load` takes apart in registers, or leaves out, is moved by it.
template <class T>
void unspread_taps(const Kernel& unspread, const Kernel& load, const UnspreadArgs& args, const Axis& x,
                   int64_t element) noexcept {
  constexpr int64_t most_in_registers = 8;
  const bool all = x.kernel == x.stride;
  if (all && (x.kernel <= 2 || x.kernel > most_in_registers)) return unspread(args);
  for (const SpreadRun& run : std::span(args.run, static_cast<size_t>(args.runs))) {
    const auto from = [&](int64_t map, int64_t tap) noexcept {
      return static_cast<const char*>(args.src) + (map * args.map_stride + run.offset + tap) * element;
    };
    const auto to = [&](int64_t map, int64_t tap) noexcept {
      return static_cast<T*>(args.dst) + map * args.dst_map + tap * args.dst_row + run.begin;
    };
    const int64_t count = run.end - run.begin;
    for (int64_t map = 0; all && map < args.maps; ++map)
      load(MoveArgs{from(map, 0), x.stride, 1, to(map, 0), 1, args.dst_row, count, x.kernel});
    for (int64_t tap = 0; !all && tap < x.kernel; ++tap)
      load(MoveArgs{from(0, tap), args.map_stride, x.stride, to(0, tap), args.dst_map, 1, args.maps, count});
  }
}

// Runs of neighbours of one length.
struct Segments {
  int64_t length = 0;
  std::vector<int64_t> start;
};

// Neighbours in the window of a position where maps lie together: the filters of a group at so many taps
// along the last axis.
inline int64_t segment_taps(const Geometry& g) noexcept {
  return g.groups > 1 || g.axes[2].dilation > 1 ? 1 : g.axes[2].kernel;
}
inline int64_t segment_length(const Geometry& g) noexcept { return g.filters / g.groups * segment_taps(g); }

// All of them, from the first element of the window.
inline Segments window_segments(const Geometry& g) {
  const auto& [z, y, x] = g.axes;
  Segments made{segment_length(g), {}};
  for (int64_t tap_z = 0; tap_z < z.kernel; ++tap_z) {
    for (int64_t tap_y = 0; tap_y < y.kernel; ++tap_y) {
      const int64_t row = tap_z * z.dilation * y.out + tap_y * y.dilation;
      for (int64_t tap = 0; tap < x.kernel; tap += segment_taps(g))
        made.start.push_back((row * x.out + tap * x.dilation) * g.filters);
    }
  }
  return made;
}

// Where the first tap of a position lies on the large side, maybe beside the image.
struct WindowPlace {
  int64_t sample;
  int64_t z, y, x;

  // Elements from the first one of the large side.
  int64_t offset(const Geometry& g) const noexcept {
    const auto& [az, ay, ax] = g.axes;
    return (((sample * az.out + z) * ay.out + y) * ax.out + x) * g.filters;
  }
};

// Brings a window's elements side by side, `unit` bytes each, with zeros for what is beside the image. `copy`
// is told of runs of neighbours in it: from where, in elements from the window's first one, where to, how
// many, how long, and from one to the next.
template <class Copy>
inline void copy_window(const Geometry& g, const WindowPlace& place, char* to, int64_t unit,
                        const Copy& copy) noexcept {
  const auto& [z, y, x] = g.axes;
  const int64_t filters = g.filters / g.groups;
  const int64_t first = std::clamp<int64_t>(ceil_div(-place.x, x.dilation), 0, x.kernel);
  const int64_t last = std::clamp<int64_t>(floor_div(x.out - 1 - place.x, x.dilation) + 1, first, x.kernel);
  const bool joined = segment_taps(g) > 1;
  for (int64_t tap_z = 0; tap_z < z.kernel; ++tap_z) {
    for (int64_t tap_y = 0; tap_y < y.kernel; ++tap_y, to += x.kernel * filters * unit) {
      const int64_t at_z = place.z + tap_z * z.dilation;
      const int64_t at_y = place.y + tap_y * y.dilation;
      const bool inside = at_z >= 0 && at_z < z.out && at_y >= 0 && at_y < y.out;
      const int64_t low = inside ? first : x.kernel;
      const int64_t high = inside ? last : x.kernel;
      std::memset(to, 0, static_cast<size_t>(low * filters * unit));
      std::memset(to + high * filters * unit, 0, static_cast<size_t>((x.kernel - high) * filters * unit));
      if (low == high) continue;
      const int64_t row = (tap_z * z.dilation * y.out + tap_y * y.dilation) * x.out;
      copy((row + low * x.dilation) * g.filters, to + low * filters * unit, joined ? 1 : high - low,
           joined ? (high - low) * filters : filters, x.dilation * g.filters);
    }
  }
}

// Where the window of a position, counted through all samples, begins on the large side where maps lie
// together and nothing is padded.
inline int64_t window_offset(const Geometry& g, int64_t position) noexcept {
  const auto& [z, y, x] = g.axes;
  const int64_t row = position / x.size;
  const int64_t plane = row / y.size;
  return WindowPlace{plane / z.size, plane % z.size * z.stride, row % y.size * y.stride,
                     position % x.size * x.stride}
      .offset(g);
}

// Brings such runs from `from` to the compute type.
inline void load_runs(const Kernel& load, const void* from, void* to, int64_t runs, int64_t length,
                      int64_t step) noexcept {
  MoveArgs args{};
  args.src = from;
  args.dst = to;
  args.rows = length == 1 ? 1 : runs;
  args.columns = length == 1 ? runs : length;
  args.src_row = step;
  args.src_column = length == 1 ? step : 1;
  args.dst_row = length;
  args.dst_column = 1;
  load(args);
}

// Where the lanes of vectors go, from where their row goes.
struct LaneRuns {
  std::vector<SpreadRun> runs;
  std::vector<int32_t> first;  // of each vector
};

// So many lanes in whole vectors, of which `columns` go to the segments.
inline LaneRuns lane_runs(const Segments& segments, int64_t columns, int64_t lanes, int64_t vector) {
  LaneRuns made;
  for (int64_t begin = 0; begin < lanes; begin += vector) {
    made.first.push_back(static_cast<int32_t>(made.runs.size()));
    const int64_t end = std::min(begin + vector, columns);
    for (int64_t at = begin; at < end;) {
      const int64_t within = at % segments.length;
      const int64_t length = std::min(end - at, segments.length - within);
      made.runs.push_back({segments.start[static_cast<size_t>(at / segments.length)] + within,
                           static_cast<int32_t>(at - begin), static_cast<int32_t>(at - begin + length)});
      at += length;
    }
  }
  made.first.push_back(static_cast<int32_t>(made.runs.size()));
  // Kernels fetch from the first run of a vector that has none.
  made.runs.push_back({0, 0, 0});
  return made;
}

// Brings rows of a matrix to the second cache, a few lines at a time.
class Ahead {
 public:
  Ahead() = default;
  // Rows of `bytes`, `step` bytes apart, in so many calls.
  Ahead(const char* from, int64_t bytes, int64_t step, int64_t rows, int64_t calls) noexcept
      : at_(from - reinterpret_cast<uintptr_t>(from) % kLine),
        row_bytes_(bytes + (from - at_)),
        step_(step),
        rows_(rows),
        lines_(ceil_div(ceil_div(row_bytes_, kLine) * rows, calls)) {}

  void fetch() noexcept {
    for (int64_t line = 0; line < lines_ && rows_ > 0; ++line) {
      __builtin_prefetch(at_ + done_, 0, 2);
      done_ += kLine;
      if (done_ < row_bytes_) continue;
      done_ = 0;
      at_ += step_;
      --rows_;
    }
  }

 private:
  static constexpr int64_t kLine = 64;

  const char* at_ = nullptr;
  int64_t row_bytes_ = 0;
  int64_t step_ = 0;
  int64_t rows_ = 0;
  int64_t done_ = 0;   // of the row
  int64_t lines_ = 0;  // each time
};

}  // namespace tconv
