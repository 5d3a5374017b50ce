#include "turns_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  turns<f64>(*static_cast<const TurnsArgs*>(args));
}
