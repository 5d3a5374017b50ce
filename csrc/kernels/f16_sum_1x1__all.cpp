#include "sum_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept { sum<f16>(*static_cast<const SumArgs*>(args)); }
