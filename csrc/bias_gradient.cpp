#include "bias_gradient.hpp"

#include <algorithm>
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

template <class E>
void sum_map(const typename E::storage* grad, int64_t outer, int64_t stride, int64_t inner,
             typename E::storage* out, const Kernel& kernel, Pace pace) {
  constexpr int64_t block = 1024;
  Sum total;
  for (int64_t n = 0; n < outer; ++n) {
    const auto* row = grad + n * stride;
    for (int64_t first = 0; first < inner; first += block) {
      double sum = 0;
      kernel(SumArgs{row + first, std::min(block, inner - first), &sum});
      total.add(sum);
    }
    if (pace.stopped(inner)) return;
  }
  *out = E::store(static_cast<typename E::compute>(total.value()));
}

// Maps innermost: up to `kWide` of them side by side.
constexpr int64_t kWide = 32;

template <class E>
void sum_columns(const typename E::storage* grad, int64_t outer, int64_t maps, int64_t count,
                 typename E::storage* out, Pace pace) {
  constexpr int64_t block = 128;
  Sum totals[kWide];
  for (int64_t first = 0; first < outer; first += block) {
    double sums[kWide] = {};
    for (int64_t n = first; n < std::min(first + block, outer); ++n) {
      const auto* row = grad + n * maps;
      for (int64_t j = 0; j < count; ++j) sums[j] += static_cast<double>(E::load(row[j]));
    }
    for (int64_t j = 0; j < count; ++j) totals[j].add(sums[j]);
    if (pace.stopped(block * count)) return;
  }
  for (int64_t j = 0; j < count; ++j) out[j] = E::store(static_cast<typename E::compute>(totals[j].value()));
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
    if (inner > 1 || maps == 1) {
      crew.share(maps, seconds, [&](int64_t map, int member) noexcept {
        sum_map<E>(from + map * inner, outer, maps * inner, inner, to + map, sum, Pace(crew, member));
      });
    } else {
      crew.share((maps + kWide - 1) / kWide, seconds, [&](int64_t unit, int member) noexcept {
        const int64_t first = unit * kWide;
        sum_columns<E>(from + first, outer, maps, std::min(kWide, maps - first), to + first,
                       Pace(crew, member));
      });
    }
  });
}

}  // namespace tconv
