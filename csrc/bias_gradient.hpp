// The gradient of a bias: a sum over everything but the maps.
#pragma once

#include "dtypes.hpp"
#include "registry.hpp"
#include "thread_pool.hpp"

namespace tconv {

// Sums `grad`, `outer` x `maps` x `inner`, to `out`, one element a map, in double with compensation.
void bias_gradient(const void* grad, int64_t outer, int64_t maps, int64_t inner, DType dtype, void* out,
                   Isa isa, Crew& crew);

}  // namespace tconv
