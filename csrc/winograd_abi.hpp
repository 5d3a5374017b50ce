// What the kernels of the Winograd algorithm see: their arguments, and their code for vectors of any width.
//
// One axis at a time, with d the window of a tile, g the taps and y the outputs (Lavin and Gray, "Fast
// Algorithms for Convolutional Neural Networks", 2016; points 0, 1, infinity and 0, 1, -1, infinity):
//   F(2,2): d0-d1, d1, d2-d1                 x g0, g0+g1, g1                          y0 = m0+m1, y1 = m1+m2
//   F(3,2): d0-d2, d1+d2, d2-d1, d3-d1       x g0, (g0+g1)/2, (g0-g1)/2, g1           y = m0+m1+m2, m1-m2,
//   m1+m2+m3 F(2,3): the same                         x g0, (g0+g1+g2)/2, (g0-g1+g2)/2, g2     y = m0+m1+m2,
//   m1-m2+m3
#pragma once

#include "kernel_abi.hpp"

// Outputs and taps of a tile along one axis; `plain` is one of each.
enum WinogradTile { kPlain, kF22, kF32, kF23 };

constexpr int kWinogradPoints[] = {1, 3, 4, 4};
constexpr int kWinogradOutputs[] = {1, 2, 3, 2};
constexpr int kWinogradTaps[] = {1, 2, 2, 3};
constexpr int kWinogradMostPoints = 4;

// Family `rowgemm`, in the compute type: c[r * c_row + l] = sum over k of a[r * a_row + k] * b[k * lanes + l]
// for any number of rows. Fetches `next_bytes` from `next` into the cache on the way.
struct RowGemmArgs {
  const void* a;
  const void* b;
  void* c;
  const char* next;
  int64_t next_bytes;
  int64_t a_row;
  int64_t c_row;
  int64_t rows;
  int64_t depth;
};

// Family `strip`: storage type to compute type, maps to lanes; for p < count
//   dst[p * lanes + m] = 0 <= first + p < size and m < maps ? src[m * map_stride + (first + p) *
//   position_stride] : 0
// Sets *finite to false where it meets an infinity or NaN.
struct StripArgs {
  const void* src;
  void* dst;
  bool* finite;
  int64_t map_stride;
  int64_t position_stride;
  int64_t maps;
  int64_t first;
  int64_t count;
  int64_t size;
};

// Family `unstrip`, its opposite: for p < count and m < maps
//   dst[m * map_stride + p * position_stride] = src[p * lanes + m]
struct UnstripArgs {
  const void* src;
  void* dst;
  int64_t map_stride;
  int64_t position_stride;
  int64_t maps;
  int64_t count;
};

// Family `winogradin`: windows to points, lanes being maps. The window of tile t has its element (z, y, x) at
//   src[t * tile_step + z * step[0] + y * step[1] + x * step[2]]
// and its point p goes to dst[p * point_stride + t * tile_stride].
struct WinogradInArgs {
  const void* src;
  void* dst;
  int64_t tile_step;
  int64_t step[3];
  int64_t point_stride;
  int64_t tile_stride;
  int64_t tiles;
  WinogradTile tile[3];
};

// Family `winogradout`: points to outputs, lanes being maps; point p of tile t is at
//   src[p * point_stride + t * tile_stride]
// and its output (z, y, x) goes to dst[t * tile_step + z * step[0] + y * step[1] + x * step[2]], `bias` added
// to it.
struct WinogradOutArgs {
  const void* src;
  void* dst;
  const void* bias;  // one element a lane
  int64_t tile_step;
  int64_t step[3];
  int64_t point_stride;
  int64_t tile_stride;
  int64_t tiles;
  WinogradTile tile[3];
};

#if defined(TCONV_KERNEL_NAME)

namespace {

template <class T, int R, int V>
[[gnu::always_inline]] inline void rowgemm_rows(const RowGemmArgs& args, const T* a, T* c, const char*& next,
                                                const char* next_end) noexcept {
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  constexpr int lanes = Vector<T>::lanes;
  const T* b = static_cast<const T*>(args.b);
  const int64_t a_row = args.a_row;
  Type sum[R][V] = {};
#pragma GCC unroll 1
  for (int64_t k = 0; k < args.depth; ++k) {
    if (next < next_end) {
      __builtin_prefetch(next, 0, 2);
      next += 64;
    }
    Type right[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) right[v] = *reinterpret_cast<const Loose*>(b + v * lanes);
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sum[r][v] += right[v] * a[r * a_row + k];
    }
    b += V * lanes;
  }
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) *reinterpret_cast<Loose*>(c + r * args.c_row + v * lanes) = sum[r][v];
  }
}

template <class T, int R, int V>
[[gnu::always_inline]] inline void rowgemm_rest(const RowGemmArgs& args, int64_t rows, const T* a, T* c,
                                                const char*& next, const char* next_end) noexcept {
  if (rows == R) {
    rowgemm_rows<T, R, V>(args, a, c, next, next_end);
  } else if constexpr (R > 1) {
    rowgemm_rest<T, R - 1, V>(args, rows, a, c, next, next_end);
  }
}

template <class T, int R, int V>
[[gnu::always_inline]] inline void rowgemm(const RowGemmArgs& args) noexcept {
  const T* a = static_cast<const T*>(args.a);
  T* c = static_cast<T*>(args.c);
  const char* next = args.next;
  const char* const next_end = args.next + args.next_bytes;
  int64_t rows = args.rows;
  for (; rows >= R; rows -= R) {
    rowgemm_rows<T, R, V>(args, a, c, next, next_end);
    a += R * args.a_row;
    c += R * args.c_row;
  }
  if constexpr (R > 1) {
    if (rows > 0) rowgemm_rest<T, R - 1, V>(args, rows, a, c, next, next_end);
  }
}

// Turns `lanes` vectors into their transpose: log2(lanes) rounds that interleave the first half with the
// second.
template <class T>
[[gnu::always_inline]] inline void transpose(typename Vector<T>::type* rows) noexcept {
  using Type = typename Vector<T>::type;
  constexpr int lanes = Vector<T>::lanes;
  using Index = decltype(Type{} < Type{});
  Index low{};
  Index high{};
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i) {
    low[i] = i / 2 + (i % 2) * lanes;
    high[i] = low[i] + lanes / 2;
  }
#pragma GCC unroll 4
  for (int round = 1; round < lanes; round *= 2) {
    Type next[lanes];
#pragma GCC unroll 16
    for (int i = 0; i < lanes / 2; ++i) {
      next[2 * i] = __builtin_shuffle(rows[i], rows[i + lanes / 2], low);
      next[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + lanes / 2], high);
    }
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) rows[i] = next[i];
  }
}

template <class E>
[[gnu::always_inline]] inline typename Vector<typename E::compute>::type load_vector(
    const typename E::storage* from) noexcept {
  using T = typename E::compute;
  if constexpr (sizeof(typename E::storage) == sizeof(T)) {
    return *reinterpret_cast<const typename Vector<T>::loose*>(from);
  } else {
    typename Vector<T>::type wide;
    for (int i = 0; i < Vector<T>::lanes; ++i) wide[i] = E::load(from[i]);
    return wide;
  }
}

template <class E>
[[gnu::always_inline]] inline void store_vector(typename E::storage* to,
                                                typename Vector<typename E::compute>::type value) noexcept {
  using T = typename E::compute;
  if constexpr (sizeof(typename E::storage) == sizeof(T)) {
    *reinterpret_cast<typename Vector<T>::loose*>(to) = value;
  } else {
    for (int i = 0; i < Vector<T>::lanes; ++i) to[i] = E::store(value[i]);
  }
}

// Sorts the elements of `count` vectors, a power of two, by their place modulo `count`.
template <class T, int count>
[[gnu::always_inline]] inline void deal(typename Vector<T>::type* rows) noexcept {
  using Type = typename Vector<T>::type;
  constexpr int lanes = Vector<T>::lanes;
  using Index = decltype(Type{} < Type{});
  Index even{};
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i) even[i] = 2 * i;
#pragma GCC unroll 4
  for (int round = 1; round < count; round *= 2) {
    Type next[count];
#pragma GCC unroll 16
    for (int i = 0; i < count / 2; ++i) {
      next[i] = __builtin_shuffle(rows[2 * i], rows[2 * i + 1], even);
      next[i + count / 2] = __builtin_shuffle(rows[2 * i], rows[2 * i + 1], even + 1);
    }
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) rows[i] = next[i];
  }
}

// Maps to lanes where the positions of a map, `count` of them, and the maps lie together.
template <class E, int count>
[[gnu::always_inline]] inline typename Vector<typename E::compute>::type strip_dealt(
    const typename E::storage* src, typename E::compute* dst) noexcept {
  using T = typename E::compute;
  using Type = typename Vector<T>::type;
  constexpr int lanes = Vector<T>::lanes;
  Type rows[count];
  Type check{};
#pragma GCC unroll 16
  for (int i = 0; i < count; ++i) {
    rows[i] = load_vector<E>(src + i * lanes);
    check += rows[i] * T{0};
  }
  deal<T, count>(rows);
#pragma GCC unroll 16
  for (int i = 0; i < count; ++i) *reinterpret_cast<typename Vector<T>::loose*>(dst + i * lanes) = rows[i];
  return check;
}

template <class E>
[[gnu::always_inline]] inline void strip(const StripArgs& args) noexcept {
  using S = typename E::storage;
  using T = typename E::compute;
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  constexpr int lanes = Vector<T>::lanes;
  T* dst = static_cast<T*>(args.dst);
  const int64_t begin = args.first < 0 ? -args.first : 0;
  int64_t end = args.size - args.first;
  if (end > args.count) end = args.count;
  if (end < begin) end = begin;
  for (int64_t p = 0; p < begin && p < args.count; ++p) *reinterpret_cast<Loose*>(dst + p * lanes) = Type{};
  for (int64_t p = end; p < args.count; ++p) *reinterpret_cast<Loose*>(dst + p * lanes) = Type{};
  const S* src = static_cast<const S*>(args.src) + (args.first + begin) * args.position_stride;
  dst += begin * lanes;
  int64_t count = end - begin;
  Type check{};
  if (args.maps == lanes && args.map_stride == 1) {
    for (; count > 0; --count) {
      const Type value = load_vector<E>(src);
      check += value * T{0};
      *reinterpret_cast<Loose*>(dst) = value;
      src += args.position_stride;
      dst += lanes;
    }
  } else if (args.maps == lanes && args.position_stride == 1 && args.map_stride == count &&
             (count == 2 || count == 4 || (lanes > 8 && count == 8))) {
    if (count == 2) check = strip_dealt<E, 2>(src, dst);
    if (count == 4) check = strip_dealt<E, 4>(src, dst);
    if (count == 8) check = strip_dealt<E, 8>(src, dst);
    count = 0;
  } else if (args.maps == lanes && args.position_stride == 1 && count < lanes) {
    const uint32_t mask = Lanes<E>::first(count);
    Type rows[lanes];
#pragma GCC unroll 16
    for (int m = 0; m < lanes; ++m) {
      rows[m] = Lanes<E>::load(src + m * args.map_stride, mask);
      check += rows[m] * T{0};
    }
    transpose<T>(rows);
#pragma GCC unroll 16
    for (int m = 0; m < lanes; ++m) {
      if (m < count) *reinterpret_cast<Loose*>(dst + m * lanes) = rows[m];
    }
    count = 0;
  } else if (args.maps == lanes && args.position_stride == 1) {
    // The last vectors start early rather than be cut short.
    for (; count > 0; count -= lanes) {
      if (count < lanes) {
        src -= lanes - count;
        dst -= (lanes - count) * lanes;
        count = lanes;
      }
      Type rows[lanes];
#pragma GCC unroll 16
      for (int m = 0; m < lanes; ++m) {
        rows[m] = load_vector<E>(src + m * args.map_stride);
        check += rows[m] * T{0};
      }
      transpose<T>(rows);
#pragma GCC unroll 16
      for (int m = 0; m < lanes; ++m) *reinterpret_cast<Loose*>(dst + m * lanes) = rows[m];
      src += lanes;
      dst += lanes * lanes;
    }
  }
  for (; count > 0; --count) {
    T value[lanes] = {};
    for (int64_t m = 0; m < args.maps; ++m) value[m] = E::load(src[m * args.map_stride]);
    const Type all = *reinterpret_cast<const Loose*>(value);
    check += all * T{0};
    *reinterpret_cast<Loose*>(dst) = all;
    src += args.position_stride;
    dst += lanes;
  }
  for (int i = 0; i < lanes; ++i) {
    if (!(check[i] == T{0})) *args.finite = false;
  }
}

template <class E>
[[gnu::always_inline]] inline void unstrip(const UnstripArgs& args) noexcept {
  using S = typename E::storage;
  using T = typename E::compute;
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  constexpr int lanes = Vector<T>::lanes;
  const T* src = static_cast<const T*>(args.src);
  S* dst = static_cast<S*>(args.dst);
  int64_t count = args.count;
  if (args.maps == lanes && args.map_stride == 1) {
    for (; count > 0; --count) {
      store_vector<E>(dst, *reinterpret_cast<const Loose*>(src));
      src += lanes;
      dst += args.position_stride;
    }
  } else if (args.maps == lanes && args.position_stride == 1) {
    // The last vectors start early rather than be cut short.
    for (const int64_t all = count; count > 0 && all >= lanes; count -= lanes) {
      if (count < lanes) {
        src -= (lanes - count) * lanes;
        dst -= lanes - count;
        count = lanes;
      }
      Type rows[lanes];
#pragma GCC unroll 16
      for (int m = 0; m < lanes; ++m) rows[m] = *reinterpret_cast<const Loose*>(src + m * lanes);
      transpose<T>(rows);
#pragma GCC unroll 16
      for (int m = 0; m < lanes; ++m) store_vector<E>(dst + m * args.map_stride, rows[m]);
      src += lanes * lanes;
      dst += lanes;
    }
  }
  for (; count > 0; --count) {
    for (int64_t m = 0; m < args.maps; ++m) dst[m * args.map_stride] = E::store(src[m]);
    src += lanes;
    dst += args.position_stride;
  }
}

// One axis of the input transform, in place on `points` vectors that lie `step` vectors apart.
template <class Type>
[[gnu::always_inline]] inline void window_to_points(WinogradTile tile, Type* d, int step) noexcept {
  if (tile == kF22) {
    d[0] -= d[step];
    d[2 * step] -= d[step];
  } else if (tile != kPlain) {
    const Type d1 = d[step];
    const Type d2 = d[2 * step];
    d[0] -= d2;
    d[step] = d1 + d2;
    d[2 * step] = d2 - d1;
    d[3 * step] -= d1;
  }
}

// One axis of the output transform, in place: `outputs` vectors where `points` were.
template <class Type>
[[gnu::always_inline]] inline void points_to_outputs(WinogradTile tile, Type* m, int step) noexcept {
  if (tile == kPlain) return;
  const Type m1 = m[step];
  const Type m2 = m[2 * step];
  if (tile == kF22) {
    m[0] += m1;
    m[step] = m1 + m2;
  } else if (tile == kF32) {
    const Type both = m1 + m2;
    m[0] += both;
    m[step] = m1 - m2;
    m[2 * step] = both + m[3 * step];
  } else {
    m[0] += m1 + m2;
    m[step] = m1 - m2 + m[3 * step];
  }
}

template <class T, WinogradTile Y, WinogradTile X>
[[gnu::always_inline]] inline void winograd_in_plane(const WinogradInArgs& args) noexcept {
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  constexpr int ny = kWinogradPoints[Y];
  constexpr int nx = kWinogradPoints[X];
  const int nz = kWinogradPoints[args.tile[0]];
  Type d[kWinogradMostPoints * ny * nx];
  for (int64_t t = 0; t < args.tiles; ++t) {
    const T* src = static_cast<const T*>(args.src) + t * args.tile_step;
    T* dst = static_cast<T*>(args.dst) + t * args.tile_stride;
    for (int z = 0; z < nz; ++z) {
      Type plane[ny * nx];
#pragma GCC unroll 4
      for (int y = 0; y < ny; ++y) {
#pragma GCC unroll 4
        for (int x = 0; x < nx; ++x) {
          plane[y * nx + x] =
              *reinterpret_cast<const Loose*>(src + z * args.step[0] + y * args.step[1] + x * args.step[2]);
        }
      }
#pragma GCC unroll 4
      for (int y = 0; y < ny; ++y) window_to_points(X, plane + y * nx, 1);
#pragma GCC unroll 4
      for (int x = 0; x < nx; ++x) window_to_points(Y, plane + x, nx);
      if (nz == 1) {
#pragma GCC unroll 16
        for (int p = 0; p < ny * nx; ++p) *reinterpret_cast<Loose*>(dst + p * args.point_stride) = plane[p];
      } else {
#pragma GCC unroll 16
        for (int p = 0; p < ny * nx; ++p) d[z * ny * nx + p] = plane[p];
      }
    }
    if (nz == 1) continue;
    for (int p = 0; p < ny * nx; ++p) window_to_points(args.tile[0], d + p, ny * nx);
    for (int p = 0; p < nz * ny * nx; ++p) *reinterpret_cast<Loose*>(dst + p * args.point_stride) = d[p];
  }
}

template <class T, WinogradTile Y, WinogradTile X>
[[gnu::always_inline]] inline void winograd_out_plane(const WinogradOutArgs& args) noexcept {
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  constexpr int ny = kWinogradPoints[Y];
  constexpr int nx = kWinogradPoints[X];
  const int nz = kWinogradPoints[args.tile[0]];
  const int mz = kWinogradOutputs[args.tile[0]];
  const Type bias = *static_cast<const Loose*>(args.bias);
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
          *reinterpret_cast<Loose*>(dst + z * args.step[0] + y * args.step[1] + x * args.step[2]) =
              plane[y * nx + x] + bias;
        }
      }
    }
  }
}

// Calls the instance of `Plane` for the tiles of the two inner axes.
#define TCONV_WINOGRAD_ROW(plane, T, Y) \
  switch (args.tile[2]) {               \
    case kPlain:                        \
      return plane<T, Y, kPlain>(args); \
    case kF22:                          \
      return plane<T, Y, kF22>(args);   \
    case kF32:                          \
      return plane<T, Y, kF32>(args);   \
    case kF23:                          \
      return plane<T, Y, kF23>(args);   \
  }
#define TCONV_WINOGRAD_PLANE(plane, T)            \
  switch (args.tile[1]) {                         \
    case kPlain:                                  \
      TCONV_WINOGRAD_ROW(plane, T, kPlain) break; \
    case kF22:                                    \
      TCONV_WINOGRAD_ROW(plane, T, kF22) break;   \
    case kF32:                                    \
      TCONV_WINOGRAD_ROW(plane, T, kF32) break;   \
    case kF23:                                    \
      TCONV_WINOGRAD_ROW(plane, T, kF23) break;   \
  }

template <class T>
[[gnu::always_inline]] inline void winograd_in(const WinogradInArgs& args) noexcept {
  TCONV_WINOGRAD_PLANE(winograd_in_plane, T)
}

template <class T>
[[gnu::always_inline]] inline void winograd_out(const WinogradOutArgs& args) noexcept {
  TCONV_WINOGRAD_PLANE(winograd_out_plane, T)
}

}  // namespace

#endif
