// What the kernel of family `store` adds to moving elements, for vectors of any width.
#pragma once

#include "kernel_abi.hpp"

#if defined(TCONV_KERNEL_NAME)

namespace {

// Maps side by side go to runs of neighbours. Short ones are not worth a square more to align the first.
template <class E>
[[gnu::always_inline]] inline void store_runs(const MoveArgs& args) noexcept {
  using From = plain<E>;
  constexpr int L = Lanes<From>::count;
  if (args.src_row != 1 || args.src_column == 1 || args.dst_column != 1 || args.rows * args.columns <= 8 ||
      args.columns > (args.dst_row % L == 0 ? L : 2 * L)) {
    store<E>(args);
    return;
  }
  const auto* const src = static_cast<const typename From::storage*>(args.src);
  auto* const dst = static_cast<typename E::storage*>(args.dst);
  for (int64_t i = 0; i < args.columns; i += L) {
    const int height = args.columns - i < L ? (int)(args.columns - i) : L;
    for (int64_t j = 0; j < args.rows; j += L) {
      const int width = args.rows - j < L ? (int)(args.rows - j) : L;
      const auto* const from = src + i * args.src_column + j;
      auto* const to = dst + j * args.dst_row + i;
      if (height == L && width == L) {
        transpose_square<From, E>(from, args.src_column, to, args.dst_row);
      } else {
        transpose_part<From, E>(from, args.src_column, to, args.dst_row, height, width);
      }
    }
  }
}

}  // namespace

#endif
