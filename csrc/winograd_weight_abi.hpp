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
template <class Type>
[[gnu::always_inline]] inline void taps_to_points(WinogradTile tile, Type* g, int step) noexcept {
  if (tile == kPlain) return;
  const Type g0 = g[0];
  const Type g1 = g[step];
  if (tile == kF22) {
    g[step] = g0 + g1;
    g[2 * step] = g1;
  } else {
    const Type last = tile == kF32 ? g1 : g[2 * step];
    const Type even = tile == kF32 ? g0 : g0 + last;
    g[step] = (even + g1) / 2;
    g[2 * step] = (even - g1) / 2;
    g[3 * step] = last;
  }
}

template <class T, WinogradTile Y, WinogradTile X>
[[gnu::always_inline]] inline void winograd_taps_plane(const WinogradInArgs& args) noexcept {
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  constexpr int ny = kWinogradPoints[Y];
  constexpr int nx = kWinogradPoints[X];
  const int nz = kWinogradPoints[args.tile[0]];
  const int taps_z = kWinogradTaps[args.tile[0]];
  Type g[kWinogradMostPoints * ny * nx];
  for (int64_t t = 0; t < args.tiles; ++t) {
    const T* src = static_cast<const T*>(args.src) + t * args.tile_step;
    T* dst = static_cast<T*>(args.dst) + t * args.tile_stride;
    for (int z = 0; z < taps_z; ++z) {
      Type plane[ny * nx];
#pragma GCC unroll 4
      for (int y = 0; y < kWinogradTaps[Y]; ++y) {
#pragma GCC unroll 4
        for (int x = 0; x < kWinogradTaps[X]; ++x) {
          plane[y * nx + x] =
              *reinterpret_cast<const Loose*>(src + z * args.step[0] + y * args.step[1] + x * args.step[2]);
        }
        taps_to_points(X, plane + y * nx, 1);
      }
#pragma GCC unroll 4
      for (int x = 0; x < nx; ++x) taps_to_points(Y, plane + x, nx);
      if (nz == 1) {
#pragma GCC unroll 16
        for (int p = 0; p < ny * nx; ++p) *reinterpret_cast<Loose*>(dst + p * args.point_stride) = plane[p];
      } else {
#pragma GCC unroll 16
        for (int p = 0; p < ny * nx; ++p) g[z * ny * nx + p] = plane[p];
      }
    }
    if (nz == 1) continue;
    for (int p = 0; p < ny * nx; ++p) taps_to_points(args.tile[0], g + p, ny * nx);
    for (int p = 0; p < nz * ny * nx; ++p) *reinterpret_cast<Loose*>(dst + p * args.point_stride) = g[p];
  }
}

template <class T, WinogradTile Y, WinogradTile X>
[[gnu::always_inline]] inline void winograd_sum_plane(const WinogradSumArgs& args) noexcept {
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  constexpr int ny = kWinogradPoints[Y];
  constexpr int nx = kWinogradPoints[X];
  const int nz = kWinogradPoints[args.tile[0]];
  const int mz = kWinogradOutputs[args.tile[0]];
  Type m[kWinogradMostPoints * ny * nx];
  for (int64_t t = 0; t < args.tiles; ++t) {
    const T* src = static_cast<const T*>(args.src) + t * args.tile_stride;
    T* dst = static_cast<T*>(args.dst) + t * args.tile_step;
    if (nz > 1) {
      for (int p = 0; p < nz * ny * nx; ++p)
        m[p] = *reinterpret_cast<const Loose*>(src + p * args.point_stride);
      for (int p = 0; p < ny * nx; ++p) points_to_outputs(args.tile[0], m + p, ny * nx);
    }
    for (int z = 0; z < mz; ++z) {
      Type plane[ny * nx];
#pragma GCC unroll 16
      for (int p = 0; p < ny * nx; ++p) {
        plane[p] = nz > 1 ? m[z * ny * nx + p] : *reinterpret_cast<const Loose*>(src + p * args.point_stride);
      }
#pragma GCC unroll 4
      for (int x = 0; x < nx; ++x) points_to_outputs(Y, plane + x, nx);
#pragma GCC unroll 4
      for (int y = 0; y < kWinogradOutputs[Y]; ++y) {
        points_to_outputs(X, plane + y * nx, 1);
#pragma GCC unroll 4
        for (int x = 0; x < kWinogradOutputs[X]; ++x) {
          Loose& to = *reinterpret_cast<Loose*>(dst + z * args.step[0] + y * args.step[1] + x * args.step[2]);
          to = args.accumulate ? to + plane[y * nx + x] : plane[y * nx + x];
        }
      }
    }
  }
}

template <class T>
[[gnu::always_inline]] inline void winograd_taps(const WinogradInArgs& args) noexcept {
  TCONV_WINOGRAD_PLANE(winograd_taps_plane, T)
}

template <class T>
[[gnu::always_inline]] inline void winograd_sum(const WinogradSumArgs& args) noexcept {
  TCONV_WINOGRAD_PLANE(winograd_sum_plane, T)
}

}  // namespace

#endif
