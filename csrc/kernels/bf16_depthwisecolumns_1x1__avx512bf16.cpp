#include "depthwise_columns_abi.hpp"
#include "rounding_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  depthwise_columns<rounded_bf16>(*static_cast<const DepthwiseColumnsArgs*>(args));
}
