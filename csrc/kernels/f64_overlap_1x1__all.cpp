#include "overlap_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  overlap<f64>(*static_cast<const OverlapArgs*>(args));
}
