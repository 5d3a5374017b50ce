// What the kernels of products whose lanes are output positions see: their arguments, and their code for
// vectors of any width.
#pragma once

#include "kernel_abi.hpp"

// Family `taps`, in the compute type: for each row r and lane l
//   c[r][l] = (accumulate ? c[r][l] : 0) + bias[r] + sum over steps k, taps t of
//             a[(k * taps + t) * tile rows + r] * b[k * b_step + b_offset[t] + l]
// summed in the order of k, then t, starting at zero: all taps of a map read the same few lines.
struct TapsArgs {
  const void* a;
  const void* b;
  const int64_t* b_offset;
  int64_t taps;
  int64_t depth;
  int64_t b_step;
  void* const* c;
  const void* bias;   // one element a row, or null
  const char* ahead;  // for step k, fetches `ahead_lines` lines from ahead + k * ahead_step bytes
  int64_t ahead_step;
  int32_t ahead_lines;
  int32_t rows;
  bool accumulate;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

template <class T, int R, int A, int V, int... I>
[[gnu::always_inline]] inline void taps_rows(const TapsArgs& args, Sequence<I...>) noexcept {
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  constexpr int lanes = Vector<T>::lanes;
  Type sum[R * V] = {};
  const T* a = static_cast<const T*>(args.a);
  const T* b = static_cast<const T*>(args.b);
  const char* ahead = args.ahead;
  const int64_t taps = args.taps;
  const int64_t* const offset = args.b_offset;
#pragma GCC unroll 1
  for (int64_t k = args.depth; k > 0; --k) {
#pragma GCC unroll 1
    for (int32_t i = 0; i < args.ahead_lines; ++i) __builtin_prefetch(ahead + 64 * i);
    ahead += args.ahead_step;
#pragma GCC unroll 1
    for (int64_t t = 0; t < taps; ++t) {
      const T* from = b + offset[t];
      Type right[V];
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) right[v] = *reinterpret_cast<const Loose*>(from + v * lanes);
      ((sum[I] += right[I % V] * a[I / V]), ...);
      a += A;
    }
    b += args.b_step;
  }
  if (args.bias != nullptr) {
    const T* bias = static_cast<const T*>(args.bias);
    ((sum[I] += bias[I / V]), ...);
  }
  const auto to = [&args](int i) {
    return reinterpret_cast<Loose*>(static_cast<T*>(args.c[i / V]) + i % V * lanes);
  };
  if (args.accumulate) ((sum[I] += *to(I)), ...);
  ((*to(I) = sum[I]), ...);
}

// Runs `taps_rows` for the number of rows the caller has; `A` is that of a whole tile.
template <class T, int R, int V, int A = R>
[[gnu::always_inline]] inline void taps(const TapsArgs& args) noexcept {
  if (args.rows == R) {
    taps_rows<T, R, A, V>(args, UpTo<R * V>{});
  } else if constexpr (R > 1) {
    taps<T, R - 1, V, A>(args);
  }
}

}  // namespace

#endif
