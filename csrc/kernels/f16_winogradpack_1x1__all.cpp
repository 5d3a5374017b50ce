#include "winograd_pack_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  winograd_pack<f16>(*static_cast<const WinogradPackArgs*>(args));
}
