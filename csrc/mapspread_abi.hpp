// What the kernels that spread maps see: their arguments, and their code for vectors of any width.
#pragma once

#include "kernel_abi.hpp"

// Family `mapspread`, storage type in and out: every position's maps are picked to vectors, once for each of
// `depth` maps of a group. For d < depth, r < rows, i < count and each vector v of `vector`
//   dst[d * dst_depth + r * dst_row + i * dst_step + v's number * lanes + l] = picked lane l of
//     src[d + r * src_row + i * src_step + v.first ...]
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
  int64_t depth;
  int64_t dst_depth;
  bool apart;  // whether lane l takes number l * depth, for each d
  int64_t rows;
  int64_t count;
  const MapSpread* vector;
  int64_t vectors;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

template <class S, int L>
struct Numbers {
  typedef S type __attribute__((vector_size(L * sizeof(S))));
  typedef decltype(type{} == type{}) Index;

  // Those before `end`, the others being zero.
  [[gnu::always_inline]] static inline type load(const S* from, const S* end) noexcept {
    type all{};
    if (end - from >= L) [[likely]] {
      memcpy(&all, from, sizeof all);
    } else {
      for (int l = 0; l < L && from + l < end; ++l) all[l] = from[l];
    }
    return all;
  }
};

// `N` is the number of loads where it is known in advance, or zero.
template <class E, int N>
[[gnu::always_inline]] inline void mapspread_vector(const MapSpreadArgs& args, const MapSpread& vector,
                                                    typename E::storage* dst, int64_t d) noexcept {
  using S = typename E::storage;
  constexpr int L = Lanes<E>::count;
  using Of = Numbers<S, L>;
  using Index = typename Of::Index;
  const int64_t loads = N > 0 ? N : vector.loads;
  const auto* const end = static_cast<const S*>(args.end);
  const auto index = [&vector](int64_t n) {
    Index lane;
    memcpy(&lane, static_cast<const char*>(vector.lane) + n * (int64_t)sizeof lane, sizeof lane);
    return lane;
  };
  const Index first = index(0);
  const Index second = N == 2 ? index(1) : Index{};
  const S* src = static_cast<const S*>(args.src) + vector.first + d;
  dst += d * args.dst_depth;
  const int64_t src_step = args.src_step;
  const int64_t dst_step = args.dst_step;
  for (int64_t r = 0; r < args.rows; ++r) {
    const S* from = src + r * args.src_row;
    S* to = dst + r * args.dst_row;
    for (int64_t i = args.count; i > 0; --i) {
      auto all = __builtin_shuffle(Of::load(from, end), first);
      if constexpr (N == 2) all = __builtin_shuffle(all, Of::load(from + L, end), second);
      if constexpr (N == 0) {
        for (int64_t n = 1; n < loads; ++n)
          all = __builtin_shuffle(all, Of::load(from + n * L, end), index(n));
      }
      memcpy(to, &all, sizeof all);
      from += src_step;
      to += dst_step;
    }
  }
}

// Vectors of a stream of N numbers in turn come to hold one of them each; N is a power of two.
template <class S, int L, int N, int... I>
[[gnu::always_inline]] inline void take_apart(typename Numbers<S, L>::type (&v)[N],
                                              Sequence<I...> lanes) noexcept {
  if constexpr (N > 1) {
    using Index = typename Numbers<S, L>::Index;
    constexpr Index even = {(2 * I)...};
    constexpr Index odd = {(2 * I + 1)...};
    typename Numbers<S, L>::type half[2][N / 2];
#pragma GCC unroll 8
    for (int i = 0; i < N / 2; ++i) {
      half[0][i] = __builtin_shuffle(v[2 * i], v[2 * i + 1], even);
      half[1][i] = __builtin_shuffle(v[2 * i], v[2 * i + 1], odd);
    }
    take_apart<S, L, N / 2>(half[0], lanes);
    take_apart<S, L, N / 2>(half[1], lanes);
#pragma GCC unroll 8
    for (int i = 0; i < N / 2; ++i) {
      v[2 * i] = half[0][i];
      v[2 * i + 1] = half[1][i];
    }
  }
}

// All copies at once of groups of `N` maps that give a lane each.
template <class E, int N>
[[gnu::always_inline]] inline void mapspread_apart(const MapSpreadArgs& args, const MapSpread& vector,
                                                   typename E::storage* dst) noexcept {
  using S = typename E::storage;
  constexpr int L = Lanes<E>::count;
  using Of = Numbers<S, L>;
  const auto* const end = static_cast<const S*>(args.end);
  const S* src = static_cast<const S*>(args.src) + vector.first;
  const int64_t apart = args.dst_depth;
  for (int64_t r = 0; r < args.rows; ++r) {
    const S* from = src + r * args.src_row;
    S* to = dst + r * args.dst_row;
    for (int64_t i = args.count; i > 0; --i) {
      typename Of::type v[N];
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) v[n] = Of::load(from + n * L, end);
      take_apart<S, L, N>(v, UpTo<L>{});
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) memcpy(to + n * apart, &v[n], sizeof v[n]);
      from += args.src_step;
      to += args.dst_step;
    }
  }
}

template <class E>
[[gnu::always_inline]] inline void mapspread(const MapSpreadArgs& args) noexcept {
  auto* dst = static_cast<typename E::storage*>(args.dst);
  for (int64_t v = 0; v < args.vectors; ++v) {
    const MapSpread& vector = args.vector[v];
    if (args.apart && args.depth == 2) {
      mapspread_apart<E, 2>(args, vector, dst);
    } else if (args.apart && args.depth == 4) {
      mapspread_apart<E, 4>(args, vector, dst);
    } else if (args.apart && args.depth == 8) {
      mapspread_apart<E, 8>(args, vector, dst);
    } else if (args.apart && args.depth == 16) {
      mapspread_apart<E, 16>(args, vector, dst);
    } else {
      for (int64_t d = 0; d < args.depth; ++d) {
        if (vector.loads == 1) {
          mapspread_vector<E, 1>(args, vector, dst, d);
        } else if (vector.loads == 2) {
          mapspread_vector<E, 2>(args, vector, dst, d);
        } else {
          mapspread_vector<E, 0>(args, vector, dst, d);
        }
      }
    }
    dst += Lanes<E>::count;
  }
}

}  // namespace

#endif
