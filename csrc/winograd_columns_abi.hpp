// What the kernels see that transform plain weights whose columns lie together, along one axis.
#pragma once

#include "winograd_weight_abi.hpp"

// Family `winogradcolumns`: the taps of a phase, storage type to compute type, to points, lanes being
// columns. Tap j of map m and vector v of columns is at
//   src[m * map_stride + j * tap_stride + v * lanes]
// and its point p goes to dst[vector_at[v] + p * point_stride + m * map_step]. Sets *finite to false where it
// meets an infinity or NaN.
struct WinogradColumnsArgs {
  const void* src;
  void* dst;
  bool* finite;
  const int64_t* vector_at;
  int64_t vectors;
  int64_t map_stride;
  int64_t tap_stride;
  int64_t point_stride;
  int64_t map_step;
  int64_t maps;
  int64_t fetched;  // how many maps ahead the cache is filled
  WinogradTile tile;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

template <class E, WinogradTile tile>
[[gnu::noinline]] void winograd_columns_of(const WinogradColumnsArgs& args) noexcept {
  using S = typename E::storage;
  using T = typename E::compute;
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  constexpr int lanes = Vector<T>::lanes;
  constexpr int taps = kWinogradTaps[tile];
  constexpr int points = kWinogradPoints[tile];
  const S* src = static_cast<const S*>(args.src);
  T* dst = static_cast<T*>(args.dst);
  Check<T> check;
  for (int64_t m = 0; m < args.maps; ++m, src += args.map_stride, dst += args.map_step) {
    const int64_t left = args.maps - 1 - m;
    const S* const ahead = src + (left < args.fetched ? left : args.fetched) * args.map_stride;
    for (int64_t v = 0; v < args.vectors; ++v) {
      Type g[points];
#pragma GCC unroll 4
      for (int j = 0; j < taps; ++j) {
        const int64_t at = j * args.tap_stride + v * lanes;
        __builtin_prefetch(ahead + at);
        g[j] = Lanes<E>::load(src + at);
      }
      check.template add<taps>(g);
      taps_to_points<T>(tile, g);
      T* const to = dst + args.vector_at[v];
#pragma GCC unroll 8
      for (int p = 0; p < points; ++p) *reinterpret_cast<Loose*>(to + p * args.point_stride) = g[p];
    }
  }
  if (!check.finite()) *args.finite = false;
}

template <class E>
[[gnu::always_inline]] inline void winograd_columns(const WinogradColumnsArgs& args) noexcept {
  with_line_tile(args.tile, [&](auto tile) {
    // Tiles of four positions are the weight gradient's.
    if constexpr (tile.value != kPlain && tile.value != kF24) winograd_columns_of<E, tile.value>(args);
  });
}

}  // namespace

#endif
