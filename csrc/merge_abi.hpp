// What the kernel that adds up the products of Strassen's algorithm sees, where they lie in memory: its
// arguments, and its code for vectors of any width.
#pragma once

#include "strassen_abi.hpp"

constexpr int kMostMergedRows = 32;

// Family `merge`, from the compute type to the storage type: for rows and vectors of lanes of both halves,
// what the products add up to, as the table in strassen_abi.hpp tells, product p being at
//   product[p * product_step + r * row_step + l]
// and c[half of rows], whose sums go to the runs of their vector as those of family `spread` do.
struct MergeArgs {
  const void* product;
  int64_t product_step;
  int64_t row_step;
  const void* bias[2];           // one element a row, or null
  const Activation* activation;  // or null
  void* const* c[2];
  const SpreadRun* run;
  const int32_t* first_run;  // by vector, those of the second half behind those of the first
  int64_t vectors;           // of a half
  int32_t rows;              // of a half, a multiple of phases and at most kMostMergedRows
  int32_t phases;
  bool whole;  // every vector is one run
};

#if defined(TCONV_KERNEL_NAME)

namespace {

template <class E, int phases>
[[gnu::always_inline]] inline void merge_rows(const MergeArgs& args) noexcept {
  using T = typename E::compute;
  using Type = typename Lanes<E>::type;
  constexpr int count = Lanes<E>::count;
  for (int64_t v = 0; v < args.vectors; ++v) {
    const auto first_run = [&](int q) { return args.first_run + q % 2 * args.vectors + v; };
    // By half of rows, then of lanes: what goes to several runs, in the order of the outputs.
    Type value[4][kMostMergedRows];
    for (int r = 0; r < args.rows; r += phases) {
      Type sum[4][phases];
#pragma GCC unroll 2
      for (int i = 0; i < phases; ++i) {
        const T* const from = static_cast<const T*>(args.product) + (r + i) * args.row_step + v * count;
        const auto product = [&](int p) __attribute__((always_inline)) {
          return Lanes<plain<E>>::load(from + p * args.product_step);
        };
        sum[0][i] = product(0) + product(1) + product(2) - product(3);
        sum[1][i] = product(3) + product(4);
        sum[2][i] = product(1) + product(5);
        sum[3][i] = product(0) + product(4) - product(5) + product(6);
#pragma GCC unroll 4
        for (int q = 0; q < 4; ++q) {
          if (args.bias[q / 2] != nullptr) sum[q][i] += static_cast<const T*>(args.bias[q / 2])[r + i];
          if (args.activation != nullptr) sum[q][i] = activated<T>(sum[q][i], *args.activation);
        }
      }
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) {
        auto* const to =
            static_cast<typename E::storage*>(args.c[q / 2][r / phases]) + args.run[*first_run(q)].offset;
        const Type last = sum[q][phases - 1];
        if (!args.whole && phases == 1) {
          value[q][r] = last;
        } else if (!args.whole) {
          Type pair[2];
          zip<T, count>(sum[q][0], last, pair, UpTo<count>{});
          value[q][r] = pair[0];
          value[q][r + 1] = pair[1];
        } else if (phases == 1) {
          Lanes<E>::store(to, last);
        } else {
          whole_pair<E, false>(to, sum[q][0], last);
        }
      }
    }
    if (args.whole) continue;
    for (int q = 0; q < 4; ++q)
      spread_runs<E, 1>(args.run, first_run(q), args.c[q / 2], args.rows / phases, phases, value[q]);
  }
}

template <class E>
[[gnu::always_inline]] inline void merge(const MergeArgs& args) noexcept {
  args.phases == 1 ? merge_rows<E, 1>(args) : merge_rows<E, 2>(args);
}

}  // namespace

#endif
