// Weight gradient as one matrix product: a column is a weight of a channel, and its depth is positions. The
// window of every position is copied, so that columns lie as weights do and sums go where they belong; the
// depth is long, so that they seldom go there.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "packing.hpp"
#include "windows_abi.hpp"

namespace tconv {
namespace {

constexpr int64_t kMostRuns = 1 << 16;
constexpr int64_t kMostDepth = 512;         // positions that are multiplied at a time
constexpr size_t kWindowBytes = 256 << 10;  // of windows that are copied at a time
constexpr int64_t kTogether = 16;           // runs that are, at most
constexpr int64_t kPiece = 256;             // positions that one thread packs at a time
// What copying windows costs: for each run of a position, the same where they are pairs, a run and a panel
// once for a row of positions, and a vector, most of them read from afar.
constexpr double kMoveSeconds = 1.6 / machine::kHertz;
constexpr double kPairSeconds = 2 / machine::kHertz;
constexpr double kRowSeconds = 27 / machine::kHertz;
constexpr double kPanelSeconds = 70 / machine::kHertz;
constexpr double kVectorSeconds = 5.8 / machine::kHertz;
constexpr double kSquareSeconds = 7 / machine::kHertz;  // a vector mirrored in a square
// A byte of a panel, which comes from the second cache for each tile, mostly behind the products.
constexpr double kPanelByteSeconds = 0.004 / machine::kHertz;
constexpr int64_t kLineElements = 16;

// How the windows of a group lie in memory: `runs` runs of neighbours, each of `length` elements.
struct Runs {
  bool joined;  // taps along x are neighbours
  int64_t length;
  int64_t runs;
  int64_t unit;  // elements from a position to the next along x

  explicit Runs(const Geometry& g) noexcept {
    const Axis& x = g.axes[2];
    const int64_t filters = g.filters / g.groups;
    joined = x.kernel == 1 || (x.dilation == 1 && (!g.channels_last || g.groups == 1));
    length = (joined ? x.kernel : 1) * (g.channels_last ? filters : 1);
    runs = filters * g.taps() / length;
    unit = g.channels_last ? g.filters : 1;
  }
};

int64_t columns_of(const Geometry& g) noexcept { return g.filters / g.groups * g.taps(); }

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
        runs_(problem.geometry),
        gemm_(best_gemm(problem)),
        load_(tconv::kernel(Family::load, problem.dtype, problem.isa)),
        windows_(tconv::kernel(Family::windows, problem.dtype, problem.isa)),
        store_(tconv::kernel(Family::store, problem.dtype, problem.isa)),
        channels_(problem.geometry.channels / problem.geometry.groups),
        columns_(columns_of(problem.geometry)),
        positions_(problem.geometry.batch * problem.geometry.small_positions()),
        block_(std::lcm(kLineElements, int64_t{gemm_.rows})),
        blocks_(ceil_div(channels_, block_)),
        panels_(ceil_div(columns_, gemm_.lanes)) {
    inside_ = true;
    for (int a = 0; a < kAxes; ++a) {
      within_[a] = problem.geometry.axes[a].within();
      inside_ &= within_[a] == std::pair<int64_t, int64_t>(0, problem.geometry.axes[a].size);
    }
    small_width_ = (blocks_ - 1) * block_ + step_of(blocks_ - 1);
    for (int64_t block = 0; block < blocks_; ++block) {
      const int64_t rows = channels_of(block);
      const int64_t tiles = ceil_div(rows, gemm_.rows);
      const int64_t height = ceil_div(rows, tiles);
      for (int64_t begin = 0; begin < rows; begin += height)
        tiles_.push_back({block, begin, std::min(height, rows - begin)});
    }
    cut();
  }

  // What run() needs beside, which takes long where windows are.
  void list_runs() {
    const Geometry& g = problem_.geometry;
    const auto& [az, ay, ax] = g.axes;
    first_run_.reserve(static_cast<size_t>(panels_) + 1);
    list_.reserve(static_cast<size_t>(runs_.runs + panels_));
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
    for (int64_t panel = 0; panel < panels_; ++panel) {
      first_run_.push_back(list_.size());
      const int64_t last = std::min((panel + 1) * gemm_.lanes, columns_);
      for (int64_t column = panel * gemm_.lanes; column < last;) {
        Run run{};
        run.y = tap_y * ay.dilation - ay.pad_lo;
        run.z = tap_z * az.dilation - az.pad_lo;
        run.map = map;
        run.at = (tap * ax.dilation - ax.pad_lo) * runs_.unit + offset;
        run.column = column - panel * gemm_.lanes;
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
        list_.push_back(run);
        column += run.length;
        advance(run.length);
      }
    }
    first_run_.push_back(list_.size());
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
      if constexpr (sizeof(S) != sizeof(T)) finish(call, sums, group);
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
    // Where maps lie together the panels of a position are neighbours: a unit copies all of them, row by row.
    const int64_t together = problem_.geometry.channels_last ? part.panels : 1;
    const int64_t piece = problem_.geometry.channels_last ? kPiece / 4 : kPiece;
    const int64_t pieces = ceil_div(part.depth, piece);
    // All parts of the columns share the small side.
    const int64_t small_units = part.panel == 0 ? blocks_ * pieces : 0;
    const int64_t units = small_units + part.panels / together * pieces;
    const auto bytes = static_cast<double>(part.depth * (part.panels * gemm_.lanes + small_width_)) * 4;
    call.crew.share(units, bytes / machine::kStoreBytesPerSecond, [&](int64_t unit, int) noexcept {
      const bool is_small = unit < small_units;
      const int64_t index = is_small ? unit : unit - small_units;
      const int64_t begin = index % pieces * piece;
      const int64_t end = std::min(begin + piece, part.depth);
      if (!is_small) {
        const int64_t panel = index / pieces * together;
        pack_windows(call.weight, windows + panel * part.depth * gemm_.lanes, part, part.panel + panel,
                     together, begin, end);
      } else if (!pack_small(call.source, small, part, index / pieces, begin, end)) {
        finite.store(false, std::memory_order_relaxed);
      }
    });
  }

  // Positions of a row of the small side.
  struct Row {
    int64_t sample, z, y;
    int64_t x, end;
  };

  // The row of a part's position `at`, from there to before `end`.
  Row row_of(const Part& part, int64_t at, int64_t end) const noexcept {
    const auto& [z, y, x] = problem_.geometry.axes;
    int64_t place = part.first + at;
    Row row{};
    row.x = place % x.size;
    row.end = std::min(row.x + end - at, x.size);
    place /= x.size;
    row.y = place % y.size;
    place /= y.size;
    row.z = place % z.size;
    row.sample = place / z.size;
    return row;
  }

  // Channels of a block, and elements from one position of it to the next.
  int64_t channels_of(int64_t block) const noexcept { return std::min(block_, channels_ - block * block_); }
  int64_t step_of(int64_t block) const noexcept {
    return ceil_div(channels_of(block), kLineElements) * kLineElements;
  }

  // A block of channels at some positions: [position][channel].
  bool pack_small(const void* source, T* small, const Part& part, int64_t block, int64_t begin,
                  int64_t end) const noexcept {
    const Geometry& g = problem_.geometry;
    const bool last = g.channels_last;
    const int64_t places = g.small_positions();
    const int64_t maps = channels_of(block);
    const int64_t step = step_of(block);
    const int64_t map = part.group * channels_ + block * block_;
    T* const to = small + block * part.depth * block_;
    for (int64_t at = begin; at < end;) {
      const int64_t sample = (part.first + at) / places;
      const int64_t place = (part.first + at) % places;
      const int64_t count = std::min(end - at, places - place);
      const S* const from = static_cast<const S*>(source) + sample * g.channels * places +
                            (last ? place * g.channels + map : map * places + place);
      MoveArgs args{};
      args.src_column = 1;
      if (last) {
        args.src = from;
        args.src_row = g.channels;
        args.dst = to + at * step;
        args.dst_row = step;
        args.dst_column = 1;
        args.rows = count;
        args.columns = maps;
        load_(args);
      }
      if (!last) {
        args.src = from;
        args.src_row = places;
        args.dst = to + at * step;
        args.dst_row = 1;
        args.dst_column = step;
        args.rows = maps;
        args.columns = count;
        gather_maps(load_, args, problem_.dtype);
      }
      at += count;
    }
    return finite_beside(to, part, maps, step, begin, end);
  }

  // Whether the small side is finite where windows leave the image and are filled up with zeros.
  bool finite_beside(const T* small, const Part& part, int64_t maps, int64_t step, int64_t begin,
                     int64_t end) const noexcept {
    if (inside_) return true;
    const auto finite = [&](int64_t first, int64_t last) noexcept {
      if (maps == step) return first >= last || all_finite(small + first * step, (last - first) * step);
      for (int64_t at = first; at < last; ++at) {
        if (!all_finite(small + at * step, maps)) return false;
      }
      return true;
    };
    for (int64_t at = begin; at < end;) {
      const Row row = row_of(part, at, end);
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

  // The columns of some panels at some positions: [panel][position][column].
  void pack_windows(const void* grad, T* windows, const Part& part, int64_t first, int64_t panels,
                    int64_t begin, int64_t end) const noexcept {
    const int64_t lanes = gemm_.lanes;
    for (int64_t at = begin; at < end;) {
      const Row row = row_of(part, at, end);
      for (int64_t panel = first; panel < first + panels; ++panel) {
        const int64_t width = std::min(lanes, columns_ - panel * lanes);
        T* to = windows + ((panel - first) * part.depth + at) * lanes;
        copy_row(static_cast<const S*>(grad), to, part.group, row, panel);
        if (width < lanes) clear(to + width, row.end - row.x, lanes - width);
      }
      at += row.end - row.x;
    }
  }

  void clear(T* to, int64_t count, int64_t length) const noexcept {
    for (int64_t i = 0; i < count; ++i) std::fill_n(to + i * gemm_.lanes, length, T{0});
  }

  // Where the line begins that a run of a row reads, and whether there is one.
  const S* line_of(const S* grad, int64_t group, const Row& row, const Run& run) const noexcept {
    const Geometry& g = problem_.geometry;
    const auto& [az, ay, ax] = g.axes;
    const int64_t y = row.y * ay.stride + run.y;
    const int64_t z = row.z * az.stride + run.z;
    if (y < 0 || y >= ay.out || z < 0 || z >= az.out) return nullptr;
    const int64_t filters = g.filters / g.groups;
    const int64_t map = g.channels_last ? row.sample : row.sample * g.filters + group * filters + run.map;
    return grad + ((map * az.out + z) * ay.out + y) * ax.out * runs_.unit +
           (g.channels_last ? group * filters : 0);
  }

  // A panel's runs of a row. Those that find the same positions in the image are copied together.
  void copy_row(const S* grad, T* to, int64_t group, const Row& row, int64_t panel) const noexcept {
    const Axis& x = problem_.geometry.axes[2];
    const int64_t lanes = gemm_.lanes;
    const int64_t line = x.out * runs_.unit;
    const int64_t step = x.stride * runs_.unit;
    const void* src[kTogether];
    WindowsArgs args{};
    args.src = src;
    args.src_step = step;
    args.dst_step = lanes;
    int64_t from = 0;  // position where `args` begins
    const auto copy = [&]() noexcept {
      if (args.runs > 0 && args.count > 0) windows_(args);
      args.runs = 0;
    };
    for (size_t i = first_run_[static_cast<size_t>(panel)]; i < first_run_[static_cast<size_t>(panel) + 1];
         ++i) {
      const Run& run = list_[i];
      const S* const source = line_of(grad, group, row, run);
      if (source == nullptr) {
        copy();
        clear(to + run.column, row.end - row.x, run.length);
        continue;
      }
      const int64_t begin = std::clamp(run.begin, row.x, row.end);
      const int64_t end = std::clamp(run.end, begin, row.end);
      const auto clipped = [&](int64_t position) noexcept {
        const int64_t at = position * step + run.at;
        T* cut = to + run.column + (position - row.x) * lanes;
        for (int64_t j = 0; j < run.length; ++j)
          cut[j] = at + j < 0 || at + j >= line ? T{0} : E::load(source[at + j]);
      };
      for (int64_t position = row.x; position < begin; ++position) clipped(position);
      for (int64_t position = end; position < row.end; ++position) clipped(position);
      if (args.runs == kTogether || args.length != run.length || from != begin || args.count != end - begin)
        copy();
      if (args.runs == 0) {
        from = begin;
        args.count = end - begin;
        args.length = run.length;
        args.dst = to + run.column + (begin - row.x) * lanes;
      }
      src[args.runs++] = source + run.at + begin * step;
    }
    copy();
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

  void finish(const Call& call, const T* sums, int64_t group) const {
    const double seconds = static_cast<double>(sums_bytes()) / machine::kStoreBytesPerSecond;
    call.crew.share(channels_, seconds, [&](int64_t channel, int) noexcept {
      MoveArgs args{};
      args.src = sums + channel * columns_;
      args.dst = static_cast<S*>(call.out) + (group * channels_ + channel) * columns_;
      args.src_column = args.dst_column = 1;
      args.rows = 1;
      args.columns = columns_;
      store_(args);
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
  Runs runs_;
  std::pair<int64_t, int64_t> within_[kAxes];
  bool inside_;
  const Kernel& gemm_;
  const Kernel& load_;
  const Kernel& windows_;
  const Kernel& store_;
  int64_t channels_;  // of a group
  int64_t columns_;   // of a group
  int64_t positions_;
  int64_t block_;  // channels that lie together
  int64_t blocks_;
  int64_t small_width_;      // elements of a position of the small side
  std::vector<Tile> tiles_;  // of channels
  int64_t panels_;
  std::vector<Run> list_;          // panel after panel
  std::vector<size_t> first_run_;  // of each panel
  int64_t depth_ = 1;              // positions that are packed at a time
  int64_t part_ = 1;               // panels that are
};

std::unique_ptr<Recipe> make(const Problem& problem) {
  return with_dtype(problem.dtype, [&](auto e) -> std::unique_ptr<Recipe> {
    auto made = std::make_unique<WeightWindows<decltype(e)>>(problem);
    made->list_runs();
    return made;
  });
}

std::optional<std::string> refusal(const Problem& problem) {
  if (Runs(problem.geometry).runs > kMostRuns)
    return "more than " + std::to_string(kMostRuns) + " runs of neighbours in a window";
  return std::nullopt;
}

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
  const double small = static_cast<double>(ceil_div(channels, static_cast<int64_t>(width))) *
                       (g.channels_last ? machine::kCopySeconds : kSquareSeconds);
  const Runs runs(g);
  const Axis& x = g.axes[2];
  const bool pairs = problem.dtype == DType::f32 && runs.length == 2 && x.stride == 2;
  const double all_runs = static_cast<double>(runs.runs) + panels;
  const double windows = all_runs * (pairs ? kPairSeconds : kMoveSeconds) +
                         (all_runs * kRowSeconds + panels * kPanelSeconds) / static_cast<double>(x.size) +
                         (pairs ? 0 : static_cast<double>(columns_of(g)) / width * kVectorSeconds);
  return positions * (products + small + windows) +
         std::ceil(positions / static_cast<double>(kMostDepth)) * sums +
         machine::far_seconds(
             problem, static_cast<double>(g.small_elements() + g.large_elements() + g.weight_elements()) *
                          static_cast<double>(storage_bytes(problem.dtype)));
}

}  // namespace

extern const Algorithm weight_windows;
const Algorithm weight_windows{"weight_windows", refusal, cost, make};

}  // namespace tconv
