#include "pair_abi.hpp"

extern "C" void TCONV_KERNEL_NAME(const void* args) noexcept {
  load_pairs(*static_cast<const MoveArgs*>(args));
}
