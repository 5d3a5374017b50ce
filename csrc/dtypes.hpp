// From the number of an element type to the type.
#pragma once

#include <cstddef>
#include <utility>

#include "geometry.hpp"
#include "kernel_abi.hpp"

namespace tconv {

// Calls `body` with a value of the type that describes `dtype`.
template <class Body>
decltype(auto) with_dtype(DType dtype, Body&& body) {
  switch (dtype) {
#define TCONV_DTYPE(name, code) \
  case DType::name:             \
    return body(name{});
#include "dtypes.inc"
#undef TCONV_DTYPE
  }
  __builtin_unreachable();
}

inline DType dtype_of(int code) {
  switch (code) {
#define TCONV_DTYPE(name, number) \
  case number:                    \
    return DType::name;
#include "dtypes.inc"
#undef TCONV_DTYPE
    default:
      throw ParameterError("dtype: got number " + std::to_string(code) +
                           "; need that of a floating-point type");
  }
}

inline size_t storage_bytes(DType dtype) noexcept {
  return with_dtype(dtype, [](auto e) { return sizeof(typename decltype(e)::storage); });
}

inline size_t compute_bytes(DType dtype) noexcept {
  return with_dtype(dtype, [](auto e) { return sizeof(typename decltype(e)::compute); });
}

// The type that sums are formed in.
inline DType compute_dtype(DType dtype) noexcept { return dtype == DType::f64 ? DType::f64 : DType::f32; }

}  // namespace tconv
