// Weight gradient as one matrix product: a column is a weight of a channel, and its depth is positions. The
// window of every position is copied, so that columns lie as weights do and sums go where they belong; the
// depth is long, so that they seldom go there.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "algorithms/windows.hpp"
#include "machine.hpp"
#include "memory.hpp"

namespace tconv {
namespace {

constexpr int64_t kMostDepth = 512;         // positions that are multiplied at a time
constexpr size_t kWindowBytes = 256 << 10;  // of windows that are copied at a time
constexpr int64_t kPiece = 256;             // positions that one thread packs at a time
// A byte of a panel, which comes from the second cache for each tile, mostly behind the products.
constexpr double kPanelByteSeconds = 0.004 / machine::kHertz;
constexpr int64_t kLineElements = 16;

const Kernel& best_gemm(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const auto candidates = kernels(Family::gemm, compute_dtype(problem.dtype), problem.isa);
  const auto seconds = [&g](const Kernel& kernel) {
    return static_cast<double>(ceil_div(columns_of(g), kernel.lanes)) *
           machine::rows_step_seconds(kernel, g.channels / g.groups);
  };
  return *std::min_element(candidates.begin(), candidates.end(),
                           [&seconds](const Kernel& a, const Kernel& b) { return seconds(a) < seconds(b); });
}

template <class E>
class WeightWindows final : public Recipe {
 public:
  using S = typename E::storage;
  using T = typename E::compute;

  explicit WeightWindows(const Problem& problem)
      : problem_(problem),
        gemm_(best_gemm(problem)),
        channels_(problem.geometry.channels / problem.geometry.groups),
        columns_(columns_of(problem.geometry)),
        positions_(problem.geometry.batch * problem.geometry.small_positions()),
        block_(std::lcm(kLineElements, int64_t{gemm_.rows})),
        blocks_(ceil_div(channels_, block_)),
        panels_(ceil_div(columns_, gemm_.lanes)),
        windows_(problem) {
    small_width_ = (blocks_ - 1) * block_ + step_of(blocks_ - 1);
    cut();
  }

  void list() override {
    tiles_.clear();
    for (int64_t block = 0; block < blocks_; ++block) {
      const int64_t rows = channels_of(block);
      const int64_t tiles = ceil_div(rows, gemm_.rows);
      const int64_t height = ceil_div(rows, tiles);
      for (int64_t begin = 0; begin < rows; begin += height)
        tiles_.push_back({block, begin, std::min(height, rows - begin)});
    }
    std::vector<int64_t> starts;
    for (int64_t panel = 0; panel <= panels_; ++panel) starts.push_back(panel * gemm_.lanes);
    windows_.list(std::move(starts));
  }

  std::string kernel() const override { return gemm_.name; }
  size_t workspace_bytes() const noexcept override { return total(); }

  bool run(const Call& call) const override {
    const Buffer scratch(total());
    T* const small = reinterpret_cast<T*>(scratch.data());
    T* const windows = reinterpret_cast<T*>(scratch.data() + small_bytes());
    call.crew.limit(problem_.threads);
    std::atomic<bool> finite{true};
    for (int64_t group = 0; group < problem_.geometry.groups; ++group) {
      T* sums = reinterpret_cast<T*>(scratch.data() + small_bytes() + window_bytes());
      if constexpr (sizeof(S) == sizeof(T)) sums = static_cast<T*>(call.out) + group * channels_ * columns_;
      for (int64_t first = 0; first < positions_; first += depth_) {
        const int64_t depth = std::min(depth_, positions_ - first);
        for (int64_t panel = 0; panel < panels_; panel += part_) {
          const int64_t count = std::min(part_, panels_ - panel);
          stage(call, small, windows, {group, first, depth, panel, count}, finite);
          // Zeros stood for what lies beside the large side.
          if (!finite.load()) return false;
          multiply(call, small, windows, sums, {group, first, depth, panel, count});
        }
      }
      if constexpr (sizeof(S) != sizeof(T)) windows_.store(call, sums, group);
    }
    return true;
  }

 private:
  // Some positions, counted through all samples, and some panels of columns.
  struct Part {
    int64_t group;
    int64_t first, depth;
    int64_t panel, panels;
  };

  size_t small_bytes() const noexcept {
    return aligned(static_cast<size_t>(depth_ * small_width_) * sizeof(T));
  }
  size_t window_bytes() const noexcept {
    return aligned(static_cast<size_t>(depth_ * part_ * gemm_.lanes) * sizeof(T));
  }
  size_t sums_bytes() const noexcept {
    return sizeof(S) == sizeof(T) ? 0 : aligned(static_cast<size_t>(channels_ * columns_) * sizeof(T));
  }
  size_t total() const noexcept { return small_bytes() + window_bytes() + sums_bytes(); }

  void cut() {
    if (total() > problem_.workspace) return;
    depth_ = std::min(kMostDepth, positions_);
    const auto even = [this] { depth_ = ceil_div(positions_, ceil_div(positions_, depth_)); };
    even();
    while (depth_ > 1 && total() > problem_.workspace) {
      depth_ /= 2;
      even();
    }
    const size_t panel = static_cast<size_t>(depth_ * gemm_.lanes) * sizeof(T);
    const size_t room = std::min(kWindowBytes, problem_.workspace - (total() - window_bytes()));
    part_ = std::clamp<int64_t>(static_cast<int64_t>(room / panel), 1, panels_);
    part_ = ceil_div(panels_, ceil_div(panels_, part_));
    while (part_ > 1 && total() > problem_.workspace) --part_;
  }

  void stage(const Call& call, T* small, T* windows, const Part& part, std::atomic<bool>& finite) const {
    // Where maps lie together the panels of a position are neighbours, and so are its channels: a unit copies
    // all of them while their lines are near.
    const int64_t together = problem_.geometry.channels_last ? part.panels : 1;
    const int64_t blocks = problem_.geometry.channels_last ? blocks_ : 1;
    const int64_t piece = problem_.geometry.channels_last ? kPiece / 4 : kPiece;
    const int64_t pieces = ceil_div(part.depth, piece);
    // All parts of the columns share the small side.
    const int64_t small_units = part.panel == 0 ? blocks_ / blocks * pieces : 0;
    const int64_t units = small_units + part.panels / together * pieces;
    const auto bytes = static_cast<double>(part.depth * (part.panels * gemm_.lanes + small_width_)) * 4;
    call.crew.share(units, bytes / machine::kStoreBytesPerSecond, [&](int64_t unit, int) noexcept {
      const bool is_small = unit < small_units;
      const int64_t index = is_small ? unit : unit - small_units;
      const int64_t begin = index % pieces * piece;
      const int64_t end = std::min(begin + piece, part.depth);
      if (!is_small) {
        const int64_t panel = index / pieces * together;
        windows_.copy(static_cast<const S*>(call.weight),
                      windows + (panel * part.depth + begin) * gemm_.lanes, part.depth * gemm_.lanes,
                      gemm_.lanes, part.group, part.panel + panel, together, part.first + begin,
                      part.first + end);
        return;
      }
      const int64_t first = index / pieces * blocks;
      for (int64_t block = first; block < first + blocks; ++block) {
        const int64_t step = step_of(block);
        if (!windows_.copy_small(static_cast<const S*>(call.source),
                                 small + block * part.depth * block_ + begin * step, step, part.group,
                                 block * block_, channels_of(block), part.first + begin, part.first + end)) {
          finite.store(false, std::memory_order_relaxed);
        }
      }
    });
  }

  // Channels of a block, and elements from one position of it to the next.
  int64_t channels_of(int64_t block) const noexcept { return std::min(block_, channels_ - block * block_); }
  int64_t step_of(int64_t block) const noexcept {
    return ceil_div(channels_of(block), kLineElements) * kLineElements;
  }

  void multiply(const Call& call, const T* small, const T* windows, T* sums, const Part& part) const {
    const double seconds =
        static_cast<double>(part.depth * part.panels) * machine::rows_step_seconds(gemm_, channels_);
    call.crew.share(static_cast<int64_t>(tiles_.size()) * part.panels, seconds,
                    [&](int64_t unit, int) noexcept {
                      const auto [block, begin, rows] = tiles_[static_cast<size_t>(unit / part.panels)];
                      const int64_t panel = unit % part.panels;
                      const int64_t column = (part.panel + panel) * gemm_.lanes;
                      const int64_t none = 0;
                      void* c[kMostRows];
                      for (int64_t r = 0; r < rows; ++r)
                        c[r] = sums + (block * block_ + begin + r) * columns_ + column;
                      GemmArgs args{};
                      args.a = small + block * part.depth * block_ + begin;
                      args.b = windows + panel * part.depth * gemm_.lanes;
                      args.a_offset = args.b_offset = &none;
                      args.segments = 1;
                      args.depth = part.depth;
                      args.a_step = step_of(block);
                      args.b_step = gemm_.lanes;
                      args.c = c;
                      args.rows = static_cast<int32_t>(rows);
                      args.lanes = static_cast<int32_t>(std::min<int64_t>(gemm_.lanes, columns_ - column));
                      args.accumulate = part.first > 0;
                      gemm_(args);
                    });
  }

  static constexpr int kMostRows = 32;

  // Channels that meet in a product.
  struct Tile {
    int64_t block;
    int64_t begin;  // in the block
    int64_t rows;
  };

  Problem problem_;
  const Kernel& gemm_;
  int64_t channels_;  // of a group
  int64_t columns_;   // of a group
  int64_t positions_;
  int64_t block_;  // channels that lie together
  int64_t blocks_;
  int64_t small_width_;      // elements of a position of the small side
  std::vector<Tile> tiles_;  // of channels
  int64_t panels_;
  Windows<E> windows_;
  int64_t depth_ = 1;  // positions that are packed at a time
  int64_t part_ = 1;   // panels that are
};

double cost(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const Kernel& gemm = best_gemm(problem);
  const double width = machine::lanes(gemm.dtype, gemm.isa);
  const int64_t channels = g.channels / g.groups;
  const auto panels = static_cast<double>(ceil_div(columns_of(g), gemm.lanes));
  const auto tiles = static_cast<double>(ceil_div(channels, gemm.rows));
  const auto positions = static_cast<double>(g.batch * g.groups * g.small_positions());
  const double panel_bytes = gemm.lanes * static_cast<double>(compute_bytes(problem.dtype));
  const double products =
      panels * (machine::rows_step_seconds(gemm, channels) + tiles * panel_bytes * kPanelByteSeconds);
  const double sums = panels * (tiles * machine::kCallSeconds +
                                static_cast<double>(channels) * gemm.lanes / width * machine::kCopySeconds);
  return positions * (products + windows_seconds(problem, panels, false)) +
         std::ceil(positions / static_cast<double>(kMostDepth)) * sums +
         machine::far_seconds(problem, static_cast<double>(g.small_elements() + g.weight_elements()) *
                                           static_cast<double>(storage_bytes(problem.dtype)));
}

}  // namespace

extern const Algorithm weight_windows;
const Algorithm weight_windows{"weight_windows", windows_refusal, cost, make_stored<WeightWindows>};

}  // namespace tconv
