#include "positions_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  assemble<f16>(*static_cast<const AssembleArgs*>(args));
}
