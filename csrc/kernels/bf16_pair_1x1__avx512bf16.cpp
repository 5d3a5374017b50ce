#include "pair_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept { pair(*static_cast<const PairArgs*>(args)); }
