// Forward from an image of one position, as the first layer of a generator: one matrix product, rows being
// samples, lanes being filters and taps as they lie in the weights and in the output.
#include <algorithm>
#include <span>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "overlap_abi.hpp"
#include "pair_abi.hpp"

namespace tconv {
namespace {

constexpr int64_t kMostDepth = 1 << 16;
// Steps of depth that take as long as a tile of sums on its way to the output.
constexpr int64_t kStepsOfTile = 8;
constexpr int64_t kMostPanels = 16;  // that a thread copies one after the other

// The kernel of most lanes. Batch plays no part, because lanes decide how weights are packed.
const Kernel& widest(std::span<const Kernel> candidates) {
  return *std::max_element(candidates.begin(), candidates.end(),
                           [](const Kernel& a, const Kernel& b) { return a.lanes < b.lanes; });
}

template <class T>
class SinglePosition final : public Recipe {
 public:
  explicit SinglePosition(const Problem& problem)
      : problem_(problem),
        activate_(problem),
        gemm_(widest(product_kernels(problem.dtype, problem.isa))),
        pair_(pair_kernel(gemm_)),
        copying_(widest(kernels(Family::plaingemm, problem.dtype, problem.isa))),
        load_(tconv::kernel(Family::load, problem.dtype, problem.isa)),
        store_(tconv::kernel(Family::store, problem.dtype, problem.isa)),
        depth_(problem.geometry.channels / problem.geometry.groups),
        tile_rows_(pair_ == nullptr ? gemm_.rows : ceil_div(gemm_.rows, kPairRows) * kPairRows),
        columns_(problem.geometry.filters / problem.geometry.groups * problem.geometry.taps()),
        panels_(ceil_div(columns_, gemm_.lanes)),
        tiles_(ceil_div(problem.geometry.batch, gemm_.rows)) {
    threads_ = problem.threads;
    copies_ = !problem.packed && pair_ == nullptr && tiles_ > 1 && tiles_ * kStepsOfTile <= depth_ &&
              copying_.rows == gemm_.rows && copying_.lanes == gemm_.lanes;
    const auto total = [&] {
      return aligned(bias_bytes()) + aligned(source_bytes()) + worker_bytes() * static_cast<size_t>(threads_);
    };
    while (threads_ > 1 && total() > problem.workspace) --threads_;
    if (total() > problem.workspace) copies_ = false;
    workspace_ = total();
  }

  std::string kernel() const override { return gemm_.name; }
  size_t workspace_bytes() const noexcept override { return workspace_; }
  size_t packed_bytes() const noexcept override {
    return static_cast<size_t>(problem_.geometry.groups * panels_) * panel_bytes();
  }
  std::string packing_key() const override {
    const Geometry& g = problem_.geometry;
    return key_of(pair_ == nullptr ? "single_position" : "single_position pairs",
                  {static_cast<int64_t>(problem_.dtype), int64_t{gemm_.lanes}, g.channels, g.filters,
                   g.groups, g.taps()});
  }

  // Packed: [group][panel][channel][lane]; pairs of channels take the first half of a panel.
  bool pack(const void* weight, char* packed, Crew& crew) const override {
    const double seconds = static_cast<double>(packed_bytes()) / machine::kPackBytesPerSecond;
    crew.share(problem_.geometry.groups * panels_, seconds, [&](int64_t unit, int) noexcept {
      pack_panel(weight, reinterpret_cast<T*>(packed + static_cast<size_t>(unit) * panel_bytes()),
                 unit / panels_, unit % panels_);
    });
    return true;
  }

  bool run(const Call& call) const override {
    const Buffer scratch(workspace_);
    Pieces pieces(scratch.data());
    T* bias = pieces.take<T>(bias_bytes());
    if (call.bias == nullptr) {
      bias = nullptr;
    } else {
      spread_bias(call.bias, bias);
    }
    T* source = pieces.take<T>(source_bytes());
    call.crew.share(problem_.geometry.groups * tiles_,
                    static_cast<double>(source_bytes()) / machine::kPackBytesPerSecond,
                    [&](int64_t unit, int) noexcept { pack_tile(call.source, source, unit); });
    call.crew.limit(threads_);
    char* const workers = pieces.rest();
    const double seconds = machine::seconds(problem_) * threads_;
    const int64_t groups = problem_.geometry.groups;
    const bool copies = copies_ && call.packed == nullptr;
    const int64_t together =
        copies ? std::clamp<int64_t>(groups * panels_ / (4 * threads_), 1, kMostPanels) : 1;
    const int64_t units = ceil_div(panels_, together);
    call.crew.share(groups * units, seconds, [&](int64_t unit, int member) noexcept {
      T* const scratch = reinterpret_cast<T*>(workers + static_cast<size_t>(member) * worker_bytes());
      const int64_t panel = unit % units * together;
      Pace pace(call.crew, member);
      if (copies) {
        copy_panels(call, source, bias, scratch, unit / units, panel, std::min(panel + together, panels_),
                    pace);
      } else {
        run_panel(call, source, bias, scratch, unit / units, panel, pace);
      }
    });
    return true;
  }

 private:
  size_t panel_bytes() const noexcept {
    return aligned(static_cast<size_t>(depth_ * gemm_.lanes) * sizeof(T));
  }
  size_t bias_bytes() const noexcept {
    return static_cast<size_t>(problem_.geometry.groups * panels_ * gemm_.lanes) * sizeof(T);
  }
  size_t source_bytes() const noexcept {
    return static_cast<size_t>(problem_.geometry.channels * tiles_ * tile_rows_) * sizeof(T);
  }
  // Of weights: one panel or two.
  size_t scratch_bytes() const noexcept { return (copies_ ? 2 : 1) * panel_bytes(); }
  // And sums on their way.
  size_t worker_bytes() const noexcept {
    return scratch_bytes() + aligned(static_cast<size_t>(gemm_.rows * gemm_.lanes) * sizeof(T));
  }

  void pack_panel(const void* weight, T* packed, int64_t group, int64_t panel) const noexcept {
    const int64_t first = panel * gemm_.lanes;
    MoveArgs args{};
    args.src = static_cast<const char*>(weight) +
               (group * depth_ * columns_ + first) * static_cast<int64_t>(storage_bytes(problem_.dtype));
    args.src_row = columns_;
    args.src_column = args.dst_column = 1;
    args.dst = packed;
    args.dst_row = gemm_.lanes;
    args.rows = depth_;
    args.columns = std::min<int64_t>(gemm_.lanes, columns_ - first);
    load_(args);
    for (int64_t channel = 0; args.columns < gemm_.lanes && channel < depth_; ++channel)
      std::fill(packed + channel * gemm_.lanes + args.columns, packed + (channel + 1) * gemm_.lanes, T{0});
    if (pair_ != nullptr) (*pair_)(PairArgs{packed, 1, depth_, gemm_.lanes});
  }

  // Samples to rows of a tile, tiles counted through all groups: [group][tile][channel][row].
  void pack_tile(const void* source, T* packed, int64_t tile) const noexcept {
    const Geometry& g = problem_.geometry;
    const auto element = static_cast<int64_t>(storage_bytes(problem_.dtype));
    MoveArgs args{};
    args.src_row = g.channels;
    args.src_column = args.dst_row = 1;
    args.dst_column = tile_rows_;
    args.columns = depth_;
    const int64_t sample = tile % tiles_ * gemm_.rows;
    args.src = static_cast<const char*>(source) + (sample * g.channels + tile / tiles_ * depth_) * element;
    args.dst = packed + tile * depth_ * tile_rows_;
    args.rows = std::min<int64_t>(gemm_.rows, g.batch - sample);
    load_(args);
    if (pair_ != nullptr) (*pair_)(PairArgs{args.dst, 1, depth_, tile_rows_});
  }

  // Bias of each column: taps of a filter are neighbours, or filters of a tap.
  void spread_bias(const void* bias, T* spread) const noexcept {
    const Geometry& g = problem_.geometry;
    const int64_t filters = g.filters / g.groups;
    with_dtype(problem_.dtype, [&](auto e) {
      const auto* from = static_cast<const typename decltype(e)::storage*>(bias);
      for (int64_t group = 0; group < g.groups; ++group, from += filters) {
        T* to = spread + group * panels_ * gemm_.lanes;
        for (int64_t column = 0; column < columns_; ++column)
          to[column] = static_cast<T>(e.load(from[g.channels_last ? column % filters : column / g.taps()]));
      }
    });
  }

  void run_panel(const Call& call, const T* source, const T* bias, T* scratch, int64_t group, int64_t panel,
                 Pace& pace) const noexcept {
    const Geometry& g = problem_.geometry;
    const auto element = static_cast<int64_t>(storage_bytes(problem_.dtype));
    const int64_t first = panel * gemm_.lanes;
    const int64_t columns = std::min<int64_t>(gemm_.lanes, columns_ - first);
    const bool plain = problem_.dtype == compute_dtype(problem_.dtype);
    const int64_t zero = 0;
    GemmArgs args{};
    args.a_offset = args.b_offset = &zero;
    args.segments = 1;
    args.depth = ceil_div(depth_, steps_of_element(gemm_));
    args.a_step = tile_rows_;
    if (call.packed != nullptr) {
      args.b = static_cast<const char*>(call.packed) +
               static_cast<size_t>(group * panels_ + panel) * panel_bytes();
      args.b_step = gemm_.lanes;
    } else if (plain && tiles_ == 1 && columns == gemm_.lanes) {
      // Read once, so read where it lies.
      args.b = static_cast<const T*>(call.weight) + group * depth_ * columns_ + first;
      args.b_step = columns_;
    } else {
      pack_panel(call.weight, scratch, group, panel);
      args.b = scratch;
      args.b_step = gemm_.lanes;
    }
    if (bias != nullptr) args.bias_lanes = bias + group * panels_ * gemm_.lanes + first;
    T* const sums = scratch + scratch_bytes() / sizeof(T);
    void* rows[kMostRows];
    args.c = rows;
    args.lanes = static_cast<int32_t>(plain ? columns : gemm_.lanes);
    for (int64_t tile = 0; tile < tiles_; ++tile) {
      const int64_t sample = tile * gemm_.rows;
      args.a = source + (group * tiles_ + tile) * depth_ * tile_rows_;
      args.rows = static_cast<int32_t>(std::min<int64_t>(gemm_.rows, g.batch - sample));
      char* const out = output(call, group, sample, first);
      for (int64_t r = 0; r < args.rows; ++r) {
        rows[r] =
            plain ? static_cast<void*>(out + r * g.groups * columns_ * element) : sums + r * gemm_.lanes;
      }
      gemm_(args);
      if (pace.stopped(depth_ * args.rows)) return;
      for (int64_t r = 0; r < args.rows; ++r) activate_(static_cast<T*>(rows[r]), columns);
      if (plain) continue;
      store(sums, out, args.rows, columns);
    }
  }

  // Some panels of plain weights, of which the next is copied while one is multiplied.
  void copy_panels(const Call& call, const T* source, const T* bias, T* scratch, int64_t group, int64_t panel,
                   int64_t end, Pace& pace) const noexcept {
    const auto element = static_cast<int64_t>(storage_bytes(problem_.dtype));
    T* const sums = scratch + scratch_bytes() / sizeof(T);
    T* weights = scratch;
    T* others = scratch + panel_bytes() / sizeof(T);
    const auto columns = [this](int64_t p) {
      return std::min<int64_t>(gemm_.lanes, columns_ - p * gemm_.lanes);
    };
    // Rows of a panel, while others are multiplied or none.
    const auto copy = [&](int64_t p, int64_t first, int64_t count, T* to, PlainGemmArgs& args) {
      args.copy_from = static_cast<const char*>(call.weight) +
                       ((group * depth_ + first) * columns_ + p * gemm_.lanes) * element;
      args.copy_to = to + first * gemm_.lanes;
      args.copy_step = columns_;
      args.copies = count;
      args.copy_lanes = static_cast<int32_t>(columns(p));
    };
    PlainGemmArgs args{};
    copy(panel, 0, depth_, weights, args);
    copying_(args);
    args = {};
    args.c = sums;
    args.depth = depth_;
    args.a_step = tile_rows_;
    args.accumulate = bias != nullptr;
    for (; panel < end; ++panel, std::swap(weights, others)) {
      args.b = weights;
      args.copies = 0;
      for (int64_t tile = 0; tile < tiles_; ++tile) {
        if (panel + 1 < end) {
          const int64_t first = depth_ * tile / tiles_;
          copy(panel + 1, first, depth_ * (tile + 1) / tiles_ - first, others, args);
        }
        const int64_t sample = tile * gemm_.rows;
        args.a = source + (group * tiles_ + tile) * depth_ * tile_rows_;
        args.rows = static_cast<int32_t>(std::min<int64_t>(gemm_.rows, problem_.geometry.batch - sample));
        for (int64_t r = 0; bias != nullptr && r < args.rows; ++r)
          std::copy_n(bias + (group * panels_ + panel) * gemm_.lanes, gemm_.lanes, sums + r * gemm_.lanes);
        copying_(args);
        if (pace.stopped(depth_ * args.rows)) return;
        activate_(sums, args.rows * gemm_.lanes);
        store(sums, output(call, group, sample, panel * gemm_.lanes), args.rows, columns(panel));
      }
    }
  }

  // Where a column of a sample goes.
  char* output(const Call& call, int64_t group, int64_t sample, int64_t column) const noexcept {
    const Geometry& g = problem_.geometry;
    return static_cast<char*>(call.out) + ((sample * g.groups + group) * columns_ + column) *
                                              static_cast<int64_t>(storage_bytes(problem_.dtype));
  }

  void store(const T* sums, char* out, int64_t rows, int64_t columns) const noexcept {
    MoveArgs move{};
    move.src = sums;
    move.src_row = gemm_.lanes;
    move.src_column = move.dst_column = 1;
    move.dst = out;
    move.dst_row = problem_.geometry.groups * columns_;
    move.rows = rows;
    move.columns = columns;
    store_(move);
  }

  static constexpr int kMostRows = 32;      // of a tile
  static constexpr int64_t kPairRows = 16;  // a vector, in which pairs are made

  Problem problem_;
  Activate activate_;
  const Kernel& gemm_;
  const Kernel* pair_;     // where products take pairs of channels
  const Kernel& copying_;  // products of plain weights
  const Kernel& load_;
  const Kernel& store_;
  int64_t depth_;        // channels of a group
  int64_t tile_rows_;    // as they lie
  int64_t columns_;      // filters and taps of a group
  int64_t panels_;       // of columns, of a group
  int64_t tiles_;        // of samples
  bool copies_ = false;  // whether plain weights are copied while others are multiplied
  int threads_ = 1;
  size_t workspace_ = 0;
};

std::optional<std::string> refusal(const Problem& problem) {
  const Geometry& g = problem.geometry;
  if (g.small_positions() != 1) return "more than one input position";
  for (const Axis& axis : g.axes) {
    if (axis.dilation != 1 || axis.pad_lo != 0 || axis.out != axis.kernel) return "dilation, pads or adj";
  }
  if (g.channels_last && g.groups > 1) return "groups whose maps lie together";
  if (g.channels / g.groups > kMostDepth) return "more than " + std::to_string(kMostDepth) + " channels";
  return std::nullopt;
}

double cost(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const Kernel& tile = widest(product_kernels(problem.dtype, problem.isa));
  const double panels = static_cast<double>(g.groups) *
                        static_cast<double>(ceil_div(g.filters / g.groups * g.taps(), tile.lanes));
  const double tiles = static_cast<double>(ceil_div(g.batch, tile.rows));
  Problem unpacked = problem;
  unpacked.packed = true;  // plain weights are read once, as packed ones are
  return panels * (tiles * machine::kCallSeconds +
                   static_cast<double>(ceil_div(g.channels / g.groups, steps_of_element(tile))) *
                       machine::rows_step_seconds(tile, g.batch)) +
         machine::traffic_seconds(unpacked);
}

}  // namespace

extern const Algorithm single_position;
const Algorithm single_position{"single_position", refusal, cost, make_computed<SinglePosition>};

}  // namespace tconv
