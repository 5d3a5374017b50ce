#include "elementwise_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept { pool(*static_cast<const PoolArgs*>(args)); }
