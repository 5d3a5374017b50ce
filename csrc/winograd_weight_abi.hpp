// What the kernels of Winograd's weight gradient see beside those of winograd_abi.hpp. There the taps are the
// outputs, and positions of the small side stand where taps do.
#pragma once

#include "winograd_abi.hpp"

// Family `winogradtaps`: taps to points, with the arguments of `winogradin`; a tile has kWinogradTaps
// elements along each axis.

// Family `winogradsum`: points to outputs as in `winogradout`, without a bias, added to what is there where
// `accumulate`.
struct WinogradSumArgs {
  const void* src;
  void* dst;
  int64_t tile_step;
  int64_t step[3];
  int64_t point_stride;
  int64_t tile_stride;
  int64_t tiles;
  WinogradTile tile[3];
  bool accumulate;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

// One axis of the transform of taps, in place: `points` vectors where the taps were.
template <class T, class Type>
[[gnu::always_inline]] inline void taps_to_points(WinogradTile tile, Type* g) noexcept {
  if (tile == kPlain) return;
  const Type g0 = g[0];
  const Type g1 = g[1];
  if (tile == kF22) {
    g[1] = g0 + g1;
    g[2] = g1;
    return;
  }
  const bool three = kWinogradTaps[tile] >= 3;
  const bool four = kWinogradTaps[tile] == 4;
  const Type g2 = three ? g[2] : Type{};
  const Type g3 = four ? g[3] : Type{};
  const Type last = four ? g3 : three ? g2 : g1;
  const int points = kWinogradPoints[tile];
  if (points == 4) {
    const Type even = three ? g0 + g2 : g0;
    g[1] = (even + g1) / 2;
    g[2] = (even - g1) / 2;
    g[3] = last;
    return;
  }
  // Of every point x the sum of g_k x^k over the product of its distances to the other points. Not a call,
  // which would have the taps leave their registers.
  const bool six = points == 6;
  const bool seven = points == 7;
  const auto [p, q, r] = seven ? kWinogradSeven<T> : six ? kWinogradSix<T> : kWinogradFive<T>;
  const auto pair = [&](T x, T other, T third, Type* to) __attribute__((always_inline)) {
    const T share = 1 / (2 * x * (x * x - other * other) * (six ? x : seven ? x * x - third * third : T{1}));
    const Type even = three ? g0 * share + g2 * (x * x * share) : g0 * share;
    const Type odd = four ? g1 * (x * share) + g3 * (x * x * x * share) : g1 * (x * share);
    to[0] = even + odd;
    to[1] = six ? even - odd : odd - even;
  };
  pair(p, q, r, g);
  pair(q, p, r, g + 2);
  if (seven) pair(r, p, q, g + 4);
  if (six) g[4] = g0 * (1 / (p * p * q * q));
  g[points - 1] = last;
}

template <class T>
struct TapsToPoints {
  static constexpr int before(WinogradTile tile) noexcept { return kWinogradTaps[tile]; }
  static constexpr int after(WinogradTile tile) noexcept { return kWinogradPoints[tile]; }
  template <class Type>
  [[gnu::always_inline]] static inline void run(WinogradTile tile, Type* g) noexcept {
    taps_to_points<T>(tile, g);
  }
};

template <class T>
[[gnu::always_inline]] inline void winograd_taps(const WinogradInArgs& args) noexcept {
  winograd_to_points<T, TapsToPoints<T>>(args);
}

template <class T>
[[gnu::always_inline]] inline void winograd_sum(const WinogradSumArgs& args) noexcept {
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  const auto put_with = [](bool accumulate) {
    return [accumulate](T* to, Type value) {
      Loose& sum = *reinterpret_cast<Loose*>(to);
      sum = accumulate ? sum + value : value;
    };
  };
  winograd_to_outputs<T>(args, put_with(args.accumulate), put_with(false));
}

}  // namespace

#endif
