// What the kernels of products whose lanes are the phases of a position see: their arguments, and their code
// for vectors of any width.
#pragma once

#include "pair_abi.hpp"
#include "spread_abi.hpp"

// Family `phases`, from the compute type to the storage type: for each row r and lane l
//   sum = bias[l] + sum over taps t, steps k of
//         a[a_offset[t] + k * a_step + r] * b[(t * depth + k) * tile lanes + l]
// summed in the order of t, then k, starting at zero; lanes go to the runs of their vector:
//   c[r][offset + l - begin] = sum
// or, in a row of the mask `aside`, to c[r][l]. Some for bf16 take pairs for elements of a and b, two steps
// of depth in 32 bits, the first in the lower half; bias is float.
struct PhasesArgs {
  const void* a;
  const void* b;
  const int64_t* a_offset;
  int64_t taps;
  int64_t depth;
  int64_t a_step;
  const void* bias;              // one element a lane of the tile, or null
  const Activation* activation;  // or null
  void* const* c;
  const SpreadRun* run;
  const int32_t* first_run;  // of each vector of the tile, and the end
  int32_t rows;
  uint32_t aside;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

template <class E, int R, int V, class Step, int... I>
[[gnu::always_inline]] inline void phases_rows(const PhasesArgs& args, Sequence<I...>) noexcept {
  using T = typename E::compute;
  using S = typename E::storage;
  using Element = typename Step::Element;
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  constexpr int lanes = Vector<T>::lanes;
  // The output is not in the cache; its lines arrive during the products.
  for (const SpreadRun* run = args.run; run < args.run + args.first_run[V]; ++run) {
    for (int r = 0; r < R; ++r) __builtin_prefetch(static_cast<S*>(args.c[r]) + run->offset, 1);
  }
  Type sum[R * V] = {};
  const Element* b = static_cast<const Element*>(args.b);
  for (int64_t t = 0; t < args.taps; ++t) {
    const Element* a = static_cast<const Element*>(args.a) + args.a_offset[t];
#pragma GCC unroll 1
    for (int64_t k = args.depth; k > 0; --k) {
      typename Vector<Element>::type right[V];
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v)
        right[v] = *reinterpret_cast<const typename Vector<Element>::loose*>(b + v * lanes);
      (Step::add(sum[I], right[I % V], a[I / V]), ...);
      a += args.a_step;
      b += V * lanes;
    }
  }
  if (args.bias != nullptr) {
    const T* bias = static_cast<const T*>(args.bias);
    ((sum[I] += *reinterpret_cast<const Loose*>(bias + I % V * lanes)), ...);
  }
  if (args.activation != nullptr) ((sum[I] = activated<T>(sum[I], *args.activation)), ...);
  bool whole = args.aside == 0 && args.first_run[V] == V;
  for (int v = 0; v < V && whole; ++v) {
    const SpreadRun& run = args.run[v];
    whole = args.first_run[v] == v && run.begin == 0 && run.end == lanes;
  }
  const auto at = [&args](int r, int64_t offset) { return static_cast<S*>(args.c[r]) + offset; };
  if (whole) {
    (Lanes<E>::store(at(I / V, args.run[I % V].offset), sum[I]), ...);
    return;
  }
  T rest[(R * V + 1) * lanes];  // with room to load a vector from any lane
  ((*reinterpret_cast<Loose*>(rest + I * lanes) = sum[I]), ...);
  for (int v = 0; v < V; ++v) {
    for (int32_t i = args.first_run[v]; i < args.first_run[v + 1]; ++i) {
      const SpreadRun run = args.run[i];
      const T* from = rest + v * lanes + run.begin;
      for (int r = 0; r < R; ++r) {
        if ((args.aside >> r & 1u) == 0) {
          Lanes<E>::store(at(r, run.offset), Lanes<plain<E>>::load(from + r * V * lanes),
                          run.end - run.begin);
        }
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    if ((args.aside >> r & 1u) == 0) continue;
    for (int v = 0; v < V; ++v)
      Lanes<E>::store(at(r, v * lanes), Lanes<plain<E>>::load(rest + (r * V + v) * lanes));
  }
}

// Runs `phases_rows` for the number of rows the caller has, each number compiled for itself.
template <class E, int R, int V, class Step = OneNumber<typename E::compute>>
[[gnu::always_inline]] inline void phases(const PhasesArgs& args) noexcept {
  if (args.rows == R) {
    phases_rows<E, R, V, Step>(args, UpTo<R * V>{});
  } else if constexpr (R > 1) {
    phases<E, R - 1, V, Step>(args);
  }
}

}  // namespace

#endif
