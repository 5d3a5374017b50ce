// What the kernels of products along a window see: their arguments, and their code for vectors of any width.
#pragma once

#include "kernel_abi.hpp"

// Family `dots`, `a` of the storage type, `b` and sums of the compute type, lanes being elements of a window:
// for each row r and column c below the tile's
//   out[r * out_row + c] += sum over segments s, i < depth of
//                           a[a_offset[s] + r * a_row + i] * b[b_offset[s] + c * b_row + i]
// by lanes, then all lanes.
struct DotsArgs {
  const void* a;
  const void* b;
  const int64_t* a_offset;
  const int64_t* b_offset;
  int64_t segments;
  int64_t depth;
  int64_t a_row;
  int64_t b_row;
  void* out;
  int64_t out_row;
  int32_t rows;
  int32_t columns;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

// Lane i of the result is the sum of the lanes of vector i.
template <class T, int N>
[[gnu::always_inline]] inline typename Vector<T>::type totals(const typename Vector<T>::type* v) noexcept {
  using Type = typename Vector<T>::type;
  if constexpr (N == 1) {
    return v[0];
  } else {
    constexpr auto lanes = UpTo<Vector<T>::lanes>{};
    Type half[N / 2];
#pragma GCC unroll 8
    for (int i = 0; i < N / 2; ++i) {
      const Type pair[2] = {v[2 * i], v[2 * i + 1]};
      half[i] = every<T, 2, 0>(pair, lanes) + every<T, 2, 1>(pair, lanes);
    }
    return totals<T, N / 2>(half);
  }
}

// Adds the products of one vector of the window; `left` and `right` load it for a row and a column.
template <class Type, int C, int... I, class Left, class Right>
[[gnu::always_inline]] inline void dots_step(Type* sum, const Left& left, const Right& right,
                                             Sequence<I...>) noexcept {
  Type column[C];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) column[c] = right(c);
  Type row{};
  ((row = I % C == 0 ? left(I / C) : row, sum[I] += row * column[I % C]), ...);
}

// A tile of sums. `column(c)` is where a column begins in b; `ahead(row)` is told where each row is read.
template <class E, int R, int C, class Args, class Column, class Ahead>
[[gnu::always_inline]] inline void dots_tile(const Args& args, const Column& column,
                                             const Ahead& ahead) noexcept {
  using S = typename E::storage;
  using T = typename E::compute;
  using L = Lanes<E>;
  using P = Lanes<plain<E>>;
  using Type = typename L::type;
  constexpr auto all = UpTo<R * C>{};
  constexpr int groups = (R * C + L::count - 1) / L::count;
  Type sum[groups * L::count] = {};
  // Rows and columns beyond the last repeat it.
  const S* a[R];
  const T* b[C];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
    a[r] = static_cast<const S*>(args.a) + (r < args.rows ? r : args.rows - 1) * args.a_row;
#pragma GCC unroll 16
  for (int c = 0; c < C; ++c)
    b[c] = static_cast<const T*>(args.b) + column(c < args.columns ? c : args.columns - 1);
  for (int64_t s = 0; s < args.segments; ++s) {
    int64_t i = args.a_offset[s];
    int64_t j = args.b_offset[s];
    const int64_t end = i + args.depth / L::count * L::count;
#pragma GCC unroll 1
    for (; i < end; i += L::count, j += L::count) {
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) ahead(a[r] + i);
      dots_step<Type, C>(
          sum, [&](int r) { return L::load(a[r] + i); }, [&](int c) { return P::load(b[c] + j); }, all);
    }
    if (const int64_t rest = args.depth % L::count; rest > 0) {
      const uint32_t mask = L::first(rest);
      dots_step<Type, C>(
          sum, [&](int r) { return L::load(a[r] + i, mask); }, [&](int c) { return P::load(b[c] + j, mask); },
          all);
    }
  }
  T total[groups * L::count];
#pragma GCC unroll 8
  for (int g = 0; g < groups; ++g) P::store(total + g * L::count, totals<T, L::count>(sum + g * L::count));
  for (int r = 0; r < args.rows; ++r) {
    for (int c = 0; c < args.columns; ++c)
      static_cast<T*>(args.out)[r * args.out_row + c] += total[r * C + c];
  }
}

// A column alone is not worth the products of a tile; its sums are the same.
template <class E, int R, int C>
[[gnu::always_inline]] inline void dots(const DotsArgs& args) noexcept {
  const auto column = [&](int64_t c) { return c * args.b_row; };
  const auto ahead = [](const void* /*row*/) {};
  if (args.columns == 1) {
    dots_tile<E, R, 1>(args, column, ahead);
  } else {
    dots_tile<E, R, C>(args, column, ahead);
  }
}

}  // namespace

#endif
