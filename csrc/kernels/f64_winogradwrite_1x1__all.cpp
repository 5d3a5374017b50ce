#include "winograd_line_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  winograd_write<f64>(*static_cast<const WinogradWriteArgs*>(args));
}
