// Forward where the kernel is the stride, as no_overlap, with seven products of eight: rows, positions and
// depth are taken in two halves, of which Strassen's sums are multiplied. Those of the weights are made when
// they are packed, those of the input when a block of positions is, and what the products add up to waits in
// the nearest cache (Huang, Smith, Henry, van de Geijn: Strassen's Algorithm Reloaded, SC16).
//
// The halves of the positions are those of each sample, so that a sample's bits do not depend on the others.
#include <algorithm>
#include <array>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "algorithms/past_caches.hpp"
#include "algorithms/spread_rows.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "quarters_abi.hpp"

namespace tconv {
namespace {

constexpr int64_t kBlockBytes = 512 << 10;  // of operands that one thread makes of the input at a time
constexpr int64_t kMostPanels = 8;          // of a block
constexpr int64_t kPackedTiles = 16;        // pairs of tiles that a thread packs at a time
constexpr int64_t kPackedSteps = 8;         // of depth that it packs side by side
// Of depth that panels are filled with in turns, so that the input is read in long runs.
constexpr int64_t kFilledSteps = 2;
constexpr int64_t kManyVectors = 16;
constexpr int kHalves = 2;

// Positions of the first half of a sample, whole vectors where a few more do not matter.
int64_t first_half(const Geometry& g, int64_t vector) noexcept {
  const int64_t half = ceil_div(g.small_positions(), kHalves);
  return half < kManyVectors * vector ? half : ceil_div(half, vector) * vector;
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
        vector_(vector_of(problem)),
        half_(first_half(problem.geometry, vector_)),
        panels_(kernels(Family::strassen, problem.dtype, problem.isa), problem.geometry.batch * half_),
        tile_rows_(panels_.widest().rows) {
    const Geometry& g = problem.geometry;
    channels_ = g.channels / g.groups;
    filters_ = g.filters / g.groups;
    depth_ = channels_ / kHalves;
    rows_ = filters_ * g.taps();
    phases_ = g.axes[2].stride;
    tiles_ = ceil_div(rows_, kHalves * tile_rows_);
    sample_positions_ = g.small_positions();
    stream_ =
        phases_ == 2 && g.axes[2].size % vector_ == 0 && half_ % vector_ == 0 && goes_past_caches(problem);
    cut();
  }

  std::string kernel() const override { return panels_.widest().name; }
  size_t workspace_bytes() const noexcept override { return workspace_; }
  size_t packed_bytes() const noexcept override {
    return static_cast<size_t>(problem_.geometry.groups) * group_bytes();
  }
  std::string packing_key() const override {
    std::string key = "strassen";
    const Geometry& g = problem_.geometry;
    for (const int64_t number :
         {static_cast<int64_t>(problem_.dtype), tile_rows_, g.channels, g.filters, g.groups, g.taps()}) {
      key += " " + std::to_string(number);
    }
    return key;
  }
  bool needs_finite_source() const noexcept override { return true; }

  // Packed: [group][pair of tiles][product][step of depth][row of the tile].
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
    const T* bias = nullptr;
    if (call.bias != nullptr) {
      T* made = pieces.take<T>(bias_bytes());
      spread_bias(call.bias, made);
      bias = made;
    }
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
    SpreadRun* runs;     // of a block
    int32_t* first_run;  // by vector: of each panel those of the first half, then of the second, and the end
    bool* whole;         // by panel: whether every vector is one run of the output
    void** outputs;      // of the rows, or pairs of rows, of a pair of tiles
  };

  // Products lie a vector further apart than they need, or they share sets of the nearest cache.
  int64_t product_elements(int64_t step) const noexcept { return depth_ * step + vector_; }
  int64_t tile_elements() const noexcept { return kStrassenProducts * product_elements(tile_rows_); }
  int64_t panel_elements() const noexcept {
    return kStrassenProducts * product_elements(panels_.widest().lanes);
  }
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
  size_t run_bytes() const noexcept {
    return static_cast<size_t>(block_panels_ * kHalves * panels_.widest().lanes) * sizeof(SpreadRun);
  }
  size_t first_run_bytes() const noexcept {
    return static_cast<size_t>(block_panels_ * panel_vectors() + 1) * sizeof(int32_t);
  }
  size_t output_bytes() const noexcept { return static_cast<size_t>(kHalves * tile_rows_) * sizeof(void*); }
  size_t worker_bytes() const noexcept {
    return panel_bytes() + aligned(kept_bytes()) + aligned(run_bytes()) + aligned(first_run_bytes()) +
           aligned(static_cast<size_t>(block_panels_)) + aligned(output_bytes());
  }

  Worker worker(char* memory) const noexcept {
    Pieces pieces(memory);
    Worker made{};
    made.panels = pieces.take<T>(panel_bytes());
    made.kept = pieces.take<T>(kept_bytes());
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
    bool finite = true;
    QuartersArgs args{};
    args.weights = true;
    args.lane_half = tile_rows_;
    args.depth_half = depth_ * rows_;
    args.src_step = rows_;
    args.dst_step = tile_rows_;
    args.dst_product = product_elements(tile_rows_);
    args.finite = &finite;
    if (last * kHalves * tile_rows_ > rows_) {
      std::fill(packed + (last - 1) * tile_elements(), packed + last * tile_elements(), T{0});
    }
    for (int64_t step = 0; step < depth_; step += kPackedSteps) {
      args.steps = std::min(kPackedSteps, depth_ - step);
      for (int64_t tile = first; tile < last; ++tile) {
        const int64_t row = tile * kHalves * tile_rows_;
        args.lanes = std::min(tile_rows_, rows_ - row);
        args.second_lanes = std::clamp<int64_t>(rows_ - row - tile_rows_, 0, tile_rows_);
        args.src = static_cast<const char*>(weight) + ((group * channels_ + step) * rows_ + row) * element();
        args.dst = packed + tile * tile_elements() + step * tile_rows_;
        quarters_(args);
      }
    }
    return finite;
  }

  void spread_bias(const void* bias, T* spread) const noexcept {
    const int64_t taps = problem_.geometry.taps();
    std::fill(spread, spread + bias_bytes() / sizeof(T), T{0});
    with_dtype(problem_.dtype, [&](auto e) {
      const auto* from = static_cast<const typename decltype(e)::storage*>(bias);
      for (int64_t group = 0; group < problem_.geometry.groups; ++group) {
        T* const to = spread + group * tiles_ * kHalves * tile_rows_;
        for (int64_t row = 0; row < rows_; ++row)
          to[row] = static_cast<T>(e.load(from[group * filters_ + row / taps]));
      }
    });
  }

  // Neighbouring lanes of a sample, the same in both halves.
  struct Piece {
    int64_t position;  // of the first lane, in the first half, of all samples
    int64_t count;
    int64_t second_count;  // of those the second half has
  };
  // The piece that begins at a lane of all, and ends before another at the latest.
  Piece piece_at(int64_t lane, int64_t end) const noexcept {
    const int64_t sample = lane / half_;
    const int64_t at = lane % half_;
    const int64_t count = std::min(end - lane, half_ - at);
    return {sample * sample_positions_ + at, count,
            std::clamp<int64_t>(sample_positions_ - half_ - at, 0, count)};
  }
  int64_t source_offset(int64_t position, int64_t group) const noexcept {
    return (position / sample_positions_ * problem_.geometry.channels + group * channels_) *
               sample_positions_ +
           position % sample_positions_;
  }
  int64_t lanes() const noexcept { return problem_.geometry.batch * half_; }

  // Makes the panels of a block, and finds where they go. Returns false where the input holds an infinity or
  // NaN.
  bool fill(const void* source, const Worker& w, int64_t group, int64_t block) const noexcept {
    const int64_t first = block * block_panels_;
    const int64_t count = std::min(block_panels_, panels_.count() - first);
    bool finite = true;
    for (int64_t step = 0; step < depth_; step += kFilledSteps) {
      for (int64_t i = 0; i < count; ++i) {
        if (!fill_panel(source, w.panels + i * panel_elements(), group, first + i, step)) finite = false;
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
    args.finite = &finite;
    for (int64_t lane = first; lane < end; lane += args.lanes) {
      const Piece piece = piece_at(lane, end);
      args.src = static_cast<const char*>(source) +
                 (source_offset(piece.position, group) + step * sample_positions_) * element();
      args.lanes = piece.count;
      args.second_lanes = piece.second_count;
      args.dst = to + step * width + lane - first;
      quarters_(args);
    }
    return finite;
  }

  // Where the positions of a vector go; at least one run.
  int32_t find_runs(SpreadRun* runs, int64_t begin, int64_t end, int half) const noexcept {
    int32_t found = 0;
    for (int64_t lane = begin; lane < end;) {
      const Piece piece = piece_at(lane, end);
      found += find_rows(problem_.geometry, runs + found, piece.position + half * half_, lane - begin,
                         lane - begin + (half == 0 ? piece.count : piece.second_count));
      lane += piece.count;
    }
    if (found == 0) runs[found++] = {0, 0, 0};
    return found;
  }

  // Makes the rows of some pairs of tiles for a block.
  void multiply(const Call& call, const T* weights, const T* bias, const Worker& w, int64_t group,
                int64_t block, int64_t first_tile, int64_t last_tile) const noexcept {
    const auto& [z, y, x] = problem_.geometry.axes;
    const int64_t panels = std::min(block_panels_, panels_.count() - block * block_panels_);
    char* out = static_cast<char*>(call.out);
    const bool stream = stream_ && reinterpret_cast<uintptr_t>(out) % kAlignment == 0;
    auto ahead = next_source(call.source, group, block, (last_tile - first_tile) * panels);
    StrassenArgs args{};
    args.a_product = product_elements(tile_rows_);
    args.depth = depth_;
    args.c = w.outputs;
    args.kept = w.kept;
    args.activation = activate_.get();
    args.run = w.runs;
    args.phases = static_cast<int32_t>(phases_);
    for (int64_t tile = first_tile; tile < last_tile; ++tile) {
      const int64_t row = tile * kHalves * tile_rows_;
      args.rows = static_cast<int32_t>(std::min(kHalves * tile_rows_, rows_ - row));
      args.a = weights + tile * tile_elements();
      if (bias != nullptr) args.bias = bias + group * tiles_ * kHalves * tile_rows_ + row;
      for (int64_t r = 0; r < args.rows; r += phases_) {
        const int64_t tap = (row + r) / phases_;
        const int64_t map = group * filters_ + tap / (z.kernel * y.kernel);
        const int64_t tap_z = tap / y.kernel % z.kernel;
        w.outputs[r / phases_] = out + ((map * z.out + tap_z) * y.out + tap % y.kernel) * x.out * element();
      }
      args.first_run = w.first_run;
      for (int64_t i = 0; i < panels; ++i) {
        const Kernel& kernel = panels_.kernel(block * block_panels_ + i);
        args.b = w.panels + i * panel_elements();
        args.b_product = product_elements(kernel.lanes);
        args.whole = w.whole[i] && phases_ == 2;
        args.stream = stream && w.whole[i];
        for (Ahead& half : ahead) half.fetch();
        kernel(args);
        args.first_run += kHalves * kernel.lanes / vector_;
      }
    }
    if (stream) finish_past_caches();
  }

  // The input of the next block, in both halves.
  std::array<Ahead, kHalves> next_source(const void* source, int64_t group, int64_t block,
                                         int64_t calls) const noexcept {
    std::array<Ahead, kHalves> ahead;
    if (block + 1 == blocks_) return ahead;
    const int64_t next = (block + 1) * block_panels_;
    const Piece piece =
        piece_at(panels_.start(next),
                 std::min(lanes(), panels_.start(std::min(next + block_panels_, panels_.count()))));
    for (int half = 0; half < kHalves; ++half) {
      ahead[static_cast<size_t>(half)] =
          Ahead(static_cast<const char*>(source) +
                    (source_offset(piece.position, group) + half * half_) * element(),
                (half == 0 ? piece.count : piece.second_count) * element(), sample_positions_ * element(),
                kHalves * depth_, calls);
    }
    return ahead;
  }

  Problem problem_;
  Activate activate_;
  const Kernel& quarters_;
  int64_t vector_;  // lanes of a vector
  int64_t half_;    // positions of the first half of a sample
  Panels panels_;   // of one half
  int64_t tile_rows_;
  int64_t channels_ = 0;  // of a group, as all below
  int64_t filters_ = 0;
  int64_t depth_ = 0;   // of one half
  int64_t rows_ = 0;    // of the product
  int64_t phases_ = 1;  // rows that take turns along the last axis
  int64_t tiles_ = 0;   // pairs of them
  int64_t sample_positions_ = 0;
  bool stream_ = false;  // whether outputs go past the caches
  int64_t block_panels_ = 1;
  int64_t blocks_ = 1;
  int64_t shares_ = 1;  // of the parts, all blocks of one before those of the next
  int64_t parts_ = 1;   // that tiles are shared in
  int threads_ = 1;
  size_t workspace_ = 0;
};

std::optional<std::string> refusal(const Problem& problem) {
  const Geometry& g = problem.geometry;
  if (g.channels_last) return "maps lie together";
  if (const auto reason = overlap_refusal(g)) return reason;
  if (g.axes[2].stride > 2) return "stride above 2 along the last axis";
  if (g.channels / g.groups % kHalves != 0) return "an odd number of channels";
  if (kernels(Family::strassen, problem.dtype, problem.isa).empty())
    return "no kernel for this element type and instruction set";
  return std::nullopt;
}

double cost(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const auto candidates = kernels(Family::strassen, problem.dtype, problem.isa);
  const Kernel& tile = widest(candidates);
  const int64_t vector = vector_of(problem);
  const auto depth = static_cast<double>(g.channels / g.groups / kHalves);
  const int64_t rows = g.filters / g.groups * g.taps();
  const auto groups = static_cast<double>(g.groups);
  const auto lanes = static_cast<double>(g.batch * first_half(g, vector));
  const double calls =
      static_cast<double>(ceil_div(rows, kHalves * tile.rows)) * groups * std::max(1.0, lanes / tile.lanes);
  // A tile is kept, or stored, after every product, and others are added to it.
  const double stores = static_cast<double>(tile.rows * tile.lanes / vector) * 2.5;
  // Operands that are made of the input, which lies far apart.
  const double copied = 2.5 * lanes / static_cast<double>(vector) * groups * depth * kStrassenProducts;
  return calls * kStrassenProducts *
             (depth * machine::tile_step_seconds(tile, tile.rows) + machine::kCallSeconds +
              stores / machine::kHertz) +
         copied * machine::kCopySeconds + machine::traffic_seconds(problem, kStrassenProducts / 4.0);
}

}  // namespace

extern const Algorithm strassen;
const Algorithm strassen{"strassen", refusal, cost, make_computed<Strassen>, true};

}  // namespace tconv
