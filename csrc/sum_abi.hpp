// What the kernel that sums elements sees: its arguments, and its code for vectors of any width.
#pragma once

#include "kernel_abi.hpp"

// Family `sum`, of the storage type: for c < columns
//   sums[c] += sum over r < rows of src[r * row_step + c]
// in double precision, in the order of r. There is room for whole vectors of sums, and zero is added to those
// beyond the last column.
struct SumArgs {
  const void* src;
  int64_t rows;
  int64_t row_step;
  int64_t columns;
  double* sums;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

template <class Part>
[[gnu::always_inline]] inline typename Vector<double>::type to_doubles(Part part) noexcept {
#if defined(__AVX512F__)
  // GCC takes the vector apart for a plain conversion.
  if constexpr (sizeof part == 32) return (typename Vector<double>::type)_mm512_cvtps_pd((__m256)part);
#endif
  return __builtin_convertvector(part, typename Vector<double>::type);
}

// `V` vectors of columns from `first` on; or a part of one.
template <class E, int V, bool whole>
[[gnu::always_inline]] inline void sum_columns(const SumArgs& args, int64_t first) noexcept {
  using L = Lanes<E>;
  using T = typename E::compute;
  using Double = typename Vector<double>::type;
  constexpr int W = Vector<double>::lanes;
  constexpr int P = L::count / W;
  typedef T Part __attribute__((vector_size(W * sizeof(T))));
  const auto* src = static_cast<const typename E::storage*>(args.src) + first;
  const uint32_t mask = whole ? 0 : L::first(args.columns - first);
  Double sum[V * P];
  memcpy(sum, args.sums + first, sizeof sum);
#pragma GCC unroll 1
  for (int64_t r = 0; r < args.rows; ++r, src += args.row_step) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      const auto value = whole ? L::load(src + v * L::count) : L::load(src, mask);
      Part part[P];
      memcpy(part, &value, sizeof value);
#pragma GCC unroll 2
      for (int p = 0; p < P; ++p) sum[v * P + p] += to_doubles(part[p]);
    }
  }
  memcpy(args.sums + first, sum, sizeof sum);
}

template <class E>
[[gnu::always_inline]] inline void sum(const SumArgs& args) noexcept {
  constexpr int L = Lanes<E>::count;
  constexpr int V = L >= 8 ? 32 / L : 4;
  int64_t c = 0;
  for (; c + V * L <= args.columns; c += V * L) sum_columns<E, V, true>(args, c);
  for (; c + L <= args.columns; c += L) sum_columns<E, 1, true>(args, c);
  if (c < args.columns) sum_columns<E, 1, false>(args, c);
}

}  // namespace

#endif
