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
constexpr int64_t kBlock = 4096;   // elements of a map that are summed without care
constexpr int64_t kMostMaps = 16;  // that are summed in turn
// Sums that one thread makes side by side where maps or samples do, so that it reads long runs.
constexpr int64_t kMostColumns = 8 * kWide;

// Some maps that follow each other: short pieces of several are long runs of memory.
template <class E>
void sum_maps(const typename E::storage* grad, int64_t outer, int64_t stride, int64_t maps, int64_t inner,
              typename E::storage* out, const Kernel& kernel, Pace pace) {
  Sum totals[kMostMaps];
  double sums[kMostMaps][kWide] = {};
  int64_t summed = 0;
  for (int64_t n = 0; n < outer; ++n) {
    for (int64_t first = 0; first < inner; first += kBlock) {
      const int64_t count = std::min(kBlock, inner - first);
      const int64_t rows = count / kWide;
      summed += count;
      const bool full = summed >= kBlock || (n + 1 == outer && first + kBlock >= inner);
      for (int64_t m = 0; m < maps; ++m) {
        const auto* row = grad + n * stride + m * inner + first;
        double* const of = sums[m];
        if (rows > 0) kernel(SumArgs{row, rows, kWide, kWide, of});
        if (count % kWide != 0) kernel(SumArgs{row + rows * kWide, 1, kWide, count % kWide, of});
      }
      if (!full) continue;
      summed = 0;
      for (int64_t m = 0; m < maps; ++m) {
        double* const of = sums[m];
#pragma GCC unroll 8
        for (int64_t half = kWide / 2; half > 0; half /= 2) {
#pragma GCC unroll 16
          for (int64_t j = 0; j < half; ++j) of[j] += of[j + half];
        }
        totals[m].add(of[0]);
        std::fill_n(of, kWide, 0.0);
      }
    }
    if (pace.stopped(maps * inner)) return;
  }
  for (int64_t m = 0; m < maps; ++m) out[m] = E::store(static_cast<typename E::compute>(totals[m].value()));
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
      const int64_t together =
          inner < kBlock ? std::clamp<int64_t>(maps / (4 * crew.threads()), 1, kMostMaps) : 1;
      crew.share(ceil_div(maps, together), seconds, [&](int64_t unit, int member) noexcept {
        const int64_t first = unit * together;
        sum_maps<E>(from + first * inner, outer, maps * inner, std::min(together, maps - first), inner,
                    to + first, sum, Pace(crew, member));
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
