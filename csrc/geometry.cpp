#include "geometry.hpp"

#include <algorithm>
#include <utility>

namespace tconv {
namespace {

// The sum over i < count of floor((i * step + first) / divisor), for numbers that are not negative.
int64_t sum_of_quotients(int64_t count, int64_t step, int64_t first, int64_t divisor) noexcept {
  int64_t sum = 0;
  // What is left are the points of a grid below a line, of which rows and columns change places.
  while (count > 0) {
    sum += step / divisor * (count * (count - 1) / 2) + first / divisor * count;
    step %= divisor;
    first %= divisor;
    const int64_t top = step * count + first;
    count = top / divisor;
    first = top % divisor;
    std::swap(step, divisor);
  }
  return sum;
}

// The sum over taps of how many positions of the small side are below `end` on the large side with them.
int64_t pairs_below(const Axis& axis, int64_t end) noexcept {
  const int64_t edge = end + axis.pad_lo;
  // Taps of whom all positions are, and of whom any is.
  const int64_t all =
      std::clamp<int64_t>(ceil_div(edge - (axis.size - 1) * axis.stride, axis.dilation), 0, axis.kernel);
  const int64_t any = std::clamp<int64_t>(ceil_div(edge, axis.dilation), all, axis.kernel);
  const int64_t some = any - all;
  return all * axis.size + some +
         sum_of_quotients(some, axis.dilation, edge - (any - 1) * axis.dilation - 1, axis.stride);
}

}  // namespace

int64_t Axis::taps_inside() const noexcept { return pairs_below(*this, out) - pairs_below(*this, 0); }

Geometry folded(Geometry geometry) noexcept {
  const auto plain = [](const Axis& axis) {
    return axis.kernel == 1 && axis.pad_lo == 0 && axis.size == axis.out && axis.grid == 0 &&
           (axis.stride == 1 || axis.size == 1);
  };
  for (Axis& axis : geometry.axes) {
    if (axis.kernel == 1) axis.dilation = 1;
  }
  auto& [z, y, x] = geometry.axes;
  const auto join = [&](Axis& outer, Axis& inner) {
    if (!plain(inner) || outer == Axis{}) return false;
    if (inner.size == 1) {
      inner = outer;
    } else if (plain(outer)) {
      inner.size = inner.out = outer.size * inner.size;
    } else {
      return false;
    }
    outer = Axis{};
    return true;
  };
  join(z, y);
  if (y == Axis{}) std::swap(z, y);
  if (join(y, x)) {
    std::swap(z, y);
    join(y, x);
  }
  return geometry;
}

void check(const Geometry& geometry) {
  if (geometry.batch < 1 || geometry.channels < 1 || geometry.filters < 1 || geometry.groups < 1 ||
      geometry.channels % geometry.groups != 0 || geometry.filters % geometry.groups != 0) {
    throw ShapeError("geometry: batch, channels, filters: need positive numbers that groups divide");
  }
  for (const Axis& axis : geometry.axes) {
    if (axis.size < 1 || axis.out < 1 || axis.kernel < 1 || axis.stride < 1 || axis.dilation < 1) {
      throw ShapeError("geometry: axis: need positive sizes, kernel, stride and dilation");
    }
    constexpr int64_t limit = INT64_MAX / 64;
    checked_product({axis.size, axis.stride});
    checked_product({axis.kernel, axis.dilation});
    if (axis.pad_lo > limit || axis.pad_lo < -limit || axis.out > limit || axis.stride > limit) {
      throw ShapeError("geometry: axis: pad beyond 64 bits");
    }
  }
  const auto& [z, y, x] = geometry.axes;
  checked_product({geometry.batch, geometry.channels, z.size, y.size, x.size, 8});
  checked_product({geometry.batch, geometry.filters, z.out, y.out, x.out, 8});
  checked_product({geometry.channels, geometry.filters / geometry.groups, z.kernel, y.kernel, x.kernel, 8});
}

}  // namespace tconv
