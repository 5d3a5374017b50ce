// bfloat16 as the instruction of AVX512_BF16 rounds it, which takes numbers below the smallest normal one for
// zero.
#pragma once

#include "kernel_abi.hpp"

#if defined(TCONV_KERNEL_NAME)

namespace {

struct rounded_bf16 : bf16 {
  // By the same instruction, or results would depend on how they are cut into vectors.
  static inline storage store(compute value) noexcept {
    return ((__v8hu)_mm_cvtneps_pbh(_mm_set_ss(value)))[0];
  }
};

template <>
struct Lanes<rounded_bf16> : Lanes<bf16> {
  [[gnu::always_inline]] static inline Short narrow(type value) noexcept {
    return (Short)_mm512_cvtneps_pbh((__m512)value);
  }

  [[gnu::always_inline]] static inline void store(S* to, type value) noexcept {
    const Short bits = narrow(value);
    memcpy(to, &bits, sizeof bits);
  }

  [[gnu::always_inline]] static inline void store(S* to, type value, int n) noexcept {
    store_lanes(to, value, 0, n);
  }

  [[gnu::always_inline]] static inline void store_lanes(S* to, type value, int begin, int end) noexcept {
    _mm256_mask_storeu_epi16(to, (__mmask16)(first(end) & ~first(begin)), (__m256i)narrow(value));
  }
};

}  // namespace

#endif
