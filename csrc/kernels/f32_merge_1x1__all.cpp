#include "merge_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  merge<f32>(*static_cast<const MergeArgs*>(args));
}
