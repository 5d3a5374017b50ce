#include "mapdots_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  map_dots<f32>(*static_cast<const MapDotsArgs*>(args));
}
