#include "positions_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  positions<double, 8, 3>(*static_cast<const PositionsArgs*>(args));
}
