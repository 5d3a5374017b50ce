#include "winograd_rows_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  winograd_rows<f32>(*static_cast<const WinogradRowsArgs*>(args));
}
