// What the kernels of the algorithm for kernel = stride see: their arguments, and their code for vectors of
// any width.
#pragma once

#include "activation_abi.hpp"

// Lanes [begin, end) of a vector whose outputs are neighbours.
struct SpreadRun {
  int64_t offset;  // of lane `begin`, in elements of the output
  int32_t begin;
  int32_t end;
};

// Family `spread`, from the compute type to the storage type: sums as of family `gemm`, of one segment,
//   sum[r][l] = bias[r] + sum over steps k of a[k * tile rows + r] * b[k * tile lanes + l]
// that go to the runs of their vector; with two phases a pair of rows takes turns:
//   c[r / phases][offset + (l - begin) * phases + r % phases] = sum[r][l]
// A whole tile may find b empty: its elements then come from `source`, in the storage type, and fill it.
// Kernels of a set that has family `pair` take pairs for elements of a and b, two steps of depth.
struct SpreadArgs {
  const void* a;
  void* b;
  int64_t depth;
  const void* const* source;     // of each vector at the first step, or null where b is filled
  int64_t source_step;           // elements from one step to the next
  const void* bias;              // one element a row, or null
  const Activation* activation;  // or null
  void* const* c;
  const SpreadRun* run;
  const int32_t* first_run;  // of each vector of the tile, and the end
  int32_t rows;              // a multiple of phases
  int32_t phases;            // 1 or 2
  bool whole;                // every vector is one run
  bool stream;               // outputs go past the caches, in two phases: all lanes have some, and halves of
                             // vectors, and lines, belong to one run
};

// Family `unspread`, its opposite, from the storage type to the compute type: for map m, phase p, the lanes l
// of each run
//   dst[m * dst_map + p * dst_row + l] = src[m * map_stride + offset + (l - begin) * phases + p]
struct UnspreadArgs {
  const void* src;
  int64_t map_stride;
  int64_t maps;
  void* dst;
  int64_t dst_map;
  int64_t dst_row;
  const SpreadRun* run;
  int32_t runs;
  int32_t phases;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

// Stores a vector past the caches, where the instruction set can; `to` is a multiple of its bytes.
template <class E>
[[gnu::always_inline]] inline void stream_out(typename E::storage* to,
                                              typename Lanes<E>::type value) noexcept {
#if defined(__AVX512F__)
  if constexpr (sizeof(*to) == 2) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), (__m256i)Lanes<E>::narrow(value));
  } else {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), (__m512i)value);
  }
#else
  Lanes<E>::store(to, value);
#endif
}

template <class E>
[[gnu::always_inline]] inline void spread_vector(const SpreadRun* run, const SpreadRun* end, void* c,
                                                 typename Lanes<E>::type value) noexcept {
  auto* out = static_cast<typename E::storage*>(c);
  if (run < end && run->begin == 0 && run->end == Lanes<E>::count) {
    Lanes<E>::store(out + run->offset, value);
    return;
  }
  for (; run < end; ++run) Lanes<E>::store_lanes(out + run->offset - run->begin, value, run->begin, run->end);
}

// The upper half of each word is its number as bfloat16.
[[gnu::always_inline]] inline typename Lanes<bf16>::Word rounded_word(
    typename Lanes<bf16>::type value) noexcept {
  using Word = typename Lanes<bf16>::Word;
  const Word bits = (Word)value;
  return value == value ? bits + 0x7fffu + (bits >> 16 & 1u) : bits | 0x400000u;
}

template <class E, bool stream>
[[gnu::always_inline]] inline void whole_pair(typename E::storage* out, typename Lanes<E>::type even,
                                              typename Lanes<E>::type odd) noexcept {
  if constexpr (same<E, bf16>) {
    // Two numbers in turn are the halves of a word.
    const auto words =
        (typename Lanes<E>::type)((rounded_word(odd) & 0xffff0000u) | rounded_word(even) >> 16);
    if constexpr (stream) {
      stream_out<f32>(reinterpret_cast<float*>(out), words);
    } else {
      memcpy(out, &words, sizeof words);
    }
  } else {
    constexpr int count = Lanes<E>::count;
    typename Lanes<E>::type pair[2];
    zip<typename E::compute, count>(even, odd, pair, UpTo<count>{});
    for (int i = 0; i < 2; ++i) {
      if constexpr (stream) {
        stream_out<E>(out + i * count, pair[i]);
      } else {
        Lanes<E>::store(out + i * count, pair[i]);
      }
    }
  }
}

// The halves of a vector may go to a run each.
template <class E>
[[gnu::always_inline]] inline void stream_pair(const SpreadRun* run, const SpreadRun* end, void* c,
                                               typename Lanes<E>::type even,
                                               typename Lanes<E>::type odd) noexcept {
  constexpr int count = Lanes<E>::count;
  auto* out = static_cast<typename E::storage*>(c);
  if (run + 1 == end) return whole_pair<E, true>(out + run->offset, even, odd);
  typename Lanes<E>::type pair[2];
  zip<typename E::compute, count>(even, odd, pair, UpTo<count>{});
  for (int i = 0; i < 2; ++i) stream_out<E>(out + run[i].offset, pair[i]);
}

template <class E>
[[gnu::always_inline]] inline void spread_pair(const SpreadRun* run, const SpreadRun* end, void* c,
                                               typename Lanes<E>::type even,
                                               typename Lanes<E>::type odd) noexcept {
  using L = Lanes<E>;
  auto* out = static_cast<typename E::storage*>(c);
  typename L::type pair[2];
  zip<typename E::compute, L::count>(even, odd, pair, UpTo<L::count>{});
  if (run < end && run->begin == 0 && run->end == L::count) {
    L::store(out + run->offset, pair[0]);
    L::store(out + run->offset + L::count, pair[1]);
    return;
  }
  for (; run < end; ++run) {
    auto* to = out + run->offset - 2 * run->begin;
    const int first = 2 * run->begin;
    const int last = 2 * run->end;
    if (first < L::count) L::store_lanes(to, pair[0], first, last < L::count ? last : L::count);
    if (last > L::count)
      L::store_lanes(to + L::count, pair[1], first > L::count ? first - L::count : 0, last - L::count);
  }
}

// Elements that operands come to the nearest cache ahead of their turn.
constexpr int kStepsAhead = 16;

// A step of depth whose elements are the numbers themselves.
template <class E>
struct OneOf : OneNumber<typename E::compute> {
  static constexpr int numbers = 1;
  [[gnu::always_inline]] static inline typename Lanes<E>::type load(const typename E::storage* source,
                                                                    int64_t /*step*/,
                                                                    int64_t /*depth*/) noexcept {
    return Lanes<E>::load(source);
  }
};

template <class E, class Step, int R, int A, int V, bool fill, int... I>
[[gnu::always_inline]] inline void spread_rows(const SpreadArgs& args, Sequence<I...>) noexcept {
  using T = typename E::compute;
  using S = typename E::storage;
  using Type = typename Vector<T>::type;
  constexpr int lanes = Vector<T>::lanes;
  const auto begin = [&args](int v) { return args.run + args.first_run[v]; };
  const auto fetch = [&](int r, int v) {
    const int64_t offset = begin(v)->offset + (args.phases == 1 ? 0 : r % 2 * lanes);
    __builtin_prefetch(static_cast<S*>(args.c[r / args.phases]) + offset, 1);
  };
  // The lines that outputs go to come while sums are formed.
  if (!args.stream) (fetch(I / V, I % V), ...);
  Type sum[R * V] = {};
  using Element = typename Step::Element;
  typedef typename Vector<Element>::loose Loose;
  const Element* a = static_cast<const Element*>(args.a);
  Element* b = static_cast<Element*>(args.b);
  const S* source[V];
  if constexpr (fill) {
    for (int v = 0; v < V; ++v) source[v] = static_cast<const S*>(args.source[v]);
  }
  const int64_t step = args.source_step;
#pragma GCC unroll 1
  for (int64_t k = args.depth; k > 0; k -= Step::numbers) {
    typename Vector<Element>::type right[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      if constexpr (fill) {
        right[v] = Step::load(source[v], step, k);
        *reinterpret_cast<Loose*>(b + v * lanes) = right[v];
        __builtin_prefetch(source[v] + kStepsAhead * step);
        source[v] += Step::numbers * step;
      } else {
        right[v] = *reinterpret_cast<const Loose*>(b + v * lanes);
      }
    }
    __builtin_prefetch(a + kStepsAhead * A);
    (Step::add(sum[I], right[I % V], a[I / V]), ...);
    a += A;
    b += V * lanes;
  }
  if (args.bias != nullptr) {
    const T* bias = static_cast<const T*>(args.bias);
    ((sum[I] += bias[I / V]), ...);
  }
  if (args.activation != nullptr) ((sum[I] = activated<T>(sum[I], *args.activation)), ...);
  if (args.phases == 1) {
    (spread_vector<E>(begin(I % V), begin(I % V + 1), args.c[I / V], sum[I]), ...);
  } else if constexpr (R % 2 == 0) {
    // Every pair of rows once, from its first row.
    const auto pairs = [&](auto put) __attribute__((always_inline)) {
      ((I / V % 2 == 0 ? put(args.c[I / V / 2], I % V, sum[I], sum[I / V % 2 == 0 ? I + V : I]) : void()),
       ...);
    };
    if (!args.whole && !args.stream) {
      pairs([&](void* c, int v, Type even, Type odd)
                __attribute__((always_inline)) { spread_pair<E>(begin(v), begin(v + 1), c, even, odd); });
    } else if (!args.whole) {
      pairs([&](void* c, int v, Type even, Type odd)
                __attribute__((always_inline)) { stream_pair<E>(begin(v), begin(v + 1), c, even, odd); });
    } else if (args.stream) {
      pairs([&](void* c, int v, Type even, Type odd) __attribute__((always_inline)) {
        whole_pair<E, true>(static_cast<S*>(c) + begin(v)->offset, even, odd);
      });
    } else {
      pairs([&](void* c, int v, Type even, Type odd) __attribute__((always_inline)) {
        whole_pair<E, false>(static_cast<S*>(c) + begin(v)->offset, even, odd);
      });
    }
  }
}

// Runs `spread_rows` for the number of rows the caller has; `A` is that of a whole tile.
template <class E, int R, int V, class Step = OneOf<E>, int A = R>
[[gnu::always_inline]] inline void spread(const SpreadArgs& args) noexcept {
  if (args.rows == R) {
    if (R == A && args.source != nullptr) {
      spread_rows<E, Step, R, A, V, R == A>(args, UpTo<R * V>{});
    } else {
      spread_rows<E, Step, R, A, V, false>(args, UpTo<R * V>{});
    }
  } else if constexpr (R > 1) {
    spread<E, R - 1, V, Step, A>(args);
  }
}

template <class E, int N>
[[gnu::always_inline]] inline void unspread_phases(const UnspreadArgs& args) noexcept {
  const auto* src = static_cast<const typename E::storage*>(args.src);
  auto* dst = static_cast<typename E::compute*>(args.dst);
  for (int64_t m = 0; m < args.maps; ++m, src += args.map_stride, dst += args.dst_map) {
    for (int32_t r = 0; r < args.runs; ++r) {
      const SpreadRun run = args.run[r];
      deinterleave<E, plain<E>, N>(src + run.offset, dst + run.begin, args.dst_row, run.end - run.begin);
    }
  }
}

template <class E>
[[gnu::always_inline]] inline void unspread(const UnspreadArgs& args) noexcept {
  if (args.phases == 1) return unspread_phases<E, 1>(args);
  if (args.phases == 2) return unspread_phases<E, 2>(args);
  const auto* src = static_cast<const typename E::storage*>(args.src);
  auto* dst = static_cast<typename E::compute*>(args.dst);
  for (int64_t m = 0; m < args.maps; ++m, src += args.map_stride, dst += args.dst_map) {
    for (int32_t r = 0; r < args.runs; ++r) {
      const SpreadRun run = args.run[r];
      transpose<E, plain<E>>(src + run.offset, args.phases, dst + run.begin, args.dst_row,
                             run.end - run.begin, args.phases);
    }
  }
}

}  // namespace

#endif
