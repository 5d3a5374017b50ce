#include "strassen_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  strassen<f16, 8, 2>(*static_cast<const StrassenArgs*>(args));
}
