#include "winograd_columns_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  winograd_columns<bf16>(*static_cast<const WinogradColumnsArgs*>(args));
}
