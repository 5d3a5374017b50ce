// What the kernels of the algorithm for kernel = stride whose maps lie together see: their arguments, and
// their code for vectors of any width.
#pragma once

#include "pair_abi.hpp"
#include "spread_abi.hpp"

// Family `rows`, from the compute type to the storage type: for each row r and lane l
//   sum[r][l] = bias[l] + sum over segments s, steps k of
//               a[r][segment[s] + k * a_step] * b[(s * depth + k) * lanes + l]
// in the order of s, then k, starting at zero; lanes go to the runs of their vector, from c[r]. Kernels of a
// set that has family `pair` take pairs for elements of a and b, two steps of depth.
struct RowsArgs {
  const void* const* a;
  const int64_t* segment;
  int64_t segments;
  int64_t depth;  // of a segment
  int64_t a_step;
  const void* b;
  const void* bias;              // one element a lane, or null
  const Activation* activation;  // or null
  void* const* c;
  const SpreadRun* run;
  const int32_t* first_run;  // of each vector of the tile, and the end
  int32_t rows;
  bool whole;   // every vector is one run
  bool stream;  // outputs are lines of their own and go past the caches; `whole`
};

#if defined(TCONV_KERNEL_NAME)

namespace {

// Stores a vector of each row, which lies V vectors from that of the row before, to its runs.
template <class E, int V, int... r>
[[gnu::always_inline]] inline void store_runs(const RowsArgs& args, int v, const typename Lanes<E>::type* sum,
                                              Sequence<r...>) noexcept {
  using L = Lanes<E>;
  const auto to = [&args](int row) { return static_cast<typename E::storage*>(args.c[row]); };
  for (int32_t i = args.first_run[v]; i < args.first_run[v + 1]; ++i) {
    const SpreadRun run = args.run[i];
    if (run.begin == 0 && run.end == L::count) {
      (L::store(to(r) + run.offset, sum[r * V]), ...);
    } else {
      (L::store_lanes(to(r) + run.offset - run.begin, sum[r * V], run.begin, run.end), ...);
    }
  }
}

template <class E, int R, int V, class Step, int... I>
[[gnu::always_inline]] inline void rows_of(const RowsArgs& args, Sequence<I...>) noexcept {
  using T = typename E::compute;
  using S = typename E::storage;
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  using Element = typename Step::Element;
  // As it lies in an array of shorter numbers.
  typedef Element Any __attribute__((aligned(2), may_alias));
  constexpr int lanes = Vector<T>::lanes;
  // The lines that outputs go to come while sums are formed.
  const auto fetch = [&args](int r, int v) {
    __builtin_prefetch(static_cast<S*>(args.c[r]) + args.run[args.first_run[v]].offset, 1);
  };
  if (!args.stream) (fetch(I / V, I % V), ...);
  Type sum[R * V] = {};
  const Element* b = static_cast<const Element*>(args.b);
  const int64_t end = args.depth * args.a_step;
  const int64_t step = args.a_step;
  for (int64_t s = 0; s < args.segments; ++s) {
    const Any* a[R];
    for (int r = 0; r < R; ++r) a[r] = static_cast<const Any*>(args.a[r]) + args.segment[s];
#pragma GCC unroll 1
    for (int64_t k = 0; k < end; k += step) {
      typename Vector<Element>::type right[V];
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v)
        right[v] = *reinterpret_cast<const typename Vector<Element>::loose*>(b + v * lanes);
      (Step::add(sum[I], right[I % V], a[I / V][k]), ...);
      b += V * lanes;
    }
  }
  if (args.bias != nullptr) {
    const T* bias = static_cast<const T*>(args.bias);
    ((sum[I] += *reinterpret_cast<const Loose*>(bias + I % V * lanes)), ...);
  }
  if (args.activation != nullptr) ((sum[I] = activated<T>(sum[I], *args.activation)), ...);
  if (!args.whole) {
    // Of each vector once, at its first row.
    ((I < V ? store_runs<E, V>(args, I, sum + I % V, UpTo<R>{}) : void()), ...);
    return;
  }
  int64_t offset[V];
  S* c[R];
  for (int v = 0; v < V; ++v) offset[v] = args.run[args.first_run[v]].offset;
  for (int r = 0; r < R; ++r) c[r] = static_cast<S*>(args.c[r]);
  if (args.stream) {
    (stream_out<E>(c[I / V] + offset[I % V], sum[I]), ...);
  } else {
    (Lanes<E>::store(c[I / V] + offset[I % V], sum[I]), ...);
  }
}

// Runs `rows_of` for the number of rows the caller has.
template <class E, int R, int V, class Step = OneNumber<typename E::compute>>
[[gnu::always_inline]] inline void rows(const RowsArgs& args) noexcept {
  if (args.rows == R) {
    rows_of<E, R, V, Step>(args, UpTo<R * V>{});
  } else if constexpr (R > 1) {
    rows<E, R - 1, V, Step>(args);
  }
}

}  // namespace

#endif
