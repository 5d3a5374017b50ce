#include "algorithms/winograd/tiles.hpp"

#include <numeric>

namespace tconv::filtering {
namespace {

// The tile for phases of `taps` taps beside those of `tile`.
WinogradTile nested_tile(WinogradTile tile, int64_t taps) noexcept {
  if (taps < 2) return kPlain;
  for (const WinogradTile other : {kF22, kF32, kF42, kF23, kF33, kF43}) {
    if (kWinogradOutputs[other] == kWinogradOutputs[tile] && kWinogradTaps[other] == taps) return other;
  }
  return tile;
}

// The class of a phase. Taps of all phases are nested only where each has its taps in one view.
PhaseClass phase_class(const Axis& axis, const AxisTiles& made, int64_t phase) noexcept {
  PhaseClass of{made.tile, made.tile_taps(), (phase + made.late) / axis.stride};
  if (made.nested) {
    const int64_t residue = (phase + made.late) % axis.stride;  // of k * dilation
    const int64_t common = std::gcd(axis.stride, axis.dilation);
    const int64_t after = axis.kernel - residue / common;
    of.taps = residue % common == 0 ? std::max<int64_t>(0, ceil_div(after, axis.stride / common)) : 0;
    of.tile = nested_tile(made.tile, of.taps);
    if (of.tile == kPlain) of.copies = made.outputs();
  }
  of.offset = of.late + made.tile_taps() - kWinogradTaps[of.tile];
  return of;
}

// Forward: large position s * u + p - pad is the sum over j of small[u - j] * weight[k] with k * dilation = p
// + s * j. With phases `apart` p counts from the image's edge instead. Where the stride divides the dilation,
// one phase has all taps, a gap apart.
AxisTiles forward_tiles(const Axis& axis, WinogradTile tile, bool apart, bool nested) noexcept {
  AxisTiles made;
  made.tile = tile;
  made.phases = made.spread = axis.stride;
  if (tile != kPlain) made.gap = axis.tap_gap();
  const bool before = axis.grid == 2 && made.outputs() == 2;
  made.first_u = floor_div(axis.pad_lo, axis.stride) - (before ? 1 : 0);
  made.late = apart && made.gap == 1 ? axis.pad_lo - made.first_u * axis.stride : 0;
  const int64_t last_u = floor_div(axis.out - 1 + axis.pad_lo - made.late, axis.stride);
  made.first = made.first_u * axis.stride - axis.pad_lo + made.late;
  made.positions = last_u - made.first_u + 1;
  // Every j below the last occurs, unless dilation leaves some out.
  const int64_t last_j = (axis.kernel - 1) * axis.dilation / axis.stride / made.gap;
  made.views = axis.dilation > axis.stride && tile == kPlain ? axis.kernel : last_j / made.tile_taps() + 1;
  made.nested = nested && made.views == 1 &&
                std::gcd(axis.stride, axis.dilation) == std::min(axis.stride, axis.dilation);
  for (int64_t phase = 0; phase < axis.stride; ++phase) made.add(phase_class(axis, made, phase));
  return made;
}

// Data gradient: kernel index from one tap of a view to the next.
int64_t tap_step(const Axis& axis, WinogradTile tile) noexcept {
  return tile == kPlain ? 1 : axis.tap_period();
}

// The class of a phase of the source.
PhaseClass source_class(const Axis& axis, WinogradTile tile, int64_t phase) noexcept {
  PhaseClass of;
  of.taps = ceil_div(axis.kernel - phase, tap_step(axis, tile));
  of.tile = nested_tile(tile, of.taps);
  of.origin = phase;
  if (of.tile == kPlain) of.copies = kWinogradOutputs[tile];
  return of;
}

// Data gradient: small position t is the sum over k of large[t * s + k * dilation - pad] * weight[k]. A view
// takes taps a stride apart; nested, a phase.
AxisTiles gradient_tiles(const Axis& axis, WinogradTile tile, bool nested) noexcept {
  AxisTiles made;
  made.tile = tile;
  made.positions = axis.size;
  if (tile != kPlain) made.gap = axis.tap_gap();
  const int64_t step = tap_step(axis, tile);
  const int64_t cycle = step * made.tile_taps();
  made.nested = nested && step <= static_cast<int64_t>(kMostClasses) && axis.kernel % step != 0 &&
                axis.kernel > step && axis.kernel < cycle;
  if (made.nested) {
    made.phases = step;
    for (int64_t phase = 0; phase < step; ++phase) made.add(source_class(axis, tile, phase));
    return made;
  }
  made.add({tile, made.tile_taps()});
  made.views = axis.kernel / cycle * step + std::min(axis.kernel % cycle, step);
  return made;
}

TiledAxis forward_axis(const Axis& axis, const AxisTiles& tiles) {
  TiledAxis made{tiles, axis.size, axis.out, 1, 1, {}, {}, {}, {}, {}};
  made.tap_step = axis.tap_period();
  made.phase_taps.assign(static_cast<size_t>(axis.stride), 0);
  const auto classes_end = made.of_class.begin() + made.classes;
  for (int64_t phase = 0; phase < axis.stride; ++phase) {
    const PhaseClass of = phase_class(axis, tiles, phase);
    made.class_of.push_back(std::find(made.of_class.begin(), classes_end, of) - made.of_class.begin());
  }
  int64_t skipped = INT64_MAX;  // elements that no class reads
  for (auto c = made.of_class.begin(); c != classes_end; ++c) {
    if (c->taps > 0) skipped = std::min(skipped, c->offset);
  }
  for (auto c = made.of_class.begin(); c != classes_end; ++c) {
    c->offset -= skipped;
    made.window = std::max(made.window, c->offset + c->products());
  }
  const int64_t length = made.tile_taps();
  std::vector<int64_t> shifts;  // the least j of each view
  for (int64_t k = 0; k < axis.kernel; ++k) {
    const int64_t j = k * axis.dilation / axis.stride / made.gap / length * length;
    if (std::find(shifts.begin(), shifts.end(), j) == shifts.end()) shifts.push_back(j);
  }
  made.taps.assign(static_cast<size_t>(axis.stride * made.views * length), -1);
  for (const int64_t j : shifts)
    made.origin.push_back(made.first_u + (skipped - j - (length - 1)) * made.gap);
  for (int64_t k = 0; k < axis.kernel; ++k) {
    const int64_t phase = (k * axis.dilation + axis.stride - made.late) % axis.stride;
    const int64_t j = k * axis.dilation / axis.stride / made.gap;
    const int64_t view = std::find(shifts.begin(), shifts.end(), j / length * length) - shifts.begin();
    made.taps[static_cast<size_t>((phase * made.views + view) * length + length - 1 - j % length)] = k;
    made.phase_of.push_back(phase);
    ++made.phase_taps[static_cast<size_t>(phase)];
  }
  return made;
}

TiledAxis gradient_axis(const Axis& axis, const AxisTiles& tiles) {
  TiledAxis made{tiles, axis.out, axis.size, axis.stride, tiles.points(), {}, {}, {}, {}, {}};
  const int64_t step = tap_step(axis, made.tile);
  if (made.nested) made.tap_step = step;
  made.phase_taps.assign(static_cast<size_t>(made.phases), 0);
  for (int64_t phase = 0; phase < made.phases; ++phase) made.class_of.push_back(phase);
  for (int64_t k = 0; k < axis.kernel; ++k) {
    const int64_t phase = made.nested ? k % step : 0;
    made.phase_of.push_back(phase);
    ++made.phase_taps[static_cast<size_t>(phase)];
    if (k / step % made.tile_taps() != 0) continue;
    made.origin.push_back(k * axis.dilation - axis.pad_lo);
    const int64_t count = kWinogradTaps[made.of_phase(phase).tile];
    for (int64_t j = count - made.tile_taps(); j < count; ++j) {
      made.taps.push_back(j >= 0 && k + j * step < axis.kernel ? k + j * step : -1);
    }
  }
  return made;
}

// Output i and element j of a tile meet in the tap i - j, or in the gradient j - i, from the one that meets
// positions where they lie.
TiledAxis turned_axis(const Axis& axis, const AxisTiles& tiles, bool forward) {
  TiledAxis made{tiles, axis.size, axis.out, 1, tiles.outputs(), {0}, {0}, {}, {}, {axis.kernel}};
  if (!forward) std::swap(made.src_size, made.dst_size);
  made.phase_of.assign(static_cast<size_t>(axis.kernel), 0);
  for (int64_t t = 1 - tiles.outputs(); t < tiles.outputs(); ++t) {
    const int64_t k = axis.pad_lo / axis.dilation + (forward ? t : -t);
    made.taps.push_back(k >= 0 && k < axis.kernel ? k : -1);
  }
  return made;
}

}  // namespace

bool turns(const Axis& axis) noexcept {
  return axis.grid == 0 && axis.stride == 1 && axis.pad_lo % axis.dilation == 0 &&
         std::max(axis.size, axis.out) <= 2 * axis.dilation;
}

AxisTiles turned_tiles(const Axis& axis, Pass pass) noexcept {
  AxisTiles made;
  made.tile = std::max(axis.size, axis.out) > axis.dilation ? kF22 : kPlain;
  made.turned = true;
  if (made.tile != kPlain) made.gap = axis.dilation;
  made.positions = pass == Pass::forward ? axis.out : axis.size;
  made.add({made.tile, made.tile_taps()});
  return made;
}

AxisTiles axis_tiles(const Axis& axis, Pass pass, WinogradTile tile, bool apart, bool nested) noexcept {
  return pass == Pass::forward ? forward_tiles(axis, tile, apart, nested)
                               : gradient_tiles(axis, tile, nested);
}

Counts counts(const Choice& choice) noexcept {
  return Counts{}.with(choice[0]).with(choice[1]).with(choice[2]);
}

Tiling::Tiling(const Problem& problem, const Choice& choice) : counts(filtering::counts(choice)) {
  for (size_t a = 0; a < kAxes; ++a) {
    const Axis& axis = problem.geometry.axes[a];
    if (choice[a].turned) {
      axes[a] = turned_axis(axis, choice[a], problem.pass == Pass::forward);
      continue;
    }
    axes[a] = problem.pass == Pass::forward ? forward_axis(axis, choice[a]) : gradient_axis(axis, choice[a]);
  }
}

}  // namespace tconv::filtering
