// What the kernels see that transform the tiles of one axis from where maps lie, and to there, a few at a
// time, so that what waits between two steps is near the core.
#pragma once

#include "activation_abi.hpp"
#include "winograd_abi.hpp"

// Family `winogradread`: as `strip` and then `winogradin`, storage type to compute type. The window of tile t
// has its element i at the position first + t * outputs + i, zero where that is not one of `size`, and its
// point p goes to dst[p * point_stride + t * tile_stride]. Maps that lie together may be more than a vector.
struct WinogradReadArgs {
  const void* src;
  void* dst;
  bool* finite;
  int64_t map_stride;
  int64_t position_stride;
  int64_t maps;
  int64_t first;
  int64_t size;
  int64_t point_stride;
  int64_t tile_stride;
  int64_t tiles;
  WinogradTile tile;
};

// Family `winogradwrite`: as `winogradout`, `activate` where there is one, and then `unstrip`, compute type
// to storage type. Point k of tile t and phase p is at
//   src[phase_at[p] + k * point_stride + t * tile_stride]
// and its output o goes to the position first + (t * outputs + o) * phases + p, if that is one of `size`.
struct WinogradWriteArgs {
  const void* src;
  void* dst;
  const void* bias;  // one element a lane
  const Activation* activation;
  const int64_t* phase_at;
  int64_t phases;
  int64_t map_stride;
  int64_t position_stride;
  int64_t maps;
  int64_t first;
  int64_t size;
  int64_t point_stride;
  int64_t tile_stride;
  int64_t tiles;
  WinogradTile tile;
};

// Positions that wait.
constexpr int kWinogradLine = 256;

#if defined(TCONV_KERNEL_NAME)

namespace {

template <class E>
[[gnu::noinline]] void strip_some(const StripArgs& args) noexcept {
  strip<E>(args);
}

template <class E>
[[gnu::noinline]] void unstrip_some(const UnstripArgs& args) noexcept {
  unstrip<E>(args);
}

// Positions that are left when those before are done go to the front.
template <class T>
[[gnu::always_inline]] inline void keep_rows(T* rows, int64_t from, int64_t count) noexcept {
  using Loose = typename Vector<T>::loose;
  constexpr int lanes = Vector<T>::lanes;
  for (int64_t i = 0; i < count * lanes; i += lanes) {
    *reinterpret_cast<Loose*>(rows + i) = *reinterpret_cast<const Loose*>(rows + from * lanes + i);
  }
}

template <class E, WinogradTile tile>
[[gnu::noinline]] void winograd_read_tiles(const WinogradReadArgs& args) noexcept {
  using S = typename E::storage;
  using T = typename E::compute;
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  constexpr int lanes = Vector<T>::lanes;
  constexpr int points = kWinogradPoints[tile];
  constexpr int outputs = kWinogradOutputs[tile];
  alignas(Type) T rows[kWinogradLine * lanes];
  StripArgs strip{args.src,  nullptr,    args.finite, args.map_stride, args.position_stride,
                  args.maps, args.first, 0,           args.size};
  const S* const src = static_cast<const S*>(args.src) + args.first * args.position_stride;
  int64_t left = (args.tiles - 1) * outputs + points;
  T* dst = static_cast<T*>(args.dst);
  int64_t some = kWinogradLine / 2 - (args.position_stride == 1 ? past_line<S, lanes>(src) : 0);
  for (int64_t kept = 0; left > 0; some = kWinogradLine / 2) {
    strip.dst = rows + kept * lanes;
    strip.count = left < some ? left : some;
    strip_some<E>(strip);
    strip.first += strip.count;
    left -= strip.count;
    kept += strip.count;
    int64_t at = 0;
    for (; at + points <= kept; at += outputs) {
      Type d[points];
#pragma GCC unroll 8
      for (int k = 0; k < points; ++k) d[k] = *reinterpret_cast<const Loose*>(rows + (at + k) * lanes);
      window_to_points<T>(tile, d);
#pragma GCC unroll 8
      for (int k = 0; k < points; ++k) *reinterpret_cast<Loose*>(dst + k * args.point_stride) = d[k];
      dst += args.tile_stride;
    }
    kept -= at;
    keep_rows(rows, at, kept);
  }
}

// Maps that lie together, a vector or more: all of a tile, one tile after the other, so that memory is read
// as it lies. The last vector starts early rather than be filled up.
template <class E, WinogradTile tile>
[[gnu::noinline]] void winograd_read_together(const WinogradReadArgs& args) noexcept {
  using S = typename E::storage;
  using T = typename E::compute;
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  constexpr int lanes = Vector<T>::lanes;
  constexpr int points = kWinogradPoints[tile];
  Check<T> check;
  WinogradReadArgs one = args;
  one.maps = lanes;
  one.tiles = 1;
  for (int64_t t = 0; t < args.tiles; ++t, one.first += kWinogradOutputs[tile]) {
    const bool inside = one.first >= 0 && one.first + points <= args.size;
    const S* const src = static_cast<const S*>(args.src) + one.first * args.position_stride;
    T* const dst = static_cast<T*>(args.dst) + t * args.tile_stride;
    for (int64_t map = 0, left = args.maps; left > 0; left -= lanes, map += left < lanes ? left : lanes) {
      if (!inside) {
        one.src = static_cast<const S*>(args.src) + map;
        one.dst = dst + map;
        winograd_read_tiles<E, tile>(one);
        continue;
      }
      Type d[points];
#pragma GCC unroll 8
      for (int k = 0; k < points; ++k) d[k] = Lanes<E>::load(src + k * args.position_stride + map);
      check.template add<points>(d);
      window_to_points<T>(tile, d);
#pragma GCC unroll 8
      for (int k = 0; k < points; ++k) *reinterpret_cast<Loose*>(dst + k * args.point_stride + map) = d[k];
    }
  }
  if (!check.finite()) *args.finite = false;
}

template <class E>
[[gnu::always_inline]] inline void winograd_read(const WinogradReadArgs& args) noexcept {
  with_line_tile(args.tile, [&](auto tile) {
    if (args.map_stride == 1 && args.maps >= Vector<typename E::compute>::lanes) {
      winograd_read_together<E, tile.value>(args);
    } else {
      winograd_read_tiles<E, tile.value>(args);
    }
  });
}

template <class E, WinogradTile tile>
[[gnu::noinline]] void winograd_write_tiles(const WinogradWriteArgs& args) noexcept {
  using S = typename E::storage;
  using T = typename E::compute;
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  constexpr int lanes = Vector<T>::lanes;
  constexpr int points = kWinogradPoints[tile];
  constexpr int outputs = kWinogradOutputs[tile];
  alignas(Type) T rows[kWinogradLine * lanes];
  const Type bias = *static_cast<const Loose*>(args.bias);
  const T* src = static_cast<const T*>(args.src);
  UnstripArgs unstrip{nullptr, nullptr, args.map_stride, args.position_stride, args.maps, 0};
  int64_t first = args.first;
  int64_t left = args.tiles;
  for (int64_t kept = 0; left > 0;) {
    const int64_t most = (kWinogradLine - kept) / (outputs * args.phases);
    const int64_t tiles = left < most ? left : most;
    const int64_t begin = kept;
    for (int64_t t = 0; t < tiles; ++t, src += args.tile_stride, kept += outputs * args.phases) {
      for (int64_t p = 0; p < args.phases; ++p) {
        const T* const from = src + args.phase_at[p];
        T* const to = rows + (kept + p) * lanes;
        Type m[points];
#pragma GCC unroll 8
        for (int k = 0; k < points; ++k) m[k] = *reinterpret_cast<const Loose*>(from + k * args.point_stride);
        points_to_outputs<T>(tile, m);
#pragma GCC unroll 8
        for (int o = 0; o < outputs; ++o)
          *reinterpret_cast<Loose*>(to + o * args.phases * lanes) = m[o] + bias;
      }
    }
    if (args.activation != nullptr)
      activate<T>({rows + begin * lanes, (kept - begin) * lanes, args.activation});
    left -= tiles;
    const int64_t before = first < 0 ? (-first < kept ? -first : kept) : 0;
    const int64_t after = args.size - first < kept ? args.size - first : kept;
    S* const dst = static_cast<S*>(args.dst) + first * args.position_stride;
    // What comes next begins with a whole line.
    const int past = left > 0 && args.position_stride == 1 ? past_line<S, lanes>(dst + after) : 0;
    const int64_t end = after - (past < after - before ? past : 0);
    if (before < end) {
      unstrip.src = rows + before * lanes;
      unstrip.dst = dst + before * args.position_stride;
      unstrip.count = end - before;
      unstrip_some<E>(unstrip);
    }
    const int64_t done = left > 0 && after == kept ? end : kept;
    first += done;
    kept -= done;
    keep_rows(rows, done, kept);
  }
}

template <class E>
[[gnu::always_inline]] inline void winograd_write(const WinogradWriteArgs& args) noexcept {
  with_line_tile(args.tile, [&](auto tile) { winograd_write_tiles<E, tile.value>(args); });
}

}  // namespace

#endif
