#include "turned_dots_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  turned_dots<double>(*static_cast<const TurnedDotsArgs*>(args));
}
