// Forward and data gradient where the kernel is the stride, as no_overlap, with seven products of eight:
// rows, positions and depth are taken in two halves, of which Strassen's sums are multiplied. Those of the
// weights are made when they are packed, those of the source when a block of positions is, and what the
// products add up to waits in the nearest cache (Huang, Smith, Henry, van de Geijn: Strassen's Algorithm
// Reloaded, SC16).
//
// The halves of the positions are those of each sample, so that a sample's bits do not depend on the others.
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

constexpr int64_t kBlockBytes = 512 << 10;  // of operands that one thread makes of the source at a time
constexpr int64_t kMostPanels = 8;          // of a block
constexpr int64_t kPackedTiles = 16;        // pairs of tiles that a thread packs at a time
constexpr int64_t kPackedSteps = 8;         // of depth that it packs side by side
// Of depth that panels are filled with in turns, so that the input is read in long runs.
constexpr int64_t kFilledSteps = 2;
// And what comes to the second cache meanwhile, so many steps further on.
constexpr int64_t kStepsAhead = 4;
// Of half the depth that is multiplied at a time, so that a panel of it stays in the second cache, where sums
// can wait for the rest in the output.
constexpr int64_t kMostDepth = 512;
constexpr int64_t kStripElements = 4096;  // that are brought into order at a time, in the nearest cache
constexpr int kHalves = 2;
// How many times as long a step of depth takes in narrow vectors as in products whose operands lie ready.
constexpr double kNarrowSteps = 1.4;

// Of half the depth, what is multiplied at a time; in the data gradient whole filters.
int64_t chunk_of(const Problem& problem) noexcept {
  const Geometry& g = problem.geometry;
  if (problem.pass == Pass::forward) return g.channels / g.groups / kHalves;
  const int64_t filters = g.filters / g.groups / kHalves;
  if (alike(g)) return filters;
  if (storage_bytes(problem.dtype) != compute_bytes(problem.dtype)) return filters * g.taps();
  return ceil_div(filters, ceil_div(filters * g.taps(), kMostDepth)) * g.taps();
}

int64_t vector_of(const Problem& problem) noexcept {
  return static_cast<int64_t>(machine::lanes(compute_dtype(problem.dtype), problem.isa));
}

template <class T>
class Strassen final : public Recipe {
 public:
  explicit Strassen(const Problem& problem)
      : problem_(problem),
        activate_(problem),
        quarters_(tconv::kernel(Family::quarters, problem.dtype, problem.isa)),
        strip_quarters_(tconv::kernel(Family::quarters, compute_dtype(problem.dtype), problem.isa)),
        load_(tconv::kernel(Family::load, problem.dtype, problem.isa)),
        unspread_(tconv::kernel(Family::unspread, problem.dtype, problem.isa)),
        forward_(problem.pass == Pass::forward),
        lies_(forward_ || alike(problem.geometry)),
        vector_(vector_of(problem)),
        half_(part_positions(problem.geometry, kHalves, vector_)),
        panels_(kernels(Family::strassen, problem.dtype, problem.isa), problem.geometry.batch * half_),
        tile_rows_(panels_.widest().rows) {
    const Geometry& g = problem.geometry;
    channels_ = g.channels / g.groups;
    filters_ = g.filters / g.groups;
    const int64_t window = filters_ * g.taps();
    depth_ = (forward_ ? channels_ : window) / kHalves;
    rows_ = forward_ ? window : channels_;
    phases_ = forward_ ? g.axes[2].stride : 1;
    chunk_ = chunk_of(problem);
    chunks_ = ceil_div(depth_, chunk_);
    tiles_ = ceil_div(rows_, kHalves * tile_rows_);
    sample_positions_ = g.small_positions();
    stream_ =
        phases_ == 2 && g.axes[2].size % vector_ == 0 && half_ % vector_ == 0 && goes_past_caches(problem);
    stream_weights_ = packed_bytes() >= kPastCachesBytes && product_elements(tile_rows_) % vector_ == 0;
    cut();
  }

  std::string kernel() const override { return panels_.widest().name; }
  size_t workspace_bytes() const noexcept override { return workspace_; }
  size_t packed_bytes() const noexcept override {
    return static_cast<size_t>(problem_.geometry.groups) * group_bytes();
  }
  std::string packing_key() const override {
    const Geometry& g = problem_.geometry;
    return key_of("strassen", {static_cast<int64_t>(problem_.pass), static_cast<int64_t>(problem_.dtype),
                               tile_rows_, g.channels, g.filters, g.groups, g.taps()});
  }
  bool needs_finite_source() const noexcept override { return true; }

  // Packed: [group][pair of tiles][chunk of depth][product][step of depth][row of the tile].
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
    const double seconds = machine::seconds(problem_) * threads_;
    std::vector<int64_t> filled(static_cast<size_t>(threads_), -1);
    const int64_t share_parts = parts_ / shares_;
    return share_finite(
        call.crew, problem_.geometry.groups * blocks_ * parts_, seconds,
        [&](int64_t unit, int member) noexcept {
          const int64_t block = unit / share_parts % blocks_;
          const int64_t share = unit / share_parts / blocks_ % shares_;
          const int64_t group = unit / parts_ / blocks_;
          const int64_t part = share * share_parts + unit % share_parts;
          const auto index = static_cast<size_t>(member);
          const Worker w = worker(workers + index * worker_bytes());
          const int64_t wanted = group * blocks_ + block;
          const bool finite = filled[index] == wanted || fill(call.source, w, group, block);
          filled[index] = wanted;
          multiply(call, reinterpret_cast<const T*>(packed + static_cast<size_t>(group) * group_bytes()),
                   bias, w, group, block, tiles_ * part / parts_, tiles_ * (part + 1) / parts_);
          return finite;
        });
  }

 private:
  // What one thread works in.
  struct Worker {
    T* panels;
    T* kept;             // tiles of the kernel
    T* strip;            // in the data gradient, as the next two
    SpreadRun* sources;  // by panel and half
    int32_t* source_runs;
    SpreadRun* runs;     // of a block
    int32_t* first_run;  // by vector: of each panel those of the first half, then of the second, and the end
    bool* whole;         // by panel: whether every vector is one run of the output
    void** outputs;      // of the rows, or pairs of rows, of a pair of tiles
  };

  // Products lie a vector further apart than they need, or they share sets of the nearest cache.
  int64_t product_elements(int64_t step) const noexcept { return chunk_ * step + vector_; }
  // Of all products of a chunk.
  int64_t chunk_elements(int64_t step) const noexcept { return kStrassenProducts * product_elements(step); }
  int64_t tile_elements() const noexcept { return chunks_ * chunk_elements(tile_rows_); }
  int64_t panel_elements() const noexcept { return chunks_ * chunk_elements(panels_.widest().lanes); }
  size_t group_bytes() const noexcept {
    return aligned(static_cast<size_t>(tiles_ * tile_elements()) * sizeof(T));
  }
  size_t bias_bytes() const noexcept {
    return static_cast<size_t>(problem_.geometry.groups * tiles_ * kHalves * tile_rows_) * sizeof(T);
  }
  int64_t element() const noexcept { return static_cast<int64_t>(storage_bytes(problem_.dtype)); }
  // Of both halves.
  int64_t panel_vectors() const noexcept { return kHalves * panels_.widest().lanes / vector_; }
  size_t panel_bytes() const noexcept {
    return aligned(static_cast<size_t>(block_panels_ * panel_elements()) * sizeof(T));
  }
  size_t kept_bytes() const noexcept {
    return static_cast<size_t>(kStrassenKept * tile_rows_ * panels_.widest().lanes) * sizeof(T);
  }
  size_t strip_bytes() const noexcept {
    return lies_ ? 0 : static_cast<size_t>(kHalves * kHalves * window_lanes()) * sizeof(T);
  }
  // Taps of a filter at the positions of a panel.
  int64_t window_lanes() const noexcept { return problem_.geometry.taps() * panels_.widest().lanes; }
  size_t source_bytes() const noexcept { return lies_ ? 0 : run_bytes(); }
  size_t source_run_bytes() const noexcept {
    return lies_ ? 0 : static_cast<size_t>(block_panels_ * kHalves) * sizeof(int32_t);
  }
  size_t run_bytes() const noexcept {
    return static_cast<size_t>(block_panels_ * kHalves * panels_.widest().lanes) * sizeof(SpreadRun);
  }
  size_t first_run_bytes() const noexcept {
    return static_cast<size_t>(block_panels_ * panel_vectors() + 1) * sizeof(int32_t);
  }
  size_t output_bytes() const noexcept { return static_cast<size_t>(kHalves * tile_rows_) * sizeof(void*); }
  size_t worker_bytes() const noexcept {
    return panel_bytes() + aligned(kept_bytes()) + aligned(strip_bytes()) + aligned(source_bytes()) +
           aligned(source_run_bytes()) + aligned(run_bytes()) + aligned(first_run_bytes()) +
           aligned(static_cast<size_t>(block_panels_)) + aligned(output_bytes());
  }

  Worker worker(char* memory) const noexcept {
    Pieces pieces(memory);
    Worker made{};
    made.panels = pieces.take<T>(panel_bytes());
    made.kept = pieces.take<T>(kept_bytes());
    made.strip = pieces.take<T>(strip_bytes());
    made.sources = pieces.take<SpreadRun>(source_bytes());
    made.source_runs = pieces.take<int32_t>(source_run_bytes());
    made.runs = pieces.take<SpreadRun>(run_bytes());
    made.first_run = pieces.take<int32_t>(first_run_bytes());
    made.whole = pieces.take<bool>(static_cast<size_t>(block_panels_));
    made.outputs = pieces.take<void*>(output_bytes());
    return made;
  }

  // Decides blocks of positions, their parts and threads, so that the workspace holds them.
  void cut() {
    threads_ = problem_.threads;
    const int64_t one = panel_elements() * static_cast<int64_t>(sizeof(T));
    block_panels_ = std::clamp<int64_t>(kBlockBytes / one, 1, std::min(panels_.count(), kMostPanels));
    const auto total = [&] {
      return (problem_.packed ? 0 : aligned(packed_bytes())) + aligned(bias_bytes()) +
             worker_bytes() * static_cast<size_t>(threads_);
    };
    while (threads_ > 1 && total() > problem_.workspace) --threads_;
    if (total() > problem_.workspace) block_panels_ = 1;
    blocks_ = ceil_div(panels_.count(), block_panels_);
    block_panels_ = ceil_div(panels_.count(), blocks_);
    const int64_t units = blocks_ * problem_.geometry.groups;
    parts_ = threads_ > 1 && units < 6 * threads_ ? std::min(tiles_, ceil_div(6 * threads_, units)) : 1;
    // Weights that were packed on one core come slowly to another, so each thread takes those that it packed.
    shares_ = problem_.packed || problem_.geometry.groups > 1 ? 1 : std::min<int64_t>(parts_, threads_);
    parts_ = parts_ / shares_ * shares_;
    workspace_ = total();
  }

  // Packs some pairs of tiles of a group. Returns false where it meets an infinity or NaN.
  bool pack_tiles(const void* weight, T* packed, int64_t group, int64_t first, int64_t last) const noexcept {
    if (last * kHalves * tile_rows_ > rows_) {
      std::fill(packed + (last - 1) * tile_elements(), packed + last * tile_elements(), T{0});
    }
    if (!forward_) return pack_windows(weight, packed, group, first, last);
    bool finite = true;
    QuartersArgs args{};
    args.weights = true;
    args.stream = stream_weights_;
    args.lane_half = tile_rows_;
    args.depth_half = depth_ * rows_;
    args.src_step = rows_;
    args.dst_step = tile_rows_;
    args.dst_product = product_elements(tile_rows_);
    args.finite = &finite;
    for (int64_t step = 0; step < depth_; step += kPackedSteps) {
      args.steps = std::min(kPackedSteps, depth_ - step);
      args.ahead = std::min(kPackedSteps, depth_ - step - args.steps) * rows_;
      for (int64_t tile = first; tile < last; ++tile) {
        const int64_t row = tile * kHalves * tile_rows_;
        args.lanes = std::min(tile_rows_, rows_ - row);
        args.second_lanes = std::clamp<int64_t>(rows_ - row - tile_rows_, 0, tile_rows_);
        args.src = static_cast<const char*>(weight) + ((group * channels_ + step) * rows_ + row) * element();
        args.dst = packed + tile * tile_elements() + step * tile_rows_;
        quarters_(args);
      }
    }
    if (args.stream) finish_past_caches();
    return finite;
  }

  // The same for the data gradient, whose rows are windows.
  bool pack_windows(const void* weight, T* packed, int64_t group, int64_t first,
                    int64_t last) const noexcept {
    bool finite = true;
    const int64_t both = kHalves * tile_rows_;
    const int64_t window = kHalves * depth_;
    T strip[kStripElements];
    const int64_t most = kStripElements / (kHalves * both);
    QuartersArgs args{};
    args.weights = true;
    args.src = strip;
    args.lane_half = tile_rows_;
    args.depth_half = most * both;
    args.src_step = both;
    args.dst_step = tile_rows_;
    args.dst_product = product_elements(tile_rows_);
    args.finite = &finite;
    MoveArgs move{};
    move.src_row = window;
    move.src_column = move.dst_row = 1;
    move.dst_column = both;
    for (int64_t tile = first; tile < last; ++tile) {
      const int64_t row = tile * both;
      args.lanes = std::min(tile_rows_, rows_ - row);
      args.second_lanes = std::clamp<int64_t>(rows_ - row - tile_rows_, 0, tile_rows_);
      move.rows = args.lanes + args.second_lanes;
      for (int64_t step = 0; step < depth_; step += args.steps) {
        args.steps = std::min({most, chunk_ - step % chunk_, depth_ - step});
        move.columns = args.steps;
        for (int64_t half = 0; half < kHalves; ++half) {
          move.src = static_cast<const char*>(weight) +
                     ((group * channels_ + row) * window + half * depth_ + step) * element();
          move.dst = strip + half * args.depth_half;
          load_(move);
        }
        args.dst = packed + tile * tile_elements() + step / chunk_ * chunk_elements(tile_rows_) +
                   step % chunk_ * tile_rows_;
        strip_quarters_(args);
      }
    }
    return finite;
  }

  void spread_bias(const void* bias, T* spread) const noexcept {
    const int64_t maps = forward_ ? filters_ : channels_;
    const int64_t taps = rows_ / maps;
    std::fill(spread, spread + bias_bytes() / sizeof(T), T{0});
    with_dtype(problem_.dtype, [&](auto e) {
      const auto* from = static_cast<const typename decltype(e)::storage*>(bias);
      for (int64_t group = 0; group < problem_.geometry.groups; ++group) {
        T* const to = spread + group * tiles_ * kHalves * tile_rows_;
        for (int64_t row = 0; row < rows_; ++row)
          to[row] = static_cast<T>(e.load(from[group * maps + row / taps]));
      }
    });
  }

  // Where a position lies that is counted through all samples, of so many maps.
  int64_t offset_of(int64_t position, int64_t maps) const noexcept {
    return position / sample_positions_ * maps * sample_positions_ + position % sample_positions_;
  }
  // The same in the source, at the first map of a group.
  int64_t source_offset(int64_t position, int64_t group) const noexcept {
    const Geometry& g = problem_.geometry;
    return offset_of(position, forward_ ? g.channels : g.filters) +
           group * kHalves * depth_ * sample_positions_;
  }
  int64_t lanes() const noexcept { return problem_.geometry.batch * half_; }

  // Makes the panels of a block, and finds where they go. Returns false where the input holds an infinity or
  // NaN.
  bool fill(const void* source, const Worker& w, int64_t group, int64_t block) const noexcept {
    const int64_t first = block * block_panels_;
    const int64_t count = std::min(block_panels_, panels_.count() - first);
    bool finite = true;
    if (!lies_) {
      finite = fill_windows(source, w, group, first, count);
    } else {
      for (int64_t step = 0; step < depth_; step += kFilledSteps) {
        for (int64_t i = 0; i < count; ++i) {
          if (!fill_panel(source, w.panels + i * panel_elements(), group, first + i, step)) finite = false;
        }
      }
    }
    int32_t runs = 0;
    int32_t* first_run = w.first_run;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t begin = panels_.start(first + i);
      const int64_t end = panels_.start(first + i + 1);
      w.whole[i] = true;
      for (int half = 0; half < kHalves; ++half) {
        for (int64_t lane = begin; lane < end; lane += vector_) {
          *first_run++ = runs;
          const int32_t found = find_runs(w.runs + runs, lane, std::min(lane + vector_, lanes()), half);
          if (found != 1 || w.runs[runs].end - w.runs[runs].begin != vector_) w.whole[i] = false;
          runs += found;
        }
      }
    }
    *first_run = runs;
    return finite;
  }

  // Makes some steps of a panel. Returns false where fill() does.
  bool fill_panel(const void* source, T* to, int64_t group, int64_t panel, int64_t step) const noexcept {
    const int64_t first = panels_.start(panel);
    const int64_t width = panels_.start(panel + 1) - first;
    const int64_t end = std::min(first + width, lanes());
    if (step == 0 && end < first + width) std::fill(to, to + panel_elements(), T{0});
    bool finite = true;
    QuartersArgs args{};
    args.lane_half = half_;
    args.depth_half = depth_ * sample_positions_;
    args.src_step = sample_positions_;
    args.steps = std::min(kFilledSteps, depth_ - step);
    args.dst_step = width;
    args.dst_product = product_elements(width);
    args.ahead = std::min(kStepsAhead, depth_ - step - args.steps) * sample_positions_;
    args.finite = &finite;
    for (int64_t lane = first; lane < end; lane += args.lanes) {
      const PartPiece piece(lane, end, sample_positions_, half_);
      args.src = static_cast<const char*>(source) +
                 (source_offset(piece.position, group) + step * sample_positions_) * element();
      args.lanes = piece.count;
      args.second_lanes = piece.count_of(1);
      args.dst = to + step * width + lane - first;
      quarters_(args);
    }
    return finite;
  }

  // Makes panels of the data gradient, a filter of each half of the depth at a time. Returns false where
  // fill() does.
  bool fill_windows(const void* source, const Worker& w, int64_t group, int64_t first,
                    int64_t count) const noexcept {
    const Geometry& g = problem_.geometry;
    const auto& [z, y, x] = g.axes;
    const int64_t filters = filters_ / kHalves;
    const int64_t most_runs = panels_.widest().lanes;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t begin = panels_.start(first + i);
      const int64_t end = std::min(panels_.start(first + i + 1), lanes());
      for (int half = 0; half < kHalves; ++half) {
        const int64_t at = i * kHalves + half;
        w.source_runs[at] = find_large(w.sources + at * most_runs, begin, end, half);
      }
    }
    bool finite = true;
    UnspreadArgs move{};
    move.map_stride = filters * g.large_positions();
    move.maps = kHalves;
    move.phases = static_cast<int32_t>(x.kernel);
    QuartersArgs args{};
    args.src = w.strip;
    args.steps = g.taps();
    args.finite = &finite;
    for (int64_t filter = 0; filter < filters; ++filter) {
      const int64_t step = filter * g.taps();
      for (int64_t i = 0; i < count; ++i) {
        const int64_t width = panels_.start(first + i + 1) - panels_.start(first + i);
        if (panels_.start(first + i + 1) > lanes() || sample_positions_ != kHalves * half_)
          std::fill(w.strip, w.strip + kHalves * kHalves * window_lanes(), T{0});
        move.dst_row = width;
        move.dst_map = g.taps() * width;
        for (int half = 0; half < kHalves; ++half) {
          const int64_t at = i * kHalves + half;
          move.run = w.sources + at * most_runs;
          move.runs = w.source_runs[at];
          for (int64_t tap = 0; tap < z.kernel * y.kernel; ++tap) {
            move.src =
                static_cast<const char*>(source) + ((group * filters_ + filter) * g.large_positions() +
                                                    (tap / y.kernel * y.out + tap % y.kernel) * x.out) *
                                                       element();
            move.dst = w.strip + half * kHalves * move.dst_map + tap * x.kernel * width;
            UnspreadArgs next = move;
            next.run = w.sources + (i * kHalves + (half ^ 1)) * most_runs;
            next.runs = w.source_runs[i * kHalves + (half ^ 1)];
            prefetch(next, half == 1 && filter + 1 < filters ? g.large_positions() : 0);
            unspread_taps<T>(unspread_, load_, move, x, element());
          }
        }
        args.lane_half = kHalves * move.dst_map;
        args.depth_half = move.dst_map;
        args.src_step = args.dst_step = args.lanes = args.second_lanes = width;
        args.dst_product = product_elements(width);
        args.dst =
            w.panels + i * panel_elements() + step / chunk_ * chunk_elements(width) + step % chunk_ * width;
        strip_quarters_(args);
      }
    }
    return finite;
  }

  // Brings near what unspread reads `distance` elements further on.
  void prefetch(const UnspreadArgs& args, int64_t distance) const noexcept {
    for (int64_t map = 0; map < args.maps; ++map) {
      for (int32_t r = 0; r < args.runs; ++r) {
        const SpreadRun& run = args.run[r];
        const char* const from =
            static_cast<const char*>(args.src) + (map * args.map_stride + run.offset + distance) * element();
        const int64_t bytes = (run.end - run.begin) * args.phases * element();
        for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(from + at);
        __builtin_prefetch(from + bytes - 1);
      }
    }
  }

  // Where the positions of some lanes lie on the large side.
  int32_t find_large(SpreadRun* runs, int64_t begin, int64_t end, int half) const noexcept {
    int32_t found = 0;
    for (int64_t lane = begin; lane < end;) {
      const PartPiece piece(lane, end, sample_positions_, half_);
      found += find_rows(problem_.geometry, runs + found, piece.position + half * half_, lane - begin,
                         lane - begin + piece.count_of(half));
      lane += piece.count;
    }
    return found;
  }

  // The same on the small side.
  int32_t find_small(SpreadRun* runs, int64_t begin, int64_t end, int half) const noexcept {
    int32_t found = 0;
    for (int64_t lane = begin; lane < end;) {
      const PartPiece piece(lane, end, sample_positions_, half_);
      const int64_t count = piece.count_of(half);
      if (count > 0) {
        runs[found++] = {offset_of(piece.position, problem_.geometry.channels) + half * half_,
                         static_cast<int32_t>(lane - begin), static_cast<int32_t>(lane - begin + count)};
      }
      lane += piece.count;
    }
    return found;
  }

  // Where the positions of a vector go; at least one run.
  int32_t find_runs(SpreadRun* runs, int64_t begin, int64_t end, int half) const noexcept {
    const int32_t found = forward_ ? find_large(runs, begin, end, half) : find_small(runs, begin, end, half);
    if (found > 0) return found;
    runs[0] = {0, 0, 0};
    return 1;
  }

  // Makes the rows of some pairs of tiles for a block.
  void multiply(const Call& call, const T* weights, const T* bias, const Worker& w, int64_t group,
                int64_t block, int64_t first_tile, int64_t last_tile) const noexcept {
    const auto& [z, y, x] = problem_.geometry.axes;
    const int64_t panels = std::min(block_panels_, panels_.count() - block * block_panels_);
    char* out = static_cast<char*>(call.out);
    const bool stream = stream_ && reinterpret_cast<uintptr_t>(out) % kAlignment == 0;
    int64_t calls = chunks_ * (last_tile - first_tile) * panels;
    Fetches next = next_source(call.source, group, block);
    StrassenArgs args{};
    args.fetch = next.data();
    args.a_product = product_elements(tile_rows_);
    args.c = w.outputs;
    args.kept = w.kept;
    args.run = w.runs;
    args.phases = static_cast<int32_t>(phases_);
    for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
      args.depth = args.together = std::min(chunk_, depth_ - chunk * chunk_);
      args.accumulate = chunk > 0;
      args.activation = chunk + 1 == chunks_ ? activate_.get() : nullptr;
      for (int64_t tile = first_tile; tile < last_tile; ++tile) {
        const int64_t row = tile * kHalves * tile_rows_;
        args.rows = static_cast<int32_t>(std::min(kHalves * tile_rows_, rows_ - row));
        args.a = weights + tile * tile_elements() + chunk * chunk_elements(tile_rows_);
        args.bias =
            bias == nullptr || chunk > 0 ? nullptr : bias + group * tiles_ * kHalves * tile_rows_ + row;
        for (int64_t r = 0; r < args.rows; r += phases_) {
          if (!forward_) {
            w.outputs[r] = out + (group * channels_ + row + r) * sample_positions_ * element();
            continue;
          }
          const int64_t tap = (row + r) / phases_;
          const int64_t map = group * filters_ + tap / (z.kernel * y.kernel);
          const int64_t tap_z = tap / y.kernel % z.kernel;
          w.outputs[r / phases_] = out + ((map * z.out + tap_z) * y.out + tap % y.kernel) * x.out * element();
        }
        args.first_run = w.first_run;
        for (int64_t i = 0; i < panels; ++i) {
          const Kernel& kernel = panels_.kernel(block * block_panels_ + i);
          args.b = w.panels + i * panel_elements() + chunk * chunk_elements(kernel.lanes);
          args.b_product = product_elements(kernel.lanes);
          args.whole = w.whole[i];
          args.stream = stream && w.whole[i];
          args.fetches = next.due(calls--, kStrassenProducts * args.depth);
          kernel(args);
          args.first_run += kHalves * kernel.lanes / vector_;
        }
      }
    }
    if (stream) finish_past_caches();
  }

  // The input of the next block, in both halves.
  Fetches next_source(const void* source, int64_t group, int64_t block) const noexcept {
    Fetches fetches;
    if (block + 1 == blocks_) return fetches;
    const int64_t next = (block + 1) * block_panels_;
    const int64_t end = std::min(lanes(), panels_.start(std::min(next + block_panels_, panels_.count())));
    for (int64_t lane = panels_.start(next); lane < end;) {
      const PartPiece piece(lane, end, sample_positions_, half_);
      for (int half = 0; half < kHalves; ++half) {
        const int64_t position = piece.position + half * half_;
        const int64_t count = piece.count_of(half);
        if (lies_) {
          fetches.add_rows(static_cast<const char*>(source) + source_offset(position, group) * element(),
                           count * element(), sample_positions_ * element(), kHalves * depth_);
        } else {
          fetches.add_windows(problem_.geometry, source, element(), group * filters_, filters_, position,
                              count);
        }
      }
      lane += piece.count;
    }
    return fetches;
  }

  Problem problem_;
  Activate activate_;
  const Kernel& quarters_;
  const Kernel& strip_quarters_;
  const Kernel& load_;
  const Kernel& unspread_;
  bool forward_;
  bool lies_;       // whether the source's positions are those of the small side
  int64_t vector_;  // lanes of a vector
  int64_t half_;    // positions of the first half of a sample
  Panels panels_;   // of one half
  int64_t tile_rows_;
  int64_t channels_ = 0;  // of a group, as all below
  int64_t filters_ = 0;
  int64_t depth_ = 0;  // of one half
  int64_t chunk_ = 0;  // of it that is multiplied at a time
  int64_t chunks_ = 0;
  int64_t rows_ = 0;    // of the product
  int64_t phases_ = 1;  // rows that take turns along the last axis
  int64_t tiles_ = 0;   // pairs of them
  int64_t sample_positions_ = 0;
  bool stream_ = false;          // whether outputs go past the caches
  bool stream_weights_ = false;  // and weights, when they are packed
  int64_t block_panels_ = 1;
  int64_t blocks_ = 1;
  int64_t shares_ = 1;  // of the parts, all blocks of one before those of the next
  int64_t parts_ = 1;   // that tiles are shared in
  int threads_ = 1;
  size_t workspace_ = 0;
};

std::optional<std::string> refusal(const Problem& problem) {
  if (auto reason = lanes_refusal(problem)) return reason;
  const Geometry& g = problem.geometry;
  if (problem.pass == Pass::forward && g.channels / g.groups % kHalves != 0)
    return "an odd number of channels";
  if (problem.pass == Pass::data_gradient && g.filters / g.groups % kHalves != 0)
    return "an odd number of filters";
  return std::nullopt;
}

double cost(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const auto candidates = kernels(Family::strassen, problem.dtype, problem.isa);
  const Kernel& tile = widest(candidates);
  const int64_t vector = vector_of(problem);
  const bool forward = problem.pass == Pass::forward;
  const int64_t channels = g.channels / g.groups;
  const int64_t window = g.filters / g.groups * g.taps();
  const auto depth = static_cast<double>((forward ? channels : window) / kHalves);
  const int64_t rows = forward ? window : channels;
  const auto groups = static_cast<double>(g.groups);
  // Samples fill panels together.
  const auto lanes = static_cast<double>(g.batch * part_positions(g, kHalves, vector));
  const double calls =
      static_cast<double>(ceil_div(rows, kHalves * tile.rows)) * groups * std::max(1.0, lanes / tile.lanes);
  // A tile is kept, or stored, after every product, and others are added to it.
  const double stores = static_cast<double>(tile.rows * tile.lanes / vector) * 2.5;
  // Operands that are made of the input, which lies far apart.
  const double copy = forward || alike(g) ? 2.5
                                          : (g.axes[2].stride > 2 ? 6 : 2.9) *
                                                short_rows(g.axes[2].size, static_cast<double>(vector));
  const double copied = copy * lanes / static_cast<double>(vector) * groups * depth * kStrassenProducts;
  const double step =
      machine::tile_step_seconds(tile, tile.rows) * (vector_floats(problem.isa) < 16 ? kNarrowSteps : 1);
  return calls * kStrassenProducts * (depth * step + machine::kCallSeconds + stores / machine::kHertz) +
         copied * machine::kCopySeconds +
         array_seconds(problem, kStrassenProducts / 4.0,
                       forward ? kQuarterBytesPerSecond : kTurnedBytesPerSecond);
}

}  // namespace

extern const Algorithm strassen;
const Algorithm strassen{"strassen", refusal, cost, make_computed<Strassen>, true};

}  // namespace tconv
