// What the kernels that bring rows together see: their arguments, and their code for vectors of any width.
#pragma once

#include "kernel_abi.hpp"

// Family `turns`, from the compute type to the storage type, rows that take turns: for r < rows, i < count
//   dst[i * rows + r] = src[r * src_row + i]
struct TurnsArgs {
  const void* src;
  int64_t src_row;
  void* dst;
  int64_t rows;
  int64_t count;
};

// Whether so many rows take turns in registers; others are turned in squares, which costs about twice.
constexpr bool turns_in_registers(int64_t rows) { return rows <= 6 || rows == 8; }

#if defined(TCONV_KERNEL_NAME)

namespace {

// Vector k of those that N vectors in turn are.
template <class T, int N, int k, int... I>
[[gnu::always_inline]] inline typename Vector<T>::type turn(const typename Vector<T>::type (&v)[N],
                                                            Sequence<I...> lanes) noexcept {
  constexpr int L = sizeof...(I);
  return picked<T, N, [](int lane) { return (k * L + lane) % N * L + (k * L + lane) / N; }>(v, lanes);
}

// Vectors come to hold in turn what each held alone, for N up to 6 and 8.
template <class T, int N, int... J>
[[gnu::always_inline]] inline void in_turns(typename Vector<T>::type (&v)[N], Sequence<J...>) noexcept {
  using Type = typename Vector<T>::type;
  constexpr auto lanes = UpTo<Vector<T>::lanes>{};
  if constexpr (N % 2 == 0) {
    constexpr int half = N / 2;
    Type even[half];
    Type odd[half];
#pragma GCC unroll 4
    for (int i = 0; i < half; ++i) {
      even[i] = v[2 * i];
      odd[i] = v[2 * i + 1];
    }
    in_turns<T, half>(even, UpTo<half>{});
    in_turns<T, half>(odd, UpTo<half>{});
#pragma GCC unroll 4
    for (int i = 0; i < half; ++i) {
      Type pair[2];
      zip<T, Vector<T>::lanes>(even[i], odd[i], pair, lanes);
      v[2 * i] = pair[0];
      v[2 * i + 1] = pair[1];
    }
  } else if constexpr (N > 1) {
    const Type all[N] = {turn<T, N, J>(v, lanes)...};
    ((v[J] = all[J]), ...);
  }
}

template <class E, int N>
[[gnu::always_inline]] inline void turns_of(const TurnsArgs& args) noexcept {
  using T = typename E::compute;
  using From = Lanes<plain<E>>;
  constexpr int L = From::count;
  const T* src = static_cast<const T*>(args.src);
  auto* dst = static_cast<typename E::storage*>(args.dst);
  for (int64_t left = args.count; left > 0; left -= L, src += L, dst += N * L) {
    typename From::type v[N];
    const uint32_t mask = From::first(left);
#pragma GCC unroll 8
    for (int r = 0; r < N; ++r) {
      const T* from = src + r * args.src_row;
      v[r] = left >= L ? From::load(from) : From::load(from, mask);
    }
    in_turns<T, N>(v, UpTo<N>{});
#pragma GCC unroll 8
    for (int r = 0; r < N; ++r) {
      const int64_t rest = left * N - r * L;
      if (rest > 0) Lanes<E>::store(dst + r * L, v[r], rest < L ? (int)rest : L);
    }
  }
}

template <class E>
[[gnu::always_inline]] inline void turns(const TurnsArgs& args) noexcept {
  switch (args.rows) {
    case 1:
      return turns_of<E, 1>(args);
    case 2:
      return turns_of<E, 2>(args);
    case 3:
      return turns_of<E, 3>(args);
    case 4:
      return turns_of<E, 4>(args);
    case 5:
      return turns_of<E, 5>(args);
    case 6:
      return turns_of<E, 6>(args);
    case 8:
      return turns_of<E, 8>(args);
    default:
      transpose<plain<E>, E>(static_cast<const typename E::compute*>(args.src), args.src_row,
                             static_cast<typename E::storage*>(args.dst), args.rows, args.rows, args.count);
  }
}

}  // namespace

#endif
