// Weight gradient of depthwise layers whose maps lie together, which are the lanes: of each row of the small
// side, the products with the rows of the large side that its taps meet. Neither side is copied.
#include <algorithm>
#include <cmath>

#include "algorithms/algorithm.hpp"
#include "machine.hpp"
#include "mapdots_abi.hpp"
#include "memory.hpp"

namespace tconv {
namespace {

constexpr int64_t kMostTaps = 1 << 12;
constexpr int64_t kPiece = 1024;  // positions of a row at a time, which all its taps find in the caches
constexpr double kStepSeconds = 1.5 / machine::kHertz;  // of a vector that is loaded
constexpr double kRowSeconds = 60 / machine::kHertz;    // of the taps along x of a row

template <class E>
class WeightMaps final : public Recipe {
 public:
  using S = typename E::storage;
  using T = typename E::compute;

  explicit WeightMaps(const Problem& problem)
      : problem_(problem),
        dots_(tconv::kernel(Family::mapdots, problem.dtype, problem.isa)),
        lanes_(static_cast<int64_t>(machine::lanes(compute_dtype(problem.dtype), problem.isa))),
        sum_bytes_(aligned(static_cast<size_t>(problem.geometry.taps() * lanes_) * sizeof(T))) {
    threads_ = 1;
    while (threads_ < problem.threads && workspace_bytes() + sum_bytes_ <= problem.workspace) ++threads_;
  }

  std::string kernel() const override { return dots_.name; }
  size_t workspace_bytes() const noexcept override { return sum_bytes_ * static_cast<size_t>(threads_); }

  bool run(const Call& call) const override {
    const Geometry& g = problem_.geometry;
    const Buffer scratch(workspace_bytes());
    call.crew.limit(threads_);
    const double seconds = g.multiply_adds() / static_cast<double>(lanes_) * kStepSeconds;
    call.crew.share(ceil_div(g.channels, lanes_), seconds, [&](int64_t unit, int member) noexcept {
      T* const sums = reinterpret_cast<T*>(scratch.data() + static_cast<size_t>(member) * sum_bytes_);
      std::fill_n(sums, g.taps() * lanes_, T{0});
      const int64_t map = unit * lanes_;
      const int64_t maps = std::min(lanes_, g.channels - map);
      sum_maps(static_cast<const S*>(call.source) + map, static_cast<const S*>(call.weight) + map, sums, maps,
               Pace(call.crew, member));
      S* const out = static_cast<S*>(call.out) + map * g.taps();
      for (int64_t m = 0; m < maps; ++m) {
        for (int64_t tap = 0; tap < g.taps(); ++tap)
          out[m * g.taps() + tap] = E::store(sums[tap * lanes_ + m]);
      }
    });
    return true;
  }

 private:
  void sum_maps(const S* small, const S* large, T* sums, int64_t maps, Pace pace) const noexcept {
    const Geometry& g = problem_.geometry;
    const auto& [z, y, x] = g.axes;
    for (int64_t sample = 0; sample < g.batch; ++sample) {
      for (int64_t iz = 0; iz < z.size; ++iz) {
        for (int64_t iy = 0; iy < y.size; ++iy) {
          const S* const row = small + ((sample * z.size + iz) * y.size + iy) * x.size * g.channels;
          for (int64_t kz = 0; kz < z.kernel; ++kz) {
            const int64_t at_z = iz * z.stride + kz * z.dilation - z.pad_lo;
            if (at_z < 0 || at_z >= z.out) continue;
            for (int64_t ky = 0; ky < y.kernel; ++ky) {
              const int64_t at_y = iy * y.stride + ky * y.dilation - y.pad_lo;
              if (at_y < 0 || at_y >= y.out) continue;
              sum_row(row, large + ((sample * z.out + at_z) * y.out + at_y) * x.out * g.channels,
                      sums + (kz * y.kernel + ky) * x.kernel * lanes_, maps, pace);
            }
          }
          if (pace.stopped(0)) return;
        }
      }
    }
  }

  // A row of either side, and the taps along x: all of them where they meet the large side, else one by one.
  void sum_row(const S* small, const S* large, T* sums, int64_t maps, Pace& pace) const noexcept {
    const Axis& x = problem_.geometry.axes[2];
    const int64_t step = problem_.geometry.channels;
    const auto [begin, end] = x.within();
    MapDotsArgs args{};
    args.a_step = step;
    args.b_step = x.stride * step;
    args.b_column = x.dilation * step;
    args.maps = maps;
    const auto some = [&](int64_t first, int64_t last, int64_t tap, int64_t taps) noexcept {
      args.sums = sums + tap * lanes_;
      args.columns = taps;
      for (; first < last; first += args.count) {
        args.a = small + first * step;
        args.b = large + (first * x.stride + tap * x.dilation - x.pad_lo) * step;
        args.count = std::min(kPiece, last - first);
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
  size_t sum_bytes_;
  int threads_;
};

std::optional<std::string> refusal(const Problem& problem) {
  const Geometry& g = problem.geometry;
  if (g.channels != g.groups || g.filters != g.groups) return "more than a map in a group";
  if (!g.channels_last) return "maps of a position lie apart";
  if (g.taps() > kMostTaps) return "more than " + std::to_string(kMostTaps) + " taps";
  const auto lanes = static_cast<size_t>(machine::lanes(compute_dtype(problem.dtype), problem.isa));
  return workspace_refusal(problem,
                           aligned(static_cast<size_t>(g.taps()) * lanes * compute_bytes(problem.dtype)));
}

double cost(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const double lanes = machine::lanes(compute_dtype(problem.dtype), problem.isa);
  const auto& [z, y, x] = g.axes;
  const auto vectors =
      static_cast<double>(g.batch * g.small_positions()) * std::ceil(static_cast<double>(g.channels) / lanes);
  const auto rows = static_cast<double>(z.kernel * y.kernel);
  return vectors * rows *
             (static_cast<double>(x.kernel + 1) * kStepSeconds + kRowSeconds / static_cast<double>(x.size)) +
         machine::traffic_seconds(problem);
}

}  // namespace

extern const Algorithm weight_maps;
const Algorithm weight_maps{"weight_maps", refusal, cost, make_stored<WeightMaps>};

}  // namespace tconv
