// How an axis is cut into tiles, whose outputs, windows and taps are those of the phases of the stride.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "winograd_abi.hpp"

namespace tconv::filtering {

// Phases that read the same windows through the same tile.
struct PhaseClass {
  WinogradTile tile = kPlain;
  int64_t taps = 1;    // of a phase, 0 where all its outputs are the bias
  int64_t late = 0;    // positions by which its phases begin later
  int64_t offset = 0;  // of its windows
  int64_t origin = 0;  // of its windows, where phases are of the source: which of its axis
  int64_t copies = 1;  // products of a tile with the same weights: all outputs, where a tap is alone

  int64_t points() const noexcept { return taps == 0 ? 0 : kWinogradPoints[tile]; }
  int64_t products() const noexcept { return points() * copies; }
  bool operator==(const PhaseClass&) const = default;
};

// Late or not, and the most taps, one less, or none.
inline constexpr size_t kMostClasses = 6;

// What tiles of a kind make of an axis, in numbers. The data gradient has phases too where they are nested:
// those of the source, which read apart, and whose outputs add up.
//
// One class of phases takes one transform, but its tiles begin before the image where pads are no multiple of
// the stride, and its phases take the tile of the one with most taps. Phases apart by where they begin waste
// nothing on small maps; phases nested by their taps multiply no absent ones. Where dilation leaves two
// positions of each residue, three taps reach the image, as three elements of a window that two taps meet in
// F(2,2): tiles are turned, and do three products where windows would be half beyond the edges. Where it
// leaves one position, one tap does.
struct AxisTiles {
  WinogradTile tile = kPlain;  // of the phase with most taps
  bool nested = false;
  bool turned = false;    // taps and windows have changed places
  int64_t positions = 1;  // of a phase
  int64_t gap = 1;        // from one of a tile to the next: as many tiles take turns
  int64_t phases = 1;
  int64_t views = 1;
  int64_t first = 0;    // dst position of phase 0 of output 0 of the first tile
  int64_t spread = 1;   // positions of dst from an output to the next: forward as many as there are phases
  int64_t first_u = 0;  // forward: the first tile's position on the source
  int64_t late = 0;     // forward: phases that begin one position later
  int64_t classes = 0;
  int64_t class_points = 0;  // of all classes
  int64_t phase_points = 0;  // of all phases, with weights of their own
  int64_t products = 0;      // of all phases
  std::array<PhaseClass, kMostClasses> of_class;

  void add(const PhaseClass& phase) noexcept {
    phase_points += phase.points();
    products += phase.products();
    const auto end = of_class.begin() + classes;
    if (std::find(of_class.begin(), end, phase) != end) return;
    of_class[static_cast<size_t>(classes++)] = phase;
    class_points += phase.products();
  }

  int points() const noexcept { return kWinogradPoints[tile]; }
  int outputs() const noexcept { return kWinogradOutputs[tile]; }
  int taps_through(WinogradTile of) const noexcept {
    return turned ? kWinogradPoints[of] : kWinogradTaps[of];
  }
  int tile_taps() const noexcept { return taps_through(tile); }
  bool adds_phases() const noexcept { return spread < phases; }
  int64_t origins() const noexcept { return adds_phases() ? phases : views; }
  // Positions over which tiles that take turns stretch, where tile `t` begins, and how many turns some tiles
  // take. Most layers need no division for these, which others would wait for.
  int64_t turn() const noexcept { return outputs() * gap; }
  int64_t start_of(int64_t t) const noexcept { return gap == 1 ? t * outputs() : t / gap * turn() + t % gap; }
  int64_t turns_of(int64_t some) const noexcept { return gap == 1 ? some : ceil_div(some, gap); }
  int64_t tiles() const noexcept { return positions / turn() * gap + std::min(positions % turn(), gap); }
  // The same for comparisons: the last tile of a long axis counts by what it holds, so that signals that
  // differ by a position choose alike and share packed weights.
  double even_tiles() const noexcept {
    return positions < kLongAxis * gap ? static_cast<double>(tiles())
                                       : static_cast<double>(positions) / outputs();
  }
};

// What tiles make of an axis; forward, phases may be told `apart` by where they begin.
AxisTiles axis_tiles(const Axis& axis, Pass pass, WinogradTile tile, bool apart, bool nested) noexcept;

// Whether turned tiles would do, and these.
bool turns(const Axis& axis) noexcept;
AxisTiles turned_tiles(const Axis& axis, Pass pass) noexcept;

// One axis in tiles. Output o of tile t and phase p is at dst (start_of(t) + o * gap) * spread + p % spread +
// first; window element i of its view v is at src (start_of(t) + (offset + i) * gap) * src_step + origin[v],
// with the offset of the class of p, and where phases add up its origin. Turned, elements are read backwards.
struct TiledAxis : AxisTiles {
  int64_t src_size = 1;
  int64_t dst_size = 1;
  int64_t src_step = 1;
  int64_t window = 1;             // elements that all classes read of a view
  std::vector<int64_t> class_of;  // of each phase
  std::vector<int64_t> origin;    // of each view, or of each phase where they add up
  std::vector<int64_t> taps;      // kernel index by phase, view and tap of the tile; -1 for none
  // The phase of each kernel index, how many each phase has, and from one of those to the next.
  std::vector<int64_t> phase_of;
  std::vector<int64_t> phase_taps;
  int64_t tap_step = 1;

  const PhaseClass& of_phase(int64_t phase) const noexcept {
    return of_class[static_cast<size_t>(class_of[static_cast<size_t>(phase)])];
  }
  int64_t origin_at(int64_t index) const noexcept { return origin[static_cast<size_t>(index)]; }
  // The view that begins there.
  int64_t view_at(int64_t index) const noexcept { return adds_phases() ? 0 : index; }
  // As many as the tile of the phase's class takes.
  const int64_t* taps_of(int64_t phase, int64_t view) const noexcept {
    return taps.data() + (phase * views + view + 1) * tile_taps() - taps_through(of_phase(phase).tile);
  }
};

// Some tiles among others, as far apart as they begin.
struct TileRun {
  int64_t first;
  int64_t step;  // from one tile to the next
  int64_t count;
  int64_t positions;  // from one to the next
};

// Calls `body` with runs that hold `tiles` from the first of a turn on: those that take the same turns, or
// where turns are few, those of one.
template <class Body>
void for_runs(const AxisTiles& axis, int64_t tiles, const Body& body) noexcept {
  if (axis.gap == 1) {
    body(TileRun{0, 1, tiles, axis.turn()});
  } else if (tiles > axis.gap * axis.gap) {
    for (int64_t first = 0; first < axis.gap; ++first)
      body(TileRun{first, axis.gap, ceil_div(tiles - first, axis.gap), axis.turn()});
  } else {
    for (int64_t first = 0; first < tiles; first += axis.gap)
      body(TileRun{first, 1, std::min(axis.gap, tiles - first), 1});
  }
}

// Products of the numbers of all axes.
struct Counts {
  double tiles = 1;
  int64_t points = 1;
  int64_t outputs = 1;
  int64_t phases = 1;
  int64_t spread = 1;
  int64_t classes = 1;
  int64_t views = 1;
  int64_t class_points = 1;
  int64_t phase_points = 1;
  int64_t products = 1;

  Counts with(const AxisTiles& axis) const noexcept {
    return {tiles * axis.even_tiles(),
            points * axis.points(),
            outputs * axis.outputs(),
            phases * axis.phases,
            spread * axis.spread,
            classes * axis.classes,
            views * axis.views,
            class_points * axis.class_points,
            phase_points * axis.phase_points,
            products * axis.products};
  }
};

using Choice = std::array<AxisTiles, kAxes>;

Counts counts(const Choice& choice) noexcept;

struct Tiling {
  TiledAxis axes[kAxes];
  Counts counts;

  Tiling(const Problem& problem, const Choice& choice);
};

}  // namespace tconv::filtering
