// How fast the product kernels run where nothing but arithmetic holds them back.
#pragma once

#include "registry.hpp"

namespace tconv {

// Floating-point operations a second on one thread, of the best kernel with all its data near the core. Takes
// a few milliseconds.
double measured_peak(DType dtype, Isa isa);

}  // namespace tconv
