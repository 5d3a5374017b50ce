// What the kernel of Winograd's algorithm along y alone sees beside those of winograd_abi.hpp, and its code
// for vectors of any width.
#pragma once

#include "activation_abi.hpp"
#include "winograd_abi.hpp"

// Family `winogradrows`: points to outputs, lanes being positions of a row; for r < rows, j < outputs and
// l < lanes, with point p of the tile at src[p * point_stride + r * src_row + l],
//   dst[r * dst_row + j * dst_output + l] = output j of the tile + bias[r], activated
// Sums are of the compute type, dst is of the storage type. Sets *finite to false where it stores an infinity
// or NaN.
struct WinogradRowsArgs {
  const void* src;
  void* dst;
  const void* bias;              // or null
  const Activation* activation;  // or null
  bool* finite;
  int64_t point_stride;
  int64_t src_row;
  int64_t dst_row;
  int64_t dst_output;
  int64_t rows;
  int64_t outputs;
  int64_t lanes;
  WinogradTile tile;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

template <class E, WinogradTile tile>
[[gnu::noinline]] void winograd_rows_of(const WinogradRowsArgs& args) noexcept {
  using S = typename E::storage;
  using T = typename E::compute;
  using L = Lanes<E>;
  using P = Lanes<plain<E>>;
  using Type = typename Vector<T>::type;
  constexpr int points = kWinogradPoints[tile];
  constexpr int outputs = kWinogradOutputs[tile];
  // Not read again after every store.
  const WinogradRowsArgs a = args;
  const bool activates = a.activation != nullptr;
  const Activation activation = activates ? *a.activation : Activation{};
  Check<T> check;
  for (int64_t r = 0; r < a.rows; ++r) {
    const T* from = static_cast<const T*>(a.src) + r * a.src_row;
    S* to = static_cast<S*>(a.dst) + r * a.dst_row;
    const T bias = a.bias == nullptr ? T{0} : static_cast<const T*>(a.bias)[r];
    const auto vector = [&](const auto& load, const auto& store) __attribute__((always_inline)) {
      Type m[points];
#pragma GCC unroll 8
      for (int p = 0; p < points; ++p) m[p] = load(from + p * a.point_stride);
      points_to_outputs<T>(tile, m);
#pragma GCC unroll 8
      for (int j = 0; j < outputs; ++j) m[j] += bias;
      check.template add<outputs>(m);
#pragma GCC unroll 8
      for (int j = 0; j < outputs; ++j) {
        if (activates) m[j] = activated<T>(m[j], activation);
        if (j < a.outputs) store(to + j * a.dst_output, m[j]);
      }
    };
    int64_t left = a.lanes;
    for (; left >= L::count; left -= L::count, from += L::count, to += L::count) {
      vector([](const T* at) { return P::load(at); }, [](S* at, Type value) { L::store(at, value); });
    }
    if (left == 0) continue;
    const uint32_t mask = L::first(left);
    vector([mask](const T* at) { return P::load(at, mask); },
           [left](S* at, Type value) { L::store(at, value, static_cast<int>(left)); });
  }
  if (!check.finite()) *a.finite = false;
}

template <class E>
[[gnu::always_inline]] inline void winograd_rows(const WinogradRowsArgs& args) noexcept {
  with_line_tile(args.tile, [&](auto tile) { winograd_rows_of<E, tile.value>(args); });
}

}  // namespace

#endif
