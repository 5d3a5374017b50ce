// All that a kernel may see: the arguments of each family, and vectors of the width its file is compiled for.
// Everything with code in it has internal linkage, so that no object compiled for an instruction set lends
// its code to another.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__F16C__)
#include <immintrin.h>
#endif

// Every kernel has this type; the family decides what `args` points to.
extern "C" typedef void (*tconv_kernel)(const void* args) noexcept;

// Family `gemm`, in the compute type: for each row r and lane l
//   c[r][l] = (accumulate ? c[r][l] : 0) + bias + sum over segments s, steps k of
//             a[a_offset[s] + k * a_step + r] * b[b_offset[s] + k * b_step + l]
// summed in the order of s, then k, starting at zero. Reads `lanes of the tile` elements of b whatever
// `lanes` is. Those for bf16 take pairs for elements of a and b, two steps of depth in 32 bits, the first in
// the lower half; c and bias are float.
struct GemmArgs {
  const void* a;
  const void* b;
  const int64_t* a_offset;
  const int64_t* b_offset;
  int64_t segments;
  int64_t depth;
  int64_t a_step;
  int64_t b_step;
  void* const* c;
  const void* bias_lanes;  // one element a lane of the tile, or null
  const void* bias_rows;   // one element a row, or null
  int32_t rows;
  int32_t lanes;  // lanes to store
  bool accumulate;
};

// Family `gather`: storage type to compute type, for map m and position p
//   dst[m * width + p] = offset[p] < 0 ? 0 : src[offset[p] + m * map_stride]
struct GatherArgs {
  const void* src;
  int64_t map_stride;
  const int64_t* offset;
  int64_t count;
  int64_t width;
  int64_t maps;
  void* dst;
};

// Family `panel`: storage type to compute type, for map m, run r and i below its length
//   dst[m * width + r.dst + i] = r.src < 0 ? 0 : src[r.src + i * src_step + m * map_stride]
struct PanelRun {
  int64_t src;
  int32_t dst;
  int32_t length;
};
struct PanelArgs {
  const void* src;
  int64_t map_stride;
  int64_t src_step;
  void* dst;
  int64_t width;
  int64_t maps;
  const PanelRun* run;
  int64_t runs;
};

// Families `load` (storage type to compute type) and `store` (compute type to storage type):
//   dst[i * dst_row + j * dst_column] = src[i * src_row + j * src_column]
struct MoveArgs {
  const void* src;
  int64_t src_row;
  int64_t src_column;
  void* dst;
  int64_t dst_row;
  int64_t dst_column;
  int64_t rows;
  int64_t columns;
};

namespace {

// Element types: how one is stored, what it is computed in.
struct f32 {
  using storage = float;
  using compute = float;
  static inline compute load(storage value) noexcept { return value; }
  static inline storage store(compute value) noexcept { return value; }
};

struct f64 {
  using storage = double;
  using compute = double;
  static inline compute load(storage value) noexcept { return value; }
  static inline storage store(compute value) noexcept { return value; }
};

struct bf16 {
  using storage = uint16_t;
  using compute = float;
  static inline compute load(storage value) noexcept {
    const uint32_t bits = static_cast<uint32_t>(value) << 16;
    compute out;
    memcpy(&out, &bits, 4);
    return out;
  }
  // Rounds to nearest even; a NaN stays one.
  static inline storage store(compute value) noexcept {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const uint32_t quiet = (bits >> 16) | 0x40u;
    return static_cast<storage>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
  }
};

struct f16 {
  using storage = uint16_t;
  using compute = float;
#if defined(__F16C__)
  static inline compute load(storage value) noexcept { return _cvtsh_ss(value); }
  static inline storage store(compute value) noexcept { return static_cast<storage>(_cvtss_sh(value, 0)); }
#else
  static inline compute load(storage value) noexcept {
    const uint32_t sign = static_cast<uint32_t>(value & 0x8000u) << 16;
    const uint32_t magnitude = value & 0x7fffu;
    uint32_t bits;
    if (magnitude >= 0x7c00u) {
      bits = 0x7f800000u | ((magnitude & 0x3ffu) << 13) | (magnitude > 0x7c00u ? 0x400000u : 0u);
    } else if (magnitude >= 0x400u) {
      bits = (magnitude << 13) + 0x38000000u;
    } else {
      const float tiny = static_cast<float>(magnitude) * 5.9604644775390625e-8f;
      memcpy(&bits, &tiny, 4);
    }
    bits |= sign;
    compute out;
    memcpy(&out, &bits, 4);
    return out;
  }
  // Rounds to nearest even; beyond the range is infinity; a NaN stays one.
  static inline storage store(compute value) noexcept {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    bits &= 0x7fffffffu;
    uint32_t half;
    if (bits > 0x7f800000u) {
      half = 0x7e00u | ((bits >> 13) & 0x3ffu);
    } else if (bits >= 0x477ff000u) {
      half = 0x7c00u;
    } else if (bits >= 0x38800000u) {
      half = (bits - 0x38000000u + 0xfffu + ((bits >> 13) & 1u)) >> 13;
    } else {
      // Adding a half lines the last place up with a subnormal's, and the addition rounds.
      float magnitude;
      memcpy(&magnitude, &bits, 4);
      magnitude += 0.5f;
      memcpy(&half, &magnitude, 4);
      half -= 0x3f000000u;
    }
    return static_cast<storage>(sign | half);
  }
#endif
};

#if defined(TCONV_KERNEL_NAME)

template <class T>
struct Vector {
  typedef T type __attribute__((vector_size(TCONV_VECTOR_BYTES)));
  typedef T loose __attribute__((vector_size(TCONV_VECTOR_BYTES), aligned(sizeof(T)), may_alias));
  static constexpr int lanes = static_cast<int>(TCONV_VECTOR_BYTES / sizeof(T));
};

template <int... I>
struct Sequence {};
#if defined(__clang__)
template <class T, T... I>
using SequenceOf = Sequence<I...>;
template <int N>
using UpTo = __make_integer_seq<SequenceOf, int, N>;
#else
template <int N>
using UpTo = Sequence<__integer_pack(N)...>;
#endif

// A step of depth of a product, on elements that are the numbers themselves.
template <class T>
struct OneNumber {
  using Element = T;
  [[gnu::always_inline]] static inline void add(typename Vector<T>::type& sum, typename Vector<T>::type right,
                                                T left) noexcept {
    sum += right * left;
  }
};

// Indices are constants from the start, not after unrolling: only then do all compilers keep every sum in a
// register.
template <class T, int R, int V, class Step, int... I>
[[gnu::always_inline]] inline void gemm_rows(const GemmArgs& args, Sequence<I...>) noexcept {
  using Element = typename Step::Element;
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  constexpr int lanes = Vector<T>::lanes;
  Type sum[R * V] = {};
  for (int64_t s = 0; s < args.segments; ++s) {
    const Element* a = static_cast<const Element*>(args.a) + args.a_offset[s];
    const Element* b = static_cast<const Element*>(args.b) + args.b_offset[s];
#pragma GCC unroll 1
    for (int64_t k = args.depth; k > 0; --k) {
      typename Vector<Element>::type right[V];
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v)
        right[v] = *reinterpret_cast<const typename Vector<Element>::loose*>(b + v * lanes);
      (Step::add(sum[I], right[I % V], a[I / V]), ...);
      a += args.a_step;
      b += args.b_step;
    }
  }
  if (args.bias_lanes != nullptr) {
    const T* bias = static_cast<const T*>(args.bias_lanes);
    ((sum[I] += *reinterpret_cast<const Loose*>(bias + I % V * lanes)), ...);
  }
  if (args.bias_rows != nullptr) {
    const T* bias = static_cast<const T*>(args.bias_rows);
    ((sum[I] += bias[I / V]), ...);
  }
  const auto to = [&args](int i) {
    return reinterpret_cast<Loose*>(static_cast<T*>(args.c[i / V]) + i % V * lanes);
  };
  if (args.lanes == V * lanes) {
    if (args.accumulate) ((sum[I] += *to(I)), ...);
    ((*to(I) = sum[I]), ...);
    return;
  }
  T rest[R * V * lanes];
  ((*reinterpret_cast<Loose*>(rest + I * lanes) = sum[I]), ...);
  for (int r = 0; r < R; ++r) {
    T* c = static_cast<T*>(args.c[r]);
    const T* row = rest + r * V * lanes;
    for (int l = 0; l < args.lanes; ++l) c[l] = args.accumulate ? c[l] + row[l] : row[l];
  }
}

// Runs `gemm_rows` for the number of rows the caller has, each number compiled for itself.
template <class T, int R, int V, class Step = OneNumber<T>>
[[gnu::always_inline]] inline void gemm(const GemmArgs& args) noexcept {
  if (args.rows == R) {
    gemm_rows<T, R, V, Step>(args, UpTo<R * V>{});
  } else if constexpr (R > 1) {
    gemm<T, R - 1, V, Step>(args);
  }
}

template <class A, class B>
inline constexpr bool same = false;
template <class A>
inline constexpr bool same<A, A> = true;

// The element type that stores what `E` computes in.
template <class T>
struct Plain;
template <>
struct Plain<float> {
  using type = f32;
};
template <>
struct Plain<double> {
  using type = f64;
};
template <class E>
using plain = typename Plain<typename E::compute>::type;

// A vector of the compute type of an element type, loaded from and stored to the storage type.
template <class E>
struct Lanes {
  using S = typename E::storage;
  using T = typename E::compute;
  using type = typename Vector<T>::type;
  static constexpr int count = Vector<T>::lanes;

  // A vector as short types store it, and as they compute.
  typedef uint16_t Short __attribute__((vector_size(TCONV_VECTOR_BYTES / 2)));
  typedef uint32_t Word __attribute__((vector_size(TCONV_VECTOR_BYTES)));

  // GCC would convert half a vector at a time.
  [[gnu::always_inline]] static inline Word words(Short bits) noexcept {
#if defined(__AVX512F__)
    return (Word)_mm512_cvtepu16_epi32((__m256i)bits);
#elif defined(__AVX2__)
    return (Word)_mm256_cvtepu16_epi32((__m128i)bits);
#else
    return __builtin_convertvector(bits, Word);
#endif
  }

  [[gnu::always_inline]] static inline type widen(Short bits) noexcept {
    if constexpr (same<E, bf16>) return (type)(words(bits) << 16);
#if defined(__AVX512F__)
    return (type)_mm512_cvtph_ps((__m256i)bits);
#elif defined(__F16C__)
    return (type)_mm256_cvtph_ps((__m128i)bits);
#elif defined(__ARM_FP16_FORMAT_IEEE)
    typedef __fp16 Half __attribute__((vector_size(sizeof bits)));
    return __builtin_convertvector((Half)bits, type);
#else
    type out;
    for (int i = 0; i < count; ++i) out[i] = E::load(bits[i]);
    return out;
#endif
  }

  [[gnu::always_inline]] static inline Short narrow(type value) noexcept {
    if constexpr (same<E, bf16>) {
      const Word bits = (Word)value;
      const Word rounded = bits + 0x7fffu + (bits >> 16 & 1u);
      return __builtin_convertvector((value == value ? rounded : bits | 0x400000u) >> 16, Short);
    }
#if defined(__AVX512F__)
    return (Short)_mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__F16C__)
    return (Short)_mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__ARM_FP16_FORMAT_IEEE)
    typedef __fp16 Half __attribute__((vector_size(sizeof(Short))));
    return (Short) __builtin_convertvector(value, Half);
#else
    Short out;
    for (int i = 0; i < count; ++i) out[i] = E::store(value[i]);
    return out;
#endif
  }

  [[gnu::always_inline]] static inline type load(const S* from) noexcept {
    if constexpr (sizeof(S) == 2) {
      Short bits;
      memcpy(&bits, from, sizeof bits);
      return widen(bits);
    } else {
      type out;
      memcpy(&out, from, sizeof out);
      return out;
    }
  }

  // The lanes of `mask`; the others are zero and their memory is not touched.
  [[gnu::always_inline]] static inline type load(const S* from, uint32_t mask) noexcept {
#if defined(__AVX512F__)
    if constexpr (same<E, f32>) return (type)_mm512_maskz_loadu_ps((__mmask16)mask, from);
    if constexpr (same<E, f64>) return (type)_mm512_maskz_loadu_pd((__mmask8)mask, from);
    if constexpr (sizeof(S) == 2) return widen((Short)_mm256_maskz_loadu_epi16((__mmask16)mask, from));
#endif
    if constexpr (sizeof(S) == 2) {
      Short bits = {};
      for (int i = 0; i < count; ++i) {
        if (mask >> i & 1u) bits[i] = from[i];
      }
      return widen(bits);
    } else {
      type out = {};
      for (int i = 0; i < count; ++i) {
        if (mask >> i & 1u) out[i] = from[i];
      }
      return out;
    }
  }

  [[gnu::always_inline]] static inline void store(S* to, type value) noexcept {
    if constexpr (sizeof(S) == 2) {
      const Short bits = narrow(value);
      memcpy(to, &bits, sizeof bits);
    } else {
      memcpy(to, &value, sizeof value);
    }
  }

  // The first `n` lanes.
  [[gnu::always_inline]] static inline void store(S* to, type value, int n) noexcept {
    if (n >= count) {
      store(to, value);
    } else {
      store_lanes(to, value, 0, n);
    }
  }

  // Lanes [begin, end), to where lane 0 would go.
  [[gnu::always_inline]] static inline void store_lanes(S* to, type value, int begin, int end) noexcept {
#if defined(__AVX512F__)
    const uint32_t mask = first(end) & ~first(begin);
    if constexpr (same<E, f32>) {
      _mm512_mask_storeu_ps(to, (__mmask16)mask, (__m512)value);
    } else if constexpr (same<E, f64>) {
      _mm512_mask_storeu_pd(to, (__mmask8)mask, (__m512d)value);
    } else {
      _mm256_mask_storeu_epi16(to, (__mmask16)mask, (__m256i)narrow(value));
    }
#else
    if constexpr (sizeof(S) == 2) {
      const Short bits = narrow(value);
      for (int i = begin; i < end; ++i) to[i] = bits[i];
    } else {
      for (int i = begin; i < end; ++i) to[i] = value[i];
    }
#endif
  }

  static inline uint32_t first(int64_t n) noexcept {
    return n >= count ? (uint32_t)((1ull << count) - 1) : (1u << n) - 1u;
  }
};

// Exchanges blocks of `step` lanes with rows `step` further on.
template <class T, int L, int step, int... I>
[[gnu::always_inline]] inline void mirror_step(typename Vector<T>::type (&row)[L],
                                               Sequence<I...> lanes) noexcept {
  using Type = typename Vector<T>::type;
  typedef decltype(Type{} == Type{}) Index;
  constexpr Index low = {((I & step) ? I - step + L : I)...};
  constexpr Index high = {((I & step) ? I + L : I + step)...};
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) {
    if (i & step) continue;
    const Type a = row[i];
    const Type b = row[i + step];
    row[i] = __builtin_shuffle(a, b, low);
    row[i + step] = __builtin_shuffle(a, b, high);
  }
  if constexpr (2 * step < L) mirror_step<T, L, 2 * step>(row, lanes);
}

// Lanes of a and b in turn.
template <class T, int L, int... I>
[[gnu::always_inline]] inline void zip(typename Vector<T>::type a, typename Vector<T>::type b,
                                       typename Vector<T>::type (&pair)[2], Sequence<I...>) noexcept {
  using Type = typename Vector<T>::type;
  typedef decltype(Type{} == Type{}) Index;
  constexpr Index low = {((I & 1) ? L + I / 2 : I / 2)...};
  constexpr Index high = {((I & 1) ? L + L / 2 + I / 2 : L / 2 + I / 2)...};
  pair[0] = __builtin_shuffle(a, b, low);
  pair[1] = __builtin_shuffle(a, b, high);
}

// The square of vectors, mirrored: lane j of row i and lane i of row j change places.
template <class T, int L>
[[gnu::always_inline]] inline void mirror(typename Vector<T>::type (&row)[L]) noexcept {
  mirror_step<T, L, 1>(row, UpTo<L>{});
}

// dst[j * dst_row + i] = src[i * src_row + j] for i, j below a vector's lanes. Not inline, or the compiler
// keeps an address for each row and runs out of registers.
template <class A, class B>
[[gnu::noinline]] void transpose_square(const typename A::storage* src, int64_t src_row,
                                        typename B::storage* dst, int64_t dst_row) noexcept {
  constexpr int L = Lanes<A>::count;
  typename Lanes<A>::type square[L];
#pragma GCC unroll 16
  for (int r = 0; r < L; ++r) {
    square[r] = Lanes<A>::load(src);
    src += src_row;
  }
  mirror<typename A::compute, L>(square);
#pragma GCC unroll 16
  for (int r = 0; r < L; ++r) {
    Lanes<B>::store(dst, square[r]);
    __builtin_prefetch(dst + 2 * L, 1);
    dst += dst_row;
  }
}

// The same for i < height, j < width.
template <class A, class B>
[[gnu::noinline]] void transpose_part(const typename A::storage* src, int64_t src_row,
                                      typename B::storage* dst, int64_t dst_row, int height,
                                      int width) noexcept {
  constexpr int L = Lanes<A>::count;
  const uint32_t mask = Lanes<A>::first(width);
  typename Lanes<A>::type square[L];
#pragma GCC unroll 16
  for (int r = 0; r < L; ++r) {
    square[r] = Lanes<A>::load(src, mask);
    // Rows beyond the last repeat it; their lanes are not stored.
    src += r + 1 < height ? src_row : 0;
  }
  mirror<typename A::compute, L>(square);
#pragma GCC unroll 16
  for (int r = 0; r < L; ++r) {
    if (r == width) return;
    Lanes<B>::store(dst, square[r], height);
    dst += dst_row;
  }
}

// dst[j * dst_row + i] = src[i * src_row + j] for i < rows, j < columns, from element type A to B of one
// compute type. Where it can, stores whole aligned vectors: rows of dst often lie a power of two apart, and
// then a line that is not written at once is lost from the cache before its other part comes.
template <class A, class B>
[[gnu::always_inline]] inline void transpose(const typename A::storage* src, int64_t src_row,
                                             typename B::storage* dst, int64_t dst_row, int64_t rows,
                                             int64_t columns) noexcept {
  constexpr int L = Lanes<A>::count;
  // Short runs are not worth a square more to align the first.
  const bool aligns = rows > (dst_row % L == 0 ? L : 2 * L);
  const int past = aligns ? (int)(reinterpret_cast<uintptr_t>(dst) / sizeof(typename B::storage) % L) : 0;
  int height = 0;
  for (int64_t i = 0; i < rows; i += height) {
    height = i == 0 ? L - past : L;
    if (rows - i < height) height = (int)(rows - i);
    for (int64_t j = 0; j < columns; j += L) {
      const int width = columns - j < L ? (int)(columns - j) : L;
      if (height == L && width == L) {
        transpose_square<A, B>(src + i * src_row + j, src_row, dst + j * dst_row + i, dst_row);
      } else {
        transpose_part<A, B>(src + i * src_row + j, src_row, dst + j * dst_row + i, dst_row, height, width);
      }
    }
  }
}

// dst[2 * j + i] = src[i * src_row + j] for i < 2.
template <class A, class B>
[[gnu::always_inline]] inline void interleave(const typename A::storage* src, int64_t src_row,
                                              typename B::storage* dst, int64_t columns) noexcept {
  using From = Lanes<A>;
  using To = Lanes<B>;
  constexpr int L = From::count;
  for (int64_t j = 0; j < columns; j += L) {
    const int width = columns - j < L ? (int)(columns - j) : L;
    const uint32_t mask = From::first(width);
    const auto a = width == L ? From::load(src + j) : From::load(src + j, mask);
    const auto b = width == L ? From::load(src + src_row + j) : From::load(src + src_row + j, mask);
    typename From::type pair[2];
    zip<typename A::compute, L>(a, b, pair, UpTo<L>{});
    To::store(dst + 2 * j, pair[0], 2 * width);
    if (2 * width > L) To::store(dst + 2 * j + L, pair[1], 2 * width - L);
  }
}

// A vector of numbers of the stream that N vectors are, one behind the other: lane l is number `at`(l).
template <class T, int N, auto at, int... I>
[[gnu::always_inline]] inline typename Vector<T>::type picked(const typename Vector<T>::type (&v)[N],
                                                              Sequence<I...>) noexcept {
  using Type = typename Vector<T>::type;
  typedef decltype(Type{} == Type{}) Index;
  constexpr int L = sizeof...(I);
  constexpr Index start = {(at(I) < 2 * L ? at(I) : 0)...};
  Type all = __builtin_shuffle(v[0], v[1], start);
  if constexpr (N > 2) {
    constexpr Index third = {(at(I) / L == 2 ? L + at(I) % L : I)...};
    all = __builtin_shuffle(all, v[2], third);
  }
  if constexpr (N > 3) {
    constexpr Index fourth = {(at(I) / L == 3 ? L + at(I) % L : I)...};
    constexpr Index fifth = {(at(I) / L == 4 ? L + at(I) % L : I)...};
    all = __builtin_shuffle(__builtin_shuffle(all, v[3], fourth), v[4], fifth);
  }
  if constexpr (N > 5) {
    constexpr Index sixth = {(at(I) / L == 5 ? L + at(I) % L : I)...};
    constexpr Index seventh = {(at(I) / L == 6 ? L + at(I) % L : I)...};
    all = __builtin_shuffle(__builtin_shuffle(all, v[5], sixth), v[6], seventh);
  }
  return all;
}

// Every Nth number of the stream, from the first on that is told.
template <class T, int N, int first, int... I>
[[gnu::always_inline]] inline typename Vector<T>::type every(const typename Vector<T>::type (&v)[N],
                                                             Sequence<I...> lanes) noexcept {
  return picked<T, N, [](int lane) { return lane * N + first; }>(v, lanes);
}

// Vectors that hold a stream of N numbers in turn come to hold one of them each, for N up to 8.
template <class T, int N, int... J>
[[gnu::always_inline]] inline void unzip(typename Vector<T>::type (&v)[N], Sequence<J...>) noexcept {
  using Type = typename Vector<T>::type;
  constexpr auto lanes = UpTo<Vector<T>::lanes>{};
  if constexpr (N % 2 == 0) {
    constexpr int half = N / 2;
    Type even[half];
    Type odd[half];
#pragma GCC unroll 4
    for (int i = 0; i < half; ++i) {
      const Type pair[2] = {v[2 * i], v[2 * i + 1]};
      even[i] = every<T, 2, 0>(pair, lanes);
      odd[i] = every<T, 2, 1>(pair, lanes);
    }
    unzip<T, half>(even, UpTo<half>{});
    unzip<T, half>(odd, UpTo<half>{});
#pragma GCC unroll 4
    for (int i = 0; i < half; ++i) {
      v[2 * i] = even[i];
      v[2 * i + 1] = odd[i];
    }
  } else if constexpr (N > 1) {
    const Type all[N] = {every<T, N, J>(v, lanes)...};
    ((v[J] = all[J]), ...);
  }
}

// dst[j * dst_column + i] = src[i * N + j] for i < rows, j < N.
template <class A, class B, int N>
[[gnu::always_inline]] inline void deinterleave(const typename A::storage* src, typename B::storage* dst,
                                                int64_t dst_column, int64_t rows) noexcept {
  using From = Lanes<A>;
  constexpr int L = From::count;
  for (int64_t i = 0; i < rows; i += L) {
    const int64_t rest = (rows - i) * N;
    typename From::type v[N];
#pragma GCC unroll 8
    for (int k = 0; k < N; ++k) {
      const auto* from = src + i * N + k * L;
      __builtin_prefetch(from + 8 * L);
      v[k] =
          rest >= N * L ? From::load(from) : From::load(from, From::first(rest > k * L ? rest - k * L : 0));
    }
    unzip<typename A::compute, N>(v, UpTo<N>{});
    const int width = rest >= N * L ? L : (int)(rows - i);
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) Lanes<B>::store(dst + j * dst_column + i, v[j], width);
  }
}

// The same for a number of columns that is known at run time; false where it is not among those compiled.
template <class A, class B>
[[gnu::always_inline]] inline bool deinterleave(const typename A::storage* src, typename B::storage* dst,
                                                int64_t dst_column, int64_t rows, int64_t columns) noexcept {
  switch (columns) {
    case 2:
      deinterleave<A, B, 2>(src, dst, dst_column, rows);
      return true;
    case 3:
      deinterleave<A, B, 3>(src, dst, dst_column, rows);
      return true;
    case 4:
      deinterleave<A, B, 4>(src, dst, dst_column, rows);
      return true;
    case 5:
      deinterleave<A, B, 5>(src, dst, dst_column, rows);
      return true;
    case 8:
      deinterleave<A, B, 8>(src, dst, dst_column, rows);
      return true;
    default:
      return false;
  }
}

// dst[i * dst_row + j] = src[i * src_row + j].
template <class A, class B>
[[gnu::always_inline]] inline void copy(const typename A::storage* src, int64_t src_row,
                                        typename B::storage* dst, int64_t dst_row, int64_t rows,
                                        int64_t columns) noexcept {
  constexpr int L = Lanes<A>::count;
  for (int64_t i = 0; i < rows; ++i) {
    const auto* from = src + i * src_row;
    auto* to = dst + i * dst_row;
    int64_t j = 0;
    for (; j + L <= columns; j += L) Lanes<B>::store(to + j, Lanes<A>::load(from + j));
    if (j < columns)
      Lanes<B>::store(to + j, Lanes<A>::load(from + j, Lanes<A>::first(columns - j)), (int)(columns - j));
  }
}

// `n` elements, `step` apart in the source.
template <class E>
[[gnu::always_inline]] inline void copy_apart(const typename E::storage* from, int64_t step,
                                              typename E::compute* to, int n) noexcept {
  int i = 0;
#if defined(__AVX512F__)
  if constexpr (same<E, f32>) {
    using L = Lanes<E>;
    if (step == 2) {
      const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
      for (; i < n; i += 16) {
        const int rest = 2 * (n - i) - 1;
        const __m512 low = _mm512_maskz_loadu_ps((__mmask16)L::first(rest), from + 2 * i);
        const __m512 high = rest > 16
                                ? _mm512_maskz_loadu_ps((__mmask16)L::first(rest - 16), from + 2 * i + 16)
                                : _mm512_setzero_ps();
        L::store(to + i, (typename L::type)_mm512_permutex2var_ps(low, even, high), n - i);
      }
    }
  }
#endif
  for (; i < n; ++i) to[i] = E::load(from[i * step]);
}

template <class A, class B>
[[gnu::always_inline]] inline void move(const MoveArgs& args) noexcept {
  const auto* src = static_cast<const typename A::storage*>(args.src);
  auto* dst = static_cast<typename B::storage*>(args.dst);
  if (args.rows * args.columns <= 8) {
    for (int64_t i = 0; i < args.rows; ++i) {
      for (int64_t j = 0; j < args.columns; ++j) {
        dst[i * args.dst_row + j * args.dst_column] =
            B::store(A::load(src[i * args.src_row + j * args.src_column]));
      }
    }
  } else if (args.src_column == 1 && args.dst_column == 1) {
    copy<A, B>(src, args.src_row, dst, args.dst_row, args.rows, args.columns);
  } else if (args.src_column == 1 && args.dst_row == 1 && args.rows == 2 && args.dst_column == 2) {
    interleave<A, B>(src, args.src_row, dst, args.columns);
  } else if (args.src_column == 1 && args.dst_row == 1 && args.src_row == args.columns &&
             deinterleave<A, B>(src, dst, args.dst_column, args.rows, args.columns)) {
  } else if (args.src_column == 1 && args.dst_row == 1) {
    transpose<A, B>(src, args.src_row, dst, args.dst_column, args.rows, args.columns);
  } else if (args.src_row == 1 && args.dst_column == 1) {
    transpose<A, B>(src, args.src_column, dst, args.dst_row, args.columns, args.rows);
  } else {
    for (int64_t i = 0; i < args.rows; ++i) {
      for (int64_t j = 0; j < args.columns; ++j) {
        dst[i * args.dst_row + j * args.dst_column] =
            B::store(A::load(src[i * args.src_row + j * args.src_column]));
      }
    }
  }
}

template <class E>
[[gnu::always_inline]] inline void load(const MoveArgs& args) noexcept {
  if (args.dst_column == 1 && args.src_column > 1) {
    for (int64_t i = 0; i < args.rows; ++i) {
      copy_apart<E>(static_cast<const typename E::storage*>(args.src) + i * args.src_row, args.src_column,
                    static_cast<typename E::compute*>(args.dst) + i * args.dst_row, (int)args.columns);
    }
    return;
  }
  move<E, plain<E>>(args);
}

template <class E>
[[gnu::always_inline]] inline void store(const MoveArgs& args) noexcept {
  move<plain<E>, E>(args);
}

template <class E>
[[gnu::always_inline]] inline void plain_store(typename E::compute* to, typename Lanes<E>::type value,
                                               int n) noexcept {
  Lanes<plain<E>>::store(to, value, n);
}

// `value`, with the lanes of `mask` loaded.
template <class E>
[[gnu::always_inline]] inline typename Lanes<E>::type merge(typename Lanes<E>::type value,
                                                            const typename E::storage* from,
                                                            uint32_t mask) noexcept {
#if defined(__AVX512F__)
  using Type = typename Lanes<E>::type;
  if constexpr (same<E, f32>) return (Type)_mm512_mask_loadu_ps((__m512)value, (__mmask16)mask, from);
  if constexpr (same<E, f64>) return (Type)_mm512_mask_loadu_pd((__m512d)value, (__mmask8)mask, from);
  if constexpr (sizeof(typename E::storage) == 2)
    return (Type)_mm512_mask_mov_ps((__m512)value, (__mmask16)mask, (__m512)Lanes<E>::load(from, mask));
#endif
  for (int i = 0; i < Lanes<E>::count; ++i) {
    if (mask >> i & 1u) value[i] = E::load(from[i]);
  }
  return value;
}

// Gathers up to a vector of positions, of maps that lie apart: each run of neighbours is a load.
template <class E>
[[gnu::always_inline]] inline void gather_apart(const GatherArgs& args, int64_t first, int count) noexcept {
  using L = Lanes<E>;
  using S = typename E::storage;
  const int64_t* offset = args.offset + first;
  const S* src = static_cast<const S*>(args.src);
  auto* dst = static_cast<typename E::compute*>(args.dst) + first;
  constexpr int kRuns = 4;
  const S* run_src[kRuns] = {src, src};
  uint32_t run_mask[kRuns] = {};
  int runs = 0;
  int i = 0;
  while (i < count && runs <= kRuns) {
    if (offset[i] < 0) {
      ++i;
      continue;
    }
    int end = i + 1;
    while (end < count && offset[end] == offset[i] + (end - i)) ++end;
    if (runs < kRuns) {
      run_src[runs] = src + offset[i] - i;
      run_mask[runs] = L::first(end) & ~L::first(i);
    }
    ++runs;
    i = end;
  }
  if (runs == 1 && run_mask[0] == L::first(L::count)) {
    for (int64_t m = 0; m < args.maps; ++m) {
      plain_store<E>(dst + m * args.width, L::load(run_src[0] + m * args.map_stride), count);
    }
  } else if (runs <= 2) {
    for (int64_t m = 0; m < args.maps; ++m) {
      const int64_t shift = m * args.map_stride;
      plain_store<E>(dst + m * args.width,
                     merge<E>(L::load(run_src[0] + shift, run_mask[0]), run_src[1] + shift, run_mask[1]),
                     count);
    }
  } else if (runs <= kRuns) {
    for (int64_t m = 0; m < args.maps; ++m) {
      const int64_t shift = m * args.map_stride;
      typename L::type value = L::load(run_src[0] + shift, run_mask[0]);
      for (int r = 1; r < runs; ++r) value = merge<E>(value, run_src[r] + shift, run_mask[r]);
      plain_store<E>(dst + m * args.width, value, count);
    }
  } else {
    for (int64_t m = 0; m < args.maps; ++m) {
      for (int p = 0; p < count; ++p) {
        dst[m * args.width + p] = offset[p] < 0 ? 0 : E::load(src[offset[p] + m * args.map_stride]);
      }
    }
  }
}

// Gathers up to a vector of positions whose maps are neighbours: squares are mirrored.
template <class E>
[[gnu::always_inline]] inline void gather_neighbours(const GatherArgs& args, int64_t first,
                                                     int count) noexcept {
  using L = Lanes<E>;
  using T = typename E::compute;
  const auto* src = static_cast<const typename E::storage*>(args.src);
  T* dst = static_cast<T*>(args.dst) + first;
  const int64_t* offset = args.offset + first;
  for (int64_t m = 0; m < args.maps; m += L::count) {
    const int height = args.maps - m < L::count ? (int)(args.maps - m) : L::count;
    const uint32_t mask = L::first(height);
    typename L::type square[L::count];
#pragma GCC unroll 16
    for (int p = 0; p < L::count; ++p) {
      square[p] = p < count && offset[p] >= 0 ? L::load(src + offset[p] + m, mask) : typename L::type{};
    }
    mirror<T, L::count>(square);
    for (int r = 0; r < height; ++r) plain_store<E>(dst + (m + r) * args.width, square[r], count);
  }
}

template <class E>
[[gnu::always_inline]] inline void gather(const GatherArgs& args) noexcept {
  constexpr int L = Lanes<E>::count;
  for (int64_t first = 0; first < args.count; first += L) {
    const int count = args.count - first < L ? (int)(args.count - first) : L;
    if (args.map_stride == 1 && args.maps > 1) {
      gather_neighbours<E>(args, first, count);
    } else {
      gather_apart<E>(args, first, count);
    }
  }
}

template <class E>
[[gnu::always_inline]] inline void panel(const PanelArgs& args) noexcept {
  using L = Lanes<E>;
  using T = typename E::compute;
  const auto* src = static_cast<const typename E::storage*>(args.src);
  T* dst = static_cast<T*>(args.dst);
  for (int64_t m = 0; m < args.maps; ++m) {
    for (int64_t r = 0; r < args.runs; ++r) {
      const PanelRun run = args.run[r];
      T* to = dst + run.dst;
      const auto* from = src + run.src;
      int i = 0;
      if (run.src < 0) {
        for (; i + L::count <= run.length; i += L::count)
          plain_store<E>(to + i, typename L::type{}, L::count);
        if (i < run.length) plain_store<E>(to + i, typename L::type{}, run.length - i);
      } else if (args.src_step == 1) {
        for (; i + L::count <= run.length; i += L::count) plain_store<E>(to + i, L::load(from + i), L::count);
        if (i < run.length)
          plain_store<E>(to + i, L::load(from + i, L::first(run.length - i)), run.length - i);
      } else {
        copy_apart<E>(from, args.src_step, to, run.length);
      }
    }
    src += args.map_stride;
    dst += args.width;
  }
}

#endif

}  // namespace
