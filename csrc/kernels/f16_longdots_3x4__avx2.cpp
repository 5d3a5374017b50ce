#include "longdots_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  long_dots<f16, 3, 4>(*static_cast<const LongDotsArgs*>(args));
}
