// Data gradient as one matrix product whose lanes are positions and whose depth is a window. A block of the
// large side is taken apart by the residues of the stride along x, so that what positions in a row read of a
// tap are neighbours. There the positions of long rows are read, row by row; else the windows of a panel of
// positions are copied together. One long product serves all channels.
#include <algorithm>
#include <numeric>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "algorithms/spread_rows.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "packing.hpp"

namespace tconv {
namespace {

constexpr int64_t kMostTaps = 1 << 14;
constexpr int64_t kMostStride = 4096;
constexpr int64_t kMostDepth = 2048;        // of a window that is multiplied at a time
constexpr int64_t kStripBytes = 128 << 10;  // of a block of the large side, about
constexpr int64_t kPanelBytes = 256 << 10;  // of windows that are copied at a time
constexpr int64_t kMostPositions = 2048;    // of a block
constexpr int64_t kLineElements = 16;
constexpr int64_t kRowChannels = 336;  // of a block, where rows are read where they lie
constexpr int64_t kNearBytes = 512 << 10;
constexpr double kTileSeconds = 75 / machine::kHertz;     // of a tile, beside its products
constexpr double kWeightSeconds = 2.6 / machine::kHertz;  // of a weight that comes near
constexpr double kCopiedSeconds = 22 / machine::kHertz;   // of a step of depth of a panel that is copied
constexpr double kFillSeconds = 24 / machine::kHertz;     // of a row of a strip that is filled
constexpr double kUnitSeconds = 280 / machine::kHertz;    // of a block
constexpr double kBundleSeconds = 8 / machine::kHertz;    // of a bundle that a tile reads where it lies
// A vector that a tile reads there, beside vectors of maps that lie apart or of the same map, and what is
// beyond the second cache.
constexpr double kApartSeconds = 5 / machine::kHertz;
constexpr double kBesideSeconds = 3.5 / machine::kHertz;
constexpr double kFarSeconds = 10 / machine::kHertz;

// Sizes and pads play no part, because rows decide how weights are packed.
const Kernel& best_gemm(const Problem& problem) {
  const auto candidates = kernels(Family::gemm, compute_dtype(problem.dtype), problem.isa);
  const int64_t channels = problem.geometry.channels / problem.geometry.groups;
  const auto seconds = [channels](const Kernel& kernel) {
    // Of more lanes more lie beside the last position of a block.
    return machine::rows_step_seconds(kernel, channels) / kernel.lanes * (1 + kernel.lanes / 512.0);
  };
  return *std::min_element(candidates.begin(), candidates.end(),
                           [&seconds](const Kernel& a, const Kernel& b) { return seconds(a) < seconds(b); });
}

// Taps that are copied by one call: `count` of them, evenly apart both in a strip and in a window.
struct Bundle {
  int64_t src, src_step;
  int64_t depth, depth_step;
  int64_t count;
};

// Maps, taps along y, or residues along x are taken together, whichever are most.
struct Together {
  int64_t residues;
  bool by_map, by_row;

  explicit Together(const Geometry& g) noexcept {
    const auto& [z, y, x] = g.axes;
    const int64_t filters = g.filters / g.groups;
    residues = x.dilation == 1 ? std::min(x.kernel, x.stride) : 1;
    by_map = filters >= y.kernel && filters >= residues;
    by_row = !by_map && y.kernel >= residues;
  }
  // None where some are fewer than others.
  int64_t count(const Geometry& g) const noexcept {
    if (!by_map && !by_row && g.axes[2].kernel % residues != 0) return 0;
    return by_map ? g.filters / g.groups : by_row ? g.axes[1].kernel : residues;
  }
};

// How positions are cut into blocks, and what a block reads.
struct Blocks {
  int64_t size[kAxes];  // positions
  int64_t count[kAxes];
  int64_t rows[kAxes];   // of the large side, along z and y
  int64_t width;         // positions of a residue along x
  int64_t map_elements;  // of a strip

  Blocks(const Geometry& g, const int64_t (&wanted)[kAxes]) noexcept {
    for (int a = 0; a < kAxes; ++a) {
      const Axis& axis = g.axes[a];
      size[a] = wanted[a];
      count[a] = ceil_div(axis.size, size[a]);
      rows[a] = (size[a] - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1;
    }
    const Axis& x = g.axes[2];
    width = size[2] + (x.kernel - 1) * x.dilation / x.stride;
    map_elements = rows[0] * rows[1] * width * x.stride;
  }
  int64_t positions() const noexcept { return size[0] * size[1] * size[2]; }
  int64_t blocks() const noexcept { return count[0] * count[1] * count[2]; }
};

// How the positions of a row are cut into panels: as many as go of one kernel, and one that ends with the
// row.
struct Row {
  const Kernel* wide;  // null where no kernel has as few lanes
  int64_t count;
  const Kernel* rest;  // or null
  double seconds;
};

Row cut_row(const Problem& problem, const Blocks& blocks) {
  const Geometry& g = problem.geometry;
  const int64_t size = blocks.size[2];
  const double strip = static_cast<double>(g.filters / g.groups * blocks.map_elements) *
                       static_cast<double>(compute_bytes(problem.dtype));
  const double vector_seconds = strip > machine::kSecondCacheBytes ? kFarSeconds
                                : Together(g).by_map               ? kApartSeconds
                                                                   : kBesideSeconds;
  const int64_t channels = g.channels / g.groups;
  const auto steps = static_cast<double>(g.filters / g.groups * g.taps());
  const auto candidates = kernels(Family::gemm, compute_dtype(problem.dtype), problem.isa);
  const double width = machine::lanes(compute_dtype(problem.dtype), problem.isa);
  const auto seconds = [&](const Kernel& gemm) {
    const auto tiles = static_cast<double>(ceil_div(channels, gemm.rows));
    const double read = tiles * gemm.lanes / width * vector_seconds;
    return steps * std::max(machine::rows_step_seconds(gemm, channels), read) + tiles * kTileSeconds;
  };
  Row best{};
  for (const Kernel& wide : candidates) {
    if (wide.lanes > size) continue;
    Row row{&wide, size / wide.lanes, nullptr, 0};
    const int64_t left = size % wide.lanes;
    for (const Kernel& rest : candidates) {
      if (left == 0 || rest.lanes < left || rest.lanes > size) continue;
      if (row.rest == nullptr || seconds(rest) < seconds(*row.rest)) row.rest = &rest;
    }
    row.seconds = static_cast<double>(row.count) * seconds(wide) + (left == 0 ? 0 : seconds(*row.rest));
    if (best.wide == nullptr || row.seconds < best.seconds) best = row;
  }
  return best;
}

Blocks cut_blocks(const Problem& problem, int64_t lanes) {
  const Geometry& g = problem.geometry;
  const int64_t filters = g.filters / g.groups;
  const auto element = static_cast<int64_t>(compute_bytes(problem.dtype));
  int64_t size[kAxes] = {1, 1, std::min(g.axes[2].size, ceil_div(kMostPositions, lanes) * lanes)};
  const auto fits = [&] {
    const Blocks blocks(g, size);
    return filters * blocks.map_elements * element <= kStripBytes && blocks.positions() <= kMostPositions;
  };
  while (size[2] > lanes && !fits()) size[2] = ceil_div(size[2] / 2, lanes) * lanes;
  // Positions of a block follow each other in memory.
  for (int a = 1; a >= 0; --a) {
    if (size[a + 1] < g.axes[a + 1].size) break;
    int64_t most = 1;
    for (int64_t above = g.axes[a].size + 1; above - most > 1;) {
      size[a] = most + (above - most) / 2;
      (fits() ? most : above) = size[a];
    }
    size[a] = most;
    size[a] = ceil_div(g.axes[a].size, ceil_div(g.axes[a].size, size[a]));
  }
  // Threads share blocks.
  while (problem.threads > 1 && g.batch * g.groups * Blocks(g, size).blocks() < 2 * problem.threads) {
    int a = 0;
    while (a < 2 && size[a] == 1) ++a;
    if (a == 2 && size[2] <= lanes) break;
    size[a] = a == 2 ? ceil_div(size[2] / 2, lanes) * lanes : ceil_div(size[a], 2);
  }
  return {g, size};
}

// How the products of a block are done.
struct Way {
  bool by_row;  // windows are read where they lie
  Row row;
  double seconds;
};

Way cheapest(const Problem& problem, const Kernel& gemm, const Blocks& blocks) {
  const Geometry& g = problem.geometry;
  const int64_t channels = g.channels / g.groups;
  const int64_t depth = g.filters / g.groups * g.taps();
  const auto copied =
      static_cast<double>(ceil_div(blocks.positions(), gemm.lanes)) *
      (static_cast<double>(depth) * (machine::rows_step_seconds(gemm, channels) + kCopiedSeconds) +
       static_cast<double>(ceil_div(channels, gemm.rows)) * kTileSeconds);
  const int64_t together = Together(g).count(g);
  const Row row = cut_row(problem, blocks);
  if (row.wide == nullptr || together == 0) return {false, row, copied};
  const auto calls =
      static_cast<double>((row.count + (row.rest == nullptr ? 0 : 1)) * ceil_div(channels, row.wide->rows));
  const auto bundles = static_cast<double>(depth / together);
  const double lying =
      static_cast<double>(blocks.size[0] * blocks.size[1]) * (row.seconds + calls * bundles * kBundleSeconds);
  return {lying < copied, row, std::min(lying, copied)};
}

// Neither batch nor threads may decide, and more threads take smaller blocks.
Problem alone(Problem problem) noexcept {
  problem.threads = 1;
  return problem;
}

template <class E>
class DataWindows final : public Recipe {
 public:
  using S = typename E::storage;
  using T = typename E::compute;

  explicit DataWindows(const Problem& problem)
      : problem_(problem),
        activate_(problem),
        gemm_(best_gemm(problem)),
        load_(tconv::kernel(Family::load, problem.dtype, problem.isa)),
        panel_(tconv::kernel(Family::panel, compute_dtype(problem.dtype), problem.isa)),
        store_(tconv::kernel(Family::store, problem.dtype, problem.isa)),
        inside_(problem.geometry.stays_inside()),
        channels_(problem.geometry.channels / problem.geometry.groups),
        filters_(problem.geometry.filters / problem.geometry.groups),
        depth_(filters_ * problem.geometry.taps()),
        way_(cheapest(problem, gemm_, cut_blocks(alone(problem), gemm_.lanes))),
        part_depth_(kPlain ? ceil_div(depth_, ceil_div(depth_, kMostDepth)) : depth_),
        block_(way_.by_row ? kRowChannels : std::lcm(kLineElements, int64_t{gemm_.rows})),
        blocks_(ceil_div(channels_, block_)),
        step_((blocks_ - 1) * block_ + step_of(blocks_ - 1)),
        cut_(cut_blocks(problem, gemm_.lanes)) {
    const int64_t panel = part_depth_ * gemm_.lanes * static_cast<int64_t>(sizeof(T));
    panels_ = way_.by_row
                  ? 0
                  : std::clamp<int64_t>(kPanelBytes / panel, 1, ceil_div(cut_.positions(), gemm_.lanes));
    threads_ = problem.threads;
    while (threads_ > 1 && total() > problem.workspace) --threads_;
    while (panels_ > 1 && total() > problem.workspace) --panels_;
  }

  void list() override {
    tiles_ = tiles_of(way_.by_row ? *way_.row.wide : gemm_);
    if (way_.by_row && way_.row.rest != nullptr) rest_tiles_ = tiles_of(*way_.row.rest);
    bundles_.clear();
    bundle();
    sources_.clear();
    for (std::vector<int64_t>& depths : depths_) depths.clear();
    for (const Bundle& b : bundles_) {
      sources_.push_back(b.src);
      depths_[0].push_back(b.depth * block_);
      depths_[1].push_back(b.depth * step_of(blocks_ - 1));
    }
  }

  std::string kernel() const override { return way_.by_row ? way_.row.wide->name : gemm_.name; }
  size_t workspace_bytes() const noexcept override { return total(); }
  std::string packing_key() const override {
    const Geometry& g = problem_.geometry;
    return key_of("data_windows",
                  {static_cast<int64_t>(problem_.dtype), block_, g.channels, g.groups, depth_});
  }
  size_t packed_bytes() const noexcept override {
    return aligned(static_cast<size_t>(problem_.geometry.groups * depth_ * step_) * sizeof(T));
  }

  // Packed: [group][block of channels][element of the window][channel].
  bool pack(const void* weight, char* packed, Crew& crew) const override {
    const double seconds = static_cast<double>(packed_bytes()) / machine::kPackBytesPerSecond;
    const int64_t squares = ceil_div(channels_, kLineElements);
    return share_finite(crew, problem_.geometry.groups * squares, seconds, [&](int64_t unit, int) noexcept {
      const int64_t group = unit / squares;
      const int64_t channel = unit % squares * kLineElements;
      const int64_t block = channel / block_;
      const S* from = static_cast<const S*>(weight) + (group * channels_ + channel) * depth_;
      MoveArgs args{};
      args.src = from;
      args.src_row = depth_;
      args.src_column = args.dst_row = 1;
      args.dst = reinterpret_cast<T*>(packed) + (group * step_ + block * block_) * depth_ + channel % block_;
      args.dst_column = step_of(block);
      args.rows = std::min(kLineElements, channels_ - channel);
      args.columns = depth_;
      load_(args);
      return inside_ || finite_stored<E>(from, args.rows * depth_);
    });
  }

  bool run(const Call& call) const override {
    const Buffer scratch(total());
    char* workers = scratch.data();
    const T* weight = reinterpret_cast<const T*>(call.packed);
    call.crew.limit(threads_);
    if (call.packed == nullptr) {
      if (!pack(call.weight, workers, call.crew)) return false;
      weight = reinterpret_cast<const T*>(workers);
      workers += packed_bytes();
    }
    const Geometry& g = problem_.geometry;
    const double seconds = machine::seconds(problem_) * threads_;
    call.crew.share(g.batch * g.groups * cut_.blocks(), seconds, [&](int64_t unit, int member) noexcept {
      Pieces pieces(workers + static_cast<size_t>(member) * worker_bytes());
      T* const strip = pieces.take<T>(strip_bytes());
      T* const panels = reinterpret_cast<T*>(pieces.rest());
      run_block(call, weight, strip, panels, unit);
    });
    return true;
  }

 private:
  // Sums lie in the output itself, from one part of the depth to the next.
  static constexpr bool kPlain = sizeof(S) == sizeof(T);

  // Channels that meet in a product.
  struct Tile {
    int64_t block;
    int64_t begin;  // in the block
    int64_t rows;
  };
  // A box of positions of a group of a sample.
  struct Box {
    int64_t sample, group;
    int64_t begin[kAxes];
    int64_t size[kAxes];

    int64_t positions() const noexcept { return size[0] * size[1] * size[2]; }
  };

  std::vector<Tile> tiles_of(const Kernel& gemm) const {
    std::vector<Tile> tiles;
    for (int64_t block = 0; block < blocks_; ++block) {
      const int64_t rows = channels_of(block);
      const int64_t height = ceil_div(rows, ceil_div(rows, gemm.rows));
      for (int64_t begin = 0; begin < rows; begin += height)
        tiles.push_back({block, begin, std::min(height, rows - begin)});
    }
    return tiles;
  }
  int64_t channels_of(int64_t block) const noexcept { return std::min(block_, channels_ - block * block_); }
  // Elements from one element of the window to the next.
  int64_t step_of(int64_t block) const noexcept {
    return ceil_div(channels_of(block), kLineElements) * kLineElements;
  }
  size_t strip_bytes() const noexcept {
    // Rows that are shorter than a panel are read beyond their end.
    const int64_t beyond = way_.by_row ? kMostLanes : 0;
    return aligned(static_cast<size_t>(filters_ * cut_.map_elements + beyond) * sizeof(T));
  }
  size_t worker_bytes() const noexcept {
    return strip_bytes() + aligned(static_cast<size_t>(panels_ * part_depth_ * gemm_.lanes) * sizeof(T));
  }
  size_t total() const noexcept {
    return (problem_.packed ? 0 : packed_bytes()) + worker_bytes() * static_cast<size_t>(threads_);
  }

  void bundle() {
    const auto& [z, y, x] = problem_.geometry.axes;
    const int64_t row = cut_.width * x.stride;
    const int64_t plane = cut_.rows[1] * row;
    const auto at_x = [&](int64_t k) {
      const int64_t offset = k * x.dilation;
      return offset % x.stride * cut_.width + offset / x.stride;
    };
    const auto [residues, by_map, by_row] = Together(problem_.geometry);
    for (int64_t f = 0; f < (by_map ? 1 : filters_); ++f) {
      for (int64_t kz = 0; kz < z.kernel; ++kz) {
        for (int64_t ky = 0; ky < (by_row ? 1 : y.kernel); ++ky) {
          for (int64_t kx = 0; kx < x.kernel; kx += by_map || by_row ? 1 : residues) {
            Bundle made{};
            made.src = f * cut_.map_elements + kz * z.dilation * plane + ky * y.dilation * row + at_x(kx);
            made.depth = ((f * z.kernel + kz) * y.kernel + ky) * x.kernel + kx;
            if (by_map) {
              made.src_step = cut_.map_elements;
              made.depth_step = problem_.geometry.taps();
              made.count = filters_;
            } else if (by_row) {
              made.src_step = y.dilation * row;
              made.depth_step = x.kernel;
              made.count = y.kernel;
            } else {
              made.src_step = cut_.width;
              made.depth_step = 1;
              made.count = std::min(residues, x.kernel - kx);
            }
            bundles_.push_back(made);
          }
        }
      }
    }
  }

  Box block_at(int64_t unit) const noexcept {
    const Geometry& g = problem_.geometry;
    Box box{};
    for (int a = kAxes - 1; a >= 0; --a) {
      box.begin[a] = unit % cut_.count[a] * cut_.size[a];
      box.size[a] = std::min(cut_.size[a], g.axes[a].size - box.begin[a]);
      unit /= cut_.count[a];
    }
    box.group = unit % g.groups;
    box.sample = unit / g.groups;
    return box;
  }

  // What another block reads of it, of the first plane.
  Ahead source_ahead(const void* source, int64_t unit) const noexcept {
    const Geometry& g = problem_.geometry;
    if (machine::stays_near(problem_) || unit >= g.batch * g.groups * cut_.blocks()) return {};
    const Box box = block_at(unit);
    int64_t first[kAxes];
    for (int a = 0; a < kAxes; ++a)
      first[a] = std::max<int64_t>(0, box.begin[a] * g.axes[a].stride - g.axes[a].pad_lo);
    const auto& [z, y, x] = g.axes;
    const int64_t map = box.sample * g.filters + box.group * filters_;
    const int64_t at = (first[0] * y.out + first[1]) * x.out + first[2];
    const int64_t elements =
        std::min((cut_.rows[1] - 1) * x.out + cut_.width * x.stride, (y.out - first[1]) * x.out - first[2]);
    const int64_t panels = way_.row.count + (way_.row.rest == nullptr ? 0 : 1);
    constexpr auto element = static_cast<int64_t>(sizeof(S));
    return {static_cast<const char*>(source) + (map * g.large_positions() + at) * element,
            std::max<int64_t>(0, elements) * element, g.large_positions() * element, filters_,
            box.size[0] * box.size[1] * panels * static_cast<int64_t>(tiles_.size())};
  }

  // What a block reads of the large side, with zeros beside it: [map][z][y][residue of the stride][x].
  void stage(const void* source, T* strip, const Box& box) const noexcept {
    const Geometry& g = problem_.geometry;
    const auto& [z, y, x] = g.axes;
    const int64_t row = cut_.width * x.stride;
    const int64_t first_z = box.begin[0] * z.stride - z.pad_lo;
    const int64_t first_y = box.begin[1] * y.stride - y.pad_lo;
    const int64_t first_x = box.begin[2] * x.stride - x.pad_lo;
    const int64_t low = std::clamp<int64_t>(-first_x, 0, row);
    const int64_t high = std::clamp<int64_t>(x.out - first_x, low, row);
    // Those of which every residue lies in the image.
    const int64_t begin = ceil_div(low, x.stride);
    const int64_t end = std::max(begin, high / x.stride);
    for (int64_t f = 0; f < filters_; ++f) {
      const int64_t map = box.sample * g.filters + box.group * filters_ + f;
      for (int64_t iz = 0; iz < cut_.rows[0]; ++iz) {
        for (int64_t iy = 0; iy < cut_.rows[1]; ++iy, strip += row) {
          const int64_t at_z = first_z + iz;
          const int64_t at_y = first_y + iy;
          if (at_z < 0 || at_z >= z.out || at_y < 0 || at_y >= y.out || low == high) {
            std::fill_n(strip, row, T{0});
            continue;
          }
          const S* from =
              static_cast<const S*>(source) + ((map * z.out + at_z) * y.out + at_y) * x.out + first_x;
          const auto one_by_one = [&](int64_t first, int64_t last) noexcept {
            for (int64_t i = first; i < last; ++i)
              strip[i % x.stride * cut_.width + i / x.stride] =
                  i >= low && i < high ? E::load(from[i]) : T{0};
          };
          one_by_one(0, std::min(begin * x.stride, row));
          one_by_one(end * x.stride, std::max(high, end * x.stride));
          // Of the last block most may lie beside the image.
          for (int64_t r = 0; r < x.stride; ++r) {
            const int64_t beside = std::max(end, ceil_div(high - r, x.stride));
            std::fill(strip + r * cut_.width + beside, strip + (r + 1) * cut_.width, T{0});
          }
          if (begin == end) continue;
          MoveArgs args{};
          args.src = from + begin * x.stride;
          args.src_row = x.stride;
          args.src_column = args.dst_row = 1;
          args.dst = strip + begin;
          args.dst_column = cut_.width;
          args.rows = end - begin;
          args.columns = x.stride;
          if (x.stride == 1) {
            std::swap(args.rows, args.columns);
            args.dst_column = 1;
          }
          load_(args);
        }
      }
    }
  }

  void run_block(const Call& call, const T* weight, T* strip, T* panels, int64_t unit) const noexcept {
    const Box box = block_at(unit);
    stage(call.source, strip, box);
    if (way_.by_row) {
      const Row& row = way_.row;
      Ahead ahead = source_ahead(call.source, unit + 1);
      multiply_rows(call, weight, strip, box, *row.wide, tiles_, 0, row.count, ahead);
      if (row.rest != nullptr)
        multiply_rows(call, weight, strip, box, *row.rest, rest_tiles_, row.count * row.wide->lanes, 1,
                      ahead);
      return;
    }
    const int64_t lanes = gemm_.lanes;
    const int64_t all = ceil_div(box.positions(), lanes);
    for (int64_t depth = 0; depth < depth_; depth += part_depth_) {
      const int64_t depths = std::min(part_depth_, depth_ - depth);
      for (int64_t panel = 0; panel < all; panel += panels_) {
        const int64_t count = std::min(panels_, all - panel);
        for (int64_t p = 0; p < count; ++p)
          copy_windows(strip, panels + p * depths * lanes, box, (panel + p) * lanes, depth, depths);
        multiply(call, weight, panels, box, panel, count, depth, depths);
      }
    }
  }

  // A part of the windows of a panel of positions: [element][position].
  void copy_windows(const T* strip, T* to, const Box& box, int64_t first, int64_t depth,
                    int64_t depths) const noexcept {
    const auto& [z, y, x] = problem_.geometry.axes;
    PanelRun runs[kMostLanes + 1];
    PanelArgs args{};
    args.run = runs;
    args.src_step = 1;
    const int64_t last = std::min(first + gemm_.lanes, box.positions());
    for (int64_t at = first; at < last;) {
      const int64_t ix = at % box.size[2];
      const int64_t iy = at / box.size[2] % box.size[1];
      const int64_t iz = at / box.size[2] / box.size[1];
      const int64_t length = std::min(box.size[2] - ix, last - at);
      runs[args.runs++] = {(iz * z.stride * cut_.rows[1] + iy * y.stride) * cut_.width * x.stride + ix,
                           static_cast<int32_t>(at - first), static_cast<int32_t>(length)};
      at += length;
    }
    // Lanes beside the last position are summed too, and not stored.
    if (last - first < gemm_.lanes)
      runs[args.runs++] = {-1, static_cast<int32_t>(last - first),
                           static_cast<int32_t>(first + gemm_.lanes - last)};
    for (const Bundle& b : bundles_) {
      const int64_t low = std::clamp<int64_t>(ceil_div(depth - b.depth, b.depth_step), 0, b.count);
      const int64_t high =
          std::clamp<int64_t>(ceil_div(depth + depths - b.depth, b.depth_step), low, b.count);
      if (low == high) continue;
      args.src = strip + b.src + low * b.src_step;
      args.map_stride = b.src_step;
      args.dst = to + (b.depth + low * b.depth_step - depth) * gemm_.lanes;
      args.width = b.depth_step * gemm_.lanes;
      args.maps = high - low;
      panel_(args);
    }
  }

  void multiply(const Call& call, const T* weight, const T* panels, const Box& box, int64_t panel,
                int64_t count, int64_t depth, int64_t depths) const noexcept {
    const Geometry& g = problem_.geometry;
    const auto& [z, y, x] = g.axes;
    const int64_t lanes = gemm_.lanes;
    const int64_t places = g.small_positions();
    const int64_t place = (box.begin[0] * y.size + box.begin[1]) * x.size + box.begin[2];
    const int64_t map = box.group * channels_;
    S* const out = static_cast<S*>(call.out) + (box.sample * g.channels + map) * places + place;
    const int64_t none = 0;
    void* c[kMostRows];
    T bias[kMostRows];
    T sums[kPlain ? 1 : kMostRows * kMostLanes];
    GemmArgs args{};
    args.a_offset = args.b_offset = &none;
    args.segments = 1;
    args.depth = depths;
    args.b_step = lanes;
    args.c = c;
    args.accumulate = depth > 0;
    const bool last = depth + depths == depth_;
    for (const Tile& tile : tiles_) {
      const int64_t channel = tile.block * block_ + tile.begin;
      args.a_step = step_of(tile.block);
      args.a = weight + (box.group * step_ + tile.block * block_) * depth_ + depth * args.a_step + tile.begin;
      args.rows = static_cast<int32_t>(tile.rows);
      if (call.bias != nullptr && depth == 0) {
        for (int64_t r = 0; r < tile.rows; ++r)
          bias[r] = E::load(static_cast<const S*>(call.bias)[map + channel + r]);
        args.bias_rows = bias;
      }
      for (int64_t p = 0; p < count; ++p) {
        const int64_t at = (panel + p) * lanes;
        args.b = panels + p * depths * lanes;
        args.lanes = static_cast<int32_t>(std::min(lanes, box.positions() - at));
        S* const to = out + channel * places + at;
        for (int64_t r = 0; r < tile.rows; ++r) {
          if constexpr (kPlain) {
            c[r] = to + r * places;
          } else {
            c[r] = sums + r * lanes;
          }
        }
        gemm_(args);
        if (!last) continue;
        for (int64_t r = 0; r < tile.rows; ++r) activate_(static_cast<T*>(c[r]), args.lanes);
        if constexpr (!kPlain) store_(MoveArgs{sums, lanes, 1, to, places, 1, tile.rows, args.lanes});
      }
    }
  }

  // So many panels of every row of a block, from a position on; they end with the row at the latest.
  void multiply_rows(const Call& call, const T* weight, const T* strip, const Box& box, const Kernel& gemm,
                     const std::vector<Tile>& tiles, int64_t first, int64_t panels,
                     Ahead& ahead) const noexcept {
    const Geometry& g = problem_.geometry;
    const auto& [z, y, x] = g.axes;
    const int64_t lanes = gemm.lanes;
    const int64_t places = g.small_positions();
    const int64_t map = box.group * channels_;
    S* const out = static_cast<S*>(call.out) + (box.sample * g.channels + map) * places;
    void* c[kMostRows];
    T bias[kMostRows];
    T sums[kPlain ? 1 : kMostRows * kMostLanes];
    GemmArgs args{};
    args.b_offset = sources_.data();
    args.segments = static_cast<int64_t>(sources_.size());
    args.depth = bundles_[0].count;
    args.b_step = bundles_[0].src_step;
    args.c = c;
    args.lanes = static_cast<int32_t>(std::min(lanes, box.size[2]));
    for (const Tile& tile : tiles) {
      const int64_t channel = tile.block * block_ + tile.begin;
      const int64_t step = step_of(tile.block);
      args.a_offset = depths_[tile.block + 1 == blocks_ ? 1 : 0].data();
      args.a_step = bundles_[0].depth_step * step;
      args.a = weight + (box.group * step_ + tile.block * block_) * depth_ + tile.begin;
      args.rows = static_cast<int32_t>(tile.rows);
      if (call.bias != nullptr) {
        for (int64_t r = 0; r < tile.rows; ++r)
          bias[r] = E::load(static_cast<const S*>(call.bias)[map + channel + r]);
        args.bias_rows = bias;
      }
      for (int64_t row = 0; row < box.size[0] * box.size[1]; ++row) {
        const int64_t iz = row / box.size[1];
        const int64_t iy = row % box.size[1];
        const T* const from = strip + (iz * z.stride * cut_.rows[1] + iy * y.stride) * cut_.width * x.stride;
        const int64_t place = ((box.begin[0] + iz) * y.size + box.begin[1] + iy) * x.size + box.begin[2];
        S* const to = out + channel * places + place;
        for (int64_t p = 0; p < panels && first + p * lanes < box.size[2]; ++p) {
          const int64_t at = std::max<int64_t>(0, std::min(first + p * lanes, box.size[2] - lanes));
          args.b = from + at;
          ahead.fetch();
          for (int64_t r = 0; r < tile.rows; ++r) {
            S* const line = to + r * places + at;
            // Comes while sums are formed.
            for (int64_t l = 0; l < args.lanes; l += kLineElements) __builtin_prefetch(line + l, 1);
            if constexpr (kPlain) {
              c[r] = line;
            } else {
              c[r] = sums + r * lanes;
            }
          }
          gemm(args);
          for (int64_t r = 0; r < tile.rows; ++r) activate_(static_cast<T*>(c[r]), args.lanes);
          if constexpr (!kPlain) store_(MoveArgs{sums, lanes, 1, to + at, places, 1, tile.rows, args.lanes});
        }
      }
    }
  }

  static constexpr int kMostRows = 32;
  static constexpr int kMostLanes = 64;

  Problem problem_;
  Activate activate_;
  const Kernel& gemm_;
  const Kernel& load_;
  const Kernel& panel_;
  const Kernel& store_;
  bool inside_;
  int64_t channels_;  // of a group
  int64_t filters_;   // of a group
  int64_t depth_;     // elements of a window
  Way way_;
  int64_t part_depth_;  // of which so many are multiplied at a time
  int64_t block_;       // channels that lie together
  int64_t blocks_;
  int64_t step_;  // elements of all blocks for each element of the window
  Blocks cut_;
  std::vector<Tile> tiles_;       // of channels
  std::vector<Tile> rest_tiles_;  // the same for the kernel that ends a row
  std::vector<Bundle> bundles_;
  std::vector<int64_t> sources_;    // of the bundles in a strip
  std::vector<int64_t> depths_[2];  // and in the weights of a block of channels, and of the last one
  int64_t panels_ = 1;              // that are copied at a time
  int threads_ = 1;
};

std::optional<std::string> refusal(const Problem& problem) {
  const Geometry& g = problem.geometry;
  if (g.channels_last) return "maps that lie together";
  for (const Axis& axis : g.axes) {
    if (axis.stride > kMostStride) return "stride above " + std::to_string(kMostStride);
  }
  if (g.filters / g.groups * g.taps() > kMostTaps)
    return "windows of more than " + std::to_string(kMostTaps) + " elements";
  return workspace_refusal(problem, make_stored<DataWindows>(alone(problem))->workspace_bytes());
}

double cost(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const Kernel& gemm = best_gemm(problem);
  const double width = machine::lanes(gemm.dtype, gemm.isa);
  const Blocks blocks = cut_blocks(alone(problem), gemm.lanes);
  const int64_t channels = g.channels / g.groups;
  const int64_t depth = g.filters / g.groups * g.taps();
  const auto units = static_cast<double>(g.batch * g.groups * blocks.blocks());
  const double apart = g.axes[2].stride == 1 ? 0.3 : g.axes[2].stride == 2 ? 0.6 : 1;
  const bool near = static_cast<double>(g.filters * g.large_positions()) *
                        static_cast<double>(storage_bytes(problem.dtype)) <
                    machine::kSecondCacheBytes;
  const double strips = static_cast<double>(g.filters / g.groups * blocks.map_elements) / width *
                        (apart + (near ? 0 : 1)) * machine::kGatherSeconds;
  // Weights beyond the second cache are read again for each block.
  const double weights = static_cast<double>(channels * depth) * compute_bytes(problem.dtype);
  const double again = weights > kNearBytes ? weights / machine::kReadBytesPerSecond : 0;
  const double fills = static_cast<double>(g.filters / g.groups * blocks.rows[0] * blocks.rows[1] *
                                           std::min(g.axes[2].stride, g.axes[2].kernel)) *
                       kFillSeconds * (near ? 1 : 2);
  Problem maps = problem;
  maps.packed = true;
  return units * (kUnitSeconds + cheapest(problem, gemm, blocks).seconds + strips + fills + again) +
         machine::traffic_seconds(maps, 0) * (machine::stays_near(problem) ? 0.2 : 1) +
         static_cast<double>(g.weight_elements()) * kWeightSeconds;
}

}  // namespace

extern const Algorithm data_windows;
const Algorithm data_windows{"data_windows", refusal, cost, make_stored<DataWindows>};

}  // namespace tconv
