// What the kernel that copies windows sees: its arguments, and its code for vectors of any width.
#pragma once

#include "kernel_abi.hpp"

// Family `windows`: storage type to compute type, for run r < runs, i < count, j < length
//   dst[i * dst_step + r * length + j] = src[offset[r] + i * src_step + j]
// for runs that are mostly much shorter than a vector. What lies `next` elements further on is read soon.
struct WindowsArgs {
  const void* src;
  const int64_t* offset;
  int64_t next;
  int64_t src_step;
  void* dst;
  int64_t dst_step;
  int64_t runs;
  int64_t count;
  int64_t length;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

template <class E, int N>
[[gnu::always_inline]] inline void short_windows(const typename E::storage* src, int64_t src_step,
                                                 typename E::compute* dst, int64_t dst_step,
                                                 int64_t count) noexcept {
#pragma GCC unroll 4
  for (; count > 0; --count) {
    if constexpr (sizeof *src == sizeof *dst) {
      memcpy(dst, src, N * sizeof *dst);
    } else if constexpr (N > 2) {
      // GCC would convert one at a time.
      copy<E, plain<E>>(src, 0, dst, 0, 1, N);
    } else {
      for (int j = 0; j < N; ++j) dst[j] = E::load(src[j]);
    }
    src += src_step;
    dst += dst_step;
  }
}

constexpr int kShort = 16;

// Runs from one on, by the copy that is compiled for their length.
template <class E, int N = kShort>
[[gnu::always_inline]] inline void run_windows(const WindowsArgs& args, int64_t first) noexcept {
  const auto* src = static_cast<const typename E::storage*>(args.src);
  auto* dst = static_cast<typename E::compute*>(args.dst);
  if (args.length == N) {
    for (int64_t r = first; r < args.runs; ++r)
      short_windows<E, N>(src + args.offset[r], args.src_step, dst + r * N, args.dst_step, args.count);
  } else if constexpr (N > 1) {
    run_windows<E, N - 1>(args, first);
  } else {
    for (int64_t r = first; r < args.runs; ++r)
      copy<E, plain<E>>(src + args.offset[r], args.src_step, dst + r * args.length, args.dst_step, args.count,
                        args.length);
  }
}

// As many runs of pairs that follow each other as pairs fill a vector: a mirroring of pairs.
[[gnu::noinline, maybe_unused]] void mirror_pairs(const float* src, const int64_t* offset, int64_t next,
                                                  float* dst, int64_t dst_step, int64_t count) noexcept {
  constexpr int L = Vector<double>::lanes;
  int64_t i = 0;
  for (; i + L <= count; i += L) {
    typename Vector<double>::type square[L];
#pragma GCC unroll 8
    for (int r = 0; r < L; ++r) {
      const float* from = src + offset[r] + 2 * i;
      __builtin_prefetch(from + next);
      memcpy(&square[r], from, sizeof square[r]);
    }
    mirror<double, L>(square);
#pragma GCC unroll 8
    for (int r = 0; r < L; ++r) {
      memcpy(dst, &square[r], sizeof square[r]);
      dst += dst_step;
    }
  }
  for (; i < count; ++i, dst += dst_step) {
#pragma GCC unroll 8
    for (int r = 0; r < L; ++r) memcpy(dst + 2 * r, src + offset[r] + 2 * i, 2 * sizeof *dst);
  }
}

template <class E>
[[gnu::always_inline]] inline void windows(const WindowsArgs& args) noexcept {
  int64_t r = 0;
  if constexpr (same<E, f32>) {
    constexpr int L = Vector<double>::lanes;
    if (args.length == 2 && args.src_step == 2) {
      for (; r + L <= args.runs; r += L)
        mirror_pairs(static_cast<const float*>(args.src), args.offset + r, args.next,
                     static_cast<float*>(args.dst) + r * args.length, args.dst_step, args.count);
    }
  }
  run_windows<E>(args, r);
}

}  // namespace

#endif
