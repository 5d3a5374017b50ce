#include "spread_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  spread<f64, 8, 2>(*static_cast<const SpreadArgs*>(args));
}
