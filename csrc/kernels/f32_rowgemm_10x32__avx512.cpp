#include "winograd_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  rowgemm<float, 10, 2>(*static_cast<const RowGemmArgs*>(args));
}
