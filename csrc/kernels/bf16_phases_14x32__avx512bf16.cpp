#include "phases_abi.hpp"
#include "rounding_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  phases<rounded_bf16, 14, 2, TwoShort>(*static_cast<const PhasesArgs*>(args));
}
