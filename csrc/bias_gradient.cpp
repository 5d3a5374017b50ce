#include "bias_gradient.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "sum_abi.hpp"

namespace tconv {
namespace {

// A running sum whose error does not grow with the number of terms (Neumaier).
struct Sum {
  double high = 0;
  double low = 0;

  void add(double value) noexcept {
    const double total = high + value;
    // An infinite total has no error to keep.
    if (total - total == 0)
      low += __builtin_fabs(high) >= __builtin_fabs(value) ? (high - total) + value : (value - total) + high;
    high = total;
  }
  double value() const noexcept { return high + low; }
};

// Of maps that lie apart, element i of a row goes to the sum i % kWide, and these are added by halves.
constexpr int64_t kWide = 32;
// Sums that one thread makes side by side where maps or samples do, so that it reads long runs.
constexpr int64_t kMostColumns = 8 * kWide;

template <class E>
void sum_map(const typename E::storage* grad, int64_t outer, int64_t stride, int64_t inner,
             typename E::storage* out, const Kernel& kernel, Pace pace) {
  constexpr int64_t block = 4096;
  Sum total;
  double sums[kWide] = {};
  int64_t summed = 0;
  for (int64_t n = 0; n < outer; ++n) {
    const auto* row = grad + n * stride;
    for (int64_t first = 0; first < inner; first += block) {
      const int64_t count = std::min(block, inner - first);
      const int64_t rows = count / kWide;
      kernel(SumArgs{row + first, rows, kWide, kWide, sums});
      if (count % kWide != 0) kernel(SumArgs{row + first + rows * kWide, 1, kWide, count % kWide, sums});
      summed += count;
      if (summed < block && (n + 1 < outer || first + block < inner)) continue;
      for (int64_t half = kWide / 2; half > 0; half /= 2) {
        for (int64_t j = 0; j < half; ++j) sums[j] += sums[j + half];
      }
      total.add(sums[0]);
      std::fill_n(sums, kWide, 0.0);
      summed = 0;
    }
    if (pace.stopped(inner)) return;
  }
  *out = E::store(static_cast<typename E::compute>(total.value()));
}

// Up to `kMostColumns` columns side by side, each map `run` of them; `outer` rows `step` elements apart. Rows
// of up to `kWide` columns lie side by side without gaps, and as many are taken for one as fill whole
// vectors.
template <class E>
void sum_columns(const typename E::storage* grad, int64_t outer, int64_t step, int64_t maps, int64_t run,
                 typename E::storage* out, const Kernel& kernel, Pace pace) {
  constexpr int64_t block = 128;
  constexpr int64_t few = 16;  // that are read column by column, from the nearest cache
  const int64_t columns = maps * run;
  const int64_t together = step == columns && columns <= kWide ? kWide / std::gcd(columns, kWide) : 1;
  Sum totals[kMostColumns];
  double sums[kWide * kWide];
  const auto add = [&](int64_t first, int64_t rows, int64_t joined) {
    std::fill_n(sums, joined * columns, 0.0);
    for (int64_t row = 0; row < rows; row += few) {
      kernel(SumArgs{grad + (first + row * joined) * step, std::min(few, rows - row), joined * step,
                     joined * columns, sums});
    }
    for (int64_t i = columns; i < joined * columns; ++i) sums[i % columns] += sums[i];
    for (int64_t m = 0; m < maps; ++m)
      totals[m].add(std::accumulate(sums + m * run, sums + (m + 1) * run, 0.0));
  };
  int64_t first = 0;
  while (const int64_t rows = std::min(block, (outer - first) / together)) {
    add(first, rows, together);
    first += rows * together;
    if (pace.stopped(rows * together * columns)) return;
  }
  if (first < outer) add(first, 1, outer - first);
  for (int64_t m = 0; m < maps; ++m) out[m] = E::store(static_cast<typename E::compute>(totals[m].value()));
}

}  // namespace

void bias_gradient(const void* grad, int64_t outer, int64_t maps, int64_t inner, DType dtype, void* out,
                   Isa isa, Crew& crew) {
  const double seconds = static_cast<double>(outer * maps * inner) / 2e9;
  const Kernel& sum = kernel(Family::sum, dtype, isa);
  // The positions of one map lie together in either layout.
  if (maps == 1 && inner == 1) std::swap(outer, inner);
  with_dtype(dtype, [&](auto e) {
    using E = decltype(e);
    const auto* from = static_cast<const typename E::storage*>(grad);
    auto* to = static_cast<typename E::storage*>(out);
    // Short rows of some samples are summed side by side first.
    if (maps == 1 || inner > kWide * std::min<int64_t>(outer, 8)) {
      crew.share(maps, seconds, [&](int64_t map, int member) noexcept {
        sum_map<E>(from + map * inner, outer, maps * inner, inner, to + map, sum, Pace(crew, member));
      });
    } else {
      const int64_t units = std::max<int64_t>(crew.threads(), ceil_div(maps * inner, kMostColumns));
      const int64_t lines = ceil_div(ceil_div(maps, units) * inner, kWide) * kWide;
      const int64_t width = std::min(lines, kMostColumns) / inner;
      crew.share(ceil_div(maps, width), seconds, [&](int64_t unit, int member) noexcept {
        const int64_t first = unit * width;
        sum_columns<E>(from + first * inner, outer, maps * inner, std::min(width, maps - first), inner,
                       to + first, sum, Pace(crew, member));
      });
    }
  });
}

}  // namespace tconv
