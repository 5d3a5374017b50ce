// Forward and data gradient where the kernel is the stride, so that every position of the large side belongs
// to one of the small side: one matrix product, lanes being positions of the small side. Forward, rows are
// filters and taps, which leave the registers in their final order; in the data gradient they are channels,
// and the taps of a row are taken apart on their way into panels.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "algorithms/past_caches.hpp"
#include "algorithms/spread_rows.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "pair_abi.hpp"

namespace tconv {
namespace {

constexpr int64_t kPanelBytes = 256 << 10;  // of input that one thread holds
constexpr int64_t kMostPanels = 8;
constexpr int64_t kPackedTiles = 128;   // of weights, that a thread packs at a time
constexpr int64_t kPackedChannels = 8;  // that it reads side by side
// Input that each thread holds whole, and weights that it packs shortly before it multiplies them with all of
// it.
constexpr size_t kKeptBytes = 6 << 20;
// Weights that each thread packs for itself, sooner than those packed by another come from its core.
constexpr size_t kOwnBytes = 256 << 10;
constexpr int64_t kPartBytes = 256 << 10;
// Parts that each thread takes at least, so that none waits long for the last.
constexpr int64_t kLeastTurns = 16;
// A vector of the gradient that is taken apart by a stride above 2, all taps or some, and a row of a tap.
constexpr double kApartSeconds = 12 / machine::kHertz;
constexpr double kOneByOneSeconds = 60 / machine::kHertz;
constexpr double kRunSeconds = 5 / machine::kHertz;
constexpr double kTurnBytesPerSecond = 8.5e9;  // of a gradient's weights that are packed

template <class T>
class NoOverlap final : public Recipe {
 public:
  explicit NoOverlap(const Problem& problem)
      : problem_(problem),
        activate_(problem),
        all_(kernels(Family::spread, problem.dtype, problem.isa),
             problem.geometry.batch * problem.geometry.small_positions()),
        spread_(all_.widest()),
        pair_(pair_kernel(spread_)),
        load_(tconv::kernel(Family::load, problem.dtype, problem.isa)),
        unspread_(tconv::kernel(Family::unspread, problem.dtype, problem.isa)),
        forward_(problem.pass == Pass::forward),
        lies_(forward_ || alike(problem.geometry)),
        vector_(static_cast<int64_t>(machine::lanes(compute_dtype(problem.dtype), problem.isa))) {
    const Geometry& g = problem.geometry;
    channels_ = g.channels / g.groups;
    filters_ = g.filters / g.groups;
    window_ = filters_ * g.taps();
    source_maps_ = forward_ ? g.channels : g.filters;
    depth_ = forward_ ? channels_ : window_;
    steps_ = pair_ == nullptr ? depth_ : ceil_div(depth_, 2);
    rows_ = forward_ ? window_ : channels_;
    phases_ = forward_ ? g.axes[2].stride : 1;
    tiles_ = ceil_div(rows_, spread_.rows);
    sample_positions_ = g.small_positions();
    positions_ = g.batch * sample_positions_;
    find_output_rows();
    stream_ = forward_ && phases_ == 2 && g.axes[2].out * element() % static_cast<int64_t>(kAlignment) == 0 &&
              goes_past_caches(problem);
    cut();
  }

  std::string kernel() const override { return spread_.name; }
  size_t workspace_bytes() const noexcept override { return workspace_; }
  size_t packed_bytes() const noexcept override {
    return static_cast<size_t>(problem_.geometry.groups) * group_bytes();
  }
  std::string packing_key() const override {
    const Geometry& g = problem_.geometry;
    return key_of(pair_ == nullptr ? "no_overlap" : "no_overlap pairs",
                  {static_cast<int64_t>(problem_.pass), static_cast<int64_t>(problem_.dtype),
                   int64_t{spread_.rows}, g.channels, g.filters, g.groups, g.taps()});
  }

  // Packed: [group][tile][step of depth][row of the tile]; a step is one of the depth, or a pair.
  bool pack(const void* weight, char* packed, Crew& crew) const override {
    const int64_t runs = ceil_div(tiles_, kPackedTiles);
    const double seconds = static_cast<double>(packed_bytes()) / machine::kPackBytesPerSecond;
    crew.share(problem_.geometry.groups * runs, seconds, [&](int64_t unit, int) noexcept {
      const int64_t first = unit % runs * kPackedTiles;
      T* const to = reinterpret_cast<T*>(packed + static_cast<size_t>(unit / runs) * group_bytes());
      pack_tiles(weight, to, unit / runs, first, std::min(first + kPackedTiles, tiles_));
    });
    return true;
  }

  bool run(const Call& call) const override {
    const Buffer scratch(workspace_);
    Pieces pieces(scratch.data());
    const char* packed = by_part_ || own_ ? nullptr : packed_weights(call, pieces);
    const T* const bias =
        made_bias<T>(call, pieces, bias_bytes(), [this](const void* from, T* to) { spread_bias(from, to); });
    call.crew.limit(threads_);
    char* const workers = pieces.rest();
    const int64_t groups = problem_.geometry.groups;
    const double seconds = machine::seconds(problem_) * threads_;
    if (by_part_) {
      for (int64_t group = 0; group < groups; ++group) {
        run_parts(call, bias, workers, group, seconds / static_cast<double>(groups));
      }
      return true;
    }
    std::vector<char> packed_own(own_ ? static_cast<size_t>(threads_) : 0);
    call.crew.share(groups * blocks_ * parts_, seconds, [&](int64_t unit, int member) noexcept {
      const int64_t part = unit % parts_;
      const int64_t block = unit / parts_ % blocks_;
      const int64_t group = unit / parts_ / blocks_;
      const auto index = static_cast<size_t>(member);
      const Worker w = worker(workers + index * worker_bytes());
      if (own_ && packed_own[index] == 0) {
        for (int64_t g = 0; g < groups; ++g)
          pack_tiles(call.weight, w.weights + static_cast<size_t>(g) * group_bytes() / sizeof(T), g, 0,
                     tiles_);
        packed_own[index] = 1;
      }
      const char* const mine = own_ ? reinterpret_cast<const char*>(w.weights) : packed;
      const bool fused = lies_ && (first_tile(part) + 1) * spread_.rows <= rows_;
      find(call, w, group, block);
      fill(call, w, group, block, fused);
      multiply(call, reinterpret_cast<const T*>(mine + static_cast<size_t>(group) * group_bytes()), bias, w,
               group, block, first_tile(part), first_tile(part + 1), fused);
    });
    return true;
  }

 private:
  struct PanelState {
    bool full;    // every lane is a position
    bool whole;   // and every vector one run of the output
    bool simple;  // every vector comes from one sample
  };

  // What one thread works in.
  struct Worker {
    T* weights;  // all, or of a part, where this thread packs them
    T* panel;
    SpreadRun* rows;  // that positions lie in, while a block or a panel of it is found
    SpreadRun* runs;
    int32_t* first_run;    // by vector
    const void** sources;  // by vector, at the first channel
    PanelState* states;    // by panel
    void** outputs;        // of the rows, or pairs of rows, of a tile
  };

  size_t group_bytes() const noexcept {
    return aligned(static_cast<size_t>(tiles_ * spread_.rows * steps_) * sizeof(T));
  }
  size_t bias_bytes() const noexcept {
    return static_cast<size_t>(problem_.geometry.groups * tiles_ * spread_.rows) * sizeof(T);
  }
  size_t run_bytes() const noexcept {
    return aligned(static_cast<size_t>(panels_ * spread_.lanes) * sizeof(SpreadRun));
  }
  int64_t element() const noexcept { return static_cast<int64_t>(storage_bytes(problem_.dtype)); }
  int64_t vectors() const noexcept { return panels_ * spread_.lanes / vector_; }
  int64_t first_tile(int64_t part) const noexcept { return tiles_ * part / parts_; }
  int64_t block_elements() const noexcept { return panels_ * spread_.lanes * depth_; }
  size_t weight_bytes() const noexcept {
    if (own_) return aligned(packed_bytes());
    return by_part_
               ? aligned(static_cast<size_t>(ceil_div(tiles_, parts_) * spread_.rows * steps_) * sizeof(T))
               : 0;
  }
  size_t held_bytes() const noexcept {
    return aligned(static_cast<size_t>((by_part_ ? blocks_ : 1) * block_elements()) * sizeof(T));
  }
  size_t worker_bytes() const noexcept {
    return weight_bytes() + held_bytes() + 2 * run_bytes() +
           aligned(static_cast<size_t>(vectors() + 1) * sizeof(int32_t)) +
           aligned(static_cast<size_t>(vectors()) * sizeof(void*)) +
           aligned(static_cast<size_t>(panels_) * sizeof(PanelState)) +
           aligned(static_cast<size_t>(spread_.rows) * sizeof(void*));
  }

  Worker worker(char* memory) const noexcept {
    Pieces pieces(memory);
    Worker made{};
    made.weights = pieces.take<T>(weight_bytes());
    made.panel = pieces.take<T>(held_bytes());
    made.rows = pieces.take<SpreadRun>(run_bytes());
    made.runs = pieces.take<SpreadRun>(run_bytes());
    made.first_run = pieces.take<int32_t>(static_cast<size_t>(vectors() + 1) * sizeof(int32_t));
    made.sources = pieces.take<const void*>(static_cast<size_t>(vectors()) * sizeof(void*));
    made.states = pieces.take<PanelState>(static_cast<size_t>(panels_) * sizeof(PanelState));
    made.outputs = pieces.take<void*>(static_cast<size_t>(spread_.rows) * sizeof(void*));
    return made;
  }

  // Decides blocks of positions, their parts and threads, so that the workspace holds them.
  void cut() {
    threads_ = problem_.threads;
    const int64_t panel_bytes = spread_.lanes * depth_ * static_cast<int64_t>(sizeof(T));
    panels_ = std::clamp<int64_t>(kPanelBytes / panel_bytes, 1, std::min(all_.count(), kMostPanels));
    const auto total = [&] {
      return (problem_.packed || by_part_ || own_ ? 0 : aligned(packed_bytes())) + aligned(bias_bytes()) +
             worker_bytes() * static_cast<size_t>(threads_);
    };
    if (!problem_.packed) {
      const int64_t most_panels = panels_;
      cut_blocks();
      const int64_t turns =
          std::max(ceil_div(static_cast<int64_t>(group_bytes()), kPartBytes * threads_), kLeastTurns);
      parts_ = std::min(tiles_, turns * threads_);
      by_part_ = true;
      workspace_ = total();
      if (held_bytes() <= std::min(kKeptBytes, group_bytes()) && workspace_ <= problem_.workspace) return;
      by_part_ = false;
      own_ = packed_bytes() <= kOwnBytes;
      panels_ = most_panels;
    }
    while (threads_ > 1 && total() > problem_.workspace) --threads_;
    if (total() > problem_.workspace) panels_ = 1;
    cut_blocks();
    const int64_t units = blocks_ * problem_.geometry.groups;
    parts_ = threads_ > 1 && units < 6 * threads_ ? std::min(tiles_, ceil_div(6 * threads_, units)) : 1;
    workspace_ = total();
  }

  // Blocks of at most `panels_` of all panels, as many for each thread.
  void cut_blocks() noexcept {
    blocks_ = std::min(all_.count(), ceil_div(ceil_div(all_.count(), panels_), threads_) * threads_);
    panels_ = ceil_div(all_.count(), blocks_);
  }

  // Where the rows of the product go, of which so many as there are phases share one.
  void find_output_rows() {
    const Geometry& g = problem_.geometry;
    const auto& [z, y, x] = g.axes;
    output_row_.reserve(static_cast<size_t>(rows_ / phases_));
    for (int64_t map = 0; map < (forward_ ? filters_ : channels_); ++map) {
      if (!forward_) {
        output_row_.push_back(map * sample_positions_);
        continue;
      }
      for (int64_t tap_z = 0; tap_z < z.kernel; ++tap_z) {
        for (int64_t tap_y = 0; tap_y < y.kernel; ++tap_y)
          output_row_.push_back(((map * z.out + tap_z) * y.out + tap_y) * x.out);
      }
    }
  }

  // Packs some tiles of a group, whose first one begins at `packed`.
  void pack_tiles(const void* weight, T* packed, int64_t group, int64_t first, int64_t last) const noexcept {
    const int64_t first_row = first * spread_.rows;
    const int64_t last_row = std::min(last * spread_.rows, rows_);
    if (pair_ != nullptr) {
      pack_pairs(weight, packed, group, first_row, last_row);
    } else if (forward_) {
      pack_window(weight, packed, group, first_row, last_row);
    } else {
      pack_channels(weight, packed, group, first_row, last_row);
    }
  }

  void pack_window(const void* weight, T* packed, int64_t group, int64_t first, int64_t last) const noexcept {
    MoveArgs args{};
    args.src_row = rows_;
    args.src_column = args.dst_column = 1;
    args.dst_row = spread_.rows;
    for (int64_t channel = 0; channel < depth_; channel += kPackedChannels) {
      args.rows = std::min(kPackedChannels, depth_ - channel);
      for (int64_t row = first; row < last; row += spread_.rows) {
        args.columns = std::min<int64_t>(spread_.rows, last - row);
        args.src = static_cast<const char*>(weight) + ((group * depth_ + channel) * rows_ + row) * element();
        args.dst = packed + row * depth_ + channel * spread_.rows;
        load_(args);
      }
    }
  }

  // Two neighbours of the depth are the halves of an element, the first the lower one.
  void pack_pairs(const void* weight, T* packed, int64_t group, int64_t first, int64_t last) const noexcept {
    const auto* from = static_cast<const uint16_t*>(weight) + group * channels_ * window_;
    const int64_t row_step = forward_ ? 1 : window_;
    const int64_t depth_step = forward_ ? window_ : 1;
    for (int64_t begin = 0; begin < steps_; begin += kPackedChannels) {
      const int64_t end = std::min(begin + kPackedChannels, steps_);
      for (int64_t row = first; row < last; row += spread_.rows) {
        const int64_t rows = std::min<int64_t>(spread_.rows, last - row);
        for (int64_t step = begin; step < end; ++step) {
          const uint16_t* const low = from + row * row_step + 2 * step * depth_step;
          const bool single = 2 * step + 1 == depth_;
          T* const to = packed + row * steps_ + step * spread_.rows;
          for (int64_t r = 0; r < rows; ++r) {
            const uint32_t high = single ? 0 : low[r * row_step + depth_step];
            const uint32_t both = high << 16 | low[r * row_step];
            std::memcpy(to + r, &both, sizeof both);
          }
        }
      }
    }
  }

  void pack_channels(const void* weight, T* packed, int64_t group, int64_t first,
                     int64_t last) const noexcept {
    MoveArgs args{};
    args.src_row = window_;
    args.src_column = args.dst_row = 1;
    args.dst_column = spread_.rows;
    args.columns = window_;
    for (int64_t row = first; row < last; row += args.rows) {
      args.rows = std::min(spread_.rows - row % spread_.rows, last - row);
      args.src = static_cast<const char*>(weight) + (group * channels_ + row) * window_ * element();
      args.dst = packed + row / spread_.rows * spread_.rows * depth_ + row % spread_.rows;
      load_(args);
    }
  }

  void spread_bias(const void* bias, T* spread) const noexcept {
    const int64_t maps = forward_ ? filters_ : channels_;
    const int64_t taps = rows_ / maps;
    with_dtype(problem_.dtype, [&](auto e) {
      const auto* from = static_cast<const typename decltype(e)::storage*>(bias);
      for (int64_t g = 0; g < problem_.geometry.groups; ++g) {
        T* to = spread + g * tiles_ * spread_.rows;
        for (int64_t row = 0; row < rows_; ++row)
          to[row] = static_cast<T>(e.load(from[g * maps + row / taps]));
      }
    });
  }

  // Packs each part of the weights when its turn comes, by the thread that multiplies it with all panels,
  // which it has filled itself: nothing goes from core to core.
  void run_parts(const Call& call, const T* bias, char* workers, int64_t group, double seconds) const {
    std::vector<char> filled(static_cast<size_t>(threads_));
    call.crew.share(parts_, seconds, [&](int64_t part, int member) noexcept {
      const auto index = static_cast<size_t>(member);
      Worker w = worker(workers + index * worker_bytes());
      const int64_t first = first_tile(part);
      const int64_t last = first_tile(part + 1);
      T* const weights = w.weights - first * spread_.rows * steps_;
      pack_tiles(call.weight, weights, group, first, last);
      for (int64_t block = 0; block < blocks_; ++block, w.panel += block_elements()) {
        if (filled[index] == 0) fill(call, w, group, block, false);
        find(call, w, group, block);
        multiply(call, weights, bias, w, group, block, first, last, false);
      }
      filled[index] = 1;
    });
  }

  // The panels of a block, and its first position.
  struct Block {
    int64_t first_panel;
    int64_t last_panel;
    int64_t first;
    int64_t count;  // of positions
  };
  Block block_at(int64_t block) const noexcept {
    const int64_t first_panel = all_.count() * block / blocks_;
    const int64_t last_panel = all_.count() * (block + 1) / blocks_;
    const int64_t first = all_.start(first_panel);
    return {first_panel, last_panel, first, std::min(all_.start(last_panel), positions_) - first};
  }

  // Finds where the panels of a block come from and go to.
  void find(const Call& call, const Worker& w, int64_t group, int64_t block) const noexcept {
    const auto [first_panel, last_panel, first, count] = block_at(block);
    find_runs(w, first, count);
    for (int64_t panel = first_panel; panel < last_panel; ++panel) {
      const int64_t lane = all_.start(panel) - first;
      w.states[panel - first_panel] =
          find_state(call.source, w, group, first, lane, all_.start(panel + 1) - first - lane, count);
    }
  }

  // Fills the panels of a block; simple ones only where their first tile does not.
  void fill(const Call& call, const Worker& w, int64_t group, int64_t block, bool fused) const noexcept {
    const auto [first_panel, last_panel, first, count] = block_at(block);
    for (int64_t panel = first_panel; panel < last_panel; ++panel) {
      if (fused && w.states[panel - first_panel].simple) continue;
      const int64_t lane = all_.start(panel) - first;
      const int64_t lanes = all_.start(panel + 1) - first - lane;
      fill_panel(call.source, w, group, first + lane, std::min(lanes, count - lane), lane, lanes);
    }
  }

  // Makes the rows of some tiles for a block.
  void multiply(const Call& call, const T* weights, const T* bias, const Worker& w, int64_t group,
                int64_t block, int64_t first_tile, int64_t last_tile, bool fused) const noexcept {
    const auto [first_panel, last_panel, first, count] = block_at(block);
    const Geometry& g = problem_.geometry;
    const int64_t maps = forward_ ? filters_ * g.large_positions() : channels_ * sample_positions_;
    char* const out = static_cast<char*>(call.out) + group * maps * element();
    const bool stream = stream_ && reinterpret_cast<uintptr_t>(call.out) % kAlignment == 0;
    Ahead ahead =
        next_source(call.source, group, block, (last_tile - first_tile) * (last_panel - first_panel));
    SpreadArgs args{};
    args.depth = depth_;
    args.c = w.outputs;
    args.activation = activate_.get();
    args.run = w.runs;
    args.phases = static_cast<int32_t>(phases_);
    args.source_step = sample_positions_;
    for (int64_t tile = first_tile; tile < last_tile; ++tile) {
      const int64_t row = tile * spread_.rows;
      args.rows = static_cast<int32_t>(std::min<int64_t>(spread_.rows, rows_ - row));
      args.a = weights + row * steps_;
      if (bias != nullptr) args.bias = bias + group * tiles_ * spread_.rows + row;
      for (int64_t r = 0; r < args.rows / phases_; ++r)
        w.outputs[r] = out + output_row_[static_cast<size_t>(row / phases_ + r)] * element();
      for (int64_t panel = first_panel; panel < last_panel; ++panel) {
        const PanelState& state = w.states[panel - first_panel];
        const int64_t lane = all_.start(panel) - first;
        args.b = w.panel + lane * depth_;
        args.first_run = w.first_run + lane / vector_;
        args.source = fused && state.simple && tile == first_tile ? w.sources + lane / vector_ : nullptr;
        args.whole = state.whole;
        args.stream = stream && state.full;
        ahead.fetch();
        all_.kernel(panel)(args);
      }
    }
    if (stream) finish_past_caches();
  }

  // The input of the next block.
  Ahead next_source(const void* source, int64_t group, int64_t block, int64_t calls) const noexcept {
    if (!lies_ || by_part_ || block + 1 == blocks_) return {};
    const auto [first_panel, last_panel, first, positions] = block_at(block + 1);
    const int64_t sample = first / sample_positions_;
    const int64_t at = first % sample_positions_;
    const int64_t count = std::min(positions, sample_positions_ - at);
    const char* from = static_cast<const char*>(source) +
                       ((sample * source_maps_ + group * depth_) * sample_positions_ + at) * element();
    return {from, count * element(), sample_positions_ * element(), depth_, calls};
  }

  // Where the vectors of a panel come from and go to.
  PanelState find_state(const void* source, const Worker& w, int64_t group, int64_t first, int64_t lane,
                        int64_t lanes, int64_t count) const noexcept {
    const bool full = lane + lanes <= count;
    PanelState state{full, full, true};
    int64_t sample = (first + lane) / sample_positions_;
    int64_t at = (first + lane) % sample_positions_;
    for (int64_t vector = lane / vector_; vector < (lane + lanes) / vector_; ++vector, at += vector_) {
      const SpreadRun& run = w.runs[w.first_run[vector]];
      if (run.begin != 0 || run.end != vector_) state.whole = false;
      for (; at >= sample_positions_; at -= sample_positions_) ++sample;
      if (at + vector_ > sample_positions_) state.simple = false;
      w.sources[vector] = static_cast<const char*>(source) +
                          ((sample * source_maps_ + group * depth_) * sample_positions_ + at) * element();
    }
    return state;
  }

  void fill_panel(const void* source, const Worker& w, int64_t group, int64_t first, int64_t count,
                  int64_t lane, int64_t lanes) const noexcept {
    T* const panel = w.panel + lane * depth_;
    if (lies_) {
      fill_inputs(source, panel, group, first, count, lanes);
    } else {
      fill_windows(source, w.rows, panel, group, first, count, lanes);
    }
    if (count < lanes) {
      for (int64_t step = 0; step < depth_; ++step)
        std::fill(panel + step * lanes + count, panel + (step + 1) * lanes, T{0});
    }
    if (pair_ != nullptr) (*pair_)(PairArgs{panel, 1, depth_, lanes});
  }

  // Input: [channel][lane].
  void fill_inputs(const void* source, T* panel, int64_t group, int64_t first, int64_t count,
                   int64_t lanes) const noexcept {
    MoveArgs args{};
    args.rows = depth_;
    args.src_row = sample_positions_;
    args.src_column = args.dst_column = 1;
    args.dst_row = lanes;
    for (int64_t begin = 0; begin < count; begin += args.columns) {
      const int64_t sample = (first + begin) / sample_positions_;
      const int64_t at = (first + begin) % sample_positions_;
      args.columns = std::min(count - begin, sample_positions_ - at);
      args.src = static_cast<const char*>(source) +
                 ((sample * source_maps_ + group * depth_) * sample_positions_ + at) * element();
      args.dst = panel + begin;
      load_(args);
    }
  }

  // The gradient: [filter and tap][lane].
  void fill_windows(const void* source, SpreadRun* runs, T* panel, int64_t group, int64_t first,
                    int64_t count, int64_t lanes) const noexcept {
    const Geometry& g = problem_.geometry;
    const auto& [z, y, x] = g.axes;
    UnspreadArgs args{};
    args.map_stride = g.large_positions();
    args.maps = filters_;
    args.dst_map = g.taps() * lanes;
    args.dst_row = lanes;
    args.phases = static_cast<int32_t>(x.kernel);
    args.run = runs;
    args.runs = find_rows(g, runs, first, 0, count);
    for (int64_t tap = 0; tap < z.kernel * y.kernel; ++tap) {
      args.src = static_cast<const char*>(source) + (group * filters_ * g.large_positions() +
                                                     (tap / y.kernel * y.out + tap % y.kernel) * x.out) *
                                                        element();
      args.dst = panel + tap * x.kernel * lanes;
      unspread_taps<T>(unspread_, load_, args, x, element());
    }
  }

  // The samples that hold `count` positions from `first`, and where they lie on the small side.
  int32_t find_samples(SpreadRun* samples, int64_t first, int64_t count) const noexcept {
    int32_t found = 0;
    for (int64_t lane = 0; lane < count;) {
      const int64_t at = (first + lane) % sample_positions_;
      const int64_t length = std::min(count - lane, sample_positions_ - at);
      samples[found++] = {
          (first + lane) / sample_positions_ * problem_.geometry.channels * sample_positions_ + at,
          static_cast<int32_t>(lane), static_cast<int32_t>(lane + length)};
      lane += length;
    }
    return found;
  }

  // Where the positions of each vector go.
  void find_runs(const Worker& w, int64_t first, int64_t count) const noexcept {
    const int64_t stride = forward_ ? problem_.geometry.axes[2].stride : 1;
    if (forward_) {
      find_rows(problem_.geometry, w.rows, first, 0, count);
    } else {
      find_samples(w.rows, first, count);
    }
    const SpreadRun* row = w.rows;
    int32_t runs = 0;
    int64_t lane = 0;
    for (int64_t vector = 0; vector < vectors(); ++vector) {
      w.first_run[vector] = runs;
      const int64_t begin = vector * vector_;
      const int64_t end = std::min(count, begin + vector_);
      if (begin >= end) w.runs[runs++] = {0, 0, 0};
      while (lane < end) {
        const int64_t stop = std::min<int64_t>(end, row->end);
        w.runs[runs++] = {row->offset + (lane - row->begin) * stride, static_cast<int32_t>(lane - begin),
                          static_cast<int32_t>(stop - begin)};
        if (stop == row->end) ++row;
        lane = stop;
      }
    }
    w.first_run[vectors()] = runs;
  }

  Problem problem_;
  Activate activate_;
  Panels all_;
  const Kernel& spread_;  // the widest
  const Kernel* pair_;    // where products take pairs
  const Kernel& load_;
  const Kernel& unspread_;
  bool forward_;
  bool lies_;             // whether the source's positions are those of the small side
  int64_t vector_;        // lanes of a vector
  int64_t channels_ = 0;  // of a group, as all below
  int64_t filters_ = 0;
  int64_t window_ = 0;       // filters and taps
  int64_t source_maps_ = 0;  // of all groups
  int64_t depth_ = 0;        // what is summed over
  int64_t steps_ = 0;        // in which it is
  int64_t rows_ = 0;         // of the product
  int64_t phases_ = 1;       // rows that take turns along the last axis
  int64_t tiles_ = 0;
  std::vector<int64_t> output_row_;
  int64_t sample_positions_ = 0;
  int64_t positions_ = 0;  // of all samples
  bool stream_ = false;    // whether outputs go past the caches
  int64_t panels_ = 1;     // of a block
  int64_t blocks_ = 1;
  int64_t parts_ = 1;     // that tiles are shared in
  bool by_part_ = false;  // weights are packed when their turn comes
  bool own_ = false;      // weights are packed by each thread that multiplies them
  int threads_ = 1;
  size_t workspace_ = 0;
};

double cost(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const Kernel& tile = widest(kernels(Family::spread, problem.dtype, problem.isa));
  const bool forward = problem.pass == Pass::forward;
  const double vector = machine::lanes(compute_dtype(problem.dtype), problem.isa);
  const auto channels = static_cast<double>(g.channels / g.groups);
  const auto window = static_cast<double>(g.filters / g.groups * g.taps());
  const double rows = forward ? window : channels;
  const double depth = forward ? channels : window;
  const auto groups = static_cast<double>(g.groups);
  const auto positions = static_cast<double>(g.batch * g.small_positions());
  const double calls = std::ceil(rows / tile.rows) * groups * std::max(1.0, positions / tile.lanes);
  const double stores = tile.rows * tile.lanes / vector * 2.0;
  // Vectors of the gradient whose taps are taken apart, mostly read from afar; long strides row by row.
  const Axis& x = g.axes[2];
  const double read = forward ? 0 : positions * groups * depth;
  const double apart = read / vector * (alike(g) ? 1 : short_rows(x.size, vector));
  const double apart_seconds = alike(g)               ? machine::kCopySeconds
                               : x.stride <= 2        ? 4 * machine::kCopySeconds
                               : x.kernel == x.stride ? kApartSeconds
                                                      : kOneByOneSeconds;
  const double runs = x.stride <= 2 ? 0 : read / static_cast<double>(x.size);
  const double steps = std::ceil(depth / static_cast<double>(steps_of_element(tile)));
  return calls * (steps * machine::tile_step_seconds(tile, tile.rows) + machine::kCallSeconds +
                  stores / machine::kHertz) +
         apart * apart_seconds + runs * kRunSeconds +
         array_seconds(problem, 1, forward ? machine::kPackBytesPerSecond : kTurnBytesPerSecond);
}

}  // namespace

extern const Algorithm no_overlap;
const Algorithm no_overlap{"no_overlap", lanes_refusal, cost, make_computed<NoOverlap>};

}  // namespace tconv
