// What the kernels of the algorithm that adds overlapping products see: their arguments, and their code for
// vectors of any width.
#pragma once

#include "kernel_abi.hpp"

// Family `plaingemm`, in the compute type but for what is copied, which is of the storage type: for each row
// r and lane l of the tile
//   c[r * tile lanes + l] = (accumulate ? c[r * tile lanes + l] : 0) +
//                           sum over steps k of a[k * tile rows + r] * b[k * tile lanes + l]
// and meanwhile, for the next products, for n below copies
//   copy_to[n * tile lanes + l] = l < copy_lanes ? copy_from[n * copy_step + l] : 0
// Rows may be none.
struct PlainGemmArgs {
  const void* a;
  const void* b;
  void* c;
  int64_t depth;
  const void* copy_from;
  void* copy_to;
  int64_t copy_step;
  int64_t copies;
  int32_t copy_lanes;
  int32_t rows;
  bool accumulate;
};

// Neighbours among the lanes of a panel that are neighbours in the output too.
struct OverlapRun {
  int32_t lane;
  int32_t length;
  int64_t row;  // where the row of the output begins
  int64_t at;   // place in that row, for the first position; may lie outside
};

// Family `overlap`, in the compute type: for position p, run r, and i below its length,
//   out[r.row + r.at + p * stride + i] += sums[p * step + r.lane + i]
// where r.at + p * stride + i lies in the row.
struct OverlapArgs {
  const void* sums;
  int64_t step;
  int64_t positions;
  int64_t stride;
  void* out;
  int64_t length;  // of a row of the output
  const OverlapRun* run;
  int64_t runs;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

constexpr int kStepsOfACopy = 4;
// Rows of weights between the one that is copied and the one that is fetched: the time memory takes.
constexpr int kCopiesAhead = 12;

template <class E, int V>
[[gnu::always_inline]] inline void copy_lanes(const typename E::storage* from, typename E::compute* to,
                                              int64_t step) noexcept {
  constexpr int lanes = Lanes<E>::count;
#pragma GCC unroll 16
  for (int v = 0; v < V; ++v) {
    Lanes<plain<E>>::store(to + v * lanes, Lanes<E>::load(from + v * lanes));
    __builtin_prefetch(from + kCopiesAhead * step + v * lanes, 0, 2);
  }
  // Where vectors lie across lines there is one more.
  __builtin_prefetch(from + kCopiesAhead * step + V * lanes - 1, 0, 2);
}

template <class E, int V>
[[gnu::always_inline]] inline void copy_part(const typename E::storage* from, typename E::compute* to,
                                             int count) noexcept {
  constexpr int lanes = Lanes<E>::count;
  for (int v = 0; v < V; ++v) {
    const int left = count - v * lanes;
    Lanes<plain<E>>::store(to + v * lanes,
                           Lanes<E>::load(from + v * lanes, left > 0 ? Lanes<E>::first(left) : 0));
  }
}

template <class E, int R, int A, int V, int... I>
[[gnu::always_inline]] inline void plain_rows(const PlainGemmArgs& args, Sequence<I...>) noexcept {
  using S = typename E::storage;
  using T = typename E::compute;
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  constexpr int lanes = Vector<T>::lanes;
  Type sum[R * V] = {};
  const T* a = static_cast<const T*>(args.a);
  const T* b = static_cast<const T*>(args.b);
  const auto step = [&]() __attribute__((always_inline)) {
    Type right[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) right[v] = *reinterpret_cast<const Loose*>(b + v * lanes);
    ((sum[I] += right[I % V] * a[I / V]), ...);
    a += A;
    b += V * lanes;
  };
  int64_t rest = args.depth;
  if (args.copies > 0) {
    const S* from = static_cast<const S*>(args.copy_from);
    T* to = static_cast<T*>(args.copy_to);
    int64_t copies = args.copies;
    const int64_t turns = args.depth / kStepsOfACopy;
    const int64_t each = turns > 0 ? (copies + turns - 1) / turns : copies;
#pragma GCC unroll 1
    for (int64_t turn = turns; turn > 0; --turn) {
#pragma GCC unroll 4
      for (int k = 0; k < kStepsOfACopy; ++k) step();
      const int64_t now = copies < each ? copies : each;
      copies -= now;
#pragma GCC unroll 1
      for (int64_t n = now; n > 0; --n) {
        copy_lanes<E, V>(from, to, args.copy_step);
        from += args.copy_step;
        to += V * lanes;
      }
    }
#pragma GCC unroll 1
    for (; copies > 0; --copies) {
      copy_lanes<E, V>(from, to, args.copy_step);
      from += args.copy_step;
      to += V * lanes;
    }
    rest -= turns * kStepsOfACopy;
  }
#pragma GCC unroll 1
  for (; rest > 0; --rest) step();
  T* c = static_cast<T*>(args.c);
  const auto at = [c](int i) { return reinterpret_cast<Loose*>(c + i * lanes); };
  if (args.accumulate) ((sum[I] += *at(I)), ...);
  ((*at(I) = sum[I]), ...);
}

// Runs `plain_rows` for the number of rows the caller has; `A` is that of a whole tile.
template <class E, int R, int V, int A = R>
[[gnu::always_inline]] inline void plain_products(const PlainGemmArgs& args) noexcept {
  if (args.rows == R) {
    plain_rows<E, R, A, V>(args, UpTo<R * V>{});
  } else if constexpr (R > 1) {
    plain_products<E, R - 1, V, A>(args);
  }
}

template <class E, int R, int V>
[[gnu::always_inline]] inline void plain_gemm(const PlainGemmArgs& args) noexcept {
  using S = typename E::storage;
  using T = typename E::compute;
  constexpr int lanes = Lanes<E>::count;
  if (args.rows > 0 && (args.copies == 0 || args.copy_lanes == V * lanes)) {
    plain_products<E, R, V>(args);
    return;
  }
  const S* from = static_cast<const S*>(args.copy_from);
  T* to = static_cast<T*>(args.copy_to);
  for (int64_t n = 0; n < args.copies; ++n, from += args.copy_step, to += V * lanes) {
    if (args.copy_lanes == V * lanes) {
      copy_lanes<E, V>(from, to, args.copy_step);
    } else {
      copy_part<E, V>(from, to, args.copy_lanes);
    }
  }
  if (args.rows == 0) return;
  PlainGemmArgs alone = args;
  alone.copies = 0;
  plain_products<E, R, V>(alone);
}

template <class E>
[[gnu::always_inline]] inline void overlap(const OverlapArgs& args) noexcept {
  using L = Lanes<E>;
  using T = typename E::compute;
  const T* sums = static_cast<const T*>(args.sums);
  T* out = static_cast<T*>(args.out);
  for (int64_t p = 0; p < args.positions; ++p, sums += args.step) {
    for (const OverlapRun* run = args.run; run < args.run + args.runs; ++run) {
      const int64_t at = run->at + p * args.stride;
      const int64_t end = args.length - at < run->length ? args.length - at : run->length;
      const T* from = sums + run->lane;
      T* to = out + run->row + at;
      int64_t i = at < 0 ? -at : 0;
      for (; i + L::count <= end; i += L::count) L::store(to + i, L::load(to + i) + L::load(from + i));
#if defined(__AVX512F__)
      if (i >= end) continue;
      const uint32_t mask = L::first(end - i);
      L::store(to + i, L::load(to + i, mask) + L::load(from + i, mask), static_cast<int>(end - i));
#else
      for (; i < end; ++i) to[i] += from[i];
#endif
    }
  }
}

}  // namespace

#endif
