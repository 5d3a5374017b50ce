// Forward and data gradient for few output maps: lanes are output positions, rows are output maps and
// residues of the stride. Input is copied once, a strip at a time, with its border of zeros; every tap then
// reads it shifted. Along one axis most of it is read where it lies instead.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "packing.hpp"
#include "phases.hpp"
#include "taps_abi.hpp"

namespace tconv {
namespace {

constexpr int64_t kMostRows = 4096;
constexpr int64_t kMostTaps = 1 << 16;
constexpr int64_t kMostClasses = 64;
constexpr int64_t kMostTogether = 64;  // splits of a row that are read at a time
constexpr int64_t kMostPlanes = 256;   // of a strip, about
constexpr int64_t kStripBytes = 512 << 10;
constexpr int64_t kResultBytes = 384 << 10;
constexpr int64_t kLeastSteps = 256;  // of a sum that is kept in registers, if depth has as many
constexpr int64_t kUsualRow = 64;     // positions
constexpr double kStepSeconds = 0.5 / machine::kHertz;  // of a tile, beside its products
constexpr double kUnitSeconds = 500 / machine::kHertz;  // of a group of a sample
constexpr double kWeightSeconds = 7 / machine::kHertz;  // of a weight, packed one by one
constexpr int64_t kMostLinesAhead = 8;                  // fetched in a step
constexpr int64_t kPlainTiles = 2;                      // of a block that is read where it lies

// What is moved beside the products costs, in seconds.
struct Moves {
  double load;    // a vector of the source
  double store;   // a vector of results
  double fill;    // a row of a strip
  double result;  // a row of results
  double row;     // a row of the output
  double call;    // a tile of the products
};
constexpr Moves cycles(double load, double store, double fill, double result, double row, double call) {
  return {load / machine::kHertz,   store / machine::kHertz, fill / machine::kHertz,
          result / machine::kHertz, row / machine::kHertz,   call / machine::kHertz};
}
constexpr Moves kMapsApart = cycles(4, 7, 9, 13, 20, 60);
// Two phases of a row take turns in registers.
constexpr Moves kTwoPhases = cycles(4, 2, 9, 9, 20, 60);
// Where maps lie together, squares are turned on the way; of a group's few maps every element is moved alone.
constexpr Moves kMapsTogether = cycles(1.4, 0.7, 3.5, 4, 40, 60);
constexpr Moves kFarMapsTogether = cycles(1.4, 11, 3.5, 4, 40, 60);
constexpr Moves kGroupsTogether = cycles(4, 5, 3.5, 4, 40, 60);
// A gradient's outputs lie as results do. Sources are taken apart along a stride.
constexpr Moves kGradient = cycles(4, 4, 15, 4, 26, 60);
constexpr Moves kGradientTakenApart = cycles(4, 4, 26, 4, 26, 60);
constexpr Moves kTogetherTakenApart = cycles(4, 4, 4, 3, 160, 160);

constexpr int64_t kFarBytes = 12 << 20;  // of an output that the last cache keeps only in part
constexpr int64_t kManyMaps = 64;        // whose results do not stay near until they are turned

bool takes_apart(const Problem& problem) noexcept {
  return problem.pass == Pass::data_gradient && problem.geometry.axes[2].stride > 1;
}

const Moves& moves(const Problem& problem) {
  const Geometry& g = problem.geometry;
  if (takes_apart(problem)) return g.channels_last ? kTogetherTakenApart : kGradientTakenApart;
  if (!g.channels_last) {
    if (problem.pass != Pass::forward) return kGradient;
    return g.axes[2].stride == 2 ? kTwoPhases : kMapsApart;
  }
  if (g.groups > 1) return kGroupsTogether;
  if (problem.pass != Pass::forward) return kMapsTogether;
  if (g.filters >= kManyMaps) return kMapsApart;
  const int64_t bytes = g.large_elements() * static_cast<int64_t>(storage_bytes(problem.dtype));
  return bytes > kFarBytes ? kFarMapsTogether : kMapsTogether;
}

// Residues of the stride that read the same shifts of the source.
struct Class {
  std::vector<int64_t> shifts;
  std::vector<int64_t> planes;    // of LaneAxis::splits, one a shift
  std::vector<int64_t> residues;  // ascending
  std::vector<int64_t> taps;      // k of each residue, shift by shift
};

// Classes of as many residues.
struct Kind {
  int64_t residues;  // of each
  int64_t classes;
  int64_t taps;  // of a residue of each, added up
};

// One axis: dst = q * dst_step + residue - pad reads src = (q + shift) * src_step + split.
struct LaneAxis {
  Axis axis;
  bool forward;
  int64_t src_size;
  int64_t dst_size;
  int64_t src_step;
  int64_t dst_step;
  int64_t pad;
  int64_t first;      // lowest q
  int64_t positions;  // number of q
  int64_t period;     // taps of a residue are so many apart
  int64_t low;        // lowest shift
  int64_t halo;       // highest shift less lowest
  int64_t split_count;
  int64_t most_taps;  // of a residue
  std::vector<Kind> kinds;
  bool irregular = false;  // more classes than are worth keeping apart; not all are among the kinds
  // Empty before list().
  std::vector<int64_t> splits;
  std::vector<Class> classes;

  LaneAxis(const Axis& of, Pass pass)
      : axis(of),
        forward(pass == Pass::forward),
        src_size(forward ? axis.size : axis.out),
        dst_size(forward ? axis.out : axis.size),
        src_step(forward ? 1 : axis.stride),
        dst_step(forward ? axis.stride : 1),
        pad(forward ? axis.pad_lo : 0),
        first(floor_div(pad, dst_step)),
        positions(floor_div(pad + dst_size - 1, dst_step) - first + 1),
        period(dst_step / std::gcd(dst_step, axis.dilation)),
        low(std::min(shift_of(0), shift_of(axis.kernel - 1))),
        halo(std::max(shift_of(0), shift_of(axis.kernel - 1)) - low),
        split_count(std::min(axis.kernel, src_step / std::gcd(src_step, axis.dilation))),
        most_taps(ceil_div(axis.kernel, period)) {
    int64_t found = 0;
    for_classes([&](int64_t begin, int64_t end) {
      add_kind(end - begin, taps_from(begin));
      return ++found <= kMostClasses;
    });
    if (dst_step > first_taps()) {
      add_kind(dst_step - first_taps(), 0);
      ++found;
    }
    irregular = found > kMostClasses;
  }

  void list() {
    // Ascending, so that neighbours in the source are in neighbouring planes.
    splits.clear();
    for (int64_t k = 0; k < split_count; ++k) splits.push_back(offset_of(k) - shift_of(k) * src_step);
    std::ranges::sort(splits);
    std::vector<int64_t> plane_of(static_cast<size_t>(src_step), 0);
    for (size_t plane = 0; plane < splits.size(); ++plane)
      plane_of[static_cast<size_t>(splits[plane])] = static_cast<int64_t>(plane);
    // From one tap of a residue to the next; long kernels would wait for divisions.
    const int64_t hop = forward ? -(period * axis.dilation / axis.stride) : axis.dilation;
    const int64_t hop_shift = floor_div(hop, src_step);
    const int64_t hop_split = hop - hop_shift * src_step;
    classes.clear();
    std::vector<bool> reached(static_cast<size_t>(dst_step));
    std::vector<std::pair<int64_t, int64_t>> first_taps_of;  // by residue
    for_classes([&](int64_t begin, int64_t end) {
      first_taps_of.clear();
      for (int64_t k = begin; k < end; ++k)
        first_taps_of.emplace_back(k * (axis.dilation % dst_step) % dst_step, k);
      std::ranges::sort(first_taps_of);
      Class& made = classes.emplace_back();
      const int64_t count = taps_from(begin);
      int64_t shift = shift_of(begin);
      int64_t split = offset_of(begin) - shift * src_step;
      for (int64_t i = 0; i < count; ++i) {
        made.shifts.push_back(shift);
        made.planes.push_back(plane_of[static_cast<size_t>(split)]);
        shift += hop_shift;
        split += hop_split;
        if (split >= src_step) {
          split -= src_step;
          ++shift;
        }
      }
      for (const auto& [residue, k] : first_taps_of) {
        reached[static_cast<size_t>(residue)] = true;
        made.residues.push_back(residue);
        for (int64_t i = 0; i < count; ++i) made.taps.push_back(k + i * period);
      }
      return true;
    });
    if (dst_step == first_taps()) return;
    Class& none = classes.emplace_back();
    for (int64_t residue = 0; residue < dst_step; ++residue) {
      if (!reached[static_cast<size_t>(residue)]) none.residues.push_back(residue);
    }
  }

 private:
  // Source position that a tap reads from position 0.
  int64_t offset_of(int64_t k) const noexcept {
    return forward ? -(k * axis.dilation / axis.stride) : k * axis.dilation - axis.pad_lo;
  }
  int64_t shift_of(int64_t k) const noexcept { return floor_div(offset_of(k), src_step); }

  // Those that are each the first of a residue.
  int64_t first_taps() const noexcept { return std::min(period, axis.kernel); }
  // Of the residue of such a one.
  int64_t taps_from(int64_t first_tap) const noexcept {
    return axis.kernel / period + (first_tap < axis.kernel % period ? 1 : 0);
  }

  // Calls `body(begin, end)` for the classes that have taps, each the residues of a run of first taps, until
  // it returns false.
  template <class Body>
  void for_classes(const Body& body) const {
    const int64_t more = axis.kernel % period;  // residues of a tap more than others
    for (int64_t begin = 0; begin < first_taps();) {
      int64_t end = forward ? ceil_div((1 - offset_of(begin)) * axis.stride, axis.dilation) : 1;
      end = std::min(end, begin < more ? more : first_taps());
      if (!body(begin, end)) return;
      begin = end;
    }
  }

  void add_kind(int64_t residues, int64_t taps) {
    const auto known = std::ranges::find(kinds, residues, &Kind::residues);
    Kind& kind = known != kinds.end() ? *known : kinds.emplace_back(Kind{residues, 0, 0});
    ++kind.classes;
    kind.taps += taps;
  }
};

// What decides the order of packed weights: weights, stride and dilation, never sizes or pads.
struct Layout {
  struct Row {
    int64_t map;
    int64_t index[kAxes];  // of the residue in its class
    int64_t stream;        // of the results: (map, residues), or (residues, map) where maps are innermost
  };
  struct Tile {
    const Class* axis[kAxes];
    int64_t taps;
    int64_t first_row;
    int64_t rows;
    int64_t first_tap;  // taps of the tiles before
  };

  std::array<LaneAxis, kAxes> axes;
  int64_t groups;
  int64_t depth_maps;
  int64_t column_maps;
  int64_t streams;
  int64_t residues;
  int64_t taps = 0;  // over all tiles
  int64_t tile_count = 0;
  int64_t chunk;
  const Kernel* gemm;
  // Empty before list().
  std::vector<Row> rows;
  std::vector<Tile> tiles;

  explicit Layout(const Problem& problem)
      : axes{LaneAxis(problem.geometry.axes[0], problem.pass),
             LaneAxis(problem.geometry.axes[1], problem.pass),
             LaneAxis(problem.geometry.axes[2], problem.pass)},
        groups(problem.geometry.groups) {
    const Geometry& g = problem.geometry;
    const bool forward = problem.pass == Pass::forward;
    depth_maps = (forward ? g.channels : g.filters) / groups;
    column_maps = (forward ? g.filters : g.channels) / groups;
    residues = axes[0].dst_step * axes[1].dst_step * axes[2].dst_step;
    streams = column_maps * residues;
    chunk = chunk_maps(g, problem.pass, depth_maps);
    // Fewer maps at a time where each has many splits, or a strip holds too few rows for its halo.
    if (splits() > 1) chunk = std::clamp<int64_t>(kMostPlanes / splits(), 1, chunk);
    if (std::ranges::any_of(g.axes, [](const Axis& axis) { return axis.dilation > 1; })) {
      int64_t strip = 1;  // positions that are little more than their halo, rows being of the usual length
      int64_t taps_of_sum = 1;
      for (const Axis& axis : g.axes) {
        const int64_t reach = (axis.kernel - 1) * axis.dilation / axis.stride;
        strip *= std::max<int64_t>(1, &axis == &g.axes[2] ? reach + kUsualRow : 3 * reach);
        taps_of_sum *= ceil_div(axis.kernel, forward ? axis.stride : 1);
      }
      const int64_t held = kStripBytes / static_cast<int64_t>(compute_bytes(problem.dtype)) / strip;
      chunk = std::min(chunk, std::max(held, ceil_div(kLeastSteps, taps_of_sum)));
    }
    gemm = &choose_tile(problem);
    for_kinds([&](int64_t count, int64_t classes, int64_t class_taps) {
      const int64_t pieces = ceil_div(count, gemm->rows);
      tile_count += pieces * classes;
      taps += pieces * class_taps;
    });
  }

  void list(bool maps_inside) {
    for (LaneAxis& axis : axes) axis.list();
    rows.clear();
    rows.reserve(static_cast<size_t>(streams));
    tiles.clear();
    tiles.reserve(static_cast<size_t>(tile_count));
    int64_t first = 0;
    int64_t first_tap = 0;
    for (const Class& z : axes[0].classes) {
      for (const Class& y : axes[1].classes) {
        for (const Class& x : axes[2].classes) {
          add_rows(z, y, x, maps_inside);
          const int64_t count = static_cast<int64_t>(rows.size()) - first;
          const auto class_taps = static_cast<int64_t>(z.shifts.size() * y.shifts.size() * x.shifts.size());
          const int64_t pieces = ceil_div(count, gemm->rows);
          for (int64_t i = 0; i < pieces; ++i) {
            const int64_t begin = first + count * i / pieces;
            const int64_t end = first + count * (i + 1) / pieces;
            tiles.push_back({{&z, &y, &x}, class_taps, begin, end - begin, first_tap});
            first_tap += class_taps;
          }
          first += count;
        }
      }
    }
  }

  // Calls `body(rows, classes, taps)` for classes of as many rows, whose taps are added up.
  template <class Body>
  void for_kinds(const Body& body) const {
    for (const Kind& z : axes[0].kinds) {
      for (const Kind& y : axes[1].kinds) {
        for (const Kind& x : axes[2].kinds) {
          body(column_maps * z.residues * y.residues * x.residues, z.classes * y.classes * x.classes,
               z.taps * y.taps * x.taps);
        }
      }
    }
  }

  double step_seconds(const Kernel& kernel) const {
    double seconds = 0;
    for_kinds([&](int64_t count, int64_t /*classes*/, int64_t class_taps) {
      const int64_t pieces = ceil_div(count, kernel.rows);
      seconds += (machine::rows_step_seconds(kernel, count) + static_cast<double>(pieces) * kStepSeconds) *
                 static_cast<double>(class_taps);
    });
    return seconds;
  }

  // Tiles point into the axes.
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;

  int64_t splits() const noexcept { return axes[0].split_count * axes[1].split_count * axes[2].split_count; }
  int64_t most_taps() const noexcept { return axes[0].most_taps * axes[1].most_taps * axes[2].most_taps; }
  int64_t group_elements() const noexcept { return taps * depth_maps * gemm->rows; }

 private:
  const Kernel& choose_tile(const Problem& problem) const {
    const Kernel* best = nullptr;
    double least = 0;
    for (const Kernel& kernel : kernels(Family::taps, compute_dtype(problem.dtype), problem.isa)) {
      const double seconds = step_seconds(kernel) / kernel.lanes;
      if (best == nullptr || seconds < least) {
        best = &kernel;
        least = seconds;
      }
    }
    return *best;
  }

  void add_rows(const Class& z, const Class& y, const Class& x, bool maps_inside) {
    const auto add = [&](int64_t map, size_t iz, size_t iy, size_t ix) {
      const int64_t residue =
          (z.residues[iz] * axes[1].dst_step + y.residues[iy]) * axes[2].dst_step + x.residues[ix];
      const int64_t stream = maps_inside ? residue * column_maps + map : map * residues + residue;
      rows.push_back(
          {map, {static_cast<int64_t>(iz), static_cast<int64_t>(iy), static_cast<int64_t>(ix)}, stream});
    };
    for (int64_t outer = 0; outer < (maps_inside ? 1 : column_maps); ++outer) {
      for (size_t iz = 0; iz < z.residues.size(); ++iz) {
        for (size_t iy = 0; iy < y.residues.size(); ++iy) {
          for (size_t ix = 0; ix < x.residues.size(); ++ix) {
            for (int64_t inner = 0; inner < (maps_inside ? column_maps : 1); ++inner)
              add(outer + inner, iz, iy, ix);
          }
        }
      }
    }
  }
};

// How positions are cut into blocks, and the strip that one block reads.
struct Blocks {
  int64_t size[kAxes];   // positions of a block
  int64_t strip[kAxes];  // with the halo
  int64_t count[kAxes];
  int64_t plane;   // elements of a map in the strip
  int64_t length;  // positions in a row of results, border included, whole tiles

  Blocks(const Layout& layout, const int64_t (&block)[kAxes]) noexcept {
    plane = 1;
    int64_t splits = 1;
    for (int a = 0; a < kAxes; ++a) {
      const LaneAxis& axis = layout.axes[a];
      count[a] = ceil_div(axis.positions, block[a]);
      size[a] = ceil_div(axis.positions, count[a]);
      strip[a] = size[a] + axis.halo;
      splits *= axis.split_count;
    }
    const int64_t last = ((size[0] - 1) * strip[1] + size[1] - 1) * strip[2] + size[2];
    length = ceil_div(last, layout.gemm->lanes) * layout.gemm->lanes;
    // An odd number of lines, so that the maps of a tile do not meet in one set of the cache.
    plane = (splits * strip[0] * strip[1] * strip[2] + 15) / 16 | 1;
    plane *= 16;
  }

  int64_t blocks() const noexcept { return count[0] * count[1] * count[2]; }
  int64_t strip_elements(const Layout& layout) const noexcept {
    return plane * std::min(layout.chunk, layout.depth_maps) + length;
  }
  int64_t result_elements(const Layout& layout) const noexcept { return length * layout.streams; }
  // Whether what a block reads and makes stays in the second cache.
  bool stay_near(const Layout& layout) const noexcept {
    const auto element = static_cast<int64_t>(compute_bytes(layout.gemm->dtype));
    return strip_elements(layout) * element <= kStripBytes &&
           result_elements(layout) * element <= kResultBytes;
  }
};

// Whether rows along one axis are long enough to be read where they lie.
bool reads_plain(const Problem& problem, const Layout& layout) noexcept {
  const auto& [z, y, x] = layout.axes;
  for (const LaneAxis* axis : {&z, &y}) {
    if (axis->src_size != 1 || axis->positions != 1 || axis->halo != 0 || axis->src_step != 1) return false;
  }
  return !problem.geometry.channels_last && problem.dtype == compute_dtype(problem.dtype) &&
         x.src_step == 1 && x.positions >= 8 * kPlainTiles * layout.gemm->lanes;
}

// The largest blocks that stay near and of which `fit` is true, or the smallest.
template <class Fit>
Blocks cut_blocks(const Layout& layout, bool plain, const Fit& fit) {
  const int64_t lanes = layout.gemm->lanes;
  int64_t block[kAxes];
  for (int a = 0; a < kAxes; ++a) block[a] = layout.axes[a].positions;
  if (plain) block[2] = kPlainTiles * lanes;
  while (true) {
    const Blocks blocks(layout, block);
    if (fit(blocks) && blocks.stay_near(layout)) return blocks;
    if (block[0] > 1) {
      block[0] = (block[0] + 1) / 2;
    } else if (block[1] > 1) {
      block[1] = (block[1] + 1) / 2;
    } else if (block[2] > lanes) {
      block[2] = std::max<int64_t>(lanes, (block[2] + 1) / 2);
    } else {
      return blocks;
    }
  }
}

template <class T>
class PositionLanes final : public Recipe {
 public:
  explicit PositionLanes(const Problem& problem)
      : problem_(problem),
        activate_(problem),
        layout_(problem),
        gemm_(*layout_.gemm),
        gather_(tconv::kernel(Family::gather, problem.dtype, problem.isa)),
        load_(tconv::kernel(Family::load, problem.dtype, problem.isa)),
        store_(tconv::kernel(Family::store, problem.dtype, problem.isa)),
        blocks_(smallest()),
        plain_(reads_plain(problem, layout_)) {
    const Geometry& g = problem.geometry;
    const auto& [z, y, x] = layout_.axes;
    const bool forward = problem.pass == Pass::forward;
    src_maps_ = forward ? g.channels : g.filters;
    dst_maps_ = forward ? g.filters : g.channels;
    src_x_ = g.channels_last ? src_maps_ : 1;
    src_map_ = g.channels_last ? 1 : z.src_size * y.src_size * x.src_size;
    src_sample_ = src_maps_ * z.src_size * y.src_size * x.src_size;
    dst_x_ = g.channels_last ? dst_maps_ : 1;
    dst_map_ = g.channels_last ? 1 : z.dst_size * y.dst_size * x.dst_size;
    dst_sample_ = dst_maps_ * z.dst_size * y.dst_size * x.dst_size;
    cut();
  }

  void list() override { layout_.list(problem_.geometry.channels_last); }

  std::string kernel() const override { return gemm_.name; }
  size_t workspace_bytes() const noexcept override { return workspace_; }
  size_t packed_bytes() const noexcept override {
    return group_bytes() * static_cast<size_t>(layout_.groups);
  }

  std::string packing_key() const override {
    const Geometry& g = problem_.geometry;
    std::string key = "rows ";
    for (const int64_t number :
         {static_cast<int64_t>(problem_.pass), static_cast<int64_t>(problem_.dtype), int64_t{gemm_.rows},
          g.channels, g.filters, g.groups, layout_.chunk, int64_t{g.channels_last}}) {
      key += std::to_string(number) + " ";
    }
    for (const Axis& axis : g.axes) {
      key += std::to_string(axis.kernel) + "s" + std::to_string(axis.stride) + "d" +
             std::to_string(axis.dilation) + "x";
    }
    return key;
  }

  bool pack(const void* weight, char* packed, Crew& crew) const override {
    return pack_groups(weight, packed, 0, layout_.groups, crew);
  }

  bool run(const Call& call) const override {
    const Buffer scratch(workspace_);
    Pieces pieces(scratch.data());
    const auto tiles = static_cast<int64_t>(layout_.tiles.size());
    T* bias = nullptr;
    if (call.bias != nullptr) {
      bias = pieces.take<T>(bias_bytes());
      spread_bias(call.bias, bias);
    }
    call.crew.limit(threads_);
    char* packed =
        call.packed == nullptr ? pieces.take(group_bytes() * static_cast<size_t>(pack_groups_)) : nullptr;
    char* const workers = pieces.rest();
    for (int member = 0; member < threads_; ++member)
      *worker(workers + static_cast<size_t>(member) * worker_bytes()).border = {};
    for (int64_t first = 0; first < layout_.groups; first += pack_groups_) {
      const int64_t last = std::min(first + pack_groups_, layout_.groups);
      const char* weights = static_cast<const char*>(call.packed);
      if (packed != nullptr) {
        if (!pack_groups(call.weight, packed, first, last, call.crew)) return false;
        weights = packed - static_cast<size_t>(first) * group_bytes();
      }
      const int64_t blocks = blocks_.blocks();
      const int64_t units = problem_.geometry.batch * (last - first) * blocks;
      const double seconds = machine::seconds(problem_) * static_cast<double>(last - first) /
                             static_cast<double>(layout_.groups) * threads_;
      call.crew.share(units, seconds, [&](int64_t unit, int member) noexcept {
        const int64_t block = unit % blocks;
        const int64_t group = first + unit / blocks % (last - first);
        const int64_t sample = unit / blocks / (last - first);
        run_block(call, reinterpret_cast<const T*>(weights + static_cast<size_t>(group) * group_bytes()),
                  bias == nullptr ? nullptr : bias + group * tiles * gemm_.rows,
                  worker(workers + static_cast<size_t>(member) * worker_bytes()), sample, group, block,
                  Pace(call.crew, member));
      });
    }
    return true;
  }

 private:
  // Where a strip holds input; all else of it is zero.
  struct Border {
    int64_t maps;
    int64_t begin[kAxes];
    int64_t end[kAxes];

    bool operator==(const Border&) const = default;
  };
  // What a worker's strip was last filled with, null maps for nothing.
  struct Worker {
    Border* border;
    T* strip;
    T* result;
    int64_t* b_offset;
    void** rows;
  };

  // A block, in positions from the first.
  struct Box {
    int64_t begin[kAxes];
    int64_t size[kAxes];

    bool empty() const noexcept { return size[0] <= 0 || size[1] <= 0 || size[2] <= 0; }
  };

  // Source that is read soon, and fetched meanwhile: `bytes` of each map, maps `step` bytes apart.
  struct Ahead {
    const char* from;
    int64_t step;
    int64_t bytes;
  };

  Box box_of(int64_t index) const noexcept {
    Box box{};
    for (int a = kAxes - 1; a >= 0; --a) {
      box.begin[a] = index % blocks_.count[a] * blocks_.size[a];
      box.size[a] = std::min(blocks_.size[a], layout_.axes[a].positions - box.begin[a]);
      index /= blocks_.count[a];
    }
    return box;
  }

  // Whether blocks amid the source are read where they lie: rows along the last axis alone, in the type that
  // is computed in, and long enough for the blocks at their ends to be few.
  size_t group_bytes() const noexcept {
    return aligned(static_cast<size_t>(layout_.group_elements()) * sizeof(T));
  }
  size_t bias_bytes() const noexcept {
    return static_cast<size_t>(layout_.groups * gemm_.rows * layout_.tile_count) * sizeof(T);
  }
  size_t worker_bytes() const noexcept {
    return aligned(sizeof(Border)) +
           aligned(static_cast<size_t>(blocks_.strip_elements(layout_)) * sizeof(T)) +
           aligned(static_cast<size_t>(blocks_.result_elements(layout_)) * sizeof(T)) +
           aligned(static_cast<size_t>(layout_.most_taps()) * 8) +
           aligned(static_cast<size_t>(gemm_.rows) * 8);
  }

  Worker worker(char* memory) const noexcept {
    Pieces pieces(memory);
    Worker made{};
    made.border = pieces.take<Border>(sizeof(Border));
    made.strip = pieces.take<T>(static_cast<size_t>(blocks_.strip_elements(layout_)) * sizeof(T));
    made.result = pieces.take<T>(static_cast<size_t>(blocks_.result_elements(layout_)) * sizeof(T));
    made.b_offset = pieces.take<int64_t>(static_cast<size_t>(layout_.most_taps()) * 8);
    made.rows = pieces.take<void*>(static_cast<size_t>(gemm_.rows) * 8);
    return made;
  }

  Blocks smallest() const noexcept {
    return {layout_, {1, 1, std::min<int64_t>(layout_.axes[2].positions, gemm_.lanes)}};
  }

  // Decides blocks, threads and how many groups are packed at a time, so that the workspace holds them.
  void cut() {
    threads_ = 1;
    pack_groups_ = problem_.packed ? layout_.groups : 1;
    const auto total = [&] {
      return aligned(bias_bytes()) +
             (problem_.packed ? 0 : aligned(group_bytes() * static_cast<size_t>(pack_groups_))) +
             worker_bytes() * static_cast<size_t>(threads_);
    };
    workspace_ = total();
    if (workspace_ > problem_.workspace) return;
    threads_ = problem_.threads;
    while (threads_ > 1 && total() > problem_.workspace) --threads_;
    const Blocks least = blocks_;
    const int64_t units = problem_.geometry.batch * layout_.groups;
    cut_blocks(layout_, plain_, [&](const Blocks& blocks) {
      blocks_ = blocks;
      const bool shared =
          threads_ == 1 || units * blocks_.blocks() >= 4 * threads_ || blocks_.length <= 2 * gemm_.lanes;
      return shared && total() <= problem_.workspace;
    });
    if (total() > problem_.workspace) blocks_ = least;
    while (pack_groups_ < layout_.groups) {
      const int64_t before = pack_groups_;
      pack_groups_ = std::min(layout_.groups, 2 * pack_groups_);
      if (total() <= problem_.workspace) continue;
      pack_groups_ = before;
      break;
    }
    workspace_ = total();
  }

  void spread_bias(const void* bias, T* spread) const noexcept {
    with_dtype(problem_.dtype, [&](auto e) {
      const auto* from = static_cast<const typename decltype(e)::storage*>(bias);
      for (int64_t g = 0; g < layout_.groups; ++g) {
        for (const auto& tile : layout_.tiles) {
          for (int64_t r = 0; r < tile.rows; ++r) {
            const int64_t map = layout_.rows[static_cast<size_t>(tile.first_row + r)].map;
            spread[r] = static_cast<T>(e.load(from[g * layout_.column_maps + map]));
          }
          spread += gemm_.rows;
        }
      }
    });
  }

  // Packed: [group][tile][chunk][map of the chunk][tap][row].
  bool pack_groups(const void* weight, char* packed, int64_t first, int64_t last, Crew& crew) const {
    const auto tiles = static_cast<int64_t>(layout_.tiles.size());
    const double seconds = static_cast<double>(last - first) * static_cast<double>(group_bytes()) / 2e9;
    return share_finite(crew, (last - first) * tiles, seconds, [&](int64_t unit, int member) noexcept {
      char* to = packed + static_cast<size_t>(unit / tiles) * group_bytes();
      const auto& tile = layout_.tiles[static_cast<size_t>(unit % tiles)];
      return pack_tile(weight, reinterpret_cast<T*>(to) + tile.first_tap * layout_.depth_maps * gemm_.rows,
                       first + unit / tiles, tile, Pace(crew, member));
    });
  }

  bool pack_tile(const void* weight, T* packed, int64_t group, const Layout::Tile& tile,
                 Pace pace) const noexcept {
    const Geometry& g = problem_.geometry;
    const bool forward = problem_.pass == Pass::forward;
    const int64_t all_taps = g.taps();
    const int64_t filters = g.filters / g.groups;
    const int64_t filter_stride = g.channels_last ? 1 : all_taps;
    const int64_t channel_stride = filters * all_taps;
    const int64_t tap_stride = g.channels_last ? filters : 1;
    const int64_t map_stride = forward ? filter_stride : channel_stride;
    const int64_t group_start = group * (g.channels / g.groups) * channel_stride;
    const auto& [z, y, x] = tile.axis;
    int64_t offset[64];
    GatherArgs args{};
    args.offset = offset;
    args.map_stride = forward ? channel_stride : filter_stride;
    args.count = gemm_.rows;
    args.width = tile.taps * gemm_.rows;
    bool finite = true;
    for (int64_t map = 0; map < layout_.depth_maps; map += layout_.chunk) {
      args.maps = std::min(layout_.chunk, layout_.depth_maps - map);
      args.src = static_cast<const char*>(weight) +
                 (group_start + map * args.map_stride) * static_cast<int64_t>(storage_bytes(problem_.dtype));
      args.dst = packed;
      for (size_t tz = 0; tz < z->shifts.size(); ++tz) {
        for (size_t ty = 0; ty < y->shifts.size(); ++ty) {
          for (size_t tx = 0; tx < x->shifts.size(); ++tx) {
            for (int64_t r = 0; r < gemm_.rows; ++r) {
              if (r >= tile.rows) {
                offset[r] = -1;
                continue;
              }
              const auto& row = layout_.rows[static_cast<size_t>(tile.first_row + r)];
              const int64_t kz = z->taps[static_cast<size_t>(row.index[0]) * z->shifts.size() + tz];
              const int64_t ky = y->taps[static_cast<size_t>(row.index[1]) * y->shifts.size() + ty];
              const int64_t kx = x->taps[static_cast<size_t>(row.index[2]) * x->shifts.size() + tx];
              offset[r] =
                  row.map * map_stride + ((kz * g.axes[1].kernel + ky) * g.axes[2].kernel + kx) * tap_stride;
            }
            gather_(args);
            args.dst = static_cast<T*>(args.dst) + gemm_.rows;
          }
        }
      }
      finite &= all_finite(packed, args.maps * args.width);
      if (pace.stopped(args.maps * args.width)) return finite;
      packed += args.maps * args.width;
    }
    return finite;
  }

  void run_block(const Call& call, const T* weights, const T* bias, const Worker& w, int64_t sample,
                 int64_t group, int64_t index, Pace pace) const noexcept {
    const Box box = box_of(index);
    if (box.empty()) return;
    const int64_t last =
        ((box.size[0] - 1) * blocks_.strip[1] + box.size[1] - 1) * blocks_.strip[2] + box.size[2];
    const LaneAxis& x = layout_.axes[2];
    const int64_t at = x.first + box.begin[2] + x.low;
    const bool plain = plain_ && at >= 0 && at + x.halo + blocks_.length <= x.src_size;
    constexpr int64_t kMapsAhead = 8;
    for (int64_t map = 0; map < layout_.depth_maps; map += layout_.chunk) {
      const int64_t maps = std::min(layout_.chunk, layout_.depth_maps - map);
      const int64_t first_map = group * layout_.depth_maps + map;
      if (plain) {
        const T* source = static_cast<const T*>(call.source) + sample * src_sample_ + at;
        const T* from = source + first_map * src_map_;
        const auto element = static_cast<int64_t>(sizeof(T));
        multiply(weights, bias, w, from, src_map_, map, maps, last,
                 {reinterpret_cast<const char*>(from + kMapsAhead * src_map_), src_map_ * element,
                  blocks_.length * element},
                 pace);
      } else {
        fill_strip(call.source, w, sample, first_map, maps, box);
        multiply(weights, bias, w, w.strip, blocks_.plane, map, maps, last,
                 map + maps < layout_.depth_maps ? source_of(call, sample, group, index, map + maps)
                 : index + 1 < blocks_.blocks()  ? source_of(call, sample, group, index + 1, 0)
                 : group + 1 < layout_.groups    ? source_of(call, sample, group + 1, 0, 0)
                                                 : source_of(call, sample + 1, 0, 0, 0),
                 pace);
      }
      if (pace.stopped(0)) return;
    }
    activate_(w.result, blocks_.result_elements(layout_));
    store_block(call.out, w.result, sample, group, box);
  }

  // What a chunk of maps of a block is filled from, about.
  Ahead source_of(const Call& call, int64_t sample, int64_t group, int64_t index,
                  int64_t map) const noexcept {
    const Box box = box_of(index);
    if (sample >= problem_.geometry.batch || box.empty()) return {};
    const auto element = static_cast<int64_t>(storage_bytes(problem_.dtype));
    const int64_t maps = std::min(layout_.chunk, layout_.depth_maps - map);
    int64_t first = 0;
    int64_t last = 0;
    for (int a = 0; a < kAxes; ++a) {
      const LaneAxis& axis = layout_.axes[a];
      const int64_t begin = (axis.first + box.begin[a] + axis.low) * axis.src_step;
      const int64_t end = begin + (box.size[a] + axis.halo) * axis.src_step;
      first = first * axis.src_size + std::clamp<int64_t>(begin, 0, axis.src_size - 1);
      last = last * axis.src_size + std::clamp<int64_t>(end - 1, 0, axis.src_size - 1);
    }
    const char* from =
        static_cast<const char*>(call.source) +
        (sample * src_sample_ + (group * layout_.depth_maps + map) * src_map_ + first * src_x_) * element;
    const int64_t bytes = (last + 1 - first) * src_x_ * element;
    // Maps that lie together are fetched as if they lay one after another.
    if (src_map_ == 1) return {from, bytes / maps, bytes / maps};
    return {from, src_map_ * element, bytes};
  }

  // Positions [begin, end) of an axis of the strip that lie inside the source, the first at `at`.
  struct Reach {
    int64_t begin;
    int64_t end;
    int64_t at;
  };
  Reach inside(int axis, const Box& box, int64_t split) const noexcept {
    const LaneAxis& a = layout_.axes[axis];
    const int64_t origin = (a.first + box.begin[axis] + a.low) * a.src_step + split;
    const int64_t size = box.size[axis] + a.halo;
    const int64_t begin = std::clamp<int64_t>(ceil_div(-origin, a.src_step), 0, size);
    const int64_t end = std::clamp<int64_t>(floor_div(a.src_size - 1 - origin, a.src_step) + 1, begin, size);
    return {begin, end, origin + begin * a.src_step};
  }

  void fill_strip(const void* source, const Worker& w, int64_t sample, int64_t first_map, int64_t maps,
                  const Box& box) const noexcept {
    // The border of zeros stays from one block to the next where it is the same.
    Border border{};
    if (layout_.splits() == 1) {
      border.maps = maps;
      for (int a = 0; a < kAxes; ++a) {
        const Reach reach = inside(a, box, layout_.axes[a].splits[0]);
        border.begin[a] = reach.begin;
        border.end[a] = reach.end;
      }
    }
    const bool bordered = border.maps > 0 && border == *w.border;
    *w.border = border;
    const char* from =
        static_cast<const char*>(source) +
        (sample * src_sample_ + first_map * src_map_) * static_cast<int64_t>(storage_bytes(problem_.dtype));
    if (!bordered)
      std::memset(w.strip + maps * blocks_.plane, 0, static_cast<size_t>(blocks_.length) * sizeof(T));
    if (src_map_ == 1 && src_x_ != 1) {
      fill_maps_inside(from, w.strip, maps, box, bordered);
    } else {
      fill_maps_apart(from, w.strip, maps, box, bordered);
    }
  }

  void fill_maps_inside(const char* from, T* strip, int64_t maps, const Box& box,
                        bool bordered) const noexcept {
    const auto& [z, y, x] = layout_.axes;
    const int64_t src_y = x.src_size * src_x_;
    const int64_t src_z = y.src_size * src_y;
    const int64_t row = blocks_.strip[2];
    const int64_t slab = blocks_.strip[1] * row;
    if (!bordered) std::memset(strip, 0, static_cast<size_t>(maps * blocks_.plane) * sizeof(T));
    for (const int64_t split_z : z.splits) {
      const Reach rz = inside(0, box, split_z);
      for (const int64_t split_y : y.splits) {
        const Reach ry = inside(1, box, split_y);
        for (const int64_t split_x : x.splits) {
          const Reach rx = inside(2, box, split_x);
          MoveArgs args{};
          args.rows = rx.end - rx.begin;
          args.columns = maps;
          args.src_row = src_x_ * x.src_step;
          args.src_column = 1;
          args.dst_row = 1;
          args.dst_column = blocks_.plane;
          for (int64_t iz = rz.begin; iz < rz.end; ++iz) {
            for (int64_t iy = ry.begin; iy < ry.end; ++iy) {
              args.src = from + ((rz.at + (iz - rz.begin) * z.src_step) * src_z +
                                 (ry.at + (iy - ry.begin) * y.src_step) * src_y + rx.at * src_x_) *
                                    static_cast<int64_t>(storage_bytes(problem_.dtype));
              args.dst = strip + iz * slab + iy * row + rx.begin;
              if (args.rows > 0) load_(args);
            }
          }
          strip += blocks_.strip[0] * slab;
        }
      }
    }
  }

  // A row of the source at a time: all splits along x together where they are neighbours.
  void fill_maps_apart(const char* from, T* strip, int64_t maps, const Box& box,
                       bool bordered) const noexcept {
    const auto& [z, y, x] = layout_.axes;
    const auto element = static_cast<int64_t>(storage_bytes(problem_.dtype));
    const int64_t row = blocks_.strip[2];
    const int64_t slab = blocks_.strip[1] * row;
    const int64_t split_step = blocks_.strip[0] * slab;
    const auto splits = static_cast<int64_t>(x.splits.size());
    const int64_t together =
        splits == x.src_step && splits <= kMostTogether ? std::max<int64_t>(splits, 1) : 1;
    for (int64_t first = 0; first < splits; first += together) {
      Reach reach[kMostTogether];
      Reach all{0, INT64_MAX, 0};  // of every split
      for (int64_t i = 0; i < together; ++i) {
        reach[i] = inside(2, box, x.splits[static_cast<size_t>(first + i)]);
        all.begin = std::max(all.begin, reach[i].begin);
        all.end = std::min(all.end, reach[i].end);
      }
      all.end = std::max(all.end, all.begin);
      MoveArgs args{};
      args.src_column = together > 1 ? 1 : x.src_step;
      args.dst_column = together > 1 ? split_step : 1;
      const int64_t skipped = (all.begin - reach[0].begin) * x.src_step + reach[0].at;
      for (int64_t map = 0; map < maps; ++map) {
        T* to = strip + map * blocks_.plane + first * split_step;
        for (const int64_t split_z : z.splits) {
          const Reach rz = inside(0, box, split_z);
          for (const int64_t split_y : y.splits) {
            const Reach ry = inside(1, box, split_y);
            for (int64_t iz = 0; iz < blocks_.strip[0]; ++iz) {
              T* const rows = to + iz * slab;
              const bool some = iz >= rz.begin && iz < rz.end && ry.begin < ry.end;
              const int64_t begin = some ? ry.begin : blocks_.strip[1];
              const int64_t end = some ? ry.end : blocks_.strip[1];
              const int64_t line =
                  map * src_map_ + ((rz.at + (iz - rz.begin) * z.src_step) * y.src_size + ry.at) * x.src_size;
              for (int64_t i = 0; i < together && !bordered; ++i) {
                T* const part = rows + i * split_step;
                std::fill(part, part + begin * row, T{0});
                std::fill(part + end * row, part + slab, T{0});
                for (int64_t iy = begin; iy < end; ++iy) {
                  fill_ends(from + (line + (iy - begin) * y.src_step * x.src_size) * element, part + iy * row,
                            reach[i], all);
                }
              }
              args.src = from + (line + skipped) * element;
              args.dst = rows + begin * row + all.begin;
              if (together > 1) {
                args.rows = all.end - all.begin;
                args.columns = together;
                args.src_row = x.src_step;
                args.dst_row = 1;
                for (int64_t iy = begin; args.rows > 0 && iy < end; ++iy) {
                  load_(args);
                  args.src = static_cast<const char*>(args.src) + y.src_step * x.src_size * element;
                  args.dst = static_cast<T*>(args.dst) + row;
                }
              } else if (begin < end && all.begin < all.end) {
                args.rows = end - begin;
                args.columns = all.end - all.begin;
                args.src_row = y.src_step * x.src_size;
                args.dst_row = row;
                load_(args);
              }
            }
            to += splits * split_step;
          }
        }
      }
    }
  }

  // What a row of one split holds beside the places of all: zeros, or the few that only some splits have.
  void fill_ends(const char* line, T* row, const Reach& reach, const Reach& all) const noexcept {
    std::fill(row, row + reach.begin, T{0});
    std::fill(row + reach.end, row + blocks_.strip[2], T{0});
    const auto copy = [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        MoveArgs args{};
        args.src = line + (reach.at + (i - reach.begin) * layout_.axes[2].src_step) *
                              static_cast<int64_t>(storage_bytes(problem_.dtype));
        args.dst = row + i;
        args.rows = args.columns = 1;
        load_(args);
      }
    };
    copy(reach.begin, std::min(all.begin, reach.end));
    copy(std::max(all.end, reach.begin), reach.end);
  }

  // `from` is where the first position of the block has its lowest shift, maps lie `map_step` apart.
  void multiply(const T* weights, const T* bias, const Worker& w, const T* from, int64_t map_step,
                int64_t map, int64_t maps, int64_t last, const Ahead& ahead, Pace& pace) const noexcept {
    const auto& [z, y, x] = layout_.axes;
    TapsArgs args{};
    args.b_offset = w.b_offset;
    args.depth = maps;
    args.b_step = map_step;
    args.c = w.rows;
    args.ahead_step = ahead.step;
    const int64_t ahead_bytes = ahead.bytes * gemm_.lanes / blocks_.length;  // of each map, in a call
    args.accumulate = map > 0;
    const bool final_chunk = map + maps >= layout_.depth_maps;
    const auto splits_y = static_cast<int64_t>(y.splits.size());
    const auto splits_x = static_cast<int64_t>(x.splits.size());
    const Class* before[kAxes] = {};
    for (const auto& tile : layout_.tiles) {
      const auto& [cz, cy, cx] = tile.axis;
      if (cz != before[0] || cy != before[1] || cx != before[2]) {
        int64_t tap = 0;
        for (size_t tz = 0; tz < cz->shifts.size(); ++tz) {
          for (size_t ty = 0; ty < cy->shifts.size(); ++ty) {
            for (size_t tx = 0; tx < cx->shifts.size(); ++tx) {
              const int64_t split = (cz->planes[tz] * splits_y + cy->planes[ty]) * splits_x + cx->planes[tx];
              w.b_offset[tap++] = ((split * blocks_.strip[0] + cz->shifts[tz] - z.low) * blocks_.strip[1] +
                                   cy->shifts[ty] - y.low) *
                                      blocks_.strip[2] +
                                  cx->shifts[tx] - x.low;
            }
          }
        }
        std::copy(tile.axis, tile.axis + kAxes, before);
      }
      args.a = weights + (tile.first_tap * layout_.depth_maps + tile.taps * map) * gemm_.rows;
      // The first tile fetches for all.
      args.ahead_lines = tile.first_row == 0 && ahead.from != nullptr
                             ? static_cast<int32_t>(std::min<int64_t>(ahead_bytes / 64 + 1, kMostLinesAhead))
                             : 0;
      args.taps = tile.taps;
      args.rows = static_cast<int32_t>(tile.rows);
      if (final_chunk && bias != nullptr) args.bias = bias + (&tile - layout_.tiles.data()) * gemm_.rows;
      for (int64_t r = 0; r < tile.rows; ++r) {
        w.rows[r] = w.result + layout_.rows[static_cast<size_t>(tile.first_row + r)].stream * blocks_.length;
      }
      for (int64_t position = 0; position < last; position += gemm_.lanes) {
        args.b = from + position;
        args.ahead = ahead.from + ahead.bytes * position / blocks_.length;
        gemm_(args);
        for (int64_t r = 0; r < tile.rows; ++r) w.rows[r] = static_cast<T*>(w.rows[r]) + gemm_.lanes;
      }
      if (pace.stopped(tile.taps * maps * last)) return;
    }
  }

  void store_block(void* out, const T* result, int64_t sample, int64_t group, const Box& box) const noexcept {
    const auto& [z, y, x] = layout_.axes;
    const bool maps_inside = dst_map_ == 1 && dst_x_ != 1;
    const int64_t dst_y = x.dst_size * dst_x_;
    const int64_t dst_z = y.dst_size * dst_y;
    const int64_t base = sample * dst_sample_ + group * layout_.column_maps * dst_map_;
    const Whole whole = whole_of(box);
    for (int64_t qz = 0; qz < box.size[0]; ++qz) {
      for (int64_t rz = 0; rz < z.dst_step; ++rz) {
        const int64_t at_z = (z.first + box.begin[0] + qz) * z.dst_step + rz - z.pad;
        if (at_z < 0 || at_z >= z.dst_size) continue;
        for (int64_t qy = 0; qy < box.size[1]; ++qy) {
          for (int64_t ry = 0; ry < y.dst_step; ++ry) {
            const int64_t at_y = (y.first + box.begin[1] + qy) * y.dst_step + ry - y.pad;
            if (at_y < 0 || at_y >= y.dst_size) continue;
            const int64_t residue = (rz * y.dst_step + ry) * x.dst_step;
            const T* from = result + (qz * blocks_.strip[1] + qy) * blocks_.strip[2];
            const int64_t to = base + at_z * dst_z + at_y * dst_y;
            if (!maps_inside) {
              for (int64_t map = 0; map < layout_.column_maps; ++map) {
                store_row(out, from + (map * layout_.residues + residue) * blocks_.length,
                          to + map * dst_map_, 1, box, whole);
              }
            } else if (layout_.groups == 1) {
              store_row(out, from + residue * layout_.column_maps * blocks_.length, to, layout_.column_maps,
                        box, whole);
            } else {
              store_maps(out, from + residue * layout_.column_maps * blocks_.length, to, box);
            }
          }
        }
      }
    }
  }

  // Positions of a row: the output has all residues of those in [begin, end).
  struct Whole {
    int64_t origin;  // of the first position, maybe outside
    int64_t begin;
    int64_t end;
  };
  Whole whole_of(const Box& box) const noexcept {
    const LaneAxis& x = layout_.axes[2];
    const int64_t step = x.dst_step;
    const int64_t origin = (x.first + box.begin[2]) * step - x.pad;
    const int64_t begin = std::min(box.size[2], std::max<int64_t>(0, ceil_div(-origin, step)));
    return {origin, begin, std::max(begin, std::min(box.size[2], floor_div(x.dst_size - origin, step)))};
  }

  // One row of the output, `unit` elements a place; the streams of its residues lie one after another.
  void store_row(void* out, const T* from, int64_t to, int64_t unit, const Box& box,
                 const Whole& whole) const noexcept {
    const LaneAxis& x = layout_.axes[2];
    const int64_t step = x.dst_step;
    const auto [origin, begin, end] = whole;
    move_rows(out, from + begin, to + (origin + begin * step) * unit, step * unit, end - begin, step * unit);
    // Positions at either end of which the output has only some residues.
    for (int64_t q = 0; q < box.size[2]; ++q) {
      if (q == begin) q = end;
      if (q >= box.size[2]) break;
      const int64_t first = std::clamp<int64_t>(-(origin + q * step), 0, step);
      const int64_t last = std::clamp<int64_t>(x.dst_size - (origin + q * step), first, step);
      if (problem_.dtype == compute_dtype(problem_.dtype)) {
        // Too few for a call of a kernel.
        T* const place = static_cast<T*>(out) + to + (origin + q * step) * unit;
        for (int64_t i = first * unit; i < last * unit; ++i) place[i] = from[i * blocks_.length + q];
      } else {
        move_rows(out, from + first * unit * blocks_.length + q, to + (origin + q * step + first) * unit,
                  (last - first) * unit, 1, step * unit);
      }
    }
  }

  // The maps of a group where all groups' maps are innermost.
  void store_maps(void* out, const T* from, int64_t to, const Box& box) const noexcept {
    const LaneAxis& x = layout_.axes[2];
    for (int64_t residue = 0; residue < x.dst_step; ++residue) {
      const int64_t origin = (x.first + box.begin[2]) * x.dst_step + residue - x.pad;
      const int64_t begin = std::min(box.size[2], std::max<int64_t>(0, ceil_div(-origin, x.dst_step)));
      const int64_t end =
          std::max(begin, std::min(box.size[2], floor_div(x.dst_size - 1 - origin, x.dst_step) + 1));
      move_rows(out, from + residue * layout_.column_maps * blocks_.length + begin,
                to + (origin + begin * x.dst_step) * dst_x_, layout_.column_maps, end - begin,
                x.dst_step * dst_x_);
    }
  }

  // Rows of results become neighbours in the output: out[to + row + column * step].
  void move_rows(void* out, const T* from, int64_t to, int64_t rows, int64_t columns,
                 int64_t step) const noexcept {
    if (rows <= 0 || columns <= 0) return;
    MoveArgs args{};
    args.src = from;
    args.src_row = blocks_.length;
    args.src_column = 1;
    args.dst = static_cast<char*>(out) + to * static_cast<int64_t>(storage_bytes(problem_.dtype));
    args.dst_row = 1;
    args.dst_column = step;
    args.rows = rows;
    args.columns = columns;
    store_(args);
  }

  Problem problem_;
  Activate activate_;
  Layout layout_;
  const Kernel& gemm_;
  const Kernel& gather_;
  const Kernel& load_;
  const Kernel& store_;
  Blocks blocks_;
  bool plain_;
  int64_t src_maps_;
  int64_t dst_maps_;
  // Elements from one to the next.
  int64_t src_x_;
  int64_t src_map_;
  int64_t src_sample_;
  int64_t dst_x_;
  int64_t dst_map_;
  int64_t dst_sample_;
  int64_t pack_groups_ = 1;
  int threads_ = 1;
  size_t workspace_ = 0;
};

std::optional<std::string> refusal(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const bool forward = problem.pass == Pass::forward;
  int64_t rows = (forward ? g.filters : g.channels) / g.groups;
  for (const Axis& axis : g.axes) {
    if (axis.stride > kMostRows) return "stride above " + std::to_string(kMostRows);
    if (forward) rows *= axis.stride;
    if (rows > kMostRows) return "more than " + std::to_string(kMostRows) + " output maps and phases";
  }
  if (g.taps() > kMostTaps) return "more than " + std::to_string(kMostTaps) + " taps";
  for (const Axis& axis : g.axes) {
    const LaneAxis lane(axis, problem.pass);
    if (lane.irregular) return "stride and dilation make too many kinds of phases";
    if (lane.halo > 4 * lane.positions + 256) return "kernel far longer than the image";
  }
  return std::nullopt;
}

// The arrays once; those of gradients are charged with what moves them, unless maps that lie apart are taken
// apart.
double array_seconds(const Problem& problem) {
  const bool moved = problem.pass == Pass::data_gradient && machine::stays_near(problem) &&
                     takes_apart(problem) == problem.geometry.channels_last;
  return machine::traffic_seconds(problem) * (moved ? 0.4 : 1);
}

// All products at full speed, and what cost() adds for arrays and what is stored.
double least_seconds(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const auto made = static_cast<double>(problem.pass == Pass::forward ? g.large_elements() : 0);
  return machine::least_seconds(problem) +
         made / machine::lanes(compute_dtype(problem.dtype), problem.isa) * moves(problem).store +
         array_seconds(problem);
}

double cost(const Problem& problem) {
  const Layout layout(problem);
  const Kernel& gemm = *layout.gemm;
  const double width = machine::lanes(gemm.dtype, gemm.isa);
  const Geometry& g = problem.geometry;
  const Moves& move = moves(problem);
  const auto units = static_cast<double>(g.batch * layout.groups);
  int64_t whole[kAxes];
  double positions = 1;
  for (int a = 0; a < kAxes; ++a) {
    whole[a] = layout.axes[a].positions;
    positions *= static_cast<double>(whole[a]);
  }
  const Blocks blocks = cut_blocks(layout, reads_plain(problem, layout), [](const Blocks&) { return true; });
  const auto count = static_cast<double>(blocks.blocks());
  const double tiles = count * static_cast<double>(blocks.length) / gemm.lanes;
  const double calls = tiles * static_cast<double>(layout.tile_count);
  const auto held = [&](int64_t elements) {
    return static_cast<double>(elements) * compute_bytes(gemm.dtype) < machine::kSecondCacheBytes;
  };
  // Residues of a stride are taken apart on the way, long strides by turning squares; all the slower where
  // the second cache, or the last, does not hold the source.
  const int64_t step = layout.axes[2].src_step;
  const bool near = held(g.small_elements() + g.large_elements());
  const bool far = !machine::stays_near(problem);
  const bool wide =
      static_cast<double>(g.large_elements()) * compute_bytes(gemm.dtype) > machine::kLastCacheBytes / 4;
  const double one_by_one = (g.channels_last ? (near ? 1.8 : wide ? 12 : 2.6) : 1.4) * (far ? 2.5 : 1);
  const double apart = step == 1 ? 1 : step < 8 ? one_by_one : near ? 5 : 18;
  // Where maps are innermost and a group has few, they are loaded and stored alone, from a line that the
  // second cache does not keep for the next group where there are many.
  const bool kept = held((g.small_positions() + g.large_positions()) * g.channels);
  const auto alone = [&](int64_t maps) {
    if (!g.channels_last || layout.groups == 1) return 1.0;
    if (step > 1) return width * (step >= 8 && !near ? 5 : far ? 1 : 0.4);
    return std::max(1.0, width * (kept ? 0.6 : 1.5) / std::min(width, static_cast<double>(maps)));
  };
  const double loaded = count * static_cast<double>(layout.depth_maps * blocks.plane) / width *
                        std::max(apart, alone(layout.depth_maps));
  // Weights beyond the second cache are read again for each block of results.
  const double weights = static_cast<double>(layout.group_elements()) * compute_bytes(gemm.dtype);
  const double rounds =
      std::ceil(positions * static_cast<double>(layout.streams) * compute_bytes(gemm.dtype) / kResultBytes);
  const double again = weights > kResultBytes ? rounds * weights / machine::kReadBytesPerSecond : 0;
  // Packing gathers them one by one.
  const double packing = problem.packed || problem.pass == Pass::data_gradient
                             ? 0
                             : static_cast<double>(g.weight_elements()) * kWeightSeconds;
  const double stored =
      positions * static_cast<double>(layout.streams) / width * (step > 1 ? 1 : alone(layout.column_maps));
  const auto& [z, y, x] = layout.axes;
  const double rows = static_cast<double>(z.dst_size * y.dst_size) *
                      static_cast<double>(g.channels_last ? 1 : layout.column_maps);
  // Rows of strips that are filled, and of results.
  const double fills =
      count * static_cast<double>(layout.depth_maps * layout.splits() * blocks.strip[0] * blocks.strip[1]) *
      move.fill;
  const double results = static_cast<double>(layout.streams * whole[0] * whole[1]) * move.result;
  return units * (kUnitSeconds + fills + results +
                  tiles * static_cast<double>(layout.depth_maps) * layout.step_seconds(gemm) +
                  calls * move.call + loaded * move.load + stored * move.store + rows * move.row + again) +
         packing + array_seconds(problem);
}

}  // namespace

extern const Algorithm position_lanes;
const Algorithm position_lanes{"position_lanes", refusal, cost, make_computed<PositionLanes>, false,
                               least_seconds};

}  // namespace tconv
