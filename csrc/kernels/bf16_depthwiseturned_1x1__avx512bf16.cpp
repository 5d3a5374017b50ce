#include "depthwise_turned_abi.hpp"
#include "rounding_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  depthwise_turned<rounded_bf16>(*static_cast<const DepthwiseTurnedArgs*>(args));
}
