#include "rounding_abi.hpp"
#include "rows_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  rows<rounded_bf16, 6, 4, TwoShort>(*static_cast<const RowsArgs*>(args));
}
