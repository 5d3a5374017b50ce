// What may be done to outputs at last, and the kernel that does it to sums which are still in the cache.
#pragma once

#include "kernel_abi.hpp"

// An output below zero is multiplied by `slope`, then all are held between `low` and `high`; a NaN stays one.
struct Activation {
  double slope = 1;
  double low = -__builtin_inf();
  double high = __builtin_inf();

  bool operator==(const Activation&) const = default;
  bool none() const noexcept { return *this == Activation{}; }
};

// Family `activate`, in the compute type, in place.
struct ActivateArgs {
  void* data;
  int64_t count;
  const Activation* activation;
};

namespace {

template <class T>
[[gnu::always_inline]] inline T activated_element(T value, const Activation& a) noexcept {
  value = value < T{0} ? value * static_cast<T>(a.slope) : value;
  value = value < static_cast<T>(a.low) ? static_cast<T>(a.low) : value;
  return value > static_cast<T>(a.high) ? static_cast<T>(a.high) : value;
}

#if defined(TCONV_KERNEL_NAME)

template <class T>
[[gnu::always_inline]] inline
    typename Vector<T>::type activated(typename Vector<T>::type value, const Activation& a) noexcept {
  using Type = typename Vector<T>::type;
  const Type low = Type{} + static_cast<T>(a.low);
  const Type high = Type{} + static_cast<T>(a.high);
  value = value < Type{} ? value * static_cast<T>(a.slope) : value;
  value = value < low ? low : value;
  return value > high ? high : value;
}

template <class T>
[[gnu::always_inline]] inline void activate(const ActivateArgs& args) noexcept {
  using Loose = typename Vector<T>::loose;
  constexpr int lanes = Vector<T>::lanes;
  const Activation activation = *args.activation;
  T* data = static_cast<T*>(args.data);
  int64_t i = 0;
  for (; i + lanes <= args.count; i += lanes) {
    auto* vector = reinterpret_cast<Loose*>(data + i);
    *vector = activated<T>(*vector, activation);
  }
  for (; i < args.count; ++i) data[i] = activated_element(data[i], activation);
}

#endif

}  // namespace
