// What the kernels of the algorithm that adds overlapping products see: their arguments, and their code for
// vectors of any width.
#pragma once

#include "kernel_abi.hpp"

// Family `plaingemm`, in the compute type but for what is copied, which is of the storage type: for each row
// r and lane l of the tile
//   c[r * tile lanes + l] = (accumulate ? c[r * tile lanes + l] : 0) +
//                           sum over steps k of a[k * a_step + r] * b[k * tile lanes + l]
// and meanwhile, for the next products, for n below copies
//   copy_to[n * tile lanes + l] = l < copy_lanes ? copy_from[n * copy_step + l] : 0
// Rows may be none.
struct PlainGemmArgs {
  const void* a;
  const void* b;
  void* c;
  int64_t depth;
  int64_t a_step;
  const void* copy_from;
  void* copy_to;
  int64_t copy_step;
  int64_t copies;
  int32_t copy_lanes;
  int32_t rows;
  bool accumulate;
};

// Neighbours among the lanes of a panel that go to a row of the output too.
struct OverlapRun {
  int32_t lane;
  int32_t length;
  int64_t row;  // where the row of the output begins
  int64_t at;   // place in that row, for the first position; may lie outside
};

// Family `overlap`, in the compute type: for position p, run r, and i below its length,
//   out[r.row + r.at + p * stride + i * dilation] += sums[p * step + r.lane + i]
// where r.at + p * stride + i * dilation lies in the row. May read a vector beyond the last sum.
struct OverlapArgs {
  const void* sums;
  int64_t step;
  int64_t positions;
  int64_t stride;
  int64_t dilation;
  void* out;
  int64_t length;  // of a row of the output
  const OverlapRun* run;
  int64_t runs;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

constexpr int kStepsOfACopy = 4;
// Elements between the row of positions that is multiplied and what is fetched: rows of channels lie apart.
constexpr int kElementsAhead = 32;
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

template <class E, int R, int V, int... I>
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
    __builtin_prefetch(a + kElementsAhead);
    a += args.a_step;
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

// Runs `plain_rows` for the number of rows the caller has.
template <class E, int R, int V>
[[gnu::always_inline]] inline void plain_products(const PlainGemmArgs& args) noexcept {
  if (args.rows == R) {
    plain_rows<E, R, V>(args, UpTo<R * V>{});
  } else if constexpr (R > 1) {
    plain_products<E, R - 1, V>(args);
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
  const int64_t dilation = args.dilation;
#if defined(__AVX512F__)
  // Elements of a run to lanes a dilation apart.
  typename L::type middle;  // of each lane
  for (int i = 0; i < L::count; ++i) middle[i] = static_cast<T>(i + 0.5);
  const auto element = __builtin_convertvector(middle / static_cast<T>(dilation), decltype(middle == middle));
  uint32_t apart = 0;
  int64_t some = 0;
  for (int64_t i = 0; i < L::count; i += dilation, ++some) apart |= 1U << i;
#endif
  for (int64_t p = 0; p < args.positions; ++p, sums += args.step) {
    for (const OverlapRun* run = args.run; run < args.run + args.runs; ++run) {
      const T* from = sums + run->lane;
      int64_t at = run->at + p * args.stride;
      int64_t left = run->length;
      for (; at < 0 && left > 0; at += dilation, --left) ++from;
      if (at + (left - 1) * dilation >= args.length)
        left = at < args.length ? (args.length - 1 - at) / dilation + 1 : 0;
      T* to = out + run->row + at;
#if defined(__AVX512F__)
      for (; left > 4 && some > 2; left -= some, from += some, to += some * dilation) {
        const uint32_t lanes = left < some ? apart & L::first(left * dilation) : apart;
        const auto sum = L::load(to, lanes) + __builtin_shuffle(L::load(from), element);
        if constexpr (same<E, f32>) {
          _mm512_mask_storeu_ps(to, static_cast<__mmask16>(lanes), (__m512)sum);
        } else {
          _mm512_mask_storeu_pd(to, static_cast<__mmask8>(lanes), (__m512d)sum);
        }
      }
#else
      for (; left >= L::count && dilation == 1; left -= L::count, from += L::count, to += L::count)
        L::store(to, L::load(to) + L::load(from));
#endif
#pragma GCC unroll 4
      for (; left > 0; --left, to += dilation) *to += *from++;
    }
  }
}

}  // namespace

#endif
