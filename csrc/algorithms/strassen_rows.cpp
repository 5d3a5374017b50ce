// Forward and data gradient where the kernel is the stride and maps lie together, as position_rows, with
// seven products of eight: the positions of a sample, columns and depth are taken in two halves, of which
// Strassen's sums are multiplied. Those of the weights are made when they are packed, those of the source
// when a block of positions is.
#include <algorithm>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "algorithms/fetches.hpp"
#include "algorithms/past_caches.hpp"
#include "algorithms/spread_rows.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "quarters_abi.hpp"

namespace tconv {
namespace {

constexpr int kHalves = 2;
constexpr int64_t kBlockBytes = 256 << 10;  // of operands that one thread makes of the source at a time
constexpr int64_t kNearBytes = 512 << 10;   // of them, that stay in the second cache beside a pair of panels
constexpr int64_t kLeastTiles = 16;         // of a block, for all of which a pair of panels is read once,
constexpr int64_t kLeastNearTiles = 8;      // and of one that stays near
constexpr int64_t kPackedSteps = 8;         // of depth that a thread packs side by side
// Of half the depth that is multiplied at a time, so that a pair of panels of it stays in the second cache.
constexpr int64_t kMostDepth = 512;

// Half of what is summed over.
int64_t depth_of(const Problem& problem) noexcept {
  const Geometry& g = problem.geometry;
  return (problem.pass == Pass::forward ? g.channels : g.filters * g.taps()) / g.groups / kHalves;
}

int64_t columns_of(const Problem& problem) noexcept {
  const Geometry& g = problem.geometry;
  return (problem.pass == Pass::forward ? g.filters * g.taps() : g.channels) / g.groups;
}

template <class T>
class StrassenRows final : public Recipe {
 public:
  explicit StrassenRows(const Problem& problem)
      : problem_(problem),
        activate_(problem),
        quarters_(tconv::kernel(Family::quarters, problem.dtype, problem.isa)),
        strip_quarters_(tconv::kernel(Family::quarters, compute_dtype(problem.dtype), problem.isa)),
        load_(tconv::kernel(Family::load, problem.dtype, problem.isa)),
        forward_(problem.pass == Pass::forward),
        channels_(problem.geometry.channels / problem.geometry.groups),
        filters_(problem.geometry.filters / problem.geometry.groups),
        columns_(columns_of(problem)),
        depth_(depth_of(problem)),
        sample_positions_(problem.geometry.small_positions()),
        half_(ceil_div(sample_positions_, kHalves)),
        pairs_(kernels(Family::strassen, problem.dtype, problem.isa), ceil_div(columns_, kHalves)),
        tile_rows_(pairs_.widest().rows),
        vector_(static_cast<int64_t>(machine::lanes(compute_dtype(problem.dtype), problem.isa))) {
    // Sums wait for the rest in the output, which holds them only where its type does.
    chunks_ = problem.dtype == compute_dtype(problem.dtype) ? ceil_div(depth_, kMostDepth) : 1;
    chunk_ = ceil_div(ceil_div(depth_, chunks_), vector_) * vector_;
    const int64_t together = forward_ ? segment_length(problem.geometry) : channels_;
    whole_ = columns_ == kHalves * pairs_.start(pairs_.count()) && together % vector_ == 0;
    stream_ = whole_ && chunks_ == 1 && (forward_ ? filters_ : channels_) % vector_ == 0 &&
              goes_past_caches(problem);
    cut();
  }

  void list() override {
    const Segments small{channels_, {0}};
    const Segments large = window_segments(problem_.geometry);
    lane_runs_ =
        lane_runs(forward_ ? large : small, columns_, kHalves * pairs_.start(pairs_.count()), vector_);
    const Segments& depth = forward_ ? small : large;
    const auto count = static_cast<int64_t>(depth.start.size());
    const auto start = [&](int64_t i) { return depth.start[static_cast<size_t>(i)]; };
    // Halves are whole segments, or those of each.
    const bool whole = count % kHalves == 0;
    const int64_t length = whole ? depth.length : depth.length / kHalves;
    for (int64_t step = 0; step < depth_;) {
      const int64_t at = step / length;
      const int64_t within = step % length;
      const int64_t steps = std::min(length - within, chunk_ - step % chunk_);
      depth_runs_.push_back({step, std::min(steps, depth_ - step), start(at) + within,
                             whole ? start(at + count / kHalves) - start(at) : length,
                             at * depth.length + within, whole ? depth_ : length});
      step += steps;
    }
  }

  std::string kernel() const override { return pairs_.widest().name; }
  size_t workspace_bytes() const noexcept override { return workspace_; }
  size_t packed_bytes() const noexcept override {
    return static_cast<size_t>(problem_.geometry.groups) * group_bytes();
  }
  std::string packing_key() const override {
    const Geometry& g = problem_.geometry;
    return key_of("strassen_rows",
                  {static_cast<int64_t>(problem_.pass), static_cast<int64_t>(problem_.dtype),
                   int64_t{pairs_.widest().lanes}, g.channels, g.filters, g.groups, g.taps()});
  }
  bool needs_finite_source() const noexcept override { return true; }

  // Packed: [group][pair of panels][chunk of depth][product][step of depth][lane].
  bool pack(const void* weight, char* packed, Crew& crew) const override {
    const double seconds = static_cast<double>(packed_bytes()) / machine::kPackBytesPerSecond;
    return share_finite(
        crew, problem_.geometry.groups * pairs_.count(), seconds, [&](int64_t unit, int) noexcept {
          const int64_t group = unit / pairs_.count();
          T* const to = reinterpret_cast<T*>(packed + static_cast<size_t>(group) * group_bytes());
          return pack_pair(weight, to, group, unit % pairs_.count());
        });
  }

  bool run(const Call& call) const override {
    const Buffer scratch(workspace_);
    Pieces pieces(scratch.data());
    const char* packed = packed_weights(call, pieces);
    if (packed == nullptr) return false;
    const T* const bias =
        made_bias<T>(call, pieces, bias_bytes(), [this](const void* from, T* to) { spread_bias(from, to); });
    call.crew.limit(threads_);
    char* const workers = pieces.rest();
    const double seconds = machine::seconds(problem_) * threads_;
    std::vector<int64_t> filled(static_cast<size_t>(threads_), -1);
    return share_finite(
        call.crew, problem_.geometry.groups * blocks_ * parts_, seconds,
        [&](int64_t unit, int member) noexcept {
          const int64_t part = unit % parts_;
          const int64_t wanted = unit / parts_;
          const int64_t block = wanted % blocks_;
          const int64_t group = wanted / blocks_;
          const Worker w = worker(workers, member);
          int64_t& has = filled[static_cast<size_t>(member)];
          const bool finite = has == wanted || fill(call, w, group, block);
          has = wanted;
          multiply(call, reinterpret_cast<const T*>(packed + static_cast<size_t>(group) * group_bytes()),
                   bias, w, group, block, pairs_.count() * part / parts_,
                   pairs_.count() * (part + 1) / parts_);
          return finite;
        });
  }

 private:
  // Neighbours of half the depth, none in two chunks.
  struct DepthRun {
    int64_t step;
    int64_t count;
    int64_t source;       // from that of the position
    int64_t source_half;  // to the second half
    int64_t window;       // the same in the weights of a channel
    int64_t window_half;
  };

  // What one thread works in.
  struct Worker {
    T* rows;         // operands of a block: by tile of each half, chunk, product and row
    T* kept;         // tiles of the kernel
    void** outputs;  // by tile of a block, its rows of the first half, then of the second
    bool* whole;     // by tile, whether there are all of its rows, and every vector is one run of the output
  };

  int64_t element() const noexcept { return static_cast<int64_t>(storage_bytes(problem_.dtype)); }
  // Rows of either half, of all samples.
  int64_t rows() const noexcept { return problem_.geometry.batch * half_; }
  // Products and rows lie a vector further apart than they need, or they share sets of the nearest cache.
  int64_t product_elements(int64_t step) const noexcept { return chunk_ * step + vector_; }
  // Of all products of a chunk.
  int64_t chunk_elements(int64_t step) const noexcept { return kStrassenProducts * product_elements(step); }
  int64_t pair_elements() const noexcept { return chunks_ * chunk_elements(pairs_.widest().lanes); }
  int64_t row_elements() const noexcept { return chunk_ + vector_; }
  int64_t tile_product() const noexcept { return tile_rows_ * row_elements(); }
  int64_t tile_chunk() const noexcept { return kStrassenProducts * tile_product(); }
  int64_t tile_elements() const noexcept { return chunks_ * tile_chunk(); }
  size_t group_bytes() const noexcept {
    return aligned(static_cast<size_t>(pairs_.count() * pair_elements()) * sizeof(T));
  }
  size_t bias_bytes() const noexcept {
    return aligned(static_cast<size_t>(problem_.geometry.groups * kHalves * pairs_.start(pairs_.count())) *
                   sizeof(T));
  }
  size_t row_bytes() const noexcept {
    return aligned(static_cast<size_t>(block_tiles_ * tile_elements()) * sizeof(T));
  }
  size_t kept_bytes() const noexcept {
    return aligned(static_cast<size_t>(kStrassenKept * tile_rows_ * pairs_.widest().lanes) * sizeof(T));
  }
  size_t output_bytes() const noexcept {
    return aligned(static_cast<size_t>(block_tiles_ * kHalves * tile_rows_) * sizeof(void*));
  }
  size_t whole_bytes() const noexcept { return aligned(static_cast<size_t>(block_tiles_)); }
  size_t worker_bytes() const noexcept { return row_bytes() + kept_bytes() + output_bytes() + whole_bytes(); }

  Worker worker(char* workers, int member) const noexcept {
    Pieces pieces(workers + static_cast<size_t>(member) * worker_bytes());
    Worker made{};
    made.rows = pieces.take<T>(row_bytes());
    made.kept = pieces.take<T>(kept_bytes());
    made.outputs = pieces.take<void*>(output_bytes());
    made.whole = pieces.take<bool>(whole_bytes());
    return made;
  }

  // Decides blocks of positions, their parts and threads, so that the workspace holds them.
  void cut() {
    threads_ = problem_.threads;
    const int64_t tiles = ceil_div(rows(), tile_rows_);
    const int64_t tile_bytes = tile_elements() * static_cast<int64_t>(sizeof(T));
    const int64_t near = kNearBytes / tile_bytes;
    const int64_t least = near < kLeastNearTiles ? kLeastTiles : std::min(near, kLeastTiles);
    block_tiles_ = std::min(tiles, std::max(kBlockBytes / tile_bytes, least));
    const auto total = [&] {
      return (problem_.packed ? 0 : aligned(packed_bytes())) + bias_bytes() +
             worker_bytes() * static_cast<size_t>(threads_);
    };
    while (threads_ > 1 && total() > problem_.workspace) --threads_;
    if (total() > problem_.workspace) block_tiles_ = 1;
    blocks_ = ceil_div(tiles, block_tiles_);
    block_tiles_ = ceil_div(tiles, blocks_);
    const int64_t work = blocks_ * problem_.geometry.groups;
    parts_ = threads_ > 1 && work < 6 * threads_ ? std::min(pairs_.count(), ceil_div(6 * threads_, work)) : 1;
    workspace_ = total();
  }

  bool pack_pair(const void* weight, T* packed, int64_t group, int64_t pair) const noexcept {
    const int64_t width = pairs_.kernel(pair).lanes;
    const int64_t column = kHalves * pairs_.start(pair);
    const int64_t window = filters_ * problem_.geometry.taps();
    const char* const from = static_cast<const char*>(weight) + group * channels_ * window * element();
    T* const to = packed + pair * pair_elements();
    T strip[kHalves * kPackedSteps * kMostLanes];
    bool finite = true;
    QuartersArgs args{};
    args.lane_half = width;
    args.lanes = std::clamp<int64_t>(columns_ - column, 0, width);
    args.second_lanes = std::clamp<int64_t>(columns_ - column - width, 0, width);
    args.dst_step = width;
    args.dst_product = product_elements(width);
    args.finite = &finite;
    if (args.lanes < width) std::fill(to, to + pair_elements(), T{0});
    for (const DepthRun& run : depth_runs_) {
      for (int64_t step = run.step; step < run.step + run.count; step += args.steps) {
        args.steps = std::min(kPackedSteps, run.step + run.count - step);
        args.dst = to + step / chunk_ * chunk_elements(width) + step % chunk_ * width;
        const int64_t element_of_window = run.window + step - run.step;
        if (forward_) {
          args.src = from + (element_of_window * columns_ + column) * element();
          args.src_step = columns_;
          args.depth_half = run.window_half * columns_;
          quarters_(args);
          continue;
        }
        // Lanes are rows of the weights.
        args.src = strip;
        args.src_step = kHalves * width;
        args.depth_half = kPackedSteps * args.src_step;
        MoveArgs move{};
        move.src_row = window;
        move.src_column = move.dst_row = 1;
        move.dst_column = args.src_step;
        move.rows = args.lanes + args.second_lanes;
        move.columns = args.steps;
        for (int64_t half = 0; half < kHalves; ++half) {
          move.src = from + (column * window + element_of_window + half * run.window_half) * element();
          move.dst = strip + half * args.depth_half;
          load_(move);
        }
        strip_quarters_(args);
      }
    }
    return finite;
  }

  void spread_bias(const void* bias, T* spread) const noexcept {
    const int64_t maps = forward_ ? filters_ : channels_;
    std::fill(spread, spread + bias_bytes() / sizeof(T), T{0});
    with_dtype(problem_.dtype, [&](auto e) {
      const auto* from = static_cast<const typename decltype(e)::storage*>(bias);
      for (int64_t group = 0; group < problem_.geometry.groups; ++group) {
        T* const to = spread + group * kHalves * pairs_.start(pairs_.count());
        for (int64_t column = 0; column < columns_; ++column)
          to[column] = static_cast<T>(e.load(from[group * maps + column % maps]));
      }
    });
  }

  // The position of a row of a half, of all samples, or -1.
  int64_t position_of(int64_t row, int64_t half) const noexcept {
    const int64_t at = row % half_ + half * half_;
    return row >= rows() || at >= sample_positions_ ? -1 : row / half_ * sample_positions_ + at;
  }

  int64_t small_offset(int64_t position, int64_t group) const noexcept {
    return position * problem_.geometry.channels + group * channels_;
  }

  int64_t large_offset(int64_t position, int64_t group) const noexcept {
    return window_offset(problem_.geometry, position) + group * filters_;
  }

  int64_t source_offset(int64_t position, int64_t group) const noexcept {
    return forward_ ? small_offset(position, group) : large_offset(position, group);
  }

  // Makes the operands of a block, and finds where its rows go. Returns false where the source holds an
  // infinity or NaN.
  bool fill(const Call& call, const Worker& w, int64_t group, int64_t block) const noexcept {
    const int64_t first = block * block_tiles_ * tile_rows_;
    char* const out = static_cast<char*>(call.out);
    bool finite = true;
    for (int64_t tile = 0; tile < block_tiles_; ++tile) {
      const int64_t row = first + tile * tile_rows_;
      if (row >= rows()) break;
      if (!fill_tile(call.source, w.rows + tile * tile_elements(), group, row)) finite = false;
      w.whole[tile] = whole_;
      for (int64_t half = 0; half < kHalves; ++half) {
        for (int64_t r = 0; r < tile_rows_; ++r) {
          const int64_t position = position_of(row + r, half);
          void*& output = w.outputs[(tile * kHalves + half) * tile_rows_ + r];
          output = nullptr;
          if (position < 0) {
            w.whole[tile] = false;
          } else {
            output =
                out + (forward_ ? large_offset(position, group) : small_offset(position, group)) * element();
          }
        }
      }
    }
    return finite;
  }

  // Makes the operands of a tile, which lie as the source does.
  bool fill_tile(const void* source, T* to, int64_t group, int64_t first) const noexcept {
    const Axis& x = problem_.geometry.axes[2];
    bool finite = true;
    QuartersArgs args{};
    args.weights = true;
    args.src_step = forward_ ? problem_.geometry.channels : x.stride * problem_.geometry.filters;
    args.dst_product = tile_product();
    args.dst_step = row_elements();
    args.finite = &finite;
    for (int64_t r = 0; r < tile_rows_; r += args.steps) {
      T* const at = to + r * row_elements();
      const int64_t position = position_of(first + r, 0);
      args.steps = 1;
      if (position < 0) {
        for (int64_t product = 0; product < chunks_ * kStrassenProducts; ++product)
          std::fill(at + product * tile_product(), at + product * tile_product() + chunk_, T{0});
        continue;
      }
      // Neighbours of a sample, or of a row of it, which the second half has all, or one that it lacks.
      const int64_t second = position_of(first + r, 1);
      const int64_t from = source_offset(position, group);
      const int64_t left = forward_ ? tile_rows_ : x.size - std::max(position % x.size, second % x.size);
      while (second >= 0 && args.steps < std::min(left, tile_rows_ - r) &&
             position_of(first + r + args.steps, 1) == second + args.steps) {
        ++args.steps;
      }
      args.lane_half = second < 0 ? 0 : source_offset(second, group) - from;
      for (const DepthRun& run : depth_runs_) {
        args.src = static_cast<const char*>(source) + (from + run.source) * element();
        args.depth_half = run.source_half;
        args.lanes = run.count;
        args.second_lanes = second < 0 ? 0 : run.count;
        args.dst = at + run.step / chunk_ * tile_chunk() + run.step % chunk_;
        quarters_(args);
      }
    }
    return finite;
  }

  // Makes some pairs of panels of a block.
  void multiply(const Call& call, const T* weights, const T* bias, const Worker& w, int64_t group,
                int64_t block, int64_t first_pair, int64_t last_pair) const noexcept {
    const int64_t left = rows() - block * block_tiles_ * tile_rows_;
    const int64_t tiles = std::min(block_tiles_, ceil_div(left, tile_rows_));
    int64_t calls = chunks_ * tiles * (last_pair - first_pair);
    Fetches next = next_source(call.source, group, block);
    StrassenArgs args{};
    args.fetch = next.data();
    args.a_product = tile_product();
    args.a_row = row_elements();
    args.run = lane_runs_.runs.data();
    args.kept = w.kept;
    args.rows = static_cast<int32_t>(kHalves * tile_rows_);
    args.phases = 1;
    args.stream = stream_ && reinterpret_cast<uintptr_t>(call.out) % kAlignment == 0;
    for (int64_t pair = first_pair; pair < last_pair; ++pair) {
      const Kernel& kernel = pairs_.kernel(pair);
      const int64_t column = kHalves * pairs_.start(pair);
      args.b_product = product_elements(kernel.lanes);
      args.first_run = lane_runs_.first.data() + column / vector_;
      for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
        args.b = weights + pair * pair_elements() + chunk * chunk_elements(kernel.lanes);
        args.depth = args.together = std::min(chunk_, depth_ - chunk * chunk_);
        args.accumulate = chunk > 0;
        args.activation = chunk + 1 == chunks_ ? activate_.get() : nullptr;
        args.bias_lanes = bias == nullptr || chunk > 0
                              ? nullptr
                              : bias + group * kHalves * pairs_.start(pairs_.count()) + column;
        for (int64_t tile = 0; tile < tiles; ++tile) {
          args.a = w.rows + tile * tile_elements() + chunk * tile_chunk();
          args.c = w.outputs + tile * kHalves * tile_rows_;
          args.whole = w.whole[tile];
          args.fetches = next.due(calls--, kStrassenProducts * args.depth);
          kernel(args);
        }
      }
    }
    if (args.stream) finish_past_caches();
  }

  // The source of the next block, in both halves.
  Fetches next_source(const void* source, int64_t group, int64_t block) const noexcept {
    Fetches fetches;
    const int64_t first = (block + 1) * block_tiles_ * tile_rows_;
    const int64_t end = std::min(first + block_tiles_ * tile_rows_, rows());
    for (int64_t row = first; row < end;) {
      const PartPiece piece(row, end, sample_positions_, half_);
      for (int64_t half = 0; half < kHalves; ++half) {
        const int64_t position = piece.position + half * half_;
        const int64_t count = piece.count_of(half);
        if (forward_) {
          fetches.add_rows(static_cast<const char*>(source) + small_offset(position, group) * element(),
                           channels_ * element(), problem_.geometry.channels * element(), count);
        } else {
          fetches.add_windows(problem_.geometry, source, element(), group * filters_, filters_, position,
                              count);
        }
      }
      row += piece.count;
    }
    return fetches;
  }

  static constexpr int64_t kMostLanes = 96;  // of a pair of panels

  Problem problem_;
  Activate activate_;
  const Kernel& quarters_;
  const Kernel& strip_quarters_;
  const Kernel& load_;
  bool forward_;
  int64_t channels_;  // of a group, as all below
  int64_t filters_;
  int64_t columns_;
  int64_t depth_;      // of one half
  int64_t chunk_ = 0;  // of it that is multiplied at a time
  int64_t chunks_ = 1;
  int64_t sample_positions_;
  int64_t half_;  // positions of the first half of a sample
  Panels pairs_;  // of half the columns
  int64_t tile_rows_;
  int64_t vector_;  // lanes of a vector
  std::vector<DepthRun> depth_runs_;
  LaneRuns lane_runs_;
  bool whole_ = false;   // whether every vector is one run of the output
  bool stream_ = false;  // whether outputs go past the caches
  int64_t block_tiles_ = 1;
  int64_t blocks_ = 1;
  int64_t parts_ = 1;  // that pairs are shared in
  int threads_ = 1;
  size_t workspace_ = 0;
};

std::optional<std::string> refusal(const Problem& problem) {
  const Geometry& g = problem.geometry;
  if (!g.channels_last) return "maps lie apart";
  if (const auto reason = overlap_refusal(g)) return reason;
  if (problem.pass == Pass::forward && g.channels / g.groups % kHalves != 0)
    return "an odd number of channels";
  if (problem.pass == Pass::data_gradient && g.filters / g.groups * g.taps() % kHalves != 0)
    return "an odd number of taps and filters";
  return std::nullopt;
}

double cost(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const Panels pairs(kernels(Family::strassen, problem.dtype, problem.isa),
                     ceil_div(columns_of(problem), kHalves));
  const double vector = machine::lanes(compute_dtype(problem.dtype), problem.isa);
  const auto depth = static_cast<double>(depth_of(problem));
  const auto groups = static_cast<double>(g.groups);
  const double rows = static_cast<double>(g.batch * ceil_div(g.small_positions(), kHalves));
  int64_t wide = pairs.count();
  while (wide > 0 && pairs.kernel(wide - 1).lanes < pairs.widest().lanes) --wide;
  const auto tile_seconds = [&](const Kernel& tile) {
    // A tile is kept, or stored, after every product, and others are added to it.
    const double stores = static_cast<double>(tile.rows) * tile.lanes / vector * 2.5;
    return depth * machine::tile_step_seconds(tile, tile.rows) + machine::kCallSeconds +
           stores / machine::kHertz;
  };
  const double row =
      static_cast<double>(wide) * tile_seconds(pairs.widest()) +
      static_cast<double>(pairs.count() - wide) * tile_seconds(pairs.kernel(pairs.count() - 1));
  const double tiles = groups * std::max(1.0, rows / pairs.widest().rows);
  // Operands that are made of the source, and read.
  const double copied = 2.0 * rows / vector * groups * depth * kStrassenProducts;
  return tiles * row * kStrassenProducts + copied * machine::kCopySeconds +
         machine::traffic_seconds(
             problem, kStrassenProducts / 4.0,
             problem.pass == Pass::forward ? kQuarterBytesPerSecond : kTurnedBytesPerSecond);
}

}  // namespace

extern const Algorithm strassen_rows;
const Algorithm strassen_rows{"strassen_rows", refusal, cost, make_computed<StrassenRows>, true};

}  // namespace tconv
