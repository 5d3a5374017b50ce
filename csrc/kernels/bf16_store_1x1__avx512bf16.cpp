#include "kernel_abi.hpp"
#include "rounding_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  store<rounded_bf16>(*static_cast<const MoveArgs*>(args));
}
