// The large side taken apart by the residues of the stride, so that a tap only shifts where it is read.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "geometry.hpp"
#include "registry.hpp"

namespace tconv {

// An axis of the large side by the residues of the stride: tap k of position i is element i + shift of the
// plane of its residue.
struct Planes {
  explicit Planes(const Axis& axis) noexcept
      : axis_(axis),
        period_(axis.stride / std::gcd(axis.dilation, axis.stride)),
        first(shift_of(0)),
        spread(shift_of(axis.kernel - 1) - first) {}

  int64_t count() const noexcept { return std::min(axis_.kernel, period_); }

  void list() {
    shift.clear();
    plane.clear();
    shift.reserve(static_cast<size_t>(axis_.kernel));
    plane.reserve(static_cast<size_t>(axis_.kernel));
    // Taps a period apart have one residue. Those of a whole period are all that the step divides alike.
    for (int64_t k = 0; k < count(); ++k) {
      shift.push_back(shift_of(k) - first);
      plane.push_back(k * axis_.dilation - axis_.pad_lo - shift_of(k) * axis_.stride);
    }
    residues = plane;
    if (count() == period_) {
      const int64_t step = axis_.stride / period_;
      const int64_t least = plane.front() % step;
      for (int64_t i = 0; i < count(); ++i) residues[static_cast<size_t>(i)] = least + i * step;
      for (int64_t& p : plane) p /= step;
    } else {
      std::sort(residues.begin(), residues.end());
      for (int64_t& p : plane) p = std::lower_bound(residues.begin(), residues.end(), p) - residues.begin();
    }
    for (size_t k = 0; static_cast<int64_t>(shift.size()) < axis_.kernel; ++k) {
      shift.push_back(shift[k] + period_ * axis_.dilation / axis_.stride);
      plane.push_back(plane[k]);
    }
  }

 private:
  // Position in its plane that a tap reads for position 0.
  int64_t shift_of(int64_t k) const noexcept {
    return floor_div(k * axis_.dilation - axis_.pad_lo, axis_.stride);
  }

  Axis axis_;
  int64_t period_;

 public:
  int64_t first;
  int64_t spread;  // the largest shift
  // Empty before list().
  std::vector<int64_t> residues;  // that taps have, ascending
  std::vector<int64_t> plane;     // of each tap
  std::vector<int64_t> shift;     // of each tap, from `first` on
};

// A row of the large side, or zeros where there is none, to a row of each plane along x, `pitch` apart: what
// `size` positions from `begin` on read.
template <class E>
void take_row_apart(const Kernel& load, const Planes& px, const Axis& x, int64_t begin, int64_t size,
                    const typename E::storage* row, typename E::compute* to, int64_t pitch) noexcept {
  using S = typename E::storage;
  using T = typename E::compute;
  const int64_t count = size + px.spread;
  const int64_t first = begin + px.first;
  if (row == nullptr) {
    for (int64_t p = 0; p < px.count(); ++p) std::fill_n(to + p * pitch, count, T{0});
    return;
  }
  // Positions that find an element of each residue in the row.
  const int64_t low = std::clamp<int64_t>(ceil_div(-px.residues.front(), x.stride) - first, 0, count);
  const int64_t high =
      std::clamp<int64_t>(floor_div(x.out - 1 - px.residues.back(), x.stride) + 1 - first, low, count);
  for (int64_t p = 0; p < px.count(); ++p) {
    const auto clipped = [&](int64_t i) noexcept {
      const int64_t at = (first + i) * x.stride + px.residues[static_cast<size_t>(p)];
      to[p * pitch + i] = at < 0 || at >= x.out ? T{0} : E::load(row[at]);
    };
    for (int64_t i = 0; i < low; ++i) clipped(i);
    for (int64_t i = high; i < count; ++i) clipped(i);
  }
  if (low == high) return;
  MoveArgs args{};
  const S* const from = row + (first + low) * x.stride;
  if (px.count() == x.stride && x.stride > 1) {
    args = {from, x.stride, 1, to + low, 1, pitch, high - low, x.stride};
    load(args);
    return;
  }
  for (int64_t p = 0; p < px.count(); ++p) {
    args = {
        from + px.residues[static_cast<size_t>(p)], 0, x.stride, to + p * pitch + low, 0, 1, 1, high - low};
    load(args);
  }
}

}  // namespace tconv
