#include "winograd_line_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  winograd_read<f64>(*static_cast<const WinogradReadArgs*>(args));
}
