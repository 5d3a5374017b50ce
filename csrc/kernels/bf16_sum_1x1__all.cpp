#include "sum_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  sum<bf16>(*static_cast<const SumArgs*>(args));
}
