#include "elementwise_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  pointwise(*static_cast<const PointwiseArgs*>(args));
}
