// Where maps lie together, forward if the kernel is the stride, and any data gradient: one matrix product,
// rows being positions of the small side. The window of a position is a few runs of neighbours on the large
// side, so both sides are read and written where they lie, but for short types that are multiplied as longer
// ones, odd depths where those are pairs, and windows that leave the image, which are copied among zeros.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "algorithms/past_caches.hpp"
#include "algorithms/spread_rows.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "packing.hpp"
#include "rows_abi.hpp"

namespace tconv {
namespace {

constexpr int64_t kBlockBytes = 256 << 10;  // of rows that one thread holds in its cache
constexpr int64_t kLeastTiles = 8;          // of a block, for each of which a panel of weights is read anew
constexpr int64_t kMostTiles = 64;
// Of a run of neighbours of a window: that all rows of a tile go to, and that is copied.
constexpr double kSegmentSeconds = 14 / machine::kHertz;
constexpr double kRunSeconds = 35 / machine::kHertz;

// Of a group: what is summed over, and what is in the lanes.
int64_t depth_of(const Problem& problem) noexcept {
  const Geometry& g = problem.geometry;
  return problem.pass == Pass::forward ? g.channels / g.groups : g.filters / g.groups * g.taps();
}
int64_t columns_of(const Problem& problem) noexcept {
  const Geometry& g = problem.geometry;
  return problem.pass == Pass::forward ? g.filters / g.groups * g.taps() : g.channels / g.groups;
}

// Segments of one element, along the last axis, that products take for one with steps between its elements.
int64_t segments_together(const Problem& problem) noexcept {
  const Geometry& g = problem.geometry;
  return problem.pass != Pass::forward && g.filters == g.groups ? g.axes[2].kernel / segment_taps(g) : 1;
}

// A whole tile.
double call_seconds(const Problem& problem, const Kernel& tile) {
  const double vectors = tile.lanes / machine::lanes(compute_dtype(problem.dtype), problem.isa);
  return static_cast<double>(ceil_div(depth_of(problem), steps_of_element(tile))) *
             machine::tile_step_seconds(tile, tile.rows) +
         machine::kCallSeconds + tile.rows * vectors / machine::kHertz;
}

// The fastest kernel, the one of most lanes among equals, which loads least.
const Kernel& best_kernel(const Problem& problem) {
  const auto candidates = kernels(Family::rows, problem.dtype, problem.isa);
  return *std::min_element(candidates.begin(), candidates.end(), [&](const Kernel& a, const Kernel& b) {
    const auto seconds = [&](const Kernel& tile) {
      return static_cast<double>(ceil_div(columns_of(problem), tile.lanes)) * call_seconds(problem, tile) /
             tile.rows;
    };
    return seconds(a) != seconds(b) ? seconds(a) < seconds(b) : a.lanes > b.lanes;
  });
}

// Whether products read the source where it is: as it is computed, or in whole pairs.
bool as_they_lie(const Problem& problem, const Kernel& tile) {
  const Geometry& g = problem.geometry;
  if (steps_of_element(tile) == 1) return problem.dtype == compute_dtype(problem.dtype);
  return problem.pass == Pass::forward ? g.channels / g.groups % 2 == 0
                                       : segment_length(g) % 2 == 0 && g.filters % 2 == 0;
}

template <class T>
class PositionRows final : public Recipe {
 public:
  explicit PositionRows(const Problem& problem)
      : problem_(problem),
        activate_(problem),
        rows_(best_kernel(problem)),
        pair_(pair_kernel(rows_)),
        load_(tconv::kernel(Family::load, problem.dtype, problem.isa)),
        forward_(problem.pass == Pass::forward) {
    const Geometry& g = problem.geometry;
    channels_ = g.channels / g.groups;
    filters_ = g.filters / g.groups;
    window_ = filters_ * g.taps();
    depth_ = depth_of(problem);
    columns_ = columns_of(problem);
    panels_ = ceil_div(columns_, rows_.lanes);
    positions_ = g.batch * g.small_positions();
    segments_.length = segment_length(g);
    steps_ = pair_ == nullptr ? depth_ : ceil_div(depth_, 2);
    for (int a = 0; a < kAxes; ++a) within_[a] = g.axes[a].within();
    as_they_lie_ = as_they_lie(problem, rows_);
    whole_ = columns_ % rows_.lanes == 0 && (forward_ ? segments_.length : columns_) % vector() == 0;
    stream_ = whole_ && (!forward_ || filters_ % vector() == 0) && goes_past_caches(problem);
    cut();
  }

  void list() override {
    segments_ = window_segments(problem_.geometry);
    starts_.clear();
    for (size_t i = 0; i < segments_.start.size(); i += static_cast<size_t>(segments_together(problem_)))
      starts_.push_back(segments_.start[i] / steps_of_element(rows_));
    lane_runs_ =
        lane_runs(forward_ ? segments_ : Segments{columns_, {0}}, columns_, panels_ * rows_.lanes, vector());
  }

  std::string kernel() const override { return rows_.name; }
  size_t workspace_bytes() const noexcept override { return workspace_; }
  size_t packed_bytes() const noexcept override {
    return static_cast<size_t>(problem_.geometry.groups * panels_) * panel_bytes();
  }
  std::string packing_key() const override {
    const Geometry& g = problem_.geometry;
    return key_of(pair_ == nullptr ? "position_rows" : "position_rows pairs",
                  {static_cast<int64_t>(problem_.pass), static_cast<int64_t>(problem_.dtype),
                   int64_t{rows_.lanes}, g.channels, g.filters, g.groups, g.taps()});
  }

  // Packed: [group][panel][step of depth][lane]; pairs of steps take the first half of a panel.
  bool pack(const void* weight, char* packed, Crew& crew) const override {
    const double seconds = static_cast<double>(packed_bytes()) / machine::kPackBytesPerSecond;
    return share_finite(crew, problem_.geometry.groups * panels_, seconds, [&](int64_t unit, int) noexcept {
      return pack_panel(weight, reinterpret_cast<T*>(packed + static_cast<size_t>(unit) * panel_bytes()),
                        unit / panels_, unit % panels_);
    });
  }

  bool run(const Call& call) const override {
    const Buffer scratch(workspace_);
    Pieces pieces(scratch.data());
    const char* const packed = packed_weights(call, pieces);
    if (packed == nullptr) return false;
    const T* const bias =
        made_bias<T>(call, pieces, bias_bytes(), [this](const void* from, T* to) { spread_bias(from, to); });
    call.crew.limit(threads_);
    char* const workers = pieces.rest();
    const double seconds = machine::seconds(problem_) * threads_;
    call.crew.share(
        problem_.geometry.groups * blocks_ * parts_, seconds, [&](int64_t unit, int member) noexcept {
          const int64_t part = unit % parts_;
          const int64_t block = unit / parts_ % blocks_;
          const int64_t group = unit / parts_ / blocks_;
          run_block(call, packed, bias, worker(workers + static_cast<size_t>(member) * worker_bytes()), group,
                    block, panels_ * part / parts_, panels_ * (part + 1) / parts_);
        });
    return true;
  }

 private:
  // What one thread works in, for each position of a block: the first `lying` are read where they lie, the
  // others from copies.
  struct Worker {
    const void** source;
    void** out;
    T* copied;
    int64_t lying;
  };

  int64_t element() const noexcept { return static_cast<int64_t>(storage_bytes(problem_.dtype)); }
  // Lanes of a vector.
  int64_t vector() const noexcept {
    return static_cast<int64_t>(machine::lanes(compute_dtype(problem_.dtype), problem_.isa));
  }
  size_t panel_bytes() const noexcept {
    return aligned(static_cast<size_t>(rows_.lanes * depth_) * sizeof(T));
  }
  size_t bias_bytes() const noexcept {
    return static_cast<size_t>(problem_.geometry.groups * panels_ * rows_.lanes) * sizeof(T);
  }
  size_t pointer_bytes() const noexcept {
    return aligned(static_cast<size_t>(block_positions_) * sizeof(void*));
  }
  bool copies() const noexcept { return !as_they_lie_ || (!forward_ && !problem_.geometry.stays_inside()); }
  size_t worker_bytes() const noexcept {
    return 2 * pointer_bytes() +
           (copies() ? aligned(static_cast<size_t>(block_positions_ * steps_) * sizeof(T)) : 0);
  }

  Worker worker(char* memory) const noexcept {
    Pieces pieces(memory);
    Worker made{};
    made.source = pieces.take<const void*>(pointer_bytes());
    made.out = pieces.take<void*>(pointer_bytes());
    made.copied = reinterpret_cast<T*>(pieces.rest());
    return made;
  }

  // Decides blocks of positions, their parts and threads, so that the workspace holds them.
  void cut() {
    threads_ = problem_.threads;
    const int64_t tiles = ceil_div(positions_, rows_.rows);
    const int64_t tile_bytes = rows_.rows * steps_ * static_cast<int64_t>(sizeof(T));
    int64_t block_tiles = std::min(tiles, std::clamp(kBlockBytes / tile_bytes, kLeastTiles, kMostTiles));
    block_positions_ = block_tiles * rows_.rows;
    const auto total = [&] {
      return (problem_.packed ? 0 : aligned(packed_bytes())) + aligned(bias_bytes()) +
             worker_bytes() * static_cast<size_t>(threads_);
    };
    while (threads_ > 1 && total() > problem_.workspace) --threads_;
    if (total() > problem_.workspace) block_tiles = 1;
    // As many for each thread.
    blocks_ = std::min(tiles, ceil_div(ceil_div(tiles, block_tiles), threads_) * threads_);
    block_positions_ = ceil_div(tiles, blocks_) * rows_.rows;
    const int64_t units = blocks_ * problem_.geometry.groups;
    parts_ = threads_ > 1 && units < 6 * threads_ ? std::min(panels_, ceil_div(6 * threads_, units)) : 1;
    workspace_ = total();
  }

  // Returns false where it meets an infinity or NaN that may meet zeros beside the image.
  bool pack_panel(const void* weight, T* packed, int64_t group, int64_t panel) const noexcept {
    const int64_t first = panel * rows_.lanes;
    const int64_t columns = std::min<int64_t>(rows_.lanes, columns_ - first);
    const char* from = static_cast<const char*>(weight) + group * channels_ * window_ * element();
    // Lanes are neighbours in the weights, or rows of them.
    MoveArgs args{};
    args.src = from + first * (forward_ ? 1 : window_) * element();
    args.src_row = window_;
    args.src_column = 1;
    args.dst = packed;
    args.dst_row = forward_ ? rows_.lanes : 1;
    args.dst_column = forward_ ? 1 : rows_.lanes;
    args.rows = forward_ ? depth_ : columns;
    args.columns = forward_ ? columns : depth_;
    load_(args);
    for (int64_t step = 0; columns < rows_.lanes && step < depth_; ++step)
      std::fill(packed + step * rows_.lanes + columns, packed + (step + 1) * rows_.lanes, T{0});
    if (!forward_ && !all_finite(packed, depth_ * rows_.lanes)) return false;
    if (pair_ != nullptr) (*pair_)(PairArgs{packed, 1, depth_, rows_.lanes});
    return true;
  }

  void spread_bias(const void* bias, T* spread) const noexcept {
    const int64_t maps = forward_ ? filters_ : channels_;
    with_dtype(problem_.dtype, [&](auto e) {
      const auto* from = static_cast<const typename decltype(e)::storage*>(bias);
      for (int64_t group = 0; group < problem_.geometry.groups; ++group, from += maps) {
        T* to = spread + group * panels_ * rows_.lanes;
        for (int64_t column = 0; column < columns_; ++column)
          to[column] = static_cast<T>(e.load(from[column % maps]));
      }
    });
  }

  // The first position of a block.
  int64_t block_start(int64_t block) const noexcept {
    return std::min(ceil_div(positions_, rows_.rows) * block / blocks_ * rows_.rows, positions_);
  }

  // Finds where positions lie on either side, from the first one of a block, and copies windows.
  void find(const Call& call, Worker& w, int64_t group, int64_t first, int64_t count) const noexcept {
    const Geometry& g = problem_.geometry;
    const auto& [z, y, x] = g.axes;
    const auto is_within = [this](int axis, int64_t at) {
      return at >= within_[axis].first && at < within_[axis].second;
    };
    w.lying = 0;
    int64_t copied = 0;
    for (int64_t i = 0; i < count;) {
      const int64_t row = (first + i) / x.size;
      int64_t at = (first + i) % x.size;
      const int64_t at_y = row % y.size;
      const int64_t at_z = row / y.size % z.size;
      WindowPlace place{row / y.size / z.size, at_z * z.stride - z.pad_lo, at_y * y.stride - y.pad_lo,
                        at * x.stride - x.pad_lo};
      const bool row_lies = as_they_lie_ && is_within(0, at_z) && is_within(1, at_y);
      int64_t small = (first + i) * g.channels + group * channels_;
      int64_t large = place.offset(g) + group * filters_;
      for (const int64_t end = std::min(count, i + x.size - at); i < end; ++i, ++at) {
        const bool lies = forward_ || (row_lies && is_within(2, at));
        const int64_t to = lies ? w.lying++ : count - ++copied;
        w.out[to] = static_cast<char*>(call.out) + (forward_ ? large : small) * element();
        w.source[to] = static_cast<const char*>(call.source) + (forward_ ? small : large) * element();
        if (!lies) {
          T* const window = w.copied + (copied - 1) * steps_;
          copy(call, place, large, window);
          w.source[to] = window;
        }
        small += g.channels;
        large += x.stride * g.filters;
        place.x += x.stride;
      }
    }
  }

  // A window, `large` being its first element, in the compute type or as pairs.
  void copy(const Call& call, const WindowPlace& place, int64_t large, T* to) const noexcept {
    if (pair_ != nullptr) to[steps_ - 1] = T{0};
    const char* const from = static_cast<const char*>(call.source) + large * element();
    copy_window(problem_.geometry, place, reinterpret_cast<char*>(to),
                pair_ == nullptr ? static_cast<int64_t>(sizeof(T)) : element(),
                [&](int64_t at, char* window, int64_t runs, int64_t length, int64_t step) noexcept {
                  const char* run = from + at * element();
                  if (pair_ == nullptr) {
                    load_runs(load_, run, window, runs, length, step);
                    return;
                  }
                  const int64_t bytes = length * element();
                  for (; runs > 0; --runs, run += step * element(), window += bytes)
                    std::memcpy(window, run, static_cast<size_t>(bytes));
                });
  }

  void run_block(const Call& call, const char* packed, const T* bias, Worker w, int64_t group, int64_t block,
                 int64_t first_panel, int64_t last_panel) const noexcept {
    const int64_t first = block_start(block);
    const int64_t count = block_start(block + 1) - first;
    find(call, w, group, first, count);
    if (forward_ && !as_they_lie_) copy(w, count);
    Ahead ahead = next_source(call.source, group, block, last_panel - first_panel);
    RowsArgs args{};
    args.activation = activate_.get();
    args.run = lane_runs_.runs.data();
    args.whole = whole_;
    args.stream = stream_ && reinterpret_cast<uintptr_t>(call.out) % kAlignment == 0;
    const auto multiply = [&](int64_t begin, int64_t end) noexcept {
      args.depth = steps_ / args.segments;
      for (int64_t i = begin; i < end; i += rows_.rows) {
        args.a = w.source + i;
        args.c = w.out + i;
        args.rows = static_cast<int32_t>(std::min<int64_t>(rows_.rows, end - i));
        ahead.fetch();
        rows_(args);
      }
    };
    static constexpr int64_t kHere = 0;
    const int64_t vectors = static_cast<int64_t>(lane_runs_.first.size() - 1) / panels_;
    for (int64_t panel = first_panel; panel < last_panel; ++panel) {
      args.b = packed + static_cast<size_t>(group * panels_ + panel) * panel_bytes();
      if (bias != nullptr) args.bias = bias + (group * panels_ + panel) * rows_.lanes;
      args.first_run = lane_runs_.first.data() + panel * vectors;
      if (!forward_) {
        args.segment = starts_.data();
        args.segments = static_cast<int64_t>(starts_.size());
        args.a_step = segments_together(problem_) > 1
                          ? problem_.geometry.axes[2].dilation * problem_.geometry.filters
                          : 1;
        multiply(0, w.lying);
      }
      args.segment = &kHere;
      args.segments = args.a_step = 1;
      multiply(forward_ ? 0 : w.lying, count);
    }
    if (args.stream) finish_past_caches();
  }

  // The source of the next block, where it is one matrix.
  Ahead next_source(const void* source, int64_t group, int64_t block, int64_t panels) const noexcept {
    if (!forward_ || block + 1 == blocks_) return {};
    const int64_t first = block_start(block + 1);
    const int64_t count = block_start(block + 2) - first;
    const int64_t step = problem_.geometry.channels * element();
    return {static_cast<const char*>(source) + first * step + group * channels_ * element(),
            channels_ * element(), step, count, panels * (block_positions_ / rows_.rows)};
  }

  // Sources of a block that are rows of a matrix, to the compute type.
  void copy_matrix(const Worker& w, int64_t count) const noexcept {
    const int64_t channels = problem_.geometry.channels;
    if (channels == depth_) {
      convert_run(load_, w.source[0], w.copied, count * depth_);
    } else {
      MoveArgs args{};
      args.src = w.source[0];
      args.src_row = channels;
      args.src_column = args.dst_column = 1;
      args.dst = w.copied;
      args.dst_row = steps_;
      args.rows = count;
      args.columns = depth_;
      load_(args);
    }
    for (int64_t i = 0; i < count; ++i) w.source[i] = w.copied + i * steps_;
  }

  // Sources of a block, one behind the other, to the compute type or whole pairs.
  void copy(const Worker& w, int64_t count) const noexcept {
    if (pair_ == nullptr) {
      copy_matrix(w, count);
      return;
    }
    for (int64_t i = 0; i < count; ++i) {
      T* const to = w.copied + i * steps_;
      to[steps_ - 1] = T{0};
      std::memcpy(to, w.source[i], static_cast<size_t>(depth_ * element()));
      w.source[i] = to;
    }
  }

  Problem problem_;
  Activate activate_;
  const Kernel& rows_;
  const Kernel* pair_;  // where products take pairs
  const Kernel& load_;
  bool forward_;
  int64_t channels_ = 0;  // of a group, as all below
  int64_t filters_ = 0;
  int64_t window_ = 0;  // filters and taps
  int64_t depth_ = 0;   // what is summed over
  int64_t steps_ = 0;   // of it, which may be pairs
  bool as_they_lie_ = false;
  int64_t columns_ = 0;  // what is in the lanes
  int64_t panels_ = 0;
  int64_t positions_ = 0;  // of all samples
  Segments segments_;
  std::vector<int64_t> starts_;  // of the segments, in steps
  std::pair<int64_t, int64_t> within_[kAxes];
  LaneRuns lane_runs_;
  bool whole_ = false;   // whether every vector is one run of the output
  bool stream_ = false;  // whether outputs go past the caches
  int64_t block_positions_ = 0;
  int64_t blocks_ = 1;
  int64_t parts_ = 1;  // that panels are shared in
  int threads_ = 1;
  size_t workspace_ = 0;
};

std::optional<std::string> refusal(const Problem& problem) {
  const Geometry& g = problem.geometry;
  if (!g.channels_last) return "maps lie apart";
  if (problem.pass == Pass::forward) return overlap_refusal(g);
  return window_refusal(g);
}

double cost(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const Kernel& tile = best_kernel(problem);
  const bool forward = problem.pass == Pass::forward;
  const auto depth = static_cast<double>(depth_of(problem));
  const auto positions = static_cast<double>(g.batch * g.small_positions());
  const double vector = machine::lanes(compute_dtype(problem.dtype), problem.isa);
  const double calls = static_cast<double>(ceil_div(columns_of(problem), tile.lanes) * g.groups) *
                       std::max(1.0, positions / tile.rows);
  const double call = call_seconds(problem, tile);
  // Neighbours of a window on the large side.
  const auto runs = static_cast<double>(g.taps() / segment_taps(g) / segments_together(problem));
  const double windows = positions * static_cast<double>(g.groups);
  if (forward) {
    const bool lies = problem.dtype == compute_dtype(problem.dtype) || steps_of_element(tile) > 1;
    return windows * (runs * machine::kGatherSeconds + (lies ? 0 : depth / vector * machine::kCopySeconds)) +
           calls * call + machine::traffic_seconds(problem);
  }
  double lying = as_they_lie(problem, tile) ? 1 : 0;
  for (const Axis& axis : g.axes) {
    const auto [begin, end] = axis.within();
    lying *= static_cast<double>(end - begin) / static_cast<double>(axis.size);
  }
  const double copied = (1 - lying) * windows * (runs * kRunSeconds + depth / vector * machine::kCopySeconds);
  const double parts = machine::far_parts(problem) ? windows * runs * machine::kFarPartSeconds : 0;
  // What else is read is charged with its products, but for weights that are packed.
  const double arrays = machine::stays_near(problem) ? 0.15 : 1.5;
  const double weights =
      static_cast<double>(g.weight_elements()) * static_cast<double>(compute_bytes(problem.dtype));
  const double packing = problem.packed ? 0 : weights / machine::kPackBytesPerSecond;
  return parts + windows * machine::kGatherSeconds + calls * (call + lying * runs * kSegmentSeconds) +
         copied + packing + (machine::traffic_seconds(problem) - packing) * arrays;
}

}  // namespace

extern const Algorithm position_rows;
const Algorithm position_rows{"position_rows", refusal, cost, make_computed<PositionRows>};

}  // namespace tconv
