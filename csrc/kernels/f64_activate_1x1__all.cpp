#include "activation_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  activate<double>(*static_cast<const ActivateArgs*>(args));
}
