#include "spread_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  unspread<f64>(*static_cast<const UnspreadArgs*>(args));
}
