// What the weight gradients share whose depth is positions: how the window of every position is copied, so
// that columns lie as weights do, and how channels come side by side.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "machine.hpp"
#include "packing.hpp"
#include "windows_abi.hpp"

namespace tconv {

inline constexpr int64_t kMostRuns = 1 << 16;
inline constexpr double kWindowVectorSeconds = 5.8 / machine::kHertz;  // of a vector that is copied

// How the windows of a group lie in memory: `runs` runs of neighbours, each of `length` elements.
struct WindowRuns {
  bool joined;  // taps along x are neighbours
  int64_t length;
  int64_t runs;
  int64_t unit;  // elements from a position to the next along x

  explicit WindowRuns(const Geometry& g) noexcept {
    const Axis& x = g.axes[2];
    const int64_t filters = g.filters / g.groups;
    joined = x.kernel == 1 || (x.dilation == 1 && (!g.channels_last || g.groups == 1));
    length = (joined ? x.kernel : 1) * (g.channels_last ? filters : 1);
    runs = filters * g.taps() / length;
    unit = g.channels_last ? g.filters : 1;
  }
};

// A column is a weight of a channel.
inline int64_t columns_of(const Geometry& g) noexcept { return g.filters / g.groups * g.taps(); }

inline std::optional<std::string> windows_refusal(const Problem& problem) {
  if (WindowRuns(problem.geometry).runs > kMostRuns)
    return "more than " + std::to_string(kMostRuns) + " runs of neighbours in a window";
  return std::nullopt;
}

// Positions that are evenly apart on the large side: those of a row, or where no window leaves the image,
// those beside axes of one position, or samples.
struct EvenRow {
  int64_t length;
  int64_t step;  // elements of the large side from one to the next

  explicit EvenRow(const Geometry& g) noexcept {
    const auto& [z, y, x] = g.axes;
    const int64_t unit = g.channels_last ? g.filters : 1;
    length = x.size;
    step = x.stride * unit;
    int64_t apart = x.out * unit;
    for (const Axis* axis : {&y, &z}) {
      if (length > 1 || !g.stays_inside()) return;
      length = axis->size;
      step = axis->stride * apart;
      apart *= axis->out;
    }
    if (length > 1 || !g.stays_inside()) return;
    length = g.batch;
    step = g.filters * g.large_positions();
  }
};

// What it takes to bring a position's window there, in so many panels, from the nearer caches or from afar.
inline double window_copy_seconds(const Problem& problem, double panels, bool near) noexcept {
  // For each run of a position, the same where they are pairs, or where it leaves the image, a run, more
  // where some do, and a panel once for a row of positions, and a vector, most of them read from afar, above
  // all where windows of maps that lie together do not overlap, so that each is read once.
  constexpr double move_seconds = 1.6 / machine::kHertz;
  constexpr double clipped_seconds = 5 / machine::kHertz;
  constexpr double row_seconds = 20 / machine::kHertz;
  constexpr double begin_seconds = 2 / machine::kHertz;
  constexpr double panel_seconds = 60 / machine::kHertz;
  constexpr double once_seconds = 18 / machine::kHertz;
  const Geometry& g = problem.geometry;
  const double width = machine::lanes(compute_dtype(problem.dtype), problem.isa);
  const WindowRuns runs(g);
  const EvenRow rows(g);
  const Axis& x = g.axes[2];
  const bool pairs = problem.dtype == DType::f32 && runs.length == 2 && x.stride == 2;
  const double pair_seconds = (near ? 1 : 2) / machine::kHertz;
  const double all_runs = static_cast<double>(runs.runs) + panels;
  const double vector = g.channels_last && x.kernel <= x.stride ? once_seconds : kWindowVectorSeconds;
  const auto [within, beyond] = x.within();
  const auto clipped = static_cast<double>(runs.joined ? x.size - (beyond - within) : 0);
  const double row = all_runs * (g.stays_inside() ? begin_seconds : row_seconds + clipped * clipped_seconds) +
                     panels * panel_seconds;
  return all_runs * (pairs ? pair_seconds : move_seconds) + row / static_cast<double>(rows.length) +
         (pairs ? 0 : static_cast<double>(columns_of(g)) / width * vector);
}

// The same of its channels too, of which a vector is mirrored in a square. Parts of lines of memory take
// longer than all else.
inline double windows_seconds(const Problem& problem, double panels, bool near) noexcept {
  constexpr double square_seconds = 14 / machine::kHertz;
  const Geometry& g = problem.geometry;
  const auto width = static_cast<int64_t>(machine::lanes(compute_dtype(problem.dtype), problem.isa));
  const double small = static_cast<double>(ceil_div(g.channels / g.groups, width)) *
                       (g.channels_last ? kWindowVectorSeconds : square_seconds);
  const double parts = machine::far_parts(problem) ? static_cast<double>(WindowRuns(g).runs + 1) : 0;
  return std::max(small + window_copy_seconds(problem, panels, near), parts * machine::kFarPartSeconds);
}

// Positions are counted through all samples.
template <class E>
class Windows {
 public:
  using S = typename E::storage;
  using T = typename E::compute;

  explicit Windows(const Problem& problem)
      : geometry_(problem.geometry),
        dtype_(problem.dtype),
        runs_(problem.geometry),
        inside_(problem.geometry.stays_inside()),
        even_(problem.geometry),
        load_(tconv::kernel(Family::load, problem.dtype, problem.isa)),
        windows_(tconv::kernel(Family::windows, problem.dtype, problem.isa)),
        store_(tconv::kernel(Family::store, problem.dtype, problem.isa)),
        columns_(columns_of(problem.geometry)) {
    for (int a = 0; a < kAxes; ++a) within_[a] = geometry_.axes[a].within();
  }

  // What copying goes by. Panels of columns begin at `starts`, the last of which is the end of all.
  void list(std::vector<int64_t> starts) {
    starts_ = std::move(starts);
    first_run_.clear();
    list_.clear();
    offsets_.clear();
    first_alike_.clear();
    alike_.clear();
    const auto& [az, ay, ax] = geometry_.axes;
    const size_t panels = starts_.size() - 1;
    first_run_.reserve(panels + 1);
    list_.reserve(static_cast<size_t>(runs_.runs) + panels);
    offsets_.reserve(list_.capacity());
    const int64_t step = ax.stride * runs_.unit;
    // Counted and not divided, which long kernels would wait for.
    int64_t offset = 0;
    int64_t tap = 0;
    int64_t tap_y = 0;
    int64_t tap_z = 0;
    int64_t map = 0;
    const auto advance = [&](int64_t length) {
      offset += length;
      if (offset < runs_.length) return;
      offset = 0;
      if (!runs_.joined && ++tap < ax.kernel) return;
      tap = 0;
      if (++tap_y < ay.kernel) return;
      tap_y = 0;
      if (++tap_z < az.kernel) return;
      tap_z = 0;
      ++map;
    };
    // The last that began, and the last that continued, a row: the next are mostly where they are.
    Run last_of[2] = {};
    for (size_t panel = 0; panel < panels; ++panel) {
      first_run_.push_back(list_.size());
      first_alike_.push_back(alike_.size());
      const int64_t last = std::min(starts_[panel + 1], columns_);
      for (int64_t column = starts_[panel]; column < last;) {
        Run run{};
        run.y = tap_y * ay.dilation - ay.pad_lo;
        run.z = tap_z * az.dilation - az.pad_lo;
        run.map = map;
        run.at = (tap * ax.dilation - ax.pad_lo) * runs_.unit + offset;
        run.column = column - starts_[panel];
        run.length = std::min(runs_.length - offset, last - column);
        Run& alike = last_of[offset == 0 ? 0 : 1];
        if (alike.length == run.length && alike.at == run.at) {
          run.begin = alike.begin;
          run.end = alike.end;
        } else {
          run.begin = std::clamp<int64_t>(ceil_div(-run.at, step), 0, ax.size);
          run.end = std::clamp<int64_t>(floor_div(ax.out * runs_.unit - run.at - run.length, step) + 1,
                                        run.begin, ax.size);
        }
        alike = run;
        if (column == starts_[panel] || list_.back().length != run.length)
          alike_.push_back({list_.size(), run.column, run.length, 0});
        ++alike_.back().runs;
        list_.push_back(run);
        offsets_.push_back((runs_.unit == 1 ? map * geometry_.large_positions() : 0) +
                           (run.z * ay.out + run.y) * ax.out * runs_.unit + run.at);
        column += run.length;
        advance(run.length);
      }
    }
    first_run_.push_back(list_.size());
    first_alike_.push_back(alike_.size());
  }

  // Some channels at some positions: [position][channel], positions `step` elements apart. Returns false
  // where they are not finite and windows leave the image, where zeros stand.
  bool copy_small(const S* source, T* to, int64_t step, int64_t group, int64_t channel, int64_t channels,
                  int64_t begin, int64_t end) const noexcept {
    const Geometry& g = geometry_;
    const bool last = g.channels_last;
    const int64_t places = g.small_positions();
    const int64_t map = group * (g.channels / g.groups) + channel;
    for (int64_t at = begin; at < end;) {
      const int64_t sample = at / places;
      const int64_t place = at % places;
      const int64_t count = std::min(end - at, places - place);
      MoveArgs args{};
      args.src =
          source + sample * g.channels * places + (last ? place * g.channels + map : map * places + place);
      args.src_column = 1;
      args.dst = to + (at - begin) * step;
      if (last) {
        args.src_row = g.channels;
        args.dst_row = step;
        args.dst_column = 1;
        args.rows = count;
        args.columns = channels;
        load_(args);
      } else {
        args.src_row = places;
        args.dst_row = 1;
        args.dst_column = step;
        args.rows = channels;
        args.columns = count;
        gather_maps(load_, args, dtype_);
      }
      at += count;
    }
    return finite_beside(to, channels, step, begin, end);
  }

  // The columns of some panels at some positions: [panel][position][column], panels `panel_step` and
  // positions `step` elements apart; what panels lack of `step` columns is zero.
  void copy(const S* grad, T* to, int64_t panel_step, int64_t step, int64_t group, int64_t first,
            int64_t panels, int64_t begin, int64_t end) const noexcept {
    for (int64_t at = begin; at < end;) {
      const Row row = row_of(at, end);
      for (int64_t panel = first; panel < first + panels; ++panel) {
        const auto index = static_cast<size_t>(panel);
        const int64_t width = std::clamp<int64_t>(columns_ - starts_[index], 0, step);
        T* const place = to + (panel - first) * panel_step + (at - begin) * step;
        copy_row(grad, place, step, group, row, index);
        if (width < step) clear(place + width, step, row.end - row.x, step - width);
      }
      at += row.end - row.x;
    }
  }

  // Sums of a group's weights in their own type.
  void store(const Call& call, const T* sums, int64_t group) const {
    const int64_t channels = geometry_.channels / geometry_.groups;
    const double bytes = static_cast<double>(channels * columns_) * sizeof(T);
    call.crew.share(channels, bytes / machine::kStoreBytesPerSecond, [&](int64_t channel, int) noexcept {
      MoveArgs args{};
      args.src = sums + channel * columns_;
      args.dst = static_cast<S*>(call.out) + (group * channels + channel) * columns_;
      args.src_column = args.dst_column = 1;
      args.rows = 1;
      args.columns = columns_;
      store_(args);
    });
  }

 private:
  // Positions of a row of the small side, from one on.
  struct Row {
    int64_t sample, z, y;
    int64_t x, end;
  };

  // Neighbours in the windows of a row that meet in a panel.
  struct Run {
    int64_t y, z;    // of the large side, from those of a window's first tap at the origin
    int64_t map;     // of a group, where maps lie apart
    int64_t at;      // element of a line of the large side, for the first position of a row
    int64_t column;  // of the panel
    int64_t length;  // elements
    int64_t begin;   // positions of a row that find all of it in the image, from here
    int64_t end;     // to before here
  };

  // Runs of a panel that follow each other and are of one length.
  struct Alike {
    size_t first;
    int64_t column;
    int64_t length;
    int64_t runs;
  };

  static constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(S));
  static constexpr int64_t kShortRow = 8 * kLine;
  static constexpr int64_t kLinesAhead = 4 * kLine;

  // The row of a position, from there to before `end`.
  Row row_of(int64_t position, int64_t end) const noexcept {
    const auto& [z, y, x] = geometry_.axes;
    int64_t place = position;
    Row row{};
    row.x = place % x.size;
    row.end = row.x + std::min(end - position, even_.length - position % even_.length);
    place /= x.size;
    row.y = place % y.size;
    place /= y.size;
    row.z = place % z.size;
    row.sample = place / z.size;
    return row;
  }

  // Whether the small side is finite where windows leave the image and are filled up with zeros.
  bool finite_beside(const T* small, int64_t maps, int64_t step, int64_t begin, int64_t end) const noexcept {
    if (inside_) return true;
    const auto finite = [&](int64_t first, int64_t last) noexcept {
      const T* const from = small + (first - begin) * step;
      if (maps == step) return first >= last || all_finite(from, (last - first) * step);
      for (int64_t at = 0; at < last - first; ++at) {
        if (!all_finite(from + at * step, maps)) return false;
      }
      return true;
    };
    for (int64_t at = begin; at < end;) {
      const Row row = row_of(at, end);
      const int64_t next = at + row.end - row.x;
      const bool within = row.z >= within_[0].first && row.z < within_[0].second &&
                          row.y >= within_[1].first && row.y < within_[1].second;
      const int64_t low = within ? std::clamp(at + within_[2].first - row.x, at, next) : next;
      const int64_t high = within ? std::clamp(at + within_[2].second - row.x, low, next) : next;
      if (!finite(at, low) || !finite(high, next)) return false;
      at = next;
    }
    return true;
  }

  static void clear(T* to, int64_t step, int64_t count, int64_t length) noexcept {
    for (int64_t i = 0; i < count; ++i) std::fill_n(to + i * step, length, T{0});
  }

  // Where the window of the first position of a row begins, pads aside.
  const S* origin_of(const S* grad, int64_t group, const Row& row) const noexcept {
    const Geometry& g = geometry_;
    const auto& [az, ay, ax] = g.axes;
    const int64_t filters = g.filters / g.groups;
    const int64_t map = g.channels_last ? row.sample : row.sample * g.filters + group * filters;
    return grad + ((map * az.out + row.z * az.stride) * ay.out + row.y * ay.stride) * ax.out * runs_.unit +
           (g.channels_last ? group * filters : 0);
  }

  // A panel's runs of a row. Those that find the same positions in the image are copied together.
  void copy_row(const S* grad, T* to, int64_t lanes, int64_t group, const Row& row,
                size_t panel) const noexcept {
    const auto& [az, ay, ax] = geometry_.axes;
    const int64_t line = ax.out * runs_.unit;
    const int64_t step = even_.step;
    const S* const origin = origin_of(grad, group, row);
    WindowsArgs args{};
    args.src_step = step;
    args.dst_step = lanes;
    // Short rows end before the processor sees the next ones coming.
    args.next = (row.end - row.x) * step <= kShortRow ? ay.stride * line : kLinesAhead;
    // Where no window leaves the image, there is nothing to ask of a run.
    if (inside_) {
      args.src = origin + row.x * step;
      args.count = row.end - row.x;
      for (size_t i = first_alike_[panel]; i < first_alike_[panel + 1]; ++i) {
        args.offset = offsets_.data() + alike_[i].first;
        args.dst = to + alike_[i].column;
        args.runs = alike_[i].runs;
        args.length = alike_[i].length;
        windows_(args);
      }
      return;
    }
    int64_t from = 0;  // position where `args` begins
    const auto copy = [&]() noexcept {
      if (args.runs > 0 && args.count > 0) windows_(args);
      args.runs = 0;
    };
    for (size_t i = first_run_[panel]; i < first_run_[panel + 1]; ++i) {
      const Run& run = list_[i];
      const int64_t y = row.y * ay.stride + run.y;
      const int64_t z = row.z * az.stride + run.z;
      if (y < 0 || y >= ay.out || z < 0 || z >= az.out) {
        copy();
        clear(to + run.column, lanes, row.end - row.x, run.length);
        continue;
      }
      const int64_t begin = std::clamp(run.begin, row.x, row.end);
      const int64_t end = std::clamp(run.end, begin, row.end);
      const auto clipped = [&](int64_t position) noexcept {
        const int64_t at = position * step + run.at;
        const S* const source = origin + offsets_[i] + position * step;
        T* cut = to + run.column + (position - row.x) * lanes;
        for (int64_t j = 0; j < run.length; ++j)
          cut[j] = at + j < 0 || at + j >= line ? T{0} : E::load(source[j]);
      };
      for (int64_t position = row.x; position < begin; ++position) clipped(position);
      for (int64_t position = end; position < row.end; ++position) clipped(position);
      if (args.runs == 0 || args.length != run.length || from != begin || args.count != end - begin) {
        copy();
        from = begin;
        args.src = origin + begin * step;
        args.offset = offsets_.data() + i;
        args.count = end - begin;
        args.length = run.length;
        args.dst = to + run.column + (begin - row.x) * lanes;
      }
      ++args.runs;
    }
    copy();
  }

  Geometry geometry_;
  DType dtype_;
  WindowRuns runs_;
  std::pair<int64_t, int64_t> within_[kAxes];
  bool inside_;
  EvenRow even_;
  const Kernel& load_;
  const Kernel& windows_;
  const Kernel& store_;
  std::vector<int64_t> starts_;
  int64_t columns_;                  // of a group
  std::vector<Run> list_;            // panel after panel
  std::vector<int64_t> offsets_;     // of runs, from where the window of a row's first position begins
  std::vector<size_t> first_run_;    // of each panel
  std::vector<Alike> alike_;         // panel after panel
  std::vector<size_t> first_alike_;  // of each panel
};

}  // namespace tconv
