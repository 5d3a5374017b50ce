// What the kernels of the algorithm for kernel = stride see: their arguments, and their code for vectors of
// any width.
#pragma once

#include "activation_abi.hpp"

// Lanes [begin, end) of a vector whose outputs are neighbours.
struct SpreadRun {
  int64_t offset;  // of lane `begin`, in elements of the output
  int32_t begin;
  int32_t end;
};

// Family `spread`, from the compute type to the storage type: sums as of family `gemm`, of one segment,
//   sum[r][l] = bias[r] + sum over steps k of a[k * tile rows + r] * b[k * tile lanes + l]
// that go to the runs of their vector; with two phases a pair of rows takes turns:
//   c[r / phases][offset + (l - begin) * phases + r % phases] = sum[r][l]
struct SpreadArgs {
  const void* a;
  const void* b;
  int64_t depth;
  const void* bias;              // one element a row, or null
  const Activation* activation;  // or null
  void* const* c;
  const SpreadRun* run;
  const int32_t* first_run;  // of each vector of the tile, and the end
  int32_t rows;              // a multiple of phases
  int32_t phases;            // 1 or 2
};

// Family `unspread`, its opposite, from the storage type to the compute type: for map m, phase p, the lanes l
// of each run
//   dst[m * dst_map + p * dst_row + l] = src[m * map_stride + offset + (l - begin) * phases + p]
struct UnspreadArgs {
  const void* src;
  int64_t map_stride;
  int64_t maps;
  void* dst;
  int64_t dst_map;
  int64_t dst_row;
  const SpreadRun* run;
  int32_t runs;
  int32_t phases;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

template <class E>
[[gnu::always_inline]] inline void spread_vector(const SpreadRun* run, const SpreadRun* end, void* c,
                                                 typename Lanes<E>::type value) noexcept {
  auto* out = static_cast<typename E::storage*>(c);
  if (run < end && run->begin == 0 && run->end == Lanes<E>::count) {
    Lanes<E>::store(out + run->offset, value);
    return;
  }
  for (; run < end; ++run) Lanes<E>::store_lanes(out + run->offset - run->begin, value, run->begin, run->end);
}

template <class E>
[[gnu::always_inline]] inline void spread_pair(const SpreadRun* run, const SpreadRun* end, void* c,
                                               typename Lanes<E>::type even,
                                               typename Lanes<E>::type odd) noexcept {
  using L = Lanes<E>;
  auto* out = static_cast<typename E::storage*>(c);
  typename L::type pair[2];
  zip<typename E::compute, L::count>(even, odd, pair, UpTo<L::count>{});
  if (run < end && run->begin == 0 && run->end == L::count) {
    L::store(out + run->offset, pair[0]);
    L::store(out + run->offset + L::count, pair[1]);
    return;
  }
  for (; run < end; ++run) {
    auto* to = out + run->offset - 2 * run->begin;
    const int first = 2 * run->begin;
    const int last = 2 * run->end;
    if (first < L::count) L::store_lanes(to, pair[0], first, last < L::count ? last : L::count);
    if (last > L::count)
      L::store_lanes(to + L::count, pair[1], first > L::count ? first - L::count : 0, last - L::count);
  }
}

template <class E, int R, int A, int V, int... I>
[[gnu::always_inline]] inline void spread_rows(const SpreadArgs& args, Sequence<I...>) noexcept {
  using T = typename E::compute;
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  constexpr int lanes = Vector<T>::lanes;
  // The lines that outputs go to come while sums are formed.
  const auto fetch = [&args](int r, int v) {
    if (args.phases == 1) {
      __builtin_prefetch(static_cast<typename E::storage*>(args.c[r]) + args.run[args.first_run[v]].offset,
                         1);
    } else {
      __builtin_prefetch(static_cast<typename E::storage*>(args.c[r / 2]) +
                             args.run[args.first_run[v]].offset + r % 2 * lanes,
                         1);
    }
  };
  (fetch(I / V, I % V), ...);
  Type sum[R * V] = {};
  const T* a = static_cast<const T*>(args.a);
  const T* b = static_cast<const T*>(args.b);
#pragma GCC unroll 1
  for (int64_t k = args.depth; k > 0; --k) {
    Type right[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) right[v] = *reinterpret_cast<const Loose*>(b + v * lanes);
    ((sum[I] += right[I % V] * a[I / V]), ...);
    a += A;
    b += V * lanes;
  }
  if (args.bias != nullptr) {
    const T* bias = static_cast<const T*>(args.bias);
    ((sum[I] += bias[I / V]), ...);
  }
  if (args.activation != nullptr) ((sum[I] = activated<T>(sum[I], *args.activation)), ...);
  const auto begin = [&args](int v) { return args.run + args.first_run[v]; };
  if (args.phases == 1) {
    (spread_vector<E>(begin(I % V), begin(I % V + 1), args.c[I / V], sum[I]), ...);
  } else if constexpr (R % 2 == 0) {
    // Every pair of rows once, from its first row.
    ((I / V % 2 == 0 ? spread_pair<E>(begin(I % V), begin(I % V + 1), args.c[I / V / 2], sum[I],
                                      sum[I / V % 2 == 0 ? I + V : I])
                     : void()),
     ...);
  }
}

// Runs `spread_rows` for the number of rows the caller has; `A` is that of a whole tile.
template <class E, int R, int V, int A = R>
[[gnu::always_inline]] inline void spread(const SpreadArgs& args) noexcept {
  if (args.rows == R) {
    spread_rows<E, R, A, V>(args, UpTo<R * V>{});
  } else if constexpr (R > 1) {
    spread<E, R - 1, V, A>(args);
  }
}

template <class E, int N>
[[gnu::always_inline]] inline void unspread_phases(const UnspreadArgs& args) noexcept {
  const auto* src = static_cast<const typename E::storage*>(args.src);
  auto* dst = static_cast<typename E::compute*>(args.dst);
  for (int64_t m = 0; m < args.maps; ++m, src += args.map_stride, dst += args.dst_map) {
    for (int32_t r = 0; r < args.runs; ++r) {
      const SpreadRun run = args.run[r];
      deinterleave<E, plain<E>, N>(src + run.offset, dst + run.begin, args.dst_row, run.end - run.begin);
    }
  }
}

template <class E>
[[gnu::always_inline]] inline void unspread(const UnspreadArgs& args) noexcept {
  if (args.phases == 1) return unspread_phases<E, 1>(args);
  if (args.phases == 2) return unspread_phases<E, 2>(args);
  const auto* src = static_cast<const typename E::storage*>(args.src);
  auto* dst = static_cast<typename E::compute*>(args.dst);
  for (int64_t m = 0; m < args.maps; ++m, src += args.map_stride, dst += args.dst_map) {
    for (int32_t r = 0; r < args.runs; ++r) {
      const SpreadRun run = args.run[r];
      transpose<E, plain<E>>(src + run.offset, args.phases, dst + run.begin, args.dst_row,
                             run.end - run.begin, args.phases);
    }
  }
}

}  // namespace

#endif
