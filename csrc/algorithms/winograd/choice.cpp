#include "algorithms/winograd/choice.hpp"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

namespace tconv::filtering {
namespace {

// Of the time of a product, what a load takes: a kernel has some of them for each step of its rows and
// vectors.
constexpr double kLoadShare = 0.7;
// What an axis is taken to hold where its size must not decide about bits.
constexpr int64_t kUsualPositions = 64;
// Transformed weights written, by way of `Packing`.
constexpr double kWholePackBytesPerSecond = 60e9;
constexpr double kApartPackBytesPerSecond = 40e9;
constexpr double kNearPackBytesPerSecond = 40e9;
constexpr double kViewPackBytesPerSecond = 27e9;
constexpr double kPackBytesPerSecond = 20e9;
constexpr double kSlowPackBytesPerSecond = 5e9;
// How much of it tiles are chosen with: batches share it, of which only the usual one is known.
constexpr double kPackingShare = 0.4;
// Transformed weights read while others are multiplied: packed ones and those made by the fastest kernel from
// the last cache, and then from the second for every few rows of a product.
constexpr double kCachedBytesPerSecond = 80e9;
constexpr double kRowBytesPerSecond = 120e9;
// Packed ones beyond the last cache hold the products up only where memory gives them later than they are
// multiplied; threads share it.
constexpr double kMemoryBytesPerSecond = 20e9;
// Of the time to read packed weights, what is left where others are multiplied meanwhile.
constexpr double kReadingShare = 0.25;
// Transformed windows of the smallest block that are too many for the second cache, where those of a view lie
// far apart.
constexpr double kManyWindowBytes = 4 << 20;
constexpr double kWindowBytesPerSecond = 15e9;
// A vector of maps that was turned into lanes.
constexpr double kStripSeconds = 12 / machine::kHertz;
// About how many times the definition's error a tile makes, an axis, and what is tolerated in all. A sum of
// few maps has little error of its own.
constexpr double kError[] = {1, 1, 1, 1, 1.4, 1.2, 1.7, 1.2, 1.8, 1.4, 1.7, 2.1};
constexpr double most_error(int64_t depth_maps) noexcept {
  if (depth_maps < 8) return 1;
  return depth_maps < 16 ? 2 : 3;
}

// Transformed weights of all groups.
double packed_bytes(const Counts& counts, const Maps& maps, const Problem& problem) noexcept {
  return static_cast<double>(maps.groups * counts.phase_points * counts.views * maps.padded_depth() *
                             maps.column_blocks() * maps.lanes) *
         static_cast<double>(compute_bytes(problem.dtype));
}

// How plain weights are transformed: by a kernel that knows the layer, which along one axis takes longer
// where phases read apart and what it stores is no neighbour, a phase after the other in three dimensions so
// that all stay near the core, where points fit in registers, those of the views of the data gradient or of
// phases, and else.
enum class Packing { whole, apart, near, views, registers, slow };

Packing packing_of(const Problem& problem, int64_t classes, const AxisTiles& z, const AxisTiles& y,
                   const AxisTiles& x) noexcept {
  if (z.tile != kPlain) return classes > 1 ? Packing::near : Packing::slow;
  if (problem.pass == Pass::data_gradient) return Packing::views;
  if (packs_columns(problem, z, y, x)) return Packing::whole;
  if (!pack_args(problem, z, y, x)) return Packing::registers;
  return classes > 1 && y.tile == kPlain ? Packing::apart : Packing::whole;
}

double packing_seconds(double bytes, Packing packing) noexcept {
  switch (packing) {
    case Packing::whole:
      return bytes / kWholePackBytesPerSecond;
    case Packing::apart:
      return bytes / kApartPackBytesPerSecond;
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

// Expected seconds in which the maps of one sample become lanes, which along one axis costs nothing where all
// phases read the same windows of neighbours, in which many transformed windows are written, and of calls:
// for each row that is read or made, and for each class, view or phase of a row of tiles.
double turn_seconds(const Problem& problem, const Choice& choice, const Maps& maps) noexcept {
  const auto& [z, y, x] = choice;
  const Counts all = counts(choice);
  const int64_t read = z.points() * z.origins() * y.points() * y.origins();
  const bool line = read * all.classes * all.views == 1;
  const int64_t made = z.outputs() * z.spread * y.outputs() * y.spread;
  const int64_t step = problem.pass == Pass::forward ? 1 : problem.geometry.axes[2].stride;
  const int64_t blocks = ceil_div(maps.depth, maps.lanes);
  const auto vectors = static_cast<double>(line ? 0 : read * blocks * x.outputs() * step);
  const int64_t runs = std::min(x.gap, ceil_div(x.tiles(), x.gap));
  const auto calls = static_cast<double>((read + all.classes * all.views * runs) * blocks +
                                         (made + all.phases * runs) * maps.column_blocks());
  const double windows = static_cast<double>(all.class_points * all.views * maps.padded_depth()) *
                         static_cast<double>(compute_bytes(problem.dtype));
  const bool many = all.views > 1 && windows * kLeastBlockTiles > kManyWindowBytes;
  return static_cast<double>(maps.groups) * all.tiles *
         (vectors * kStripSeconds + calls / x.even_tiles() * machine::kCallSeconds +
          (many ? windows / kWindowBytesPerSecond : 0));
}

// Expected seconds for which transformed weights hold up `batch` samples, all of which take `seconds` else.
double reading_seconds(const Counts& counts, const Maps& maps, double batch, double seconds, double bytes,
                       bool packed, Packing packing) noexcept {
  const double tiles = batch * counts.tiles;
  const double passes = std::ceil(tiles / kMostBlockTiles);
  const bool near = !packed && packing == Packing::near;
  const bool views = !packed && packing == Packing::views;
  if (!packed && !near && !views) {
    const bool cached = packing == Packing::whole || packing == Packing::apart;
    return passes * bytes / (cached ? kCachedBytesPerSecond : machine::kReadBytesPerSecond);
  }
  const double late = !packed || bytes < machine::kLastCacheBytes
                          ? 0
                          : std::max(0.0, passes * bytes / kMemoryBytesPerSecond - seconds);
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

// Whether windows at all positions that are gaps apart hold what the taps of a phase read: forward, phases
// that read with other gaps before them would need windows of their own.
bool neighbours(const Axis& axis, Pass pass) noexcept {
  const int64_t gap = axis.tap_gap();
  return gap == 1 || (gap <= kMostGap && (pass == Pass::data_gradient || axis.tap_period() == 1));
}

// Tiles that an axis may take, if it is the last and `alone`.
std::vector<WinogradTile> tiles_for(const Axis& axis, const Problem& problem, bool alone) {
  std::vector<WinogradTile> tiles{kPlain};
  const int64_t taps = ceil_div(axis.kernel, axis.tap_period());
  if (!neighbours(axis, problem.pass) || taps < 2) return tiles;
  if (axis.grid != 0) {
    // Outputs of a tile of two read no more than they need, so half a tile can be had, if no tap is missing;
    // those of larger tiles read more.
    if (axis.dilation != 1 || axis.kernel % axis.stride != 0) return tiles;
    if (taps % 2 == 0) tiles.push_back(kF22);
    if (taps % 3 == 0) tiles.push_back(kF23);
    return tiles;
  }
  for (const WinogradTile tile : {kF22, kF32, kF42, kF23, kF33, kF43, kF34, kF52, kF44, kF53}) {
    if (tile >= kF52 && !alone) break;
    if (kWinogradPoints[tile] <= problem.winograd_points && kWinogradTaps[tile] <= taps)
      tiles.push_back(tile);
  }
  return tiles;
}

// Phases with different numbers of taps, which alone gain from being nested.
bool uneven(const Axis& axis) noexcept { return axis.dilation != 1 || axis.kernel % axis.stride != 0; }

struct ChosenTiles {
  Choice axes;
  bool apart;
  bool nested;
  bool turned;
};

// Whether tiles of all axes that have some can be turned.
bool turns(const Problem& problem) noexcept {
  bool some = false;
  for (const Axis& axis : problem.geometry.axes) {
    if (axis.kernel > 1 && (!filtering::turns(axis) || axis.dilation > kMostGap)) return false;
    some |= axis.kernel > 1;
  }
  return some;
}

ChosenTiles find_choice(const Problem& problem, const Maps& maps) {
  const auto& axes = problem.geometry.axes;
  const bool gridded = std::any_of(axes.begin(), axes.end(), [](const Axis& axis) { return axis.grid != 0; });
  std::vector<WinogradTile> options[kAxes];
  for (size_t a = 0; a < kAxes; ++a) {
    const bool alone = a == 2 && options[0].size() * options[1].size() == 1;
    options[a] = tiles_for(axes[a], problem, alone);
  }
  // Weights are read once for the tiles of a block, which holds several samples if they are small and there
  // are as many.
  const int64_t samples = filling_batch(problem.geometry);
  const double batch = samples == 1 ? 1 : std::pow(static_cast<double>(samples), 0.75);
  ChosenTiles chosen{};
  double least = -1;
  const bool nests = std::any_of(axes.begin(), axes.end(), uneven);
  const bool late =
      std::any_of(axes.begin(), axes.end(), [](const Axis& axis) { return axis.pad_lo % axis.stride != 0; });
  const auto kinds = std::to_array<ChosenTiles>({{},
                                                 {{}, true, false, false},
                                                 {{}, false, true, false},
                                                 {{}, true, true, false},
                                                 {{}, false, false, true}});
  for (const auto& [_, apart, nested, turned] : kinds) {
    if (apart && problem.pass != Pass::forward) continue;
    if ((apart && !late) || (nested && !nests)) continue;  // as if it were not
    if (apart && gridded) continue;
    if (turned && !turns(problem)) continue;
    std::vector<AxisTiles> made[kAxes];
    for (size_t a = 0; a < kAxes; ++a) {
      if (turned && axes[a].kernel > 1) {
        made[a].push_back(turned_tiles(axes[a], problem.pass));
        continue;
      }
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
          if (x.tile == kF52 && !problem.packed && bytes > machine::kLastCacheBytes) continue;
          const Packing way = packing_of(problem, all.classes, z, y, x);
          const double sample = sample_seconds(all, maps);
          const double reading =
              reading_seconds(all, maps, batch, sample * batch, bytes, problem.packed, way);
          const double packing = problem.packed ? 0 : kPackingShare * packing_seconds(bytes, way);
          const double seconds = sample + (reading + packing) / batch;
          if (least >= 0 && seconds >= least) continue;
          least = seconds;
          chosen = {{z, y, x}, apart, nested, turned};
        }
      }
    }
  }
  return chosen;
}

}  // namespace

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

std::optional<WinogradPackArgs> pack_args(const Problem& problem, const AxisTiles& z, const AxisTiles& y,
                                          const AxisTiles& x) noexcept {
  const auto& axes = problem.geometry.axes;
  if (problem.pass != Pass::forward || problem.geometry.channels_last || y.turned || x.turned)
    return std::nullopt;
  if (axes[0].kernel > 1 || axes[0].stride > 1 || z.tile != kPlain) return std::nullopt;
  WinogradPackArgs args{};
  args.tile[0] = y.tile;
  args.tile[1] = x.tile;
  for (size_t i = 0; i < 2; ++i) {
    const Axis& axis = axes[i + 1];
    args.stride[i] = static_cast<int>(axis.stride);
    if ((axis.stride > 1 && axis.dilation > 1) || axis.kernel != axis.stride * kWinogradTaps[args.tile[i]])
      return std::nullopt;
  }
  if (!winograd_packs(args.stride, args.tile)) return std::nullopt;
  return args;
}

bool packs_columns(const Problem& problem, const AxisTiles& z, const AxisTiles& y,
                   const AxisTiles& x) noexcept {
  const auto& axes = problem.geometry.axes;
  if (problem.pass != Pass::forward || !problem.geometry.channels_last) return false;
  for (const auto& [axis, tiles] : {std::pair{&axes[0], &z}, {&axes[1], &y}}) {
    if (axis->kernel > 1 || axis->stride > 1 || tiles->tile != kPlain) return false;
  }
  return x.tile != kPlain && !x.turned && (axes[2].stride == 1 || axes[2].dilation == 1) &&
         axes[2].kernel % (axes[2].stride * x.tile_taps()) == 0;
}

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
  const bool turned = last.tiles.turned && turns(given);
  for (size_t a = 0; a < kAxes; ++a) {
    const Axis& axis = given.geometry.axes[a];
    if (axis == problem.geometry.axes[a] && turned == last.tiles.turned) continue;
    if (turned && axis.kernel > 1) {
      choice[a] = turned_tiles(axis, given.pass);
      continue;
    }
    choice[a] = axis_tiles(axis, given.pass, choice[a].tile, last.tiles.apart, last.tiles.nested);
  }
  return choice;
}

std::optional<std::string> refusal(const Problem& problem) {
  bool saves = false;
  for (const Axis& axis : problem.geometry.axes) {
    if (axis.stride > kMostStride) return "stride above " + std::to_string(kMostStride);
    saves |= neighbours(axis, problem.pass) && axis.kernel > axis.tap_period();
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
  const Geometry& g = problem.geometry;
  const Maps maps(problem, product_kernel(problem));
  const Choice choice = best_choice(problem, maps);
  const Counts all = counts(choice);
  const double bytes = packed_bytes(all, maps, problem);
  const auto elements = static_cast<double>(g.weight_elements());
  double weights = kReadingShare * bytes / machine::kReadBytesPerSecond;
  if (!problem.packed) {
    // Where maps lie together, memory gives short runs of plain weights, slowly, and so does a copy of many
    // taps.
    const double plain = elements * static_cast<double>(storage_bytes(problem.dtype));
    const bool few = problem.pass == Pass::data_gradient && g.taps() * maps.lanes > kMostTaps;
    const double runs = !g.channels_last ? 1 : few ? 2 : plain > machine::kLastCacheBytes ? 1.5 : 1;
    const Packing way = packing_of(problem, all.classes, choice[0], choice[1], choice[2]);
    // Those of a gradient in three dimensions come late.
    const bool late = way == Packing::near && problem.pass == Pass::data_gradient;
    weights = elements * static_cast<double>(compute_bytes(problem.dtype)) / machine::kReadBytesPerSecond +
              (late ? 2.5 : 1) * runs * packing_seconds(bytes, way);
  }
  Problem traffic = problem;
  traffic.packed = true;
  const double sample = sample_seconds(all, maps) + turn_seconds(problem, choice, maps);
  return sample * static_cast<double>(g.batch) + weights + machine::traffic_seconds(traffic, 0);
}

}  // namespace tconv::filtering
