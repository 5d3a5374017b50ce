#include "overlap_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  plain_gemm<f16, 8, 3>(*static_cast<const PlainGemmArgs*>(args));
}
