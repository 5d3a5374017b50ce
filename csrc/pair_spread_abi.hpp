// Family `spread` on pairs of bfloat16.
#pragma once

#include "pair_abi.hpp"
#include "spread_abi.hpp"

#if defined(TCONV_KERNEL_NAME)

namespace {

struct TwoOf : TwoShort {
  static constexpr int numbers = 2;
  // Pairs of two rows of the source, or of its last row and zeros.
  [[gnu::always_inline]] static inline typename Vector<uint32_t>::type load(const uint16_t* source,
                                                                            int64_t step,
                                                                            int64_t depth) noexcept {
    using Word = typename Lanes<bf16>::Word;
    const auto low = (Word)Lanes<bf16>::load(source);
    const Word high = depth > 1 ? (Word)Lanes<bf16>::load(source + step) : Word{};
    return low >> 16 | high;
  }
};

}  // namespace

#endif
