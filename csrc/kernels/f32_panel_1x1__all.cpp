#include "kernel_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  panel<f32>(*static_cast<const PanelArgs*>(args));
}
