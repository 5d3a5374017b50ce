// What networks do between their convolutions, in float32, shared out over threads.
#pragma once

#include <cstdint>

#include "elementwise_abi.hpp"
#include "registry.hpp"
#include "thread_pool.hpp"

namespace tconv {

// Numbers by row, which begin anew after `period` rows; no data for a number that changes nothing.
struct ByRow {
  const float* data = nullptr;
  int64_t period = 1;

  float at(int64_t row, float otherwise) const noexcept {
    return data != nullptr ? data[row % period] : otherwise;
  }
};

// out = bend(x * scale + shift + z) over `rows` rows of `inner` elements; z may be null, out may be x or z.
void pointwise(const float* x, const float* z, ByRow scale, ByRow shift, ByRow slope, Bend bend, int64_t rows,
               int64_t inner, float* out, Isa isa, Crew& crew);

// Windows of `maps` maps; `map` is what the kernel is given, its arrays those of the first map.
void pool(const PoolArgs& map, int64_t maps, Isa isa, Crew& crew);

}  // namespace tconv
