#include "positions_short_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  short_positions<f16, 12, 2>(*static_cast<const PositionsArgs*>(args));
}
