#include "winograd_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  strip<f32>(*static_cast<const StripArgs*>(args));
}
