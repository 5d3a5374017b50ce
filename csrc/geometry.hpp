// A problem in solved integers, as Python's tconv.geometry.Geometry; checked here, never derived.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>
#include <utility>

#include "errors.hpp"

namespace tconv {

inline constexpr int kAxes = 3;

// Quotients rounded down and up, for positive b.
inline int64_t floor_div(int64_t a, int64_t b) noexcept { return a / b - (a % b < 0 ? 1 : 0); }
inline int64_t ceil_div(int64_t a, int64_t b) noexcept { return a / b + (a % b > 0 ? 1 : 0); }

enum class Pass : uint8_t { forward, data_gradient, weight_gradient };

enum class DType : uint8_t {
#define TCONV_DTYPE(name, code) name,
#include "dtypes.inc"
#undef TCONV_DTYPE
};

struct Axis {
  int64_t size = 1;
  int64_t out = 1;
  int64_t kernel = 1;
  int64_t stride = 1;
  int64_t dilation = 1;
  int64_t pad_lo = 0;
  // Where the tiles of an algorithm lie: 0 for wherever they cost least. Else the bits of an output depend
  // neither on its place along the axis nor on the size of the axis, if it keeps its place in its tile: tiles
  // of two positions begin with the first position (1), or with the one before (2).
  int64_t grid = 0;

  bool operator==(const Axis&) const = default;

  // Taps of a phase are every so many, and meet positions of the small side that lie a gap apart.
  int64_t tap_period() const noexcept { return stride / std::gcd(stride, dilation); }
  int64_t tap_gap() const noexcept { return dilation / std::gcd(stride, dilation); }
  // Positions of the small side, from the first to before the second, whose taps all lie on the large side.
  std::pair<int64_t, int64_t> within() const noexcept {
    const int64_t reach = (kernel - 1) * dilation;
    const int64_t begin = std::clamp<int64_t>(ceil_div(pad_lo, stride), 0, size);
    const int64_t end = floor_div(out - 1 - reach + pad_lo, stride) + 1;
    return {begin, std::clamp(end, begin, size)};
  }
  // How many taps of how many positions of the small side lie on the large side.
  int64_t taps_inside() const noexcept;
};

// Axes that the caller lacks come first, as axes of one position.
struct Geometry {
  int64_t batch = 0;
  int64_t channels = 0;
  int64_t filters = 0;
  int64_t groups = 1;
  bool channels_last = false;
  std::array<Axis, kAxes> axes;
  // Whether maps of the small side lie apart although all others lie together. Only `subpixel` asks for that.
  bool small_apart = false;

  bool operator==(const Geometry&) const = default;

  // Whether maps of the small side lie together.
  bool small_last() const noexcept { return channels_last && !small_apart; }
  // Whether an image is one window, so that those of samples follow each other.
  bool one_window() const noexcept {
    return std::all_of(axes.begin(), axes.end(), [](const Axis& axis) {
      return axis.size == 1 && axis.out == axis.kernel && axis.pad_lo == 0 &&
             (axis.dilation == 1 || axis.kernel == 1);
    });
  }
  int64_t taps() const noexcept { return axes[0].kernel * axes[1].kernel * axes[2].kernel; }
  int64_t small_positions() const noexcept { return axes[0].size * axes[1].size * axes[2].size; }
  int64_t large_positions() const noexcept { return axes[0].out * axes[1].out * axes[2].out; }
  // Whether all taps of all positions of the small side lie on the large side.
  bool stays_inside() const noexcept {
    return std::all_of(axes.begin(), axes.end(), [](const Axis& axis) {
      return axis.within() == std::pair<int64_t, int64_t>(0, axis.size);
    });
  }
  int64_t small_elements() const noexcept { return batch * channels * small_positions(); }
  int64_t large_elements() const noexcept { return batch * filters * large_positions(); }
  int64_t weight_elements() const noexcept { return channels * (filters / groups) * taps(); }
  double multiply_adds() const noexcept {
    return static_cast<double>(batch) * static_cast<double>(channels) *
           static_cast<double>(filters / groups) * static_cast<double>(small_positions()) *
           static_cast<double>(taps());
  }
};

// The same problem with axes that lie as one made one: those of a single position go, and neighbours along
// which nothing is summed join, so that rows are as long as may be. A tap alone has no dilation.
Geometry folded(Geometry geometry) noexcept;

// Multiplies, or throws where 64 bits do not hold the product.
inline int64_t checked_product(std::initializer_list<int64_t> factors) {
  int64_t product = 1;
  for (const int64_t factor : factors) {
    if (__builtin_mul_overflow(product, factor, &product) || product > INT64_MAX / 64) {
      throw OutOfMemoryError(
          "geometry: sizes: the product passes 64 bits; need arrays that memory can address");
    }
  }
  return product;
}

// Throws unless `geometry` is one that tconv.geometry could have solved.
void check(const Geometry& geometry);

}  // namespace tconv
