// The definition as loops: any problem, no temporary memory, no packing. What others refuse ends here.
#include <algorithm>
#include <numeric>

#include "algorithms/algorithm.hpp"
#include "machine.hpp"

namespace tconv {
namespace {

constexpr int64_t kBlock = 256;

struct Side {
  int64_t maps;
  int64_t size[kAxes];
  int64_t map;
  int64_t axis[kAxes];
  int64_t sample;

  Side(int64_t all_maps, bool large, const Geometry& g) : maps(all_maps) {
    for (int a = 0; a < kAxes; ++a) size[a] = large ? g.axes[a].out : g.axes[a].size;
    const int64_t positions = size[0] * size[1] * size[2];
    map = g.channels_last ? 1 : positions;
    axis[2] = g.channels_last ? maps : 1;
    axis[1] = size[2] * axis[2];
    axis[0] = size[1] * axis[1];
    sample = maps * positions;
  }
};

// The range of t in [0, count) with t * step + offset in [0, size).
struct Range {
  int64_t begin;
  int64_t end;

  Range(int64_t count, int64_t step, int64_t offset, int64_t size) noexcept
      : begin(std::max<int64_t>(0, ceil_div(-offset, step))),
        end(std::min(count, floor_div(size - 1 - offset, step) + 1)) {}
};

template <class E>
class Direct final : public Recipe {
 public:
  using S = typename E::storage;
  using C = typename E::compute;

  explicit Direct(const Problem& problem)
      : problem_(problem),
        small_(problem.geometry.channels, false, problem.geometry),
        large_(problem.geometry.filters, true, problem.geometry),
        channels_(problem.geometry.channels / problem.geometry.groups),
        filters_(problem.geometry.filters / problem.geometry.groups) {
    const Geometry& g = problem.geometry;
    const int64_t taps = g.taps();
    weight_channel_ = filters_ * taps;
    weight_filter_ = g.channels_last ? 1 : taps;
    weight_tap_ = g.channels_last ? filters_ : 1;
  }

  std::string kernel() const override { return "direct"; }
  size_t workspace_bytes() const noexcept override { return 0; }

  bool run(const Call& call) const override {
    if (problem_.pass == Pass::weight_gradient) {
      run_weight_gradient(call);
    } else {
      run_gather(call);
    }
    return true;
  }

 private:
  void run_gather(const Call& call) const {
    const bool forward = problem_.pass == Pass::forward;
    const Side& dst = forward ? large_ : small_;
    const int64_t step = forward ? problem_.geometry.axes[2].stride : 1;
    const int64_t blocks = ceil_div(ceil_div(dst.size[2], step), kBlock);
    const int64_t units = problem_.geometry.batch * dst.maps * dst.size[0] * dst.size[1] * blocks;
    call.crew.share(units, machine::seconds(problem_) * 10, [&](int64_t unit, int member) noexcept {
      const int64_t block = unit % blocks;
      int64_t rest = unit / blocks;
      const int64_t y = rest % dst.size[1];
      rest /= dst.size[1];
      const int64_t z = rest % dst.size[0];
      rest /= dst.size[0];
      gather_row(call, rest / dst.maps, rest % dst.maps, z, y, block * kBlock, Pace(call.crew, member));
    });
  }

  // The source index that tap k of an axis reads for a dst index; false where there is none.
  bool reach(int axis, int64_t at, int64_t k, int64_t* from) const noexcept {
    const Axis& a = problem_.geometry.axes[axis];
    if (problem_.pass == Pass::forward) {
      const int64_t scaled = at + a.pad_lo - k * a.dilation;
      *from = scaled / a.stride;
      return scaled >= 0 && scaled % a.stride == 0 && *from < a.size;
    }
    *from = at * a.stride + k * a.dilation - a.pad_lo;
    return *from >= 0 && *from < a.out;
  }

  void gather_row(const Call& call, int64_t sample, int64_t map, int64_t z, int64_t y, int64_t first,
                  Pace pace) const noexcept {
    const Geometry& g = problem_.geometry;
    const Axis& x = g.axes[2];
    const bool forward = problem_.pass == Pass::forward;
    const Side& src = forward ? small_ : large_;
    const Side& dst = forward ? large_ : small_;
    const int64_t made = forward ? filters_ : channels_;
    const int64_t read = forward ? channels_ : filters_;
    const int64_t group = map / made;
    const S* from = static_cast<const S*>(call.source) + sample * src.sample + group * read * src.map;
    S* to =
        static_cast<S*>(call.out) + sample * dst.sample + map * dst.map + z * dst.axis[0] + y * dst.axis[1];
    const S* weight =
        static_cast<const S*>(call.weight) +
        (forward ? group * channels_ * weight_channel_ + map % made * weight_filter_ : map * weight_channel_);
    const int64_t weight_read = forward ? weight_channel_ : weight_filter_;
    const C bias = call.bias == nullptr ? C{0} : E::load(static_cast<const S*>(call.bias)[map]);
    const int64_t dst_step = forward ? x.stride : 1;
    const int64_t src_step = forward ? 1 : x.stride;
    // Taps k, k + period, ... share a phase; phases that no tap reaches hold the bias.
    const int64_t period = forward ? x.stride / std::gcd(x.stride, x.dilation) : 1;
    const int64_t end = std::min(dst.size[2], (first + kBlock) * dst_step);
    const C last = activated_element(bias, problem_.activation);
    for (int64_t at = first * dst_step; at < end; ++at) to[at * dst.axis[2]] = E::store(last);
    for (int64_t k0 = 0; k0 < std::min(period, x.kernel); ++k0) {
      int64_t phase = 0;
      if (forward) {
        phase = (k0 * (x.dilation % x.stride) - x.pad_lo % x.stride) % x.stride;
        if (phase < 0) phase += x.stride;
      }
      const int64_t count = std::min(kBlock, ceil_div(dst.size[2] - phase, dst_step) - first);
      if (count <= 0) continue;
      C sums[kBlock] = {};
      for (int64_t m = 0; m < read; ++m) {
        for (int64_t kz = 0; kz < g.axes[0].kernel; ++kz) {
          int64_t at_z;
          if (!reach(0, z, kz, &at_z)) continue;
          for (int64_t ky = 0; ky < g.axes[1].kernel; ++ky) {
            int64_t at_y;
            if (!reach(1, y, ky, &at_y)) continue;
            const S* row = from + m * src.map + at_z * src.axis[0] + at_y * src.axis[1];
            const S* w = weight + m * weight_read + (kz * g.axes[1].kernel + ky) * x.kernel * weight_tap_;
            for (int64_t k = k0; k < x.kernel; k += period) {
              const int64_t offset =
                  (forward ? (phase + x.pad_lo - k * x.dilation) / x.stride : k * x.dilation - x.pad_lo) +
                  first * src_step;
              const Range range(count, src_step, offset, src.size[2]);
              if (range.begin < range.end) {
                add_scaled(sums, range, E::load(w[k * weight_tap_]), row + offset * src.axis[2],
                           src_step * src.axis[2]);
              }
            }
            if (pace.stopped(x.kernel / period * count)) return;
          }
        }
      }
      for (int64_t t = 0; t < count; ++t) {
        to[((first + t) * dst_step + phase) * dst.axis[2]] =
            E::store(activated_element(sums[t] + bias, problem_.activation));
      }
    }
  }

  static void add_scaled(C* sums, Range range, C scale, const S* row, int64_t step) noexcept {
    if (step == 1) {
      for (int64_t t = range.begin; t < range.end; ++t) sums[t] += scale * E::load(row[t]);
    } else {
      for (int64_t t = range.begin; t < range.end; ++t) sums[t] += scale * E::load(row[t * step]);
    }
  }

  void run_weight_gradient(const Call& call) const {
    const int64_t units = problem_.geometry.channels * filters_;
    call.crew.share(units, machine::seconds(problem_) * 10, [&](int64_t unit, int member) noexcept {
      weight_taps(call, unit / filters_, unit % filters_, Pace(call.crew, member));
    });
  }

  void weight_taps(const Call& call, int64_t channel, int64_t filter, Pace pace) const noexcept {
    const auto& [z, y, x] = problem_.geometry.axes;
    const int64_t group = channel / channels_;
    const S* small = static_cast<const S*>(call.source) + channel * small_.map;
    const S* large = static_cast<const S*>(call.weight) + (group * filters_ + filter) * large_.map;
    S* out = static_cast<S*>(call.out) + channel * weight_channel_ + filter * weight_filter_;
    for (int64_t kz = 0; kz < z.kernel; ++kz) {
      const int64_t offset_z = kz * z.dilation - z.pad_lo;
      const Range range_z(z.size, z.stride, offset_z, z.out);
      for (int64_t ky = 0; ky < y.kernel; ++ky) {
        const int64_t offset_y = ky * y.dilation - y.pad_lo;
        const Range range_y(y.size, y.stride, offset_y, y.out);
        for (int64_t kx = 0; kx < x.kernel; ++kx) {
          const int64_t offset_x = kx * x.dilation - x.pad_lo;
          const Range range_x(x.size, x.stride, offset_x, x.out);
          double sum = 0;
          for (int64_t n = 0; n < problem_.geometry.batch; ++n) {
            for (int64_t iz = range_z.begin; iz < range_z.end; ++iz) {
              for (int64_t iy = range_y.begin; iy < range_y.end; ++iy) {
                const S* a = small + n * small_.sample + iz * small_.axis[0] + iy * small_.axis[1];
                const S* b = large + n * large_.sample + (iz * z.stride + offset_z) * large_.axis[0] +
                             (iy * y.stride + offset_y) * large_.axis[1] + offset_x * large_.axis[2];
                sum += dot(a, small_.axis[2], b, x.stride * large_.axis[2], range_x);
                if (pace.stopped(8 + x.size)) return;
              }
            }
          }
          out[((kz * y.kernel + ky) * x.kernel + kx) * weight_tap_] = E::store(static_cast<C>(sum));
        }
      }
    }
  }

  static double dot(const S* a, int64_t a_step, const S* b, int64_t b_step, Range range) noexcept {
    C sums[8] = {};
    int64_t i = range.begin;
    for (; i + 8 <= range.end; i += 8) {
      for (int64_t j = 0; j < 8; ++j) sums[j] += E::load(a[(i + j) * a_step]) * E::load(b[(i + j) * b_step]);
    }
    for (; i < range.end; ++i) sums[0] += E::load(a[i * a_step]) * E::load(b[i * b_step]);
    double sum = 0;
    for (const C part : sums) sum += part;
    return sum;
  }

  Problem problem_;
  Side small_;
  Side large_;
  int64_t channels_;
  int64_t filters_;
  int64_t weight_channel_;
  int64_t weight_filter_;
  int64_t weight_tap_;
};

std::optional<std::string> refusal(const Problem&) { return std::nullopt; }

// Fitted to measured times: short rows and the search for taps that lead into the image take most of them.
double cost(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const auto& [z, y, x] = g.axes;
  // What leaves the image is skipped, but along x only after it was looked for.
  const auto inside = [](const Axis& axis) {
    return static_cast<double>(axis.taps_inside()) / static_cast<double>(axis.size * axis.kernel);
  };
  const double inside_rows = inside(z) * inside(y);
  const double products = g.multiply_adds() * inside_rows * inside(x);
  const double planes = static_cast<double>(z.kernel) * inside(z) * static_cast<double>(y.kernel);
  Problem plain = problem;
  plain.packed = true;
  const double traffic = machine::traffic_seconds(plain);
  if (problem.pass == Pass::weight_gradient) {
    const auto weights = static_cast<double>(g.weight_elements());
    const double runs = weights * static_cast<double>(g.batch * z.size * y.size) * inside_rows;
    return products * 0.35e-9 + weights * 6e-9 + runs * 4.6e-9 + traffic;
  }
  const bool forward = problem.pass == Pass::forward;
  const auto period = static_cast<double>(std::min(x.stride / std::gcd(x.stride, x.dilation), x.kernel));
  const auto outputs = static_cast<double>(forward ? g.large_elements() : g.small_elements());
  const double rows = outputs / static_cast<double>(forward ? x.out : x.size) * (forward ? period : 1.0);
  const double depth = static_cast<double>((forward ? g.channels : g.filters) / g.groups);
  const double tries = rows * depth * planes / static_cast<double>(forward ? z.stride : 1);
  const double runs = tries * inside(y) / static_cast<double>(forward ? y.stride : 1);
  const double taps = static_cast<double>(x.kernel) / (forward ? period : 1.0);
  // Of maps that lie together the positions of a row lie apart, in lines of their own, which meet in a few
  // sets of the caches where they are pages apart.
  const double apart = static_cast<double>((forward ? g.channels : g.filters * x.stride)) *
                       static_cast<double>(storage_bytes(problem.dtype));
  const double product = !g.channels_last || (forward ? x.out : x.size) == 1 ? 0.35e-9
                         : apart < 4096                                      ? 1.5e-9
                                                                             : 5e-9;
  return products * product + outputs * (g.channels_last ? 5e-9 : 2e-9) + rows * 60e-9 + tries * 5e-9 +
         runs * (5e-9 + taps * 3e-9) + traffic;
}

}  // namespace

std::unique_ptr<Recipe> make_direct(const Problem& problem) {
  return with_dtype(problem.dtype, [&](auto e) -> std::unique_ptr<Recipe> {
    return std::make_unique<Direct<decltype(e)>>(problem);
  });
}

extern const Algorithm direct;
const Algorithm direct{"direct", refusal, cost, make_direct};

}  // namespace tconv
