#include "spread_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  spread<f16, 8, 3>(*static_cast<const SpreadArgs*>(args));
}
