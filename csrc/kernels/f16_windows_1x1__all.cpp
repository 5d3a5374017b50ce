#include "windows_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  windows<f16>(*static_cast<const WindowsArgs*>(args));
}
