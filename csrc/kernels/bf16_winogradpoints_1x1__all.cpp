#include "winograd_points_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  winograd_points<bf16>(*static_cast<const WinogradPointsArgs*>(args));
}
