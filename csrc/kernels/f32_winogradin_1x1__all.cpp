#include "winograd_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  winograd_in<float>(*static_cast<const WinogradInArgs*>(args));
}
