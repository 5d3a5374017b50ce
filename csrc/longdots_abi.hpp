// What the kernels of products along positions see: their arguments, and their code for vectors of any width.
#pragma once

#include "dots_abi.hpp"

// Family `longdots`, as `dots`, but columns lie anywhere: for each row r and column c below the tile's
//   out[r * out_row + c] += sum over segments s, i < depth of
//                           a[a_offset[s] + r * a_row + i] * b[b_offset[s] + b_column[c] + i]
// by lanes, then all lanes. Fetches what lies `a_next` elements after every row into the second cache on the
// way.
struct LongDotsArgs {
  const void* a;
  const void* b;
  const int64_t* a_offset;
  const int64_t* b_offset;
  int64_t segments;
  int64_t depth;
  int64_t a_row;
  int64_t a_next;
  const int64_t* b_column;
  void* out;
  int64_t out_row;
  int32_t rows;
  int32_t columns;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

template <class E, int R, int C>
[[gnu::always_inline]] inline void long_dots(const LongDotsArgs& args) noexcept {
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
    b[c] = static_cast<const T*>(args.b) + args.b_column[c < args.columns ? c : args.columns - 1];
  for (int64_t s = 0; s < args.segments; ++s) {
    int64_t i = args.a_offset[s];
    int64_t j = args.b_offset[s];
    const int64_t end = i + args.depth / L::count * L::count;
#pragma GCC unroll 1
    for (; i < end; i += L::count, j += L::count) {
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) __builtin_prefetch(a[r] + i + args.a_next, 0, 2);
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

}  // namespace

#endif
