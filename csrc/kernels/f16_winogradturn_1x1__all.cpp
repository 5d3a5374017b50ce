#include "winograd_turn_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  winograd_turn<f16>(*static_cast<const WinogradTurnArgs*>(args));
}
