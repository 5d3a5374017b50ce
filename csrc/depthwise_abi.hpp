// What the kernels of the depthwise algorithm see: their arguments, and their code for vectors of any width.
#pragma once

#include "activation_abi.hpp"

// Family `depthwise`, from the compute type to the storage type, lanes being neighbouring positions: for
// i * phases + p < count, with one phase or two
//   dst[i * phases + p] = bias + sum over rows r, taps t of the phase of
//                         src[r][offset[t] + i] * weight[r][tap[t]]
// summed in the order of r, then t; the second phase's taps follow the first's. May read kDepthwiseBeyond
// elements beyond the last position, and writes none beyond it.
constexpr int kDepthwiseBeyond = 5 * 16;
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

// Family `depthwiselast`, storage type in and out, lanes being maps: for i < count, phases p and m < maps
//   dst[i * dst_step + p.dst + m] = bias[m] + sum over rows r, taps t of the phase of
//                                   src[r][p.offset[t] + i * src_step + m] * weight[r][p.tap[t] + m]
// summed in the order of r, then t, weights and bias being of the compute type.
struct DepthwisePhase {
  const int64_t* offset;
  const int64_t* tap;
  int64_t taps;
  int64_t dst;
};
struct DepthwiseLastArgs {
  const void* const* src;
  const void* const* weight;
  int64_t rows;
  const DepthwisePhase* phase;
  int64_t phases;
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

// Where two phases of two taps read: one further and itself, itself and one back, counted from the first tap.
enum class Reads : int { any, around, back };

// Lanes of two neighbouring vectors from lane `first` on.
template <class T, int first, int... I>
[[gnu::always_inline]] inline typename Vector<T>::type between(typename Vector<T>::type a,
                                                               typename Vector<T>::type b,
                                                               Sequence<I...>) noexcept {
  typedef decltype(a == b) Index;
  constexpr Index lanes = {(I + first)...};
  return __builtin_shuffle(a, b, lanes);
}

// Adds two taps of two phases of one row. Each vector is loaded once and shifted in registers, for loads of
// whole lines that are not aligned cost twice.
template <class T, Reads reads, int... I>
[[gnu::always_inline]] inline void depthwise_neighbours(typename Vector<T>::type* even,
                                                        typename Vector<T>::type* odd, const T* src,
                                                        const T* weight, const int64_t* tap,
                                                        Sequence<I...>) noexcept {
  using L = Lanes<typename Plain<T>::type>;
  using Type = typename Vector<T>::type;
  constexpr auto lanes = UpTo<L::count>{};
  constexpr int V = sizeof...(I);
  const Type line[V + 1] = {L::load(src - L::count), L::load(src + I * L::count)...};
  const Type back[V] = {between<T, L::count - 1>(line[I], line[I + 1], lanes)...};
  const T factor[4] = {weight[tap[0]], weight[tap[1]], weight[tap[2]], weight[tap[3]]};
  ((even[I] += line[I + 1] * factor[0]), ...);
  ((even[I] += back[I] * factor[1]), ...);
  if constexpr (reads == Reads::around) {
    const Type after = L::load(src + V * L::count);
    ((odd[I] +=
      between<T, 1>(line[I + 1], I + 1 < V ? line[I + 1 < V ? I + 2 : 0] : after, lanes) * factor[2]),
     ...);
    ((odd[I] += line[I + 1] * factor[3]), ...);
  } else {
    ((odd[I] += line[I + 1] * factor[2]), ...);
    ((odd[I] += back[I] * factor[3]), ...);
  }
}

// A run of positions, as many vectors of each of `P` phases as there are indices.
template <class E, int P, int Fixed, Reads reads, int... I>
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
    if constexpr (reads != Reads::any) {
      depthwise_neighbours<T, reads>(sum[0], sum[1], src + args.offset[0], weight, args.tap, run);
      continue;
    }
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

template <class E, int P, int Fixed, Reads reads = Reads::any>
[[gnu::always_inline]] inline void depthwise_phases(const DepthwiseArgs& args) noexcept {
  constexpr int64_t L = Lanes<E>::count;
  int64_t at = 0;
  for (; (at + L) * P < args.count; at += 4 * L) depthwise_run<E, P, Fixed, reads>(args, at, UpTo<4>{});
  if (at * P < args.count) depthwise_run<E, P, Fixed, reads>(args, at, UpTo<1>{});
}

template <class E>
[[gnu::always_inline]] inline void depthwise(const DepthwiseArgs& args) noexcept {
  if (args.phases == 1) return depthwise_phases<E, 1, 0>(args);
  if (args.taps[0] != 2 || args.taps[1] != 2) return depthwise_phases<E, 2, 0>(args);
  if constexpr (TCONV_VECTOR_BYTES == 64) {
    const int64_t* offset = args.offset;
    const int64_t first = offset[0];
    if (first >= Lanes<E>::count && offset[1] == first - 1) {
      if (offset[2] == first + 1 && offset[3] == first) return depthwise_phases<E, 2, 2, Reads::around>(args);
      if (offset[2] == first && offset[3] == first - 1) return depthwise_phases<E, 2, 2, Reads::back>(args);
    }
  }
  depthwise_phases<E, 2, 2>(args);
}

// Bytes from what is stored to what is fetched.
constexpr int64_t kDepthwiseAhead = 4096;

template <class E, int... I>
[[gnu::always_inline]] inline void depthwise_maps(const DepthwiseLastArgs& args, const DepthwisePhase& phase,
                                                  int64_t at, int64_t map, int lanes,
                                                  Sequence<I...>) noexcept {
  using L = Lanes<E>;
  using S = typename E::storage;
  using C = Lanes<plain<E>>;
  using T = typename E::compute;
  constexpr int P = sizeof...(I);
  const uint32_t mask = L::first(lanes);
  const bool whole = lanes == L::count;
  typename L::type sum[P] = {};
  const int64_t step = args.src_step;
  for (int64_t r = 0; r < args.rows; ++r) {
    const S* src = static_cast<const S*>(args.src[r]) + args.src_start + at * step + map;
    const T* weight = static_cast<const T*>(args.weight[r]) + map;
    for (int64_t t = 0; t < phase.taps; ++t) {
      const S* from = src + phase.offset[t];
      const T* factors = weight + phase.tap[t];
      const auto factor = whole ? C::load(factors) : C::load(factors, mask);
      ((sum[I] += (whole ? L::load(from + I * step) : L::load(from + I * step, mask)) * factor), ...);
    }
  }
  if (args.bias != nullptr) {
    const T* from = static_cast<const T*>(args.bias) + map;
    const auto bias = whole ? C::load(from) : C::load(from, mask);
    ((sum[I] += bias), ...);
  }
  if (args.activation != nullptr) ((sum[I] = activated<T>(sum[I], *args.activation)), ...);
  S* dst = static_cast<S*>(args.dst) + at * args.dst_step + phase.dst + map;
  (__builtin_prefetch(dst + I * args.dst_step + kDepthwiseAhead / sizeof(S), 1), ...);
  (L::store(dst + I * args.dst_step, sum[I], lanes), ...);
}

// A phase of few taps of all rows, of the first position.
constexpr int kFewTaps = 4;
constexpr int kFewPhases = 4;
template <class E>
struct DepthwiseFew {
  const typename E::storage* from[kFewTaps];
  const typename E::compute* factors[kFewTaps];
  int64_t taps;
};

// All whole vectors of maps for `N` taps, whose addresses stay in registers.
template <class E, int N, int... I>
[[gnu::always_inline]] inline void depthwise_few(const DepthwiseLastArgs& args, const DepthwiseFew<E>& few,
                                                 typename E::storage* dst, int64_t at,
                                                 Sequence<I...>) noexcept {
  using L = Lanes<E>;
  using S = typename E::storage;
  using C = Lanes<plain<E>>;
  using T = typename E::compute;
  constexpr int P = sizeof...(I);
  const int64_t step = args.src_step;
  const int64_t dst_step = args.dst_step;
  const int64_t maps = args.maps;
  const T* const bias = static_cast<const T*>(args.bias);
  const Activation* const activation = args.activation;
  const S* from[N];
  const T* factors[N];
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n) {
    from[n] = few.from[n] + at * step;
    factors[n] = few.factors[n];
  }
  dst += at * dst_step;
  for (int64_t map = 0; map + L::count <= maps; map += L::count) {
    typename L::type sum[P] = {};
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      const auto factor = C::load(factors[n] + map);
      ((sum[I] += L::load(from[n] + map + I * step) * factor), ...);
    }
    if (bias != nullptr) {
      const auto all = C::load(bias + map);
      ((sum[I] += all), ...);
    }
    if (activation != nullptr) ((sum[I] = activated<T>(sum[I], *activation)), ...);
    (__builtin_prefetch(dst + map + I * dst_step + kDepthwiseAhead / sizeof(S), 1), ...);
    (L::store(dst + map + I * dst_step, sum[I]), ...);
  }
}

// Phases take turns every few positions, so that the output is written about in order.
template <class E, int... I>
[[gnu::always_inline]] inline void depthwise_positions(const DepthwiseLastArgs& args,
                                                       const DepthwiseFew<E>* few, int64_t at,
                                                       Sequence<I...> positions) noexcept {
  constexpr int64_t L = Lanes<E>::count;
  for (int64_t p = 0; p < args.phases; ++p) {
    const DepthwisePhase& phase = args.phase[p];
    auto* const dst = static_cast<typename E::storage*>(args.dst) + phase.dst;
    int64_t map = 0;
    if (few != nullptr && few[p].taps > 0) {
      map = args.maps / L * L;
      switch (few[p].taps) {
        case 1:
          depthwise_few<E, 1>(args, few[p], dst, at, positions);
          break;
        case 2:
          depthwise_few<E, 2>(args, few[p], dst, at, positions);
          break;
        default:
          depthwise_few<E, 4>(args, few[p], dst, at, positions);
      }
    }
    for (; map + L <= args.maps; map += L) depthwise_maps<E>(args, phase, at, map, (int)L, positions);
    if (map < args.maps) depthwise_maps<E>(args, phase, at, map, (int)(args.maps - map), positions);
  }
}

template <class E>
[[gnu::always_inline]] inline void depthwise_last(const DepthwiseLastArgs& args) noexcept {
  DepthwiseFew<E> few[kFewPhases];
  for (int64_t p = 0; p < args.phases && args.phases <= kFewPhases; ++p) {
    const DepthwisePhase& phase = args.phase[p];
    const int64_t taps = args.rows * phase.taps;
    few[p].taps = taps == 1 || taps == 2 || taps == 4 ? taps : 0;
    for (int64_t n = 0; n < few[p].taps; ++n) {
      const int64_t r = n / phase.taps;
      const int64_t t = n % phase.taps;
      few[p].from[n] =
          static_cast<const typename E::storage*>(args.src[r]) + args.src_start + phase.offset[t];
      few[p].factors[n] = static_cast<const typename E::compute*>(args.weight[r]) + phase.tap[t];
    }
  }
  const auto* const some = args.phases <= kFewPhases ? few : nullptr;
  int64_t at = 0;
  for (; at + 4 <= args.count; at += 4) depthwise_positions<E>(args, some, at, UpTo<4>{});
  for (; at < args.count; ++at) depthwise_positions<E>(args, some, at, UpTo<1>{});
}

}  // namespace

#endif
