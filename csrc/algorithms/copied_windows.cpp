// Data gradient of few positions or short rows: the windows of some positions are copied side by side, a part
// at a time, and every output is a dot product of plain weights with a window, lanes being its elements. So
// tiles take positions of any row and sample, and nothing is packed.
#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "algorithms/windows.hpp"
#include "longdots_abi.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "packing.hpp"

namespace tconv {
namespace {

constexpr int64_t kPartBytes = 4 << 10;  // of a window that is multiplied at a time, in tiles of several rows
constexpr int64_t kWindowBytes = 256 << 10;  // of windows that are copied at a time
constexpr int64_t kChannels = 48;            // whose weights stay near for all of these; whole tiles
constexpr int64_t kStageBytes = 4 << 20;     // of images that are copied at a time with the zeros beside them
constexpr int64_t kLineElements = 16;
constexpr double kSumSeconds = 2 / machine::kHertz;    // of a sum of a part
constexpr double kTileSeconds = 50 / machine::kHertz;  // of a tile of them
// A vector that is copied with its zeros, and a run of such.
constexpr double kStageSeconds = 6 / machine::kHertz;
constexpr double kStageRunSeconds = 8 / machine::kHertz;
// A vector of a window more where the second cache does not hold the image.
constexpr double kLateSeconds = 8 / machine::kHertz;
// Weights come in pieces of a few rows.
constexpr double kFarWeightBytesPerSecond = 14e9;

// The type of a kernel's elements that are computed as they are stored.
template <class T>
using Computed = std::conditional_t<sizeof(T) == 8, f64, f32>;

// How windows are cut and which tile multiplies them. Batch and sizes play no part, because parts decide the
// order of sums.
struct Cut {
  const Kernel* dots = nullptr;
  int64_t part = 0;    // elements of a window
  double seconds = 0;  // of the products of a window

  explicit Cut(const Problem& problem) {
    const Geometry& g = problem.geometry;
    const int64_t channels = g.channels / g.groups;
    const int64_t depth = columns_of(g);
    const auto lanes = static_cast<int64_t>(machine::lanes(compute_dtype(problem.dtype), problem.isa));
    const double cycle = (vector_floats(problem.isa) >= 16 ? 1.0 : 0.5) / machine::kHertz;
    for (const Kernel& kernel : kernels(Family::longdots, problem.dtype, problem.isa)) {
      // All columns of a tile and its rows stay in the nearest cache.
      const int64_t most =
          kPartBytes / static_cast<int64_t>(compute_bytes(problem.dtype)) / (kernel.rows == 1 ? 2 : 1);
      // An odd number of lines, or windows meet in one set of the cache.
      const int64_t length =
          (ceil_div(ceil_div(depth, ceil_div(depth, most)), kLineElements) | 1) * kLineElements;
      const auto made = static_cast<double>(kernel.rows * kernel.lanes);
      const double step = std::max(made, 1.1 * static_cast<double>(kernel.rows + kernel.lanes)) * cycle;
      const double tile = static_cast<double>(ceil_div(depth, lanes)) * step +
                          static_cast<double>(ceil_div(depth, length)) * (made * kSumSeconds + kTileSeconds);
      const double all = static_cast<double>(ceil_div(channels, kernel.rows)) * tile / kernel.lanes;
      if (dots != nullptr && all >= seconds) continue;
      dots = &kernel;
      part = length;
      seconds = all;
    }
  }
};

// Positions whose windows are copied at a time.
int64_t block_of(const Problem& problem, int64_t part) noexcept {
  return std::max<int64_t>(1, kWindowBytes / (part * static_cast<int64_t>(compute_bytes(problem.dtype))));
}

// A problem whose source is copied with the zeros beside it: of one group, and a sample.
Problem staged_of(const Problem& problem) noexcept {
  Problem staged = problem;
  staged.dtype = compute_dtype(problem.dtype);
  Geometry& g = staged.geometry;
  g.batch = 1;
  g.channels /= g.groups;
  g.filters /= g.groups;
  g.groups = 1;
  for (Axis& axis : g.axes) {
    axis.out = (axis.size - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1;
    axis.pad_lo = 0;
  }
  return staged;
}

// What it takes to copy all windows, as they lie or from a copy that has the zeros beside the image, which is
// made where that takes less.
struct Copying {
  bool staged = false;
  double seconds = 0;

  Copying(const Problem& problem, int64_t part) {
    const Geometry& g = problem.geometry;
    const Problem copy = staged_of(problem);
    const auto parts = static_cast<double>(ceil_div(columns_of(g), part));
    const auto images = static_cast<double>(g.batch * g.groups);
    const double positions = images * static_cast<double>(g.small_positions());
    const double width = machine::lanes(compute_dtype(problem.dtype), problem.isa);
    const auto source =
        static_cast<double>(g.large_elements()) * static_cast<double>(storage_bytes(problem.dtype));
    const double late = source > machine::kSecondCacheBytes
                            ? positions * static_cast<double>(columns_of(g)) / width * kLateSeconds
                            : 0;
    seconds = late + positions * window_copy_seconds(problem, parts, false);
    const int64_t elements = copy.geometry.large_elements();
    if (elements * static_cast<int64_t>(compute_bytes(problem.dtype)) > kStageBytes) return;
    const bool apart = g.channels_last && g.groups > 1;
    const auto& [z, y, x] = copy.geometry.axes;
    const auto runs = static_cast<double>((g.channels_last ? 1 : copy.geometry.filters) * z.out * y.out *
                                          (apart ? x.out : 1));
    const double with_stage =
        late + images * (static_cast<double>(elements) / width * kStageSeconds + runs * kStageRunSeconds) +
        positions * window_copy_seconds(copy, parts, true);
    staged = with_stage < seconds;
    seconds = std::min(seconds, with_stage);
  }
};

template <class E>
class CopiedWindows final : public Recipe {
 public:
  using S = typename E::storage;
  using T = typename E::compute;

  explicit CopiedWindows(const Problem& problem)
      : problem_(problem),
        activate_(problem),
        cut_(problem),
        stage_(staged_of(problem)),
        staged_(Copying(problem, cut_.part).staged),
        windows_(problem),
        staged_windows_(stage_),
        load_(tconv::kernel(Family::load, problem.dtype, problem.isa)),
        store_(tconv::kernel(Family::store, problem.dtype, problem.isa)),
        inside_(problem.geometry.stays_inside()),
        channels_(stage_.geometry.channels),
        depth_(columns_of(problem.geometry)),
        places_(problem.geometry.small_positions()),
        positions_(problem.geometry.batch * places_) {
    cut();
  }

  void list() override {
    std::vector<int64_t> starts;
    for (int64_t part = 0; part <= ceil_div(depth_, cut_.part); ++part) starts.push_back(part * cut_.part);
    if (staged_) {
      staged_windows_.list(std::move(starts));
    } else {
      windows_.list(std::move(starts));
    }
    columns_.clear();
    for (int64_t column = 0; column < cut_.dots->lanes; ++column) columns_.push_back(column * cut_.part);
  }

  std::string kernel() const override { return cut_.dots->name; }
  size_t workspace_bytes() const noexcept override { return worker_bytes() * static_cast<size_t>(threads_); }

  bool run(const Call& call) const override {
    // Zeros stand for what lies beside the large side.
    if (!inside_ && !finite(call)) return false;
    const Buffer scratch(workspace_bytes());
    call.crew.limit(threads_);
    // What is staged leaves the zeros beside it as they are.
    for (int member = 0; member < threads_; ++member)
      std::memset(scratch.data() + static_cast<size_t>(member) * worker_bytes(), 0, stage_bytes());
    const int64_t units = ceil_div(positions_, unit_);
    const double seconds = machine::seconds(problem_) * threads_;
    call.crew.share(problem_.geometry.groups * units, seconds, [&](int64_t index, int member) noexcept {
      Pieces pieces(scratch.data() + static_cast<size_t>(member) * worker_bytes());
      Unit unit{};
      unit.stage = pieces.take<T>(stage_bytes());
      unit.windows = pieces.take<T>(window_bytes());
      unit.sums = reinterpret_cast<T*>(pieces.rest());
      unit.group = index / units;
      unit.first = index % units * unit_;
      const int64_t end = std::min(unit.first + unit_, positions_);
      if (staged_) {
        for (int64_t at = unit.first; at < end; at += places_)
          stage(call, unit.stage + (at - unit.first) / places_ * stage_.geometry.large_elements(), unit.group,
                at / places_);
      }
      for (int64_t at = unit.first; at < end && !call.crew.stopped(member); at += block_)
        run_block(call, unit, at, std::min(at + block_, end), member);
    });
    return true;
  }

 private:
  // Positions of a group from `first` on, counted through all samples; whole samples where they are staged.
  struct Unit {
    T* stage;
    T* windows;
    T* sums;
    int64_t group;
    int64_t first;
  };

  size_t stage_bytes() const noexcept {
    return staged_
               ? aligned(static_cast<size_t>(unit_ / places_ * stage_.geometry.large_elements()) * sizeof(T))
               : 0;
  }
  size_t window_bytes() const noexcept { return static_cast<size_t>(block_ * cut_.part) * sizeof(T); }
  size_t worker_bytes() const noexcept {
    return stage_bytes() + aligned(window_bytes()) +
           aligned(static_cast<size_t>(channels_ * block_) * sizeof(T));
  }

  void cut() {
    const Geometry& g = problem_.geometry;
    const int64_t lanes = cut_.dots->lanes;
    const auto of_positions = [&](int64_t most) {
      const int64_t samples = std::min({ceil_div(most, places_), g.batch,
                                        std::max<int64_t>(1, kStageBytes / static_cast<int64_t>(sizeof(T)) /
                                                                 stage_.geometry.large_elements())});
      unit_ = staged_ ? samples * places_ : std::min(most, positions_);
      block_ = std::min(unit_, most);
      // Even blocks of whole tiles.
      block_ = std::min(unit_, ceil_div(ceil_div(unit_, ceil_div(unit_, block_)), lanes) * lanes);
      if (!staged_) unit_ = block_;
    };
    int64_t most = std::max(lanes, block_of(problem_, cut_.part));
    of_positions(most);
    threads_ = problem_.threads;
    // The least that a block takes does not depend on the batch.
    while ((most > lanes && g.groups * ceil_div(positions_, unit_) < 2 * threads_) ||
           (most > 1 && worker_bytes() > problem_.workspace)) {
      most = most / 2;
      of_positions(most);
    }
    while (threads_ > 1 && workspace_bytes() > problem_.workspace) --threads_;
  }

  bool finite(const Call& call) const {
    const double bytes = static_cast<double>(problem_.geometry.weight_elements()) * sizeof(S);
    return share_finite(call.crew, problem_.geometry.channels, bytes / machine::kReadBytesPerSecond,
                        [&](int64_t channel, int) noexcept {
                          return finite_stored<E>(static_cast<const S*>(call.weight) + channel * depth_,
                                                  depth_);
                        });
  }

  // Copies a group of a sample to between the zeros beside it.
  void stage(const Call& call, T* to, int64_t group, int64_t sample) const noexcept {
    const Geometry& g = problem_.geometry;
    const Geometry& made = stage_.geometry;
    const bool last = g.channels_last;
    const int64_t unit = last ? made.filters : 1;
    const int64_t from_unit = last ? g.filters : 1;
    int64_t begin[kAxes];
    int64_t end[kAxes];
    for (int a = 0; a < kAxes; ++a) {
      const Axis& axis = g.axes[a];
      begin[a] = std::clamp<int64_t>(axis.pad_lo, 0, made.axes[a].out);
      end[a] = std::clamp<int64_t>(axis.out + axis.pad_lo, begin[a], made.axes[a].out);
    }
    const auto& [z, y, x] = g.axes;
    const bool runs = unit == from_unit;  // whether a row is one run
    const int64_t width = end[2] - begin[2];
    const int64_t height = end[1] - begin[1];
    if (width == 0 || height == 0) return;
    MoveArgs args{};
    args.src_column = args.dst_column = 1;
    args.rows = runs ? height : width;
    args.columns = runs ? width * unit : unit;
    args.src_row = (runs ? x.out : 1) * from_unit;
    args.dst_row = (runs ? made.axes[2].out : 1) * unit;
    for (int64_t map = 0; map < (last ? 1 : made.filters); ++map) {
      const int64_t plane = last ? sample : sample * g.filters + group * made.filters + map;
      for (int64_t at_z = begin[0]; at_z < end[0]; ++at_z) {
        for (int64_t at_y = begin[1]; at_y < (runs ? begin[1] + 1 : end[1]); ++at_y) {
          args.src =
              static_cast<const S*>(call.source) +
              (((plane * z.out + at_z - z.pad_lo) * y.out + at_y - y.pad_lo) * x.out + begin[2] - x.pad_lo) *
                  from_unit +
              (last ? group * made.filters : 0);
          args.dst = to + (((map * made.axes[0].out + at_z) * made.axes[1].out + at_y) * made.axes[2].out +
                           begin[2]) *
                              unit;
          load_(args);
        }
      }
    }
  }

  // Positions [first, last) of a unit.
  void run_block(const Call& call, const Unit& unit, int64_t first, int64_t last, int member) const noexcept {
    const int64_t map = unit.group * channels_;
    for (int64_t c = 0; c < channels_; ++c) {
      const T bias = call.bias == nullptr ? T{0} : E::load(static_cast<const S*>(call.bias)[map + c]);
      std::fill_n(unit.sums + c * block_, block_, bias);
    }
    const int64_t none = 0;
    LongDotsArgs args{};
    args.a_offset = args.b_offset = &none;
    args.segments = 1;
    args.a_row = depth_;
    // What is read next: other channels, or where they are few, more of these.
    args.a_next = channels_ > kChannels ? cut_.dots->rows * depth_ : cut_.part;
    args.b_column = columns_.data();
    args.out_row = block_;
    for (int64_t begin = 0; begin < depth_; begin += cut_.part) {
      if (call.crew.stopped(member)) return;
      const int64_t part = begin / cut_.part;
      if (staged_) {
        staged_windows_.copy(unit.stage, unit.windows, 0, cut_.part, 0, part, 1, first - unit.first,
                             last - unit.first);
      } else {
        windows_.copy(static_cast<const S*>(call.source), unit.windows, 0, cut_.part, unit.group, part, 1,
                      first, last);
      }
      args.depth = std::min(cut_.part, depth_ - begin);
      for (int64_t channel = 0; channel < channels_; channel += kChannels) {
        const int64_t end = std::min(channel + kChannels, channels_);
        for (int64_t at = 0; at < last - first; at += cut_.dots->lanes) {
          args.b = unit.windows + at * cut_.part;
          args.columns = static_cast<int32_t>(std::min<int64_t>(cut_.dots->lanes, last - first - at));
          for (int64_t c = channel; c < end; c += cut_.dots->rows) {
            args.a = static_cast<const S*>(call.weight) + (map + c) * depth_ + begin;
            args.rows = static_cast<int32_t>(std::min<int64_t>(cut_.dots->rows, end - c));
            args.out = unit.sums + c * block_ + at;
            (*cut_.dots)(args);
          }
        }
      }
    }
    activate_(unit.sums, channels_ * block_);
    store(call, unit.sums, map, first, last);
  }

  void store(const Call& call, const T* sums, int64_t map, int64_t first, int64_t last) const noexcept {
    const Geometry& g = problem_.geometry;
    for (int64_t at = first; at < last;) {
      const int64_t place = at % places_;
      const int64_t count = std::min(last - at, places_ - place);
      MoveArgs args{};
      args.src = sums + at - first;
      args.src_row = block_;
      args.src_column = 1;
      args.dst = static_cast<S*>(call.out) + at / places_ * g.channels * places_ +
                 (g.channels_last ? place * g.channels + map : map * places_ + place);
      args.dst_row = g.channels_last ? 1 : places_;
      args.dst_column = g.channels_last ? g.channels : 1;
      args.rows = channels_;
      args.columns = count;
      store_(args);
      at += count;
    }
  }

  Problem problem_;
  Activate activate_;
  Cut cut_;
  Problem stage_;  // a group of a sample with the zeros beside it
  bool staged_;    // whether that is made
  Windows<E> windows_;
  Windows<Computed<T>> staged_windows_;
  const Kernel& load_;
  const Kernel& store_;
  bool inside_;
  int64_t channels_;  // of a group
  int64_t depth_;     // elements of a window
  int64_t places_;    // positions of a sample
  int64_t positions_;
  std::vector<int64_t> columns_;  // where they begin
  int64_t unit_ = 1;              // positions that a thread takes
  int64_t block_ = 1;             // of which so many have their windows copied at a time
  int threads_ = 1;
};

std::optional<std::string> refusal(const Problem& problem) {
  const Geometry& g = problem.geometry;
  if (g.groups == 1 && g.one_window()) return "images of one window, which lie side by side as they are";
  return windows_refusal(problem);
}

double cost(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const Cut cut(problem);
  const auto positions = static_cast<double>(g.batch * g.groups * g.small_positions());
  const auto stored = static_cast<double>(storage_bytes(problem.dtype));
  // Weights beyond the second cache come anew for every block of positions.
  const double weights = static_cast<double>(g.weight_elements()) * stored;
  const bool far = weights > machine::kSecondCacheBytes;
  const double again = static_cast<double>((g.batch * g.small_positions() - 1) / block_of(problem, cut.part));
  return positions * cut.seconds + Copying(problem, cut.part).seconds +
         static_cast<double>(g.small_elements()) * kSumSeconds +
         weights / (far ? kFarWeightBytesPerSecond : machine::kReadBytesPerSecond) +
         (far ? again * weights / machine::kReadBytesPerSecond : 0) +
         machine::far_seconds(problem, static_cast<double>(g.small_elements()) * stored);
}

}  // namespace

extern const Algorithm copied_windows;
const Algorithm copied_windows{"copied_windows", refusal, cost, make_stored<CopiedWindows>};

}  // namespace tconv
