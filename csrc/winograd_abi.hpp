// What the kernels of the Winograd algorithm see: their arguments, and their code for vectors of any width.
//
// One axis at a time, with d the window of a tile, g the taps, m the products and y the outputs (Lavin and
// Gray, "Fast Algorithms for Convolutional Neural Networks", 2016; points 0, 1, infinity and 0, 1, -1,
// infinity):
//   F(2,2): d0-d1, d1, d2-d1            x g0, g0+g1, g1                         y = m0+m1, m1+m2
//   F(3,2): d0-d2, d1+d2, d2-d1, d3-d1  x g0, (g0+g1)/2, (g0-g1)/2, g1          y = m0+m1+m2, m1-m2, m1+m2+m3
//   F(2,3): the same                    x g0, (g0+g1+g2)/2, (g0-g1+g2)/2, g2    y = m0+m1+m2, m1-m2+m3
// These compute whole numbers exactly. The larger tiles do not, but lose little: their points lie in pairs
// p, -p, q, -q, where |p| and |q| are neither equal nor far from 1 (a choice after Barabasz, Anderson,
// Soodhalter and Gregg, "Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural
// Networks", 2020, by trial), followed by 0, if there are six, and infinity. As polynomials of x, a pair's
// windows are (x +- p)(x^2 - q^2), times x if there are six. Those of seven points have a third pair in its
// place.
#pragma once

#include "fetch_abi.hpp"
#include "kernel_abi.hpp"

// Outputs and taps of a tile along one axis; `plain` is one of each. F(5,2), F(4,4) and F(5,3) are for a last
// axis alone, or for rows along y.
enum WinogradTile { kPlain, kF22, kF32, kF23, kF42, kF33, kF43, kF34, kF52, kF24, kF44, kF53 };

constexpr int kWinogradPoints[] = {1, 3, 4, 4, 5, 5, 6, 6, 6, 5, 7, 7};
constexpr int kWinogradOutputs[] = {1, 2, 3, 2, 4, 3, 4, 3, 5, 2, 4, 5};
constexpr int kWinogradTaps[] = {1, 2, 2, 3, 2, 3, 3, 4, 2, 4, 4, 3};
// Of tiles along several axes.
constexpr int kWinogradMostPoints = 6;
constexpr int kWinogradMostTaps = 4;

// The pairs of points of tiles of five, of six and of seven.
template <class T>
struct WinogradPairs {
  T p;
  T q;
  T r = 0;
};
template <class T>
inline constexpr WinogradPairs<T> kWinogradFive{T(0.5), T(1.25)};
template <class T>
inline constexpr WinogradPairs<T> kWinogradSix{T(0.75), T(1.5)};
template <class T>
inline constexpr WinogradPairs<T> kWinogradSeven{T(0.25), T(0.875), T(1.75)};

// Family `rowgemm`, in the compute type: c[r * c_row + l] = sum over k of a[r * a_row + k] * b[k * lanes + l]
// for any number of rows, added to what is there where `accumulate`. Fetches `fetch`, one after the other, on
// the way.
struct RowGemmArgs {
  const void* a;
  const void* b;
  void* c;
  Fetch* fetch;
  int64_t fetches;
  int64_t a_row;
  int64_t c_row;
  int64_t rows;
  int64_t depth;
  bool accumulate;
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
[[gnu::always_inline]] inline void rowgemm_rows(const RowGemmArgs& args, const T* a, T* c,
                                                Fetching& fetching) noexcept {
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  constexpr int lanes = Vector<T>::lanes;
  const T* b = static_cast<const T*>(args.b);
  const int64_t a_row = args.a_row;
  Type sum[R][V] = {};
  if (args.accumulate) {
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sum[r][v] = *reinterpret_cast<const Loose*>(c + r * args.c_row + v * lanes);
    }
  }
#pragma GCC unroll 1
  for (int64_t k = 0; k < args.depth; ++k) {
    fetching.step();
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
[[gnu::always_inline]] inline void rowgemm_some(const RowGemmArgs& args, int64_t rows, const T* a, T* c,
                                                Fetching& fetching) noexcept {
  if (rows == R) {
    rowgemm_rows<T, R, V>(args, a, c, fetching);
  } else if constexpr (R > 1) {
    rowgemm_some<T, R - 1, V>(args, rows, a, c, fetching);
  }
}

template <class T, int R, int V>
[[gnu::always_inline]] inline void rowgemm(const RowGemmArgs& args) noexcept {
  const T* a = static_cast<const T*>(args.a);
  T* c = static_cast<T*>(args.c);
  Fetching fetching(args.fetch, args.fetches, (args.rows + R - 1) / R * args.depth);
  int64_t rows = args.rows;
  while (rows > 0) {
    // A few rows left over would wait for loads, so they share with those before.
    const int64_t some = rows <= R ? rows : rows <= R + R / 2 ? (rows + 1) / 2 : R;
    rowgemm_some<T, R, V>(args, some, a, c, fetching);
    a += some * args.a_row;
    c += some * args.c_row;
    rows -= some;
  }
  fetching.stop();
}

// Whether all that was loaded is finite. Sums of several, none of which waits long for the one before.
template <class T>
class Check {
 public:
  using Type = typename Vector<T>::type;

  template <int count>
  [[gnu::always_inline]] inline void add(const Type* values) noexcept {
#pragma GCC unroll 16
    for (int i = 0; i < count; ++i) sums_[i % 4] += values[i] * T{0};
  }

  [[gnu::always_inline]] inline bool finite() const noexcept {
    const auto other = (sums_[0] + sums_[1]) + (sums_[2] + sums_[3]) != Type{};
    return !any<Vector<T>::lanes / 2>(other);
  }

 private:
  // Whether one of the first `2 * half` lanes is set.
  template <int half, class Index>
  [[gnu::always_inline]] static inline bool any(Index set) noexcept {
    if constexpr (half == 0) {
      return set[0] != 0;
    } else {
      Index across{};
#pragma GCC unroll 16
      for (int i = 0; i < half; ++i) across[i] = i + half;
      return any<half / 2>(set | __builtin_shuffle(set, across));
    }
  }

  Type sums_[4] = {};
};

// Turns squares of `count` by `count` units of `unit` lanes, `count` being two or four, that lie side by side
// in vectors `step` apart. Every round takes half of a square from either of two vectors.
template <class T, int count, int unit>
[[gnu::always_inline]] inline void turn_units(typename Vector<T>::type* rows, int step) noexcept {
  using Type = typename Vector<T>::type;
  constexpr int lanes = Vector<T>::lanes;
  constexpr int half = count / 2;
  using Index = decltype(Type{} < Type{});
  // Units next to each other, and every other.
  Index low{};
  Index high{};
  Index even{};
  Index odd{};
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i) {
    const int at = i / unit % count;
    const int start = i - at * unit + at / half * lanes;
    low[i] = start + at % half * unit;
    high[i] = low[i] + half * unit;
    even[i] = start + at % half * 2 * unit;
    odd[i] = even[i] + unit;
  }
  Type half_turned[count];
#pragma GCC unroll 4
  for (int i = 0; i < half; ++i) {
    const Type first = rows[2 * i * step];
    const Type second = rows[(2 * i + 1) * step];
    half_turned[i] = __builtin_shuffle(first, second, low);
    half_turned[half + i] = __builtin_shuffle(first, second, high);
  }
#pragma GCC unroll 4
  for (int i = 0; i < count; ++i) rows[i * step] = half_turned[i];
  if constexpr (count == 4) {
#pragma GCC unroll 4
    for (int i = 0; i < half; ++i) {
      rows[2 * i * step] = __builtin_shuffle(half_turned[2 * i], half_turned[2 * i + 1], even);
      rows[(2 * i + 1) * step] = __builtin_shuffle(half_turned[2 * i], half_turned[2 * i + 1], odd);
    }
  }
}

// Turns `lanes` vectors into their transpose: blocks of 16 bytes first, in which processors shuffle for less,
// and then their places.
template <class T>
[[gnu::always_inline]] inline void transpose(typename Vector<T>::type* rows) noexcept {
  constexpr int lanes = Vector<T>::lanes;
  constexpr int block = 16 / (int)sizeof(T);
  constexpr int blocks = lanes / block;
#pragma GCC unroll 4
  for (int i = 0; i < blocks; ++i) turn_units<T, block, 1>(rows + i * block, 1);
  if constexpr (blocks > 1) {
#pragma GCC unroll 4
    for (int i = 0; i < block; ++i) turn_units<T, blocks, block>(rows + i, block);
  }
}

// A vector of blocks of `count` lanes that lie `step` apart: one of all lanes, or several of 16 bytes.
template <class T, int count>
[[gnu::always_inline]] inline typename Vector<T>::type load_blocks(const T* from,
                                                                   [[maybe_unused]] int64_t step) noexcept {
  if constexpr (count == Vector<T>::lanes) return *reinterpret_cast<const typename Vector<T>::loose*>(from);
#if defined(__AVX2__)
  const auto block = [&](int i) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * step));
  };
#endif
#if defined(__AVX512F__)
  // What is loaded to a part of a vector takes no turn of those that shuffle.
  __m512i all = _mm512_mask_broadcast_i32x4(_mm512_castsi128_si512(block(0)), 0x00f0, block(1));
  all = _mm512_mask_broadcast_i32x4(all, 0x0f00, block(2));
  return (typename Vector<T>::type)_mm512_mask_broadcast_i32x4(all, 0xf000, block(3));
#elif defined(__AVX2__)
  return (typename Vector<T>::type)_mm256_inserti128_si256(_mm256_castsi128_si256(block(0)), block(1), 1);
#endif
}

// Whether load_turned() turns rows of `count` elements.
template <class E, int count>
inline constexpr bool kTurnsRows = same<typename E::storage, typename E::compute> &&
                                   count % (16 / (int)sizeof(typename E::compute)) == 0 &&
                                   Vector<typename E::compute>::lanes > 16 / (int)sizeof(typename E::compute);

// Loads `count` elements of as many rows, `step` apart, as a vector has lanes, and turns them: one vector of
// each element. By blocks of 16 bytes, for rows begin anywhere in a line, and whole vectors would lie in two.
template <class E, int count>
[[gnu::always_inline]] inline void load_turned(const typename E::storage* src, int64_t step,
                                               typename Vector<typename E::compute>::type* turned) noexcept {
  using T = typename E::compute;
  constexpr int lanes = Vector<T>::lanes;
  constexpr int block = 16 / (int)sizeof(T);
  if constexpr (kTurnsRows<E, count>) {
#pragma GCC unroll 8
    for (int first = 0; first < count; first += block) {
#pragma GCC unroll 4
      for (int i = 0; i < block; ++i)
        turned[first + i] = load_blocks<T, block>(src + i * step + first, block * step);
      turn_units<T, block, 1>(turned + first, 1);
    }
  } else {
    static_assert(count == lanes);
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) turned[i] = Lanes<E>::load(src + i * step);
    transpose<T>(turned);
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

// Elements of type S from the last that is a multiple of `lanes` of them.
template <class S, int lanes>
[[gnu::always_inline]] inline int past_line(const S* at) noexcept {
  return (int)(reinterpret_cast<uintptr_t>(at) / sizeof(S) % lanes);
}

// Maps to lanes where the positions of a map, `count` of them, and the maps lie together.
template <class E, int count>
[[gnu::always_inline]] inline void strip_dealt(const typename E::storage* src, typename E::compute* dst,
                                               Check<typename E::compute>& check) noexcept {
  using T = typename E::compute;
  using Type = typename Vector<T>::type;
  constexpr int lanes = Vector<T>::lanes;
  Type rows[count];
#pragma GCC unroll 16
  for (int i = 0; i < count; ++i) rows[i] = Lanes<E>::load(src + i * lanes);
  check.template add<count>(rows);
  deal<T, count>(rows);
#pragma GCC unroll 16
  for (int i = 0; i < count; ++i) *reinterpret_cast<typename Vector<T>::loose*>(dst + i * lanes) = rows[i];
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
  Check<T> check;
  if (args.maps == lanes && args.map_stride == 1) {
    for (; count > 0; --count) {
      const Type value = Lanes<E>::load(src);
      check.template add<1>(&value);
      *reinterpret_cast<Loose*>(dst) = value;
      src += args.position_stride;
      dst += lanes;
    }
  } else if (args.maps == lanes && args.position_stride == 1 && args.map_stride == count &&
             (count == 2 || count == 4 || (lanes > 8 && count == 8))) {
    if (count == 2) strip_dealt<E, 2>(src, dst, check);
    if (count == 4) strip_dealt<E, 4>(src, dst, check);
    if (count == 8) strip_dealt<E, 8>(src, dst, check);
    count = 0;
  } else if (args.maps == lanes && args.position_stride == 1 && count < lanes) {
    const uint32_t mask = Lanes<E>::first(count);
    Type rows[lanes];
#pragma GCC unroll 16
    for (int m = 0; m < lanes; ++m) rows[m] = Lanes<E>::load(src + m * args.map_stride, mask);
    check.template add<lanes>(rows);
    transpose<T>(rows);
#pragma GCC unroll 16
    for (int m = 0; m < lanes; ++m) {
      if (m < count) *reinterpret_cast<Loose*>(dst + m * lanes) = rows[m];
    }
    count = 0;
  } else if (args.maps == lanes && args.position_stride == 1) {
    // The first vectors of many end late where the next are whole lines then, and the last start early rather
    // than be cut short.
    int64_t step = count < 4 * lanes ? lanes : lanes - past_line<S, lanes>(src);
    for (; count > 0; count -= step, step = lanes) {
      if (count < lanes) {
        src -= lanes - count;
        dst -= (lanes - count) * lanes;
        count = lanes;
      }
      Type rows[lanes];
      load_turned<E, lanes>(src, args.map_stride, rows);
      check.template add<lanes>(rows);
#pragma GCC unroll 16
      for (int m = 0; m < lanes; ++m) *reinterpret_cast<Loose*>(dst + m * lanes) = rows[m];
      src += step;
      dst += step * lanes;
    }
  }
  for (; count > 0; --count) {
    T value[lanes] = {};
    for (int64_t m = 0; m < args.maps; ++m) value[m] = E::load(src[m * args.map_stride]);
    const Type all = *reinterpret_cast<const Loose*>(value);
    check.template add<1>(&all);
    *reinterpret_cast<Loose*>(dst) = all;
    src += args.position_stride;
    dst += lanes;
  }
  if (!check.finite()) *args.finite = false;
}

// `maps` of the maps, from the first on: all of a vector, or as many as 16 bytes are. Positions are
// neighbours, and as many as a vector has lanes or more.
template <class E, int maps>
[[gnu::always_inline]] inline void unstrip_maps(const UnstripArgs& args, int first) noexcept {
  using S = typename E::storage;
  using T = typename E::compute;
  using Type = typename Vector<T>::type;
  constexpr int lanes = Vector<T>::lanes;
  const T* src = static_cast<const T*>(args.src) + first;
  S* dst = static_cast<S*>(args.dst) + first * args.map_stride;
  // The first vectors end late where the next are whole lines then, and the last start early rather than be
  // cut short.
  int64_t step = args.count < 2 * lanes ? lanes : lanes - past_line<S, lanes>(dst);
  for (int64_t count = args.count; count > 0; count -= step, step = lanes) {
    if (count < lanes) {
      src -= (lanes - count) * lanes;
      dst -= lanes - count;
      count = lanes;
    }
    Type rows[maps];
#pragma GCC unroll 16
    for (int i = 0; i < maps; ++i) rows[i] = load_blocks<T, maps>(src + i * lanes, maps * lanes);
    if constexpr (maps == lanes) {
      transpose<T>(rows);
    } else {
      turn_units<T, maps, 1>(rows, 1);
    }
#pragma GCC unroll 16
    for (int i = 0; i < maps; ++i) Lanes<E>::store(dst + i * args.map_stride, rows[i]);
    src += step * lanes;
    dst += step;
  }
}

template <class E>
[[gnu::always_inline]] inline void unstrip(const UnstripArgs& args) noexcept {
  using S = typename E::storage;
  using T = typename E::compute;
  using Loose = typename Vector<T>::loose;
  constexpr int lanes = Vector<T>::lanes;
  const T* src = static_cast<const T*>(args.src);
  S* dst = static_cast<S*>(args.dst);
  int64_t count = args.count;
  if (args.maps == lanes && args.map_stride == 1) {
    for (; count > 0; --count) {
      Lanes<E>::store(dst, *reinterpret_cast<const Loose*>(src));
      src += lanes;
      dst += args.position_stride;
    }
  } else if (args.map_stride == 1) {
    for (; count > 0; --count) {
      Lanes<E>::store(dst, *reinterpret_cast<const Loose*>(src), static_cast<int>(args.maps));
      src += lanes;
      dst += args.position_stride;
    }
  } else if (args.maps == lanes && args.position_stride == 1 && count >= 4 * lanes) {
    // A few maps at a time, for those that lie a power of two apart meet in the same cache sets.
    constexpr int block = 16 / (int)sizeof(T);
    for (int m = 0; m < lanes; m += block) unstrip_maps<E, block>(args, m);
    count = 0;
  } else if (args.maps == lanes && args.position_stride == 1 && count >= lanes) {
    unstrip_maps<E, lanes>(args, 0);
    count = 0;
  }
  for (; count > 0; --count) {
    for (int64_t m = 0; m < args.maps; ++m) dst[m * args.map_stride] = E::store(src[m]);
    src += lanes;
    dst += args.position_stride;
  }
}

// One axis of the input transform, in place on `points` vectors.
template <class T, class Type>
[[gnu::always_inline]] inline void window_to_points(WinogradTile tile, Type* d) noexcept {
  if (tile == kPlain) return;
  if (tile == kF22) {
    d[0] -= d[1];
    d[2] -= d[1];
    return;
  }
  const Type d1 = d[1];
  const Type d2 = d[2];
  if (kWinogradPoints[tile] == 4) {
    d[0] -= d2;
    d[1] = d1 + d2;
    d[2] = d2 - d1;
    d[3] -= d1;
    return;
  }
  const Type d0 = d[0];
  const Type d3 = d[3];
  const Type d4 = d[4];
  if (kWinogradPoints[tile] == 7) {
    const auto [p, q, r] = kWinogradSeven<T>;
    const T all[] = {p * p, q * q, r * r};
    const Type d5 = d[5];
#pragma GCC unroll 4
    for (int i = 0; i < 3; ++i) {
      const T one = all[(i + 1) % 3];
      const T other = all[(i + 2) % 3];
      const Type odd = d5 - d3 * (one + other) + d1 * (one * other);
      const Type even = (d4 - d2 * (one + other) + d0 * (one * other)) * (i == 0 ? p : i == 1 ? q : r);
      d[2 * i] = odd + even;
      d[2 * i + 1] = odd - even;
    }
    d[6] += d2 * (all[0] * all[1] + all[1] * all[2] + all[2] * all[0]) - d4 * (all[0] + all[1] + all[2]) -
            d0 * (all[0] * all[1] * all[2]);
    return;
  }
  const bool six = kWinogradPoints[tile] == 6;
  const auto [p, q, none] = six ? kWinogradSix<T> : kWinogradFive<T>;
  const T pp = p * p;
  const T qq = q * q;
  // Of the polynomials' even and odd part, with five points one power lower.
  const Type even_p = six ? d4 - d2 * qq : d3 - d1 * qq;
  const Type odd_p = (six ? d3 - d1 * qq : d2 - d0 * qq) * p;
  const Type even_q = six ? d4 - d2 * pp : d3 - d1 * pp;
  const Type odd_q = (six ? d3 - d1 * pp : d2 - d0 * pp) * q;
  d[0] = even_p + odd_p;
  d[1] = even_p - odd_p;
  d[2] = even_q + odd_q;
  d[3] = even_q - odd_q;
  d[4] = d4 - d2 * (pp + qq) + d0 * (pp * qq);
  if (six) d[5] += d1 * (pp * qq) - d3 * (pp + qq);
}

// One axis of the output transform, in place: `outputs` vectors where `points` were.
template <class T, class Type>
[[gnu::always_inline]] inline void points_to_outputs(WinogradTile tile, Type* m) noexcept {
  if (tile == kPlain) return;
  const Type m1 = m[1];
  const Type m2 = m[2];
  if (tile == kF22) {
    m[0] += m1;
    m[1] = m1 + m2;
    return;
  }
  const Type m3 = m[3];
  if (tile == kF32) {
    const Type both = m1 + m2;
    m[0] += both;
    m[1] = m1 - m2;
    m[2] = both + m3;
    return;
  }
  if (tile == kF23) {
    m[0] += m1 + m2;
    m[1] = m1 - m2 + m3;
    return;
  }
  if (kWinogradPoints[tile] == 7) {
    const auto [p, q, r] = kWinogradSeven<T>;
    const Type even_p = m[0] + m1;
    const Type odd_p = (m[0] - m1) * p;
    const Type even_q = m2 + m3;
    const Type odd_q = (m2 - m3) * q;
    const Type even_r = m[4] + m[5];
    const Type odd_r = (m[4] - m[5]) * r;
    m[0] = even_p + even_q + even_r;
    m[1] = odd_p + odd_q + odd_r;
    m[2] = even_p * (p * p) + even_q * (q * q) + even_r * (r * r);
    m[3] = odd_p * (p * p) + odd_q * (q * q) + odd_r * (r * r);
    if (kWinogradOutputs[tile] == 4) {
      m[3] += m[6];
    } else {
      m[4] = even_p * (p * p * p * p) + even_q * (q * q * q * q) + even_r * (r * r * r * r) + m[6];
    }
    return;
  }
  const bool six = kWinogradPoints[tile] == 6;
  const auto [p, q, none] = six ? kWinogradSix<T> : kWinogradFive<T>;
  const Type even_p = m[0] + m1;
  const Type odd_p = (m[0] - m1) * p;
  const Type even_q = m2 + m3;
  const Type odd_q = (m2 - m3) * q;
  const Type last = m[six ? 5 : 4];
  m[0] = six ? even_p + even_q + m[4] : even_p + even_q;
  m[1] = odd_p + odd_q;
  if (kWinogradOutputs[tile] == 2) {
    m[1] += last;
    return;
  }
  m[2] = even_p * (p * p) + even_q * (q * q);
  if (kWinogradOutputs[tile] == 3) {
    m[2] += last;
    return;
  }
  m[3] = odd_p * (p * p) + odd_q * (q * q);
  if (kWinogradOutputs[tile] == 4) {
    m[3] += last;
  } else {
    m[4] = even_p * (p * p * p * p) + even_q * (q * q * q * q) + last;
  }
}

// What is done to the elements of a tile along one axis, and how many there are before and after.
template <class T>
struct WindowToPoints {
  static constexpr int before(WinogradTile tile) noexcept { return kWinogradPoints[tile]; }
  static constexpr int after(WinogradTile tile) noexcept { return kWinogradPoints[tile]; }
  template <class Type>
  [[gnu::always_inline]] static inline void run(WinogradTile tile, Type* d) noexcept {
    window_to_points<T>(tile, d);
  }
};

template <class T>
struct PointsToOutputs {
  static constexpr int before(WinogradTile tile) noexcept { return kWinogradPoints[tile]; }
  static constexpr int after(WinogradTile tile) noexcept { return kWinogradOutputs[tile]; }
  template <class Type>
  [[gnu::always_inline]] static inline void run(WinogradTile tile, Type* m) noexcept {
    points_to_outputs<T>(tile, m);
  }
};

// Lines of elements along one axis.
template <class T>
struct WinogradLines {
  const T* src;
  int64_t src_line;  // from one line to the next
  int64_t src_step;  // from one element to the next
  T* dst;
  int64_t dst_line;
  int64_t dst_step;
  int64_t count;
};

template <class T, class Transform, WinogradTile tile, class Put>
[[gnu::always_inline]] inline void winograd_lines(const WinogradLines<T>& lines, const Put& put) noexcept {
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  constexpr int before = Transform::before(tile);
  constexpr int after = Transform::after(tile);
  const T* src = lines.src;
  T* dst = lines.dst;
  for (int64_t i = 0; i < lines.count; ++i, src += lines.src_line, dst += lines.dst_line) {
    Type d[kWinogradPoints[tile]];
#pragma GCC unroll 8
    for (int k = 0; k < before; ++k) {
      d[k] = *reinterpret_cast<const Loose*>(src + k * lines.src_step);
    }
    Transform::run(tile, d);
#pragma GCC unroll 8
    for (int k = 0; k < after; ++k) put(dst + k * lines.dst_step, d[k]);
  }
}

// Calls `body` with a tile known at compile time.
template <WinogradTile tile>
struct FixedTile {
  static constexpr WinogradTile value = tile;
};

template <class Body>
[[gnu::always_inline]] inline void with_tile(WinogradTile tile, const Body& body) noexcept {
  switch (tile) {
    case kPlain:
      return body(FixedTile<kPlain>{});
    case kF22:
      return body(FixedTile<kF22>{});
    case kF32:
      return body(FixedTile<kF32>{});
    case kF23:
      return body(FixedTile<kF23>{});
    case kF42:
      return body(FixedTile<kF42>{});
    case kF33:
      return body(FixedTile<kF33>{});
    case kF43:
      return body(FixedTile<kF43>{});
    case kF34:
      return body(FixedTile<kF34>{});
    case kF24:
      return body(FixedTile<kF24>{});
    default:
      return;
  }
}

// The same of a last axis alone.
template <class Body>
[[gnu::always_inline]] inline void with_line_tile(WinogradTile tile, const Body& body) noexcept {
  switch (tile) {
    case kF52:
      return body(FixedTile<kF52>{});
    case kF44:
      return body(FixedTile<kF44>{});
    case kF53:
      return body(FixedTile<kF53>{});
    default:
      return with_tile(tile, body);
  }
}

// Tiles, and where the elements of each lie on both sides.
template <class T>
struct WinogradTiles {
  const T* src;
  int64_t src_tile;  // from one tile to the next
  int64_t src_step[3];
  T* dst;
  int64_t dst_tile;
  int64_t dst_step[3];
  int64_t count;
  WinogradTile tile[3];

  // Steps between points that lie `stride` apart.
  static void point_steps(const WinogradTile (&tile)[3], int64_t stride, int64_t (&step)[3]) noexcept {
    step[2] = stride;
    step[1] = step[2] * kWinogradPoints[tile[2]];
    step[0] = step[1] * kWinogradPoints[tile[1]];
  }
};

// Tiles of a plane, held in registers meanwhile.
template <class T, class Transform, WinogradTile y, WinogradTile x, class Put>
[[gnu::noinline]] void winograd_plane(const WinogradTiles<T>& args, Put put) noexcept {
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  constexpr int before_y = Transform::before(y);
  constexpr int before_x = Transform::before(x);
  constexpr int after_y = Transform::after(y);
  constexpr int after_x = Transform::after(x);
  const T* src = args.src;
  T* dst = args.dst;
  for (int64_t t = 0; t < args.count; ++t, src += args.src_tile, dst += args.dst_tile) {
    Type column[kWinogradPoints[x]][kWinogradPoints[y]];
#pragma GCC unroll 8
    for (int j = 0; j < before_y; ++j) {
      Type row[kWinogradPoints[x]];
#pragma GCC unroll 8
      for (int i = 0; i < before_x; ++i) {
        row[i] = *reinterpret_cast<const Loose*>(src + j * args.src_step[1] + i * args.src_step[2]);
      }
      Transform::run(x, row);
#pragma GCC unroll 8
      for (int i = 0; i < after_x; ++i) column[i][j] = row[i];
    }
#pragma GCC unroll 8
    for (int i = 0; i < after_x; ++i) {
      Transform::run(y, column[i]);
#pragma GCC unroll 8
      for (int j = 0; j < after_y; ++j) {
        put(dst + j * args.dst_step[1] + i * args.dst_step[2], column[i][j]);
      }
    }
  }
}

// The same with tiles known at run time.
template <class T, class Put>
using WinogradPlane = void (*)(const WinogradTiles<T>& args, Put put) noexcept;

template <class T, class Transform, class Put>
[[gnu::always_inline]] inline WinogradPlane<T, Put> winograd_plane_of(WinogradTile y_tile,
                                                                      WinogradTile x_tile) noexcept {
  WinogradPlane<T, Put> plane = nullptr;
  if (y_tile == kPlain) {
    with_line_tile(x_tile, [&](auto x) { plane = winograd_plane<T, Transform, kPlain, x.value, Put>; });
    return plane;
  }
  with_tile(y_tile, [&](auto y) {
    with_tile(x_tile, [&](auto x) {
      if constexpr (y.value != kPlain) plane = winograd_plane<T, Transform, y.value, x.value, Put>;
    });
  });
  return plane;
}

// Room for the elements of a tile, and steps between them along each axis, where each has `count` elements.
template <class T>
struct WinogradRoom {
  using Type = typename Vector<T>::type;
  alignas(Type) T data[kWinogradMostPoints * kWinogradMostPoints * kWinogradMostPoints * Vector<T>::lanes];
  int64_t step[3];

  WinogradRoom(int y_count, int x_count) noexcept {
    step[2] = Vector<T>::lanes;
    step[1] = step[2] * x_count;
    step[0] = step[1] * y_count;
  }
};

// From elements that lie `step` apart to points, which are more: the first axis comes first, while they are
// few.
template <class T, class Transform>
[[gnu::always_inline]] inline void winograd_to_points(const WinogradInArgs& args) noexcept {
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  WinogradTiles<T> tiles{static_cast<const T*>(args.src),
                         args.tile_step,
                         {args.step[0], args.step[1], args.step[2]},
                         static_cast<T*>(args.dst),
                         args.tile_stride,
                         {},
                         args.tiles,
                         {args.tile[0], args.tile[1], args.tile[2]}};
  WinogradTiles<T>::point_steps(args.tile, args.point_stride, tiles.dst_step);
  const auto put = [](T* to, Type value) { *reinterpret_cast<Loose*>(to) = value; };
  const auto [z, y, x] = args.tile;
  const auto plane = winograd_plane_of<T, Transform, decltype(put)>(y, x);
  if (z == kPlain) return plane(tiles, put);
  const int before_y = Transform::before(y);
  const int before_x = Transform::before(x);
  WinogradRoom<T> room(before_y, before_x);
  WinogradTiles<T> planes = tiles;
  planes.src = room.data;
  planes.src_tile = room.step[0];
  planes.src_step[1] = room.step[1];
  planes.src_step[2] = room.step[2];
  planes.dst_tile = tiles.dst_step[0];
  planes.count = Transform::after(z);
  with_tile(z, [&](auto tile) {
    for (int64_t t = 0; t < tiles.count; ++t) {
      for (int64_t j = 0; j < before_y; ++j) {
        const WinogradLines<T> lines{tiles.src + t * tiles.src_tile + j * tiles.src_step[1],
                                     tiles.src_step[2],
                                     tiles.src_step[0],
                                     room.data + j * room.step[1],
                                     room.step[2],
                                     room.step[0],
                                     before_x};
        winograd_lines<T, Transform, tile.value>(lines, put);
      }
      planes.dst = tiles.dst + t * tiles.dst_tile;
      plane(planes, put);
    }
  });
}

template <class T>
[[gnu::always_inline]] inline void winograd_in(const WinogradInArgs& args) noexcept {
  winograd_to_points<T, WindowToPoints<T>>(args);
}

// From points to outputs, which are fewer: the first axis comes last. `put` stores what comes of it, `keep`
// what goes on to it.
template <class T, class Args, class Put>
[[gnu::always_inline]] inline void winograd_to_outputs(const Args& args, const Put& put,
                                                       const Put& keep) noexcept {
  using Transform = PointsToOutputs<T>;
  WinogradTiles<T> tiles{static_cast<const T*>(args.src),
                         args.tile_stride,
                         {},
                         static_cast<T*>(args.dst),
                         args.tile_step,
                         {args.step[0], args.step[1], args.step[2]},
                         args.tiles,
                         {args.tile[0], args.tile[1], args.tile[2]}};
  WinogradTiles<T>::point_steps(args.tile, args.point_stride, tiles.src_step);
  const auto [z, y, x] = args.tile;
  const auto plane = winograd_plane_of<T, Transform, Put>(y, x);
  if (z == kPlain) return plane(tiles, put);
  const int after_y = Transform::after(y);
  const int after_x = Transform::after(x);
  WinogradRoom<T> room(after_y, after_x);
  WinogradTiles<T> planes = tiles;
  planes.src_tile = tiles.src_step[0];
  planes.dst = room.data;
  planes.dst_tile = room.step[0];
  planes.dst_step[1] = room.step[1];
  planes.dst_step[2] = room.step[2];
  planes.count = Transform::before(z);
  with_tile(z, [&](auto tile) {
    for (int64_t t = 0; t < tiles.count; ++t) {
      planes.src = tiles.src + t * tiles.src_tile;
      plane(planes, keep);
      for (int64_t j = 0; j < after_y; ++j) {
        const WinogradLines<T> lines{room.data + j * room.step[1],
                                     room.step[2],
                                     room.step[0],
                                     tiles.dst + t * tiles.dst_tile + j * tiles.dst_step[1],
                                     tiles.dst_step[2],
                                     tiles.dst_step[0],
                                     after_x};
        winograd_lines<T, Transform, tile.value>(lines, put);
      }
    }
  });
}

template <class T>
[[gnu::always_inline]] inline void winograd_out(const WinogradOutArgs& args) noexcept {
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  const auto put_with = [](Type bias) {
    return [bias](T* to, Type value) { *reinterpret_cast<Loose*>(to) = value + bias; };
  };
  winograd_to_outputs<T>(args, put_with(*static_cast<const Loose*>(args.bias)), put_with(Type{}));
}

}  // namespace

#endif
