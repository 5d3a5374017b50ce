#include "depthwise_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  depthwise_turns<f16>(*static_cast<const DepthwiseTurnsArgs*>(args));
}
