// What the kernel that turns rows of maps to points along y sees, and its code for vectors of any width.
#pragma once

#include "winograd_abi.hpp"

// Family `winogradpoints`: storage type to compute type, lanes being places of a row; for m < maps and places
// i < size
//   dst[m * dst_map + p * dst_point + i] = point p of the rows of map m at place i
// with `left` zeros before the first place and `right` ones after the last. Place i of row r is
//   src[m * map_stride + r * row_stride + i * place_stride]
// or zero where r lies outside [begin, end). Places or maps are neighbours.
struct WinogradPointsArgs {
  const void* src;
  void* dst;
  int64_t map_stride;
  int64_t row_stride;
  int64_t place_stride;
  int64_t dst_map;
  int64_t dst_point;
  int64_t maps;
  int64_t size;
  int64_t left;
  int64_t right;
  int64_t begin;
  int64_t end;
  WinogradTile tile;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

// Rows as they lie; `all` tells that there are all.
template <class E, WinogradTile tile, bool all>
[[gnu::noinline]] void points_of_places(const WinogradPointsArgs& args) noexcept {
  using T = typename E::compute;
  using L = Lanes<E>;
  using P = Lanes<plain<E>>;
  constexpr int points = kWinogradPoints[tile];
  const WinogradPointsArgs a = args;
  const auto* src = static_cast<const typename E::storage*>(a.src);
  T* dst = static_cast<T*>(a.dst);
  for (int64_t m = 0; m < a.maps; ++m, src += a.map_stride, dst += a.dst_map) {
    const auto vector = [&](int64_t i, const auto& load, const auto& store) __attribute__((always_inline)) {
      typename L::type d[points];
#pragma GCC unroll 8
      for (int p = 0; p < points; ++p) {
        d[p] = all || (p >= a.begin && p < a.end) ? load(src + p * a.row_stride + i) : typename L::type{};
      }
      window_to_points<T>(tile, d);
#pragma GCC unroll 8
      for (int p = 0; p < points; ++p) store(dst + p * a.dst_point + i, d[p]);
    };
    int64_t i = 0;
    for (; i + L::count <= a.size; i += L::count) {
      vector(
          i, [](const auto* at) { return L::load(at); },
          [](T* at, typename L::type value) { P::store(at, value); });
    }
    if (i == a.size) continue;
    const auto rest = static_cast<int>(a.size - i);
    vector(
        i, [rest](const auto* at) { return L::load(at, L::first(rest)); },
        [rest](T* at, typename L::type value) { P::store(at, value, rest); });
  }
}

// Squares of maps and places are turned, each row into room for itself.
template <class E, WinogradTile tile>
[[gnu::noinline]] void points_of_maps(const WinogradPointsArgs& args) noexcept {
  using T = typename E::compute;
  using L = Lanes<E>;
  using P = Lanes<plain<E>>;
  constexpr int N = L::count;
  constexpr int points = kWinogradPoints[tile];
  const WinogradPointsArgs a = args;
  typename L::type room[points][N] = {};
  for (int64_t i = 0; i < a.size; i += N) {
    const int places = a.size - i < N ? (int)(a.size - i) : N;
    for (int64_t map = 0; map < a.maps; map += N) {
      const int maps = a.maps - map < N ? (int)(a.maps - map) : N;
      const uint32_t mask = L::first(maps);
      for (int64_t r = a.begin; r < a.end; ++r) {
        const auto* from =
            static_cast<const typename E::storage*>(a.src) + r * a.row_stride + i * a.place_stride + map;
        typename L::type square[N];
        if (places == N && maps == N) {
#pragma GCC unroll 16
          for (int x = 0; x < N; ++x, from += a.place_stride) square[x] = L::load(from);
        } else {
#pragma GCC unroll 16
          for (int x = 0; x < N; ++x) {
            square[x] = L::load(from, mask);
            // Places beyond the last repeat it; their lanes are not stored.
            from += x + 1 < places ? a.place_stride : 0;
          }
        }
        transpose<T>(square);
#pragma GCC unroll 16
        for (int m = 0; m < N; ++m) room[r][m] = square[m];
      }
      T* to = static_cast<T*>(a.dst) + map * a.dst_map + i;
      for (int m = 0; m < maps; ++m, to += a.dst_map) {
        typename L::type d[points];
#pragma GCC unroll 8
        for (int p = 0; p < points; ++p) d[p] = room[p][m];
        window_to_points<T>(tile, d);
#pragma GCC unroll 8
        for (int p = 0; p < points; ++p) P::store(to + p * a.dst_point, d[p], places);
      }
    }
  }
}

template <class E>
[[gnu::always_inline]] inline void winograd_points(const WinogradPointsArgs& args) noexcept {
  for (int64_t m = 0; m < args.maps; ++m) {
    for (int p = 0; p < kWinogradPoints[args.tile]; ++p) {
      auto* const row = static_cast<typename E::compute*>(args.dst) + m * args.dst_map + p * args.dst_point;
      for (int64_t i = 0; i < args.left; ++i) row[i - args.left] = 0;
      for (int64_t i = 0; i < args.right; ++i) row[args.size + i] = 0;
    }
  }
  with_line_tile(args.tile, [&](auto tile) {
    if (args.place_stride > 1) {
      points_of_maps<E, tile.value>(args);
    } else if (args.begin == 0 && args.end == kWinogradPoints[tile.value]) {
      points_of_places<E, tile.value, true>(args);
    } else {
      points_of_places<E, tile.value, false>(args);
    }
  });
}

}  // namespace

#endif
