// What the kernel that sums elements sees: its arguments, and its code for vectors of any width.
#pragma once

#include "kernel_abi.hpp"

// Family `sum`, of the storage type: the sum of `count` elements in double precision. Element i goes to the
// sum i % 32, and these are added by halves, whatever the width of a vector.
struct SumArgs {
  const void* src;
  int64_t count;
  double* sum;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

template <class E>
[[gnu::always_inline]] inline void sum(const SumArgs& args) noexcept {
  using Type = typename Vector<double>::type;
  constexpr int L = Vector<double>::lanes;
  constexpr int all = 32;
  const auto* src = static_cast<const typename E::storage*>(args.src);
  Type sums[all / L] = {};
  int64_t i = 0;
  for (; i + all <= args.count; i += all) {
#pragma GCC unroll 16
    for (int v = 0; v < all / L; ++v) {
      typename E::compute values[L];
      for (int l = 0; l < L; ++l) values[l] = E::load(src[i + v * L + l]);
      typedef typename E::compute Values __attribute__((vector_size(L * sizeof(typename E::compute))));
      Values value;
      memcpy(&value, values, sizeof value);
      sums[v] += __builtin_convertvector(value, Type);
    }
  }
  double parts[all];
  memcpy(parts, sums, sizeof parts);
  for (int j = 0; i < args.count; ++i, ++j) parts[j] += static_cast<double>(E::load(src[i]));
  for (int half = all / 2; half > 0; half /= 2) {
    for (int j = 0; j < half; ++j) parts[j] += parts[j + half];
  }
  *args.sum = parts[0];
}

}  // namespace

#endif
