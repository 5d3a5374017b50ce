#include "kernel_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  gemm<float, 7, 3>(*static_cast<const GemmArgs*>(args));
}
