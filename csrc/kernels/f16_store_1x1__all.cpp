#include "store_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  store_runs<f16>(*static_cast<const MoveArgs*>(args));
}
