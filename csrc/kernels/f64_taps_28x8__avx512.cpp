#include "taps_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  taps<double, 28, 1>(*static_cast<const TapsArgs*>(args));
}
