#include "phases_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  phases<f16, 14, 2>(*static_cast<const PhasesArgs*>(args));
}
