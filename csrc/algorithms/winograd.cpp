// Forward and data gradient by minimal filtering: the phases of a strided kernel are short dense kernels, and
// those take fewer products on transformed tiles. All phases of the output read the same windows of the
// input, and all phases of the input are more depth, so there is one transform a tile however large the
// stride.
#include <algorithm>
#include <atomic>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>
#include <numeric>
#include <utility>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "algorithms/fetch_strip.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "winograd_abi.hpp"
#include "winograd_columns_abi.hpp"
#include "winograd_line_abi.hpp"
#include "winograd_pack_abi.hpp"

namespace tconv {
namespace {

constexpr int64_t kMostStride = 64;
constexpr int64_t kMostTaps = 1024;
constexpr int kMostLanes = 16;
// Read maps that one thread packs at a time, and rows of taps that wait near the core meanwhile.
constexpr int64_t kPackedMaps = 64;
constexpr int64_t kPackedRows = 512;
// Vectors of columns that are packed side by side.
constexpr int64_t kMostPackedVectors = 16;
// Maps whose weights are on their way to the core while others are turned.
constexpr int64_t kTurnedAhead = 3;
// Bytes of weights on their way to the core while others are packed.
constexpr int64_t kFetchedBytes = 4 << 10;
// Runs of plain weights that memory gives at full speed, and how many units may be one for their sake.
constexpr int64_t kRunBytes = 1 << 10;
constexpr int64_t kMostWidth = 4;
// Windows that are transformed for all blocks before weights are packed unit by unit.
constexpr size_t kKeptBytes = 20 << 20;
// Of one unit: weights that are packed before they are multiplied, and sums that wait for the next of them.
constexpr size_t kSliceBytes = 640 << 10;
constexpr size_t kSumBytes = 4 << 20;
// Of all chunks, from where on these take turns.
constexpr size_t kManySumBytes = 1 << 20;
constexpr int64_t kTransformedBytes = 704 << 10;
constexpr int64_t kProductBytes = 320 << 10;
constexpr int64_t kLeastBlockTiles = 36;
constexpr int64_t kMostBlockTiles = 120;
// Of the time of a product, what a load takes: a kernel has some of them for each step of its rows and
// vectors.
constexpr double kLoadShare = 0.7;
// What an axis is taken to hold where its size must not decide about bits.
constexpr int64_t kUsualPositions = 64;
// Transformed weights written, by way of `Packing`.
constexpr double kWholePackBytesPerSecond = 60e9;
constexpr double kNearPackBytesPerSecond = 40e9;
constexpr double kViewPackBytesPerSecond = 27e9;
constexpr double kPackBytesPerSecond = 20e9;
constexpr double kSlowPackBytesPerSecond = 5e9;
// How much of it tiles are chosen with: batches share it, of which only the usual one is known.
constexpr double kPackingShare = 0.4;
// Transformed weights read while others are multiplied: plain ones as they are packed, packed ones and those
// made by the fastest kernel from the last cache, and then from the second for every few rows of a product.
constexpr double kReadBytesPerSecond = 30e9;
constexpr double kCachedBytesPerSecond = 80e9;
constexpr double kRowBytesPerSecond = 120e9;
// Packed ones beyond the last cache hold the products up only where memory gives them later than they are
// multiplied; threads share it.
constexpr double kCachedBytes = 32e6;
constexpr double kMemoryBytesPerSecond = 20e9;
// Of the time to read packed weights, what is left where others are multiplied meanwhile.
constexpr double kReadingShare = 0.25;
// Threads that wait for each other, twice a block.
constexpr double kMeetingSeconds = 5e-6;
// Transformed windows written and read beyond the second cache.
constexpr double kWindowBytesPerSecond = 15e9;
// A vector of maps that was turned into lanes.
constexpr double kStripSeconds = 12 / machine::kHertz;
// Windows transformed by one thread, where they stay in the second cache and beyond, and those that go from
// core to core.
constexpr double kNearBytes = 1 << 20;
constexpr double kNearBytesPerSecond = 10e9;
constexpr double kFarBytesPerSecond = 3e9;
constexpr double kHandedBytesPerSecond = 10e9;
// About how many times the definition's error a tile makes, an axis, and what is tolerated in all. A sum of
// few maps has little error of its own.
constexpr double kError[] = {1, 1, 1, 1, 1.4, 1.2, 1.7, 1.2, 1.8};
constexpr double most_error(int64_t depth_maps) noexcept {
  if (depth_maps < 8) return 1;
  return depth_maps < 16 ? 2 : 3;
}

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
constexpr size_t kMostClasses = 6;

// What tiles of a kind make of an axis, in numbers. The data gradient has phases too where they are nested:
// those of the source, which read apart, and whose outputs add up.
//
// One class of phases takes one transform, but its tiles begin before the image where pads are no multiple of
// the stride, and its phases take the tile of the one with most taps. Phases apart by where they begin waste
// nothing on small maps; phases nested by their taps multiply no absent ones.
struct AxisTiles {
  WinogradTile tile = kPlain;  // of the phase with most taps
  bool nested = false;
  int64_t positions = 1;  // of a phase
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
  int tile_taps() const noexcept { return kWinogradTaps[tile]; }
  bool adds_phases() const noexcept { return spread < phases; }
  int64_t origins() const noexcept { return adds_phases() ? phases : views; }
  int64_t tiles() const noexcept { return ceil_div(positions, outputs()); }
  // The same for comparisons: the last tile of a long axis counts by what it holds, so that signals that
  // differ by a position choose alike and share packed weights.
  double even_tiles() const noexcept {
    return positions < kLongAxis ? static_cast<double>(tiles()) : static_cast<double>(positions) / outputs();
  }
};

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
    const int64_t after = axis.kernel - residue / axis.dilation;
    of.taps =
        residue % axis.dilation == 0 ? std::max<int64_t>(0, ceil_div(after, axis.stride / axis.dilation)) : 0;
    of.tile = nested_tile(made.tile, of.taps);
    if (of.tile == kPlain) of.copies = made.outputs();
  }
  of.offset = of.late + made.tile_taps() - kWinogradTaps[of.tile];
  return of;
}

// Forward: large position s * u + p - pad is the sum over j of small[u - j] * weight[k] with k * dilation = p
// + s * j. With phases `apart` p counts from the image's edge instead.
AxisTiles forward_tiles(const Axis& axis, WinogradTile tile, bool apart, bool nested) noexcept {
  AxisTiles made;
  made.tile = tile;
  made.phases = made.spread = axis.stride;
  const bool before = axis.grid == 2 && made.outputs() == 2;
  made.first_u = floor_div(axis.pad_lo, axis.stride) - (before ? 1 : 0);
  made.late = apart ? axis.pad_lo - made.first_u * axis.stride : 0;
  const int64_t last_u = floor_div(axis.out - 1 + axis.pad_lo - made.late, axis.stride);
  made.first = made.first_u * axis.stride - axis.pad_lo + made.late;
  made.positions = last_u - made.first_u + 1;
  // Every j below the last occurs, unless dilation leaves some out.
  const int64_t last_j = (axis.kernel - 1) * axis.dilation / axis.stride;
  made.views = axis.dilation > axis.stride ? axis.kernel : last_j / made.tile_taps() + 1;
  made.nested = nested && made.views == 1 && axis.stride % axis.dilation == 0;
  for (int64_t phase = 0; phase < axis.stride; ++phase) made.add(phase_class(axis, made, phase));
  return made;
}

// Data gradient: kernel index from one tap of a view to the next.
int64_t tap_step(const Axis& axis, WinogradTile tile) noexcept {
  return tile == kPlain ? 1 : axis.stride / axis.dilation;
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

AxisTiles axis_tiles(const Axis& axis, Pass pass, WinogradTile tile, bool apart, bool nested) noexcept {
  return pass == Pass::forward ? forward_tiles(axis, tile, apart, nested)
                               : gradient_tiles(axis, tile, nested);
}

// One axis in tiles. Output o of tile t and phase p is at dst (t * outputs + o) * spread + p % spread +
// first; window element i of its view v is at src (t * outputs + offset + i) * src_step + origin[v], with the
// offset of the class of p, and where phases add up its origin.
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
    return taps.data() + (phase * views + view + 1) * tile_taps() - kWinogradTaps[of_phase(phase).tile];
  }
};

TiledAxis forward_axis(const Axis& axis, const AxisTiles& tiles) {
  TiledAxis made{tiles, axis.size, axis.out, 1, 1, {}, {}, {}, {}, {}};
  made.tap_step = axis.stride / std::gcd(axis.stride, axis.dilation);
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
    const int64_t j = k * axis.dilation / axis.stride / length * length;
    if (std::find(shifts.begin(), shifts.end(), j) == shifts.end()) shifts.push_back(j);
  }
  made.taps.assign(static_cast<size_t>(axis.stride * made.views * length), -1);
  for (const int64_t j : shifts) made.origin.push_back(made.first_u + skipped - j - (length - 1));
  for (int64_t k = 0; k < axis.kernel; ++k) {
    const int64_t phase = (k * axis.dilation + axis.stride - made.late) % axis.stride;
    const int64_t j = k * axis.dilation / axis.stride;
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

Counts counts(const Choice& choice) noexcept {
  return Counts{}.with(choice[0]).with(choice[1]).with(choice[2]);
}

struct Tiling {
  TiledAxis axes[kAxes];
  Counts counts;

  Tiling(const Problem& problem, const Choice& choice) : counts(tconv::counts(choice)) {
    for (size_t a = 0; a < kAxes; ++a) {
      const Axis& axis = problem.geometry.axes[a];
      axes[a] =
          problem.pass == Pass::forward ? forward_axis(axis, choice[a]) : gradient_axis(axis, choice[a]);
    }
  }
};

// Maps on both sides, and how they fill vectors.
struct Maps {
  int64_t groups;
  int64_t depth;    // read maps of a group
  int64_t columns;  // made maps of a group
  int64_t lanes;    // of a vector
  int64_t vectors;  // of a chunk, which is what the product kernel makes at a time
  int64_t rows;     // of tiles that it makes at a time

  Maps(const Problem& problem, const Kernel& gemm) noexcept
      : groups(problem.geometry.groups),
        depth((problem.pass == Pass::forward ? problem.geometry.channels : problem.geometry.filters) /
              groups),
        columns((problem.pass == Pass::forward ? problem.geometry.filters : problem.geometry.channels) /
                groups),
        lanes(static_cast<int64_t>(machine::lanes(compute_dtype(problem.dtype), problem.isa))),
        vectors(gemm.lanes / lanes),
        rows(gemm.rows) {}

  int64_t column_blocks() const noexcept { return ceil_div(columns, lanes); }
  int64_t padded_depth() const noexcept { return std::max(depth, lanes); }
};

// The kernel that makes the columns of a group, and the rest of its last chunk, in the least time.
const Kernel& product_kernel(const Problem& problem) {
  const auto candidates = kernels(Family::rowgemm, compute_dtype(problem.dtype), problem.isa);
  const auto lanes = static_cast<int64_t>(machine::lanes(compute_dtype(problem.dtype), problem.isa));
  const bool forward = problem.pass == Pass::forward;
  const Geometry& g = problem.geometry;
  int64_t vectors = ceil_div((forward ? g.filters : g.channels) / g.groups, lanes);
  for (const Axis& axis : g.axes) vectors *= forward ? axis.stride : 1;
  const auto seconds = [&](const Kernel& kernel) {
    const double loads = 1.0 / kernel.rows + static_cast<double>(lanes) / kernel.lanes;
    return static_cast<double>(ceil_div(vectors * lanes, kernel.lanes) * kernel.lanes) *
           (1 + kLoadShare * loads);
  };
  return *std::min_element(candidates.begin(), candidates.end(),
                           [&](const Kernel& a, const Kernel& b) { return seconds(a) < seconds(b); });
}

// Transformed weights of all groups.
double packed_bytes(const Counts& counts, const Maps& maps, const Problem& problem) noexcept {
  return static_cast<double>(maps.groups * counts.phase_points * counts.views * maps.padded_depth() *
                             maps.column_blocks() * maps.lanes) *
         static_cast<double>(compute_bytes(problem.dtype));
}

// The arguments of the kernel that packs whole vectors of columns, of which strides and tiles are set; none
// where it does not know the layer.
std::optional<WinogradPackArgs> pack_args(const Problem& problem, const AxisTiles& z, const AxisTiles& y,
                                          const AxisTiles& x) noexcept {
  const auto& axes = problem.geometry.axes;
  if (problem.pass != Pass::forward || problem.geometry.channels_last) return std::nullopt;
  if (axes[0].kernel > 1 || axes[0].stride > 1 || z.tile != kPlain) return std::nullopt;
  WinogradPackArgs args{};
  args.tile[0] = y.tile;
  args.tile[1] = x.tile;
  for (size_t i = 0; i < 2; ++i) {
    const Axis& axis = axes[i + 1];
    args.stride[i] = static_cast<int>(axis.stride);
    if (axis.dilation > 1 || axis.kernel != axis.stride * kWinogradTaps[args.tile[i]]) return std::nullopt;
  }
  if (!winograd_packs(args.stride, args.tile)) return std::nullopt;
  return args;
}

// Whether the columns of plain weights lie together, and the taps of every phase fill tiles of one axis.
bool packs_columns(const Problem& problem, const AxisTiles& z, const AxisTiles& y,
                   const AxisTiles& x) noexcept {
  const auto& axes = problem.geometry.axes;
  if (problem.pass != Pass::forward || !problem.geometry.channels_last) return false;
  for (const auto& [axis, tiles] : {std::pair{&axes[0], &z}, {&axes[1], &y}}) {
    if (axis->kernel > 1 || axis->stride > 1 || tiles->tile != kPlain) return false;
  }
  return x.tile != kPlain && axes[2].dilation == 1 && axes[2].kernel % (axes[2].stride * x.tile_taps()) == 0;
}

// How plain weights are transformed: by a kernel that knows the layer, a phase after the other in three
// dimensions so that all stay near the core, where points fit in registers, those of the views of the data
// gradient or of phases, and else.
enum class Packing { whole, near, views, registers, slow };

Packing packing_of(const Problem& problem, int64_t classes, const AxisTiles& z, const AxisTiles& y,
                   const AxisTiles& x) noexcept {
  if (z.tile != kPlain) return classes > 1 ? Packing::near : Packing::slow;
  if (problem.pass == Pass::data_gradient) return Packing::views;
  return pack_args(problem, z, y, x) || packs_columns(problem, z, y, x) ? Packing::whole : Packing::registers;
}

double packing_seconds(double bytes, Packing packing) noexcept {
  switch (packing) {
    case Packing::whole:
      return bytes / kWholePackBytesPerSecond;
    case Packing::near:
      return bytes / kNearPackBytesPerSecond;
    case Packing::views:
      return bytes / kViewPackBytesPerSecond;
    case Packing::registers:
      return bytes / kPackBytesPerSecond;
    default:
      return bytes / kSlowPackBytesPerSecond;
  }
}

// Expected seconds of one sample: products at nearly full speed, transforms a few instructions a vector.
double sample_seconds(const Counts& counts, const Maps& maps) noexcept {
  const double tiles = counts.tiles;
  const auto views = static_cast<double>(counts.views);
  const auto phases = static_cast<double>(counts.phases);
  const auto made = static_cast<double>(counts.products);
  const auto chunked = [&](int64_t vectors) {
    return static_cast<double>(ceil_div(vectors, maps.vectors) * maps.vectors);
  };
  // A chunk holds phases of one class only.
  const double vectors = counts.classes > 1 ? chunked(maps.column_blocks())
                                            : chunked(maps.column_blocks() * counts.phases) / phases;
  const double products = tiles * made * views * static_cast<double>(maps.padded_depth()) * vectors * 1.12;
  const double input = tiles * static_cast<double>(counts.class_points) * views *
                       static_cast<double>(ceil_div(maps.depth, maps.lanes)) * 6.0;
  const double output = tiles * static_cast<double>(maps.column_blocks()) *
                        (made * 4.0 + phases * static_cast<double>(counts.outputs) * 8.0);
  return static_cast<double>(maps.groups) * (products + input + output) / machine::kHertz;
}

// Expected seconds in which the maps of one sample become lanes, and transformed windows leave the second
// cache, where those of a block are too many for it.
double window_seconds(const Problem& problem, const Choice& choice, const Maps& maps) noexcept {
  const auto& [z, y, x] = choice;
  const Counts all = counts(choice);
  const auto rows = static_cast<double>(z.points() * z.origins() * y.points() * y.origins());
  const int64_t step = problem.pass == Pass::forward ? 1 : problem.geometry.axes[2].stride;
  const auto vectors =
      static_cast<double>(x.outputs() * step * maps.groups * ceil_div(maps.depth, maps.lanes));
  const double bytes = static_cast<double>(all.class_points * all.views * maps.padded_depth()) *
                       static_cast<double>(compute_bytes(problem.dtype));
  const bool leave = bytes * kLeastBlockTiles > kTransformedBytes;
  const auto left = leave ? bytes * static_cast<double>(maps.groups) / kWindowBytesPerSecond : 0.0;
  return all.tiles * (rows * vectors * kStripSeconds + left);
}

// Expected seconds for which transformed weights hold up `batch` samples, all of which take `seconds` else.
double reading_seconds(const Counts& counts, const Maps& maps, double batch, double seconds, double bytes,
                       bool packed, Packing packing) noexcept {
  const double tiles = batch * counts.tiles;
  const double passes = std::ceil(tiles / kMostBlockTiles);
  const bool near = !packed && packing == Packing::near;
  const bool views = !packed && packing == Packing::views;
  if (!packed && !near && !views)
    return passes * bytes / (packing == Packing::whole ? kCachedBytesPerSecond : kReadBytesPerSecond);
  const double late =
      !packed || bytes < kCachedBytes ? 0 : std::max(0.0, passes * bytes / kMemoryBytesPerSecond - seconds);
  // The last rows of few take as long to read as those that are full; how many samples share them is a guess.
  const double rows = tiles / static_cast<double>(maps.rows);
  const double idle = batch == 1 && tiles < kLongAxis ? std::ceil(rows) - rows : 0;
  return late +
         bytes * (passes / (near ? kRowBytesPerSecond : kCachedBytesPerSecond) + idle / kRowBytesPerSecond);
}

// The problem by which tiles are chosen and compared with other algorithms.
Problem compared(const Problem& problem) {
  Problem compared = of_usual_size(problem);
  for (Axis& axis : compared.geometry.axes) {
    if (axis.grid == 0) continue;
    axis.size = kUsualPositions;
    axis.out = kUsualPositions * axis.stride;
    axis.pad_lo = 0;
    axis.grid = 1;
  }
  return compared;
}

// Tiles that an axis may take, if it is the last and `alone`.
std::vector<WinogradTile> tiles_for(const Axis& axis, int most_points, bool alone) {
  std::vector<WinogradTile> tiles{kPlain};
  const int64_t taps = ceil_div(axis.kernel * axis.dilation, axis.stride);
  if (axis.stride % axis.dilation != 0 || taps < 2) return tiles;
  if (axis.grid != 0) {
    // Outputs of a tile of two read no more than they need, so half a tile can be had, if no tap is missing;
    // those of larger tiles read more.
    if (axis.dilation != 1 || axis.kernel % axis.stride != 0) return tiles;
    if (taps % 2 == 0) tiles.push_back(kF22);
    if (taps % 3 == 0) tiles.push_back(kF23);
    return tiles;
  }
  for (const WinogradTile tile : {kF22, kF32, kF42, kF23, kF33, kF43, kF34}) {
    if (kWinogradPoints[tile] <= most_points && kWinogradTaps[tile] <= taps) tiles.push_back(tile);
  }
  if (alone && kWinogradPoints[kF52] <= most_points) tiles.push_back(kF52);
  return tiles;
}

// Phases with different numbers of taps, which alone gain from being nested.
bool uneven(const Axis& axis) noexcept { return axis.dilation != 1 || axis.kernel % axis.stride != 0; }

struct ChosenTiles {
  Choice axes;
  bool apart;
  bool nested;
};

ChosenTiles find_choice(const Problem& problem, const Maps& maps) {
  const auto& axes = problem.geometry.axes;
  const bool gridded = std::any_of(axes.begin(), axes.end(), [](const Axis& axis) { return axis.grid != 0; });
  std::vector<WinogradTile> options[kAxes];
  for (size_t a = 0; a < kAxes; ++a) {
    const bool alone = a == 2 && options[0].size() * options[1].size() == 1;
    options[a] = tiles_for(axes[a], problem.winograd_points, alone);
  }
  // Weights are read once for the tiles of a block, which holds several samples if they are small and there
  // are as many.
  const int64_t samples = usual_batch(problem.geometry);
  const double batch = samples == 1 ? 1 : std::pow(static_cast<double>(samples), 0.75);
  ChosenTiles chosen{};
  double least = -1;
  const bool nests = std::any_of(axes.begin(), axes.end(), uneven);
  const bool late =
      std::any_of(axes.begin(), axes.end(), [](const Axis& axis) { return axis.pad_lo % axis.stride != 0; });
  for (const auto& [apart, nested] : {std::pair{false, false}, {true, false}, {false, true}, {true, true}}) {
    if (apart && problem.pass != Pass::forward) continue;
    if ((apart && !late) || (nested && !nests)) continue;  // as if it were not
    if (apart && gridded) continue;
    std::vector<AxisTiles> made[kAxes];
    for (size_t a = 0; a < kAxes; ++a) {
      made[a].reserve(options[a].size());
      for (const WinogradTile tile : options[a]) {
        made[a].push_back(axis_tiles(axes[a], problem.pass, tile, apart, nested));
      }
    }
    for (const AxisTiles& z : made[0]) {
      const Counts plane = Counts{}.with(z);
      for (const AxisTiles& y : made[1]) {
        const Counts row = plane.with(y);
        for (const AxisTiles& x : made[2]) {
          if (kError[z.tile] * kError[y.tile] * kError[x.tile] > most_error(maps.depth)) continue;
          const Counts all = row.with(x);
          if ((apart || nested) && all.classes == 1) continue;
          if (apart && all.views > 1) continue;
          const double bytes = packed_bytes(all, maps, problem);
          // To transform many plain weights to one point more costs what it saves.
          if (x.tile == kF52 && !problem.packed && bytes > kCachedBytes) continue;
          const Packing way = packing_of(problem, all.classes, z, y, x);
          const double sample = sample_seconds(all, maps);
          const double reading =
              reading_seconds(all, maps, batch, sample * batch, bytes, problem.packed, way);
          const double packing = problem.packed ? 0 : kPackingShare * packing_seconds(bytes, way);
          const double seconds = sample + (reading + packing) / batch;
          if (least >= 0 && seconds >= least) continue;
          least = seconds;
          chosen = {{z, y, x}, apart, nested};
        }
      }
    }
  }
  return chosen;
}

// The tiles of least cost. Sizes decide them, never batch, threads or workspace, so that those leave bits
// alone. Whoever makes a plan asks several times in a row, and the next plan is often of about the same
// sizes, so the last answer is remembered.
Choice best_choice(const Problem& given, const Maps& maps) {
  thread_local struct {
    Problem problem;
    ChosenTiles tiles;
  } last;
  Problem problem = compared(given);
  problem.geometry.batch = 1;
  problem.threads = 1;
  problem.workspace = 0;
  problem.activation = {};
  if (problem != last.problem) last = {problem, find_choice(problem, maps)};
  Choice choice = last.tiles.axes;
  for (size_t a = 0; a < kAxes; ++a) {
    const Axis& axis = given.geometry.axes[a];
    if (axis == problem.geometry.axes[a]) continue;
    choice[a] = axis_tiles(axis, given.pass, choice[a].tile, last.tiles.apart, last.tiles.nested);
  }
  return choice;
}

// One class of phases along all axes.
struct Form {
  WinogradTile tile[kAxes] = {};
  int64_t offset[kAxes] = {};
  int64_t origin[kAxes] = {};
  int64_t copies[kAxes] = {};
  int64_t points = 1;  // with weights of their own; 0 where phases have no taps
  int64_t start = 0;   // of its points among those of all classes

  Form(const std::array<PhaseClass, kAxes>& of, const Tiling& tiling) noexcept
      : points(of[0].points() * of[1].points() * of[2].points()) {
    for (size_t a = 0; a < kAxes; ++a) {
      tile[a] = points == 0 ? kPlain : of[a].tile;
      offset[a] = of[a].offset;
      origin[a] = of[a].origin;
      copies[a] = points == 0 ? tiling.axes[a].outputs() : of[a].copies;
    }
  }

  int64_t all_copies() const noexcept { return copies[0] * copies[1] * copies[2]; }
  // Which output of an axis copy `i` is.
  int64_t output(int64_t i, int axis) const noexcept {
    if (axis == 2) return i % copies[2];
    return axis == 1 ? i / copies[2] % copies[1] : i / copies[2] / copies[1];
  }
};

// A run of tiles along the last axis.
struct Segment {
  int64_t sample;
  int64_t z;
  int64_t y;
  int64_t x;  // first tile
  int64_t tiles;
  int64_t place;  // of its first tile in the block
};

struct Strides {
  int64_t map;
  int64_t axis[kAxes];
  int64_t sample;

  Strides(bool channels_last, int64_t maps, int64_t z, int64_t y, int64_t x) noexcept {
    map = channels_last ? 1 : z * y * x;
    axis[2] = channels_last ? maps : 1;
    axis[1] = x * axis[2];
    axis[0] = y * axis[1];
    sample = maps * z * y * x;
  }
};

template <class T>
class Winograd final : public Recipe {
 public:
  explicit Winograd(const Problem& problem)
      : Winograd(problem, best_choice(problem, Maps(problem, product_kernel(problem)))) {}

  Winograd(const Problem& problem, const Choice& choice)
      : problem_(problem),
        activate_(problem),
        gemm_(product_kernel(problem)),
        strip_(tconv::kernel(Family::strip, problem.dtype, problem.isa)),
        unstrip_(tconv::kernel(Family::unstrip, problem.dtype, problem.isa)),
        taps_(tconv::kernel(Family::winogradtaps, compute_dtype(problem.dtype), problem.isa)),
        pack_(tconv::kernel(Family::winogradpack, problem.dtype, problem.isa)),
        columns_(tconv::kernel(Family::winogradcolumns, problem.dtype, problem.isa)),
        in_(tconv::kernel(Family::winogradin, compute_dtype(problem.dtype), problem.isa)),
        out_(tconv::kernel(Family::winogradout, compute_dtype(problem.dtype), problem.isa)),
        sum_(tconv::kernel(Family::winogradsum, compute_dtype(problem.dtype), problem.isa)),
        read_(tconv::kernel(Family::winogradread, problem.dtype, problem.isa)),
        write_(tconv::kernel(Family::winogradwrite, problem.dtype, problem.isa)),
        maps_(problem, gemm_),
        tiling_(problem, choice),
        src_(problem.pass == Pass::forward ? problem.geometry.small_last() : problem.geometry.channels_last,
             maps_.groups * maps_.depth, tiling_.axes[0].src_size, y().src_size, x().src_size),
        dst_(problem.pass == Pass::forward ? problem.geometry.channels_last : problem.geometry.small_last(),
             maps_.groups * maps_.columns, tiling_.axes[0].dst_size, y().dst_size, x().dst_size),
        points_(tiling_.counts.points),
        classes_(tiling_.counts.classes),
        views_(tiling_.counts.views),
        phases_(tiling_.counts.phases),
        depth_(views_ * maps_.padded_depth()),
        depth_block_(views_ > 1 && maps_.depth % maps_.lanes == 0 ? maps_.lanes : maps_.padded_depth()),
        chunk_lanes_(maps_.vectors * maps_.lanes) {
    for (int64_t c = 0; c < classes_; ++c) {
      const auto& axes = tiling_.axes;
      const auto at = [](const TiledAxis& axis, int64_t i) { return axis.of_class[static_cast<size_t>(i)]; };
      Form form({at(axes[0], c / x().classes / y().classes), at(y(), c / x().classes % y().classes),
                 at(x(), c % x().classes)},
                tiling_);
      form.start = all_points_;
      all_points_ += form.points * form.all_copies();
      forms_.push_back(form);
    }
    line_ = is_line();
    pack_args_ = pack_args(problem, tiling_.axes[0], y(), x());
    packs_columns_ = packs_columns(problem, tiling_.axes[0], y(), x());
    // Rows a multiple of 1 KB apart would meet in the same cache sets.
    row_ = ceil_div(depth_, maps_.lanes) * maps_.lanes;
    if (row_ * static_cast<int64_t>(sizeof(T)) % 1024 == 0) row_ += maps_.lanes;
    set_unit(1);
    rows_ = problem.geometry.batch * tiling_.axes[0].tiles() * y().tiles();
    low_origin_ = *std::min_element(x().origin.begin(), x().origin.end());
    origin_range_ = *std::max_element(x().origin.begin(), x().origin.end()) - low_origin_;
    cut();
  }

  std::string kernel() const override { return gemm_.name; }
  size_t workspace_bytes() const noexcept override { return workspace_; }
  bool needs_finite_source() const noexcept override { return true; }
  size_t packed_bytes() const noexcept override {
    return unit_bytes() * static_cast<size_t>(maps_.groups * units_);
  }

  std::string packing_key() const override {
    const Geometry& g = problem_.geometry;
    std::string key;
    key.reserve(128);
    key.append("winograd ")
        .append(name_of(problem_.isa))
        .append(problem_.pass == Pass::forward ? " f" : " d");
    const auto append = [&key](int64_t value) {
      char digits[std::numeric_limits<int64_t>::digits10 + 2];
      key.append(1, ' ').append(digits, std::to_chars(digits, std::end(digits), value).ptr);
    };
    for (const int64_t value : {static_cast<int64_t>(problem_.dtype), g.channels, g.filters, g.groups,
                                static_cast<int64_t>(g.channels_last)}) {
      append(value);
    }
    for (int a = 0; a < kAxes; ++a) {
      const Axis& axis = g.axes[static_cast<size_t>(a)];
      for (const int64_t value :
           {axis.kernel, axis.stride, axis.dilation, static_cast<int64_t>(tiling_.axes[a].tile),
            tiling_.axes[a].late, static_cast<int64_t>(tiling_.axes[a].nested)}) {
        append(value);
      }
    }
    return key;
  }

  bool pack(const void* weight, char* packed, Crew& crew) const override {
    return pack_parts(weight, packed, 0, packing_parts(), crew);
  }
  // Units of weights: [chunk][point][view and map][vector of the chunk][lane], transformed.
  int64_t packing_parts() const noexcept override { return maps_.groups * units_ * unit_parts(); }
  bool pack_parts(const void* weight, char* packed, int64_t first, int64_t last, Crew& crew) const override {
    const double seconds = static_cast<double>(packed_bytes()) * static_cast<double>(last - first) /
                           static_cast<double>(packing_parts()) / 4e9;
    const int64_t slices = unit_parts() / unit_blocks_;
    T* const units = reinterpret_cast<T*>(packed);
    if (maps_.padded_depth() > maps_.depth) {
      for (int64_t unit = ceil_div(first, unit_parts()); unit * unit_parts() < last; ++unit)
        std::memset(units + unit * unit_elements_, 0, unit_bytes());
    }
    return share_finite(crew, last - first, seconds, [&](int64_t index, int) noexcept {
      const int64_t part = first + index;
      const int64_t unit = part / unit_parts();
      const int64_t begin = part % slices * kPackedMaps;
      const int64_t block = part / slices % unit_blocks_;
      return pack_blocks(weight, units + unit * unit_elements_, unit, block, block + 1, begin,
                         std::min(begin + kPackedMaps, maps_.depth), {0, depth_});
    });
  }

  bool takes_plain() const override { return problem_.packed && from_plain().by_unit_; }

  bool run(const Call& call) const override {
    if (problem_.packed && call.packed == nullptr) return from_plain().run(call);
    const Buffer scratch(workspace_);
    Pieces pieces(scratch.data());
    char* packed = call.packed == nullptr && !by_unit_
                       ? pieces.take(unit_bytes() * static_cast<size_t>(pack_units_))
                       : nullptr;
    T* bias = pieces.take<T>(bias_bytes());
    spread_bias(call.bias, bias);
    // A small workspace has room for fewer workers than there are threads.
    call.crew.limit(threads_);
    std::vector<Worker> workers(static_cast<size_t>(threads_));
    T* shared = shares_windows() ? pieces.take<T>(shared_bytes()) : nullptr;
    for (Worker& w : workers) {
      if (by_unit_) w.packed = pieces.take<T>(slice_bytes());
      if (by_chunk_) w.turned = pieces.take<T>(turned_bytes());
      w.strip = pieces.take<T>(strip_bytes());
      w.transformed = shares_windows() ? shared : pieces.take<T>(transformed_bytes());
      w.products = pieces.take<T>(sum_bytes());
      w.outputs = pieces.take<T>(output_bytes());
      w.segments = pieces.take<Segment>(segment_bytes());
      w.next = pieces.take<Segment>(next_bytes());
      w.fetches = pieces.take<Fetch>(fetch_bytes());
    }
    std::atomic<bool> finite{true};
    if (by_unit_) {
      for (int64_t group = 0; finite && group < maps_.groups; ++group) {
        run_units({call, nullptr, bias, group, 0, units_, finite}, shared, workers);
      }
      return finite;
    }
    const int64_t all_units = maps_.groups * units_;
    for (int64_t first = 0; first < all_units; first += pack_units_) {
      const int64_t last = std::min(first + pack_units_, all_units);
      const char* weights = static_cast<const char*>(call.packed);
      if (packed != nullptr) {
        char* const all = packed - static_cast<size_t>(first) * unit_bytes();
        if (!pack_parts(call.weight, all, first * unit_parts(), last * unit_parts(), call.crew)) return false;
        weights = all;
      }
      for (int64_t group = first / units_; group * units_ < last; ++group) {
        const int64_t begin = std::max(first, group * units_) - group * units_;
        const int64_t end = std::min(last, (group + 1) * units_) - group * units_;
        run_group({call, reinterpret_cast<const T*>(weights), bias, group, begin, end, finite}, workers);
      }
    }
    return finite;
  }

 private:
  struct Worker {
    T* packed;
    T* turned;  // plain weights of a unit as rows of lanes
    T* strip;
    T* transformed;
    T* products;
    T* outputs;
    Segment* segments;
    Segment* next;  // those of the next block
    Fetch* fetches;
    int64_t block;  // whose windows are transformed
  };

  struct Part {
    const Call& call;
    const T* weights;  // of the first unit of the first group
    const T* bias;
    int64_t group;
    int64_t first_unit;
    int64_t last_unit;
    std::atomic<bool>& finite;
  };

  // Rows of lanes, one for each map and tap, of all taps of the kernel or those of a phase.
  struct PlainTaps {
    const T* rows;
    int64_t map;           // from one to the next
    int64_t step[kAxes];   // from one tap to the next
    int64_t every[kAxes];  // kernel indices of which one is there

    int64_t at(int axis, int64_t k) const noexcept { return k / every[axis] * step[axis]; }
  };

  // A part of the depth of the products.
  struct Depth {
    int64_t begin;
    int64_t end;

    int64_t count() const noexcept { return end - begin; }
  };

  // The same with the same tiles for plain weights, which seldom come.
  const Winograd& from_plain() const {
    std::call_once(plain_made_, [this] {
      Problem plain = problem_;
      plain.packed = false;
      from_plain_ = std::make_unique<Winograd>(plain, best_choice(problem_, maps_));
    });
    return *from_plain_;
  }

  const TiledAxis& y() const noexcept { return tiling_.axes[1]; }
  const TiledAxis& x() const noexcept { return tiling_.axes[2]; }

  // Whether there is one axis, whose phases read the same windows of neighbours.
  bool is_line() const noexcept {
    const TiledAxis& z = tiling_.axes[0];
    return z.src_size * z.dst_size * y().src_size * y().dst_size == 1 && x().tile != kPlain &&
           x().src_step == 1 && classes_ * views_ == 1 && x().outputs() * x().phases <= kWinogradLine / 2;
  }

  // Where a read map of a view stands in the depth: views take turns, so that a range of maps is a range of
  // the depth.
  int64_t depth_at(int64_t map, int64_t view) const noexcept {
    return (map / depth_block_ * views_ + view) * depth_block_ + map % depth_block_;
  }

  // Weights of a point, for some read maps. Those of the next begin a line later, else the points of a map
  // would meet in the same cache sets.
  int64_t point_weights(int64_t maps) const noexcept {
    return maps * chunk_lanes_ + static_cast<int64_t>(kAlignment / sizeof(T));
  }
  // Vectors of columns of a unit by some read maps, which a thread packs at a time.
  int64_t unit_parts() const noexcept { return unit_blocks_ * ceil_div(maps_.depth, kPackedMaps); }
  size_t unit_bytes() const noexcept { return static_cast<size_t>(unit_elements_) * sizeof(T); }
  size_t bias_bytes() const noexcept {
    return static_cast<size_t>(maps_.groups * units_ * unit_blocks_ * maps_.lanes) * sizeof(T);
  }
  int64_t strip_width() const noexcept {
    return ((segment_tiles_ - 1) * x().outputs() + x().window - 1) * x().src_step + origin_range_ + 1;
  }
  size_t strip_bytes() const noexcept {
    if (line_) return 0;
    return static_cast<size_t>(tiling_.axes[0].window * y().window * strip_width() * maps_.lanes) * sizeof(T);
  }
  size_t transformed_bytes() const noexcept {
    return static_cast<size_t>(all_points_ * block_tiles() * row_) * sizeof(T);
  }
  // Whether all threads read the same transformed windows, and how large those are.
  bool shares_windows() const noexcept { return together_ || by_unit_; }
  size_t shared_bytes() const noexcept {
    return by_unit_ ? aligned(transformed_bytes()) * static_cast<size_t>(blocks_) : transformed_bytes();
  }
  // Weights of a unit, or of a chunk, for `slice_maps_` read maps, and the sums that slices add to.
  size_t slice_bytes() const noexcept {
    return static_cast<size_t>(points_at_once() *
                               point_weights(slices() > 1 ? slice_maps_ * views_ : depth_)) *
           sizeof(T);
  }
  int64_t points_at_once() const noexcept {
    if (!by_chunk_) return unit_points_;
    int64_t most = 0;
    for (const Form& form : forms_) most = std::max(most, form.points);
    return most;
  }
  int64_t slices() const noexcept { return ceil_div(maps_.depth, slice_maps_); }
  size_t all_sum_bytes() const noexcept {
    return product_bytes() * static_cast<size_t>((by_chunk_ ? 1 : unit_chunks_) * blocks_);
  }
  size_t sum_bytes() const noexcept {
    return slices() > 1 ? all_sum_bytes() : product_bytes() * static_cast<size_t>(line_ ? unit_chunks_ : 1);
  }
  // Plain weights of a vector of columns, as rows of lanes.
  int64_t turned_elements() const noexcept { return maps_.depth * problem_.geometry.taps() * maps_.lanes; }
  size_t turned_bytes() const noexcept {
    return static_cast<size_t>(unit_blocks_ * turned_elements()) * sizeof(T);
  }
  int64_t product_elements() const noexcept { return points_ * block_tiles() * chunk_lanes_; }
  size_t product_bytes() const noexcept { return static_cast<size_t>(product_elements()) * sizeof(T); }
  // Of one block, or of all where a chunk is multiplied with all of them before the next.
  int64_t output_elements() const noexcept {
    return unit_blocks_ * block_tiles() * tiling_.counts.outputs * tiling_.counts.spread * maps_.lanes;
  }
  size_t output_bytes() const noexcept {
    if (line_) return 0;
    return static_cast<size_t>(output_elements() * (by_chunk_ ? blocks_ : 1)) * sizeof(T);
  }
  size_t segment_bytes() const noexcept { return static_cast<size_t>(block_segments_) * sizeof(Segment); }
  // Whether what the next windows are made of is fetched: along one axis, for rows of several are shared with
  // the block before, and more of them would drive out what is needed sooner.
  bool fetches_windows() const noexcept { return y().src_size * tiling_.axes[0].src_size == 1; }
  size_t next_bytes() const noexcept { return fetches_windows() ? segment_bytes() : 0; }
  // What is fetched while a unit is multiplied: weights of the next point, unless they are packed near the
  // core, its windows, plain weights, and the lines that outputs go to and the next windows come from.
  static constexpr int64_t kAhead = 2;
  size_t fetch_bytes() const noexcept {
    return static_cast<size_t>(kAhead + 1 + block_segments_ * (output_rows() + (fetches_windows() ? 1 : 0))) *
           sizeof(Fetch);
  }
  int64_t block_tiles() const noexcept { return block_segments_ * segment_tiles_; }

  // A unit is made of the chunks that hold whole vectors of columns with all their phases, `width` times as
  // many of them.
  void set_unit(int64_t width) {
    unit_chunks_ = width * (classes_ > 1 ? phases_ : std::lcm(phases_, maps_.vectors) / maps_.vectors);
    unit_blocks_ = unit_chunks_ * maps_.vectors / phases_;
    units_ = ceil_div(maps_.column_blocks(), unit_blocks_);
    chunk_start_.clear();
    unit_points_ = 0;
    for (int64_t chunk = 0; chunk < unit_chunks_; ++chunk) {
      chunk_start_.push_back(unit_points_);
      unit_points_ += form_of(chunk).points;
    }
    unit_elements_ = unit_points_ * point_weights(depth_);
  }

  // How many units are better packed as one: memory gives short runs slowly.
  int64_t unit_width() const noexcept {
    if (classes_ > 1) return 1;
    const int64_t width = kRunBytes / plain_weights(nullptr, 0, 0, maps_.depth).bytes;
    return std::clamp<int64_t>(std::min(width, units_ / threads_), 1, kMostWidth);
  }

  // Blocks of at most so many tiles.
  int64_t fewest_blocks(int64_t tiles) const noexcept {
    const int64_t in_row = x().tiles();
    return tiles < in_row ? rows_ * ceil_div(in_row, tiles)
                          : ceil_div(rows_, std::min(tiles / in_row, rows_));
  }

  // Cuts all tiles into at least so many blocks, if there are as many tiles. A block is one piece of a row,
  // or several whole rows.
  void set_blocks(int64_t count) noexcept {
    const int64_t in_row = x().tiles();
    row_segments_ = std::min(ceil_div(count, rows_), in_row);
    segment_tiles_ = ceil_div(in_row, row_segments_);
    row_segments_ = ceil_div(in_row, segment_tiles_);
    blocks_ = row_segments_ > 1 ? rows_ * row_segments_ : std::min(count, rows_);
    block_segments_ = ceil_div(rows_ * row_segments_, blocks_);
  }

  // Expected seconds of one thread.
  double all_seconds() const noexcept {
    return sample_seconds(tiling_.counts, maps_) * static_cast<double>(problem_.geometry.batch);
  }

  // Expected seconds of a group on `threads_` threads. `together` they make the units of one block after the
  // other; else each has a run of all units of all blocks, and transforms what those read, so that hardly
  // anything goes from core to core. Weights are read anew for every block.
  double group_seconds(bool together) const noexcept {
    const auto blocks = static_cast<double>(blocks_);
    const auto units = static_cast<double>(units_);
    const auto windows = static_cast<double>(transformed_bytes());
    const double transform =
        windows / kNearBytesPerSecond + std::max(0.0, windows - kNearBytes) / kFarBytesPerSecond;
    const double unit = all_seconds() / static_cast<double>(maps_.groups) / (blocks * units) +
                        static_cast<double>(unit_bytes()) / kReadBytesPerSecond;
    if (together) {
      return blocks * (static_cast<double>(ceil_div(units_, threads_)) * unit +
                       windows / kHandedBytesPerSecond + kMeetingSeconds);
    }
    double most = 0;
    for (int64_t thread = 0; thread < threads_; ++thread) {
      const int64_t first = blocks_ * units_ * thread / threads_;
      const int64_t last = blocks_ * units_ * (thread + 1) / threads_;
      if (first == last) continue;
      const int64_t touched = (last - 1) / units_ - first / units_ + 1;
      // A unit's share of the transform of its block is counted already.
      const double more = static_cast<double>(touched) - static_cast<double>(last - first) / units;
      most = std::max(most, static_cast<double>(last - first) * unit + more * transform);
    }
    return most;
  }

  // Cuts tiles into blocks of at most `tiles`, for threads to share as costs least.
  void share_blocks(int64_t tiles) noexcept {
    const int64_t fewest = fewest_blocks(tiles);
    set_blocks(fewest);
    together_ = false;
    if (threads_ == 1) return;
    const double apart = group_seconds(false);
    const double together = group_seconds(true);
    set_blocks(ceil_div(fewest, threads_) * threads_);
    const double even = group_seconds(false);
    if (even < std::min(apart, together)) return;
    together_ = together < apart;
    set_blocks(fewest);
  }

  // Whether transformed windows are fewer than packed weights, so that those may go and these must stay.
  bool windows_are_few() const noexcept {
    const size_t windows = transformed_bytes() * static_cast<size_t>(blocks_);
    return windows <= std::min(kKeptBytes, unit_bytes() * static_cast<size_t>(units_));
  }

  // Whether transformed windows leave the second cache before they are multiplied with the next unit.
  bool windows_are_far() const noexcept {
    return by_unit_ || static_cast<double>(transformed_bytes()) > machine::kSecondCacheBytes;
  }

  // Cuts the read maps so that packed weights and sums stay in the second cache, where each sum is over maps
  // in their order.
  void slice() noexcept {
    slice_maps_ = maps_.depth;
    if (maps_.padded_depth() > maps_.depth) return;
    const size_t sums = all_sum_bytes();
    if (sums > kSumBytes) return;
    // Sums come and go with every part, so the larger they are, the fewer parts.
    const auto bytes = static_cast<int64_t>(std::max(kSliceBytes, sums));
    const int64_t pieces = ceil_div(static_cast<int64_t>(slice_bytes()), bytes);
    const int64_t step = views_ > 1 ? depth_block_ : maps_.lanes;
    slice_maps_ = std::min(maps_.depth, ceil_div(ceil_div(maps_.depth, pieces), step) * step);
  }

  // Whether the sums of a unit are so many that they would leave the second cache with every slice.
  bool sums_are_many() const noexcept {
    return classes_ > 1 && unit_bytes() > kSliceBytes &&
           product_bytes() * static_cast<size_t>(unit_chunks_ * blocks_) > kManySumBytes;
  }

  // Decides blocks, threads and how many weights are packed at a time, so that the workspace holds them.
  void cut() {
    const bool packs = !problem_.packed;
    const int64_t all_units = maps_.groups * units_;
    const auto total = [&] {
      const size_t worker =
          aligned(strip_bytes()) + aligned(sum_bytes()) + aligned(output_bytes()) + aligned(segment_bytes()) +
          aligned(next_bytes()) + aligned(fetch_bytes()) + (by_unit_ ? aligned(slice_bytes()) : 0) +
          (by_chunk_ ? aligned(turned_bytes()) : 0) + (shares_windows() ? 0 : aligned(transformed_bytes()));
      return (packs && !by_unit_ ? aligned(unit_bytes() * static_cast<size_t>(pack_units_)) : 0) +
             aligned(bias_bytes()) + (shares_windows() ? aligned(shared_bytes()) : 0) +
             worker * static_cast<size_t>(threads_);
    };
    const auto bytes = static_cast<int64_t>(sizeof(T));
    const int64_t most =
        std::clamp<int64_t>(std::min(classes_ * kTransformedBytes / (all_points_ * row_ * bytes),
                                     kProductBytes / (points_ * chunk_lanes_ * bytes)),
                            kLeastBlockTiles, kMostBlockTiles);
    threads_ = 1;
    together_ = false;
    pack_units_ = packs ? 1 : all_units;
    slice_maps_ = maps_.depth;
    set_blocks(fewest_blocks(1));
    workspace_ = total();
    if (workspace_ > problem_.workspace) return;
    for (threads_ = all_seconds() > kWorthSharing ? std::max(1, problem_.threads) : 1;; --threads_) {
      for (int64_t tiles = most; tiles > 0; tiles = tiles * 3 / 4) {
        set_blocks(fewest_blocks(tiles));
        by_unit_ = packs && windows_are_few() && units_ >= threads_;
        by_chunk_ = by_unit_ && sums_are_many();
        if (by_unit_) {
          for (int64_t width = unit_width(); width > 0; width /= 2) {
            set_unit(width);
            slice();
            if (total() <= problem_.workspace) {
              workspace_ = total();
              return;
            }
          }
          by_unit_ = by_chunk_ = false;
          set_unit(1);
          slice_maps_ = maps_.depth;
        }
        share_blocks(tiles);
        if (total() <= problem_.workspace) {
          if (packs) {
            const size_t other = total() - aligned(unit_bytes());
            const auto room = static_cast<int64_t>((problem_.workspace - other) / aligned(unit_bytes()));
            pack_units_ = ceil_div(all_units, ceil_div(all_units, std::clamp<int64_t>(room, 1, all_units)));
          }
          workspace_ = total();
          return;
        }
      }
    }
  }

  void spread_bias(const void* bias, T* spread) const noexcept {
    const int64_t width = units_ * unit_blocks_ * maps_.lanes;
    std::fill_n(spread, maps_.groups * width, T{0});
    if (bias == nullptr) return;
    with_dtype(problem_.dtype, [&](auto e) {
      const auto* from = static_cast<const typename decltype(e)::storage*>(bias);
      for (int64_t g = 0; g < maps_.groups; ++g) {
        for (int64_t c = 0; c < maps_.columns; ++c) {
          spread[g * width + c] = static_cast<T>(e.load(from[g * maps_.columns + c]));
        }
      }
    });
  }

  void run_group(const Part& part, std::vector<Worker>& workers) const {
    const double seconds = all_seconds() * static_cast<double>(part.last_unit - part.first_unit) /
                           static_cast<double>(maps_.groups * units_);
    if (!together_) {
      const int64_t units = part.last_unit - part.first_unit;
      for (Worker& w : workers) w.block = -1;
      part.call.crew.share(blocks_ * units, seconds, [&](int64_t i, int member) noexcept {
        Worker& w = workers[static_cast<size_t>(member)];
        const int64_t block = i / units;
        const int64_t unit = part.first_unit + i % units;
        const int64_t segments = list_segments(block, w.segments);
        if (w.block != block) {
          for (int64_t s = 0; s < segments * depth_blocks(); ++s) transform(part, w, segments, s);
          w.block = block;
        }
        const bool last = unit + 1 == part.last_unit && block + 1 < blocks_;
        multiply(part, w, segments, unit, unit_weights(part, unit), {0, depth_}, {}, last ? block + 1 : -1);
      });
      return;
    }
    const double block_seconds = seconds / static_cast<double>(blocks_);
    for (int64_t block = 0; block < blocks_; ++block) {
      int64_t segments = 0;
      for (Worker& w : workers) segments = list_segments(block, w.segments);
      part.call.crew.share(segments * depth_blocks(), block_seconds / 10,
                           [&](int64_t i, int member) noexcept {
                             transform(part, workers[static_cast<size_t>(member)], segments, i);
                           });
      part.call.crew.share(part.last_unit - part.first_unit, block_seconds,
                           [&](int64_t i, int member) noexcept {
                             const int64_t unit = part.first_unit + i;
                             multiply(part, workers[static_cast<size_t>(member)], segments, unit,
                                      unit_weights(part, unit), {0, depth_});
                           });
    }
  }

  // Each unit is packed when its turn comes, by the thread that multiplies it with the windows of all blocks:
  // its weights are never far from the core.
  void run_units(const Part& part, T* shared, std::vector<Worker>& workers) const {
    const double seconds = all_seconds() / static_cast<double>(maps_.groups);
    const size_t apart = aligned(transformed_bytes()) / sizeof(T);
    part.call.crew.share(blocks_ * depth_blocks(), seconds / 10, [&](int64_t i, int member) noexcept {
      const int64_t block = i / depth_blocks();
      Worker w = workers[static_cast<size_t>(member)];
      w.transformed = shared + static_cast<size_t>(block) * apart;
      const int64_t segments = list_segments(block, w.segments);
      for (int64_t s = 0; s < segments; ++s)
        transform(part, w, segments, s * depth_blocks() + i % depth_blocks());
    });
    part.call.crew.share(units_, seconds, [&](int64_t i, int member) noexcept {
      Worker w = workers[static_cast<size_t>(member)];
      T* const sums = w.products;
      const int64_t unit = part.group * units_ + i;
      if (by_chunk_) {
        run_chunks(part, shared, w, i, member);
        return;
      }
      if (maps_.padded_depth() > maps_.depth) std::memset(w.packed, 0, unit_bytes());
      for (int64_t begin = 0; begin < maps_.depth; begin += slice_maps_) {
        const int64_t end = std::min(begin + slice_maps_, maps_.depth);
        const bool whole = slices() == 1;
        const Depth depth{begin * views_, whole ? depth_ : end * views_};
        if (!pack_blocks(part.call.weight, w.packed, unit, 0, unit_blocks_, begin, end, depth))
          part.finite.store(false, std::memory_order_relaxed);
        Fetch ahead =
            end < maps_.depth
                ? plain_weights(part.call.weight, unit, end, std::min(end + slice_maps_, maps_.depth))
            : i + threads_ < units_
                ? plain_weights(part.call.weight, unit + threads_, 0, std::min(slice_maps_, maps_.depth))
                : Fetch{};
        for (int64_t block = 0; block < blocks_; ++block) {
          if (part.call.crew.stopped(member)) return;
          w.transformed = shared + static_cast<size_t>(block) * apart;
          if (!whole) w.products = sums + block * unit_chunks_ * product_elements();
          ahead = multiply(part, w, list_segments(block, w.segments), i, w.packed, depth, ahead);
        }
      }
    });
  }

  // The same, with the sums of one chunk at a time, those of one phase: its taps are taken from rows of lanes
  // that were made for all phases.
  void run_chunks(const Part& part, T* shared, Worker w, int64_t index, int member) const noexcept {
    const int64_t unit = part.group * units_ + index;
    const size_t apart = aligned(transformed_bytes()) / sizeof(T);
    T* const sums = w.products;
    T* const outputs = w.outputs;
    const auto enter = [&](int64_t block) {
      w.transformed = shared + static_cast<size_t>(block) * apart;
      w.products = sums + (slices() > 1 ? block * product_elements() : 0);
      w.outputs = outputs + block * output_elements();
      return list_segments(block, w.segments);
    };
    for (int64_t block = 0; block < unit_blocks_; ++block) {
      if (part.call.crew.stopped(member)) return;
      if (!turn(part.call.weight, unit, block, w.turned + block * turned_elements()))
        part.finite.store(false, std::memory_order_relaxed);
    }
    if (maps_.padded_depth() > maps_.depth) std::memset(w.packed, 0, slice_bytes());
    for (int64_t phase = 0; phase < phases_; ++phase) {
      const Form& form = form_of(phase);
      WinogradInArgs args{};
      args.tile_stride = chunk_lanes_;
      for (int a = 0; a < kAxes; ++a) args.tile[a] = form.tile[a];
      for (int64_t begin = 0; begin < maps_.depth; begin += slice_maps_) {
        const int64_t end = std::min(begin + slice_maps_, maps_.depth);
        const Depth depth{begin * views_, slices() == 1 ? depth_ : end * views_};
        args.point_stride = point_weights(depth.count());
        Fetch fetch[kAhead + 1] = {};
        if (form.points > 0) {
          for (int64_t block = 0; block < unit_blocks_; ++block) {
            PlainTaps from = turned_taps(w.turned + block * turned_elements(), phase);
            from.rows += begin * from.map;
            transform_phase(from, phase, begin, end, depth, w.packed + block * maps_.lanes, args);
          }
          fetch[kAhead] = end < maps_.depth ? turned_slice(w, phase, end) : turned_slice(w, phase + 1, 0);
        }
        for (int64_t block = 0; block < blocks_; ++block) {
          if (part.call.crew.stopped(member)) return;
          const int64_t segments = enter(block);
          multiply_chunk(w, tiles_in(w.segments, segments), phase, w.packed, depth, fetch, kAhead + 1);
          if (depth.end == depth_) finish_chunk(part, w, segments, index, phase);
        }
      }
    }
    for (int64_t block = 0; block < blocks_; ++block) store_unit(part, w, enter(block), index);
  }

  std::array<int64_t, kAxes> along_axes(int64_t phase) const noexcept {
    return {phase / x().phases / y().phases, phase / x().phases % y().phases, phase % x().phases};
  }

  int64_t taps_of_phase(int64_t phase) const noexcept {
    const auto of = along_axes(phase);
    int64_t count = 1;
    for (size_t a = 0; a < kAxes; ++a) count *= tiling_.axes[a].phase_taps[static_cast<size_t>(of[a])];
    return count;
  }

  // The taps of a phase among the rows that turn() makes of one vector of columns: [phase][map][tap][lane].
  PlainTaps turned_taps(const T* turned, int64_t phase) const noexcept {
    for (int64_t before = 0; before < phase; ++before) {
      turned += taps_of_phase(before) * maps_.depth * maps_.lanes;
    }
    PlainTaps from{turned, maps_.lanes, {}, {}};
    const auto of = along_axes(phase);
    for (size_t a = kAxes; a-- > 0;) {
      from.step[a] = from.map;
      from.every[a] = tiling_.axes[a].tap_step;
      from.map *= tiling_.axes[a].phase_taps[static_cast<size_t>(of[a])];
    }
    return from;
  }

  // The rows of a phase from the map `begin` that make a slice.
  Fetch turned_slice(const Worker& w, int64_t phase, int64_t begin) const noexcept {
    if (phase == phases_) return {};
    const PlainTaps from = turned_taps(w.turned, phase);
    const int64_t maps = std::min(slice_maps_, maps_.depth - begin);
    const auto bytes = static_cast<int64_t>(sizeof(T));
    return {reinterpret_cast<const char*>(from.rows + begin * from.map),
            maps * from.map * bytes,
            {turned_elements() * bytes, 0},
            unit_blocks_,
            1,
            0,
            0};
  }

  const T* unit_weights(const Part& part, int64_t unit) const noexcept {
    return part.weights + (part.group * units_ + unit) * unit_elements_;
  }

  int64_t list_segments(int64_t block, Segment* segments) const noexcept {
    const int64_t first = rows_ * row_segments_ * block / blocks_;
    const int64_t count = rows_ * row_segments_ * (block + 1) / blocks_ - first;
    int64_t place = 0;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t index = (first + i) / row_segments_;
      Segment& s = segments[i];
      s.x = (first + i) % row_segments_ * segment_tiles_;
      s.tiles = std::min(segment_tiles_, x().tiles() - s.x);
      s.y = index % y().tiles();
      s.z = index / y().tiles() % tiling_.axes[0].tiles();
      s.sample = index / y().tiles() / tiling_.axes[0].tiles();
      s.place = place;
      place += s.tiles;
    }
    return count;
  }

  static int64_t tiles_in(const Segment* segments, int64_t count) noexcept {
    return segments[count - 1].place + segments[count - 1].tiles;
  }

  int64_t depth_blocks() const noexcept { return ceil_div(maps_.depth, maps_.lanes); }

  // Where the windows of a segment begin in the source, for one vector of maps.
  int64_t windows_at(const Segment& s, int64_t depth_block) const noexcept {
    const TiledAxis& z = tiling_.axes[0];
    return s.sample * src_.sample + depth_block * maps_.lanes * src_.map +
           s.z * z.outputs() * z.src_step * src_.axis[0] + s.y * y().outputs() * y().src_step * src_.axis[1] +
           s.x * x().outputs() * x().src_step * src_.axis[2];
  }

  // Elements from the windows of `index` to those that are transformed next.
  int64_t to_next_windows(const Worker& w, int64_t segments, int64_t index) const noexcept {
    const int64_t next = index + 1;
    if (next >= segments * depth_blocks()) return 0;
    return windows_at(w.segments[next / depth_blocks()], next % depth_blocks()) -
           windows_at(w.segments[index / depth_blocks()], index % depth_blocks());
  }

  // Whether phases of a class read the windows at some origins.
  bool reads(const Form& form, const std::array<int64_t, kAxes>& origins) const noexcept {
    for (size_t a = 0; a < kAxes; ++a) {
      if (tiling_.axes[a].adds_phases() && form.origin[a] != origins[a]) return false;
    }
    return true;
  }

  // Transforms the windows of one segment for one vector of maps.
  void transform(const Part& part, Worker& w, int64_t segments, int64_t index) const noexcept {
    const Segment& s = w.segments[index / depth_blocks()];
    const int64_t tiles = tiles_in(w.segments, segments);
    // The last vector starts early rather than be filled up.
    const int64_t map =
        std::min(index % depth_blocks() * maps_.lanes, std::max<int64_t>(0, maps_.depth - maps_.lanes));
    const int64_t width = strip_width();
    const TiledAxis& z = tiling_.axes[0];
    const auto element = static_cast<int64_t>(storage_bytes(problem_.dtype));
    bool finite = true;
    const int64_t ahead = to_next_windows(w, segments, index) * element;
    StripArgs strip{};
    strip.finite = &finite;
    strip.map_stride = src_.map;
    strip.position_stride = src_.axis[2];
    strip.maps = std::min(maps_.lanes, maps_.depth - map);
    strip.first = s.x * x().outputs() * x().src_step + low_origin_;
    strip.count = ((s.tiles - 1) * x().outputs() + x().window - 1) * x().src_step + origin_range_ + 1;
    strip.size = x().src_size;
    WinogradInArgs in{};
    in.tile_step = x().outputs() * x().src_step * maps_.lanes;
    in.step[0] = y().window * width * maps_.lanes;
    in.step[1] = width * maps_.lanes;
    in.step[2] = x().src_step * maps_.lanes;
    in.tile_stride = row_;
    in.tiles = s.tiles;
    if (line_) {
      const int64_t offset = s.sample * src_.sample + (part.group * maps_.depth + map) * src_.map;
      strip.src = static_cast<const char*>(part.call.source) + offset * element;
      if (ahead != 0) fetch_strip(static_cast<const char*>(strip.src) + ahead, strip, element);
      read_(WinogradReadArgs{strip.src, w.transformed + s.place * row_ + map, &finite, strip.map_stride,
                             strip.position_stride, strip.maps, strip.first, strip.size, tiles * row_, row_,
                             s.tiles, x().tile});
      if (!finite) part.finite.store(false, std::memory_order_relaxed);
      return;
    }
    for (int64_t vz = 0; vz < z.origins(); ++vz) {
      for (int64_t vy = 0; vy < y().origins(); ++vy) {
        for (int64_t i = 0; i < z.window * y().window; ++i) {
          const int64_t at_z = (s.z * z.outputs() + i / y().window) * z.src_step + z.origin_at(vz);
          const int64_t at_y = (s.y * y().outputs() + i % y().window) * y().src_step + y().origin_at(vy);
          T* row = w.strip + i * width * maps_.lanes;
          if (at_z < 0 || at_z >= z.src_size || at_y < 0 || at_y >= y().src_size) {
            std::fill_n(row, strip.count * maps_.lanes, T{0});
            continue;
          }
          const int64_t offset = s.sample * src_.sample + (part.group * maps_.depth + map) * src_.map +
                                 at_z * src_.axis[0] + at_y * src_.axis[1];
          strip.src = static_cast<const char*>(part.call.source) + offset * element;
          strip.dst = row;
          if (ahead != 0) fetch_strip(static_cast<const char*>(strip.src) + ahead, strip, element);
          strip_(strip);
        }
        for (int64_t vx = 0; vx < x().origins(); ++vx) {
          const int64_t view = (z.view_at(vz) * y().views + y().view_at(vy)) * x().views + x().view_at(vx);
          const T* const window = w.strip + (x().origin_at(vx) - low_origin_) * maps_.lanes;
          for (const Form& form : forms_) {
            if (form.points == 0 || !reads(form, {vz, vy, vx})) continue;
            T* const to = w.transformed + (form.start * tiles + s.place) * row_ + depth_at(map, view);
            in.point_stride = form.all_copies() * tiles * row_;
            for (int a = 0; a < kAxes; ++a) in.tile[a] = form.tile[a];
            for (int64_t i = 0; i < form.all_copies(); ++i) {
              in.src = window;
              for (int a = 0; a < kAxes; ++a) {
                in.src = static_cast<const T*>(in.src) + (form.offset[a] + form.output(i, a)) * in.step[a];
              }
              in.dst = to + i * tiles * row_;
              in_(in);
            }
          }
        }
      }
    }
    if (!finite) part.finite.store(false, std::memory_order_relaxed);
  }

  // Makes the columns of one unit for all tiles of a block, or adds a part of the depth to their sums:
  // `weights` are those of this part. Fetches `ahead` on the way; returns what is left of it.
  Fetch multiply(const Part& part, Worker w, int64_t segments, int64_t unit, const T* weights,
                 const Depth& depth, const Fetch& ahead = {}, int64_t next_block = -1) const noexcept {
    const int64_t tiles = tiles_in(w.segments, segments);
    const int64_t point = point_weights(depth.count());
    w.fetches[kAhead] = ahead;
    const T* const products = w.products;
    const bool whole = depth.end == depth_;
    int64_t lines = whole ? list_outputs(part, w, segments, unit, w.fetches + kAhead + 1) : 0;
    if (next_block >= 0 && fetches_windows())
      lines += list_sources(part, w, next_block, w.fetches + kAhead + 1 + lines);
    for (int64_t chunk = 0; chunk < unit_chunks_; ++chunk) {
      multiply_chunk(w, tiles, chunk, weights + chunk_start_[static_cast<size_t>(chunk)] * point, depth,
                     w.fetches, kAhead + 1 + lines);
      if (whole && !line_) finish_chunk(part, w, segments, unit, chunk);
      if (depth.begin > 0 || !whole || line_) w.products += product_elements();
    }
    if (whole && line_) {
      write_unit(part, w, segments, unit, products);
    } else if (whole) {
      store_unit(part, w, segments, unit);
    }
    return w.fetches[kAhead];
  }

  // What is on the image of the rows of outputs of a segment: the first position, its place on the image, and
  // how many there are.
  struct Run {
    int64_t begin;
    int64_t at;
    int64_t count;
  };

  Run run_of(const Segment& s) const noexcept {
    const int64_t start = s.x * x().outputs() * x().spread + x().first;
    const int64_t begin = std::max<int64_t>(0, -start);
    const int64_t width = s.tiles * x().outputs() * x().spread;
    return {begin, start + begin, std::min(width, x().dst_size - start) - begin};
  }

  // Lists the lines of memory that the windows of a block are made of.
  int64_t list_sources(const Part& part, const Worker& w, int64_t block, Fetch* fetch) const noexcept {
    const auto element = static_cast<int64_t>(storage_bytes(problem_.dtype));
    int64_t count = 0;
    const int64_t segments = list_segments(block, w.next);
    for (int64_t i = 0; i < segments; ++i) {
      const Segment& s = w.next[i];
      const int64_t first = s.x * x().outputs() * x().src_step + low_origin_;
      const int64_t begin = std::max<int64_t>(0, first);
      const int64_t positions = std::min(x().src_size, first + strip_width()) - begin;
      if (positions <= 0) continue;
      const int64_t offset =
          s.sample * src_.sample + part.group * maps_.depth * src_.map + begin * src_.axis[2];
      fetch[count++] = lines_of(static_cast<const char*>(part.call.source) + offset * element, positions,
                                maps_.depth, src_);
    }
    return count;
  }

  // The lines of some positions of a row, of some maps.
  [[gnu::always_inline]] Fetch lines_of(const char* at, int64_t positions, int64_t maps,
                                        const Strides& strides) const noexcept {
    const auto element = static_cast<int64_t>(storage_bytes(problem_.dtype));
    const auto before = static_cast<int64_t>(reinterpret_cast<uintptr_t>(at) % kAlignment);
    const bool maps_last = strides.map == 1;
    const int64_t step = (maps_last ? strides.axis[2] : strides.map) * element;
    int64_t bytes = (maps_last ? maps : positions) * element;
    int64_t runs = maps_last ? positions : maps;
    if (bytes == step) bytes *= std::exchange(runs, 1);
    return {at - before, bytes + before, {step, 0}, runs, 1, 0, 0};
  }

  // Rows of outputs of a tile.
  int64_t output_rows() const noexcept {
    const TiledAxis& z = tiling_.axes[0];
    return z.outputs() * z.spread * y().outputs() * y().spread;
  }

  // Where such a row starts in a map of the output, -1 if it is off the image.
  int64_t row_at(const Segment& s, int64_t row) const noexcept {
    const TiledAxis& z = tiling_.axes[0];
    const int64_t y_rows = y().outputs() * y().spread;
    const int64_t at_z = s.z * z.outputs() * z.spread + z.first + row / y_rows;
    const int64_t at_y = s.y * y_rows + y().first + row % y_rows;
    if (at_z < 0 || at_z >= z.dst_size || at_y < 0 || at_y >= y().dst_size) return -1;
    return s.sample * dst_.sample + at_z * dst_.axis[0] + at_y * dst_.axis[1];
  }

  // Lists the lines of memory that the outputs of a unit go to.
  int64_t list_outputs(const Part& part, const Worker& w, int64_t segments, int64_t unit,
                       Fetch* fetch) const noexcept {
    const auto element = static_cast<int64_t>(storage_bytes(problem_.dtype));
    const int64_t map = unit * unit_blocks_ * maps_.lanes;
    const int64_t maps = std::min(unit_blocks_ * maps_.lanes, maps_.columns - map);
    int64_t count = 0;
    for (int64_t i = 0; i < segments; ++i) {
      const Segment& s = w.segments[i];
      const Run run = run_of(s);
      for (int64_t r = 0; run.count > 0 && r < output_rows(); ++r) {
        const int64_t row = row_at(s, r);
        if (row < 0) continue;
        const int64_t offset = row + (part.group * maps_.columns + map) * dst_.map + run.at * dst_.axis[2];
        fetch[count++] =
            lines_of(static_cast<const char*>(part.call.out) + offset * element, run.count, maps, dst_);
      }
    }
    return count;
  }

  // Makes the products of one chunk, or adds to them.
  void multiply_chunk(const Worker& w, int64_t tiles, int64_t chunk, const T* weights, const Depth& depth,
                      Fetch* fetch, int64_t fetches) const noexcept {
    const int64_t point = point_weights(depth.count());
    const auto bytes = static_cast<int64_t>(sizeof(T));
    RowGemmArgs gemm{};
    gemm.fetch = fetch + (by_unit_ ? 1 : 0);
    gemm.fetches = fetches - (by_unit_ ? 1 : 0);
    gemm.a_row = row_;
    gemm.c_row = chunk_lanes_;
    gemm.depth = depth.count();
    gemm.accumulate = depth.begin > 0;
    const Form& form = form_of(chunk);
    gemm.rows = form.all_copies() * tiles;
    for (int64_t p = 0; p < form.points; ++p) {
      gemm.a = w.transformed + (form.start * tiles + p * gemm.rows) * row_ + depth.begin;
      gemm.b = weights + p * point;
      gemm.c = w.products + p * gemm.rows * chunk_lanes_;
      if (!by_unit_) {
        const auto* at = static_cast<const char*>(gemm.b) + point * bytes;
        fetch[0] = {at, depth.count() * chunk_lanes_ * bytes, {}, 1, 1, 0, 0};
      }
      fetch[1] = {};
      if (p + 1 < form.points && windows_are_far()) {
        const auto* at = static_cast<const char*>(gemm.a) + gemm.rows * row_ * bytes;
        fetch[1] = {at, depth.count() * bytes, {row_ * bytes, 0}, gemm.rows, 1, 0, 0};
      }
      gemm_(gemm);
    }
  }

  // Makes outputs of the products of a chunk.
  void finish_chunk(const Part& part, const Worker& w, int64_t segments, int64_t unit,
                    int64_t chunk) const noexcept {
    for (int64_t v = 0; v < maps_.vectors; ++v) {
      const auto [block, phase] = content(chunk * maps_.vectors + v);
      if (unit * unit_blocks_ + block < maps_.column_blocks()) {
        to_outputs(part, w, segments, unit, v, block, phase, form_of(chunk));
      }
    }
  }

  // Vectors of a unit: the phases of a block of columns are neighbours, or where phases read apart the blocks
  // of a phase.
  int64_t place(int64_t block, int64_t phase) const noexcept {
    return classes_ > 1 ? phase * unit_blocks_ + block : block * phases_ + phase;
  }
  // The block and phase at a place.
  std::pair<int64_t, int64_t> content(int64_t place) const noexcept {
    if (classes_ > 1) return {place % unit_blocks_, place / unit_blocks_};
    return {place / phases_, place % phases_};
  }
  // What the phases of a chunk have in common.
  const Form& form_of(int64_t chunk) const noexcept {
    if (classes_ == 1) return forms_[0];
    const TiledAxis& z = tiling_.axes[0];
    const auto of = [](const TiledAxis& axis, int64_t phase) {
      return axis.class_of[static_cast<size_t>(phase)];
    };
    const int64_t plane =
        of(z, chunk / x().phases / y().phases) * y().classes + of(y(), chunk / x().phases % y().phases);
    return forms_[static_cast<size_t>(plane * x().classes + of(x(), chunk % x().phases))];
  }

  // Where outputs of a segment start: [block of maps][segment][z][y][x][map].
  T* outputs_of(const Worker& w, int64_t tiles, int64_t block, const Segment& s) const noexcept {
    return w.outputs +
           (block * tiles + s.place) * tiling_.counts.outputs * tiling_.counts.spread * maps_.lanes;
  }

  void to_outputs(const Part& part, const Worker& w, int64_t segments, int64_t unit, int64_t vector,
                  int64_t block, int64_t phase, const Form& form) const noexcept {
    if (phase >= tiling_.counts.spread) {
      WinogradSumArgs sum{};
      sum.accumulate = true;
      return to_outputs(w, segments, vector, block, phase, form, sum_, sum);
    }
    WinogradOutArgs out{};
    out.bias = part.bias + ((part.group * units_ + unit) * unit_blocks_ + block) * maps_.lanes;
    to_outputs(w, segments, vector, block, phase, form, out_, out);
  }

  template <class Args>
  void to_outputs(const Worker& w, int64_t segments, int64_t vector, int64_t block, int64_t phase,
                  const Form& form, const Kernel& kernel, Args& args) const noexcept {
    // The sum over no taps.
    alignas(kAlignment) constexpr static T kNothing[kMostLanes] = {};
    const int64_t tiles = tiles_in(w.segments, segments);
    const TiledAxis& z = tiling_.axes[0];
    const int64_t px = phase % x().phases % x().spread;
    const int64_t py = phase / x().phases % y().phases % y().spread;
    const int64_t pz = phase / x().phases / y().phases % z.spread;
    args.point_stride = form.all_copies() * tiles * chunk_lanes_;
    args.tile_stride = form.points == 0 ? 0 : chunk_lanes_;
    args.tile_step = x().outputs() * x().spread * maps_.lanes;
    args.step[2] = x().spread * maps_.lanes;
    for (int a = 0; a < kAxes; ++a) args.tile[a] = form.tile[a];
    for (int64_t i = 0; i < segments; ++i) {
      const Segment& s = w.segments[i];
      const int64_t row = s.tiles * x().outputs() * x().spread * maps_.lanes;
      const int64_t plane = y().outputs() * y().spread * row;
      T* const to = outputs_of(w, tiles, block, s) + pz * plane + py * row + px * maps_.lanes;
      args.step[1] = y().spread * row;
      args.step[0] = z.spread * plane;
      args.tiles = s.tiles;
      for (int64_t copy = 0; copy < form.all_copies(); ++copy) {
        args.src = form.points == 0
                       ? kNothing
                       : w.products + (copy * tiles + s.place) * chunk_lanes_ + vector * maps_.lanes;
        args.dst = to + form.output(copy, 0) * args.step[0] + form.output(copy, 1) * args.step[1] +
                   form.output(copy, 2) * args.step[2];
        kernel(args);
      }
    }
  }

  void store_unit(const Part& part, const Worker& w, int64_t segments, int64_t unit) const noexcept {
    for (int64_t block = 0; block < unit_blocks_; ++block) {
      if (unit * unit_blocks_ + block < maps_.column_blocks()) store(part, w, segments, unit, block);
    }
  }

  void store(const Part& part, const Worker& w, int64_t segments, int64_t unit,
             int64_t block) const noexcept {
    const int64_t tiles = tiles_in(w.segments, segments);
    const auto element = static_cast<int64_t>(storage_bytes(problem_.dtype));
    const int64_t map = (unit * unit_blocks_ + block) * maps_.lanes;
    UnstripArgs args{};
    args.map_stride = dst_.map;
    args.position_stride = dst_.axis[2];
    args.maps = std::min(maps_.lanes, maps_.columns - map);
    for (int64_t i = 0; i < segments; ++i) {
      const Segment& s = w.segments[i];
      T* const outputs = outputs_of(w, tiles, block, s);
      const int64_t width = s.tiles * x().outputs() * x().spread;
      activate_(outputs, output_rows() * width * maps_.lanes);
      const Run run = run_of(s);
      args.count = run.count;
      if (args.count <= 0) continue;
      for (int64_t r = 0; r < output_rows(); ++r) {
        const int64_t row = row_at(s, r);
        if (row < 0) continue;
        const int64_t offset = row + (part.group * maps_.columns + map) * dst_.map + run.at * dst_.axis[2];
        args.src = outputs + (r * width + run.begin) * maps_.lanes;
        args.dst = static_cast<char*>(part.call.out) + offset * element;
        unstrip_(args);
      }
    }
  }

  // The same where there is one axis, from the products of all chunks.
  void write_unit(const Part& part, const Worker& w, int64_t segments, int64_t unit,
                  const T* products) const noexcept {
    const int64_t tiles = tiles_in(w.segments, segments);
    const auto element = static_cast<int64_t>(storage_bytes(problem_.dtype));
    std::array<int64_t, kMostStride> phase_at;
    WinogradWriteArgs args{};
    args.activation = activate_.get();
    args.phase_at = phase_at.data();
    args.phases = phases_;
    args.map_stride = dst_.map;
    args.position_stride = dst_.axis[2];
    args.size = x().dst_size;
    args.point_stride = tiles * chunk_lanes_;
    args.tile_stride = chunk_lanes_;
    args.tile = x().tile;
    for (int64_t block = 0; block < unit_blocks_; ++block) {
      const int64_t map = (unit * unit_blocks_ + block) * maps_.lanes;
      if (map >= maps_.columns) return;
      for (int64_t phase = 0; phase < phases_; ++phase) {
        const int64_t at = place(block, phase);
        phase_at[static_cast<size_t>(phase)] =
            at / maps_.vectors * product_elements() + at % maps_.vectors * maps_.lanes;
      }
      args.maps = std::min(maps_.lanes, maps_.columns - map);
      args.bias = part.bias + part.group * units_ * unit_blocks_ * maps_.lanes + map;
      for (int64_t i = 0; i < segments; ++i) {
        const Segment& s = w.segments[i];
        args.src = products + s.place * chunk_lanes_;
        args.dst = static_cast<char*>(part.call.out) +
                   (s.sample * dst_.sample + (part.group * maps_.columns + map) * dst_.map) * element;
        args.first = s.x * x().outputs() * x().phases + x().first;
        args.tiles = s.tiles;
        write_(args);
      }
    }
  }

  // From one element of plain weights to the next.
  struct PlainStrides {
    int64_t column;
    int64_t depth;
    int64_t tap;
  };

  PlainStrides plain_strides() const noexcept {
    const Geometry& g = problem_.geometry;
    const int64_t filters = g.filters / g.groups;
    const int64_t filter = g.channels_last ? 1 : g.taps();
    const int64_t channel = filters * g.taps();
    const int64_t tap = g.channels_last ? filters : 1;
    return problem_.pass == Pass::forward ? PlainStrides{filter, channel, tap}
                                          : PlainStrides{channel, filter, tap};
  }

  // Where the plain weights of a unit's group start.
  int64_t plain_start(int64_t unit) const noexcept {
    return unit / units_ * problem_.geometry.weight_elements() / maps_.groups;
  }

  // The plain weights of a unit for the read maps from `begin` to before `end`.
  Fetch plain_weights(const void* weight, int64_t unit, int64_t begin, int64_t end) const noexcept {
    const auto element = static_cast<int64_t>(storage_bytes(problem_.dtype));
    const PlainStrides stride = plain_strides();
    const int64_t column = unit % units_ * unit_blocks_ * maps_.lanes;
    // Along the three axes of weights, those that lie closest first.
    std::array<std::pair<int64_t, int64_t>, 3> along{
        {{stride.tap, problem_.geometry.taps()},
         {stride.column, std::min(unit_blocks_ * maps_.lanes, maps_.columns - column)},
         {stride.depth, end - begin}}};
    std::sort(along.begin(), along.end());
    auto [run, next, last] = along;
    if (next.first == run.second) {
      run.second *= next.second;
      next = std::exchange(last, {0, 1});
    }
    const int64_t start = plain_start(unit) + column * stride.column + begin * stride.depth;
    return {static_cast<const char*>(weight) + start * element,
            run.second * element,
            {next.first * element, last.first * element},
            next.second,
            last.second,
            0,
            0};
  }

  // Packs some vectors of columns of a unit for the read maps from `begin` to before `end`, where `packed`
  // holds the part `depth`.
  bool pack_blocks(const void* weight, T* packed, int64_t unit, int64_t first, int64_t last, int64_t begin,
                   int64_t end, const Depth& depth) const noexcept {
    bool finite = true;
    if (packs_columns_) {
      const int64_t whole =
          std::clamp(maps_.columns / maps_.lanes - unit % units_ * unit_blocks_, first, last);
      while (first < whole) {
        const int64_t some = std::min(first + kMostPackedVectors, whole);
        finite &= pack_columns(weight, packed, unit, first, some, begin, end, depth);
        first = some;
      }
    }
    for (; first < last; ++first) finite &= pack_block(weight, packed, unit, first, begin, end, depth);
    return finite;
  }

  // The same by the kernel for columns that lie together.
  bool pack_columns(const void* weight, T* packed, int64_t unit, int64_t first, int64_t last, int64_t begin,
                    int64_t end, const Depth& depth) const noexcept {
    const auto [column_stride, depth_stride, tap_stride] = plain_strides();
    const auto element = static_cast<int64_t>(storage_bytes(problem_.dtype));
    const int64_t start = plain_start(unit) + (unit % units_ * unit_blocks_ + first) * maps_.lanes;
    bool finite = true;
    std::array<int64_t, kMostPackedVectors> vector_at;
    WinogradColumnsArgs args{};
    args.finite = &finite;
    args.vector_at = vector_at.data();
    args.vectors = last - first;
    args.map_stride = depth_stride;
    args.point_stride = point_weights(depth.count());
    args.map_step = chunk_lanes_;
    args.fetched =
        std::max<int64_t>(1, kFetchedBytes / (args.vectors * maps_.lanes * x().tile_taps() * element));
    args.tile = x().tile;
    for (int64_t phase = 0; phase < phases_; ++phase) {
      for (int64_t block = first; block < last; ++block) {
        const int64_t at = place(block, phase);
        vector_at[static_cast<size_t>(block - first)] =
            chunk_start_[static_cast<size_t>(at / maps_.vectors)] * args.point_stride +
            at % maps_.vectors * maps_.lanes;
      }
      for (int64_t view = 0; view < views_; ++view) {
        const int64_t* const k = x().taps_of(phase, view);
        args.tap_stride = (k[1] - k[0]) * tap_stride;
        for (int64_t d = begin; d < end; d += args.maps) {
          args.maps = std::min(end - d, depth_block_ - d % depth_block_);
          args.src =
              static_cast<const char*>(weight) + (start + d * depth_stride + k[0] * tap_stride) * element;
          args.dst = packed + (depth_at(d, view) - depth.begin) * chunk_lanes_;
          columns_(args);
        }
      }
    }
    return finite;
  }

  // Packs one vector of columns of a unit for the read maps from `begin` to before `end`, where `packed`
  // holds the part `depth`.
  bool pack_block(const void* weight, T* packed, int64_t unit, int64_t block, int64_t begin, int64_t end,
                  const Depth& depth) const noexcept {
    const int64_t column = (unit % units_ * unit_blocks_ + block) * maps_.lanes;
    if (pack_args_ && column + maps_.lanes <= maps_.columns)
      return pack_whole(weight, packed, unit, block, begin, end, depth);
    return pack_taps(weight, packed, unit, block, begin, end, depth);
  }

  // The same by the kernel that knows the layer.
  bool pack_whole(const void* weight, T* packed, int64_t unit, int64_t block, int64_t begin, int64_t end,
                  const Depth& depth) const noexcept {
    const auto [column_stride, depth_stride, tap_stride] = plain_strides();
    const int64_t column = (unit % units_ * unit_blocks_ + block) * maps_.lanes;
    const auto element = static_cast<int64_t>(storage_bytes(problem_.dtype));
    bool finite = true;
    int64_t phase_at[kMostWinogradPackPhases];
    WinogradPackArgs args = *pack_args_;
    args.src = static_cast<const char*>(weight) +
               (plain_start(unit) + column * column_stride + begin * depth_stride) * element;
    args.dst = packed + (depth_at(begin, 0) - depth.begin) * chunk_lanes_;
    args.finite = &finite;
    args.phase_at = phase_at;
    args.map_stride = depth_stride;
    args.map_step = chunk_lanes_;
    args.point_stride = point_weights(depth.count());
    args.maps = end - begin;
    args.fetched = std::max<int64_t>(1, kFetchedBytes / (column_stride * maps_.lanes * element));
    for (int64_t phase = 0; phase < phases_; ++phase) {
      // The first tap of the phase.
      const int64_t tap_y = (phase / x().phases + y().late) % y().phases;
      const int64_t tap_x = (phase % x().phases + x().late) % x().phases;
      const int64_t at = place(block, phase);
      phase_at[tap_y * x().phases + tap_x] =
          chunk_start_[static_cast<size_t>(at / maps_.vectors)] * args.point_stride +
          at % maps_.vectors * maps_.lanes;
    }
    pack_(args);
    return finite;
  }

  // The same by way of a copy of the taps.
  bool pack_taps(const void* weight, T* packed, int64_t unit, int64_t block, int64_t begin, int64_t end,
                 const Depth& depth) const noexcept {
    const auto& axes = problem_.geometry.axes;
    const int64_t taps = problem_.geometry.taps();
    const auto [column_stride, depth_stride, tap_stride] = plain_strides();
    const auto element = static_cast<int64_t>(storage_bytes(problem_.dtype));
    bool finite = true;
    alignas(kAlignment) T plain[kMostTaps * kMostLanes];
    StripArgs strip = plain_strip(weight, unit, block, finite);
    const char* const first = static_cast<const char*>(strip.src);
    WinogradInArgs args{};
    args.point_stride = point_weights(depth.count());
    args.tile_stride = chunk_lanes_;
    // Maps that lie together are read together, a tap at a time; else the taps of a map at a time.
    const bool neighbours = depth_stride == 1 && column_stride > 1;
    const int64_t most = neighbours ? std::clamp<int64_t>(kMostTaps / taps, 1, kPackedMaps)
                                    : std::max<int64_t>(1, kPackedRows / taps);
    // Rows of neighbours that a map's weights are.
    const int64_t fetched_rows = column_stride == 1 ? taps : column_stride == taps * tap_stride ? 1 : 0;
    const int64_t fetched = (column_stride == 1 ? strip.maps : strip.maps * taps) * element;
    const int64_t ahead = std::max<int64_t>(1, kFetchedBytes / std::max<int64_t>(1, fetched * fetched_rows));
    for (int64_t d = begin; d < end; d += most) {
      const int64_t maps = std::min(most, end - d);
      const int64_t tap_rows = (neighbours ? maps : 1) * maps_.lanes;
      const int64_t map_rows = (neighbours ? 1 : taps) * maps_.lanes;
      if (neighbours) {
        strip.position_stride = 1;
        strip.count = strip.size = maps;
        for (int64_t tap = 0; tap < taps; ++tap) {
          strip.src = first + (d + tap * tap_stride) * element;
          strip.dst = plain + tap * tap_rows;
          strip_(strip);
        }
      } else {
        for (int64_t i = 0; i < maps; ++i) {
          strip.src = first + (d + i) * depth_stride * element;
          strip.dst = plain + i * map_rows;
          if (d + i + ahead < maps_.depth) {
            const char* next = static_cast<const char*>(strip.src) + ahead * depth_stride * element;
            for (int64_t row = 0; row < fetched_rows; ++row, next += tap_stride * element) {
              for (int64_t at = 0; at < fetched; at += kAlignment) __builtin_prefetch(next + at);
            }
          }
          strip_(strip);
        }
      }
      for (int64_t phase = 0; phase < phases_; ++phase) {
        const int64_t at = place(block, phase);
        const int64_t chunk = at / maps_.vectors;
        const Form& form = form_of(chunk);
        if (form.points == 0) continue;
        for (int a = 0; a < kAxes; ++a) args.tile[a] = form.tile[a];
        T* const to = packed + chunk_start_[static_cast<size_t>(chunk)] * args.point_stride +
                      at % maps_.vectors * maps_.lanes;
        transform_phase({plain,
                         map_rows,
                         {axes[1].kernel * axes[2].kernel * tap_rows, axes[2].kernel * tap_rows, tap_rows},
                         {1, 1, 1}},
                        phase, d, d + maps, depth, to, args);
      }
    }
    return finite;
  }

  // Turns the plain weights of one vector of columns of a unit into rows of lanes.
  bool turn(const void* weight, int64_t unit, int64_t block, T* turned) const noexcept {
    const auto& axes = problem_.geometry.axes;
    const int64_t taps = problem_.geometry.taps();
    // Where each tap of the first map goes, and how far it is to that of the next.
    std::array<std::pair<T*, int64_t>, kMostTaps> place;
    for (int64_t tap = 0; tap < taps; ++tap) {
      const std::array<int64_t, kAxes> k{tap / axes[2].kernel / axes[1].kernel,
                                         tap / axes[2].kernel % axes[1].kernel, tap % axes[2].kernel};
      int64_t phase = 0;
      for (size_t a = 0; a < kAxes; ++a) {
        phase = phase * tiling_.axes[a].phases + tiling_.axes[a].phase_of[static_cast<size_t>(k[a])];
      }
      const PlainTaps to = turned_taps(turned, phase);
      place[static_cast<size_t>(tap)] = {
          turned + (to.rows - turned) + to.at(0, k[0]) + to.at(1, k[1]) + to.at(2, k[2]), to.map};
    }
    bool finite = true;
    alignas(kAlignment) T plain[kMostTaps * kMostLanes];
    StripArgs strip = plain_strip(weight, unit, block, finite);
    strip.dst = plain;
    const auto element = static_cast<int64_t>(storage_bytes(problem_.dtype));
    const int64_t next = plain_strides().depth * element;
    const int64_t ahead = strip.position_stride == 1 ? kTurnedAhead : maps_.depth;
    for (int64_t map = 0; map < maps_.depth; ++map) {
      const auto* const from = static_cast<const char*>(strip.src);
      if (map + ahead < maps_.depth) {
        for (int64_t at = 0; at < strip.maps * taps * element; at += kAlignment) {
          __builtin_prefetch(from + ahead * next + at);
        }
      }
      strip_(strip);
      strip.src = from + next;
      for (int64_t tap = 0; tap < taps; ++tap) {
        const auto [first, step] = place[static_cast<size_t>(tap)];
        copy_row(plain + tap * maps_.lanes, first + map * step);
      }
    }
    return finite;
  }

  // A row of lanes is a multiple of 16 bytes.
  void copy_row(const T* from, T* to) const noexcept {
    constexpr int64_t part = 16 / sizeof(T);
    for (int64_t i = 0; i < maps_.lanes; i += part) std::memcpy(to + i, from + i, 16);
  }

  // What turns the plain weights of a vector of columns of a unit, all taps of one map at a time.
  StripArgs plain_strip(const void* weight, int64_t unit, int64_t block, bool& finite) const noexcept {
    const auto [column_stride, depth_stride, tap_stride] = plain_strides();
    const int64_t column = (unit % units_ * unit_blocks_ + block) * maps_.lanes;
    const int64_t start = plain_start(unit) + std::min(column, maps_.columns - 1) * column_stride;
    StripArgs strip{};
    strip.src =
        static_cast<const char*>(weight) + start * static_cast<int64_t>(storage_bytes(problem_.dtype));
    strip.finite = &finite;
    strip.map_stride = column_stride;
    strip.position_stride = tap_stride;
    strip.maps = std::clamp<int64_t>(maps_.columns - column, 0, maps_.lanes);
    strip.count = strip.size = problem_.geometry.taps();
    return strip;
  }

  // Transforms the taps of a phase for the read maps from `begin` to before `end`.
  void transform_phase(const PlainTaps& from, int64_t phase, int64_t begin, int64_t end, const Depth& depth,
                       T* to, WinogradInArgs& args) const noexcept {
    const TiledAxis& z = tiling_.axes[0];
    int64_t view = 0;
    for (int64_t vz = 0; vz < z.views; ++vz) {
      const int64_t* kz = z.taps_of(phase / x().phases / y().phases, vz);
      for (int64_t vy = 0; vy < y().views; ++vy) {
        const int64_t* ky = y().taps_of(phase / x().phases % y().phases, vy);
        for (int64_t vx = 0; vx < x().views; ++vx) {
          const std::array<const int64_t*, kAxes> k{kz, ky, x().taps_of(phase % x().phases, vx)};
          for (int64_t i = begin; i < end; i += args.tiles) {
            args.tiles = std::min(end - i, depth_block_ - i % depth_block_);
            args.dst = to + (depth_at(i, view) - depth.begin) * chunk_lanes_;
            PlainTaps some = from;
            some.rows += (i - begin) * from.map;
            transform_view(some, k, args);
          }
          ++view;
        }
      }
    }
  }

  // Transforms the taps `k` of one view for some maps.
  void transform_view(const PlainTaps& from, const std::array<const int64_t*, kAxes>& k,
                      WinogradInArgs& args) const noexcept {
    args.src = from.rows;
    args.tile_step = from.map;
    bool whole = true;
    for (int a = 0; a < kAxes; ++a) {
      const int count = kWinogradTaps[args.tile[a]];
      whole &= std::find(k[a], k[a] + count, -1) == k[a] + count;
      args.src = static_cast<const T*>(args.src) + from.at(a, k[a][0]);
      args.step[a] = count > 1 ? from.at(a, k[a][1]) - from.at(a, k[a][0]) : 0;
    }
    if (whole) {
      taps_(args);
      return;
    }
    // Absent taps are zeros.
    alignas(kAlignment) T grid[kWinogradMostTaps * kWinogradMostTaps * kWinogradMostTaps * kMostLanes];
    const int nz = kWinogradTaps[args.tile[0]];
    const int ny = kWinogradTaps[args.tile[1]];
    const int nx = kWinogradTaps[args.tile[2]];
    WinogradInArgs one = args;
    one.src = grid;
    one.tiles = 1;
    one.step[0] = ny * nx * maps_.lanes;
    one.step[1] = nx * maps_.lanes;
    one.step[2] = maps_.lanes;
    for (int64_t i = 0; i < args.tiles; ++i) {
      for (int tap = 0; tap < nz * ny * nx; ++tap) {
        const int64_t at[kAxes] = {k[0][tap / nx / ny], k[1][tap / nx % ny], k[2][tap % nx]};
        T* row = grid + tap * maps_.lanes;
        if (std::min({at[0], at[1], at[2]}) < 0) {
          std::fill_n(row, maps_.lanes, T{0});
        } else {
          std::copy_n(from.rows + i * from.map + from.at(0, at[0]) + from.at(1, at[1]) + from.at(2, at[2]),
                      maps_.lanes, row);
        }
      }
      one.dst = static_cast<T*>(args.dst) + i * args.tile_stride;
      taps_(one);
    }
  }

  Problem problem_;
  Activate activate_;
  const Kernel& gemm_;
  const Kernel& strip_;
  const Kernel& unstrip_;
  const Kernel& taps_;
  const Kernel& pack_;
  const Kernel& columns_;
  const Kernel& in_;
  const Kernel& out_;
  const Kernel& sum_;
  const Kernel& read_;
  const Kernel& write_;
  Maps maps_;
  Tiling tiling_;
  Strides src_;
  Strides dst_;
  int64_t points_;
  int64_t classes_;
  int64_t views_;
  int64_t phases_;
  int64_t depth_;              // of the products
  int64_t depth_block_;        // read maps of one view that are neighbours in it
  int64_t chunk_lanes_;        // columns of one product
  int64_t row_ = 0;            // elements from a tile to the next in transformed windows
  int64_t unit_chunks_ = 1;    // chunks that make whole vectors of columns with all their phases
  int64_t unit_blocks_ = 1;    // vectors of columns of a unit
  int64_t unit_points_ = 0;    // of all chunks of a unit
  int64_t unit_elements_ = 0;  // transformed weights of a unit
  int64_t all_points_ = 0;     // of a tile, for all classes
  std::vector<Form> forms_;
  std::optional<WinogradPackArgs> pack_args_;
  bool packs_columns_ = false;
  std::vector<int64_t> chunk_start_;  // points of the chunks before
  int64_t units_ = 1;                 // of a group
  int64_t rows_ = 1;                  // of tiles
  int64_t low_origin_ = 0;
  int64_t origin_range_ = 0;
  int64_t row_segments_ = 1;
  int64_t segment_tiles_ = 1;
  int64_t block_segments_ = 1;
  int64_t blocks_ = 1;
  int64_t pack_units_ = 1;
  int64_t slice_maps_ = 1;  // read maps whose weights are packed at a time
  int threads_ = 1;
  bool line_ = false;      // one axis, whose tiles are transformed where they lie
  bool together_ = false;  // all threads work on one block at a time
  bool by_unit_ = false;   // weights are packed when their turn comes
  bool by_chunk_ = false;  // and multiplied one chunk after the other
  size_t workspace_ = 0;
  mutable std::once_flag plain_made_;
  mutable std::unique_ptr<Winograd> from_plain_;
};

std::optional<std::string> refusal(const Problem& problem) {
  bool saves = false;
  for (const Axis& axis : problem.geometry.axes) {
    if (axis.stride > kMostStride) return "stride above " + std::to_string(kMostStride);
    saves |= axis.stride % axis.dilation == 0 && axis.kernel * axis.dilation > axis.stride;
  }
  if (problem.geometry.taps() > kMostTaps) return "more than " + std::to_string(kMostTaps) + " taps";
  if (!saves) return "no axis has two neighbouring taps in a phase";
  const Maps maps(problem, product_kernel(problem));
  if (maps.columns * 2 < maps.lanes) return "fewer output maps of a group than half a vector";
  if (maps.depth * 2 < maps.lanes) return "fewer input maps of a group than half a vector";
  const Problem usual = compared(problem);
  const Counts all = counts(best_choice(usual, maps));
  const double products = all.tiles * static_cast<double>(all.products * all.views);
  const auto plain = static_cast<double>(usual.geometry.small_positions() * usual.geometry.taps());
  if (all.points == 1 || products > 0.9 * plain) return "products saved are fewer than transforms cost";
  return std::nullopt;
}

double cost(const Problem& problem) {
  const Maps maps(problem, product_kernel(problem));
  const Choice choice = best_choice(problem, maps);
  const Counts all = counts(choice);
  const double bytes = packed_bytes(all, maps, problem);
  const double growth = bytes / static_cast<double>(compute_bytes(problem.dtype)) /
                        static_cast<double>(problem.geometry.weight_elements());
  // Where maps lie together, the lanes of the data gradient lie a window apart in the weights.
  const double apart = problem.pass == Pass::data_gradient && problem.geometry.channels_last ? 2 : 1;
  const Packing way = packing_of(problem, all.classes, choice[0], choice[1], choice[2]);
  const double packing = packing_seconds(bytes, way) * apart;
  Problem traffic = problem;
  traffic.packed = true;
  const double share = problem.packed ? kReadingShare * growth : 1;
  const double sample = sample_seconds(all, maps) + window_seconds(problem, choice, maps);
  return sample * static_cast<double>(problem.geometry.batch) + machine::traffic_seconds(traffic, share) +
         (problem.packed ? 0 : packing);
}

}  // namespace

extern const Algorithm winograd;
const Algorithm winograd{"winograd", refusal, cost, make_computed<Winograd>, true};

}  // namespace tconv
