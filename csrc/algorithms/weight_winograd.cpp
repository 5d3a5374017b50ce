// Weight gradient by Winograd's algorithm on the phases of the stride: a tile of small positions stands where
// taps do, the taps of a phase are the outputs. Every point is a matrix product whose depth is tiles; points
// turn into taps once for each block of tiles. Sums are never shared out.
//
// Positions are cut into cells, which are as long along an axis as the tiles of its phases of several taps; a
// phase of one tap has a tile for each position of a cell. Where taps of a phase meet positions that lie a
// gap apart, so do those of a cell, and as many cells take turns.
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <iterator>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "algorithms/fetch_strip.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "winograd_weight_abi.hpp"

namespace tconv {
namespace {

constexpr int64_t kRows = 48;  // channels of a block; every tile of the product kernels divides it well
constexpr int64_t kMostTaps = 4096;
constexpr int64_t kFewMaps = 8;
constexpr int64_t kStripBytes = 48 << 10;
constexpr int64_t kPointBytes = 4 << 20;  // of the points that are kept at a time
constexpr int64_t kBandPositions = 96;
constexpr size_t kSumBytes = 2 << 20;
constexpr size_t kNearBytes = 512 << 10;  // of the points of a side that stay in the second cache
constexpr double kStripSeconds = 13 / machine::kHertz;   // of a vector, mostly read from afar
constexpr double kPointSeconds = 6.7 / machine::kHertz;  // of a vector transformed
// Of a vector of products turned into taps, in registers and in three dimensions.
constexpr double kSumSeconds = 5 / machine::kHertz;
constexpr double kSpaceSumSeconds = 10 / machine::kHertz;
constexpr double kFarSumSeconds = 37 / machine::kHertz;  // the same added to sums beyond the second cache
constexpr double kFarPointBytesPerSecond = 80e9;         // of points beyond it, mostly behind the products

// Taps of an axis that are summed alike: from each base, every `tap_period`-th.
struct Class {
  WinogradTile tile;
  int64_t bases = 0;
  std::vector<int64_t> first = {};  // the bases; empty before Layout::list()

  int64_t points() const noexcept { return kWinogradPoints[tile]; }
  int64_t outputs() const noexcept { return kWinogradOutputs[tile]; }
  int64_t length() const noexcept { return kWinogradTaps[tile]; }  // positions of a tile
};

// Tiles for phases of two, three and four taps, of two, three and four positions; plain where there is none.
constexpr int kLengths = 3;
constexpr WinogradTile kTiles[][kLengths] = {{kF22, kF23, kF24}, {kF32, kF33, kF34}, {kF42, kF43, kPlain}};
// About how many times the error of plain sums a tile makes, an axis, and what is tolerated in all.
constexpr double kError[][kLengths] = {{1, 1, 1.4}, {1, 1.3, 1.8}, {1.4, 1.8, 0}};
constexpr double kMostError = 3;

// Whether there are tiles for phases of so many taps.
constexpr bool tiled(int64_t taps) noexcept { return taps >= 2 && taps <= std::ssize(kTiles) + 1; }

// Of a phase of so many taps; `length`: which of the tiles above; those of one column are equally long.
WinogradTile tile_of(const Axis& axis, int64_t taps, int length) noexcept {
  const int64_t gap = axis.tap_gap();
  return gap <= kMostGap && axis.size > gap && tiled(taps) ? kTiles[taps - 2][length] : kPlain;
}

std::vector<Class> classes(const Axis& axis, int length) {
  std::vector<Class> made;
  const auto add = [&](int64_t phases, int64_t taps) {
    if (phases * taps == 0) return;
    const WinogradTile tile = tile_of(axis, taps, length);
    auto found = std::ranges::find(made, tile, &Class::tile);
    if (found == made.end()) found = made.insert(found, Class{tile});
    found->bases += tile == kPlain ? phases * taps : phases;
  };
  const int64_t period = axis.tap_period();
  const int64_t more = axis.kernel % period;  // phases of a tap more than others
  add(more, axis.kernel / period + 1);
  add(period - more, axis.kernel / period);
  return made;
}

// How an axis is cut into cells.
struct Cut {
  int64_t length = 1;  // positions of a cell
  int64_t gap = 1;     // from one to the next

  Cut() = default;
  Cut(const Axis& axis, const std::vector<Class>& classes) noexcept {
    for (const Class& c : classes) length = std::max(length, c.length());
    if (length > 1) gap = axis.tap_gap();
  }

  // Positions over which cells that take turns stretch, where a cell begins, and how many there are.
  int64_t turn() const noexcept { return length * gap; }
  int64_t start_of(int64_t cell) const noexcept { return cell / gap * turn() + cell % gap; }
  int64_t cells(int64_t positions) const noexcept {
    return positions / turn() * gap + std::min(positions % turn(), gap);
  }
  int64_t turns(int64_t positions) const noexcept { return ceil_div(positions, turn()); }
};

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
    return product([&](int a) { return axis[a]->bases; });
  }
};

// What the classes of an axis add up to.
struct AxisSums {
  Cut cut;
  double points = 0;      // of the tiles of a cell
  double bases = 0;       // of these, one for each base
  double tiles = 0;       // of a cell
  double base_tiles = 0;  // of these, one for each base
  double classes = 0;
  double all_bases = 0;       // of the classes
  double products = 0;        // points of a tile of each class, one for each base
  double plain_products = 0;  // of these, those of the plain tile
  int64_t most_points = 0;    // of a tile
  double error = 1;

  AxisSums(const Axis& axis, const std::vector<Class>& of, int of_length) noexcept
      : cut(axis, of), classes(static_cast<double>(of.size())) {
    for (const Class& c : of) {
      const auto count = static_cast<double>(c.tile == kPlain ? cut.length : 1);
      const auto base_count = static_cast<double>(c.bases);
      const auto product_count = static_cast<double>(c.points()) * base_count;
      points += count * static_cast<double>(c.points());
      bases += count * product_count;
      tiles += count;
      base_tiles += count * base_count;
      all_bases += base_count;
      products += product_count;
      if (c.tile == kPlain) plain_products += product_count;
      most_points = std::max(most_points, c.points());
      if (c.tile != kPlain) error = std::max(error, kError[c.outputs() - 2][of_length]);
    }
  }
};

struct Layout {
  int lengths[kAxes] = {};  // of the tiles of each axis
  std::vector<Class> classes[kAxes];
  Cut cuts[kAxes];
  std::vector<Combination> combinations;
  const Kernel* gemm = nullptr;
  double seconds = 0;

  explicit Layout(const Problem& problem) {
    const Geometry& g = problem.geometry;
    std::vector<AxisSums> of_length[kAxes];
    for (int a = 0; a < kAxes; ++a) {
      for (int length = 0; length < kLengths; ++length)
        of_length[a].emplace_back(g.axes[a], tconv::classes(g.axes[a], length), length);
    }
    for (int choice = 0; choice < kLengths * kLengths * kLengths; ++choice) {
      const int length[kAxes] = {choice / kLengths / kLengths, choice / kLengths % kLengths,
                                 choice % kLengths};
      bool fits = true;
      double error = 1;
      std::array<const AxisSums*, kAxes> some;
      for (int a = 0; a < kAxes; ++a) {
        some[a] = &of_length[a][length[a]];
        fits &= length[a] == 0 || some[a]->cut.length > 1;
        fits &= some[a]->most_points <= std::max(4, problem.winograd_points);
        error *= some[a]->error;
      }
      if (!fits || error > kMostError) continue;
      for (const Kernel& kernel : kernels(Family::gemm, compute_dtype(problem.dtype), problem.isa)) {
        const double cost = cost_of(problem, some, kernel);
        if (gemm != nullptr && cost >= seconds) continue;
        gemm = &kernel;
        seconds = cost;
        std::copy_n(length, kAxes, lengths);
      }
    }
    for (int a = 0; a < kAxes; ++a) {
      classes[a] = tconv::classes(g.axes[a], lengths[a]);
      cuts[a] = Cut(g.axes[a], classes[a]);
    }
    for (const Class& z : classes[0]) {
      for (const Class& y : classes[1]) {
        for (const Class& x : classes[2]) combinations.push_back({{&z, &y, &x}});
      }
    }
  }

  void list(const Geometry& g) {
    for (int a = 0; a < kAxes; ++a) {
      const Axis& axis = g.axes[a];
      for (Class& c : classes[a]) c.first.clear();
      const int64_t period = axis.tap_period();
      for (int64_t k = 0; k < std::min(axis.kernel, period); ++k) {
        const int64_t taps = ceil_div(axis.kernel - k, period);
        const WinogradTile tile = tile_of(axis, taps, lengths[a]);
        auto& first = std::ranges::find(classes[a], tile, &Class::tile)->first;
        for (int64_t i = 0; i < (tile == kPlain ? taps : 1); ++i) first.push_back(k + i * period);
      }
      for (Class& c : classes[a]) std::ranges::sort(c.first);
    }
  }
  // Combinations point into the classes.
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;

 private:
  static double cost_of(const Problem& problem, const std::array<const AxisSums*, kAxes>& some,
                        const Kernel& kernel) {
    const Geometry& g = problem.geometry;
    const int64_t channels = g.channels / g.groups;
    const int64_t filters = g.filters / g.groups;
    const double width = machine::lanes(kernel.dtype, kernel.isa);
    const auto panels = static_cast<double>(ceil_div(filters, kernel.lanes));
    const int64_t blocks = ceil_div(channels, kRows);
    const double rows = static_cast<double>(channels / kRows) * machine::rows_step_seconds(kernel, kRows) +
                        (channels % kRows ? machine::rows_step_seconds(kernel, channels % kRows) : 0);
    double cells = static_cast<double>(g.batch);
    double again = 1;  // how often a position of the large side is read
    for (int a = 0; a < kAxes; ++a) {
      const Axis& axis = g.axes[a];
      const Cut& cut = some[a]->cut;
      cells *= static_cast<double>(a == 2 ? cut.turns(axis.size) * cut.gap : cut.cells(axis.size));
      if (a < 2)
        again *= std::max(1.0, static_cast<double>((cut.length - 1) * axis.tap_period() + axis.kernel) /
                                   static_cast<double>(cut.length * axis.stride));
    }
    // Points of all tiles, of a channel and of a filter; those stay near that a round makes.
    const auto& [z, y, x] = some;
    const double points = z->points * y->points * x->points;
    const double bases = z->bases * y->bases * x->bases;
    const double vectors = panels * kernel.lanes / width;
    const double small_vectors = std::ceil(static_cast<double>(channels) / width);
    const double large_vectors = std::ceil(static_cast<double>(filters) / width);
    const auto element = static_cast<double>(compute_bytes(problem.dtype));
    const double point_bytes =
        cells * (points * static_cast<double>(blocks * kRows) + bases * kernel.lanes) * element;
    const double rounds = std::ceil(point_bytes / static_cast<double>(kPointBytes));
    // Where there are several, the small side is transformed for every part of the panels whose sums are
    // kept.
    const double panel_sums = static_cast<double>(g.taps() * blocks * kRows * kernel.lanes) * element;
    const double kept = rounds > 1 ? std::clamp(std::floor(kSumBytes / panel_sums), 1.0, panels) : panels;
    const double parts = std::ceil(panels / kept);
    double sum = cells * bases * panels * rows;
    // Every base meets all points of the small side again, of which the second cache holds some.
    const double far = std::max(0.0, 1 - machine::kSecondCacheBytes / point_bytes);
    sum += far * cells * bases * panels * static_cast<double>(channels + blocks * kernel.lanes) * element /
           kFarPointBytesPerSecond;
    sum += cells * (bases * vectors + points * parts * static_cast<double>(channels) / width) * kPointSeconds;
    const double calls = z->products * panels * static_cast<double>(blocks * ceil_div(kRows, kernel.rows)) *
                         machine::kCallSeconds;
    const double summed =
        z->plain_products * kSumSeconds + (z->products - z->plain_products) * kSpaceSumSeconds;
    sum += rounds * y->products * x->products * (calls + static_cast<double>(channels) * vectors * summed);
    const double transforms = z->base_tiles * y->base_tiles * x->all_bases * vectors +
                              z->tiles * y->tiles * x->classes * small_vectors * parts;
    const int64_t band = std::clamp<int64_t>(kBandPositions / x->cut.turn(), 1, x->cut.turns(g.axes[2].size));
    sum += cells / static_cast<double>(band) * transforms * machine::kCallSeconds;
    if (rounds > 1 && kept * panel_sums > machine::kSecondCacheBytes)
      sum += rounds * static_cast<double>(g.taps() * channels) * vectors * kFarSumSeconds;
    // Strips of both sides, by whole vectors of maps.
    sum += static_cast<double>(g.batch) *
           (static_cast<double>(g.small_positions()) * small_vectors * parts +
            static_cast<double>(g.large_positions()) * large_vectors * again) *
           kStripSeconds;
    const auto weights = static_cast<double>(g.weight_elements());
    const double arrays =
        static_cast<double>(g.small_elements()) + static_cast<double>(g.large_elements()) * again + weights;
    return sum * static_cast<double>(g.groups) + weights / width * machine::kCopySeconds +
           machine::far_seconds(problem, arrays * static_cast<double>(storage_bytes(problem.dtype)));
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

  void list() override { layout_.list(problem_.geometry); }

  std::string kernel() const override { return gemm_.name; }
  size_t workspace_bytes() const noexcept override { return workspace_; }

  bool run(const Call& call) const override {
    const Buffer scratch(workspace_);
    Arrays arrays{};
    lay_out(scratch.data(), &arrays);
    // Vectors of lanes that no map fills.
    if (panels_ * gemm_.lanes - filters_ >= vector_) {
      std::memset(arrays.large, 0, static_cast<size_t>(panel_part_ * large_elements(block_)) * sizeof(T));
    }
    call.crew.limit(threads_);
    std::atomic<bool> finite{true};
    for (int64_t group = 0; group < problem_.geometry.groups; ++group) {
      for (int64_t panel = 0; panel < panels_; panel += panel_part_) {
        const int64_t panels = std::min(panel_part_, panels_ - panel);
        for (int64_t first = 0; first < bands_; first += block_) {
          const Part part{group, panel, panels, first, std::min(block_, bands_ - first)};
          stage(call, arrays, part, panel > 0 && one_round(), finite);
          if (!finite.load()) return false;
          multiply(call, arrays, part);
        }
      }
    }
    return true;
  }

 private:
  // Some neighbouring cells along x, all that take turns, whose strip stays near.
  struct Band {
    int64_t sample;
    int64_t first[kAxes];  // of the small side
    int64_t turns;
  };
  // Positions of a side that a band reads.
  struct Window {
    int64_t sample;
    int64_t first[kAxes];
    int64_t count[kAxes];
    int64_t step[kAxes];
  };
  struct Part {
    int64_t group;
    int64_t panel, panels;
    int64_t band, bands;
  };
  struct Arrays {
    T* small;  // [combination][block of channels][point][tile][channel of the block]
    T* large;  // [combination][panel][base][point][tile][lane]
    T* sums;   // [panel][block of channels][tap][channel of the block][lane], unless there is one round
    char* workers;
  };
  struct Worker {
    T* strip;
    T* products;  // [point][channel of a block][lane]
    T* sums;      // [tap][channel of a block][lane], if there is one round
    void** rows;
  };

  bool one_round() const noexcept { return block_ == bands_; }

  Band band_at(int64_t index) const noexcept {
    Band band{};
    const int64_t turn = index % along_ * band_turns_;
    band.first[2] = turn * layout_.cuts[2].turn();
    band.turns = std::min(band_turns_, turns_ - turn);
    index /= along_;
    band.first[1] = layout_.cuts[1].start_of(index % cells_[1]);
    index /= cells_[1];
    band.first[0] = layout_.cuts[0].start_of(index % cells_[0]);
    band.sample = index / cells_[0];
    return band;
  }

  // Tiles of a combination in a cell along an axis, and in a whole band.
  int64_t tiles(const Combination& c, int a) const noexcept {
    return layout_.cuts[a].length / c.axis[a]->length();
  }
  int64_t band_tiles(const Combination& c) const noexcept {
    return tiles(c, 0) * tiles(c, 1) * tiles(c, 2) * layout_.cuts[2].gap * band_turns_;
  }

  Window small_window(const Band& band) const noexcept {
    Window made{band.sample, {}, {}, {}};
    for (int a = 0; a < kAxes; ++a) {
      const Cut& cut = layout_.cuts[a];
      made.first[a] = band.first[a];
      made.count[a] = a == 2 ? cut.turn() * band.turns : cut.length;
      made.step[a] = a == 2 ? 1 : cut.gap;
    }
    return made;
  }
  Window large_window(const Band& band) const noexcept {
    Window made{band.sample, {}, {}, {}};
    for (int a = 0; a < kAxes; ++a) {
      const Axis& axis = problem_.geometry.axes[static_cast<size_t>(a)];
      made.first[a] = band.first[a] * axis.stride - axis.pad_lo;
      made.count[a] = a == 2 ? row_window(band.turns) : window(a);
      made.step[a] = a == 2 ? 1 : axis.dilation;
    }
    return made;
  }

  // Positions of the large side that a cell meets along z or y, which lie as far apart as its taps, and that
  // some turns of cells meet along x.
  int64_t window(int a) const noexcept {
    const Axis& axis = problem_.geometry.axes[a];
    return (layout_.cuts[a].length - 1) * axis.tap_period() + axis.kernel;
  }
  int64_t row_window(int64_t turns) const noexcept {
    const Axis& x = problem_.geometry.axes[2];
    return (turns * layout_.cuts[2].turn() - 1) * x.stride + (x.kernel - 1) * x.dilation + 1;
  }
  int64_t strip_elements(int64_t turns) const noexcept {
    const int64_t large = window(0) * window(1) * row_window(turns);
    const int64_t small = layout_.cuts[0].length * layout_.cuts[1].length * layout_.cuts[2].turn() * turns;
    return std::max(large, small) * vector_;
  }

  template <class Of>
  int64_t most(const Of& of) const {
    int64_t found = 0;
    for (const Combination& c : layout_.combinations) found = std::max<int64_t>(found, of(c));
    return found;
  }
  // Elements of the points of a side of so many bands, for all combinations.
  int64_t small_elements(int64_t bands) const {
    int64_t all = 0;
    for (const Combination& c : layout_.combinations)
      all += blocks_ * kRows * c.points() * bands * band_tiles(c);
    return all;
  }
  int64_t large_elements(int64_t bands) const {
    int64_t all = 0;
    for (const Combination& c : layout_.combinations)
      all += gemm_.lanes * c.bases() * c.points() * bands * band_tiles(c);
    return all;
  }
  int64_t unit_sums() const noexcept { return taps_ * kRows * gemm_.lanes; }

  char* lay_out(char* memory, Worker* made) const {
    Pieces pieces(memory);
    made->strip = pieces.take<T>(static_cast<size_t>(strip_elements(band_turns_)) * sizeof(T));
    made->products = pieces.take<T>(
        static_cast<size_t>(most([](const Combination& c) { return c.points(); }) * kRows * gemm_.lanes) *
        sizeof(T));
    made->sums = pieces.take<T>(one_round() ? static_cast<size_t>(unit_sums()) * sizeof(T) : 0);
    made->rows = pieces.take<void*>(static_cast<size_t>(gemm_.rows) * sizeof(void*));
    return pieces.rest();
  }
  size_t worker_bytes() const {
    Worker made{};
    return static_cast<size_t>(lay_out(nullptr, &made) - static_cast<char*>(nullptr));
  }
  Worker worker(const Arrays& arrays, int member) const {
    Worker made{};
    lay_out(arrays.workers + static_cast<size_t>(member) * worker_bytes_, &made);
    return made;
  }
  char* lay_out(char* memory, Arrays* made) const {
    Pieces pieces(memory);
    made->small = pieces.take<T>(static_cast<size_t>(small_elements(block_)) * sizeof(T));
    made->large = pieces.take<T>(static_cast<size_t>(panel_part_ * large_elements(block_)) * sizeof(T));
    made->sums = pieces.take<T>(
        one_round() ? 0 : static_cast<size_t>(panel_part_ * blocks_ * unit_sums()) * sizeof(T));
    made->workers = pieces.rest();
    return made->workers + worker_bytes() * static_cast<size_t>(threads_);
  }
  size_t total() const {
    Arrays made{};
    return static_cast<size_t>(lay_out(nullptr, &made) - static_cast<char*>(nullptr));
  }

  void cut() {
    const Geometry& g = problem_.geometry;
    for (int a = 0; a < 2; ++a) cells_[a] = layout_.cuts[a].cells(g.axes[a].size);
    turns_ = layout_.cuts[2].turns(g.axes[2].size);
    const auto band = [&](int64_t turns) {
      along_ = ceil_div(turns_, turns);
      band_turns_ = ceil_div(turns_, along_);
      bands_ = g.batch * cells_[0] * cells_[1] * along_;
    };
    int64_t turns = std::clamp<int64_t>(kBandPositions / layout_.cuts[2].turn(), 1, turns_);
    while (turns > 1 && strip_elements(turns) * static_cast<int64_t>(sizeof(T)) > kStripBytes) --turns;
    threads_ = 1;
    block_ = 1;
    panel_part_ = 1;
    band(1);
    workspace_ = total();
    if (workspace_ > problem_.workspace) return;
    band(turns);
    while (turns > 1 && total() > problem_.workspace) band(--turns);
    // Bands whose points stay near.
    block_ = std::clamp<int64_t>(
        kPointBytes / ((small_elements(1) + large_elements(1)) * static_cast<int64_t>(sizeof(T))), 1, bands_);
    const auto even = [this] { block_ = ceil_div(bands_, ceil_div(bands_, block_)); };
    even();
    while (block_ > 1 && total() > problem_.workspace) --block_;
    const auto panel_bytes = static_cast<size_t>(
        (one_round() ? large_elements(block_) : blocks_ * unit_sums()) * static_cast<int64_t>(sizeof(T)));
    panel_part_ = std::clamp<int64_t>(static_cast<int64_t>(kSumBytes / panel_bytes), 1, panels_);
    panel_part_ = ceil_div(panels_, ceil_div(panels_, panel_part_));
    while (panel_part_ > 1 && total() > problem_.workspace) --panel_part_;
    threads_ = problem_.threads;
    while (threads_ > 1 && total() > problem_.workspace) --threads_;
    workspace_ = total();
    worker_bytes_ = worker_bytes();
  }

  // Transforms both sides of some bands; only the large one where the small one is there from before.
  void stage(const Call& call, const Arrays& arrays, const Part& part, bool large_only,
             std::atomic<bool>& finite) const {
    const int64_t small_groups = large_only ? 0 : ceil_div(channels_, vector_);
    const int64_t filters =
        std::min(filters_, (part.panel + part.panels) * gemm_.lanes) - part.panel * gemm_.lanes;
    const int64_t groups = small_groups + ceil_div(filters, vector_);
    const double seconds =
        static_cast<double>(small_elements(part.bands) + part.panels * large_elements(part.bands)) *
        sizeof(T) / machine::kStoreBytesPerSecond;
    call.crew.share(groups * part.bands, seconds, [&](int64_t unit, int member) noexcept {
      const int64_t index = unit % part.bands;
      const Band band = band_at(part.band + index);
      const Band next = band_at(part.band + std::min(index + 1, part.bands - 1));
      T* strip = worker(arrays, member).strip;
      bool good = true;
      if (const int64_t group = unit / part.bands; group < small_groups) {
        transform_small(call.source, arrays.small, strip, part, band, next, index, group * vector_, &good);
      } else {
        transform_large(call.weight, arrays.large, strip, part, band, next, index,
                        (group - small_groups) * vector_, filters, &good);
      }
      if (!good) finite.store(false, std::memory_order_relaxed);
    });
  }

  // One vector of maps of a band, the `index`-th of the part: rows, then points.
  void transform_small(const void* source, T* small, T* strip, const Part& part, const Band& band,
                       const Band& next, int64_t index, int64_t map, bool* finite) const noexcept {
    const Geometry& g = problem_.geometry;
    const Window window = small_window(band);
    const int64_t size[kAxes] = {g.axes[0].size, g.axes[1].size, g.axes[2].size};
    fill(source, g.small_last(), strip, g.channels, part.group * channels_ + map,
         std::min(vector_, channels_ - map), window, small_window(next), size, finite);
    for (const Combination& c : layout_.combinations) {
      const int64_t depth = part.bands * band_tiles(c);
      WinogradInArgs args{};
      args.step[2] = layout_.cuts[2].gap * vector_;
      args.step[1] = window.count[2] * vector_;
      args.step[0] = window.count[1] * args.step[1];
      args.point_stride = depth * kRows;
      args.tile_stride = kRows;
      T* const to = small + (map / kRows * c.points() * depth + index * band_tiles(c)) * kRows + map % kRows;
      transform(taps_kernel_, c, band, args, strip, vector_, to);
      small += blocks_ * kRows * c.points() * depth;
    }
  }

  // The tiles of a combination in a band; `step` are the elements between neighbours along x that are
  // positions of the small side.
  void transform(const Kernel& kernel, const Combination& c, const Band& band, WinogradInArgs args,
                 const T* strip, int64_t step, T* to) const noexcept {
    for (int a = 0; a < kAxes; ++a) args.tile[a] = c.axis[a]->tile;
    args.tile_step = c.axis[2]->length() * args.step[2];
    args.tiles = tiles(c, 2) * band.turns;
    for (int64_t z = 0; z < tiles(c, 0); ++z) {
      for (int64_t y = 0; y < tiles(c, 1); ++y) {
        for (int64_t turn = 0; turn < layout_.cuts[2].gap; ++turn) {
          args.src = strip + z * args.step[0] + y * args.step[1] + turn * step;
          args.dst = to;
          kernel(args);
          clear(to, args, tiles(c, 2) * band_turns_);
          to += tiles(c, 2) * band_turns_ * args.tile_stride;
        }
      }
    }
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

  void transform_large(const void* grad, T* large, T* strip, const Part& part, const Band& band,
                       const Band& next, int64_t index, int64_t map, int64_t maps,
                       bool* finite) const noexcept {
    const Geometry& g = problem_.geometry;
    const auto& [z, y, x] = g.axes;
    const Window window = large_window(band);
    const int64_t size[kAxes] = {z.out, y.out, x.out};
    fill(grad, g.channels_last, strip, g.filters, part.group * filters_ + part.panel * gemm_.lanes + map,
         std::min(vector_, maps - map), window, large_window(next), size, finite);
    const int64_t rows = window.count[1];
    const int64_t row = window.count[2] * vector_;
    for (const Combination& c : layout_.combinations) {
      const int64_t depth = part.bands * band_tiles(c);
      WinogradInArgs args{};
      args.step[2] = layout_.cuts[2].gap * x.stride * vector_;
      args.step[1] = y.tap_period() * row;
      args.step[0] = z.tap_period() * rows * row;
      args.point_stride = depth * gemm_.lanes;
      args.tile_stride = gemm_.lanes;
      T* to = large +
              (map / gemm_.lanes * c.bases() * c.points() * depth + index * band_tiles(c)) * gemm_.lanes +
              map % gemm_.lanes;
      for (const int64_t kz : c.axis[0]->first) {
        for (const int64_t ky : c.axis[1]->first) {
          for (const int64_t kx : c.axis[2]->first) {
            const T* const from = strip + (kz * rows + ky) * row + kx * x.dilation * vector_;
            transform(window_, c, band, args, from, x.stride * vector_, to);
            to += c.points() * depth * gemm_.lanes;
          }
        }
      }
      large += part.panels * gemm_.lanes * c.bases() * c.points() * depth;
    }
  }

  // Rows of one vector of maps, zeros beside the array: [z][y][x][lane]. Fetches those of the window `next`.
  void fill(const void* source, bool last, T* strip, int64_t all_maps, int64_t map, int64_t maps,
            const Window& window, const Window& next, const int64_t (&size)[kAxes],
            bool* finite) const noexcept {
    const auto& [sample, first, count, steps] = window;
    const auto element = static_cast<int64_t>(storage_bytes(problem_.dtype));
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
    int64_t ahead = (next.sample - sample) * all_maps;
    for (size_t a = 0; a < kAxes; ++a) ahead = ahead * size[a] + (next.first[a] - first[a]) * step;
    for (int64_t iz = 0; iz < count[0]; ++iz) {
      for (int64_t iy = 0; iy < count[1]; ++iy) {
        T* to = strip + (iz * count[1] + iy) * count[2] * vector_;
        const int64_t z = first[0] + iz * steps[0];
        const int64_t y = first[1] + iy * steps[1];
        if (z < 0 || z >= size[0] || y < 0 || y >= size[1]) {
          std::memset(to, 0, static_cast<size_t>(count[2] * vector_) * sizeof(T));
          continue;
        }
        const int64_t at =
            sample * all_maps * places + map * args.map_stride + (z * size[1] + y) * size[2] * step;
        args.src = static_cast<const char*>(source) + at * element;
        args.dst = to;
        if (ahead != 0) fetch_strip(static_cast<const char*>(args.src) + ahead * element, args, element);
        strip_(args);
      }
    }
  }

  void multiply(const Call& call, const Arrays& arrays, const Part& part) const {
    int64_t products = 0;
    for (const Combination& c : layout_.combinations)
      products += c.bases() * c.points() * part.bands * band_tiles(c);
    const double seconds =
        static_cast<double>(part.panels * products) * machine::rows_step_seconds(gemm_, channels_);
    // A thread has a run of units. Where it keeps the large side near, they meet little of the small one,
    // which would come from other cores.
    const auto bytes = [](int64_t elements) { return static_cast<size_t>(elements) * sizeof(T); };
    const bool by_block = threads_ > 1 && bytes(part.panels * large_elements(part.bands)) <= kNearBytes &&
                          bytes(small_elements(part.bands)) > kNearBytes;
    call.crew.share(part.panels * blocks_, seconds, [&](int64_t unit, int member) noexcept {
      const Worker w = worker(arrays, member);
      const int64_t panel = by_block ? unit % part.panels : unit / blocks_;
      const int64_t block = by_block ? unit / part.panels : unit % blocks_;
      T* const sums = one_round() ? w.sums : arrays.sums + (panel * blocks_ + block) * unit_sums();
      const int64_t height = std::min(kRows, channels_ - block * kRows);
      const T* small = arrays.small;
      const T* large = arrays.large;
      const bool last = part.band + part.bands == bands_;
      Ahead ahead =
          last ? weights_ahead(call, part.group, part.panel + panel, block * kRows, height) : Ahead{};
      for (const Combination& c : layout_.combinations) {
        const int64_t depth = part.bands * band_tiles(c);
        const int64_t points = c.points() * depth;
        for (int64_t base = 0; base < c.bases(); ++base) {
          multiply_block(small + block * points * kRows,
                         large + (panel * c.bases() + base) * points * gemm_.lanes, w.products, w.rows,
                         height, c.points(), depth, ahead);
          add_taps(w.products, sums, c, base, height, part.band > 0);
        }
        small += blocks_ * points * kRows;
        large += part.panels * c.bases() * points * gemm_.lanes;
      }
      if (last) finish(call, sums, part.group, part.panel + panel, block * kRows, height);
    });
  }

  // Lines of memory that come while others are multiplied, some at each call: `runs` runs of `bytes`, `step`
  // apart.
  struct Ahead {
    const char* run;
    int64_t bytes;
    int64_t step;
    int64_t runs;
    int64_t each;
    int64_t done;  // bytes of the run

    void fetch() noexcept {
      for (int64_t line = 0; line < each && runs > 0; ++line) {
        __builtin_prefetch(run + done, 1, 2);
        done += static_cast<int64_t>(kAlignment);
        if (done < bytes) continue;
        done = 0;
        run += step;
        --runs;
      }
    }
  };

  // Where finish() puts some channels, a share for each product.
  Ahead weights_ahead(const Call& call, int64_t group, int64_t panel, int64_t first,
                      int64_t height) const noexcept {
    const auto element = static_cast<int64_t>(storage_bytes(problem_.dtype));
    const int64_t taps = problem_.geometry.channels_last ? 1 : taps_;
    const int64_t filter = panel * gemm_.lanes;
    const int64_t row = (group * channels_ + first) * filters_ * taps_;
    const char* const at = static_cast<const char*>(call.out) + (row + filter * taps) * element;
    const auto before = static_cast<int64_t>(reinterpret_cast<uintptr_t>(at) % kAlignment);
    Ahead made{at - before,
               before + std::min<int64_t>(gemm_.lanes, filters_ - filter) * taps * element,
               filters_ * taps * element,
               height * taps_ / taps,
               0,
               0};
    int64_t calls = 0;
    for (const Combination& c : layout_.combinations)
      calls += c.bases() * c.points() * ceil_div(height, gemm_.rows);
    made.each = ceil_div(made.runs * ceil_div(made.bytes, static_cast<int64_t>(kAlignment)), calls);
    return made;
  }

  // Products of some channels to the taps that begin with a base.
  void add_taps(const T* products, T* sums, const Combination& c, int64_t base, int64_t height,
                bool accumulate) const noexcept {
    const auto& [z, y, x] = problem_.geometry.axes;
    const int64_t of_tap = kRows * gemm_.lanes;
    const int64_t kx = c.axis[2]->first[static_cast<size_t>(base) % c.axis[2]->first.size()];
    const size_t rest = static_cast<size_t>(base) / c.axis[2]->first.size();
    const int64_t ky = c.axis[1]->first[rest % c.axis[1]->first.size()];
    const int64_t kz = c.axis[0]->first[rest / c.axis[1]->first.size()];
    WinogradSumArgs args{};
    args.src = products;
    args.dst = sums + ((kz * y.kernel + ky) * x.kernel + kx) * of_tap;
    args.tile_step = vector_;
    args.step[2] = x.tap_period() * of_tap;
    args.step[1] = y.tap_period() * x.kernel * of_tap;
    args.step[0] = z.tap_period() * y.kernel * x.kernel * of_tap;
    args.point_stride = of_tap;
    args.tile_stride = vector_;
    args.tiles = height * gemm_.lanes / vector_;
    for (int a = 0; a < kAxes; ++a) args.tile[a] = c.axis[a]->tile;
    args.accumulate = accumulate;
    sum_(args);
  }

  void multiply_block(const T* small, const T* large, T* products, void** rows, int64_t height,
                      int64_t points, int64_t depth, Ahead& ahead) const noexcept {
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
        ahead.fetch();
        gemm_(args);
      }
    }
  }

  // Brings the sums of some channels, [tap][channel][lane], into the order of the weight.
  void finish(const Call& call, const T* sums, int64_t group, int64_t panel, int64_t first,
              int64_t height) const noexcept {
    const bool last = problem_.geometry.channels_last;
    const auto element = static_cast<int64_t>(storage_bytes(problem_.dtype));
    const int64_t of_tap = kRows * gemm_.lanes;
    const int64_t filter = panel * gemm_.lanes;
    const int64_t lanes = std::min<int64_t>(gemm_.lanes, filters_ - filter);
    for (int64_t channel = 0; channel < height; ++channel) {
      const int64_t row = (group * channels_ + first + channel) * filters_ * taps_;
      MoveArgs args{};
      args.src = sums + channel * gemm_.lanes;
      args.dst = static_cast<char*>(call.out) + (row + filter * (last ? 1 : taps_)) * element;
      args.rows = last ? taps_ : lanes;
      args.columns = last ? lanes : taps_;
      args.src_row = last ? of_tap : 1;
      args.src_column = last ? 1 : of_tap;
      args.dst_row = last ? filters_ : taps_;
      args.dst_column = 1;
      store_(args);
    }
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
  int64_t blocks_;         // of channels
  int64_t panels_;         // of filters
  int64_t cells_[2] = {};  // along z and y
  int64_t turns_ = 1;      // of cells along x
  int64_t band_turns_ = 1;
  int64_t along_ = 1;       // bands of a row of cells
  int64_t bands_ = 1;       // in all
  int64_t block_ = 1;       // bands that are transformed at a time
  int64_t panel_part_ = 1;  // panels whose sums are kept at a time
  int threads_ = 1;
  size_t worker_bytes_ = 0;
  size_t workspace_ = 0;
};

std::optional<std::string> refusal(const Problem& problem) {
  const Geometry& g = problem.geometry;
  if (g.taps() > kMostTaps) return "more than " + std::to_string(kMostTaps) + " taps";
  if (std::min(g.channels, g.filters) / g.groups < kFewMaps)
    return "fewer than " + std::to_string(kFewMaps) + " maps in a group";
  bool some = false;
  for (const Axis& axis : g.axes) {
    const int64_t taps = ceil_div(axis.kernel, axis.tap_period());
    some |= tile_of(axis, taps, 0) != kPlain && axis.kernel > axis.tap_period();
  }
  if (!some) return "no axis has two to four neighbouring taps in a phase";
  return std::nullopt;
}

double cost(const Problem& problem) { return Layout(problem).seconds; }

}  // namespace

extern const Algorithm weight_winograd;
const Algorithm weight_winograd{"weight_winograd", refusal, cost, make_computed<WeightWinograd>, true};

}  // namespace tconv
