// What the kernels of plain depthwise convolution see whose maps lie apart: their arguments, and their code.
#pragma once

#include "activation_abi.hpp"

// Family `depthwisecolumns`, storage type in and out, lanes being neighbouring positions of a row: for map
// m < maps, row y < rows and x < columns
//   dst[m * dst_map + y * dst_row + x] = bias[m] + sum over planes p, rows i < kernel_y, columns j < kernel_x
//   of
//       src[p][m * src_map + (first_y + y * step + i) * src_row + first_x + x * step + j] *
//       weight[p][m * weight_map + i * kColumnsTaps + j]
// where planes are zero outside [0, src_rows) by [0, src_columns), summed in the order of i, then p, then j.
// Rows of weights lie kColumnsTaps apart.
constexpr int kColumnsKernel = 7;  // rows at most, of which there are 3, 4, 5 or 7
constexpr int kColumnsTaps = 8;    // columns at most
struct DepthwiseColumnsArgs {
  const void* const* src;
  const void* const* weight;
  int64_t planes;
  int64_t maps;
  int64_t src_map;
  int64_t weight_map;
  int64_t src_row;
  int64_t src_rows;
  int64_t src_columns;
  int64_t first_y;
  int64_t first_x;
  int64_t kernel_y;
  int64_t kernel_x;
  int64_t step;                  // 1 or 2
  const void* bias;              // one element a map, or null
  const Activation* activation;  // or null
  void* dst;
  int64_t dst_map;
  int64_t dst_row;
  int64_t rows;
  int64_t columns;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

// Bytes from a row to the next where the processor no longer guesses it, and rows that it is fetched ahead if
// most is read and little computed.
constexpr int64_t kColumnsFar = 1024;
constexpr int64_t kColumnsAhead = 8;

// Lanes of two neighbouring vectors from lane `first` on.
template <class T, int first>
[[gnu::always_inline]] inline typename Vector<T>::type shifted(typename Vector<T>::type a,
                                                               typename Vector<T>::type b) noexcept {
  using Type = typename Vector<T>::type;
  if constexpr (first == 0) return a;
  if constexpr (sizeof(T) == 4) return (Type)_mm512_alignr_epi32((__m512i)b, (__m512i)a, first);
  if constexpr (sizeof(T) == 8) return (Type)_mm512_alignr_epi64((__m512i)b, (__m512i)a, first);
}

// Every other lane, from lane `first` on, and again.
template <class T, int first, int... I>
[[gnu::always_inline]] inline typename Vector<T>::type every_other(typename Vector<T>::type a,
                                                                   Sequence<I...>) noexcept {
  typedef decltype(a == a) Index;
  constexpr Index lanes = {(2 * I + first) % (int)sizeof...(I)...};
  return __builtin_shuffle(a, lanes);
}

// Where a vector of outputs stands.
template <class E>
struct Column {
  int64_t src;     // element that its first lane's first tap reads of the first row of a plane
  int64_t weight;  // of the map
  typename E::storage* dst;
  typename E::compute bias;
  int lanes;
};

// Two vectors of outputs from the first row to the last: neighbours of a map, or one of each of two maps if
// they are `apart`. Each row of the source is read once, and added to all outputs that read it; taps shift it
// in registers, for loads of whole lines that are not aligned cost twice.
template <class E, int K, int step, bool apart>
[[gnu::noinline]] void depthwise_strip(const DepthwiseColumnsArgs& args, const Column<E> (&column)[2],
                                       int64_t first_x) noexcept {
  using L = Lanes<E>;
  using S = typename E::storage;
  using T = typename E::compute;
  using Type = typename L::type;
  constexpr int N = L::count;
  constexpr int kSums = (K + step - 1) / step;  // rows of outputs that are summed at a time
  constexpr int kParts = apart ? 2 : 1;         // runs of neighbours
  constexpr int kLines = apart ? 2 : 3;         // vectors of a run, of each residue of the step
  constexpr int kRead = (kLines - 1) * step + 1;
  const int64_t taps = args.kernel_x;
  uint32_t mask[kRead];
#pragma GCC unroll 5
  for (int l = 0; l < kRead; ++l) {
    const int64_t at = first_x + l * N;
    const auto below = [at](int64_t limit) { return L::first(limit > at ? limit - at : 0); };
    mask[l] = below(args.src_columns) & ~below(0);
  }
  Type sum[kSums][2] = {};
  S* dst[2] = {column[0].dst, column[1].dst};
  const int lanes[2] = {column[0].lanes, column[1].lanes};
  const int64_t planes = args.planes;
  const int64_t src_row = args.src_row;
  const int64_t dst_row = args.dst_row;
  const bool far = step == 2 && src_row * (int64_t)sizeof(S) >= kColumnsFar;
  const Activation* const activation = args.activation;
  // Rows of the source, from the first that is read on, that lie inside, and before the last that is read.
  const int64_t begin = args.first_y < 0 ? -args.first_y : 0;
  const int64_t inside = args.src_rows - args.first_y;
  const int64_t read = (args.rows - 1) * step + K;
  const int64_t end = inside < read ? inside : read;
  int64_t from_row = args.first_y * src_row;
  int64_t row = 0;
  for (int64_t y = 1 - kSums; y < args.rows; ++y) {
#pragma GCC unroll 2
    for (int u = 0; u < step; ++u, ++row, from_row += src_row) {
      if (row < begin || row >= end) continue;
      for (int64_t p = 0; p < planes; ++p) {
        const T* weight[2];
        Type line[kParts][step][kLines];
#pragma GCC unroll 2
        for (int part = 0; part < kParts; ++part) {
          const S* const from = static_cast<const S*>(args.src[p]) + column[part].src + from_row;
          if (far) {
#pragma GCC unroll 5
            for (int i = 0; i < kRead; ++i) __builtin_prefetch(from + i * N + kColumnsAhead * src_row);
          }
#pragma GCC unroll 3
          for (int l = 0; l < kLines; ++l) {
            const auto load = [&](int i)
                                  __attribute__((always_inline)) { return L::load(from + i * N, mask[i]); };
            if constexpr (step == 1) {
              line[part][0][l] = load(l);
            } else if (l + 1 < kLines) {
              const Type pair[2] = {load(2 * l), load(2 * l + 1)};
              line[part][0][l] = every<T, 2, 0>(pair, UpTo<N>{});
              line[part][1][l] = every<T, 2, 1>(pair, UpTo<N>{});
            } else {
              // Taps read no more of the last.
              const Type some = load(2 * l);
              line[part][0][l] = every_other<T, 0>(some, UpTo<N>{});
              line[part][1][l] = every_other<T, 1>(some, UpTo<N>{});
            }
          }
        }
#pragma GCC unroll 2
        for (int v = 0; v < 2; ++v) {
          weight[v] = static_cast<const T*>(args.weight[p]) + column[v].weight + u * kColumnsTaps;
          // Or the compiler would load a factor once for both, by an instruction that waits for the ports
          // that multiply.
          asm("" : "+r"(weight[v]));
        }
        const auto add = [&]<int t>(Sequence<t>) __attribute__((always_inline)) {
          if (t >= taps) return false;
          Type in[2];
#pragma GCC unroll 2
          for (int v = 0; v < 2; ++v) {
            const Type* const run = line[apart ? v : 0][t % step] + (apart ? 0 : v);
            in[v] = shifted<T, t / step>(run[0], run[1]);
          }
#pragma GCC unroll 8
          for (int s = 0; u + s * step < K; ++s) {
#pragma GCC unroll 2
            for (int v = 0; v < 2; ++v) sum[s][v] += in[v] * weight[v][s * step * kColumnsTaps + t];
          }
          return true;
        };
        [&]<int... t>(Sequence<t...>)
            __attribute__((always_inline)) { (add(Sequence<t>{}) && ...); }(UpTo<kColumnsTaps>{});
      }
    }
    if (y >= 0) {
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        Type value = sum[kSums - 1][v] + column[v].bias;
        if (activation != nullptr) [[unlikely]]
          value = activated<T>(value, *activation);
        L::store_lanes(dst[v], value, 0, lanes[v]);
        dst[v] += dst_row;
      }
    }
#pragma GCC unroll 8
    for (int s = kSums - 1; s > 0; --s) {
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) sum[s][v] = sum[s - 1][v];
    }
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) sum[0][v] = Type{};
  }
}

template <class E, int K, int step>
[[gnu::always_inline]] inline void depthwise_columns(const DepthwiseColumnsArgs& args) noexcept {
  constexpr int64_t N = Lanes<E>::count;
  const auto column = [&args](int64_t map, int64_t x) {
    Column<E> made;
    made.src = map * args.src_map + args.first_x + x * args.step;
    made.weight = map * args.weight_map;
    made.dst = static_cast<typename E::storage*>(args.dst) + map * args.dst_map + x;
    made.bias = args.bias == nullptr ? 0 : static_cast<const typename E::compute*>(args.bias)[map];
    const int64_t lanes = args.columns - x;
    made.lanes = (int)(lanes < N ? lanes : N);
    return made;
  };
  for (int64_t map = 0; map < args.maps; map += 2) {
    const int64_t next = map + 1 < args.maps ? map + 1 : map;
    int64_t x = 0;
    for (; x + N < args.columns; x += 2 * N) {
      for (int64_t m = map; m <= next; ++m) {
        depthwise_strip<E, K, step, false>(args, {column(m, x), column(m, x + N)}, args.first_x + x * step);
      }
    }
    if (x < args.columns)
      depthwise_strip<E, K, step, true>(args, {column(map, x), column(next, x)}, args.first_x + x * step);
  }
}

template <class E, int K = kColumnsKernel>
[[gnu::always_inline]] inline void depthwise_columns(const DepthwiseColumnsArgs& args) noexcept {
  if (args.kernel_y != K) {
    if constexpr (K > 3) depthwise_columns<E, K == 7 ? 5 : K - 1>(args);
  } else if (args.step == 1) {
    depthwise_columns<E, K, 1>(args);
  } else {
    depthwise_columns<E, K, 2>(args);
  }
}

}  // namespace

#endif
