// What the kernel that sums products map by map sees: its arguments, and its code for vectors of any width.
#pragma once

#include "kernel_abi.hpp"

// Family `mapdots`, both sides of the storage type, sums of the compute type: for c < columns and l < maps,
// at most a vector,
//   sums[c * lanes + l] += sum over i < count of a[i * a_step + l] * b[i * b_step + c * b_column + l]
// for any number of columns.
struct MapDotsArgs {
  const void* a;
  const void* b;
  void* sums;
  int64_t a_step;
  int64_t b_step;
  int64_t b_column;
  int64_t count;
  int64_t columns;
  int64_t maps;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

constexpr int kMapColumns = 8;

template <class E, int C, bool whole>
[[gnu::always_inline]] inline void map_columns(const MapDotsArgs& args, int64_t first) noexcept {
  using S = typename E::storage;
  using T = typename E::compute;
  using L = Lanes<E>;
  using Loose = typename Vector<T>::loose;
  const uint32_t mask = L::first(args.maps);
  const auto load = [mask](const S* from) { return whole ? L::load(from) : L::load(from, mask); };
  const S* a = static_cast<const S*>(args.a);
  const S* b = static_cast<const S*>(args.b) + first * args.b_column;
  typename L::type sum[C] = {};
#pragma GCC unroll 1
  for (int64_t i = 0; i < args.count; ++i) {
    const auto left = load(a);
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) sum[c] += left * load(b + c * args.b_column);
    a += args.a_step;
    b += args.b_step;
  }
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c)
    *reinterpret_cast<Loose*>(static_cast<T*>(args.sums) + (first + c) * L::count) += sum[c];
}

template <class E, bool whole, int C = kMapColumns>
[[gnu::always_inline]] inline void map_rest(const MapDotsArgs& args, int64_t first) noexcept {
  if (args.columns - first == C) {
    map_columns<E, C, whole>(args, first);
  } else if constexpr (C > 1) {
    map_rest<E, whole, C - 1>(args, first);
  }
}

template <class E, bool whole>
[[gnu::always_inline]] inline void map_dots(const MapDotsArgs& args) noexcept {
  int64_t first = 0;
  for (; args.columns - first > kMapColumns; first += kMapColumns)
    map_columns<E, kMapColumns, whole>(args, first);
  map_rest<E, whole>(args, first);
}

template <class E>
[[gnu::always_inline]] inline void map_dots(const MapDotsArgs& args) noexcept {
  if (args.maps == Lanes<E>::count) {
    map_dots<E, true>(args);
  } else {
    map_dots<E, false>(args);
  }
}

}  // namespace

#endif
