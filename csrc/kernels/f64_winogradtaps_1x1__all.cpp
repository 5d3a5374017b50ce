#include "winograd_weight_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  winograd_taps<double>(*static_cast<const WinogradInArgs*>(args));
}
