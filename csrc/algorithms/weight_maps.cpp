// Weight gradient of depthwise layers and small groups whose maps lie together, lanes being the large side's:
// of each row of the small side, the products with the rows of the large side that its taps meet. Neither
// side is copied, but for rows of the small side where a group has several maps, which are spread to their
// lanes.
#include <algorithm>
#include <cmath>
#include <optional>

#include "algorithms/algorithm.hpp"
#include "algorithms/map_spread.hpp"
#include "machine.hpp"
#include "mapdots_abi.hpp"
#include "memory.hpp"

namespace tconv {
namespace {

constexpr int64_t kMostSums = 1 << 12;  // of a filter
// Vectors of filters that are summed in turn for each row, so that what is read of a position is longer than
// a line.
constexpr int64_t kMostVectors = 4;
constexpr int64_t kLeastPiece = 16;
constexpr int64_t kPieceBytes = 512 << 10;            // of a row at a time, which all taps find in the caches
constexpr double kStepSeconds = 2 / machine::kHertz;  // of a product
constexpr double kAgain = 1.2;                        // times as long, for one of several maps of a group
constexpr double kAgainFar = 1.8;                     // the same where positions are many lines apart
constexpr double kStoreSeconds = 3 / machine::kHertz;  // of a weight
constexpr double kRowSeconds = 30 / machine::kHertz;   // of the taps along x of a row
constexpr double kTapSeconds = 16 / machine::kHertz;   // of each tap of a position that lacks some
constexpr double kRunShare = 0.35;                     // of parts of positions, to read whole rows

// Maps of the small side in a group.
int64_t depth(const Geometry& g) noexcept { return g.channels / g.groups; }
// Of a filter.
int64_t filter_sums(const Geometry& g) noexcept { return depth(g) * g.taps(); }

// Sums of some vectors of filters, and the row that is spread.
size_t worker_bytes(const Problem& problem, int64_t vectors) noexcept {
  const Geometry& g = problem.geometry;
  const auto lanes = static_cast<int64_t>(machine::lanes(compute_dtype(problem.dtype), problem.isa));
  return static_cast<size_t>(vectors * filter_sums(g) * lanes) * compute_bytes(problem.dtype) +
         aligned(static_cast<size_t>(groups_have_maps(g) ? g.axes[2].size * lanes : 0) *
                 storage_bytes(problem.dtype));
}

template <class E>
class WeightMaps final : public Recipe {
 public:
  using S = typename E::storage;
  using T = typename E::compute;

  explicit WeightMaps(const Problem& problem)
      : problem_(problem),
        dots_(tconv::kernel(Family::mapdots, problem.dtype, problem.isa)),
        lanes_(static_cast<int64_t>(machine::lanes(compute_dtype(problem.dtype), problem.isa))),
        vectors_(ceil_div(problem.geometry.filters, lanes_)) {
    const Geometry& g = problem.geometry;
    if (groups_have_maps(g)) spreader_.emplace(problem, depth(g), g.filters / g.groups);
    threads_ = 1;
    while (threads_ < problem.threads && bytes(threads_ + 1, 1) <= problem.workspace) ++threads_;
    together_ = std::clamp<int64_t>(vectors_ / threads_, 1, kMostVectors);
    while (together_ > 1 && bytes(threads_, together_) > problem.workspace) --together_;
  }

  std::string kernel() const override { return dots_.name; }
  size_t workspace_bytes() const noexcept override { return bytes(threads_, together_); }

  bool run(const Call& call) const override {
    const Geometry& g = problem_.geometry;
    const Buffer scratch(workspace_bytes());
    call.crew.limit(threads_);
    const double seconds = g.multiply_adds() / static_cast<double>(lanes_) * kStepSeconds;
    call.crew.share(ceil_div(vectors_, together_), seconds, [&](int64_t unit, int member) noexcept {
      char* const memory = scratch.data() + static_cast<size_t>(member) * worker_bytes(problem_, together_);
      T* const sums = reinterpret_cast<T*>(memory);
      const int64_t first = unit * together_;
      const int64_t vectors = std::min(together_, vectors_ - first);
      std::fill_n(sums, vectors * filter_sums(g) * lanes_, T{0});
      sum_maps(call, first, vectors, sums, Pace(call.crew, member));
      store(sums, first * lanes_, std::min(g.filters, (first + vectors) * lanes_), static_cast<S*>(call.out));
    });
    return true;
  }

 private:
  size_t bytes(int threads, int64_t vectors) const noexcept {
    return worker_bytes(problem_, vectors) * static_cast<size_t>(threads);
  }

  // Filters [first, end).
  void store(const T* sums, int64_t first, int64_t end, S* out) const noexcept {
    const Geometry& g = problem_.geometry;
    const int64_t columns = g.filters / g.groups;
    for (int64_t filter = first; filter < end; ++filter) {
      const int64_t at = filter - first;
      const T* from = sums + at / lanes_ * filter_sums(g) * lanes_ + at % lanes_;
      S* const to = out + filter / columns * filter_sums(g) * columns + filter % columns;
      for (int64_t sum = 0; sum < filter_sums(g); ++sum) to[sum * columns] = E::store(from[sum * lanes_]);
    }
  }

  // Some vectors of filters, of which `sums` holds [vector][map of a group][tap].
  void sum_maps(const Call& call, int64_t first, int64_t vectors, T* sums, Pace pace) const noexcept {
    const Geometry& g = problem_.geometry;
    const auto& [z, y, x] = g.axes;
    const S* const small = static_cast<const S*>(call.source);
    S* const spread = reinterpret_cast<S*>(sums + together_ * filter_sums(g) * lanes_);
    for (int64_t sample = 0; sample < g.batch; ++sample) {
      for (int64_t iz = 0; iz < z.size; ++iz) {
        for (int64_t iy = 0; iy < y.size; ++iy) {
          const S* const row = small + ((sample * z.size + iz) * y.size + iy) * x.size * g.channels;
          for (int64_t d = 0; d < vectors * depth(g); ++d) {
            const int64_t map = (first + d / depth(g)) * lanes_;
            const int64_t maps = std::min(lanes_, g.filters - map);
            if (spreader_) spread_row(row + d % depth(g), small + g.small_elements(), spread, map, maps);
            T* const of_map = sums + d * g.taps() * lanes_;
            for (int64_t kz = 0; kz < z.kernel; ++kz) {
              const int64_t at_z = iz * z.stride + kz * z.dilation - z.pad_lo;
              if (at_z < 0 || at_z >= z.out) continue;
              for (int64_t ky = 0; ky < y.kernel; ++ky) {
                const int64_t at_y = iy * y.stride + ky * y.dilation - y.pad_lo;
                if (at_y < 0 || at_y >= y.out) continue;
                const S* const large = static_cast<const S*>(call.weight) +
                                       ((sample * z.out + at_z) * y.out + at_y) * x.out * g.filters + map;
                sum_row(spreader_ ? spread : row + map, large,
                        of_map + (kz * y.kernel + ky) * x.kernel * lanes_, maps, pace);
              }
            }
            if (pace.stopped(0)) return;
          }
        }
      }
    }
  }

  void spread_row(const S* row, const S* end, S* to, int64_t map, int64_t maps) const noexcept {
    MapSpreadArgs args{};
    args.src = row;
    args.end = end;
    args.src_step = problem_.geometry.channels;
    args.dst = to;
    args.dst_step = lanes_;
    args.depth = 1;
    args.rows = 1;
    args.count = problem_.geometry.axes[2].size;
    (*spreader_)(args, map, maps);
  }

  // A row of either side, and the taps along x: all of them where they meet the large side, else one by one.
  void sum_row(const S* small, const S* large, T* sums, int64_t maps, Pace& pace) const noexcept {
    const Axis& x = problem_.geometry.axes[2];
    const int64_t step = problem_.geometry.filters;
    const auto [begin, end] = x.within();
    MapDotsArgs args{};
    args.a_step = spreader_ ? lanes_ : step;
    args.b_step = x.stride * step;
    args.b_column = x.dilation * step;
    args.maps = maps;
    const int64_t piece =
        std::max<int64_t>(kLeastPiece, kPieceBytes / (args.b_step * static_cast<int64_t>(sizeof(S))));
    const auto some = [&](int64_t first, int64_t last, int64_t tap, int64_t taps) noexcept {
      args.sums = sums + tap * lanes_;
      args.columns = taps;
      for (; first < last; first += args.count) {
        args.a = small + first * args.a_step;
        args.b = large + (first * x.stride + tap * x.dilation - x.pad_lo) * step;
        args.count = std::min(piece, last - first);
        dots_(args);
        if (pace.stopped(taps * args.count)) return;
      }
    };
    some(begin, end, 0, x.kernel);
    for (int64_t tap = 0; tap < x.kernel && (begin > 0 || end < x.size); ++tap) {
      const int64_t at = tap * x.dilation - x.pad_lo;
      const int64_t low = std::clamp<int64_t>(ceil_div(-at, x.stride), 0, x.size);
      const int64_t high = std::clamp<int64_t>(floor_div(x.out - 1 - at, x.stride) + 1, low, x.size);
      if (begin >= end) {
        some(low, high, tap, 1);
      } else {
        some(low, begin, tap, 1);
        some(end, high, tap, 1);
      }
    }
  }

  Problem problem_;
  const Kernel& dots_;
  int64_t lanes_;
  int64_t vectors_;                         // of filters
  int64_t together_ = 1;                    // that a unit sums
  std::optional<MapSpreader<E>> spreader_;  // where a group has several maps
  int threads_;
};

std::optional<std::string> refusal(const Problem& problem) {
  const Geometry& g = problem.geometry;
  if (!g.channels_last) return "maps of a position lie apart";
  if (filter_sums(g) > kMostSums) return "more than " + std::to_string(kMostSums) + " weights of a filter";
  return workspace_refusal(problem, worker_bytes(problem, 1));
}

double cost(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const double lanes = machine::lanes(compute_dtype(problem.dtype), problem.isa);
  const auto& [z, y, x] = g.axes;
  const auto vectors = static_cast<double>(g.batch * g.small_positions()) *
                       std::ceil(static_cast<double>(g.filters) / lanes) * static_cast<double>(depth(g));
  const auto rows = static_cast<double>(z.kernel * y.kernel);
  const auto [begin, end] = x.within();
  const auto apart = static_cast<double>((x.size - (end - begin)) * x.kernel);
  // Of the large side what taps meet.
  double met = static_cast<double>(g.large_elements());
  for (const Axis& axis : g.axes)
    met *= std::min(1.0, static_cast<double>(axis.kernel) / static_cast<double>(axis.stride));
  const double bytes =
      (static_cast<double>(g.small_elements()) + met) * static_cast<double>(storage_bytes(problem.dtype));
  const bool runs = g.filters <= kMostVectors * static_cast<int64_t>(lanes);
  const double read = bytes / machine::kStoreBytesPerSecond /
                      (machine::stays_near(problem) ? machine::kNearGain : 1) * (runs ? kRunShare : 1);
  const double step = kStepSeconds * (depth(g) == 1 ? 1 : runs ? kAgain : kAgainFar);
  return vectors *
             (rows * (static_cast<double>(x.kernel) * step +
                      (kRowSeconds + apart * kTapSeconds) / static_cast<double>(x.size)) +
              (groups_have_maps(g) ? map_spread_seconds(depth(g), g.filters / g.groups, lanes, false) : 0)) +
         read + static_cast<double>(g.weight_elements()) * kStoreSeconds;
}

}  // namespace

extern const Algorithm weight_maps;
const Algorithm weight_maps{"weight_maps", refusal, cost, make_stored<WeightMaps>};

}  // namespace tconv
