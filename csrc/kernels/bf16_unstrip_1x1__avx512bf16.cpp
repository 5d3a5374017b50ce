#include "rounding_abi.hpp"
#include "winograd_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  unstrip<rounded_bf16>(*static_cast<const UnstripArgs*>(args));
}
