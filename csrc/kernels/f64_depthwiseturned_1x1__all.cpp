#include "depthwise_turned_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  depthwise_turned<f64>(*static_cast<const DepthwiseTurnedArgs*>(args));
}
