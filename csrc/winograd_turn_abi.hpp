// What the kernels see that turn plain weights into rows of lanes.
#pragma once

#include "winograd_abi.hpp"

// Family `winogradturn`: plain weights of a vector of columns, storage type to compute type, to rows of
// lanes, columns to lanes. Tap t of map m and column l is at
//   src[m * map_stride + t * tap_stride + l * column_stride]
// and its row goes to row_at[t] + m * row_step[t], where lanes beyond `columns` are zeros. Sets *finite to
// false where it meets an infinity or NaN.
struct WinogradTurnArgs {
  const void* src;
  void* const* row_at;
  const int64_t* row_step;
  bool* finite;
  int64_t map_stride;
  int64_t tap_stride;
  int64_t column_stride;
  int64_t columns;
  int64_t taps;
  int64_t maps;
  int64_t fetched;  // how many maps ahead the cache is filled, where taps are neighbours
};

#if defined(TCONV_KERNEL_NAME)

namespace {

template <class E>
[[gnu::always_inline]] inline void winograd_turn(const WinogradTurnArgs& args) noexcept {
  using S = typename E::storage;
  using T = typename E::compute;
  using Loose = typename Vector<T>::loose;
  constexpr int lanes = Vector<T>::lanes;
  constexpr int line = 64 / (int)sizeof(S);
  const S* src = static_cast<const S*>(args.src);
  T square[lanes * lanes];
  StripArgs some{};
  some.dst = square;
  some.finite = args.finite;
  some.map_stride = args.column_stride;
  some.position_stride = args.tap_stride;
  some.maps = args.columns;
  for (int64_t m = 0; m < args.maps; ++m, src += args.map_stride) {
    if (args.tap_stride == 1 && m + args.fetched < args.maps) {
      const S* ahead = src + args.fetched * args.map_stride;
      const bool together = args.column_stride == args.taps;
      const int64_t count = (together ? args.columns : 1) * args.taps;
      for (int64_t l = 0; l < args.columns; l += together ? args.columns : 1, ahead += args.column_stride) {
        for (int64_t at = 0; at < count; at += line) __builtin_prefetch(ahead + at, 0, 2);
        __builtin_prefetch(ahead + count - 1, 0, 2);
      }
    }
    for (int64_t first = 0; first < args.taps; first += lanes) {
      some.src = src + first * args.tap_stride;
      some.count = some.size = args.taps - first < lanes ? args.taps - first : lanes;
      strip<E>(some);
      for (int64_t t = 0; t < some.count; ++t) {
        T* const row = static_cast<T*>(args.row_at[first + t]) + m * args.row_step[first + t];
        *reinterpret_cast<Loose*>(row) = *reinterpret_cast<const Loose*>(square + t * lanes);
      }
    }
  }
}

}  // namespace

#endif
