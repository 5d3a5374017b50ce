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

// Family `loadpairs`, for an even number of rows as they are stored:
//   dst[p * dst_row + i] = {src[2 * p * src_row + i], that of the next row} for 2 * p < rows, i < columns

#if defined(TCONV_KERNEL_NAME) && defined(__AVX512BF16__)

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

[[gnu::always_inline]] inline void load_pairs(const MoveArgs& args) noexcept {
  using L = Lanes<bf16>;
  using Loose = typename Vector<uint32_t>::loose;
  const uint16_t* low = static_cast<const uint16_t*>(args.src);
  uint32_t* to = static_cast<uint32_t*>(args.dst);
  for (int64_t row = 0; row < args.rows; row += 2) {
    const uint16_t* high = low + args.src_row;
    int64_t i = 0;
    for (; i + L::count <= args.columns; i += L::count)
      *reinterpret_cast<Loose*>(to + i) = (L::Word)L::load(low + i) >> 16 | (L::Word)L::load(high + i);
    if (i < args.columns) {
      const uint32_t mask = L::first(args.columns - i);
      const auto pairs = (L::Word)L::load(low + i, mask) >> 16 | (L::Word)L::load(high + i, mask);
      Lanes<f32>::store_lanes(reinterpret_cast<float*>(to + i), (Lanes<f32>::type)pairs, 0,
                              static_cast<int>(args.columns - i));
    }
    low = high + args.src_row;
    to += args.dst_row;
  }
}

}  // namespace

#endif
