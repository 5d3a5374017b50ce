#include "rows_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  rows<f64, 12, 1>(*static_cast<const RowsArgs*>(args));
}
