#include "strassen_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  strassen<bf16, 6, 2>(*static_cast<const StrassenArgs*>(args));
}
