#include "kernel_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  gemm<double, 14, 1>(*static_cast<const GemmArgs*>(args));
}
