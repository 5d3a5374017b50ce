#include "pack_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  pack<f64>(*static_cast<const PackArgs*>(args));
}
