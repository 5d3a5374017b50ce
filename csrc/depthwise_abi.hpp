// What the kernels of the depthwise algorithm see: their arguments, and their code for vectors of any width.
#pragma once

#include "spread_abi.hpp"

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

// Family `depthwiseturns`, storage type in and out, two phases of two taps that read neighbours in rows as
// they lie. Output rows o < outputs, one or two, read the same rows; the next outputs read those that lie
// `src_row` elements further on, and so on: for j < repeats and 2 * i + p < count
//   dst[(j * outputs + o) * dst_row + 2 * i + p] = bias + sum over rows r, t < 2 of
//       src[r][j * src_row + first[p] + i - t] * weight[o * rows + r][tap[2 * p + t]]
// summed in the order of r, then t, where rows are zero outside [0, size) and first[1] - first[0] is 0 or 1.
constexpr int kDepthwiseTurnsRows = 4;  // at most
struct DepthwiseTurnsArgs {
  const void* const* src;
  const void* const* weight;
  int64_t rows;
  int64_t outputs;
  int64_t repeats;
  int64_t src_row;
  int64_t size;
  int64_t first[2];
  const int64_t* tap;
  const void* bias;              // one element, or null
  const Activation* activation;  // or null
  void* dst;
  int64_t dst_row;
  int64_t count;
  bool stream;  // rows of dst are lines of the cache, and go past the caches
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
  bool stream;  // what a position has of dst is lines of the cache, which go past the caches
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

// Lanes of two neighbouring vectors from lane `first` on.
template <class T, int first, int... I>
[[gnu::always_inline]] inline typename Vector<T>::type between(typename Vector<T>::type a,
                                                               typename Vector<T>::type b,
                                                               Sequence<I...>) noexcept {
#if defined(__AVX512F__)
  // A permutation of two vectors would wait for the ports that multiply.
  using Type = typename Vector<T>::type;
  if constexpr (sizeof(T) == 4) return (Type)_mm512_alignr_epi32((__m512i)b, (__m512i)a, first);
  if constexpr (sizeof(T) == 8) return (Type)_mm512_alignr_epi64((__m512i)b, (__m512i)a, first);
#endif
  typedef decltype(a == b) Index;
  constexpr Index lanes = {(I + first)...};
  return __builtin_shuffle(a, b, lanes);
}

// How the taps of a run are summed: any number of them; or four, of which the third reads one position
// further than the first and the fourth one further than the second, each pair of them from whole lines of
// which one is the second tap's (`back`) or the first's (`on`).
enum class Taps : int { any, back_on, back_back, on_on };

// Adds two taps that read neighbours from `src` on. Each line is loaded once and shifted in registers, for
// loads of whole lines that are not aligned cost twice.
template <class T, bool back, int... I>
[[gnu::always_inline]] inline void depthwise_neighbours(typename Vector<T>::type* sum, const T* src, T first,
                                                        T second, Sequence<I...>) noexcept {
  using L = Lanes<typename Plain<T>::type>;
  constexpr int V = sizeof...(I);
  constexpr auto lanes = UpTo<L::count>{};
  const T* const from = back ? src + 1 - L::count : src;
  const typename L::type line[V + 1] = {L::load(from + I * L::count)..., L::load(from + V * L::count)};
  if constexpr (back) {
    ((sum[I] += between<T, L::count - 1>(line[I], line[I + 1], lanes) * first), ...);
    ((sum[I] += line[I + 1] * second), ...);
  } else {
    ((sum[I] += line[I] * first), ...);
    ((sum[I] += between<T, 1>(line[I], line[I + 1], lanes) * second), ...);
  }
}

// A run of positions, as many vectors of each of `P` phases as there are indices.
template <class E, int P, int Fixed, Taps how, int... I>
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
    if constexpr (how != Taps::any) {
      const int64_t* tap = args.tap;
      depthwise_neighbours<T, how != Taps::on_on>(sum[0], src + args.offset[0], weight[tap[0]],
                                                  weight[tap[2]], run);
      depthwise_neighbours<T, how == Taps::back_back>(sum[0], src + args.offset[1], weight[tap[1]],
                                                      weight[tap[3]], run);
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

template <class E, int P, int Fixed, Taps how = Taps::any>
[[gnu::always_inline]] inline void depthwise_phases(const DepthwiseArgs& args) noexcept {
  constexpr int64_t L = Lanes<E>::count;
  int64_t at = 0;
  for (; (at + L) * P < args.count; at += 4 * L) depthwise_run<E, P, Fixed, how>(args, at, UpTo<4>{});
  if (at * P < args.count) depthwise_run<E, P, Fixed, how>(args, at, UpTo<1>{});
}

// Lanes of two vectors in turn. Short types are narrowed first, for half as many bytes are then shuffled.
template <class E, int... I>
[[gnu::always_inline]] inline void store_in_turns(typename E::storage* to, typename Lanes<E>::type even,
                                                  typename Lanes<E>::type odd, Sequence<I...>) noexcept {
  using L = Lanes<E>;
  if constexpr (sizeof(*to) == 2 && !same<E, bf16>) {
    typedef typename L::Short Short;
    constexpr int N = L::count;
    constexpr Short low = {((I & 1) ? N + I / 2 : I / 2)...};
    constexpr Short high = {((I & 1) ? N + N / 2 + I / 2 : N / 2 + I / 2)...};
    const Short a = L::narrow(even);
    const Short b = L::narrow(odd);
    const Short lower = __builtin_shuffle(a, b, low);
    const Short upper = __builtin_shuffle(a, b, high);
    memcpy(to, &lower, sizeof lower);
    memcpy(to + N, &upper, sizeof upper);
  } else {
    whole_pair<E, false>(to, even, odd);
  }
}

// A vector of positions of both phases after the other, so that the output is written in order: each line of
// a row is loaded once, and shifted in registers, for `O` output rows.
template <class E, int R, int O, int further>
[[gnu::always_inline]] inline void depthwise_turns_of(const DepthwiseTurnsArgs& args) noexcept {
  using S = typename E::storage;
  using T = typename E::compute;
  using L = Lanes<E>;
  using Type = typename L::type;
  constexpr int N = L::count;
  constexpr auto lanes = UpTo<N>{};
  const S* src[R + 1];
  Type before[R + 1];
  T factor[R + 1][O][4];
  // Positions from `first[1]` on that lie in the rows.
  const int64_t begin = -args.first[1];
  const int64_t end = args.size - args.first[1];
  const auto part = [begin, end](const S* row, int64_t at) __attribute__((always_inline)) {
    const auto below = [at](int64_t limit) { return L::first(limit > at ? limit - at : 0); };
    return L::load(row + at, below(end) & ~below(begin));
  };
  const auto whole = [](const S* row, int64_t at)
                         __attribute__((always_inline)) { return L::load(row + at); };
  const T bias = args.bias == nullptr ? T{0} : *static_cast<const T*>(args.bias);
  const Activation* const activation = args.activation;
  struct Sums {
    Type even[O];
    Type odd[O];
  };
  const auto finish = [bias, activation](Type sum) __attribute__((always_inline)) {
    sum += bias;
    if (activation != nullptr) [[unlikely]]
      return activated<T>(sum, *activation);
    return sum;
  };
  const auto sum_at = [&](int64_t at, const auto& load) __attribute__((always_inline)) {
    Sums sum{};
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Type here = load(src[r], at);
      const Type back = between<T, N - 1>(before[r], here, lanes);
      const Type middle = further == 1 ? back : here;
      const Type first = further == 1 ? between<T, N - 2>(before[r], here, lanes) : back;
#pragma GCC unroll 2
      for (int o = 0; o < O; ++o) {
        sum.even[o] += middle * factor[r][o][0];
        sum.even[o] += first * factor[r][o][1];
        sum.odd[o] += here * factor[r][o][2];
        sum.odd[o] += back * factor[r][o][3];
      }
      before[r] = here;
    }
#pragma GCC unroll 2
    for (int o = 0; o < O; ++o) {
      sum.even[o] = finish(sum.even[o]);
      sum.odd[o] = finish(sum.odd[o]);
    }
    return sum;
  };
  S* dst = static_cast<S*>(args.dst);
  const int64_t dst_row = args.dst_row;
  const bool stream = args.stream;
  const int64_t positions = (args.count + 1) / 2;
  const int64_t last = end - N < args.count / 2 - N ? end - N : args.count / 2 - N;
  int64_t at = 0;
  const auto edge = [&]() __attribute__((always_inline)) {
    const Sums sum = sum_at(at, part);
    const int64_t rest = args.count - 2 * at;
#pragma GCC unroll 2
    for (int o = 0; o < O; ++o) {
      S* const to = dst + o * dst_row + 2 * at;
      if (rest >= 2 * N) {
        store_in_turns<E>(to, sum.even[o], sum.odd[o], lanes);
      } else {
        Type pair[2];
        zip<T, N>(sum.even[o], sum.odd[o], pair, lanes);
        L::store(to, pair[0], rest < N ? (int)rest : N);
        if (rest > N) L::store(to + N, pair[1], (int)rest - N);
      }
    }
    at += N;
  };
  for (int64_t repeat = 0; repeat < args.repeats; ++repeat) {
    for (int64_t output = 0; output < args.outputs; output += O) {
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        src[r] = static_cast<const S*>(args.src[r]) + repeat * args.src_row + args.first[1];
        before[r] = part(src[r], -N);
#pragma GCC unroll 2
        for (int o = 0; o < O; ++o) {
          const T* weight = static_cast<const T*>(args.weight[(output + o) * R + r]);
#pragma GCC unroll 4
          for (int t = 0; t < 4; ++t) factor[r][o][t] = weight[args.tap[t]];
        }
      }
      at = 0;
      while (at < positions && at < begin) edge();
#pragma GCC unroll 2
      for (; at <= last; at += N) {
        const Sums sum = sum_at(at, whole);
#pragma GCC unroll 2
        for (int o = 0; o < O; ++o) {
          S* const to = dst + o * dst_row + 2 * at;
          if (stream) [[unlikely]] {
            whole_pair<E, true>(to, sum.even[o], sum.odd[o]);
          } else {
            store_in_turns<E>(to, sum.even[o], sum.odd[o], lanes);
          }
        }
      }
      while (at < positions) edge();
      dst += O * dst_row;
    }
  }
}

// Runs it for the numbers of rows the caller has.
template <class E, int further, int R = kDepthwiseTurnsRows>
[[gnu::always_inline]] inline void depthwise_turns_rows(const DepthwiseTurnsArgs& args) noexcept {
  // Two output rows at a time where what converts them is worth more than to write in order.
  constexpr bool pairs = sizeof(typename E::storage) < sizeof(typename E::compute) && Lanes<E>::count >= 8;
  if (args.rows != R) {
    if constexpr (R > 0) depthwise_turns_rows<E, further, R - 1>(args);
  } else if (pairs && args.outputs == 2) {
    if constexpr (pairs) depthwise_turns_of<E, R, 2, further>(args);
  } else {
    depthwise_turns_of<E, R, 1, further>(args);
  }
}

template <class E>
[[gnu::always_inline]] inline void depthwise_turns(const DepthwiseTurnsArgs& args) noexcept {
  if (args.first[1] == args.first[0]) {
    depthwise_turns_rows<E, 0>(args);
  } else {
    depthwise_turns_rows<E, 1>(args);
  }
}

template <class E>
[[gnu::always_inline]] inline void depthwise(const DepthwiseArgs& args) noexcept {
  if (args.phases == 1) {
    if constexpr (TCONV_VECTOR_BYTES == 64) {
      constexpr int64_t L = Lanes<E>::count;
      const int64_t* at = args.offset;
      if (args.taps[0] == 4 && at[2] == at[0] + 1 && at[3] == at[1] + 1) {
        const bool back[2] = {at[2] % L == 0, at[3] % L == 0};
        const bool on[2] = {at[0] % L == 0, at[1] % L == 0};
        if (back[0] && on[1]) return depthwise_phases<E, 1, 4, Taps::back_on>(args);
        if (back[0] && back[1]) return depthwise_phases<E, 1, 4, Taps::back_back>(args);
        if (on[0] && on[1]) return depthwise_phases<E, 1, 4, Taps::on_on>(args);
      }
    }
    depthwise_phases<E, 1, 0>(args);
  } else if (args.taps[0] != 2 || args.taps[1] != 2) {
    depthwise_phases<E, 2, 0>(args);
  } else {
    depthwise_phases<E, 2, 2>(args);
  }
}

// Bytes from what is stored to what is fetched.
constexpr int64_t kDepthwiseAhead = 4096;

// Adds `N` taps of a row to a tile of positions, of a vector of maps. Each tap reads the position before that
// of the tap before it, so that every position is loaded once.
template <class E, int N, class Load, class LoadFactor, int... I, int... J>
[[gnu::always_inline]] inline void depthwise_add_neighbours(typename Lanes<E>::type* sum,
                                                            const typename E::storage* from, int64_t step,
                                                            const typename E::compute* weight,
                                                            const int64_t* tap, const Load& load,
                                                            const LoadFactor& load_factor, Sequence<I...>,
                                                            Sequence<J...>) noexcept {
  from -= (N - 1) * step;
  const typename Lanes<E>::type line[] = {load(from + J * step)...};
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n) {
    const auto factor = load_factor(weight + tap[n]);
    ((sum[I] += line[I + N - 1 - n] * factor), ...);
  }
}

// A tile of positions by `V` vectors of maps, with an index for each sum, of which there are enough not to
// wait for each other. `lanes` is the maps of a vector that is not `whole`; taps are `neighbours`, of one
// vector, where each reads the position before that of the tap before it.
template <class E, int V, bool whole, bool neighbours, int... I>
[[gnu::always_inline]] inline void depthwise_maps(const DepthwiseLastArgs& args, const DepthwisePhase& phase,
                                                  int64_t at, int64_t map, int lanes,
                                                  Sequence<I...>) noexcept {
  using L = Lanes<E>;
  using S = typename E::storage;
  using C = Lanes<plain<E>>;
  using T = typename E::compute;
  using Type = typename L::type;
  const uint32_t mask = L::first(lanes);
  const auto load = [mask](const S* from) { return whole ? L::load(from) : L::load(from, mask); };
  struct Factors {
    Type vector[V];
  };
  const auto load_factors = [mask](const T* from) {
    Factors all;
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) all.vector[v] = whole ? C::load(from + v * C::count) : C::load(from, mask);
    return all;
  };
  Type sum[sizeof...(I)] = {};
  const int64_t step = args.src_step;
  for (int64_t r = 0; r < args.rows; ++r) {
    const S* src = static_cast<const S*>(args.src[r]) + args.src_start + at * step + map;
    const T* weight = static_cast<const T*>(args.weight[r]) + map;
    if constexpr (neighbours) {
      constexpr int P = sizeof...(I);
      const auto load_factor = [&](const T* from) { return load_factors(from).vector[0]; };
      const auto add = [&]<int N>(Sequence<N>, int64_t t) __attribute__((always_inline)) {
        depthwise_add_neighbours<E, N>(sum, src + phase.offset[t], step, weight, phase.tap + t, load,
                                       load_factor, Sequence<I...>{}, UpTo<P + N - 1>{});
      };
      int64_t t = 0;
      for (; t + 4 <= phase.taps; t += 4) add(Sequence<4>{}, t);
      if (t + 3 == phase.taps) {
        add(Sequence<3>{}, t);
      } else if (t + 2 == phase.taps) {
        add(Sequence<2>{}, t);
      } else if (t < phase.taps) {
        add(Sequence<1>{}, t);
      }
      continue;
    }
    for (int64_t t = 0; t < phase.taps; ++t) {
      const S* from = src + phase.offset[t];
      const Factors factors = load_factors(weight + phase.tap[t]);
      ((sum[I] += load(from + I / V * step + I % V * L::count) * factors.vector[I % V]), ...);
    }
  }
  if (args.bias != nullptr) {
    const Factors bias = load_factors(static_cast<const T*>(args.bias) + map);
    ((sum[I] += bias.vector[I % V]), ...);
  }
  if (args.activation != nullptr) ((sum[I] = activated<T>(sum[I], *args.activation)), ...);
  S* const dst = static_cast<S*>(args.dst) + at * args.dst_step + phase.dst + map;
  const auto put = [dst, lanes, to = args.dst_step](int i, Type value) {
    S* const here = dst + i / V * to + i % V * L::count;
    __builtin_prefetch(here + kDepthwiseAhead / sizeof(S), 1);
    L::store(here, value, whole ? L::count : lanes);
  };
  (put(I, sum[I]), ...);
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

// All whole vectors of maps for `N` taps, whose addresses stay in registers, which is why it is not inlined.
template <class E, int N, int... I>
[[gnu::noinline]] void depthwise_few(const DepthwiseLastArgs& args, const DepthwiseFew<E>& few,
                                     typename E::storage* dst, int64_t at, Sequence<I...>) noexcept {
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

// Whether the taps of a phase are so many neighbours that a position is better loaded once.
inline bool many_neighbours(const DepthwisePhase& phase, int64_t rows, int64_t step) noexcept {
  for (int64_t t = 1; t < phase.taps; ++t) {
    if (phase.offset[t] != phase.offset[t - 1] - step) return false;
  }
  return phase.taps > 2 || (phase.taps == 2 && rows > 2);
}

// All maps of a tile of positions of a phase of such taps.
template <class E, int... I>
[[gnu::noinline]] void depthwise_near(const DepthwiseLastArgs& args, const DepthwisePhase& phase, int64_t at,
                                      Sequence<I...> positions) noexcept {
  constexpr int64_t L = Lanes<E>::count;
  int64_t map = 0;
  for (; map + L <= args.maps; map += L)
    depthwise_maps<E, 1, true, true>(args, phase, at, map, (int)L, positions);
  if (map < args.maps)
    depthwise_maps<E, 1, false, true>(args, phase, at, map, (int)(args.maps - map), positions);
}

// The same of any phase; `few` may be null.
template <class E, int... I>
[[gnu::always_inline]] inline void depthwise_any(const DepthwiseLastArgs& args, const DepthwisePhase& phase,
                                                 const DepthwiseFew<E>* few, int64_t at,
                                                 Sequence<I...> positions) noexcept {
  constexpr int64_t L = Lanes<E>::count;
  auto* const dst = static_cast<typename E::storage*>(args.dst) + phase.dst;
  int64_t map = 0;
  if (few != nullptr && few->taps > 0) {
    map = args.maps / L * L;
    switch (few->taps) {
      case 1:
        depthwise_few<E, 1>(args, *few, dst, at, positions);
        break;
      case 2:
        depthwise_few<E, 2>(args, *few, dst, at, positions);
        break;
      default:
        depthwise_few<E, 4>(args, *few, dst, at, positions);
    }
  }
  constexpr int P = sizeof...(I);
  constexpr int V = P == 4 ? 2 : 4;
  for (; map + V * L <= args.maps; map += V * L) {
    depthwise_maps<E, V, true, false>(args, phase, at, map, (int)L, UpTo<P * V>{});
  }
  for (; map + L <= args.maps; map += L)
    depthwise_maps<E, 1, true, false>(args, phase, at, map, (int)L, positions);
  if (map < args.maps) {
    depthwise_maps<E, 1, false, false>(args, phase, at, map, (int)(args.maps - map), positions);
  }
}

// Phases take turns every few positions, so that the output is written about in order. Bit p of `near` tells
// whether phase p has many neighbours.
template <class E, int P>
[[gnu::always_inline]] inline void depthwise_positions(const DepthwiseLastArgs& args,
                                                       const DepthwiseFew<E>* some, uint64_t near,
                                                       int64_t at) noexcept {
  for (int64_t p = 0; p < args.phases; ++p) {
    const DepthwisePhase& phase = args.phase[p];
    if (P >= 4 && near >> p & 1) {
      depthwise_near<E>(args, phase, at, UpTo<P>{});
      continue;
    }
    const auto* const few = some != nullptr ? some + p : nullptr;
    constexpr int most = P < 4 ? P : 4;
    for (int64_t i = at; i < at + P; i += most) depthwise_any<E>(args, phase, few, i, UpTo<most>{});
  }
}

// Where two phases of two taps read: one position further and itself, itself and one back, counted from the
// first tap; or the latter both.
enum class Reads : int { around, back };

// Positions that are computed for all maps before the next, and bytes of their outputs that are near enough
// to be fetched before they are stored.
constexpr int64_t kWindowPositions = 8;
constexpr int64_t kWindowBytes = 4096;

// Two phases of two taps of `R` rows, for one vector of maps: all factors stay in registers, and so does what
// a position shares with the next.
template <class E, Reads reads, int R, bool whole>
[[gnu::always_inline]] inline void depthwise_window(const DepthwiseLastArgs& args, int64_t at, int64_t end,
                                                    int64_t map, bool near) noexcept {
  using L = Lanes<E>;
  using S = typename E::storage;
  using C = Lanes<plain<E>>;
  using T = typename E::compute;
  using Type = typename L::type;
  const int lanes = whole ? L::count : (int)(args.maps - map);
  const uint32_t mask = L::first(lanes);
  const auto load = [mask](const S* from) { return whole ? L::load(from) : L::load(from, mask); };
  const auto load_factor = [mask](const T* from) { return whole ? C::load(from) : C::load(from, mask); };
  const int64_t step = args.src_step;
  constexpr int further = reads == Reads::around ? 1 : 0;
  const S* src[R];
  Type before[R];
  Type here[R];
  Type factor[R][4];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    src[r] = static_cast<const S*>(args.src[r]) + args.src_start + args.phase[0].offset[0] + at * step + map;
    before[r] = load(src[r] - step);
    if (further == 1) here[r] = load(src[r]);
    src[r] += further * step;
    const T* weight = static_cast<const T*>(args.weight[r]) + map;
#pragma GCC unroll 4
    for (int t = 0; t < 4; ++t) factor[r][t] = load_factor(weight + args.phase[t / 2].tap[t % 2]);
  }
  const Type bias = args.bias == nullptr ? Type{} : load_factor(static_cast<const T*>(args.bias) + map);
  const Activation* const activation = args.activation;
  const bool stream = whole && args.stream;
  const int64_t dst_step = args.dst_step;
  S* even = static_cast<S*>(args.dst) + args.phase[0].dst + at * dst_step + map;
  const int64_t odd = args.phase[1].dst - args.phase[0].dst;
  const auto put = [&](S* to, Type value) {
    value += bias;
    if (activation != nullptr) [[unlikely]]
      value = activated<T>(value, *activation);
    if (stream) [[unlikely]] {
      stream_out<E>(to, value);
    } else {
      if (near) __builtin_prefetch(to + kDepthwiseAhead / sizeof(S), 1);
      L::store(to, value, lanes);
    }
  };
#pragma GCC unroll 1
  for (int64_t i = at; i < end; ++i) {
    Type sum[2] = {};
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Type last = load(src[r]);
      src[r] += step;
      const Type middle = further == 1 ? here[r] : last;
      sum[0] += middle * factor[r][0];
      sum[0] += before[r] * factor[r][1];
      sum[1] += last * factor[r][2];
      sum[1] += (further == 1 ? middle : before[r]) * factor[r][3];
      before[r] = middle;
      here[r] = last;
    }
    put(even, sum[0]);
    put(even + odd, sum[1]);
    even += dst_step;
  }
}

template <class E, Reads reads, int R>
[[gnu::always_inline]] inline bool depthwise_windows(const DepthwiseLastArgs& args, bool near) noexcept {
  constexpr int64_t L = Lanes<E>::count;
  if (args.rows == R) {
    for (int64_t at = 0; at < args.count; at += kWindowPositions) {
      const int64_t end = at + kWindowPositions < args.count ? at + kWindowPositions : args.count;
      int64_t map = 0;
      for (; map + L <= args.maps; map += L) depthwise_window<E, reads, R, true>(args, at, end, map, near);
      if (map < args.maps) depthwise_window<E, reads, R, false>(args, at, end, map, near);
    }
    return true;
  }
  if constexpr (R > 1) return depthwise_windows<E, reads, R - 1>(args, near);
  return false;
}

// Whether the phases are such, and so few rows that their factors fit into registers: then done. Outputs that
// lie far apart are better written a position after the other, but for types that have to be converted.
template <class E>
[[gnu::always_inline]] inline bool depthwise_windows(const DepthwiseLastArgs& args) noexcept {
  using S = typename E::storage;
  constexpr int R = TCONV_VECTOR_BYTES == 64 ? 4 : 2;
  if (args.phases != 2 || args.phase[0].taps != 2 || args.phase[1].taps != 2) return false;
  const int64_t first = args.phase[0].offset[0];
  const int64_t* const second = args.phase[1].offset;
  const int64_t step = args.src_step;
  if (args.phase[0].offset[1] != first - step || second[1] != second[0] - step) return false;
  const bool near = kWindowPositions * args.dst_step * (int64_t)sizeof(S) <= kWindowBytes;
  if (!near && !args.stream && sizeof(S) == sizeof(typename E::compute)) return false;
  if (second[0] == first + step) return depthwise_windows<E, Reads::around, R>(args, near);
  if (second[0] == first) return depthwise_windows<E, Reads::back, R>(args, near);
  return false;
}

template <class E>
[[gnu::always_inline]] inline void depthwise_last(const DepthwiseLastArgs& args) noexcept {
  if (depthwise_windows<E>(args)) return;
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
  uint64_t near = 0;
  for (int64_t p = 0; p < args.phases; ++p) {
    if (many_neighbours(args.phase[p], args.rows, args.src_step)) near |= uint64_t{1} << p;
  }
  int64_t at = 0;
  if (TCONV_VECTOR_BYTES == 64 && near != 0) {
    for (; at + 8 <= args.count; at += 8) depthwise_positions<E, 8>(args, some, near, at);
  }
  for (; at + 4 <= args.count; at += 4) depthwise_positions<E, 4>(args, some, near, at);
  for (; at + 2 <= args.count; at += 2) depthwise_positions<E, 2>(args, some, near, at);
  if (at < args.count) depthwise_positions<E, 1>(args, some, near, at);
}

}  // namespace

#endif
