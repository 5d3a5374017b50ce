// What the kernel of layers in groups whose maps are turned to lie together sees: its arguments, and its code
// for vectors of any width.
#pragma once

#include "activation_abi.hpp"

// Maps that lie together, in elements: a position of the source, and a tap of the weights, hold so many.
constexpr int kTurnedMaps = 16;
// The longest period of places that share factors, if a vector has more lanes.
constexpr int kTurnedPeriod = 8;

// Family `depthwiseturned`, from the compute type to the storage type, lanes being maps up to the store.
// Places go by squares, of as many as a vector has lanes, which have slots for so many taps: for place i of a
// square and map m < maps
//   dst[m * dst_map + i] = bias[m] + sum over d < depth and slots t of
//                          src[d * src_step + source[t][i] + m] * weight[d * weight_step + factor[t][i] + m]
// summed in the order of d, then t, where `table` holds the factors of a slot, then its sources. Places a
// period apart share their factors, of which the table holds those of a period. Reads kTurnedMaps maps of
// source, weights and bias whatever `maps` is. Without a table no place has a tap.
struct DepthwiseTurnedArgs {
  const void* src;
  const void* weight;
  int64_t depth;
  int64_t src_step;
  int64_t weight_step;
  const int32_t* slots;          // of each square
  const int32_t* table;          // of all squares, or null
  int64_t period;                // at most kTurnedPeriod, or the lanes of a vector
  const void* bias;              // or null
  const Activation* activation;  // or null
  void* dst;
  int64_t dst_map;
  int64_t places;
  int64_t maps;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

// A square of as many places as there are indices, mirrored in registers before the store.
template <class E, int P, int... I>
[[gnu::always_inline]] inline void turned_square(const DepthwiseTurnedArgs& args, const int32_t* table,
                                                 int64_t slots, int64_t map, int64_t at,
                                                 Sequence<I...>) noexcept {
  using L = Lanes<E>;
  using T = typename E::compute;
  using C = Lanes<plain<E>>;
  using Type = typename L::type;
  constexpr int N = L::count;
  const T* src = static_cast<const T*>(args.src) + map;
  const T* weight = static_cast<const T*>(args.weight) + map;
  Type sum[N] = {};
  for (int64_t d = args.depth; d > 0; --d) {
    const int32_t* slot = table;
#pragma GCC unroll 1
    for (int64_t t = slots; t > 0; --t) {
      if constexpr (P < N) {
        Type factor[P];
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) factor[p] = C::load(weight + slot[p]);
        ((sum[I] += C::load(src + slot[P + I]) * factor[I % P]), ...);
      } else {
        ((sum[I] += C::load(src + slot[P + I]) * C::load(weight + slot[I])), ...);
      }
      slot += P + N;
    }
    src += args.src_step;
    weight += args.weight_step;
  }
  if (args.bias != nullptr) {
    const Type bias = C::load(static_cast<const T*>(args.bias) + map);
    ((sum[I] += bias), ...);
  }
  if (args.activation != nullptr) [[unlikely]]
    ((sum[I] = activated<T>(sum[I], *args.activation)), ...);
  mirror<T, N>(sum);
  const int height = args.maps - map < N ? (int)(args.maps - map) : N;
  const int width = args.places - at < N ? (int)(args.places - at) : N;
  auto* dst = static_cast<typename E::storage*>(args.dst) + map * args.dst_map + at;
  if (height == N && width == N) {
#pragma GCC unroll 16
    for (int m = 0; m < N; ++m) {
      L::store(dst, sum[m]);
      dst += args.dst_map;
    }
    return;
  }
#pragma GCC unroll 16
  for (int m = 0; m < N; ++m) {
    if (m == height) break;
    L::store(dst, sum[m], width);
    dst += args.dst_map;
  }
}

template <class E, int P>
[[gnu::always_inline]] inline void turned_squares(const DepthwiseTurnedArgs& args) noexcept {
  constexpr int N = Lanes<E>::count;
  constexpr int few = N > 4 ? N / 4 : 1;
  for (int64_t map = 0; map < args.maps; map += N) {
    const int32_t* table = args.table;
    for (int64_t at = 0; at < args.places; at += N) {
      const int64_t slots = args.slots[at / N];
      if (args.places - at > few) {
        turned_square<E, P>(args, table, slots, map, at, UpTo<N>{});
      } else {
        turned_square<E, P>(args, table, slots, map, at, UpTo<few>{});
      }
      table += slots * (P + N);
    }
  }
}

// Places without a tap.
template <class E>
[[gnu::always_inline]] inline void turned_gap(const DepthwiseTurnedArgs& args) noexcept {
  using L = Lanes<E>;
  using T = typename E::compute;
  for (int64_t m = 0; m < args.maps; ++m) {
    typename L::type value = {};
    if (args.bias != nullptr) value += static_cast<const T*>(args.bias)[m];
    if (args.activation != nullptr) value = activated<T>(value, *args.activation);
    auto* const dst = static_cast<typename E::storage*>(args.dst) + m * args.dst_map;
    int64_t i = 0;
    for (; i + L::count <= args.places; i += L::count) L::store(dst + i, value);
    if (i < args.places) L::store(dst + i, value, (int)(args.places - i));
  }
}

template <class E, int P = kTurnedPeriod>
[[gnu::always_inline]] inline void depthwise_turned(const DepthwiseTurnedArgs& args) noexcept {
  if (P == kTurnedPeriod && args.table == nullptr) {
    turned_gap<E>(args);
  } else if constexpr (P == 0) {
    turned_squares<E, Lanes<E>::count>(args);
  } else if (P < Lanes<E>::count && args.period == P) {
    turned_squares<E, P>(args);
  } else {
    depthwise_turned<E, P - 1>(args);
  }
}

}  // namespace

#endif
