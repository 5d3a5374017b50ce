#include "strassen_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  strassen<f64, 6, 3>(*static_cast<const StrassenArgs*>(args));
}
