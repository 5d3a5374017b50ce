#include "taps_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  taps<float, 9, 3>(*static_cast<const TapsArgs*>(args));
}
