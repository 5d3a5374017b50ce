// What the kernel that packs weights sees: its arguments, and its code for vectors of any width.
#pragma once

#include "kernel_abi.hpp"

// Family `pack`: storage type to compute type, for tap t and lane l below `lanes`
//   dst[order[t] * tap_step + l] = l < columns ? src[l * column_stride + t * tap_stride] : 0
// Sets *finite to false where it meets an infinity or NaN.
struct PackArgs {
  const void* src;
  int64_t column_stride;
  int64_t tap_stride;
  int64_t columns;
  int64_t taps;
  const int64_t* order;
  void* dst;
  int64_t tap_step;
  int64_t lanes;
  bool* finite;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

// One square of columns and taps, mirrored. Not inline, or the compiler runs out of registers for addresses.
template <class E>
[[gnu::noinline]] typename Lanes<E>::type pack_square(const typename E::storage* src, int64_t column_stride,
                                                      int height, int width, const int64_t* order,
                                                      typename E::compute* dst, int64_t tap_step) noexcept {
  using T = typename E::compute;
  constexpr int L = Lanes<E>::count;
  typename Lanes<E>::type square[L];
  typename Lanes<E>::type check = {};
  if (height == L && width == L) {
#pragma GCC unroll 16
    for (int r = 0; r < L; ++r) {
      square[r] = Lanes<E>::load(src);
      check += square[r] * T{0};
      src += column_stride;
    }
  } else {
    const uint32_t mask = Lanes<E>::first(width);
#pragma GCC unroll 16
    for (int r = 0; r < L; ++r) {
      square[r] = Lanes<E>::load(src, r < height ? mask : 0);
      check += square[r] * T{0};
      src += r + 1 < height ? column_stride : 0;
    }
  }
  mirror<T, L>(square);
#pragma GCC unroll 16
  for (int r = 0; r < L; ++r) {
    if (r == width) break;
    Lanes<plain<E>>::store(dst + order[r] * tap_step, square[r]);
  }
  return check;
}

template <class E>
[[gnu::always_inline]] inline void pack(const PackArgs& args) noexcept {
  using L = Lanes<E>;
  using T = typename E::compute;
  const auto* src = static_cast<const typename E::storage*>(args.src);
  T* dst = static_cast<T*>(args.dst);
  typename L::type check = {};
  for (int64_t c = 0; c < args.lanes; c += L::count) {
    const int height =
        (int)(args.columns - c < L::count ? (args.columns > c ? args.columns - c : 0) : L::count);
    if (args.tap_stride == 1) {
      for (int64_t t = 0; t < args.taps; t += L::count) {
        const int width = (int)(args.taps - t < L::count ? args.taps - t : L::count);
        check += pack_square<E>(src + c * args.column_stride + t, args.column_stride, height, width,
                                args.order + t, dst + c, args.tap_step);
      }
    } else if (args.column_stride == 1) {
      const uint32_t mask = L::first(height);
      for (int64_t t = 0; t < args.taps; ++t) {
        const auto value = L::load(src + c + t * args.tap_stride, mask);
        check += value * T{0};
        Lanes<plain<E>>::store(dst + args.order[t] * args.tap_step + c, value);
      }
    } else {
      for (int64_t t = 0; t < args.taps; ++t) {
        typename L::type value = {};
        for (int i = 0; i < height; ++i)
          value[i] = E::load(src[(c + i) * args.column_stride + t * args.tap_stride]);
        check += value * T{0};
        Lanes<plain<E>>::store(dst + args.order[t] * args.tap_step + c, value);
      }
    }
  }
  for (int i = 0; i < L::count; ++i) {
    if (!(check[i] == T{0})) *args.finite = false;
  }
}

}  // namespace

#endif
