// Weight gradient where maps lie together, as matrix products whose depth is positions: the window of a
// position is a few runs of neighbours, so both sides are read where they lie. Either side is in the lanes.
// Positions whose windows leave the image along x, or at which a vector would reach beyond an array, are
// copied, as are all of short types.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "algorithms/algorithm.hpp"
#include "algorithms/spread_rows.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "packing.hpp"

namespace tconv {
namespace {

constexpr int64_t kPanelBytes = 20 << 10;  // of lanes, which all products of a box find in the nearest cache
constexpr int64_t kBoxBytes = 128 << 10;   // of the small side
constexpr int64_t kLeastPositions = 32;
constexpr int64_t kCopiedBytes = 256 << 10;
// A vector of sums, fetched and stored; a row of positions, that is listed and gone to for a run and a panel;
// a run and a vector that are copied.
constexpr double kSumSeconds = 2 * machine::kCopySeconds;
constexpr double kRowSeconds = 25 / machine::kHertz;
constexpr double kRunSeconds = 35 / machine::kHertz;
constexpr double kVectorSeconds = 6 / machine::kHertz;
constexpr double kFarSums = 4;  // times as long for sums that leave the second cache
// How fast lanes come that are parts of positions, which meet in few sets of the nearest cache.
constexpr double kPartBytesPerSecond = 11 * machine::kHertz;
// The same where they are not fetched ahead: by no one, if positions are this far apart.
constexpr double kLateBytesPerSecond = 4 * machine::kHertz;
constexpr int64_t kPrefetched = 768;  // bytes
// Times as long as products with all in the nearer caches.
constexpr double kFetching = 1.05;

// What lies in lanes and rows, and the kernel for it.
struct Roles {
  bool lanes_small = true;  // channels in the lanes and a run of the window in the rows, or the other way
  const Kernel* gemm = nullptr;
  double step_seconds = 0;  // of one position
  double box_seconds = 0;   // of all tiles of a box, beside their steps
  double panels = 0;        // of all runs

  explicit Roles(const Problem& problem) {
    const Geometry& g = problem.geometry;
    const int64_t channels = g.channels / g.groups;
    const int64_t length = segment_length(g);
    const auto runs = static_cast<double>(g.taps() / segment_taps(g));
    for (const Kernel& kernel : kernels(Family::gemm, compute_dtype(problem.dtype), problem.isa)) {
      for (const bool small : {true, false}) {
        const int64_t rows = small ? length : channels;
        const int64_t wide = small ? channels : length;
        const auto tiles = static_cast<double>(ceil_div(rows, kernel.rows));
        const double all = runs * static_cast<double>(ceil_div(wide, kernel.lanes));
        const auto lanes = static_cast<double>(kernel.lanes);
        const double vectors = lanes / machine::lanes(kernel.dtype, kernel.isa);
        double step = machine::rows_step_seconds(kernel, rows);
        const auto element = static_cast<int64_t>(compute_bytes(kernel.dtype));
        const int64_t apart = element * (small ? g.channels : g.axes[2].stride * g.filters);
        if (apart > kernel.lanes * element) {
          const bool ahead = (small && g.groups == 1) || apart < kPrefetched;
          step = std::max(step, tiles * lanes * static_cast<double>(element) /
                                    (ahead ? kPartBytesPerSecond : kLateBytesPerSecond));
        }
        const double box = tiles * machine::kCallSeconds + static_cast<double>(rows) * vectors * kSumSeconds;
        const auto seconds = [&g](const Kernel& of, double one, double each) {
          return one + each / static_cast<double>(positions_of(g, of));
        };
        if (gemm == nullptr ||
            seconds(kernel, all * step, all * box) < seconds(*gemm, step_seconds, box_seconds)) {
          lanes_small = small;
          gemm = &kernel;
          step_seconds = all * step;
          box_seconds = all * box;
          panels = all;
        }
      }
    }
  }

  // Of a box.
  static int64_t positions_of(const Geometry& g, const Kernel& kernel) noexcept {
    const auto element = static_cast<int64_t>(compute_bytes(kernel.dtype));
    return std::min(kPanelBytes / (kernel.lanes * element),
                    std::max(kLeastPositions, kBoxBytes / (g.channels * element)));
  }
};

template <class T>
class WeightRows final : public Recipe {
 public:
  explicit WeightRows(const Problem& problem)
      : problem_(problem),
        roles_(problem),
        gemm_(*roles_.gemm),
        load_(tconv::kernel(Family::load, problem.dtype, problem.isa)),
        store_(tconv::kernel(Family::store, problem.dtype, problem.isa)),
        element_(static_cast<int64_t>(storage_bytes(problem.dtype))),
        channels_(problem.geometry.channels / problem.geometry.groups),
        window_(problem.geometry.filters / problem.geometry.groups * problem.geometry.taps()),
        length_(segment_length(problem.geometry)),
        runs_(window_ / length_),
        rows_(problem.geometry.batch * problem.geometry.axes[0].size * problem.geometry.axes[1].size),
        within_(problem.geometry.axes[2].within()) {
    const Axis& x = problem.geometry.axes[2];
    box_x_ = std::min(Roles::positions_of(problem.geometry, gemm_),
                      std::max<int64_t>(1, within_.second - within_.first));
    box_rows_ = box_x_ < within_.second - within_.first
                    ? 1
                    : std::clamp<int64_t>(Roles::positions_of(problem.geometry, gemm_) / box_x_, 1,
                                          std::max<int64_t>(1, rows_));
    const int64_t copied = (copied_window() + copied_channels()) * static_cast<int64_t>(sizeof(T));
    most_copied_ = std::clamp<int64_t>(kCopiedBytes / copied, 1, std::max<int64_t>(1, rows_ * x.size));
    while (most_copied_ > 1 && workspace_bytes() > problem.workspace) most_copied_ /= 2;
    while (box_rows_ > 1 && workspace_bytes() > problem.workspace) box_rows_ /= 2;
    threads_ = problem.threads;
    while (threads_ > 1 && workspace_bytes() > problem.workspace) --threads_;
  }

  std::string kernel() const override { return gemm_.name; }
  size_t workspace_bytes() const noexcept override {
    return sums_bytes() + copied_bytes() + worker_bytes() * static_cast<size_t>(threads_);
  }

  // Expected on one thread.
  double seconds() const noexcept {
    const Geometry& g = problem_.geometry;
    const auto& [z, y, x] = g.axes;
    const double vector = machine::lanes(gemm_.dtype, gemm_.isa);
    const int64_t width = element_ < static_cast<int64_t>(sizeof(T)) ? 0 : within_.second - within_.first;
    double inside = 1;
    for (const Axis* axis : {&z, &y})
      inside *= static_cast<double>(axis->taps_inside()) / static_cast<double>(axis->size * axis->kernel);
    const auto lying = static_cast<double>(rows_ * width);
    const auto copied = static_cast<double>(rows_ * (x.size - width));
    // Vectors reach beyond an array at its end, if they do.
    const auto rounds = static_cast<double>(ceil_div(rows_ * (x.size - width), most_copied_) + 1);
    const auto boxes = static_cast<double>(ceil_div(rows_, box_rows_) * ceil_div(width, box_x_));
    const double copy = static_cast<double>(runs_) * kRunSeconds +
                        static_cast<double>(window_ + channels_) / vector * kVectorSeconds;
    const bool far = static_cast<double>(sums_bytes()) > machine::kSecondCacheBytes;
    const double sums = (boxes + rounds) * roles_.box_seconds +
                        static_cast<double>(channels_ * window_) / vector * machine::kScatterSeconds;
    return static_cast<double>(g.groups) *
               ((lying * inside + copied) * roles_.step_seconds * kFetching + copied * copy +
                static_cast<double>(rows_) * roles_.panels * kRowSeconds + sums * (far ? kFarSums : 1)) +
           machine::far_seconds(problem_,
                                static_cast<double>((g.small_elements() + g.large_elements()) * element_));
  }

  void list() override { segments_ = window_segments(problem_.geometry); }

  bool run(const Call& call) const override {
    const Buffer scratch(workspace_bytes());
    Pieces pieces(scratch.data());
    Work work{&call, pieces.take<T>(sums_bytes()), pieces.take<T>(copied_bytes()), pieces.rest(), 0};
    call.crew.limit(threads_);
    for (int64_t group = 0; group < problem_.geometry.groups; ++group) {
      work.group = group;
      std::fill_n(work.sums, sums_bytes() / sizeof(T), T{0});
      // From here on rows may have positions at which a vector would reach beyond an array.
      int64_t far = 0;
      while (far < rows_ && near_end(group, far) == within_.second) ++far;
      for (int64_t row = 0; row < rows_;) {
        const int64_t rows = row < far ? std::min(box_rows_, far - row) : 1;
        const int64_t end = row < far ? within_.second : near_end(group, row);
        for (int64_t x = within_.first; x < end; x += box_x_)
          multiply(work, Box{row, rows, x, std::min(box_x_, end - x)});
        row += rows;
      }
      if (!multiply_copies(work)) return false;
      finish(work);
    }
    return true;
  }

 private:
  // Neighbours that are read next.
  struct Next {
    const T* from;
    int64_t count;
  };
  // Positions that are multiplied at a time: of some rows of the small side, `count` from x on.
  struct Box {
    int64_t row, rows;
    int64_t x, count;
  };
  struct Work {
    const Call* call;
    T* sums;    // [run][row][lane]
    T* copied;  // windows, then channels
    char* workers;
    int64_t group;
  };
  struct Row {
    int64_t sample, z, y;
  };

  int64_t rows_of_tiles() const noexcept { return roles_.lanes_small ? length_ : channels_; }
  int64_t panels() const noexcept {
    return ceil_div(roles_.lanes_small ? channels_ : length_, int64_t{gemm_.lanes});
  }
  int64_t sum_lanes() const noexcept { return panels() * gemm_.lanes; }
  size_t sums_bytes() const noexcept {
    return aligned(static_cast<size_t>(runs_ * rows_of_tiles() * sum_lanes()) * sizeof(T));
  }
  // Elements of a copied position, with room to read whole panels.
  int64_t copied_window() const noexcept { return window_ + (roles_.lanes_small ? 0 : sum_lanes()); }
  int64_t copied_channels() const noexcept { return roles_.lanes_small ? sum_lanes() : channels_; }
  size_t copied_bytes() const noexcept {
    return aligned(static_cast<size_t>(most_copied_ * (copied_window() + copied_channels())) * sizeof(T));
  }
  size_t list_bytes() const noexcept { return aligned(static_cast<size_t>(box_rows_) * sizeof(int64_t)); }
  size_t worker_bytes() const noexcept { return 2 * list_bytes(); }

  Row row_of(int64_t row) const noexcept {
    const auto& [z, y, x] = problem_.geometry.axes;
    return {row / y.size / z.size, row / y.size % z.size, row % y.size};
  }
  void advance(Row& row) const noexcept {
    const auto& [z, y, x] = problem_.geometry.axes;
    if (++row.y < y.size) return;
    row.y = 0;
    if (++row.z < z.size) return;
    row.z = 0;
    ++row.sample;
  }
  int64_t small_at(int64_t group, int64_t row, int64_t x) const noexcept {
    const Geometry& g = problem_.geometry;
    return (row * g.axes[2].size + x) * g.channels + group * channels_;
  }
  WindowPlace place_of(const Row& row, int64_t x) const noexcept {
    const auto& [az, ay, ax] = problem_.geometry.axes;
    return {row.sample, row.z * az.stride - az.pad_lo, row.y * ay.stride - ay.pad_lo,
            x * ax.stride - ax.pad_lo};
  }
  int64_t large_at(int64_t group, const Row& row, int64_t x) const noexcept {
    return place_of(row, x).offset(problem_.geometry) + group * filters();
  }
  int64_t filters() const noexcept { return problem_.geometry.filters / problem_.geometry.groups; }

  // The position of a row within the image from which on vectors would reach beyond an array.
  int64_t near_end(int64_t group, int64_t row) const noexcept {
    const Geometry& g = problem_.geometry;
    if (element_ < static_cast<int64_t>(sizeof(T))) return within_.first;
    int64_t step = g.channels;
    int64_t room = g.small_elements() - small_at(group, row, 0);
    if (!roles_.lanes_small) {
      step = g.axes[2].stride * g.filters;
      room = g.large_elements() - large_at(group, row_of(row), 0) - segments_.start.back();
    }
    return std::clamp(floor_div(room - sum_lanes(), step) + 1, within_.first, within_.second);
  }

  // Adds up products of some positions, which lie `small_step` and `large_step` elements apart.
  template <class List>
  void multiply_tiles(const Work& work, const T* small, const T* large, int64_t small_step,
                      int64_t large_step, int64_t positions, int64_t depth, const Next& next,
                      const List& list) const {
    const int64_t tiles = ceil_div(rows_of_tiles(), int64_t{gemm_.rows});
    const int64_t height = ceil_div(rows_of_tiles(), tiles);
    work.call->crew.share(
        runs_ * panels(), static_cast<double>(positions) * roles_.step_seconds,
        [&](int64_t unit, int member) noexcept {
          const int64_t run = unit % runs_;
          const int64_t panel = unit / runs_;
          Pieces pieces(work.workers + static_cast<size_t>(member) * worker_bytes());
          auto* const small_offset = pieces.take<int64_t>(list_bytes());
          auto* const large_offset = pieces.take<int64_t>(list_bytes());
          GemmArgs args{};
          args.segments = list(run, small_offset, large_offset);
          if (args.segments == 0) return;
          args.depth = depth;
          args.accumulate = true;
          args.lanes = gemm_.lanes;
          args.a = roles_.lanes_small ? large : small;
          args.a_offset = roles_.lanes_small ? large_offset : small_offset;
          args.a_step = roles_.lanes_small ? large_step : small_step;
          args.b = (roles_.lanes_small ? small : large) + panel * gemm_.lanes;
          args.b_offset = roles_.lanes_small ? small_offset : large_offset;
          args.b_step = roles_.lanes_small ? small_step : large_step;
          void* c[kMostRows];
          args.c = c;
          const int64_t units = runs_ * panels();
          const int64_t from = next.count * unit / units;
          Ahead ahead(reinterpret_cast<const char*>(next.from + from),
                      (next.count * (unit + 1) / units - from) * static_cast<int64_t>(sizeof(T)), 0, 1,
                      tiles);
          for (int64_t top = 0; top < rows_of_tiles(); top += height) {
            args.rows = static_cast<int32_t>(std::min(height, rows_of_tiles() - top));
            for (int64_t r = 0; r < args.rows; ++r) {
              c[r] = work.sums + (run * rows_of_tiles() + top + r) * sum_lanes() + panel * gemm_.lanes;
            }
            ahead.fetch();
            gemm_(args);
            args.a = static_cast<const T*>(args.a) + height;
          }
        });
  }

  void multiply(const Work& work, const Box& box) const {
    const Geometry& g = problem_.geometry;
    const auto& [z, y, x] = g.axes;
    const int64_t end = small_at(work.group, box.row + box.rows - 1, box.x + box.count);
    // What is read in parts, which the processor does not see coming.
    Next next{};
    if (roles_.lanes_small ? panels() > 1 : channels_ > gemm_.rows) {
      next = {static_cast<const T*>(work.call->source) + end,
              std::min(box.rows * box.count * g.channels, g.small_elements() - end)};
    }
    multiply_tiles(work, static_cast<const T*>(work.call->source), static_cast<const T*>(work.call->weight),
                   g.channels, x.stride * g.filters, box.rows * box.count, box.count, next,
                   [&](int64_t run, int64_t* small_offset, int64_t* large_offset) noexcept {
                     const int64_t row_of_taps = run / (x.kernel / segment_taps(g));
                     const int64_t tap_z = row_of_taps / y.kernel * z.dilation - z.pad_lo;
                     const int64_t tap_y = row_of_taps % y.kernel * y.dilation - y.pad_lo;
                     int64_t listed = 0;
                     Row at = row_of(box.row);
                     for (int64_t row = box.row; row < box.row + box.rows; ++row, advance(at)) {
                       const int64_t at_z = at.z * z.stride + tap_z;
                       const int64_t at_y = at.y * y.stride + tap_y;
                       if (at_z < 0 || at_z >= z.out || at_y < 0 || at_y >= y.out) continue;
                       small_offset[listed] = small_at(work.group, row, box.x);
                       large_offset[listed++] =
                           large_at(work.group, at, box.x) + segments_.start[static_cast<size_t>(run)];
                     }
                     return listed;
                   });
  }

  // The positions that products cannot read where they lie. Returns false where one that meets zeros beside
  // the image is not finite.
  bool multiply_copies(const Work& work) const {
    const Geometry& g = problem_.geometry;
    const Axis& x = g.axes[2];
    T* const windows = work.copied;
    T* const channels = windows + most_copied_ * copied_window();
    int64_t copied = 0;
    const auto multiply_all = [&] {
      multiply_tiles(work, channels, windows, copied_channels(), copied_window(), copied, copied, Next{},
                     [&](int64_t run, int64_t* small_offset, int64_t* large_offset) noexcept {
                       *small_offset = 0;
                       *large_offset = run * length_;
                       return int64_t{1};
                     });
      copied = 0;
    };
    for (int64_t row = 0; row < rows_; ++row) {
      const int64_t end = near_end(work.group, row);
      for (int64_t at = 0; at < x.size; ++at) {
        if (at == within_.first) at = end;
        if (at >= x.size) break;
        T* const to = channels + copied * copied_channels();
        convert_run(load_,
                    static_cast<const char*>(work.call->source) + small_at(work.group, row, at) * element_,
                    to, channels_);
        if (!all_finite(to, channels_)) return false;
        const WindowPlace place = place_of(row_of(row), at);
        const int64_t large = place.offset(g) + work.group * filters();
        copy_window(g, place, reinterpret_cast<char*>(windows + copied * copied_window()), sizeof(T),
                    [&](int64_t from, char* window, int64_t runs, int64_t length, int64_t step) noexcept {
                      load_runs(load_,
                                static_cast<const char*>(work.call->weight) + (large + from) * element_,
                                window, runs, length, step);
                    });
        if (++copied == most_copied_) multiply_all();
      }
    }
    if (copied > 0) multiply_all();
    return true;
  }

  // Brings the sums into the order of the weight.
  void finish(const Work& work) const {
    const double seconds = static_cast<double>(sums_bytes()) / machine::kStoreBytesPerSecond;
    work.call->crew.share(runs_, seconds, [&](int64_t run, int) noexcept {
      MoveArgs args{};
      args.src = work.sums + run * rows_of_tiles() * sum_lanes();
      args.dst =
          static_cast<char*>(work.call->out) + (work.group * channels_ * window_ + run * length_) * element_;
      args.src_row = sum_lanes();
      args.src_column = 1;
      args.dst_row = roles_.lanes_small ? 1 : window_;
      args.dst_column = roles_.lanes_small ? window_ : 1;
      args.rows = rows_of_tiles();
      args.columns = roles_.lanes_small ? channels_ : length_;
      store_(args);
    });
  }

  static constexpr int kMostRows = 32;

  Problem problem_;
  Roles roles_;
  const Kernel& gemm_;
  const Kernel& load_;
  const Kernel& store_;
  int64_t element_;   // bytes, as stored
  int64_t channels_;  // of a group
  int64_t window_;    // weights of a channel
  int64_t length_;    // neighbours of a window, of which there are `runs_`
  int64_t runs_;
  int64_t rows_;                        // of the small side
  std::pair<int64_t, int64_t> within_;  // positions of a row whose windows stay inside it
  Segments segments_;
  int64_t box_x_ = 1;
  int64_t box_rows_ = 1;
  int64_t most_copied_ = 1;
  int threads_ = 1;
};

std::optional<std::string> refusal(const Problem& problem) {
  if (!problem.geometry.channels_last) return "maps of a position lie apart";
  return window_refusal(problem.geometry);
}

double cost(const Problem& problem) {
  return compute_dtype(problem.dtype) == DType::f64 ? WeightRows<double>(problem).seconds()
                                                    : WeightRows<float>(problem).seconds();
}

}  // namespace

extern const Algorithm weight_rows;
const Algorithm weight_rows{"weight_rows", refusal, cost, make_computed<WeightRows>};

}  // namespace tconv
