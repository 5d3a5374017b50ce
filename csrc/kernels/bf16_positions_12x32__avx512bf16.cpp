#include "positions_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  positions<float, 12, 2, TwoShort>(*static_cast<const PositionsArgs*>(args));
}
