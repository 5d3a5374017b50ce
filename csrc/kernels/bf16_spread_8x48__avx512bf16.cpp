#include "pair_spread_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  spread<bf16, 8, 3, TwoOf>(*static_cast<const SpreadArgs*>(args));
}
