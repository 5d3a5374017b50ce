// Family `positions` on numbers that are stored in half the bytes they are computed in: rows become floats
// some steps ahead of their turn, so that this hides behind the products.
#pragma once

#include "positions_abi.hpp"

#if defined(TCONV_KERNEL_NAME)

namespace {

template <class E, int R, int V, int... I>
[[gnu::always_inline]] inline void short_rows(const PositionsArgs& args, Sequence<I...>) noexcept {
  using T = typename E::compute;
  using L = Lanes<E>;
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  constexpr int lanes = L::count;
  static_assert(R <= lanes);
  Type sum[R * V] = {};
  // As many steps as a vector has lanes, of each row, and those that come after.
  alignas(sizeof(Type)) T steps[2][R][lanes];
  const auto* const a = static_cast<const typename E::storage*>(args.a);
  const T* b = static_cast<const T*>(args.b);
  const char* ahead = args.ahead;
  const auto convert = [&](int64_t k, int row) __attribute__((always_inline)) {
    const int64_t rest = args.depth - k;
    if (rest <= 0) return;
    const auto* const from = a + row * args.a_row + k;
    *reinterpret_cast<Type*>(steps[k / lanes % 2][row]) =
        rest >= lanes ? L::load(from) : L::load(from, L::first(rest));
  };
  for (int row = 0; row < R; ++row) convert(0, row);
#pragma GCC unroll 1
  for (int64_t k = 0; k < args.depth; ++k) {
    const int step = static_cast<int>(k % lanes);
    const T* const left = steps[k / lanes % 2][0] + step;
    if (step < R) convert(k - step + lanes, step);
    Type right[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) right[v] = *reinterpret_cast<const Loose*>(b + v * lanes);
    ((sum[I] += right[I % V] * left[I / V * lanes]), ...);
    __builtin_prefetch(ahead, 0, 2);
    ahead += args.ahead_step;
    b += V * lanes;
  }
  T* c = static_cast<T*>(args.c);
  ((*reinterpret_cast<Loose*>(c + I / V * args.c_row + I % V * lanes) = sum[I]), ...);
}

// The same for rows that are neighbours.
template <class E, int R, int V, int... I>
[[gnu::always_inline]] inline void short_neighbours(const PositionsArgs& args, Sequence<I...>) noexcept {
  using T = typename E::compute;
  using L = Lanes<E>;
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  constexpr int lanes = L::count;
  static_assert(R <= lanes);
  constexpr int kAhead = 4;
  Type sum[R * V] = {};
  alignas(sizeof(Type)) T steps[2 * kAhead][lanes];
  const auto* a = static_cast<const typename E::storage*>(args.a);
  const T* b = static_cast<const T*>(args.b);
  const char* ahead = args.ahead;
  const auto convert = [&](int64_t k) __attribute__((always_inline)) {
    if (k < args.depth) *reinterpret_cast<Type*>(steps[k % (2 * kAhead)]) = L::load(a, L::first(R));
    a += args.a_step;
  };
  for (int k = 0; k < kAhead; ++k) convert(k);
#pragma GCC unroll 1
  for (int64_t k = 0; k < args.depth; ++k) {
    convert(k + kAhead);
    const T* const left = steps[k % (2 * kAhead)];
    Type right[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) right[v] = *reinterpret_cast<const Loose*>(b + v * lanes);
    ((sum[I] += right[I % V] * left[I / V]), ...);
    __builtin_prefetch(ahead, 0, 2);
    ahead += args.ahead_step;
    b += V * lanes;
  }
  T* c = static_cast<T*>(args.c);
  ((*reinterpret_cast<Loose*>(c + I / V * args.c_row + I % V * lanes) = sum[I]), ...);
}

// Runs the products for the number of rows the caller has.
template <class E, int R, int V>
[[gnu::always_inline]] inline void short_positions(const PositionsArgs& args) noexcept {
  if (args.rows == R) {
    if (args.a_step == 1) {
      short_rows<E, R, V>(args, UpTo<R * V>{});
    } else {
      short_neighbours<E, R, V>(args, UpTo<R * V>{});
    }
  } else if constexpr (R > 1) {
    short_positions<E, R - 1, V>(args);
  }
}

}  // namespace

#endif
