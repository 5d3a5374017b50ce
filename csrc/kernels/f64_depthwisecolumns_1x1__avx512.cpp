#include "depthwise_columns_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  depthwise_columns<f64>(*static_cast<const DepthwiseColumnsArgs*>(args));
}
