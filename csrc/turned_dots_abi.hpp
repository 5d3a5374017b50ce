// What the kernel of the weight gradient of maps that are turned to lie together sees: its arguments, and its
// code for vectors of any width.
#pragma once

#include "depthwise_turned_abi.hpp"

// Taps that are summed at a time.
constexpr int kTurnedTaps = 9;

// Taps of a run, and entries of the table: positions of the small side that some of them lead to the large
// one.
struct TurnedRun {
  int32_t taps;
  int32_t entries;
};

// Family `turneddots`, of the compute type, lanes being maps. For each run, tap t of it, and map
// m < kTurnedMaps
//   sums[t][m] += sum over entries e of small[position[e] + m] * large[place[e][t] + m]
// where the table holds the position of an entry, then its places. `sums` and the table hold runs one behind
// the other.
struct TurnedDotsArgs {
  const void* small;
  const void* large;
  const TurnedRun* run;
  int64_t runs;
  const int32_t* table;
  void* sums;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

template <class T, int... I>
[[gnu::always_inline]] inline void turned_taps(const TurnedDotsArgs& args, const int32_t* table,
                                               int64_t entries, int64_t map, T* sums,
                                               Sequence<I...>) noexcept {
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  const auto load = [](const T* from) -> Type { return *reinterpret_cast<const Loose*>(from); };
  const T* const small = static_cast<const T*>(args.small) + map;
  const T* const large = static_cast<const T*>(args.large) + map;
  Type sum[sizeof...(I)] = {};
#pragma GCC unroll 1
  for (int64_t e = entries; e > 0; --e) {
    const Type left = load(small + table[0]);
    ((sum[I] += left * load(large + table[1 + I])), ...);
    table += 1 + sizeof...(I);
  }
  ((*reinterpret_cast<Loose*>(sums + I * kTurnedMaps + map) += sum[I]), ...);
}

template <class T, int C = kTurnedTaps>
[[gnu::always_inline]] inline void turned_run(const TurnedDotsArgs& args, const TurnedRun& run,
                                              const int32_t* table, T* sums) noexcept {
  if (run.taps == C) {
    for (int64_t map = 0; map < kTurnedMaps; map += Vector<T>::lanes)
      turned_taps<T>(args, table, run.entries, map, sums, UpTo<C>{});
  } else if constexpr (C > 1) {
    turned_run<T, C - 1>(args, run, table, sums);
  }
}

template <class T>
[[gnu::always_inline]] inline void turned_dots(const TurnedDotsArgs& args) noexcept {
  const int32_t* table = args.table;
  T* sums = static_cast<T*>(args.sums);
  for (int64_t r = 0; r < args.runs; ++r) {
    const TurnedRun& run = args.run[r];
    turned_run<T>(args, run, table, sums);
    table += run.entries * (1 + run.taps);
    sums += run.taps * kTurnedMaps;
  }
}

}  // namespace

#endif
