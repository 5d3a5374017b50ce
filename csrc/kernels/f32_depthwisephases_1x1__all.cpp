#include "depthwise_phases_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  depthwise_phases<f32>(*static_cast<const DepthwisePhasesArgs*>(args));
}
