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
  dots_tile<E, R, C>(
      args, [&](int64_t c) { return args.b_column[c]; },
      [&](const typename E::storage* row) { __builtin_prefetch(row + args.a_next, 0, 2); });
}

}  // namespace

#endif
