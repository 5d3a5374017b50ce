// Forward where the kernel is the stride, as strassen, with 49 products of 64: rows, positions and depth are
// taken in two halves twice. Of what each of the outer products is made of, the kernel forms seven products.
// Products of some tiles are made one after the other, so that what they are made of the input stays in the
// second cache, and wait there for each other to be added up.
//
// The quarters of the positions are those of each sample, so that a sample's bits do not depend on the
// others.
#include <algorithm>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "algorithms/fetches.hpp"
#include "algorithms/past_caches.hpp"
#include "algorithms/spread_rows.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "merge_abi.hpp"
#include "quarters_abi.hpp"

namespace tconv {
namespace {

constexpr int64_t kHalves = 2;
constexpr int64_t kQuarters = 4;
constexpr int64_t kTogether = 4;      // tiles whose products wait for each other
constexpr int64_t kPackedTiles = 16;  // that a thread packs at a time
constexpr int64_t kSteps = 8;         // of depth that operands are made of at a time
// Of a quarter of the depth, so that the operands of an outer product stay in the second cache.
constexpr int64_t kMostDepth = 512;
constexpr double kTwiceBytesPerSecond = 9.5e9;  // of operands that are made of weights

int64_t vector_of(const Problem& problem) noexcept {
  return static_cast<int64_t>(machine::lanes(compute_dtype(problem.dtype), problem.isa));
}

std::span<const Kernel> products_of(const Problem& problem) noexcept {
  return kernels(Family::strassen, compute_dtype(problem.dtype), problem.isa);
}

template <class T>
class StrassenTwice final : public Recipe {
 public:
  explicit StrassenTwice(const Problem& problem)
      : problem_(problem),
        activate_(problem),
        outer_(tconv::kernel(Family::quarters, problem.dtype, problem.isa)),
        inner_(tconv::kernel(Family::quarters, compute_dtype(problem.dtype), problem.isa)),
        merge_(tconv::kernel(Family::merge, problem.dtype, problem.isa)),
        vector_(vector_of(problem)),
        quarter_(part_positions(problem.geometry, kQuarters, vector_)),
        panels_(products_of(problem), problem.geometry.batch * quarter_),
        tile_rows_(panels_.widest().rows) {
    const Geometry& g = problem.geometry;
    channels_ = g.channels / g.groups;
    filters_ = g.filters / g.groups;
    depth_ = channels_ / kQuarters;
    rows_ = filters_ * g.taps();
    phases_ = g.axes[2].stride;
    tiles_ = ceil_div(rows_ / kHalves, kHalves * tile_rows_);
    positions_ = g.small_positions();
    stream_weights_ = packed_bytes() >= kPastCachesBytes && product_elements(tile_rows_) % vector_ == 0;
    threads_ = problem.threads;
    const auto total = [&] {
      return (problem.packed ? 0 : aligned(packed_bytes())) + aligned(bias_bytes()) +
             worker_bytes() * static_cast<size_t>(threads_);
    };
    while (threads_ > 1 && total() > problem.workspace) --threads_;
    workspace_ = total();
    const int64_t units = panels_.count() * g.groups;
    parts_ = threads_ > 1 && units < 6 * threads_ ? std::min(tiles_, ceil_div(6 * threads_, units)) : 1;
  }

  std::string kernel() const override { return panels_.widest().name; }
  size_t workspace_bytes() const noexcept override { return workspace_; }
  size_t packed_bytes() const noexcept override {
    return static_cast<size_t>(problem_.geometry.groups) * group_bytes();
  }
  std::string packing_key() const override {
    const Geometry& g = problem_.geometry;
    return key_of("strassen_twice", {static_cast<int64_t>(problem_.dtype), tile_rows_, g.channels, g.filters,
                                     g.groups, g.taps()});
  }
  bool needs_finite_source() const noexcept override { return true; }

  // Packed: [group][outer product][tile][product][step of depth][row of the tile], tiles being those of both
  // halves of a half of the rows.
  bool pack(const void* weight, char* packed, Crew& crew) const override {
    const int64_t runs = ceil_div(tiles_, kPackedTiles);
    const double seconds = static_cast<double>(packed_bytes()) / machine::kPackBytesPerSecond;
    return share_finite(crew, problem_.geometry.groups * runs, seconds, [&](int64_t unit, int) noexcept {
      const int64_t first = unit % runs * kPackedTiles;
      T* const to = reinterpret_cast<T*>(packed + static_cast<size_t>(unit / runs) * group_bytes());
      return pack_tiles(weight, to, unit / runs, first, std::min(first + kPackedTiles, tiles_));
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
    std::vector<int64_t> filled(static_cast<size_t>(threads_), -1);
    return share_finite(
        call.crew, problem_.geometry.groups * panels_.count() * parts_, machine::seconds(problem_) * threads_,
        [&](int64_t unit, int member) noexcept {
          const int64_t wanted = unit / parts_;
          const int64_t part = unit % parts_;
          const int64_t group = wanted / panels_.count();
          const int64_t panel = wanted % panels_.count();
          const auto index = static_cast<size_t>(member);
          const Worker w = worker(workers + index * worker_bytes());
          const bool finite = filled[index] == wanted || fill(call.source, w, group, panel);
          filled[index] = wanted;
          multiply(call, reinterpret_cast<const T*>(packed + static_cast<size_t>(group) * group_bytes()),
                   bias, w, group, panel, tiles_ * part / parts_, tiles_ * (part + 1) / parts_);
          return finite;
        });
  }

 private:
  // What one thread works in.
  struct Worker {
    T* panel;
    T* strip;
    T* products;  // [outer product][tile][row][lane]
    T* kept;      // tiles of the kernel
    SpreadRun* runs;
    int32_t* first_run;  // by vector, quarter after quarter, and the end
    bool* whole;         // whether every vector is one run of the output
  };

  int64_t lanes() const noexcept { return problem_.geometry.batch * quarter_; }
  int64_t element() const noexcept { return static_cast<int64_t>(storage_bytes(problem_.dtype)); }
  // Products lie a vector further apart than they need, or they share sets of the nearest cache.
  int64_t product_elements(int64_t step) const noexcept { return depth_ * step + vector_; }
  // Of those of an outer product.
  int64_t outer_elements(int64_t step) const noexcept { return kStrassenProducts * product_elements(step); }
  // Steps of depth from both halves of an outer operand, for all of them.
  static int64_t strip_elements(int64_t lanes) noexcept {
    return kStrassenProducts * kHalves * kSteps * kHalves * lanes;
  }
  int64_t tile_elements(int64_t lanes) const noexcept { return kHalves * tile_rows_ * kHalves * lanes; }
  size_t group_bytes() const noexcept {
    return aligned(static_cast<size_t>(kStrassenProducts * tiles_ * outer_elements(tile_rows_)) * sizeof(T));
  }
  size_t bias_bytes() const noexcept {
    return static_cast<size_t>(problem_.geometry.groups * rows_) * sizeof(T);
  }
  size_t bytes(int64_t elements) const noexcept { return static_cast<size_t>(elements) * sizeof(T); }
  size_t panel_bytes() const noexcept {
    return bytes(kStrassenProducts * outer_elements(panels_.widest().lanes));
  }
  size_t strip_bytes() const noexcept { return bytes(strip_elements(panels_.widest().lanes)); }
  size_t products_bytes() const noexcept {
    return bytes(kStrassenProducts * kTogether * tile_elements(panels_.widest().lanes));
  }
  size_t kept_bytes() const noexcept { return bytes(kStrassenKept * tile_rows_ * panels_.widest().lanes); }
  size_t run_bytes() const noexcept {
    return static_cast<size_t>(kQuarters * panels_.widest().lanes) * sizeof(SpreadRun);
  }
  size_t first_run_bytes() const noexcept {
    return static_cast<size_t>(kQuarters * panels_.widest().lanes / vector_ + 1) * sizeof(int32_t);
  }
  size_t worker_bytes() const noexcept {
    return aligned(panel_bytes()) + aligned(strip_bytes()) + aligned(products_bytes()) +
           aligned(kept_bytes()) + aligned(run_bytes()) + aligned(first_run_bytes()) + aligned(sizeof(bool));
  }

  Worker worker(char* memory) const noexcept {
    Pieces pieces(memory);
    Worker made{};
    made.panel = pieces.take<T>(panel_bytes());
    made.strip = pieces.take<T>(strip_bytes());
    made.products = pieces.take<T>(products_bytes());
    made.kept = pieces.take<T>(kept_bytes());
    made.runs = pieces.take<SpreadRun>(run_bytes());
    made.first_run = pieces.take<int32_t>(first_run_bytes());
    made.whole = pieces.take<bool>(sizeof(bool));
    return made;
  }

  void spread_bias(const void* bias, T* spread) const noexcept {
    const int64_t taps = problem_.geometry.taps();
    with_dtype(problem_.dtype, [&](auto e) {
      const auto* from = static_cast<const typename decltype(e)::storage*>(bias);
      for (int64_t row = 0; row < problem_.geometry.filters * taps; ++row)
        spread[row] = static_cast<T>(e.load(from[row / taps]));
    });
  }

  // Packs some tiles of a group. Returns false where it meets an infinity or NaN, or makes one.
  bool pack_tiles(const void* weight, T* packed, int64_t group, int64_t first, int64_t last) const noexcept {
    bool finite = true;
    const int64_t both = kHalves * tile_rows_;
    T strip[kStripElements] = {};
    for (int64_t step = 0; step < depth_; step += kSteps) {
      const int64_t steps = std::min(kSteps, depth_ - step);
      for (int64_t tile = first; tile < last; ++tile) {
        QuartersArgs args{};
        args.weights = true;
        args.finite = &finite;
        args.steps = steps;
        args.lane_half = rows_ / kHalves;
        args.depth_half = kHalves * depth_ * rows_;
        args.src_step = rows_;
        args.ahead = std::min(kSteps, depth_ - step - steps) * rows_;
        for (int64_t half = 0; half < kHalves; ++half) {
          args.src = static_cast<const char*>(weight) +
                     ((group * channels_ + half * depth_ + step) * rows_ + tile * both) * element();
          // Rows beyond them are made of what the tile before left, and go nowhere.
          args.lanes = args.second_lanes = std::min(both, rows_ / kHalves - tile * both);
          args.dst = strip + half * kSteps * both;
          args.dst_step = both;
          args.dst_product = kHalves * kSteps * both;
          outer_(args);
        }
        args.stream = stream_weights_;
        make_inner(args, strip, tile_rows_, [&](int64_t outer) {
          return packed + (outer * tiles_ + tile) * outer_elements(tile_rows_) + step * tile_rows_;
        });
      }
    }
    if (stream_weights_) finish_past_caches();
    return finite;
  }

  // Makes steps of the operands of all products from those of the outer ones in a strip.
  template <class To>
  void make_inner(QuartersArgs args, const T* strip, int64_t lanes, const To& to) const noexcept {
    args.lane_half = args.lanes = args.second_lanes = args.dst_step = lanes;
    args.src_step = kHalves * lanes;
    args.depth_half = kSteps * args.src_step;
    args.dst_product = product_elements(lanes);
    args.ahead = 0;
    for (int64_t outer = 0; outer < kStrassenProducts; ++outer) {
      args.src = strip + outer * kHalves * args.depth_half;
      args.dst = to(outer);
      inner_(args);
    }
  }

  // Makes a panel, and finds where it goes. Returns false where the input holds an infinity or NaN, or sums
  // do.
  bool fill(const void* source, const Worker& w, int64_t group, int64_t panel) const noexcept {
    const int64_t first = panels_.start(panel);
    const int64_t width = panels_.kernel(panel).lanes;
    const int64_t end = std::min(first + width, lanes());
    bool finite = true;
    // Lanes that have no position are never written.
    std::fill(w.strip, w.strip + strip_elements(width), T{0});
    for (int64_t step = 0; step < depth_; step += kSteps) {
      QuartersArgs args{};
      args.finite = &finite;
      args.steps = std::min(kSteps, depth_ - step);
      args.lane_half = kHalves * quarter_;
      args.depth_half = kHalves * depth_ * positions_;
      args.src_step = positions_;
      args.dst_step = kHalves * width;
      args.dst_product = kHalves * kSteps * kHalves * width;
      args.ahead = std::min(kSteps, depth_ - step - args.steps) * positions_;
      for (int64_t lane = first; lane < end;) {
        const PartPiece piece(lane, end, positions_, quarter_);
        const int64_t sample = piece.position / positions_;
        const int64_t channel = sample * problem_.geometry.channels + group * channels_ + step;
        for (int64_t i = 0; i < kHalves * kHalves; ++i) {
          const int64_t quarter = i % kHalves;
          const int64_t half = i / kHalves;
          args.src = static_cast<const char*>(source) + ((channel + half * depth_) * positions_ +
                                                         piece.position % positions_ + quarter * quarter_) *
                                                            element();
          args.lanes = piece.count_of(quarter);
          args.second_lanes = piece.count_of(quarter + kHalves);
          args.dst = w.strip + (half * kSteps * kHalves + quarter) * width + lane - first;
          outer_(args);
        }
        lane += piece.count;
      }
      make_inner(args, w.strip, width,
                 [&](int64_t outer) { return w.panel + outer * outer_elements(width) + step * width; });
    }
    find_outputs(w, first, end, width);
    return finite;
  }

  // Where the vectors of a panel go.
  void find_outputs(const Worker& w, int64_t first, int64_t end, int64_t width) const noexcept {
    int32_t runs = 0;
    int32_t* first_run = w.first_run;
    *w.whole = true;
    for (int64_t quarter = 0; quarter < kQuarters; ++quarter) {
      for (int64_t begin = first; begin < first + width; begin += vector_) {
        *first_run++ = runs;
        const int64_t before = runs;
        const int64_t last = std::min(begin + vector_, end);
        for (int64_t lane = begin; lane < last;) {
          const PartPiece piece(lane, last, positions_, quarter_);
          runs += find_rows(problem_.geometry, w.runs + runs, piece.position + quarter * quarter_,
                            lane - begin, lane - begin + piece.count_of(quarter));
          lane += piece.count;
        }
        if (runs == before) w.runs[runs++] = {0, 0, 0};
        if (runs != before + 1 || w.runs[before].end - w.runs[before].begin != vector_) *w.whole = false;
      }
    }
    *first_run = runs;
  }

  // Makes the rows of some tiles for a panel.
  void multiply(const Call& call, const T* weights, const T* bias, const Worker& w, int64_t group,
                int64_t panel, int64_t first_tile, int64_t last_tile) const noexcept {
    const Kernel& kernel = panels_.kernel(panel);
    const int64_t width = kHalves * kernel.lanes;
    const int64_t rows = kHalves * tile_rows_;
    // Tiles of products lie row after row.
    const int64_t vectors = width / vector_;
    SpreadRun run[kMostVectors];
    int32_t first_run[kMostVectors + 1];
    for (int64_t v = 0; v <= vectors; ++v) {
      first_run[v] = static_cast<int32_t>(v);
      if (v < vectors) run[v] = {v * vector_, 0, static_cast<int32_t>(vector_)};
    }
    void* outputs[kMostMergedRows];
    StrassenArgs args{};
    args.a_product = product_elements(tile_rows_);
    args.b_product = product_elements(kernel.lanes);
    args.depth = args.together = depth_;
    args.c = outputs;
    args.run = run;
    args.first_run = first_run;
    args.kept = w.kept;
    args.rows = static_cast<int32_t>(rows);
    args.phases = 1;
    args.whole = true;
    const int64_t steps = kStrassenProducts * depth_;
    for (int64_t first = first_tile; first < last_tile; first += kTogether) {
      const int64_t count = std::min(kTogether, last_tile - first);
      Fetches output = merged_outputs(call.out, group, panel, first, count);
      int64_t merged_calls = kStrassenProducts * count;
      for (int64_t outer = 0; outer < kStrassenProducts; ++outer) {
        args.b = w.panel + outer * outer_elements(kernel.lanes);
        for (int64_t i = 0; i < count; ++i) {
          args.fetch = output.data();
          args.fetches = output.due(merged_calls--, steps);
          args.a = weights + (outer * tiles_ + first + i) * outer_elements(tile_rows_);
          for (int64_t r = 0; r < rows; ++r)
            outputs[r] = w.products + ((outer * kTogether + i) * rows + r) * width;
          kernel(args);
        }
      }
      for (int64_t i = 0; i < count; ++i) merge(call, bias, w, group, kernel, first + i, i);
    }
  }

  // Where the products of some tiles are added up.
  Fetches merged_outputs(const void* out, int64_t group, int64_t panel, int64_t first,
                         int64_t count) const noexcept {
    const Geometry& g = problem_.geometry;
    const int64_t rows = kHalves * tile_rows_;
    const int64_t end = std::min(lanes(), panels_.start(panel + 1));
    Fetches fetches;
    for (int64_t half = 0; half < kHalves; ++half) {
      const int64_t row = half * rows_ / kHalves;
      const int64_t map = (row + first * rows) / g.taps();
      const int64_t last = ceil_div(row + std::min((first + count) * rows, rows_ / kHalves), g.taps());
      for (int64_t lane = panels_.start(panel); lane < end;) {
        const PartPiece piece(lane, end, positions_, quarter_);
        for (int64_t quarter = 0; quarter < kQuarters; ++quarter) {
          fetches.add_windows(g, out, element(), group * filters_ + map, last - map,
                              piece.position + quarter * quarter_, piece.count_of(quarter));
        }
        lane += piece.count;
      }
    }
    return fetches;
  }

  // Adds up the products of a tile.
  void merge(const Call& call, const T* bias, const Worker& w, int64_t group, const Kernel& kernel,
             int64_t tile, int64_t place) const noexcept {
    const auto& [z, y, x] = problem_.geometry.axes;
    const int64_t rows = kHalves * tile_rows_;
    const int64_t width = kHalves * kernel.lanes;
    void* outputs[kHalves][kMostMergedRows];
    MergeArgs args{};
    args.product = w.products + place * rows * width;
    args.product_step = kTogether * rows * width;
    args.row_step = width;
    args.activation = activate_.get();
    args.run = w.runs;
    args.first_run = w.first_run;
    args.vectors = width / vector_;
    args.rows = static_cast<int32_t>(std::min(rows, rows_ / kHalves - tile * rows));
    args.phases = static_cast<int32_t>(phases_);
    args.whole = *w.whole;
    for (int64_t half = 0; half < kHalves; ++half) {
      const int64_t row = half * rows_ / kHalves + tile * rows;
      args.bias[half] = bias == nullptr ? nullptr : bias + group * rows_ + row;
      args.c[half] = outputs[half];
      for (int64_t r = 0; r < args.rows; r += phases_) {
        const int64_t tap = (row + r) / phases_;
        const int64_t map = group * filters_ + tap / (z.kernel * y.kernel);
        const int64_t line = (map * z.out + tap / y.kernel % z.kernel) * y.out + tap % y.kernel;
        outputs[half][r / phases_] = static_cast<char*>(call.out) + line * x.out * element();
      }
    }
    merge_(args);
  }

  static constexpr int64_t kMostVectors = 16;  // of a panel, in both halves
  static constexpr int64_t kStripElements = kStrassenProducts * kHalves * kSteps * kMostMergedRows;

  Problem problem_;
  Activate activate_;
  const Kernel& outer_;  // of quarters, of the storage type
  const Kernel& inner_;  // of the compute type
  const Kernel& merge_;
  int64_t vector_;   // lanes of a vector
  int64_t quarter_;  // positions of the first three quarters of a sample
  Panels panels_;    // of one quarter
  int64_t tile_rows_;
  int64_t channels_ = 0;  // of a group, as all below
  int64_t filters_ = 0;
  int64_t depth_ = 0;  // of one quarter
  int64_t rows_ = 0;   // of the product
  int64_t phases_ = 1;
  int64_t tiles_ = 0;  // of both halves of half the rows
  int64_t positions_ = 0;
  bool stream_weights_ = false;  // whether they go past the caches when they are packed
  int64_t parts_ = 1;            // that tiles are shared in
  int threads_ = 1;
  size_t workspace_ = 0;
};

std::optional<std::string> refusal(const Problem& problem) {
  if (auto reason = lanes_refusal(problem)) return reason;
  const Geometry& g = problem.geometry;
  if (g.channels / g.groups % kQuarters != 0) return "channels that are no multiple of four";
  if (g.channels / g.groups > kQuarters * kMostDepth) return "more than 2048 channels";
  if (g.filters / g.groups * g.taps() % (kHalves * g.axes[2].stride) != 0)
    return "taps and filters that have no halves of whole rows";
  return std::nullopt;
}

double cost(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const Kernel& tile = widest(products_of(problem));
  const int64_t vector = vector_of(problem);
  const auto depth = static_cast<double>(g.channels / g.groups / kQuarters);
  const auto groups = static_cast<double>(g.groups);
  // Samples fill panels together.
  const double lanes =
      std::max<double>(tile.lanes, static_cast<double>(g.batch * part_positions(g, kQuarters, vector)));
  const auto tiles = static_cast<double>(ceil_div(g.filters / g.groups * g.taps(), kQuarters * tile.rows));
  const double calls = tiles * groups * lanes / tile.lanes * kStrassenProducts;
  // A tile is kept, or stored, after every product, and others are added to it; products lie in the second
  // cache before they are added up.
  const double stores =
      static_cast<double>(tile.rows * tile.lanes / vector) * (2.5 * kStrassenProducts + 2.0 * kQuarters);
  // Operands that are made of the input, which lies far apart, by way of those of the outer products.
  const double copied = 5.0 * lanes / static_cast<double>(vector) * groups * depth * kStrassenProducts *
                        (kStrassenProducts + kQuarters);
  // Outputs beyond the last cache, some of which come late.
  const double far =
      0.5 * static_cast<double>(g.large_elements()) * static_cast<double>(storage_bytes(problem.dtype));
  // Those that are made of weights come while others are multiplied.
  const double operands = static_cast<double>(g.weight_elements()) * kStrassenProducts * kStrassenProducts /
                          16.0 * static_cast<double>(compute_bytes(problem.dtype));
  return calls * (kStrassenProducts *
                      (depth * machine::tile_step_seconds(tile, tile.rows) + machine::kCallSeconds) +
                  stores / machine::kHertz) +
         copied * machine::kCopySeconds + machine::far_seconds(problem, far) +
         machine::traffic_seconds(problem, 0) + (problem.packed ? 0 : operands / kTwiceBytesPerSecond);
}

}  // namespace

extern const Algorithm strassen_twice;
const Algorithm strassen_twice{"strassen_twice", refusal, cost, make_computed<StrassenTwice>, true};

}  // namespace tconv
