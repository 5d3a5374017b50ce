// What the kernel that makes the operands of Strassen's products sees: its arguments, and its code for
// vectors of any width.
#pragma once

#include "strassen_abi.hpp"

// Family `quarters`, from the storage type to the compute type: sums of the quarters of a matrix, each at
//   src[half of lanes * lane_half + half of depth * depth_half + k * src_step + l]
// as the table in strassen_abi.hpp tells, for step k and lane l below `lanes`, those of the second half that
// are not below `second_lanes` being zero:
//   dst[product * dst_product + k * dst_step + l]
// Sets *finite to false where it meets an infinity or NaN, or makes one.
struct QuartersArgs {
  const void* src;
  int64_t lane_half;
  int64_t depth_half;
  int64_t src_step;
  int64_t steps;
  int64_t lanes;
  int64_t second_lanes;
  void* dst;
  int64_t dst_product;
  int64_t dst_step;
  int64_t ahead;  // from what is read to what comes to the second cache meanwhile
  bool weights;   // a of the products, else b
  bool stream;    // vectors are lines of their own and go past the caches
  bool* finite;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

template <class E, bool weights>
[[gnu::always_inline]] inline void quarters(const QuartersArgs& args) noexcept {
  using L = Lanes<E>;
  using T = typename E::compute;
  using Type = typename L::type;
  typedef decltype(Type{} == Type{}) Bits;
  Type check[kStrassenProducts] = {};
  // Steps that fill half a vector and lie side by side are made two at a time.
  const bool pairs = 2 * args.lanes == L::count && args.dst_step == args.lanes;
  for (int64_t k = 0; k < args.steps; ++k) {
    const bool pair = pairs && k + 1 < args.steps;
    const auto* src = static_cast<const typename E::storage*>(args.src) + k * args.src_step;
    T* dst = static_cast<T*>(args.dst) + k * args.dst_step;
    for (int64_t l = 0; l < args.lanes; l += L::count, src += L::count, dst += L::count) {
      const int count = args.lanes - l < L::count ? (int)(args.lanes - l) : L::count;
      const int64_t rest = args.second_lanes - l;
      const int second = rest < count ? (rest > 0 ? (int)rest : 0) : count;
      const auto at = [&](int lane, int depth) __attribute__((always_inline)) {
        const auto* from = src + lane * args.lane_half + depth * args.depth_half;
        __builtin_prefetch(from + args.ahead, 0, 2);
        const int valid = lane == 0 ? count : second;
        if (valid == L::count) return L::load(from);
        const Type one = L::load(from, L::first(valid));
        if (!pair) return one;
        __builtin_prefetch(from + args.src_step + args.ahead, 0, 2);
        const int half = L::count / 2;
        const Type next = L::load(from + args.src_step - half, L::first(half + valid) & ~L::first(half));
        return (Type)((Bits)one | (Bits)next);
      };
      const auto to = [&](int product, Type value) __attribute__((always_inline)) {
        T* const c = dst + product * args.dst_product;
        const int valid = pair ? L::count : count;
        if (args.stream && valid == L::count) {
          stream_out<plain<E>>(c, value);
        } else {
          Lanes<plain<E>>::store(c, value, valid);
        }
      };
      const Type q11 = at(0, 0);
      const Type q22 = at(1, 1);
      const Type q12 = weights ? at(0, 1) : at(1, 0);
      const Type q21 = weights ? at(1, 0) : at(0, 1);
      const auto sum = [&](int product, Type value) __attribute__((always_inline)) {
        check[product] += value * T{0};
        to(product, value);
      };
      sum(0, q11 + q22);
      if constexpr (weights) {
        to(1, q22);
        sum(2, q12 - q22);
        sum(3, q11 + q12);
        to(4, q11);
        sum(5, q21 + q22);
        sum(6, q21 - q11);
      } else {
        sum(1, q21 - q11);
        sum(2, q21 + q22);
        to(3, q22);
        sum(4, q12 - q22);
        to(5, q11);
        sum(6, q11 + q12);
      }
    }
    if (pair) ++k;
  }
  for (int i = 0; i < L::count; ++i) {
    T all = 0;
    for (const Type& one : check) all += one[i];
    if (!(all == T{0})) *args.finite = false;
  }
}

template <class E>
[[gnu::always_inline]] inline void quarters(const QuartersArgs& args) noexcept {
  args.weights ? quarters<E, true>(args) : quarters<E, false>(args);
}

}  // namespace

#endif
