// Weight gradient by Winograd's algorithm along y alone, for few filters: a tile of rows of small positions
// stands where taps do, the taps of a phase are the outputs. Rows turn into points as they lie, so that every
// point is dot products along positions, which are the lanes; points turn into taps once, at the end. Along
// x the large side is taken apart by the residues of the stride. Sums are never shared out.
#include <algorithm>
#include <tuple>

#include "algorithms/algorithm.hpp"
#include "algorithms/planes.hpp"
#include "longdots_abi.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "packing.hpp"
#include "winograd_weight_abi.hpp"

namespace tconv {
namespace {

constexpr int64_t kMostColumns = 4096;
constexpr int64_t kBlockBytes = 160 << 10;   // of what a tile of sums reads of a block
constexpr int64_t kPlaneBytes = 1024 << 10;  // of the points of the large side
constexpr int64_t kLineElements = 16;
// What a tile of sums costs beside its products, for each of them; a vector of points; a vector of the large
// side read and taken apart, and a row of it beside.
constexpr double kSumSeconds = 8 / machine::kHertz;
constexpr double kPointSeconds = 6 / machine::kHertz;
constexpr double kApartSeconds = 6 / machine::kHertz;
constexpr double kRowSeconds = 60 / machine::kHertz;

constexpr WinogradTile kTwoTaps[] = {kF22, kF23, kF24};
constexpr WinogradTile kThreeTaps[] = {kF32, kF33, kF34};

// Positions are cut into blocks: of some samples, or of some tiles of rows of one.
struct Cut {
  Planes x;
  int64_t extent;  // of a row of points: positions, and zeros instead of what the next one would read
  int64_t phases;  // of the stride along y
  int64_t columns;
  const Kernel* kernel = nullptr;
  WinogradTile tile = kPlain;
  int64_t all_tiles = 0;  // of rows, in a sample
  int64_t tiles = 1;      // in a block
  int64_t samples = 1;
  double seconds = 0;

  explicit Cut(const Problem& problem)
      : x(problem.geometry.axes[2]),
        extent(problem.geometry.axes[2].size + x.spread),
        phases(problem.geometry.axes[1].stride),
        columns(problem.geometry.filters * phases * problem.geometry.axes[2].kernel) {
    const Axis& y = problem.geometry.axes[1];
    for (const WinogradTile some : y.kernel == 2 * y.stride ? kTwoTaps : kThreeTaps) {
      if (kWinogradPoints[some] > std::max(4, problem.winograd_points)) continue;
      for (const Kernel& one : kernels(Family::longdots, compute_dtype(problem.dtype), problem.isa)) {
        const double cost = cost_of(problem, some, one);
        if (kernel != nullptr && cost >= seconds) continue;
        kernel = &one;
        tile = some;
        seconds = cost;
      }
    }
    all_tiles = ceil_div(y.size, kWinogradTaps[tile]);
    std::tie(samples, tiles) = block_of(problem, tile, *kernel);
  }

  int64_t points() const noexcept { return kWinogradPoints[tile]; }
  int64_t length() const noexcept { return kWinogradTaps[tile]; }
  int64_t run() const noexcept { return samples * tiles * extent; }
  // Elements from a row of points to the next: an odd number of lines, or they meet in one set of the cache.
  int64_t pitch() const noexcept { return (ceil_div(run(), kLineElements) | 1) * kLineElements; }
  // Rows of the large side that the tiles of a block meet in a phase.
  int64_t rows() const noexcept { return (tiles - 1) * length() + points(); }
  // Sums of a point, by whole vectors.
  int64_t width() const noexcept { return ceil_div(columns, kLineElements) * kLineElements; }

 private:
  std::pair<int64_t, int64_t> block_of(const Problem& problem, WinogradTile some,
                                       const Kernel& one) const noexcept {
    const Geometry& g = problem.geometry;
    const auto element = static_cast<int64_t>(compute_bytes(problem.dtype));
    const int64_t near = kBlockBytes / ((one.rows + one.lanes) * element);
    const int64_t planes = kPlaneBytes / (g.filters * phases * x.count() * kWinogradPoints[some] * element);
    const int64_t most = std::max<int64_t>(1, std::min(near, planes) / extent);
    const int64_t all = ceil_div(g.axes[1].size, kWinogradTaps[some]);
    if (most < all) return {1, ceil_div(all, ceil_div(all, most))};
    return {ceil_div(g.batch, ceil_div(g.batch, most / all)), all};
  }

  double cost_of(const Problem& problem, WinogradTile some, const Kernel& one) const noexcept {
    const Geometry& g = problem.geometry;
    const auto width = static_cast<int64_t>(machine::lanes(one.dtype, one.isa));
    const auto [some_samples, some_tiles] = block_of(problem, some, one);
    const auto points = static_cast<double>(kWinogradPoints[some]);
    const int64_t all = ceil_div(g.axes[1].size, kWinogradTaps[some]);
    const auto blocks = static_cast<double>(ceil_div(g.batch, some_samples) * ceil_div(all, some_tiles));
    const auto steps = static_cast<double>(ceil_div(some_samples * some_tiles * extent, width));
    const double cycle = vector_floats(problem.isa) >= 16 ? 1.0 : 0.5;
    const auto made = static_cast<double>(one.rows * one.lanes);
    const double step = std::max(made, 1.3 * (one.rows + one.lanes)) * cycle / machine::kHertz;
    const auto products = static_cast<double>(ceil_div(g.channels, one.rows) * ceil_div(columns, one.lanes));
    const auto rows = static_cast<double>(g.batch * all);
    const auto vectors = static_cast<double>(ceil_div(extent, width));
    const double large = static_cast<double>(g.filters * phases * x.count());
    const double apart = static_cast<double>(g.batch * g.filters * phases) *
                         static_cast<double>(ceil_div(all, some_tiles)) *
                         static_cast<double>((some_tiles - 1) * kWinogradTaps[some] + kWinogradPoints[some]);
    const auto arrays = static_cast<double>(g.small_elements() + g.large_elements() + g.weight_elements());
    return blocks * points * products * (steps * step + made * kSumSeconds) +
           rows * points * vectors * (static_cast<double>(g.channels) + large) * kPointSeconds +
           apart * (vectors * static_cast<double>(x.count()) * kApartSeconds + kRowSeconds) +
           machine::far_seconds(problem, arrays * static_cast<double>(storage_bytes(problem.dtype)));
  }
};

template <class E>
class WeightWinogradRows final : public Recipe {
 public:
  using S = typename E::storage;
  using T = typename E::compute;

  explicit WeightWinogradRows(const Problem& problem)
      : problem_(problem),
        cut_(problem),
        load_(tconv::kernel(Family::load, problem.dtype, problem.isa)),
        store_(tconv::kernel(Family::store, problem.dtype, problem.isa)),
        window_(tconv::kernel(Family::winogradin, compute_dtype(problem.dtype), problem.isa)),
        taps_(tconv::kernel(Family::winogradtaps, compute_dtype(problem.dtype), problem.isa)),
        sum_(tconv::kernel(Family::winogradsum, compute_dtype(problem.dtype), problem.isa)),
        vector_(static_cast<int64_t>(machine::lanes(window_.dtype, window_.isa))) {
    threads_ = problem.threads;
    while (threads_ > 1 && total() > problem.workspace) --threads_;
    while (total() > problem.workspace && cut_.samples > 1) cut_.samples = ceil_div(cut_.samples, 2);
    while (total() > problem.workspace && cut_.tiles > 1) cut_.tiles = ceil_div(cut_.tiles, 2);
  }

  void list() override { cut_.x.list(); }

  std::string kernel() const override { return cut_.kernel->name; }
  size_t workspace_bytes() const noexcept override { return total(); }

  bool run(const Call& call) const override {
    const Buffer scratch(total());
    call.crew.limit(threads_);
    // Each makes the points of the large side, which are few.
    const int64_t tiles = ceil_div(problem_.geometry.channels, cut_.kernel->rows);
    const int64_t shares = std::min<int64_t>(threads_, tiles);
    return share_finite(call.crew, shares, cut_.seconds, [&](int64_t share, int member) noexcept {
      Worker worker{};
      lay_out(scratch.data() + static_cast<size_t>(member) * worker_bytes(), &worker);
      const int64_t first = tiles * share / shares * cut_.kernel->rows;
      const int64_t end =
          std::min(tiles * (share + 1) / shares * cut_.kernel->rows, problem_.geometry.channels);
      return sum_channels(call, worker, first, end - first, Pace(call.crew, member));
    });
  }

 private:
  struct Worker {
    T* rows;    // of the large side: [residue x][row]
    T* large;   // [filter][phase y][residue x][point][run]
    T* source;  // rows of the small side that do not lie as they are read
    T* small;   // [channel of a tile of sums][point][run]
    T* sums;    // [channel][point][column]: filter, phase y, tap x
    T* taps;    // [tap of a phase][column]
    int64_t* column;
  };
  // Some samples, or some tiles of the rows of one.
  struct Block {
    int64_t sample, samples;
    int64_t tile, tiles;
  };

  char* lay_out(char* memory, Worker* made) const noexcept {
    const Geometry& g = problem_.geometry;
    Pieces pieces(memory);
    const auto take = [&](int64_t count) { return pieces.take<T>(static_cast<size_t>(count) * sizeof(T)); };
    made->rows = take(cut_.x.count() * cut_.rows() * cut_.extent);
    made->large = take(g.filters * cut_.phases * cut_.x.count() * cut_.points() * cut_.pitch());
    made->source = take(cut_.length() * g.axes[2].size);
    made->small = take(cut_.kernel->rows * cut_.points() * cut_.pitch());
    made->sums = take(g.channels * cut_.points() * cut_.width());
    made->taps = take(kWinogradOutputs[cut_.tile] * cut_.width());
    made->column = pieces.take<int64_t>(static_cast<size_t>(cut_.columns) * sizeof(int64_t));
    return pieces.rest();
  }
  size_t worker_bytes() const noexcept {
    Worker made{};
    return static_cast<size_t>(lay_out(nullptr, &made) - static_cast<char*>(nullptr));
  }
  size_t total() const noexcept { return worker_bytes() * static_cast<size_t>(threads_); }

  // Returns whether both sides are finite: what is not leaves no sum finite that it belongs to.
  bool sum_channels(const Call& call, const Worker& w, int64_t first, int64_t count,
                    Pace pace) const noexcept {
    const Geometry& g = problem_.geometry;
    const int64_t all = count * cut_.points() * cut_.width();
    std::fill_n(w.sums, all, T{0});
    // Between the rows of the small side zeros stay.
    std::fill_n(w.small, cut_.kernel->rows * cut_.points() * cut_.pitch(), T{0});
    list_columns(w.column);
    Block block{};
    for (block.sample = 0; block.sample < g.batch; block.sample += cut_.samples) {
      block.samples = std::min(cut_.samples, g.batch - block.sample);
      for (block.tile = 0; block.tile < cut_.all_tiles; block.tile += cut_.tiles) {
        block.tiles = std::min(cut_.tiles, cut_.all_tiles - block.tile);
        transform_large(static_cast<const S*>(call.weight), w, block);
        for (int64_t channel = 0; channel < count; channel += cut_.kernel->rows) {
          const int64_t rows = std::min<int64_t>(cut_.kernel->rows, count - channel);
          transform_small(static_cast<const S*>(call.source), w, block, first + channel, rows);
          const int64_t left = count - channel - rows;
          multiply(w, block, channel, rows, [&](int64_t part) {
            fetch(static_cast<const S*>(call.source), block, first + channel + rows,
                  std::min<int64_t>(cut_.kernel->rows, left), part);
          });
          if (pace.stopped(cut_.columns * cut_.points() * cut_.run() / vector_ * rows)) return true;
        }
      }
    }
    if (!all_finite(w.sums, all)) return false;
    finish(w, static_cast<S*>(call.out), first, count);
    return true;
  }

  // Where the columns begin in the points of the large side.
  void list_columns(int64_t* column) const noexcept {
    const int64_t plane = cut_.points() * cut_.pitch();
    const auto kernel = static_cast<size_t>(problem_.geometry.axes[2].kernel);
    for (int64_t i = 0; i < problem_.geometry.filters * cut_.phases; ++i) {
      for (size_t kx = 0; kx < kernel; ++kx)
        *column++ = (i * cut_.x.count() + cut_.x.plane[kx]) * plane + cut_.x.shift[kx];
    }
  }

  // Tiles of rows that follow each other, `row` apart, to points, which are `pitch` apart.
  void transform(const Kernel& kernel, const T* from, int64_t row, int64_t tiles, T* to,
                 int64_t count) const noexcept {
    WinogradInArgs args{};
    args.step[1] = row;
    args.point_stride = cut_.pitch();
    args.tile[0] = args.tile[2] = kPlain;
    args.tile[1] = cut_.tile;
    const auto vectors = [&](int64_t at, int64_t tile, int64_t length) {
      args.src = from + tile * cut_.length() * row + at;
      args.dst = to + tile * cut_.extent + at;
      args.tiles = length;
      kernel(args);
    };
    // Along x, or where that is short, along y. The last vector starts early rather than be cut short.
    if (count / vector_ >= tiles) {
      args.tile_step = args.tile_stride = vector_;
      for (int64_t tile = 0; tile < tiles; ++tile) {
        vectors(0, tile, count / vector_);
        if (count % vector_ > 0) vectors(count - vector_, tile, 1);
      }
    } else {
      args.tile_step = cut_.length() * row;
      args.tile_stride = cut_.extent;
      for (int64_t at = 0; at < count; at += vector_) vectors(std::min(at, count - vector_), 0, tiles);
    }
  }

  void transform_large(const S* grad, const Worker& w, const Block& block) const noexcept {
    const Geometry& g = problem_.geometry;
    const auto& [z, y, x] = g.axes;
    const int64_t rows = (block.tiles - 1) * cut_.length() + cut_.points();
    const int64_t plane = cut_.rows() * cut_.extent;
    T* to = w.large;
    for (int64_t filter = 0; filter < g.filters; ++filter) {
      for (int64_t phase = 0; phase < cut_.phases; ++phase) {
        for (int64_t sample = 0; sample < block.samples; ++sample) {
          const S* const map = grad + ((block.sample + sample) * g.filters + filter) * g.large_positions();
          for (int64_t row = 0; row < rows; ++row) {
            const int64_t at = (block.tile * cut_.length() + row) * y.stride + phase - y.pad_lo;
            take_row_apart<E>(load_, cut_.x, x, 0, x.size, at >= 0 && at < y.out ? map + at * x.out : nullptr,
                              w.rows + row * cut_.extent, plane);
          }
          for (int64_t p = 0; p < cut_.x.count(); ++p) {
            transform(window_, w.rows + p * plane, cut_.extent, block.tiles,
                      to + p * cut_.points() * cut_.pitch() + sample * block.tiles * cut_.extent,
                      cut_.extent);
          }
        }
        to += cut_.x.count() * cut_.points() * cut_.pitch();
      }
    }
  }

  void transform_small(const S* source, const Worker& w, const Block& block, int64_t channel,
                       int64_t channels) const noexcept {
    const Geometry& g = problem_.geometry;
    const auto& [z, y, x] = g.axes;
    for (int64_t c = 0; c < channels; ++c) {
      T* to = w.small + c * cut_.points() * cut_.pitch();
      for (int64_t sample = 0; sample < block.samples; ++sample) {
        const S* const map =
            source + ((block.sample + sample) * g.channels + channel + c) * g.small_positions();
        // Tiles that lie in the map as they are read, and others.
        const int64_t row = block.tile * cut_.length();
        const int64_t lying =
            sizeof(S) == sizeof(T) ? std::min(block.tiles, (y.size - row) / cut_.length()) : 0;
        if constexpr (sizeof(S) == sizeof(T)) transform(taps_, map + row * x.size, x.size, lying, to, x.size);
        for (int64_t tile = lying; tile < block.tiles; ++tile) {
          const int64_t first = row + tile * cut_.length();
          const int64_t rows = std::min(cut_.length(), y.size - first);
          load_(MoveArgs{map + first * x.size, 0, 1, w.source, 0, 1, 1, rows * x.size});
          std::fill(w.source + rows * x.size, w.source + cut_.length() * x.size, T{0});
          transform(taps_, w.source, x.size, 1, to + tile * cut_.extent, x.size);
        }
        to += block.tiles * cut_.extent;
      }
    }
  }

  // Fetches one part of as many as there are points of what transform_small() reads.
  void fetch(const S* source, const Block& block, int64_t channel, int64_t channels,
             int64_t part) const noexcept {
    const Geometry& g = problem_.geometry;
    constexpr auto line = static_cast<int64_t>(kAlignment / sizeof(S));
    const int64_t row = g.axes[2].size;
    const int64_t length =
        std::min(block.tiles * cut_.length(), g.axes[1].size - block.tile * cut_.length()) * row;
    for (int64_t sample = 0; sample < block.samples; ++sample) {
      const S* from = source + ((block.sample + sample) * g.channels + channel) * g.small_positions() +
                      block.tile * cut_.length() * row;
      for (int64_t c = 0; c < channels; ++c, from += g.small_positions()) {
        for (int64_t i = length * part / cut_.points(); i < length * (part + 1) / cut_.points(); i += line)
          __builtin_prefetch(from + i, 0, 2);
      }
    }
  }

  // Calls `beside` with each point.
  template <class Beside>
  void multiply(const Worker& w, const Block& block, int64_t channel, int64_t rows,
                const Beside& beside) const noexcept {
    const int64_t start = 0;
    LongDotsArgs args{};
    args.a_offset = args.b_offset = &start;
    args.segments = 1;
    // Zeros at the end are left out, or the last row would read beyond its points.
    args.depth = block.samples * block.tiles * cut_.extent - cut_.x.spread;
    args.a_row = cut_.points() * cut_.pitch();
    args.out_row = cut_.points() * cut_.width();
    args.rows = static_cast<int32_t>(rows);
    for (int64_t point = 0; point < cut_.points(); ++point) {
      beside(point);
      args.a = w.small + point * cut_.pitch();
      args.b = w.large + point * cut_.pitch();
      T* const sums = w.sums + (channel * cut_.points() + point) * cut_.width();
      for (int64_t column = 0; column < cut_.columns; column += cut_.kernel->lanes) {
        args.b_column = w.column + column;
        args.columns = static_cast<int32_t>(std::min<int64_t>(cut_.kernel->lanes, cut_.columns - column));
        args.out = sums + column;
        (*cut_.kernel)(args);
      }
    }
  }

  void finish(const Worker& w, S* out, int64_t first, int64_t count) const noexcept {
    const Geometry& g = problem_.geometry;
    const int64_t of_phases = cut_.phases * g.axes[2].kernel;
    const int64_t taps = kWinogradOutputs[cut_.tile];
    WinogradSumArgs sum{};
    sum.dst = w.taps;
    sum.tile_step = sum.tile_stride = vector_;
    sum.step[1] = sum.point_stride = cut_.width();
    sum.tiles = cut_.width() / vector_;
    sum.tile[0] = sum.tile[2] = kPlain;
    sum.tile[1] = cut_.tile;
    for (int64_t channel = 0; channel < count; ++channel) {
      sum.src = w.sums + channel * cut_.points() * cut_.width();
      sum_(sum);
      for (int64_t filter = 0; filter < g.filters; ++filter) {
        store_(MoveArgs{w.taps + filter * of_phases, cut_.width(), 1,
                        out + ((first + channel) * g.filters + filter) * taps * of_phases, of_phases, 1, taps,
                        of_phases});
      }
    }
  }

  Problem problem_;
  Cut cut_;
  const Kernel& load_;
  const Kernel& store_;
  const Kernel& window_;
  const Kernel& taps_;
  const Kernel& sum_;
  int64_t vector_;
  int threads_ = 1;
};

std::optional<std::string> refusal(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const auto& [z, y, x] = g.axes;
  if (g.channels_last) return "maps of a position lie together";
  if (g.groups > 1) return "groups";
  if (z.size != 1 || z.out != 1 || z.kernel != 1 || z.pad_lo != 0) return "three axes";
  if (y.dilation != 1 || (x.dilation != 1 && x.kernel > 1)) return "dilation";
  if (y.stride > kMostColumns || (y.kernel != 2 * y.stride && y.kernel != 3 * y.stride))
    return "phases along y have neither two nor three taps";
  if (std::max(g.filters, x.kernel) > kMostColumns || g.filters * y.stride * x.kernel > kMostColumns)
    return "more than " + std::to_string(kMostColumns) + " columns";
  const auto lanes = static_cast<int64_t>(machine::lanes(compute_dtype(problem.dtype), problem.isa));
  if (x.size < lanes) return "rows are shorter than " + std::to_string(lanes);
  return std::nullopt;
}

double cost(const Problem& problem) { return Cut(problem).seconds; }

}  // namespace

extern const Algorithm weight_winograd_rows;
const Algorithm weight_winograd_rows{"weight_winograd_rows", refusal, cost, make_stored<WeightWinogradRows>,
                                     true};

}  // namespace tconv
