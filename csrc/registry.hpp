// The kernels that this build holds and this processor can run.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "geometry.hpp"
#include "kernel_abi.hpp"

namespace tconv {

enum class Isa : uint8_t {
#define TCONV_ISA(name, lanes, probe) name,
#include "isas.inc"
#undef TCONV_ISA
};

enum class Family : uint8_t {
  gemm,
  taps,
  phases,
  pair,
  loadpairs,
  gather,
  panel,
  load,
  store,
  pack,
  activate,
  rowgemm,
  strip,
  unstrip,
  winogradin,
  winogradout,
  winogradpoints,
  winogradrows,
  turns,
  depthwise,
  depthwisecolumns,
  depthwiselast,
  depthwiseturned,
  depthwiseturns,
  winogradtaps,
  winogradpack,
  winogradcolumns,
  winogradturn,
  winogradsum,
  winogradread,
  winogradwrite,
  dots,
  longdots,
  mapdots,
  mapspread,
  spread,
  strassen,
  quarters,
  plaingemm,
  overlap,
  unspread,
  rows,
  sum,
  windows,
  pointwise,
  pool,
  positions,
  assemble,
  depthwisephases,
  merge,
  turneddots
};

struct Kernel {
  const char* name;
  DType dtype;
  Family family;
  Isa isa;
  int rows;
  int lanes;
  tconv_kernel run;

  template <class Args>
  void operator()(const Args& args) const noexcept {
    run(&args);
  }
};

const char* name_of(Isa isa) noexcept;
// Floats in a vector.
int vector_floats(Isa isa) noexcept;
// The best instruction set of this processor, or the one of that name. Throws ParameterError.
Isa isa_of(std::string_view name);
// Every instruction set this processor can run, best first.
std::span<const Isa> usable_isas();
// The kernels of a family, of the best instruction set at or below `isa` that has any.
std::span<const Kernel> kernels(Family family, DType dtype, Isa isa);
// The one kernel of a family that has one only.
inline const Kernel& kernel(Family family, DType dtype, Isa isa) {
  return kernels(family, dtype, isa).front();
}

// Kernels of family `gemm` for a problem of that type: those on pairs of its elements where the processor has
// them, else those on the type it is computed in.
std::span<const Kernel> product_kernels(DType dtype, Isa isa);
// The kernel that makes pairs for a kernel of products that multiplies those, else null.
inline const Kernel* pair_kernel(const Kernel& tile) {
  const auto pairs = kernels(Family::pair, tile.dtype, tile.isa);
  return !pairs.empty() && pairs.front().isa == tile.isa ? &pairs.front() : nullptr;
}
// Steps of depth in one element of what such a kernel multiplies.
inline int64_t steps_of_element(const Kernel& tile) { return pair_kernel(tile) == nullptr ? 1 : 2; }

std::span<const Kernel> all_kernels() noexcept;

}  // namespace tconv
