// What the kernels of products whose rows are positions as they lie see: their arguments, and their code for
// vectors of any width.
#pragma once

#include "activation_abi.hpp"
#include "pair_abi.hpp"

// Family `positions`, in the compute type: for each row r and lane l
//   c[r * c_row + l] = sum over steps k of a[r * a_row + k * a_step] * b[k * tile lanes + l]
// summed in the order of k, starting at zero; a_row or a_step is one. Step k fetches what lies k * ahead_step
// bytes from `ahead`. Those for bf16 take pairs for elements of a and b, two steps of depth in 32 bits, the
// first in the lower half; c is float.
struct PositionsArgs {
  const void* a;
  const void* b;
  void* c;
  int64_t depth;
  int64_t a_row;
  int64_t a_step;
  int64_t c_row;
  const char* ahead;
  int64_t ahead_step;
  int32_t rows;
};

// Family `assemble`, from the compute type to the storage type: places of an output row, of `unit` elements
// each, are sums of pieces, of which the first `whole` are as long as a place and the others `rest` elements.
// For place q and element u with begin <= q * unit + u < end
//   dst[q * unit + u] = bias[u] + sum over pieces p that have an element u of src[p][q * src_step + u]
// in the order of p. Fetches what lies dst_row further. May read a vector beyond the last element of a piece,
// and of the bias.
struct AssembleArgs {
  const void* const* src;
  int64_t pieces;
  int64_t whole;
  int64_t rest;
  int64_t src_step;
  int64_t unit;
  int64_t dst_row;
  int64_t begin;
  int64_t end;
  const void* bias;              // or null
  const Activation* activation;  // or null
  void* dst;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

// Lines that a step of depth takes, and so fetches.
template <class T, int R>
inline constexpr int positions_lines = (R * static_cast<int>(sizeof(T)) + 63) / 64;

template <class T, int R, int V, class Step, int... I>
[[gnu::always_inline]] inline void positions_rows(const PositionsArgs& args, Sequence<I...>) noexcept {
  using Element = typename Step::Element;
  using Loose = typename Vector<T>::loose;
  // As it lies in an array of shorter numbers.
  typedef Element Any __attribute__((aligned(2), may_alias));
  constexpr int lanes = Vector<T>::lanes;
  // Steps in a row are interleaved, for which vectors of 16 bytes leave no register.
  constexpr int kUnrolled = TCONV_VECTOR_BYTES > 16 ? 4 : 1;
  typename Vector<T>::type sum[R * V] = {};
  // Four rows share a pointer and differ by a register, so that all addresses fit the processor's.
  constexpr int kShared = 4;
  constexpr int P = (R + kShared - 1) / kShared;
  const int64_t step[kShared] = {0, args.a_row, 2 * args.a_row, 3 * args.a_row};
  const Any* a[P];
  for (int p = 0; p < P; ++p) a[p] = static_cast<const Any*>(args.a) + p * kShared * args.a_row;
  const Element* b = static_cast<const Element*>(args.b);
  const char* ahead = args.ahead;
  const int64_t ahead_step = args.ahead_step;
  const auto at = [&](int k) __attribute__((always_inline)) {
    typename Vector<Element>::type right[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v)
      right[v] = *reinterpret_cast<const typename Vector<Element>::loose*>(b + v * lanes);
    (Step::add(sum[I], right[I % V], a[I / V / kShared][k + step[I / V % kShared]]), ...);
    b += V * lanes;
    // To the second cache, for the first one is full of rows and weights.
#pragma GCC unroll 2
    for (int line = 0; line < positions_lines<T, R>; ++line) __builtin_prefetch(ahead + line * 64, 0, 2);
    ahead += ahead_step;
  };
  int64_t k = args.depth;
#pragma GCC unroll 1
  for (; k >= kUnrolled; k -= kUnrolled) {
#pragma GCC unroll 4
    for (int i = 0; i < kUnrolled; ++i) at(i);
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) a[p] += kUnrolled;
  }
#pragma GCC unroll 1
  for (; k > 0; --k) {
    at(0);
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) ++a[p];
  }
  T* c = static_cast<T*>(args.c);
  ((*reinterpret_cast<Loose*>(c + I / V * args.c_row + I % V * lanes) = sum[I]), ...);
}

// The same for rows that are neighbours.
template <class T, int R, int V, class Step, int... I>
[[gnu::always_inline]] inline void positions_neighbours(const PositionsArgs& args, Sequence<I...>) noexcept {
  using Element = typename Step::Element;
  using Loose = typename Vector<T>::loose;
  constexpr int lanes = Vector<T>::lanes;
  typename Vector<T>::type sum[R * V] = {};
  const Element* a = static_cast<const Element*>(args.a);
  const Element* b = static_cast<const Element*>(args.b);
  const char* ahead = args.ahead;
  const int64_t ahead_step = args.ahead_step;
  const int64_t step = args.a_step;
#pragma GCC unroll 1
  for (int64_t k = args.depth; k > 0; --k) {
    typename Vector<Element>::type right[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v)
      right[v] = *reinterpret_cast<const typename Vector<Element>::loose*>(b + v * lanes);
    (Step::add(sum[I], right[I % V], a[I / V]), ...);
#pragma GCC unroll 2
    for (int line = 0; line < positions_lines<T, R>; ++line) __builtin_prefetch(ahead + line * 64, 0, 2);
    a += step;
    b += V * lanes;
    ahead += ahead_step;
  }
  T* c = static_cast<T*>(args.c);
  ((*reinterpret_cast<Loose*>(c + I / V * args.c_row + I % V * lanes) = sum[I]), ...);
}

// Runs the products for the number of rows the caller has.
template <class T, int R, int V, class Step = OneNumber<T>>
[[gnu::always_inline]] inline void positions(const PositionsArgs& args) noexcept {
  if (args.rows == R) {
    if (args.a_step == 1) {
      positions_rows<T, R, V, Step>(args, UpTo<R * V>{});
    } else {
      positions_neighbours<T, R, V, Step>(args, UpTo<R * V>{});
    }
  } else if constexpr (R > 1) {
    positions<T, R - 1, V, Step>(args);
  }
}

// The first `N` lanes of a vector; loads of whole lines that are not aligned cost twice.
template <class T, int N>
struct Part {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
  typedef decltype(type{} == type{}) mask;

  [[gnu::always_inline]] static inline type load(const T* from) noexcept {
    type out;
    memcpy(&out, from, sizeof out);
    return out;
  }
  [[gnu::always_inline]] static inline type masked(type value, mask lanes) noexcept {
    return (type)((mask)value & lanes);
  }
  static inline mask first(int64_t n) noexcept {
    mask lanes;
    for (int i = 0; i < N; ++i) lanes[i] = i < n ? -1 : 0;
    return lanes;
  }
};

// What a place is made of, `N` lanes from element `u` on; `P` pieces, or as many as there are.
template <class E, int P, int N>
struct Places {
  using T = typename E::compute;
  using L = Part<T, N>;

  const AssembleArgs& args;
  int64_t u;
  int64_t pieces;  // that reach here
  typename L::mask rest;
  typename L::type bias{};
  const T* from[P > 0 ? P : 1];

  [[gnu::always_inline]] Places(const AssembleArgs& arguments, int64_t first) noexcept
      : args(arguments),
        u(first),
        pieces(args.rest > u ? args.pieces : args.whole),
        rest(L::first(args.rest - u)) {
    if (args.bias != nullptr) bias = L::load(static_cast<const T*>(args.bias) + u);
    for (int p = 0; p < P; ++p) from[p] = static_cast<const T*>(args.src[p]) + u;
  }

  [[gnu::always_inline]] typename L::type sum(int64_t q) const noexcept {
    const int64_t at = q * args.src_step;
    typename L::type sum{};
    if constexpr (P > 0) {
      sum = L::load(from[0] + at);
#pragma GCC unroll 4
      for (int p = 1; p < P; ++p) sum += L::load(from[p] + at);
    } else {
      const auto piece = [&](int64_t p) __attribute__((always_inline)) {
        return L::load(static_cast<const T*>(args.src[p]) + at + u);
      };
      // Not added to zero, which would change the sign of one.
      if (pieces > 0) sum = args.whole > 0 ? piece(0) : L::masked(piece(0), rest);
      int64_t p = 1;
      for (; p < args.whole; ++p) sum += piece(p);
      for (; p < pieces; ++p) sum += L::masked(piece(p), rest);
    }
    if (args.bias != nullptr) sum += bias;
    if (args.activation != nullptr) {
      typename Vector<T>::type all = {};
      memcpy(&all, &sum, sizeof sum);
      all = activated<T>(all, *args.activation);
      memcpy(&sum, &all, sizeof sum);
    }
    return sum;
  }

  // Stores all lanes of places from q to before `end`.
  [[gnu::always_inline]] void store(int64_t q, int64_t end) const noexcept {
    const int64_t unit = args.unit;
    const int64_t ahead = args.dst_row;
    auto* to = static_cast<typename E::storage*>(args.dst) + q * unit + u;
    for (; q < end; ++q, to += unit) {
      __builtin_prefetch(to + ahead, 1);
      const auto value = sum(q);
      if constexpr (N == Lanes<E>::count) {
        Lanes<E>::store(to, value);
      } else {
        memcpy(to, &value, sizeof value);
      }
    }
  }
};

// A place that may lie across either end.
template <class E>
[[gnu::always_inline]] inline void assemble_part(const AssembleArgs& args, int64_t q) noexcept {
  constexpr int64_t L = Lanes<E>::count;
  const int64_t first = q * args.unit;
  const int64_t begin = first < args.begin ? args.begin - first : 0;
  const int64_t end = first + args.unit < args.end ? args.unit : args.end - first;
  auto* to = static_cast<typename E::storage*>(args.dst) + first;
  for (int64_t u = begin / L * L; u < end; u += L) {
    const auto value = Places<E, 0, L>(args, u).sum(q);
    Lanes<E>::store_lanes(to + u, value, begin > u ? (int)(begin - u) : 0, end - u < L ? (int)(end - u) : L);
  }
}

// Places from q on whose vectors of `N` lanes all end inside; returns the first of the others. Whole vectors
// are stored, the last of each place first: what is beyond its end is then mended by the first of the next.
template <class E, int N>
[[gnu::always_inline]] inline int64_t assemble_whole(const AssembleArgs& args, int64_t q) noexcept {
  const int64_t last = (args.unit - 1) / N * N;
  if (args.end < last + N) return q;
  const int64_t end = (args.end - last - N) / args.unit + 1;
  if (end <= q) return q;
  for (int64_t u = last; u >= 0; u -= N) {
    const Places<E, 0, N> places(args, u);
    if (places.pieces == 2 && args.whole == 2) {
      Places<E, 2, N>(args, u).store(q, end);
    } else if (places.pieces == 4 && args.whole == 4) {
      Places<E, 4, N>(args, u).store(q, end);
    } else {
      places.store(q, end);
    }
  }
  return end;
}

template <class E>
[[gnu::always_inline]] inline void assemble(const AssembleArgs& args) noexcept {
  constexpr int L = Lanes<E>::count;
  constexpr bool parts = sizeof(typename E::storage) == sizeof(typename E::compute);
  int64_t q = args.begin / args.unit;
  if (q * args.unit < args.begin && q * args.unit < args.end) assemble_part<E>(args, q++);
  if (parts && L >= 8 && args.unit <= L / 4) {
    q = assemble_whole < E, parts && L >= 8 ? L / 4 : L > (args, q);
  } else if (parts && L >= 4 && args.unit <= L / 2) {
    q = assemble_whole < E, parts && L >= 4 ? L / 2 : L > (args, q);
  } else {
    q = assemble_whole<E, L>(args, q);
  }
  for (; q * args.unit < args.end; ++q) assemble_part<E>(args, q);
}

}  // namespace

#endif
