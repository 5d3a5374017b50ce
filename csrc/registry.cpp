#include "registry.hpp"

#include <algorithm>
#include <array>
#include <tuple>
#include <vector>

#include "dtypes.hpp"

extern "C" {
#define TCONV_KERNEL(dtype, family, rows, lanes, isa, symbol) void symbol(const void* args) noexcept;
#include "kernels.inc"
#undef TCONV_KERNEL
}

namespace tconv {
namespace {

struct IsaRow {
  const char* name;
  int floats;
  bool usable;
};

constexpr size_t kIsas = 0
#define TCONV_ISA(name, floats, probe) +1
#include "isas.inc"
#undef TCONV_ISA
    ;

const std::array<IsaRow, kIsas>& rows() {
  static const auto table = [] {
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    return std::array<IsaRow, kIsas>{{
#define TCONV_ISA(name, floats, probe) {#name, floats, probe},
#include "isas.inc"
#undef TCONV_ISA
    }};
  }();
  return table;
}

// Ordered by family, dtype, instruction set; all_kernels() and the spans point into it.
const std::vector<Kernel>& table() {
  static const std::vector<Kernel> sorted = [] {
    std::vector<Kernel> list{
#define TCONV_KERNEL(dtype, family, rows, lanes, isa, symbol) \
  {#symbol, DType::dtype, Family::family, Isa::isa, rows, lanes, symbol},
#include "kernels.inc"
#undef TCONV_KERNEL
    };
    std::stable_sort(list.begin(), list.end(), [](const Kernel& a, const Kernel& b) {
      return std::tuple(a.family, a.dtype, a.isa) < std::tuple(b.family, b.dtype, b.isa);
    });
    return list;
  }();
  return sorted;
}

}  // namespace

const char* name_of(Isa isa) noexcept { return rows()[static_cast<size_t>(isa)].name; }

int vector_floats(Isa isa) noexcept { return rows()[static_cast<size_t>(isa)].floats; }

std::span<const Isa> usable_isas() {
  static const std::vector<Isa> usable = [] {
    std::vector<Isa> list;
    for (size_t i = 0; i < kIsas; ++i) {
      if (rows()[i].usable) list.push_back(static_cast<Isa>(i));
    }
    return list;
  }();
  return usable;
}

Isa isa_of(std::string_view name) {
  if (name.empty()) return usable_isas().front();
  std::string known;
  for (const Isa isa : usable_isas()) {
    if (name == name_of(isa)) return isa;
    known.append(known.empty() ? "" : ", ").append(name_of(isa));
  }
  throw ParameterError("isa: got '" + std::string(name) + "'; this processor has " + known);
}

std::span<const Kernel> kernels(Family family, DType dtype, Isa isa) {
  const auto& list = table();
  const auto first = std::find_if(list.begin(), list.end(), [&](const Kernel& k) {
    return k.family == family && k.dtype == dtype && k.isa >= isa;
  });
  const auto last = std::find_if(first, list.end(), [&](const Kernel& k) {
    return k.family != family || k.dtype != dtype || k.isa != first->isa;
  });
  return {first, last};
}

std::span<const Kernel> product_kernels(DType dtype, Isa isa) {
  const auto own = kernels(Family::gemm, dtype, isa);
  return own.empty() ? kernels(Family::gemm, compute_dtype(dtype), isa) : own;
}

std::span<const Kernel> all_kernels() noexcept { return table(); }

}  // namespace tconv
