#include "mapspread_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  mapspread<f64>(*static_cast<const MapSpreadArgs*>(args));
}
