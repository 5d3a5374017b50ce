#include "pair_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  gemm<float, 28, 1, TwoShort>(*static_cast<const GemmArgs*>(args));
}
