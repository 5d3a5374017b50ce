// The arguments of the kernels that go through arrays element by element or window by window, in float32.
// Loops are plain: the compiler turns them to vectors of the instruction set a file is compiled for.
#pragma once

#include "kernel_abi.hpp"

// What is done to the elements of a row at last; numbered as Python spells them.
enum class Bend : int32_t { none, leaky, sigmoid, tanh };

// Family `pointwise`: out[i] = bend(x[i] * scale + shift + (z ? z[i] : 0)), `out` possibly x or z itself.
struct PointwiseArgs {
  const float* x;
  const float* z;
  float* out;
  int64_t count;
  float scale;
  float shift;
  float slope;  // of leaky, below 0
  Bend bend;
};

// Family `pool`: for each row y below `out_rows` and column x below `out_columns` the largest, or with `mean`
// the sum over divisor[y] * divisor_columns[x], of the elements within the map of the window at (y *
// stride_rows - pad_rows, x * stride_columns - pad_columns).
struct PoolArgs {
  const float* src;
  float* out;
  int64_t rows;
  int64_t columns;
  int64_t out_rows;
  int64_t out_columns;
  int64_t kernel_rows;
  int64_t kernel_columns;
  int64_t stride_rows;
  int64_t stride_columns;
  int64_t pad_rows;
  int64_t pad_columns;
  const float* factor_rows;     // null for the largest; else what sums of a row of windows are multiplied by
  const float* factor_columns;  // and those of a column
};

namespace {

inline float from_bits(int32_t bits) { return __builtin_bit_cast(float, bits); }

// exp(x), within 2 units in the last place, for |x| <= 88: 2^n times a polynomial around 0.
inline float exponential(float x) {
  constexpr float kRound = 12582912.0f;  // adding it leaves whole numbers only
  const float n = x * 1.44269504088896341f + kRound - kRound;
  const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return (p * r * r + r + 1.0f) * from_bits((static_cast<int32_t>(n) + 127) << 23);
}

inline float clamped(float x, float bound) {
  x = x > bound ? bound : x;
  return x < -bound ? -bound : x;
}

inline float sigmoid_of(float x) {
  const float y = 1.0f / (1.0f + exponential(-clamped(x, 87.0f)));
  return x != x ? x : y;
}

inline float tanh_of(float x) {
  const float square = x * x;
  float p = -5.70498872745e-3f;
  p = p * square + 2.06390887954e-2f;
  p = p * square - 5.37397155531e-2f;
  p = p * square + 1.33314422036e-1f;
  p = p * square - 3.33332819422e-1f;
  const float near = p * square * x + x;
  const float size = x < 0 ? -x : x;
  const float large = 1.0f - 2.0f / (exponential(2.0f * clamped(size, 20.0f)) + 1.0f);
  const float far = x < 0 ? -large : large;
  return x != x ? x : size < 0.625f ? near : far;
}

template <class Function>
inline void map(const PointwiseArgs& a, const Function& function) {
  // Locals, as a store to `out` might change anything else in the compiler's eyes.
  const float* x = a.x;
  const float* z = a.z;
  float* out = a.out;
  const float scale = a.scale, shift = a.shift;
  const int64_t count = a.count;
  if (z != nullptr) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) out[i] = function(x[i] * scale + shift + z[i]);
  } else {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) out[i] = function(x[i] * scale + shift);
  }
}

inline void pointwise(const PointwiseArgs& a) {
  const float slope = a.slope;
  switch (a.bend) {
    case Bend::none:
      return map(a, [](float y) { return y; });
    case Bend::leaky:
      // Slope 0 is no product: it turns infinity to 0, and NaN stays.
      if (slope == 0) return map(a, [](float y) { return y < 0 ? 0.0f : y; });
      return map(a, [slope](float y) { return y > 0 ? y : y * slope; });
    case Bend::sigmoid:
      return map(a, sigmoid_of);
    case Bend::tanh:
      return map(a, tanh_of);
  }
}

// Takes one element of every window of a row of windows: out[x] = combine(out[x], src[x * stride]).
template <class Combine>
inline void take(const float* src, float* out, int64_t count, int64_t stride, const Combine& combine) {
  if (stride == 1) {
    for (int64_t x = 0; x < count; ++x) out[x] = combine(out[x], src[x]);
  } else if (stride == 2) {
    for (int64_t x = 0; x < count; ++x) out[x] = combine(out[x], src[2 * x]);
  } else {
    for (int64_t x = 0; x < count; ++x) out[x] = combine(out[x], src[x * stride]);
  }
}

template <class Combine>
inline void pool_rows(const PoolArgs& a, float start, const Combine& combine) {
  for (int64_t y = 0; y < a.out_rows; ++y) {
    float* out = a.out + y * a.out_columns;
    for (int64_t x = 0; x < a.out_columns; ++x) out[x] = start;
    for (int64_t ky = 0; ky < a.kernel_rows; ++ky) {
      const int64_t row = y * a.stride_rows - a.pad_rows + ky;
      if (row < 0 || row >= a.rows) continue;
      const float* src = a.src + row * a.columns;
      for (int64_t kx = 0; kx < a.kernel_columns; ++kx) {
        const int64_t offset = kx - a.pad_columns;
        const int64_t step = a.stride_columns;
        const int64_t first = offset < 0 ? (-offset + step - 1) / step : 0;
        int64_t last = (a.columns - offset + step - 1) / step;
        last = last < a.out_columns ? last : a.out_columns;
        if (first < last) take(src + first * step + offset, out + first, last - first, step, combine);
      }
    }
    if (a.factor_rows != nullptr) {
      const float factor = a.factor_rows[y];
      for (int64_t x = 0; x < a.out_columns; ++x) out[x] *= factor * a.factor_columns[x];
    }
  }
}

inline void pool(const PoolArgs& a) {
  if (a.factor_rows != nullptr) {
    pool_rows(a, 0.0f, [](float sum, float value) { return sum + value; });
  } else {
    // NaN stays wherever it comes.
    pool_rows(a, -__FLT_MAX__,
              [](float best, float value) { return ((value > best) | (value != value)) ? value : best; });
  }
}

}  // namespace
