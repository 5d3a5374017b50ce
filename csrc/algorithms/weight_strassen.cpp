// Weight gradient as weight_windows, with seven products of eight: channels, columns and positions are taken
// in two halves, of which Strassen's sums are multiplied. Those of the channels are made once for some
// positions, those of a pair of panels of columns by the thread that multiplies it: from where they lie if
// maps lie together and windows do not overlap, else from a copy.
#include <algorithm>
#include <cmath>
#include <vector>

#include "algorithms/fetches.hpp"
#include "algorithms/spread_rows.hpp"
#include "algorithms/windows.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "quarters_abi.hpp"

namespace tconv {
namespace {

constexpr int kHalves = 2;
constexpr int64_t kMostDepth = 512;  // positions that are multiplied at a time
constexpr int64_t kTogether = 64;    // of each half, that are summed before they are added to the others
constexpr int64_t kCopied = 32;      // of each half, that are brought into order in the nearest cache
// An operand of a panel that is made, of windows which are mostly fetched before.
constexpr double kOperandSeconds = 5 / machine::kHertz;
constexpr double kProducts = 1.05;  // times as long as those of a tile that is all there is to do

// Whether windows are runs of neighbours that hold panels, none of which are read twice.
bool lie_in_runs(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const auto products = kernels(Family::strassen, compute_dtype(problem.dtype), problem.isa);
  return g.channels_last && !overlap_refusal(g) && segment_length(g) >= widest(products).lanes;
}

template <class E>
class WeightStrassen final : public Recipe {
 public:
  using S = typename E::storage;
  using T = typename E::compute;

  explicit WeightStrassen(const Problem& problem)
      : problem_(problem),
        channels_(problem.geometry.channels / problem.geometry.groups),
        columns_(columns_of(problem.geometry)),
        positions_(problem.geometry.batch * problem.geometry.small_positions()),
        pairs_(kernels(Family::strassen, compute_dtype(problem.dtype), problem.isa),
               ceil_div(columns_, kHalves)),
        tile_rows_(pairs_.widest().rows),
        tiles_(ceil_div(channels_, kHalves * tile_rows_)),
        vector_(static_cast<int64_t>(machine::lanes(compute_dtype(problem.dtype), problem.isa))),
        quarters_(tconv::kernel(Family::quarters, compute_dtype(problem.dtype), problem.isa)),
        lying_quarters_(tconv::kernel(Family::quarters, problem.dtype, problem.isa)),
        as_they_lie_(lie_in_runs(problem)),
        windows_(problem) {
    cut();
  }

  void list() override {
    std::vector<int64_t> starts;
    for (int64_t pair = 0; pair < pairs_.count(); ++pair) {
      starts.push_back(kHalves * pairs_.start(pair));
      starts.push_back(pairs_.start(pair) + pairs_.start(pair + 1));
    }
    // Of both halves of all pairs, the last one's that there are not too.
    const int64_t columns = kHalves * pairs_.start(pairs_.count());
    starts.push_back(columns);
    windows_.list(std::move(starts));
    if (as_they_lie_) segments_ = window_segments(problem_.geometry);
    lane_runs_ = lane_runs({columns_, {0}}, columns_, columns, vector_);
  }

  std::string kernel() const override { return pairs_.widest().name; }
  size_t workspace_bytes() const noexcept override { return total(); }
  bool needs_finite_source() const noexcept override { return true; }

  bool run(const Call& call) const override {
    const Buffer scratch(total());
    Pieces pieces(scratch.data());
    T* const small = pieces.take<T>(small_bytes());
    T* const sums = pieces.take<T>(sums_bytes());
    char* const workers = pieces.rest();
    call.crew.limit(threads_);
    for (int64_t group = 0; group < problem_.geometry.groups; ++group) {
      T* to = sums;
      if constexpr (sizeof(S) == sizeof(T)) to = static_cast<T*>(call.out) + group * channels_ * columns_;
      for (int64_t first = 0; first < positions_; first += depth_) {
        const Part part{group, first, std::min(depth_, positions_ - first)};
        if (!fill_small(call, small, workers, part) || !multiply(call, small, to, workers, part))
          return false;
      }
      if constexpr (sizeof(S) != sizeof(T)) windows_.store(call, sums, group);
    }
    return true;
  }

 private:
  // Some positions, counted through all samples.
  struct Part {
    int64_t group;
    int64_t first, depth;

    int64_t half() const noexcept { return ceil_div(depth, kHalves); }
  };

  // What one thread works in.
  struct Worker {
    T* strip;  // some positions of both halves, brought into order
    T* pair;   // operands of a pair of panels
    T* kept;   // tiles of the kernel
    void** outputs;
  };

  // Products lie a vector further apart than they need, or they share sets of the nearest cache.
  int64_t product_elements(int64_t step) const noexcept { return ceil_div(depth_, kHalves) * step + vector_; }
  int64_t tile_elements() const noexcept { return kStrassenProducts * product_elements(tile_rows_); }
  size_t small_bytes() const noexcept {
    return aligned(static_cast<size_t>(tiles_ * tile_elements()) * sizeof(T));
  }
  size_t sums_bytes() const noexcept {
    return sizeof(S) == sizeof(T) ? 0 : aligned(static_cast<size_t>(channels_ * columns_) * sizeof(T));
  }
  int64_t strip_half() const noexcept {
    return std::min(kCopied, ceil_div(depth_, kHalves)) * kHalves *
           std::max<int64_t>(pairs_.widest().lanes, tile_rows_);
  }
  size_t strip_bytes() const noexcept { return static_cast<size_t>(kHalves * strip_half()) * sizeof(T); }
  size_t pair_bytes() const noexcept {
    return static_cast<size_t>(kStrassenProducts * product_elements(pairs_.widest().lanes)) * sizeof(T);
  }
  size_t kept_bytes() const noexcept {
    return static_cast<size_t>(kStrassenKept * tile_rows_ * pairs_.widest().lanes) * sizeof(T);
  }
  size_t output_bytes() const noexcept { return static_cast<size_t>(kHalves * tile_rows_) * sizeof(void*); }
  size_t worker_bytes() const noexcept {
    return aligned(strip_bytes()) + aligned(pair_bytes()) + aligned(kept_bytes()) + aligned(output_bytes());
  }
  size_t total() const noexcept {
    return small_bytes() + sums_bytes() + static_cast<size_t>(threads_) * worker_bytes();
  }

  Worker worker(char* workers, int member) const noexcept {
    Pieces pieces(workers + static_cast<size_t>(member) * worker_bytes());
    Worker made{};
    made.strip = pieces.take<T>(strip_bytes());
    made.pair = pieces.take<T>(pair_bytes());
    made.kept = pieces.take<T>(kept_bytes());
    made.outputs = pieces.take<void*>(output_bytes());
    return made;
  }

  // Decides threads and positions, so that the workspace holds them.
  void cut() {
    threads_ = problem_.threads;
    const auto even = [this](int64_t most) { depth_ = ceil_div(positions_, ceil_div(positions_, most)); };
    even(std::min(kMostDepth, positions_));
    while (threads_ > 1 && total() > problem_.workspace) --threads_;
    while (depth_ > 1 && total() > problem_.workspace) even(depth_ / 2);
    parts_ = std::min(tiles_, threads_ > 1 ? ceil_div(6 * threads_, pairs_.count()) : 1);
  }

  // Copies both halves of the positions to the strip, some at a time, and makes operands of them.
  template <class Copy>
  void make(const Worker& w, const Part& part, QuartersArgs args, const Copy& copy) const noexcept {
    const int64_t half = part.half();
    T* const to = static_cast<T*>(args.dst);
    T* const second = w.strip + strip_half();
    args.src = w.strip;
    args.depth_half = strip_half();
    for (int64_t step = 0; step < half; step += args.steps) {
      args.steps = std::min(kCopied, half - step);
      const int64_t begin = part.first + step;
      const int64_t end = std::min(begin + half + args.steps, part.first + part.depth);
      if (end < begin + half + args.steps) std::fill(second, second + strip_half(), T{0});
      copy(w.strip, begin, begin + args.steps);
      if (begin + half < end) copy(second, begin + half, end);
      args.dst = to + step * args.dst_step;
      quarters_(args);
    }
  }

  // Makes the operands of all channels. Returns false where they hold an infinity or NaN.
  bool fill_small(const Call& call, T* small, char* workers, const Part& part) const {
    const auto bytes = static_cast<double>(small_bytes());
    return share_finite(
        call.crew, tiles_, bytes / machine::kStoreBytesPerSecond, [&](int64_t tile, int member) noexcept {
          const Worker w = worker(workers, member);
          const int64_t both = kHalves * tile_rows_;
          const int64_t channels = std::min(both, channels_ - tile * both);
          bool finite = true;
          QuartersArgs args{};
          args.weights = true;
          args.lanes = std::min(channels, tile_rows_);
          args.second_lanes = channels - args.lanes;
          args.src_step = both;
          args.lane_half = tile_rows_;
          args.dst = small + tile * tile_elements();
          args.dst_step = tile_rows_;
          args.dst_product = product_elements(tile_rows_);
          args.finite = &finite;
          if (lies(part)) {
            const int64_t all = problem_.geometry.channels;
            args.src =
                static_cast<const S*>(call.source) + part.first * all + part.group * channels_ + tile * both;
            args.src_step = all;
            args.depth_half = part.half() * all;
            args.steps = part.half();
            lying_quarters_(args);
            return finite;
          }
          make(w, part, args, [&](T* strip, int64_t begin, int64_t end) noexcept {
            windows_.copy_small(static_cast<const S*>(call.source), strip, both, part.group, tile * both,
                                channels, begin, end);
          });
          return finite;
        });
  }

  // The same of a pair of panels.
  bool fill_pair(const Call& call, const Worker& w, const Part& part, int64_t pair) const noexcept {
    const int64_t lanes = pairs_.kernel(pair).lanes;
    bool finite = true;
    QuartersArgs args{};
    args.lanes = args.second_lanes = args.src_step = args.dst_step = lanes;
    args.lane_half = strip_half() / kHalves;
    args.dst = w.pair;
    args.dst_product = product_elements(lanes);
    args.finite = &finite;
    if (lies(part)) {
      make_lying(static_cast<const S*>(call.weight), part, args, kHalves * pairs_.start(pair));
      return finite;
    }
    make(w, part, args, [&](T* strip, int64_t begin, int64_t end) noexcept {
      windows_.copy(static_cast<const S*>(call.weight), strip, args.lane_half, lanes, part.group,
                    kHalves * pair, kHalves, begin, end);
    });
    return finite;
  }

  // Whether operands of some positions are made from where they lie.
  bool lies(const Part& part) const noexcept { return as_they_lie_ && part.depth % kHalves == 0; }

  // Where a column lies in the window of a position, and how many neighbours do from there on.
  int64_t place_of(int64_t column) const noexcept {
    return segments_.start[static_cast<size_t>(column / segments_.length)] + column % segments_.length;
  }

  int64_t left_of(int64_t column) const noexcept { return segments_.length - column % segments_.length; }

  // Makes those of a pair of panels from there.
  void make_lying(const S* grad, const Part& part, QuartersArgs args, int64_t column) const noexcept {
    const Geometry& g = problem_.geometry;
    const Axis& x = g.axes[2];
    const int64_t width = args.lanes;
    T* const to = static_cast<T*>(args.dst);
    if (column + kHalves * width > columns_) std::fill(to, to + kStrassenProducts * args.dst_product, T{0});
    args.src_step = x.stride * g.filters;
    for (int64_t step = 0; step < part.half(); step += args.steps) {
      // Neighbours of a row in both halves.
      const int64_t first = part.first + step;
      const int64_t second = first + part.half();
      const int64_t from = window_offset(g, first);
      args.steps = std::min(part.half() - step, x.size - std::max(first % x.size, second % x.size));
      args.depth_half = window_offset(g, second) - from;
      for (int64_t lane = 0; lane < std::min(width, columns_ - column); lane += args.lanes) {
        // Neighbours of a segment in both halves.
        const int64_t low = column + lane;
        const int64_t high = low + width;
        args.lanes = std::min(width - lane, left_of(low));
        args.second_lanes = 0;
        if (high < columns_) {
          args.lanes = std::min(args.lanes, left_of(high));
          args.second_lanes = args.lanes;
          args.lane_half = place_of(high) - place_of(low);
        }
        args.src = grad + from + part.group * (g.filters / g.groups) + place_of(low);
        args.dst = to + step * args.dst_step + lane;
        lying_quarters_(args);
      }
    }
  }

  bool multiply(const Call& call, const T* small, T* sums, char* workers, const Part& part) const {
    const double seconds = static_cast<double>(part.depth * pairs_.count()) *
                           machine::rows_step_seconds(pairs_.widest(), channels_);
    std::vector<int64_t> filled(static_cast<size_t>(threads_), -1);
    return share_finite(call.crew, pairs_.count() * parts_, seconds, [&](int64_t unit, int member) noexcept {
      const int64_t pair = unit / parts_;
      const int64_t first = tiles_ * (unit % parts_) / parts_;
      const int64_t last = tiles_ * (unit % parts_ + 1) / parts_;
      const Worker w = worker(workers, member);
      int64_t& has = filled[static_cast<size_t>(member)];
      const bool finite = has == pair || fill_pair(call, w, part, pair);
      has = pair;
      const Kernel& kernel = pairs_.kernel(pair);
      StrassenArgs args{};
      args.a_product = product_elements(tile_rows_);
      args.b = w.pair;
      args.b_product = product_elements(kernel.lanes);
      args.depth = part.half();
      args.together = kTogether;
      args.c = w.outputs;
      args.run = lane_runs_.runs.data();
      args.first_run = lane_runs_.first.data() + kHalves * pairs_.start(pair) / vector_;
      args.kept = w.kept;
      args.phases = 1;
      args.whole = kHalves * pairs_.start(pair + 1) <= columns_;
      args.accumulate = part.first > 0;
      Fetches next;
      if (last == tiles_) next = next_fetches(call, part, pair);
      args.fetch = next.data();
      for (int64_t tile = first; tile < last; ++tile) {
        const int64_t row = tile * kHalves * tile_rows_;
        args.rows = static_cast<int32_t>(std::min(kHalves * tile_rows_, channels_ - row));
        args.a = small + tile * tile_elements();
        for (int64_t r = 0; r < args.rows; ++r) w.outputs[r] = sums + (row + r) * columns_;
        args.fetches = next.due(last - tile, kStrassenProducts * args.depth);
        kernel(args);
      }
      return finite;
    });
  }

  // What the next pair of panels is made of, behind the last one the next positions' first and all channels.
  Fetches next_fetches(const Call& call, const Part& part, int64_t pair) const noexcept {
    Fetches fetches;
    const Geometry& g = problem_.geometry;
    const bool over = pair + 1 == pairs_.count();
    const int64_t next = over ? 0 : pair + 1;
    const int64_t first = over ? part.first + part.depth : part.first;
    const int64_t depth = std::min(depth_, positions_ - first);
    if (depth <= 0 || (g.channels_last && !as_they_lie_)) return fetches;
    constexpr auto element = static_cast<int64_t>(sizeof(S));
    if (over && g.channels_last) {
      fetches.add_rows(static_cast<const S*>(call.source) + first * g.channels + part.group * channels_,
                       channels_ * element, g.channels * element, depth);
    } else if (over) {
      const int64_t places = g.small_positions();
      const int64_t map = first / places * g.channels + part.group * channels_;
      fetches.add_rows(static_cast<const S*>(call.source) + map * places + first % places, depth * element,
                       places * element, channels_);
    }
    const int64_t filters = g.filters / g.groups;
    if (g.channels_last) {
      const Axis& x = g.axes[2];
      const int64_t end = std::min(kHalves * pairs_.start(next + 1), columns_);
      for (int64_t at = first; at < first + depth;) {
        const int64_t count = std::min(first + depth - at, x.size - at % x.size);
        for (int64_t column = kHalves * pairs_.start(next); column < end;) {
          const int64_t length = std::min(end - column, left_of(column));
          fetches.add_rows(static_cast<const S*>(call.weight) + window_offset(g, at) + part.group * filters +
                               place_of(column),
                           length * element, x.stride * g.filters * element, count);
          column += length;
        }
        at += count;
      }
      return fetches;
    }
    const int64_t begin = kHalves * pairs_.start(next) / g.taps();
    const int64_t end = std::min(ceil_div(kHalves * pairs_.start(next + 1), g.taps()), filters);
    fetches.add_windows(g, call.weight, element, part.group * filters + begin, end - begin, first, depth);
    return fetches;
  }

  Problem problem_;
  int64_t channels_;  // of a group
  int64_t columns_;   // of a group
  int64_t positions_;
  Panels pairs_;  // of half the columns
  int64_t tile_rows_;
  int64_t tiles_;   // pairs of them
  int64_t vector_;  // lanes of a vector
  const Kernel& quarters_;
  const Kernel& lying_quarters_;
  bool as_they_lie_;
  Segments segments_;
  Windows<E> windows_;
  LaneRuns lane_runs_;
  int64_t depth_ = 1;  // positions that are multiplied at a time
  int64_t parts_ = 1;  // that tiles are shared in
  int threads_ = 1;
};

double cost(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const Panels pairs(kernels(Family::strassen, compute_dtype(problem.dtype), problem.isa),
                     ceil_div(columns_of(g), kHalves));
  const Kernel& tile = pairs.widest();
  const double width = machine::lanes(tile.dtype, tile.isa);
  const int64_t channels = g.channels / g.groups;
  const auto tiles = static_cast<double>(ceil_div(channels, int64_t{kHalves} * tile.rows));
  const auto positions = static_cast<double>(g.batch * g.groups * g.small_positions());
  const auto lanes = static_cast<double>(pairs.start(pairs.count()));
  const double calls = tiles * lanes / tile.lanes;
  const double vectors = lanes / width;
  // A tile is kept, or stored, after every product, and others are added to it.
  const double stores = static_cast<double>(tile.rows) * tile.lanes / width * 2.5;
  const double sums = calls * kStrassenProducts * (machine::kCallSeconds + stores / machine::kHertz);
  const double products =
      kProducts * calls * kStrassenProducts / kHalves * machine::tile_step_seconds(tile, tile.rows);
  const double rows = tiles * static_cast<double>(ceil_div(tile.rows, static_cast<int64_t>(width)));
  const double operands =
      kStrassenProducts / 2.0 * (vectors * kOperandSeconds + rows * machine::kCopySeconds);
  // Maps that lie apart come meanwhile, and what is not copied.
  const bool lying = lie_in_runs(problem);
  const int64_t far =
      g.weight_elements() + (g.channels_last && !lying ? g.small_elements() + g.large_elements() : 0);
  return positions *
             (products + operands +
              windows_seconds(problem, kHalves * static_cast<double>(pairs.count()), !g.channels_last) *
                  (lying ? 0.5 : 1)) +
         static_cast<double>(g.groups) * std::ceil(positions / static_cast<double>(g.groups * kMostDepth)) *
             sums +
         machine::far_seconds(problem,
                              static_cast<double>(far) * static_cast<double>(storage_bytes(problem.dtype)));
}

}  // namespace

extern const Algorithm weight_strassen;
const Algorithm weight_strassen{"weight_strassen", windows_refusal, cost, make_stored<WeightStrassen>, true};

}  // namespace tconv
