#include "kernel_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  panel<bf16>(*static_cast<const PanelArgs*>(args));
}
