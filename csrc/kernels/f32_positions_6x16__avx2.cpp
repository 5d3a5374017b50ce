#include "positions_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  positions<float, 6, 2>(*static_cast<const PositionsArgs*>(args));
}
