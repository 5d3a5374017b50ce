#include "kernel_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  store<f32>(*static_cast<const MoveArgs*>(args));
}
