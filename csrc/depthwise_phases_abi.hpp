// What the kernel of depthwise layers of a few maps that lie together sees: its arguments, and its code for
// vectors of any width.
#pragma once

#include "activation_abi.hpp"

// Family `depthwisephases`, from the compute type to the storage type, lanes being neighbours in a row of the
// output, of all phases and maps. Vectors go by patterns, which take turns; a round of all of them reads
// `round` elements further on. For element l of vector v, which has pattern p = v % patterns, if begin <=
// v * lanes + l < end
//   dst[v * lanes + l] = bias[p][l] + sum over rows r, taps t of weight[r][p][t][l] *
//                        src[r][v / patterns * round + first[p] - t * tap_step + index[p][l]]
// summed in the order of r, then t. Taps from `whole_taps` on are only of the lanes that `mask` has bits for.
// An index is below the lanes of a vector, which is read from its first element on.
struct DepthwisePhasesArgs {
  const void* const* src;
  const void* const* weight;
  int64_t rows;
  int64_t taps;
  int64_t whole_taps;
  int64_t tap_step;
  int64_t patterns;
  int64_t round;
  const int64_t* first;
  const void* index;             // integers of the width of the compute type
  const void* mask;              // of the same: [pattern][tap from whole_taps on][lane], all bits or none
  const void* bias;              // [pattern][lane], or null
  const Activation* activation;  // or null
  void* dst;
  int64_t begin;
  int64_t end;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

// As many vectors of a pattern as there are indices, a round apart, from one on whose round begins at
// `source`.
template <class E, int... I>
[[gnu::always_inline]] inline void phases_of(const DepthwisePhasesArgs& args, int64_t vector, int64_t pattern,
                                             int64_t source, Sequence<I...>) noexcept {
  using L = Lanes<E>;
  using T = typename E::compute;
  using C = Lanes<plain<E>>;
  using Type = typename L::type;
  typedef decltype(Type{} == Type{}) Index;
  constexpr int64_t N = L::count;
  const int64_t ragged = args.taps - args.whole_taps;
  const auto vector_of = [](const void* from, int64_t at) __attribute__((always_inline)) {
    Index value;
    memcpy(&value, static_cast<const Index*>(from) + at, sizeof value);
    return value;
  };
  const Index index = vector_of(args.index, pattern);
  const int64_t begin = source + args.first[pattern];
  Type sum[sizeof...(I)] = {};
  for (int64_t r = 0; r < args.rows; ++r) {
    const T* src = static_cast<const T*>(args.src[r]) + begin;
    const T* weight = static_cast<const T*>(args.weight[r]) + pattern * args.taps * N;
    int64_t t = 0;
    for (; t < args.whole_taps; ++t, src -= args.tap_step, weight += N) {
      const Type factor = C::load(weight);
      ((sum[I] += __builtin_shuffle(C::load(src + I * args.round), index) * factor), ...);
    }
    for (; t < args.taps; ++t, src -= args.tap_step, weight += N) {
      const Type factor = C::load(weight);
      const Index mask = vector_of(args.mask, pattern * ragged + t - args.whole_taps);
      ((sum[I] += (Type)((Index)__builtin_shuffle(C::load(src + I * args.round), index) & mask) * factor),
       ...);
    }
  }
  if (args.bias != nullptr) {
    const Type bias = C::load(static_cast<const T*>(args.bias) + pattern * N);
    ((sum[I] += bias), ...);
  }
  if (args.activation != nullptr) ((sum[I] = activated<T>(sum[I], *args.activation)), ...);
  const auto put = [&args, vector](int i, Type value) __attribute__((always_inline)) {
    const int64_t at = (vector + i * args.patterns) * N;
    auto* const to = static_cast<typename E::storage*>(args.dst) + at;
    if (args.begin <= at && at + N <= args.end) {
      L::store(to, value);
    } else {
      L::store_lanes(to, value, args.begin > at ? (int)(args.begin - at) : 0,
                     args.end < at + N ? (int)(args.end - at) : (int)N);
    }
  };
  (put(I, sum[I]), ...);
}

template <class E>
[[gnu::always_inline]] inline void depthwise_phases(const DepthwisePhasesArgs& args) noexcept {
  constexpr int64_t N = Lanes<E>::count;
  const int64_t last = (args.end + N - 1) / N;
  int64_t vector = args.begin / N;
  int64_t pattern = vector % args.patterns;
  int64_t source = vector / args.patterns * args.round;
  while (vector < last) {
    const bool four = pattern == 0 && vector + 4 * args.patterns <= last;
    for (; pattern < args.patterns && vector < last; ++pattern, ++vector) {
      if (four) {
        phases_of<E>(args, vector, pattern, source, UpTo<4>{});
      } else {
        phases_of<E>(args, vector, pattern, source, UpTo<1>{});
      }
    }
    pattern = 0;
    source += (four ? 4 : 1) * args.round;
    if (four) vector += 3 * args.patterns;
  }
}

}  // namespace

#endif
