// What the kernels of products of short pairs see: their arguments, and their code.
#pragma once

#include "kernel_abi.hpp"

// Family `pair`: rows of float that hold numbers of the storage type become half as many rows of pairs, in
// place; a single last row is paired with zeros. For block n, pair p and column i
//   pairs[(n * ((rows + 1) / 2) + p) * width + i] = {data[(n * rows + 2 * p) * width + i], that of the next
//   row}
struct PairArgs {
  void* data;
  int64_t blocks;
  int64_t rows;
  int64_t width;  // a multiple of a vector's lanes
};

#if defined(TCONV_KERNEL_NAME)

namespace {

// A step of depth of a product of bfloat16: two products, which are exact, and their sum with rounding after
// each addition. Numbers below the normal ones count as zero.
struct TwoShort {
  using Element = uint32_t;
  [[gnu::always_inline]] static inline void add(typename Vector<float>::type& sum,
                                                typename Vector<uint32_t>::type right,
                                                uint32_t left) noexcept {
    sum = (typename Vector<float>::type)_mm512_dpbf16_ps((__m512)sum, (__m512bh)right,
                                                         (__m512bh)_mm512_set1_epi32((int)left));
  }
};

[[gnu::always_inline]] inline void pair(const PairArgs& args) noexcept {
  typedef typename Vector<uint32_t>::loose Loose;
  const uint32_t* from = static_cast<const uint32_t*>(args.data);
  uint32_t* to = static_cast<uint32_t*>(args.data);
  for (int64_t block = 0; block < args.blocks; ++block) {
    for (int64_t row = 0; row < args.rows; row += 2) {
      const bool single = row + 1 == args.rows;
      for (int64_t i = 0; i < args.width; i += Vector<uint32_t>::lanes) {
        const auto low = *reinterpret_cast<const Loose*>(from + i) >> 16;
        const auto high =
            single ? Loose{} : *reinterpret_cast<const Loose*>(from + args.width + i) & 0xffff0000u;
        *reinterpret_cast<Loose*>(to + i) = low | high;
      }
      from += single ? args.width : 2 * args.width;
      to += args.width;
    }
  }
}

}  // namespace

#endif
