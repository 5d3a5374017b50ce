// What the kernels that spread maps see: their arguments, and their code for vectors of any width.
#pragma once

#include "kernel_abi.hpp"

// Family `mapspread`, storage type in and out: every position's maps are picked to vectors. For r < rows,
// i < count and each vector v of `vector`
//   dst[r * dst_row + i * dst_step + v's number * lanes + l] = picked lane l of
//     src[r * src_row + i * src_step + v.first ...]
// Of the first `lanes` numbers there, v.lane tells which one each lane takes; for each load after it, v.lane
// goes on with l where the lane keeps what it has, or `lanes` + j where it takes number j of the next `lanes`
// numbers. Indices are as wide as the elements. Numbers from `end` on are not read, but taken as zero.
struct MapSpread {
  const void* lane;
  int64_t loads;
  int64_t first;
};
struct MapSpreadArgs {
  const void* src;
  const void* end;
  int64_t src_row;
  int64_t src_step;
  void* dst;
  int64_t dst_row;
  int64_t dst_step;
  int64_t rows;
  int64_t count;
  const MapSpread* vector;
  int64_t vectors;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

// `N` is the number of loads where it is known in advance, or zero.
template <class E, int N>
[[gnu::always_inline]] inline void mapspread_vector(const MapSpreadArgs& args, const MapSpread& vector,
                                                    typename E::storage* dst) noexcept {
  using S = typename E::storage;
  constexpr int L = Lanes<E>::count;
  typedef S Numbers __attribute__((vector_size(L * sizeof(S))));
  typedef decltype(Numbers{} == Numbers{}) Index;
  const int64_t loads = N > 0 ? N : vector.loads;
  const auto* const end = static_cast<const S*>(args.end);
  const auto index = [&vector](int64_t n) {
    Index lane;
    memcpy(&lane, static_cast<const char*>(vector.lane) + n * (int64_t)sizeof lane, sizeof lane);
    return lane;
  };
  const auto numbers = [end](const S* from) {
    Numbers all{};
    if (end - from >= L) [[likely]] {
      memcpy(&all, from, sizeof all);
    } else {
      for (int l = 0; l < L && from + l < end; ++l) all[l] = from[l];
    }
    return all;
  };
  const Index first = index(0);
  const Index second = N == 2 ? index(1) : Index{};
  const S* src = static_cast<const S*>(args.src) + vector.first;
  const int64_t src_step = args.src_step;
  const int64_t dst_step = args.dst_step;
  for (int64_t r = 0; r < args.rows; ++r) {
    const S* from = src + r * args.src_row;
    S* to = dst + r * args.dst_row;
    for (int64_t i = args.count; i > 0; --i) {
      Numbers all = __builtin_shuffle(numbers(from), first);
      if constexpr (N == 2) all = __builtin_shuffle(all, numbers(from + L), second);
      if constexpr (N == 0) {
        for (int64_t n = 1; n < loads; ++n) all = __builtin_shuffle(all, numbers(from + n * L), index(n));
      }
      memcpy(to, &all, sizeof all);
      from += src_step;
      to += dst_step;
    }
  }
}

template <class E>
[[gnu::always_inline]] inline void mapspread(const MapSpreadArgs& args) noexcept {
  auto* dst = static_cast<typename E::storage*>(args.dst);
  for (int64_t v = 0; v < args.vectors; ++v) {
    const MapSpread& vector = args.vector[v];
    if (vector.loads == 1) {
      mapspread_vector<E, 1>(args, vector, dst);
    } else if (vector.loads == 2) {
      mapspread_vector<E, 2>(args, vector, dst);
    } else {
      mapspread_vector<E, 0>(args, vector, dst);
    }
    dst += Lanes<E>::count;
  }
}

}  // namespace

#endif
