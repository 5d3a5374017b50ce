#include "registry.hpp"

#include <algorithm>
#include <array>
#include <tuple>
#include <utility>
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

constexpr size_t kDTypes = 0
#define TCONV_DTYPE(name, code) +1
#include "dtypes.inc"
#undef TCONV_DTYPE
    ;

// All kernels, ordered by family, dtype, instruction set; all_kernels() and the spans point into it.
struct Table {
  // Those of a family and dtype, of the best instruction set at or below one.
  using Range = std::pair<uint16_t, uint16_t>;

  std::vector<Kernel> kernels{
#define TCONV_KERNEL(dtype, family, rows, lanes, isa, symbol) \
  {#symbol, DType::dtype, Family::family, Isa::isa, rows, lanes, symbol},
#include "kernels.inc"
#undef TCONV_KERNEL
  };
  // To search the kernels would take longer than to plan: they lie on many lines of the cache.
  std::vector<Range> ranges;

  static size_t place(Family family, DType dtype, Isa isa) noexcept {
    return (static_cast<size_t>(family) * kDTypes + static_cast<size_t>(dtype)) * kIsas +
           static_cast<size_t>(isa);
  }

  Table() {
    std::stable_sort(kernels.begin(), kernels.end(), [](const Kernel& a, const Kernel& b) {
      return std::tuple(a.family, a.dtype, a.isa) < std::tuple(b.family, b.dtype, b.isa);
    });
    ranges.resize((static_cast<size_t>(kernels.back().family) + 1) * kDTypes * kIsas);
    for (size_t i = 0; i < kernels.size(); ++i) {
      const Kernel& k = kernels[i];
      Range& range = ranges[place(k.family, k.dtype, k.isa)];
      if (range.second == 0) range.first = static_cast<uint16_t>(i);
      range.second = static_cast<uint16_t>(i + 1);
    }
    for (size_t i = ranges.size() - 1; i-- > 0;) {
      if (ranges[i].second == 0 && (i + 1) % kIsas != 0) ranges[i] = ranges[i + 1];
    }
  }
};

const Table& table() {
  static const Table made;
  return made;
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
  const Table& all = table();
  const size_t place = Table::place(family, dtype, isa);
  if (place >= all.ranges.size()) return {};
  const auto [first, last] = all.ranges[place];
  return {all.kernels.data() + first, all.kernels.data() + last};
}

std::span<const Kernel> product_kernels(DType dtype, Isa isa) {
  const auto own = kernels(Family::gemm, dtype, isa);
  return own.empty() ? kernels(Family::gemm, compute_dtype(dtype), isa) : own;
}

std::span<const Kernel> all_kernels() noexcept { return table().kernels; }

}  // namespace tconv
