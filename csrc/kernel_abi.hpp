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
// `lanes` is.
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
// May write up to one vector past the last element of dst.
struct GatherArgs {
  const void* src;
  int64_t map_stride;
  const int64_t* offset;
  int64_t count;
  int64_t width;
  int64_t maps;
  void* dst;
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

template <class T, int R, int V>
[[gnu::always_inline]] inline void gemm_rows(const GemmArgs& args) noexcept {
  using Type = typename Vector<T>::type;
  using Loose = typename Vector<T>::loose;
  constexpr int lanes = Vector<T>::lanes;
  Type sum[R][V] = {};
  for (int64_t s = 0; s < args.segments; ++s) {
    const T* a = static_cast<const T*>(args.a) + args.a_offset[s];
    const T* b = static_cast<const T*>(args.b) + args.b_offset[s];
#pragma GCC unroll 1
    for (int64_t k = args.depth; k > 0; --k) {
      Type right[V];
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) right[v] = *reinterpret_cast<const Loose*>(b + v * lanes);
#pragma GCC unroll 32
      for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) sum[r][v] += right[v] * a[r];
      }
      a += args.a_step;
      b += args.b_step;
    }
  }
  if (args.bias_lanes != nullptr) {
    const T* bias = static_cast<const T*>(args.bias_lanes);
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      const Type shift = *reinterpret_cast<const Loose*>(bias + v * lanes);
#pragma GCC unroll 32
      for (int r = 0; r < R; ++r) sum[r][v] += shift;
    }
  }
  if (args.bias_rows != nullptr) {
    const T* bias = static_cast<const T*>(args.bias_rows);
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sum[r][v] += bias[r];
    }
  }
  if (args.lanes == V * lanes) {
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) {
      T* c = static_cast<T*>(args.c[r]);
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) {
        Loose* to = reinterpret_cast<Loose*>(c + v * lanes);
        *to = args.accumulate ? *to + sum[r][v] : sum[r][v];
      }
    }
    return;
  }
#pragma GCC unroll 32
  for (int r = 0; r < R; ++r) {
    T row[V * lanes];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) *reinterpret_cast<Loose*>(row + v * lanes) = sum[r][v];
    T* c = static_cast<T*>(args.c[r]);
    for (int l = 0; l < args.lanes; ++l) c[l] = args.accumulate ? c[l] + row[l] : row[l];
  }
}

// Runs `gemm_rows` for the number of rows the caller has, each number compiled for itself.
template <class T, int R, int V>
[[gnu::always_inline]] inline void gemm(const GemmArgs& args) noexcept {
  if (args.rows == R) {
    gemm_rows<T, R, V>(args);
  } else if constexpr (R > 1) {
    gemm<T, R - 1, V>(args);
  }
}

template <class E>
[[gnu::always_inline]] inline void gather(const GatherArgs& args) noexcept {
  using T = typename E::compute;
  const auto* src = static_cast<const typename E::storage*>(args.src);
  T* dst = static_cast<T*>(args.dst);
  for (int64_t p = 0; p < args.count; ++p) {
    const int64_t offset = args.offset[p];
    if (offset < 0) {
      for (int64_t m = 0; m < args.maps; ++m) dst[m * args.width + p] = 0;
    } else {
      for (int64_t m = 0; m < args.maps; ++m)
        dst[m * args.width + p] = E::load(src[offset + m * args.map_stride]);
    }
  }
}

template <class E>
[[gnu::always_inline]] inline void load(const MoveArgs& args) noexcept {
  const auto* src = static_cast<const typename E::storage*>(args.src);
  auto* dst = static_cast<typename E::compute*>(args.dst);
  if (args.src_column == 1 && args.dst_column == 1) {
    for (int64_t i = 0; i < args.rows; ++i) {
      const auto* from = src + i * args.src_row;
      auto* to = dst + i * args.dst_row;
      for (int64_t j = 0; j < args.columns; ++j) to[j] = E::load(from[j]);
    }
    return;
  }
  for (int64_t i = 0; i < args.rows; ++i) {
    for (int64_t j = 0; j < args.columns; ++j) {
      dst[i * args.dst_row + j * args.dst_column] = E::load(src[i * args.src_row + j * args.src_column]);
    }
  }
}

template <class E>
[[gnu::always_inline]] inline void store(const MoveArgs& args) noexcept {
  const auto* src = static_cast<const typename E::compute*>(args.src);
  auto* dst = static_cast<typename E::storage*>(args.dst);
  if (args.src_column == 1 && args.dst_column == 1) {
    for (int64_t i = 0; i < args.rows; ++i) {
      const auto* from = src + i * args.src_row;
      auto* to = dst + i * args.dst_row;
      for (int64_t j = 0; j < args.columns; ++j) to[j] = E::store(from[j]);
    }
    return;
  }
  for (int64_t i = 0; i < args.rows; ++i) {
    for (int64_t j = 0; j < args.columns; ++j) {
      dst[i * args.dst_row + j * args.dst_column] = E::store(src[i * args.src_row + j * args.src_column]);
    }
  }
}

#endif

}  // namespace
