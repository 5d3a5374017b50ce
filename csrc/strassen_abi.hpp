// What the kernels of Strassen's algorithm see: their arguments, and their code for vectors of any width.
//
// Rows, lanes and depth are taken in two halves, of which the seven products of half the depth are formed in
// this order; a is made from the weights and b from the input, a quarter being named by its row and column:
//   product  a          b          adds to c
//   0        a11 + a22  b11 + b22  11, 22
//   1        a22        b21 - b11  11, 21
//   2        a12 - a22  b21 + b22  11
//   3        a11 + a12  b22        -11, 12
//   4        a11        b12 - b22  12, 22
//   5        a21 + a22  b11        21, -22
//   6        a21 - a11  b11 + b12  22
#pragma once

#include "fetch_abi.hpp"
#include "spread_abi.hpp"

constexpr int kStrassenProducts = 7;
// Tiles of sums that wait for others.
constexpr int kStrassenKept = 5;

// Family `strassen`, from the compute type to the storage type: for two tiles of rows and two of lanes, which
// go to c as those of family `spread` do, the vectors of the second tile behind those of the first,
//   sum[r][l] = bias[r] + what the products add up to, of
//               a[p * a_product + r * a_row + k] * b[p * b_product + k * tile lanes + l], k < depth
// where a_row is zero of a[p * a_product + k * tile rows + r]. With `accumulate`, and one phase, what c holds
// is added before the activation.
struct StrassenArgs {
  const void* a;
  int64_t a_product;
  int64_t a_row;  // or zero where rows are neighbours, not steps
  const void* b;
  int64_t b_product;
  int64_t depth;                 // half of all
  int64_t together;              // steps of it that are summed before they are added to the others
  const void* bias;              // one element a row, or null
  const void* bias_lanes;        // one element a lane, of one phase, or null
  const Activation* activation;  // or null
  void* const* c;                // null for rows that there are not, of one phase
  const SpreadRun* run;
  const int32_t* first_run;
  void* kept;    // room for tiles of the compute type
  Fetch* fetch;  // what comes to the second cache on the way
  int64_t fetches;
  int32_t rows;  // of both tiles, a multiple of phases
  int32_t phases;
  bool accumulate;
  bool whole;   // every vector is one run, and no row is null
  bool stream;  // outputs are lines of their own and go past the caches, where there are rows
};

#if defined(TCONV_KERNEL_NAME)

namespace {

// Pairs of rows of V vectors that take turns, in the order of their outputs.
template <class E, int R, int V, int... I>
[[gnu::always_inline]] inline void turn_pairs(const typename Lanes<E>::type* sum,
                                              typename Lanes<E>::type* turned, Sequence<I...>) noexcept {
  constexpr int count = Lanes<E>::count;
  (zip<typename E::compute, count>(sum[I + I / V * V], sum[I + I / V * V + V],
                                   *reinterpret_cast<typename Lanes<E>::type(*)[2]>(turned + 2 * I),
                                   UpTo<count>{}),
   ...);
}

// Stores vectors of outputs, `phases` of each of V vectors of positions, that go to several runs: lanes and
// places of a run are found once for all rows. Not inline, for there are many cases.
template <class E, int V>
[[gnu::noinline]] void spread_runs(const SpreadRun* run, const int32_t* first_run, void* const* c, int rows,
                                   int phases, const typename Lanes<E>::type* value) noexcept {
  using L = Lanes<E>;
  for (int v = 0; v < V; ++v) {
    for (int32_t r = first_run[v]; r < first_run[v + 1]; ++r) {
      for (int part = 0; part < phases; ++part) {
        const int begin = run[r].begin * phases - part * L::count;
        const int end = run[r].end * phases - part * L::count;
        const int first = begin > 0 ? begin : 0;
        const int last = end < L::count ? end : L::count;
        if (first >= last) continue;
        for (int i = 0; i < rows; ++i) {
          if (c[i] == nullptr) continue;
          L::store_lanes(static_cast<typename E::storage*>(c[i]) + run[r].offset - begin,
                         value[(i * V + v) * phases + part], first, last);
        }
      }
    }
  }
}

// Adds to a tile of sums what their outputs hold.
template <class E, int R, int V>
[[gnu::noinline]] void strassen_add(const StrassenArgs& args, int row, int vector,
                                    typename Lanes<E>::type* sum) noexcept {
  using L = Lanes<E>;
  for (int r = 0; r < R && row + r < args.rows; ++r) {
    const auto* c = static_cast<const typename E::storage*>(args.c[row + r]);
    if (c == nullptr) continue;
    for (int v = 0; v < V; ++v) {
      const SpreadRun* run = args.run + args.first_run[vector + v];
      const SpreadRun* const end = args.run + args.first_run[vector + v + 1];
      for (; run < end; ++run) {
        const auto* from = c + run->offset - run->begin;
        const bool all = run->begin == 0 && run->end == L::count;
        sum[r * V + v] += all ? L::load(from) : L::load(from, L::first(run->end) & ~L::first(run->begin));
      }
    }
  }
}

// Rows that are neighbours differ by constants; of others, four share a pointer and differ by a register.
template <class E, int R, int V, bool neighbours, int... I>
[[gnu::always_inline]] inline void strassen_tiles(const StrassenArgs& args, Sequence<I...>) noexcept {
  using T = typename E::compute;
  using S = typename E::storage;
  using Type = typename Vector<T>::type;
  typedef typename Vector<T>::loose Loose;
  constexpr int lanes = Vector<T>::lanes;
  // Of products 0, 1 and 3, what tile 11, then 22 has so far, and what a product has.
  const auto kept = [&args](int place, int i) __attribute__((always_inline)) -> Loose& {
    return *reinterpret_cast<Loose*>(static_cast<T*>(args.kept) + (place * R * V + i) * lanes);
  };
  constexpr int kShared = neighbours ? R : 4;
  constexpr int P = (R + kShared - 1) / kShared;
  const int64_t step[] = {0, args.a_row, 2 * args.a_row, 3 * args.a_row};
  Type sum[R * V] = {};
  Fetching fetching(args.fetch, args.fetches, kStrassenProducts * args.depth);
#pragma GCC unroll 1
  for (int product = 0; product < kStrassenProducts; ++product) {
    // The tile of c that this product completes.
    const int row = product < 5 ? 0 : R;
    const int vector = product == 4 || product == 6 ? V : 0;
    const auto begin = [&](int v) { return args.run + args.first_run[vector + v]; };
    if (product >= 3 && !args.stream) {
      // Of each vector the first place, and of a pair of rows the last one.
      int64_t places[2][V];
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) {
        const SpreadRun* const last = begin(v + 1) - 1;
        places[0][v] = places[1][v] = begin(v)->offset;
        if (args.phases == 2) places[1][v] = last->offset + (last->end - last->begin) * 2 - 1;
      }
      const auto fetch = [&](int r, int v) __attribute__((always_inline)) {
        if (row + r >= args.rows) return;
        __builtin_prefetch(static_cast<S*>(args.c[(row + r) / args.phases]) + places[r % 2][v], 1);
      };
      (fetch(I / V, I % V), ...);
    }
    const T* a[P];
    for (int p = 0; p < P; ++p) {
      a[p] = static_cast<const T*>(args.a) + product * args.a_product + p * kShared * args.a_row;
    }
    // Those of the next product come to the second cache, in the order in which they lie.
    const T* next = a[0] + args.a_product;
    const T* b = static_cast<const T*>(args.b) + product * args.b_product;
    for (int64_t rest = args.depth; rest > 0;) {
#pragma GCC unroll 1
      for (int64_t k = rest < args.together ? rest : args.together; k > 0; --k) {
        fetching.step();
        Type right[V];
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) right[v] = *reinterpret_cast<const Loose*>(b + v * lanes);
        __builtin_prefetch(next, 0, 2);
        ((sum[I] += right[I % V] * a[I / V / kShared][neighbours ? I / V : step[I / V % 4]]), ...);
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) a[p] += neighbours ? R : 1;
        next += R;
        b += V * lanes;
      }
      const bool first = rest == args.depth;
      rest -= args.together;
      if (!first) ((sum[I] += kept(4, I)), ...);
      if (rest > 0) {
        ((kept(4, I) = sum[I]), ...);
        ((sum[I] = Type{}), ...);
      }
    }
    switch (product) {
      case 0:
        ((kept(0, I) = sum[I]), ...);
        ((sum[I] = Type{}), ...);
        continue;
      case 1:
        ((kept(1, I) = sum[I]), ...);
        ((sum[I] += kept(0, I)), ...);
        continue;
      case 2:
        ((kept(3, I) = sum[I]), ...);
        ((sum[I] = Type{}), ...);
        continue;
      case 3:
        ((kept(2, I) = sum[I]), ...);
        ((sum[I] = kept(3, I) - sum[I]), ...);
        break;
      case 4:
        ((kept(3, I) = sum[I] + kept(0, I)), ...);
        ((sum[I] += kept(2, I)), ...);
        break;
      case 5:
        ((kept(3, I) -= sum[I]), ...);
        ((sum[I] += kept(1, I)), ...);
        break;
      default:
        break;
    }
    if (args.bias != nullptr) {
      const T* bias = static_cast<const T*>(args.bias) + row;
      ((sum[I] += bias[I / V]), ...);
    }
    if (args.bias_lanes != nullptr) {
      const T* bias = static_cast<const T*>(args.bias_lanes) + vector * lanes;
      ((sum[I] += *reinterpret_cast<const Loose*>(bias + I % V * lanes)), ...);
    }
    const bool plain = args.whole && args.phases == 1 && row + R <= args.rows;
    if (args.accumulate && plain) {
      ((sum[I] += Lanes<E>::load(static_cast<const S*>(args.c[row + I / V]) + begin(I % V)->offset)), ...);
    } else if (args.accumulate) {
      Type tile[R * V] = {sum[I]...};
      strassen_add<E, R, V>(args, row, vector, tile);
      ((sum[I] = tile[I]), ...);
    }
    if (args.activation != nullptr) ((sum[I] = activated<T>(sum[I], *args.activation)), ...);
    if (plain) {
      const auto rows = [&](auto put) __attribute__((always_inline)) {
        (put(static_cast<S*>(args.c[row + I / V]) + begin(I % V)->offset, sum[I]), ...);
      };
      if (args.stream) {
        rows([](S* c, Type value) __attribute__((always_inline)) { stream_out<E>(c, value); });
      } else {
        rows([](S* c, Type value) __attribute__((always_inline)) { Lanes<E>::store(c, value); });
      }
    } else if (args.whole && row + R <= args.rows) {
      const auto pairs = [&](auto put) __attribute__((always_inline)) {
        ((I / V % 2 == 0 ? put(static_cast<S*>(args.c[(row + I / V) / 2]) + begin(I % V)->offset, sum[I],
                               sum[I / V % 2 == 0 ? I + V : I])
                         : void()),
         ...);
      };
      if (args.stream) {
        pairs([](S* c, Type even, Type odd)
                  __attribute__((always_inline)) { whole_pair<E, true>(c, even, odd); });
      } else {
        pairs([](S* c, Type even, Type odd)
                  __attribute__((always_inline)) { whole_pair<E, false>(c, even, odd); });
      }
    } else {
      Type tile[R * V];
      if (args.phases == 1) {
        ((tile[I] = sum[I]), ...);
      } else {
        turn_pairs<E, R, V>(sum, tile, UpTo<R / 2 * V>{});
      }
      const int rows = args.rows - row < R ? args.rows - row : R;
      spread_runs<E, V>(args.run, args.first_run + vector, args.c + row / args.phases, rows / args.phases,
                        args.phases, tile);
    }
    if (product == 5) {
      ((sum[I] = kept(3, I)), ...);
    } else {
      ((sum[I] = Type{}), ...);
    }
  }
  fetching.stop();
}

template <class E, int R, int V>
[[gnu::always_inline]] inline void strassen(const StrassenArgs& args) noexcept {
  static_assert(R % 2 == 0);
  args.a_row == 0 ? strassen_tiles<E, R, V, true>(args, UpTo<R * V>{})
                  : strassen_tiles<E, R, V, false>(args, UpTo<R * V>{});
}

}  // namespace

#endif
