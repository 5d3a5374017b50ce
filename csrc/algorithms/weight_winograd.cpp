// Weight gradient by Winograd's algorithm on the phases of the stride: a tile of small positions stands where
// taps do, the taps of a phase are the outputs. Every point is a matrix product whose depth is tiles; points
// turn into taps once for each block of tiles. Sums are never shared out.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "winograd_weight_abi.hpp"

namespace tconv {
namespace {

constexpr int64_t kRows = 48;  // channels of a block; every tile of the product kernels divides it well
constexpr int64_t kMostTaps = 4096;
constexpr int64_t kFewMaps = 8;
constexpr int64_t kStripBytes = 32 << 10;
constexpr int64_t kPointBytes = 1536 << 10;
constexpr int64_t kBandTiles = 32;
constexpr size_t kSumBytes = 2 << 20;
constexpr double kStripSeconds = 20 / machine::kHertz;  // of a vector, mostly read from afar

// Taps of an axis that are summed alike: from each of `first`, every stride-th.
struct Class {
  WinogradTile tile;
  std::vector<int64_t> first;

  int64_t points() const noexcept { return kWinogradPoints[tile]; }
  int64_t outputs() const noexcept { return kWinogradOutputs[tile]; }
  int64_t length() const noexcept { return kWinogradTaps[tile]; }  // positions of a tile
};

// `longest`: tiles of three positions rather than two, for two taps.
std::vector<Class> classes(const Axis& axis, bool longest) {
  std::vector<Class> made;
  const auto add = [&made](WinogradTile tile, int64_t first) {
    for (Class& c : made) {
      if (c.tile == tile) return c.first.push_back(first);
    }
    made.push_back({tile, {first}});
  };
  const bool regular = axis.dilation == 1 && axis.size > 1;
  for (int64_t k = 0; k < std::min(axis.kernel, axis.stride); ++k) {
    const int64_t taps = ceil_div(axis.kernel - k, axis.stride);
    if (regular && taps == 2) {
      add(longest ? kF23 : kF22, k);
    } else if (regular && taps == 3) {
      add(kF32, k);
    } else {
      for (int64_t tap = k; tap < axis.kernel; tap += axis.stride) add(kPlain, tap);
    }
  }
  for (Class& c : made) std::sort(c.first.begin(), c.first.end());
  return made;
}

// One class of each axis.
struct Combination {
  const Class* axis[kAxes];

  template <class Of>
  int64_t product(const Of& of) const {
    return of(0) * of(1) * of(2);
  }
  int64_t points() const {
    return product([&](int a) { return axis[a]->points(); });
  }
  int64_t bases() const {
    return product([&](int a) { return static_cast<int64_t>(axis[a]->first.size()); });
  }
  int64_t tiles(const Geometry& g, int a) const { return ceil_div(g.axes[a].size, axis[a]->length()); }
  int64_t tiles(const Geometry& g) const {
    return g.batch * product([&](int a) { return tiles(g, a); });
  }
};

struct Layout {
  std::vector<Class> classes[kAxes];
  std::vector<Combination> combinations;
  const Kernel* gemm = nullptr;
  double seconds = 0;

  explicit Layout(const Problem& problem) {
    const Geometry& g = problem.geometry;
    for (int longest = 0; longest < 8; ++longest) {
      bool differs = true;
      std::vector<Class> some[kAxes];
      for (int a = 0; a < kAxes; ++a) {
        some[a] = tconv::classes(g.axes[a], longest >> a & 1);
        const auto two = [](const Class& c) { return c.tile == kF23; };
        if (longest >> a & 1) differs &= std::any_of(some[a].begin(), some[a].end(), two);
      }
      if (!differs) continue;
      const auto all = combine(some);
      for (const Kernel& kernel : kernels(Family::gemm, compute_dtype(problem.dtype), problem.isa)) {
        const double cost = cost_of(problem, all, kernel);
        if (gemm == nullptr || cost < seconds) {
          gemm = &kernel;
          seconds = cost;
          for (int a = 0; a < kAxes; ++a) classes[a] = some[a];
        }
      }
    }
    combinations = combine(classes);
  }
  // Combinations point into the classes.
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;

  bool plain() const {
    return std::all_of(std::begin(classes), std::end(classes), [](const std::vector<Class>& some) {
      return std::all_of(some.begin(), some.end(), [](const Class& c) { return c.tile == kPlain; });
    });
  }

 private:
  static std::vector<Combination> combine(const std::vector<Class> (&some)[kAxes]) {
    std::vector<Combination> made;
    for (const Class& z : some[0]) {
      for (const Class& y : some[1]) {
        for (const Class& x : some[2]) made.push_back({{&z, &y, &x}});
      }
    }
    return made;
  }

  static double cost_of(const Problem& problem, const std::vector<Combination>& all, const Kernel& kernel) {
    const Geometry& g = problem.geometry;
    const int64_t channels = g.channels / g.groups;
    const int64_t filters = g.filters / g.groups;
    const double width = machine::lanes(kernel.dtype, kernel.isa);
    const auto panels = static_cast<double>(ceil_div(filters, kernel.lanes));
    const int64_t blocks = ceil_div(channels, kRows);
    const double rows = static_cast<double>(channels / kRows) * machine::rows_step_seconds(kernel, kRows) +
                        (channels % kRows ? machine::rows_step_seconds(kernel, channels % kRows) : 0);
    double sum = 0;
    for (const Combination& c : all) {
      const auto tiles = static_cast<double>(c.tiles(g));
      const auto points = static_cast<double>(c.points());
      const auto bases = static_cast<double>(c.bases());
      const double vectors = panels * kernel.lanes / width;
      // Tiles fall into blocks whose points stay near.
      const double rounds =
          std::ceil(tiles * points * static_cast<double>(channels) *
                    static_cast<double>(compute_bytes(problem.dtype)) / static_cast<double>(kPointBytes));
      const double calls =
          panels * bases * points * static_cast<double>(blocks * ceil_div(kRows, kernel.rows));
      sum += tiles * points * bases * panels * rows;
      sum += rounds * (calls * machine::kCallSeconds +
                       3 * static_cast<double>(channels) * vectors * points * bases / machine::kHertz);
      sum +=
          tiles * points * (bases * vectors + static_cast<double>(channels) / width) * machine::kCopySeconds;
      // Strips of both sides, by whole vectors of maps, for each combination anew.
      const double small = std::ceil(static_cast<double>(channels) / width);
      const double large = std::ceil(static_cast<double>(filters) / width);
      sum += static_cast<double>(g.batch) *
             (static_cast<double>(g.small_positions()) * small +
              static_cast<double>(g.large_positions()) * large) *
             kStripSeconds;
    }
    return sum * static_cast<double>(g.groups) +
           static_cast<double>(g.weight_elements()) / width * machine::kScatterSeconds +
           machine::traffic_seconds(problem);
  }
};

template <class T>
class WeightWinograd final : public Recipe {
 public:
  explicit WeightWinograd(const Problem& problem)
      : problem_(problem),
        layout_(problem),
        gemm_(*layout_.gemm),
        strip_(tconv::kernel(Family::strip, problem.dtype, problem.isa)),
        window_(tconv::kernel(Family::winogradin, compute_dtype(problem.dtype), problem.isa)),
        taps_kernel_(tconv::kernel(Family::winogradtaps, compute_dtype(problem.dtype), problem.isa)),
        sum_(tconv::kernel(Family::winogradsum, compute_dtype(problem.dtype), problem.isa)),
        store_(tconv::kernel(Family::store, problem.dtype, problem.isa)),
        vector_(static_cast<int64_t>(machine::lanes(gemm_.dtype, gemm_.isa))),
        channels_(problem.geometry.channels / problem.geometry.groups),
        filters_(problem.geometry.filters / problem.geometry.groups),
        taps_(problem.geometry.taps()),
        blocks_(ceil_div(channels_, kRows)),
        panels_(ceil_div(filters_, gemm_.lanes)) {
    cut();
  }

  std::string kernel() const override { return gemm_.name; }
  size_t workspace_bytes() const noexcept override { return workspace_; }
  size_t least() const noexcept { return least_; }

  bool run(const Call& call) const override {
    const Buffer scratch(workspace_);
    Arrays arrays{};
    lay_out(scratch.data(), &arrays);
    // Lanes that no map fills.
    std::memset(scratch.data(), 0, static_cast<size_t>(arrays.workers - scratch.data()));
    call.crew.limit(threads_);
    const Geometry& g = problem_.geometry;
    std::atomic<bool> finite{true};
    const int64_t bands = most_bands();
    for (int64_t group = 0; group < g.groups; ++group) {
      for (int64_t panel = 0; panel < panels_; panel += panel_part_) {
        const int64_t panels = std::min(panel_part_, panels_ - panel);
        for (const Combination& c : layout_.combinations) {
          const Bands all(*this, c);
          for (int64_t first = 0; first < all.count; first += block_) {
            const int64_t count = std::min(block_, all.count - first);
            const bool once = layout_.combinations.size() == 1 && bands <= block_ && panel > 0;
            stage(call, arrays, c, all, {group, panel, panels, first, count}, once, finite);
            if (!finite.load()) return false;
            multiply(call, arrays, c, all, {group, panel, panels, first, count}, first > 0);
          }
        }
        finish(call, arrays.sums, group, panel, panels);
      }
    }
    return true;
  }

 private:
  // Rows of tiles along x, cut to a length whose strip stays near; a combination's tiles in order.
  struct Bands {
    int64_t tiles[kAxes];
    int64_t length;  // tiles of a band
    int64_t along;   // bands of a row
    int64_t count;

    Bands(const WeightWinograd& recipe, const Combination& c) {
      const Geometry& g = recipe.problem_.geometry;
      for (int a = 0; a < kAxes; ++a) tiles[a] = c.tiles(g, a);
      length = recipe.band_tiles(c);
      along = ceil_div(tiles[2], length);
      length = ceil_div(tiles[2], along);
      count = g.batch * tiles[0] * tiles[1] * along;
    }
  };
  struct Band {
    int64_t sample;
    int64_t tile[kAxes];
    int64_t tiles;
  };
  struct Part {
    int64_t group;
    int64_t panel, panels;
    int64_t band, bands;
  };
  struct Arrays {
    T* small;  // [block of channels][point][tile][channel of the block]
    T* large;  // [panel][base][point][tile][lane]
    T* sums;   // [tap][panel][channel][lane]
    char* workers;
  };

  static Band band_at(const Bands& all, int64_t index) noexcept {
    Band band{};
    band.tile[2] = index % all.along * all.length;
    band.tiles = std::min(all.length, all.tiles[2] - band.tile[2]);
    index /= all.along;
    band.tile[1] = index % all.tiles[1];
    index /= all.tiles[1];
    band.tile[0] = index % all.tiles[0];
    band.sample = index / all.tiles[0];
    return band;
  }

  // Positions of the strip of a band on the large side.
  int64_t window(const Combination& c, int a, int64_t tiles) const noexcept {
    const Axis& axis = problem_.geometry.axes[a];
    const Class& k = *c.axis[a];
    return ((tiles - 1) * k.length() + k.points() - 1) * axis.stride +
           (k.first.back() - k.first.front()) * axis.dilation + 1;
  }
  int64_t strip_elements(const Combination& c, int64_t tiles) const noexcept {
    const int64_t large = window(c, 0, 1) * window(c, 1, 1) * window(c, 2, tiles);
    const int64_t small = c.axis[0]->length() * c.axis[1]->length() * c.axis[2]->length() * tiles;
    return std::max(large, small) * vector_;
  }
  int64_t band_tiles(const Combination& c) const noexcept {
    int64_t tiles = std::min(kBandTiles, c.tiles(problem_.geometry, 2));
    while (tiles > 1 && strip_elements(c, tiles) * static_cast<int64_t>(sizeof(T)) > kStripBytes) --tiles;
    return tiles;
  }

  template <class Of>
  int64_t most(const Of& of) const {
    int64_t found = 0;
    for (const Combination& c : layout_.combinations) found = std::max<int64_t>(found, of(c));
    return found;
  }
  int64_t most_bands() const {
    return most([&](const Combination& c) { return Bands(*this, c).count; });
  }
  int64_t worker_elements() const {
    return most([&](const Combination& c) { return strip_elements(c, band_tiles(c)); });
  }
  int64_t product_elements() const {
    return most([&](const Combination& c) { return c.points() * kRows * gemm_.lanes; });
  }
  size_t worker_bytes() const {
    return aligned(static_cast<size_t>(worker_elements()) * sizeof(T)) +
           aligned(static_cast<size_t>(product_elements()) * sizeof(T)) +
           aligned(static_cast<size_t>(gemm_.rows) * 8);
  }

  // Hands out the arrays from `memory` on; returns the end.
  char* lay_out(char* memory, Arrays* made) const {
    const auto claim = [&memory](T** part, int64_t elements) {
      *part = reinterpret_cast<T*>(memory);
      memory += aligned(static_cast<size_t>(elements) * sizeof(T));
    };
    claim(&made->small, most([&](const Combination& c) {
      return blocks_ * kRows * c.points() * block_ * Bands(*this, c).length;
    }));
    claim(&made->large, most([&](const Combination& c) {
      return panel_part_ * gemm_.lanes * c.bases() * c.points() * block_ * Bands(*this, c).length;
    }));
    claim(&made->sums, taps_ * panel_part_ * gemm_.lanes * channels_);
    made->workers = memory;
    return memory + worker_bytes() * static_cast<size_t>(threads_);
  }
  size_t total() const {
    Arrays made{};
    return static_cast<size_t>(lay_out(nullptr, &made) - static_cast<char*>(nullptr));
  }

  void cut() {
    threads_ = 1;
    block_ = 1;
    panel_part_ = 1;
    least_ = workspace_ = total();
    if (least_ > problem_.workspace) return;
    const int64_t bands = most_bands();
    // Bands whose points stay near.
    const auto band_bytes = most([&](const Combination& c) {
      return (blocks_ * kRows + gemm_.lanes * c.bases()) * c.points() * Bands(*this, c).length *
             static_cast<int64_t>(sizeof(T));
    });
    block_ = std::clamp<int64_t>(kPointBytes / band_bytes, 1, bands);
    block_ = ceil_div(bands, ceil_div(bands, block_));
    while (block_ > 1 && total() > problem_.workspace) --block_;
    const auto panel_bytes = static_cast<size_t>(taps_ * gemm_.lanes * channels_) * sizeof(T);
    panel_part_ = std::clamp<int64_t>(static_cast<int64_t>(kSumBytes / panel_bytes), 1, panels_);
    panel_part_ = ceil_div(panels_, ceil_div(panels_, panel_part_));
    while (panel_part_ > 1 && total() > problem_.workspace) --panel_part_;
    threads_ = problem_.threads;
    while (threads_ > 1 && total() > problem_.workspace) --threads_;
    workspace_ = total();
  }

  // Transforms both sides of some bands; only the large one where the small one is there from before.
  void stage(const Call& call, const Arrays& arrays, const Combination& c, const Bands& all, const Part& part,
             bool large_only, std::atomic<bool>& finite) const {
    const int64_t small_groups = large_only ? 0 : ceil_div(channels_, vector_);
    const int64_t filters =
        std::min(filters_, (part.panel + part.panels) * gemm_.lanes) - part.panel * gemm_.lanes;
    const int64_t groups = small_groups + ceil_div(filters, vector_);
    const double seconds =
        static_cast<double>(groups * part.bands * all.length * vector_ * c.points() * c.bases()) * sizeof(T) /
        machine::kStoreBytesPerSecond;
    call.crew.share(groups * part.bands, seconds, [&](int64_t unit, int member) noexcept {
      const int64_t index = unit % part.bands;
      const Band band = band_at(all, part.band + index);
      T* strip = reinterpret_cast<T*>(arrays.workers + static_cast<size_t>(member) * worker_bytes());
      bool good = true;
      if (const int64_t group = unit / part.bands; group < small_groups) {
        transform_small(call.source, arrays.small, strip, c, part, band, index * all.length,
                        part.bands * all.length, group * vector_, &good);
      } else {
        transform_large(call.weight, arrays.large, strip, c, part, band, index * all.length,
                        part.bands * all.length, (group - small_groups) * vector_, filters, &good);
      }
      if (!good) finite.store(false, std::memory_order_relaxed);
    });
  }

  // One vector of maps: rows of a band, then points. `at` is the place of the band's first tile among
  // `depth`.
  void transform_small(const void* source, T* small, T* strip, const Combination& c, const Part& part,
                       const Band& band, int64_t at, int64_t depth, int64_t map,
                       bool* finite) const noexcept {
    const Geometry& g = problem_.geometry;
    int64_t first[kAxes];
    int64_t count[kAxes];
    for (int a = 0; a < kAxes; ++a) {
      first[a] = band.tile[a] * c.axis[a]->length();
      count[a] = c.axis[a]->length() * (a == 2 ? band.tiles : 1);
    }
    const int64_t size[kAxes] = {g.axes[0].size, g.axes[1].size, g.axes[2].size};
    fill(source, strip, g.channels, part.group * channels_ + map, std::min(vector_, channels_ - map),
         band.sample, first, count, size, finite);
    WinogradInArgs args{};
    args.src = strip;
    args.tile_step = c.axis[2]->length() * vector_;
    args.step[2] = vector_;
    args.step[1] = count[2] * vector_;
    args.step[0] = count[1] * args.step[1];
    args.point_stride = depth * kRows;
    args.tile_stride = kRows;
    args.tiles = band.tiles;
    for (int a = 0; a < kAxes; ++a) args.tile[a] = c.axis[a]->tile;
    args.dst = small + (map / kRows * c.points() * depth + at) * kRows + map % kRows;
    taps_kernel_(args);
    clear(static_cast<T*>(args.dst), args, depth / part.bands);
  }

  // Tiles that the last band of a row lacks.
  void clear(T* to, const WinogradInArgs& args, int64_t length) const noexcept {
    if (args.tiles == length) return;
    const int64_t points =
        kWinogradPoints[args.tile[0]] * kWinogradPoints[args.tile[1]] * kWinogradPoints[args.tile[2]];
    for (int64_t point = 0; point < points; ++point) {
      for (int64_t t = args.tiles; t < length; ++t) {
        std::fill_n(to + point * args.point_stride + t * args.tile_stride, vector_, T{0});
      }
    }
  }

  void transform_large(const void* grad, T* large, T* strip, const Combination& c, const Part& part,
                       const Band& band, int64_t at, int64_t depth, int64_t map, int64_t maps,
                       bool* finite) const noexcept {
    const Geometry& g = problem_.geometry;
    const auto& [z, y, x] = g.axes;
    int64_t first[kAxes];
    int64_t count[kAxes];
    for (int a = 0; a < kAxes; ++a) {
      const Axis& axis = g.axes[a];
      const Class& k = *c.axis[a];
      first[a] = band.tile[a] * k.length() * axis.stride + k.first.front() * axis.dilation - axis.pad_lo;
      count[a] = a == 2 ? window(c, 2, band.tiles) : window(c, a, 1);
    }
    const int64_t size[kAxes] = {z.out, y.out, x.out};
    fill(grad, strip, g.filters, part.group * filters_ + part.panel * gemm_.lanes + map,
         std::min(vector_, maps - map), band.sample, first, count, size, finite);
    WinogradInArgs args{};
    const int64_t row = count[2] * vector_;
    args.tile_step = c.axis[2]->length() * x.stride * vector_;
    args.step[2] = x.stride * vector_;
    args.step[1] = y.stride * row;
    args.step[0] = z.stride * count[1] * row;
    args.point_stride = depth * gemm_.lanes;
    args.tile_stride = gemm_.lanes;
    args.tiles = band.tiles;
    for (int a = 0; a < kAxes; ++a) args.tile[a] = c.axis[a]->tile;
    T* to =
        large + (map / gemm_.lanes * c.bases() * c.points() * depth + at) * gemm_.lanes + map % gemm_.lanes;
    for (const int64_t kz : c.axis[0]->first) {
      for (const int64_t ky : c.axis[1]->first) {
        for (const int64_t kx : c.axis[2]->first) {
          const int64_t dz = (kz - c.axis[0]->first.front()) * z.dilation;
          const int64_t dy = (ky - c.axis[1]->first.front()) * y.dilation;
          const int64_t dx = (kx - c.axis[2]->first.front()) * x.dilation;
          args.src = strip + (dz * count[1] + dy) * row + dx * vector_;
          args.dst = to;
          window_(args);
          clear(to, args, depth / part.bands);
          to += c.points() * depth * gemm_.lanes;
        }
      }
    }
  }

  // Rows of one vector of maps, zeros beside the array: [z][y][x][lane].
  void fill(const void* source, T* strip, int64_t all_maps, int64_t map, int64_t maps, int64_t sample,
            const int64_t (&first)[kAxes], const int64_t (&count)[kAxes], const int64_t (&size)[kAxes],
            bool* finite) const noexcept {
    const bool last = problem_.geometry.channels_last;
    const int64_t places = size[0] * size[1] * size[2];
    const int64_t step = last ? all_maps : 1;
    StripArgs args{};
    args.finite = finite;
    args.map_stride = last ? 1 : places;
    args.position_stride = step;
    args.maps = maps;
    args.first = first[2];
    args.count = count[2];
    args.size = size[2];
    for (int64_t iz = 0; iz < count[0]; ++iz) {
      for (int64_t iy = 0; iy < count[1]; ++iy) {
        T* to = strip + (iz * count[1] + iy) * count[2] * vector_;
        const int64_t z = first[0] + iz;
        const int64_t y = first[1] + iy;
        if (z < 0 || z >= size[0] || y < 0 || y >= size[1]) {
          std::memset(to, 0, static_cast<size_t>(count[2] * vector_) * sizeof(T));
          continue;
        }
        const int64_t at =
            sample * all_maps * places + map * args.map_stride + (z * size[1] + y) * size[2] * step;
        args.src =
            static_cast<const char*>(source) + at * static_cast<int64_t>(storage_bytes(problem_.dtype));
        args.dst = to;
        strip_(args);
      }
    }
  }

  void multiply(const Call& call, const Arrays& arrays, const Combination& c, const Bands& all,
                const Part& part, bool accumulate) const {
    const int64_t bases = c.bases();
    const int64_t depth = part.bands * all.length;
    const double seconds = static_cast<double>(part.panels * bases * c.points() * depth) *
                           machine::rows_step_seconds(gemm_, channels_);
    call.crew.share(part.panels * bases * blocks_, seconds, [&](int64_t unit, int member) noexcept {
      const int64_t block = unit % blocks_;
      const int64_t base = unit / blocks_ % bases;
      const int64_t panel = unit / blocks_ / bases;
      const T* large = arrays.large + (panel * bases + base) * c.points() * depth * gemm_.lanes;
      const T* small = arrays.small + block * c.points() * depth * kRows;
      char* memory = arrays.workers + static_cast<size_t>(member) * worker_bytes() +
                     aligned(static_cast<size_t>(worker_elements()) * sizeof(T));
      T* const products = reinterpret_cast<T*>(memory);
      auto** rows =
          reinterpret_cast<void**>(memory + aligned(static_cast<size_t>(product_elements()) * sizeof(T)));
      const int64_t height = std::min(kRows, channels_ - block * kRows);
      multiply_block(small, large, products, rows, height, c.points(), depth);

      WinogradSumArgs args{};
      const auto& [z, y, x] = problem_.geometry.axes;
      const int64_t of_tap = part.panels * channels_ * gemm_.lanes;
      const int64_t kx = c.axis[2]->first[static_cast<size_t>(base) % c.axis[2]->first.size()];
      const size_t rest = static_cast<size_t>(base) / c.axis[2]->first.size();
      const int64_t ky = c.axis[1]->first[rest % c.axis[1]->first.size()];
      const int64_t kz = c.axis[0]->first[rest / c.axis[1]->first.size()];
      args.src = products;
      args.dst = arrays.sums + ((kz * y.kernel + ky) * x.kernel + kx) * of_tap +
                 (panel * channels_ + block * kRows) * gemm_.lanes;
      args.tile_step = vector_;
      args.step[2] = x.stride * of_tap;
      args.step[1] = y.stride * x.kernel * of_tap;
      args.step[0] = z.stride * y.kernel * x.kernel * of_tap;
      args.point_stride = kRows * gemm_.lanes;
      args.tile_stride = vector_;
      args.tiles = height * gemm_.lanes / vector_;
      for (int a = 0; a < kAxes; ++a) args.tile[a] = c.axis[a]->tile;
      args.accumulate = accumulate;
      sum_(args);
    });
  }

  void multiply_block(const T* small, const T* large, T* products, void** rows, int64_t height,
                      int64_t points, int64_t depth) const noexcept {
    const int64_t none = 0;
    GemmArgs args{};
    args.a_offset = &none;
    args.b_offset = &none;
    args.segments = 1;
    args.depth = depth;
    args.a_step = kRows;
    args.b_step = gemm_.lanes;
    args.c = rows;
    args.lanes = gemm_.lanes;
    const int64_t tiles = ceil_div(height, gemm_.rows);
    for (int64_t point = 0; point < points; ++point) {
      args.b = large + point * depth * gemm_.lanes;
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t begin = height * tile / tiles;
        const int64_t end = height * (tile + 1) / tiles;
        args.a = small + point * depth * kRows + begin;
        args.rows = static_cast<int32_t>(end - begin);
        for (int64_t r = begin; r < end; ++r) rows[r - begin] = products + (point * kRows + r) * gemm_.lanes;
        gemm_(args);
      }
    }
  }

  // Brings the sums, [tap][panel][channel][lane], into the order of the weight.
  void finish(const Call& call, const T* sums, int64_t group, int64_t panel, int64_t panels) const {
    const bool last = problem_.geometry.channels_last;
    const auto element = static_cast<int64_t>(storage_bytes(problem_.dtype));
    const int64_t of_tap = panels * channels_ * gemm_.lanes;
    const double seconds = static_cast<double>(taps_ * of_tap) * sizeof(T) / machine::kStoreBytesPerSecond;
    call.crew.share(channels_ * panels, seconds, [&](int64_t unit, int) noexcept {
      const int64_t channel = unit / panels;
      const int64_t p = unit % panels;
      const int64_t filter = (panel + p) * gemm_.lanes;
      const int64_t lanes = std::min<int64_t>(gemm_.lanes, filters_ - filter);
      MoveArgs args{};
      args.src = sums + (p * channels_ + channel) * gemm_.lanes;
      args.dst = static_cast<char*>(call.out) +
                 ((group * channels_ + channel) * filters_ * taps_ + filter * (last ? 1 : taps_)) * element;
      args.rows = last ? taps_ : lanes;
      args.columns = last ? lanes : taps_;
      args.src_row = last ? of_tap : 1;
      args.src_column = last ? 1 : of_tap;
      args.dst_row = last ? filters_ : taps_;
      args.dst_column = 1;
      store_(args);
    });
  }

  Problem problem_;
  Layout layout_;
  const Kernel& gemm_;
  const Kernel& strip_;
  const Kernel& window_;
  const Kernel& taps_kernel_;
  const Kernel& sum_;
  const Kernel& store_;
  int64_t vector_;
  int64_t channels_;  // of a group
  int64_t filters_;   // of a group
  int64_t taps_;
  int64_t blocks_;          // of channels
  int64_t panels_;          // of filters
  int64_t block_ = 1;       // bands that are transformed at a time
  int64_t panel_part_ = 1;  // panels whose sums are kept at a time
  int threads_ = 1;
  size_t workspace_ = 0;
  size_t least_ = 0;
};

std::unique_ptr<Recipe> make(const Problem& problem) {
  if (compute_dtype(problem.dtype) == DType::f64) return std::make_unique<WeightWinograd<double>>(problem);
  return std::make_unique<WeightWinograd<float>>(problem);
}

std::optional<std::string> refusal(const Problem& problem) {
  if (problem.pass != Pass::weight_gradient) return "the pass is not the weight gradient";
  const Geometry& g = problem.geometry;
  if (g.taps() > kMostTaps) return "more than " + std::to_string(kMostTaps) + " taps";
  if (std::min(g.channels, g.filters) / g.groups < kFewMaps)
    return "fewer than " + std::to_string(kFewMaps) + " maps in a group";
  bool some = false;
  for (const Axis& axis : g.axes) {
    const int64_t taps = ceil_div(axis.kernel, axis.stride);
    some |= axis.dilation == 1 && axis.size > 1 && (taps == 2 || taps == 3) && axis.kernel > axis.stride;
  }
  if (!some) return "no axis has two or three neighbouring taps in a phase";
  const size_t least = compute_dtype(problem.dtype) == DType::f64 ? WeightWinograd<double>(problem).least()
                                                                  : WeightWinograd<float>(problem).least();
  return workspace_refusal(problem, least);
}

double cost(const Problem& problem) { return Layout(problem).seconds; }

}  // namespace

extern const Algorithm weight_winograd;
const Algorithm weight_winograd{"weight_winograd", refusal, cost, make, true};

}  // namespace tconv
