// What the kernels that transform plain weights of common layers see: two taps a phase along one axis or two.
#pragma once

#include "winograd_weight_abi.hpp"

// Family `winogradpack`: plain weights of a vector of columns, storage type to compute type, to the points of
// all phases. Column l, map m and tap (y, x) are at
//   src[l * taps + m * map_stride + y * 2 * stride[1] + x]
// with taps = 2 * stride[1], times 2 * stride[0] where tile[0] is not plain. Point p of the phase of the taps
// (y + {0, stride[0]}, x + {0, stride[1]}), the later ones first, goes to
//   dst[phase_at[y * stride[1] + x] + p * point_stride + m * map_step]
// Sets *finite to false where it meets an infinity or NaN.
struct WinogradPackArgs {
  const void* src;
  void* dst;
  bool* finite;
  const int64_t* phase_at;
  int64_t map_stride;
  int64_t map_step;
  int64_t point_stride;
  int64_t maps;
  int64_t fetched;  // how many maps ahead the cache is filled
  int stride[2];
  WinogradTile tile[2];
};

// Whether a kernel packs such phases, of which there are at most `kMostWinogradPackPhases`.
constexpr int kMostWinogradPackPhases = 8;
constexpr bool winograd_packs(const int (&stride)[2], const WinogradTile (&tile)[2]) noexcept {
  const auto two = [](WinogradTile t) { return t == kF22 || t == kF32 || t == kF42; };
  if (!two(tile[1]) && tile[1] != kF52) return false;
  if (tile[0] != kPlain) return two(tile[0]) && stride[0] == 2 && stride[1] == 2;
  return stride[0] == 1 && (stride[1] == 2 || stride[1] == 4 || stride[1] == 5 || stride[1] == 8);
}

#if defined(TCONV_KERNEL_NAME)

namespace {

// The taps of a vector of columns, which lie side by side, as vectors of their own.
template <class E, int taps>
[[gnu::always_inline]] inline void turn_taps(const typename E::storage* src,
                                             typename Vector<typename E::compute>::type* rows) noexcept {
  using T = typename E::compute;
  using Type = typename Vector<T>::type;
  constexpr int lanes = Vector<T>::lanes;
  constexpr int block = 16 / (int)sizeof(T);
  if constexpr (kTurnsRows<E, block> && taps > block) {
    // The last block starts early rather than be cut short.
#pragma GCC unroll 16
    for (int first = 0; first < taps; first += block) {
      const int at = first < taps - block ? first : taps - block;
      load_turned<E, block>(src + at, taps, rows + at);
    }
  } else if constexpr (lanes % taps == 0) {
#pragma GCC unroll 16
    for (int i = 0; i < taps; ++i) rows[i] = Lanes<E>::load(src + i * lanes);
    if constexpr (taps < lanes) {
      deal<T, taps>(rows);
    } else {
      transpose<T>(rows);
    }
  } else {
#pragma GCC unroll 16
    for (int first = 0; first < taps; first += lanes) {
      const int count = taps - first < lanes ? taps - first : lanes;
      Type square[lanes];
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) {
        const auto* row = src + i * taps + first;
        square[i] = count < lanes ? Lanes<E>::load(row, Lanes<E>::first(count)) : Lanes<E>::load(row);
      }
      transpose<T>(square);
#pragma GCC unroll 16
      for (int i = 0; i < count; ++i) rows[first + i] = square[i];
    }
  }
}

template <class E, int stride_y, int stride_x, WinogradTile y, WinogradTile x>
[[gnu::noinline]] void winograd_pack_maps(const WinogradPackArgs& given) noexcept {
  using S = typename E::storage;
  using T = typename E::compute;
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  constexpr int lanes = Vector<T>::lanes;
  constexpr int taps_y = kWinogradTaps[y];
  constexpr int width = 2 * stride_x;
  constexpr int taps = taps_y * stride_y * width;
  // Taps that are turned at a time where that goes: those of the next phases while points of the ones before
  // are stored.
  constexpr bool by_block = kTurnsRows<E, width>;
  constexpr int block = by_block ? 16 / (int)sizeof(T) : taps;
  constexpr int block_phases = stride_x % block == 0 ? block : stride_x;
  const WinogradPackArgs args = given;
  const S* src = static_cast<const S*>(args.src);
  T* dst = static_cast<T*>(args.dst);
  Check<T> check;
  for (int64_t m = 0; m < args.maps; ++m, src += args.map_stride, dst += args.map_step) {
    const int64_t left = args.maps - 1 - m;
    const S* const ahead = src + (left < args.fetched ? left : args.fetched) * args.map_stride;
#pragma GCC unroll 16
    for (int at = 0; at < taps * lanes; at += 64 / (int)sizeof(S)) __builtin_prefetch(ahead + at);
    __builtin_prefetch(ahead + taps * lanes - 1);
    Type rows[taps];
    if constexpr (!by_block) turn_taps<E, taps>(src, rows);
#pragma GCC unroll 16
    for (int phase = 0; phase < stride_y * stride_x; ++phase) {
      if constexpr (by_block) {
        const int group = phase % block_phases == 0 ? taps_y : 0;
#pragma GCC unroll 2
        for (int j = 0; j < group; ++j) {
          const int first = (j * stride_y + phase / stride_x) * width + phase % stride_x;
#pragma GCC unroll 2
          for (int i = 0; i < width; i += block_phases == block ? stride_x : block)
            load_turned<E, block>(src + first + i, taps, rows + first + i);
        }
      }
      T* const to = dst + args.phase_at[phase];
      Type column[kWinogradPoints[x]][kWinogradPoints[y]];
#pragma GCC unroll 2
      for (int j = 0; j < taps_y; ++j) {
        const int at = ((taps_y - 1 - j) * stride_y + phase / stride_x) * width + phase % stride_x;
        Type row[kWinogradPoints[x]];
        row[0] = rows[at + stride_x];
        row[1] = rows[at];
        taps_to_points<T>(x, row);
#pragma GCC unroll 6
        for (int i = 0; i < kWinogradPoints[x]; ++i) column[i][j] = row[i];
      }
#pragma GCC unroll 6
      for (int i = 0; i < kWinogradPoints[x]; ++i) {
        taps_to_points<T>(y, column[i]);
#pragma GCC unroll 6
        for (int j = 0; j < kWinogradPoints[y]; ++j) {
          *reinterpret_cast<Loose*>(to + (j * kWinogradPoints[x] + i) * args.point_stride) = column[i][j];
        }
      }
      // A point that all taps of the phase are part of.
      check.template add<1>(&column[1][taps_y - 1]);
    }
  }
  if (!check.finite()) *args.finite = false;
}

// Calls `body` with a tile of two taps known at compile time.
template <class Body>
[[gnu::always_inline]] inline void with_two_taps(WinogradTile tile, const Body& body) noexcept {
  if (tile == kF22) return body(FixedTile<kF22>{});
  if (tile == kF32) return body(FixedTile<kF32>{});
  return body(FixedTile<kF42>{});
}

template <class E>
[[gnu::always_inline]] inline void winograd_pack(const WinogradPackArgs& args) noexcept {
  const auto line = [&](auto x) {
    switch (args.stride[1]) {
      case 2:
        return winograd_pack_maps<E, 1, 2, kPlain, x.value>(args);
      case 4:
        return winograd_pack_maps<E, 1, 4, kPlain, x.value>(args);
      case 5:
        return winograd_pack_maps<E, 1, 5, kPlain, x.value>(args);
      default:
        return winograd_pack_maps<E, 1, 8, kPlain, x.value>(args);
    }
  };
  if (args.tile[1] == kF52) return line(FixedTile<kF52>{});
  with_two_taps(args.tile[1], [&](auto x) {
    if (args.tile[0] == kPlain) return line(x);
    with_two_taps(args.tile[0], [&](auto y) { winograd_pack_maps<E, 2, 2, y.value, x.value>(args); });
  });
}

}  // namespace

#endif
