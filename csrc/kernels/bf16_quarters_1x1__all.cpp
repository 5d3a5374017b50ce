#include "quarters_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  quarters<bf16>(*static_cast<const QuartersArgs*>(args));
}
