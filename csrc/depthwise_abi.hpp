// What the kernels of the depthwise algorithm see: their arguments, and their code for vectors of any width.
#pragma once

#include "activation_abi.hpp"

// Family `depthwise`, from the compute type to the storage type, lanes being neighbouring positions: for
// i * phases + p < count, with one phase or two
//   dst[i * phases + p] = bias + sum over rows r, taps t of the phase of
//                         src[r][offset[t] + i] * weight[r][tap[t]]
// summed in the order of r, then t; the second phase's taps follow the first's. May read a vector beyond the
// last position, and writes none beyond it.
struct DepthwiseArgs {
  const void* const* src;
  const void* const* weight;
  int64_t rows;
  const int64_t* offset;
  const int64_t* tap;
  int64_t phases;
  int64_t taps[2];
  const void* bias;              // one element, or null
  const Activation* activation;  // or null
  void* dst;
  int64_t count;
};

// Family `depthwiselast`, storage type in and out, lanes being maps: for i < count and m < maps
//   dst[i * dst_step + m] = bias[m] + sum over rows r, taps t of
//                           src[r][src_start + offset[t] + i * src_step + m] * weight[r][tap[t] + m]
// summed in the order of r, then t, weights and bias being of the compute type.
struct DepthwiseLastArgs {
  const void* const* src;
  const void* const* weight;
  int64_t rows;
  const int64_t* offset;
  const int64_t* tap;
  int64_t taps;
  const void* bias;              // or null
  const Activation* activation;  // or null
  void* dst;
  int64_t count;
  int64_t src_start;
  int64_t src_step;
  int64_t dst_step;
  int64_t maps;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

// Adds `taps` taps of one row to the sums; `Fixed` is their number where it is known in advance, or zero.
template <class T, int Fixed, int... I>
[[gnu::always_inline]] inline void depthwise_taps(typename Vector<T>::type* sum, const T* src,
                                                  const T* weight, const int64_t* offset, const int64_t* tap,
                                                  int64_t taps, Sequence<I...>) noexcept {
  using L = Lanes<typename Plain<T>::type>;
  const int64_t count = Fixed > 0 ? Fixed : taps;
#pragma GCC unroll 2
  for (int64_t t = 0; t < count; ++t) {
    const T* from = src + offset[t];
    const T factor = weight[tap[t]];
    ((sum[I] += L::load(from + I * L::count) * factor), ...);
  }
}

// A run of positions, as many vectors of each of `P` phases as there are indices.
template <class E, int P, int Fixed, int... I>
[[gnu::always_inline]] inline void depthwise_run(const DepthwiseArgs& args, int64_t at,
                                                 Sequence<I...> run) noexcept {
  using T = typename E::compute;
  using To = Lanes<E>;
  constexpr int V = sizeof...(I);
  constexpr int L = To::count;
  typename To::type sum[P][V] = {};
  for (int64_t r = 0; r < args.rows; ++r) {
    const T* src = static_cast<const T*>(args.src[r]) + at;
    const T* weight = static_cast<const T*>(args.weight[r]);
    depthwise_taps<T, Fixed>(sum[0], src, weight, args.offset, args.tap, args.taps[0], run);
    if constexpr (P == 2) {
      const int64_t first = Fixed > 0 ? Fixed : args.taps[0];
      depthwise_taps<T, Fixed>(sum[1], src, weight, args.offset + first, args.tap + first, args.taps[1], run);
    }
  }
  if (args.bias != nullptr) {
    const T bias = *static_cast<const T*>(args.bias);
    ((sum[0][I] += bias), ...);
    if constexpr (P == 2) ((sum[1][I] += bias), ...);
  }
  if (args.activation != nullptr) {
    ((sum[0][I] = activated<T>(sum[0][I], *args.activation)), ...);
    if constexpr (P == 2) ((sum[1][I] = activated<T>(sum[1][I], *args.activation)), ...);
  }
  const int64_t count = args.count - at * P;
  auto* dst = static_cast<typename E::storage*>(args.dst) + at * P;
  const auto put = [dst, count](int i, typename To::type value) {
    if (count >= V * P * L) {
      To::store(dst + i * L, value);
    } else if (count > i * L) {
      To::store(dst + i * L, value, (int)(count - i * L));
    }
  };
  if constexpr (P == 1) {
    (put(I, sum[0][I]), ...);
  } else {
    typename To::type pair[V][2];
    (zip<T, L>(sum[0][I], sum[1][I], pair[I], UpTo<L>{}), ...);
    ((put(2 * I, pair[I][0]), put(2 * I + 1, pair[I][1])), ...);
  }
}

template <class E, int P, int Fixed>
[[gnu::always_inline]] inline void depthwise_phases(const DepthwiseArgs& args) noexcept {
  constexpr int64_t L = Lanes<E>::count;
  int64_t at = 0;
  for (; (at + 4 * L) * P <= args.count; at += 4 * L) depthwise_run<E, P, Fixed>(args, at, UpTo<4>{});
  for (; at * P < args.count; at += L) depthwise_run<E, P, Fixed>(args, at, UpTo<1>{});
}

template <class E>
[[gnu::always_inline]] inline void depthwise(const DepthwiseArgs& args) noexcept {
  if (args.phases == 1) {
    depthwise_phases<E, 1, 0>(args);
  } else if (args.taps[0] == 2 && args.taps[1] == 2) {
    depthwise_phases<E, 2, 2>(args);
  } else {
    depthwise_phases<E, 2, 0>(args);
  }
}

template <class E, int... I>
[[gnu::always_inline]] inline void depthwise_maps(const DepthwiseLastArgs& args, int64_t at, int64_t map,
                                                  int lanes, Sequence<I...>) noexcept {
  using L = Lanes<E>;
  using S = typename E::storage;
  using C = Lanes<plain<E>>;
  using T = typename E::compute;
  constexpr int P = sizeof...(I);
  const uint32_t mask = L::first(lanes);
  const bool whole = lanes == L::count;
  typename L::type sum[P] = {};
  for (int64_t r = 0; r < args.rows; ++r) {
    const S* src = static_cast<const S*>(args.src[r]) + args.src_start + at * args.src_step + map;
    const T* weight = static_cast<const T*>(args.weight[r]) + map;
    for (int64_t t = 0; t < args.taps; ++t) {
      const S* from = src + args.offset[t];
      const T* factors = weight + args.tap[t];
      const auto factor = whole ? C::load(factors) : C::load(factors, mask);
      ((sum[I] +=
        (whole ? L::load(from + I * args.src_step) : L::load(from + I * args.src_step, mask)) * factor),
       ...);
    }
  }
  if (args.bias != nullptr) {
    const T* from = static_cast<const T*>(args.bias) + map;
    const auto bias = whole ? C::load(from) : C::load(from, mask);
    ((sum[I] += bias), ...);
  }
  if (args.activation != nullptr) ((sum[I] = activated<T>(sum[I], *args.activation)), ...);
  S* dst = static_cast<S*>(args.dst) + at * args.dst_step + map;
  (L::store(dst + I * args.dst_step, sum[I], lanes), ...);
}

template <class E, int... I>
[[gnu::always_inline]] inline void depthwise_positions(const DepthwiseLastArgs& args, int64_t at,
                                                       Sequence<I...> positions) noexcept {
  constexpr int64_t L = Lanes<E>::count;
  int64_t map = 0;
  for (; map + L <= args.maps; map += L) depthwise_maps<E>(args, at, map, (int)L, positions);
  if (map < args.maps) depthwise_maps<E>(args, at, map, (int)(args.maps - map), positions);
}

template <class E>
[[gnu::always_inline]] inline void depthwise_last(const DepthwiseLastArgs& args) noexcept {
  int64_t at = 0;
  for (; at + 4 <= args.count; at += 4) depthwise_positions<E>(args, at, UpTo<4>{});
  for (; at < args.count; ++at) depthwise_positions<E>(args, at, UpTo<1>{});
}

}  // namespace

#endif
