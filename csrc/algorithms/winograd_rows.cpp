// Forward and data gradient by Winograd's algorithm along y alone, for few filters: lanes are positions of a
// row, as in `position_lanes`, so rows turn into points as they lie, or where maps lie together, a square of
// maps and places after the other. Every point of a tile of rows is a product whose depth is maps and taps
// along x, of which each only shifts where it is read; points turn into outputs while they are in the nearest
// cache.
#include <algorithm>
#include <span>
#include <tuple>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "algorithms/planes.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "taps_abi.hpp"
#include "turns_abi.hpp"
#include "winograd_points_abi.hpp"
#include "winograd_rows_abi.hpp"

namespace tconv {
namespace {

constexpr int64_t kMostRows = 4096;
constexpr int64_t kMostDepth = 1 << 16;
constexpr int64_t kFewTerms = 16;
constexpr int64_t kBlockBytes = 256 << 10;  // of rows of the large side that are taken apart at a time
constexpr int64_t kLineElements = 16;
constexpr int64_t kTileRows = 32;                        // at most
constexpr double kTileSeconds = 60 / machine::kHertz;    // of a call of products, beside its steps
constexpr double kLargeSeconds = 6 / machine::kHertz;    // of a vector of points of the large side,
constexpr double kSmallSeconds = 8 / machine::kHertz;    // and of the small side, which comes from afar
constexpr double kOutputSeconds = 12 / machine::kHertz;  // of a vector of outputs
constexpr double kSpreadSeconds = 5 / machine::kHertz;   // of one whose phases are brought together,
constexpr double kManySeconds = 10 / machine::kHertz;    // or many of them
constexpr double kTurnSeconds = 6 / machine::kHertz;     // of a vector of points whose maps lie together
constexpr double kApartSeconds = 9 / machine::kHertz;    // of a vector of the large side taken apart
constexpr double kRowSeconds = 60 / machine::kHertz;  // of a row that is turned or moved, beside its vectors
constexpr double kWeightSeconds = 4 / machine::kHertz;  // of a weight that is packed

constexpr WinogradTile kTwoTaps[] = {kF22, kF32, kF42};
constexpr WinogradTile kThreeTaps[] = {kF23, kF33, kF43, kF53};

// Tiles for two taps along y, or three, the one that saves most last. What F(5,3) saves in products its
// transforms take, but for float64's.
std::span<const WinogradTile> tiles_for(bool two, DType dtype) noexcept {
  if (two) return kTwoTaps;
  return std::span(kThreeTaps).first(dtype == DType::f64 ? 4 : 3);
}

// What both passes are along y and x. Forward, an output of phase p along y lies at (first + i) * stride + p
// - pad for some i, and reads the rows from + i + t, for taps t. In the data gradient output i reads the rows
// (i + t) * stride + q - pad, for all phases q. Along x place i reads element i + shift of a plane, for every
// tap.
struct Sides {
  bool forward;
  bool last;  // whether maps lie together
  Axis y;
  Axis x;
  int64_t taps_y;   // of a phase
  int64_t source;   // maps
  int64_t maps;     // of them and their phases along y
  int64_t planes;   // of each map
  int64_t outputs;  // maps
  int64_t rows;     // of the products: outputs and their phases
  int64_t first_y;  // see above
  int64_t from_y;
  int64_t places_y;  // number of i
  int64_t first_x;
  int64_t places_x;
  int64_t extent;     // of a row of a plane
  int64_t left = 0;   // zeros before a row of the small side
  int64_t turns = 1;  // forward, rows of the products that take turns in the output
  int64_t taps_x;     // of a phase
  int64_t reach;      // positions by which its taps shift, at most

  explicit Sides(const Problem& problem)
      : forward(problem.pass == Pass::forward),
        last(problem.geometry.channels_last),
        y(problem.geometry.axes[1]),
        x(problem.geometry.axes[2]),
        taps_y(y.kernel / y.stride) {
    const Geometry& g = problem.geometry;
    if (forward) {
      taps_x = ceil_div(x.kernel, x.stride);
      reach = taps_x - 1;
      const auto places = [](const Axis& axis, int64_t first) {
        return floor_div(axis.pad_lo + axis.out - 1, axis.stride) - first + 1;
      };
      source = maps = g.channels;
      planes = 1;
      outputs = g.filters;
      rows = outputs * y.stride * x.stride;
      first_y = y.pad_lo / y.stride;
      from_y = first_y - (taps_y - 1);
      places_y = places(y, first_y);
      first_x = x.pad_lo / x.stride;
      places_x = places(x, first_x);
      left = taps_x - 1 - first_x;
      extent = std::max(left + x.size, places_x + taps_x - 1);
      turns = last ? x.stride * outputs : x.stride;
    } else {
      const Planes apart(x);
      source = g.filters;
      maps = source * y.stride;
      planes = apart.count();
      outputs = rows = g.channels;
      first_y = from_y = first_x = 0;
      places_y = y.size;
      places_x = x.size;
      extent = x.size + apart.spread;
      taps_x = x.kernel;
      reach = apart.spread;
    }
  }

  // Forward, what a row of the products is: a map, and a phase along each axis.
  int64_t output(int64_t row) const noexcept { return last ? row % outputs : row / (rows / outputs); }
  int64_t phase_y(int64_t row) const noexcept { return row / turns % y.stride; }
  int64_t phase_x(int64_t row) const noexcept { return row % turns / (turns / x.stride); }
  // Where the weight stands of a row, a map, and taps of a phase of both axes; negative where there is none.
  int64_t weight(int64_t row, int64_t map, int64_t tap_y, int64_t tap_x) const noexcept {
    if (!forward) {
      const int64_t ky = tap_y * y.stride + map % y.stride;
      return ((row * source + map / y.stride) * y.kernel + ky) * x.kernel + tap_x;
    }
    const int64_t ky = (taps_y - 1 - tap_y) * y.stride + phase_y(row);
    const int64_t kx = tap_x * x.stride + phase_x(row);
    if (kx >= x.kernel) return -1;
    return last ? ((map * y.kernel + ky) * x.kernel + kx) * outputs + output(row)
                : ((map * outputs + output(row)) * y.kernel + ky) * x.kernel + kx;
  }
};

struct Cut {
  const Kernel* kernel = nullptr;
  WinogradTile tile = kPlain;
  int64_t tiles = 1;  // of rows, that are computed at a time
  double seconds = 0;

  Cut(const Problem& problem, const Sides& sides) {
    // Tiles decide bits, so they are chosen for a batch that the call does not decide; and packed weights, so
    // maps of about the same sizes take the same.
    Problem usual = of_usual_size(problem);
    usual.geometry.batch = filling_batch(usual.geometry);
    const Sides usual_sides(usual);
    for (const WinogradTile some : tiles_for(sides.taps_y == 2, problem.dtype)) {
      // A sum of few terms has little error of its own, and tiles of up to four points add little.
      const int most = sides.maps * sides.taps_x < kFewTerms ? 4 : std::max(4, problem.winograd_points);
      if (kWinogradPoints[some] > most) continue;
      for (const Kernel& one : kernels(Family::taps, compute_dtype(problem.dtype), problem.isa)) {
        const double cost = cost_of(usual, usual_sides, some, one);
        if (kernel != nullptr && cost >= seconds) continue;
        kernel = &one;
        tile = some;
        seconds = cost;
      }
    }
    seconds = cost_of(problem, sides, tile, *kernel);
    const int64_t all = ceil_div(sides.places_y, kWinogradOutputs[tile]);
    if (sides.forward) return;
    const int64_t bytes = sides.maps * sides.planes * sides.extent * kWinogradOutputs[tile] *
                          static_cast<int64_t>(compute_bytes(problem.dtype));
    tiles = ceil_div(all, ceil_div(all, std::clamp<int64_t>(kBlockBytes / bytes, 1, all)));
  }

 private:
  static double cost_of(const Problem& problem, const Sides& sides, WinogradTile some,
                        const Kernel& one) noexcept {
    const Geometry& g = problem.geometry;
    const auto width = static_cast<int64_t>(machine::lanes(one.dtype, one.isa));
    const auto points = static_cast<double>(kWinogradPoints[some]);
    const auto made = static_cast<double>(kWinogradOutputs[some]);
    const auto tiles = static_cast<double>(g.batch * ceil_div(sides.places_y, kWinogradOutputs[some]));
    const auto parts = static_cast<double>(ceil_div(sides.places_x, one.lanes));
    const double products =
        static_cast<double>(sides.maps * sides.taps_x) * machine::rows_step_seconds(one, sides.rows) +
        static_cast<double>(ceil_div(sides.rows, one.rows)) * kTileSeconds;
    const auto planes = static_cast<double>(sides.planes * sides.maps);
    const double read = planes * static_cast<double>(ceil_div(sides.extent, width));
    const auto rows = static_cast<double>(sides.rows) * made;
    const double stored = rows * static_cast<double>(ceil_div(sides.places_x, width));
    const double moved = sides.forward
                             ? stored * (turns_in_registers(sides.turns) ? kSpreadSeconds : kManySeconds) +
                                   rows / static_cast<double>(sides.turns) * parts * kRowSeconds +
                                   (sides.last ? read * points * kTurnSeconds : 0)
                             : made * (read * kApartSeconds + static_cast<double>(sides.maps) * kRowSeconds);
    const auto weights =
        static_cast<double>(g.weight_elements()) * points / static_cast<double>(sides.taps_y);
    const auto arrays = static_cast<double>(g.small_elements() + g.large_elements());
    return tiles * (parts * points * products + planes * kRowSeconds +
                    read * points * (sides.forward ? kSmallSeconds : kLargeSeconds) +
                    stored * kOutputSeconds + moved) +
           (problem.packed ? 0 : weights * kWeightSeconds) +
           machine::far_seconds(problem, arrays * static_cast<double>(storage_bytes(problem.dtype)));
  }
};

template <class E>
class WinogradRows final : public Recipe {
 public:
  using S = typename E::storage;
  using T = typename E::compute;

  explicit WinogradRows(const Problem& problem)
      : problem_(problem),
        activate_(problem),
        sides_(problem),
        apart_(problem.geometry.axes[2]),
        cut_(problem, sides_),
        load_(tconv::kernel(Family::load, problem.dtype, problem.isa)),
        turns_(tconv::kernel(Family::turns, problem.dtype, problem.isa)),
        points_(tconv::kernel(Family::winogradpoints,
                              sides_.forward ? problem.dtype : compute_dtype(problem.dtype), problem.isa)),
        weights_(tconv::kernel(Family::winogradtaps, compute_dtype(problem.dtype), problem.isa)),
        // Phases are brought together before they are stored.
        outputs_(tconv::kernel(Family::winogradrows,
                               sides_.forward ? compute_dtype(problem.dtype) : problem.dtype, problem.isa)),
        vector_(static_cast<int64_t>(machine::lanes(weights_.dtype, weights_.isa))),
        lanes_(cut_.kernel->lanes),
        row_tiles_(ceil_div(sides_.rows, cut_.kernel->rows)),
        skew_(-sides_.left & (kLineElements - 1)),
        pitch_((ceil_div(skew_ + std::max(sides_.extent,
                                          ceil_div(sides_.places_x, lanes_) * lanes_ + sides_.reach),
                         kLineElements) |
                1) *
               kLineElements) {
    while (cut_.tiles > 1 && worker_bytes() + fixed_bytes() > problem.workspace)
      cut_.tiles = ceil_div(cut_.tiles, 2);
    threads_ = problem.threads;
    while (threads_ > 1 && total() > problem.workspace) --threads_;
    while (threads_ > 1 && cut_.tiles > 1 && units() < 4 * threads_) cut_.tiles = ceil_div(cut_.tiles, 2);
  }

  void list() override {
    apart_.list();
    offset_.clear();
    for (size_t t = 0; t < static_cast<size_t>(sides_.taps_x); ++t) {
      offset_.push_back(sides_.forward ? sides_.reach - static_cast<int64_t>(t)
                                       : apart_.plane[t] * points() * pitch_ + apart_.shift[t]);
    }
  }

  std::string kernel() const override { return cut_.kernel->name; }
  size_t workspace_bytes() const noexcept override { return total(); }
  bool needs_finite_source() const noexcept override { return true; }
  std::string packing_key() const override {
    return key_of(std::string("winograd_rows ") + (sides_.forward ? "f" : "d") + (sides_.last ? "l" : ""),
                  {static_cast<int64_t>(problem_.dtype), int64_t{cut_.kernel->rows}, int64_t{cut_.tile},
                   problem_.geometry.channels, problem_.geometry.filters, sides_.y.kernel, sides_.y.stride,
                   sides_.x.kernel, sides_.x.stride});
  }
  size_t packed_bytes() const noexcept override {
    return aligned(static_cast<size_t>(row_tiles_ * points() * tile_weights()) * sizeof(T));
  }

  // Packed: [tile of rows][point][map][tap along x][row of the tile].
  bool pack(const void* weight, char* packed, Crew& crew) const override {
    const double seconds = static_cast<double>(packed_bytes()) / machine::kPackBytesPerSecond;
    return share_finite(crew, row_tiles_, seconds, [&](int64_t tile, int) noexcept {
      const int64_t first = first_row(tile);
      const int64_t rows = first_row(tile + 1) - first;
      T* to = reinterpret_cast<T*>(packed) + tile * points() * tile_weights();
      bool finite = true;
      for (int64_t map = 0; map < sides_.maps; ++map) {
        for (int64_t tap = 0; tap < sides_.taps_x; ++tap, to += cut_.kernel->rows)
          finite &= pack_column(static_cast<const S*>(weight), to, first, rows, map, tap);
      }
      return finite;
    });
  }

  bool run(const Call& call) const override {
    const Buffer scratch(total());
    Pieces pieces(scratch.data());
    const T* const packed = reinterpret_cast<const T*>(packed_weights(call, pieces));
    if (packed == nullptr) return false;
    T* bias = nullptr;
    if (call.bias != nullptr) {
      bias = pieces.take<T>(bias_bytes());
      for (int64_t r = 0; r < sides_.rows; ++r)
        bias[r] = E::load(static_cast<const S*>(call.bias)[sides_.output(r)]);
    }
    char* const workers = pieces.rest();
    call.crew.limit(threads_);
    return share_finite(call.crew, units(), cut_.seconds, [&](int64_t unit, int member) noexcept {
      Worker w{};
      lay_out(workers + static_cast<size_t>(member) * worker_bytes(), &w);
      w.packed = packed;
      w.bias = bias;
      const int64_t sample = unit / blocks();
      const int64_t first = unit % blocks() * cut_.tiles;
      return run_block(call, w, sample, first, std::min(cut_.tiles, all_tiles() - first), member);
    });
  }

 private:
  struct Worker {
    T* rows;    // of a block of the large side: [map][plane][row]
    T* points;  // of a tile of rows: [map][plane][point]
    T* sums;    // [point][row of a tile of the products][lane]
    T* strip;   // [row][output][lane], if phases are to be brought together
    const T* packed;
    const T* bias;
  };

  int64_t points() const noexcept { return kWinogradPoints[cut_.tile]; }
  int64_t outputs() const noexcept { return kWinogradOutputs[cut_.tile]; }
  int64_t all_tiles() const noexcept { return ceil_div(sides_.places_y, outputs()); }
  int64_t blocks() const noexcept { return ceil_div(all_tiles(), cut_.tiles); }
  int64_t units() const noexcept { return problem_.geometry.batch * blocks(); }
  // Of a tile of the products, the rows before which they are split evenly, and the weights of a point.
  int64_t first_row(int64_t tile) const noexcept { return sides_.rows * tile / row_tiles_; }
  int64_t tile_weights() const noexcept { return sides_.maps * sides_.taps_x * cut_.kernel->rows; }
  // Rows of the large side that a block meets in a phase.
  int64_t block_rows() const noexcept { return (cut_.tiles - 1) * outputs() + points(); }

  char* lay_out(char* memory, Worker* made) const noexcept {
    Pieces pieces(memory);
    const auto take = [&](int64_t count) { return pieces.take<T>(static_cast<size_t>(count) * sizeof(T)); };
    made->rows = take(sides_.forward ? 0 : sides_.maps * sides_.planes * block_rows() * sides_.extent);
    made->points = take(sides_.maps * sides_.planes * points() * pitch_) + skew_;
    made->sums = take(points() * cut_.kernel->rows * lanes_);
    made->strip = take(sides_.forward ? sides_.rows * outputs() * lanes_ : 0);
    return pieces.rest();
  }
  size_t worker_bytes() const noexcept {
    Worker made{};
    return static_cast<size_t>(lay_out(nullptr, &made) - static_cast<char*>(nullptr));
  }
  size_t bias_bytes() const noexcept { return aligned(static_cast<size_t>(sides_.rows) * sizeof(T)); }
  size_t fixed_bytes() const noexcept { return (problem_.packed ? 0 : packed_bytes()) + bias_bytes(); }
  size_t total() const noexcept { return fixed_bytes() + worker_bytes() * static_cast<size_t>(threads_); }

  // The points of some rows, for a map and a tap along x.
  bool pack_column(const S* weight, T* to, int64_t first, int64_t rows, int64_t map,
                   int64_t tap) const noexcept {
    T taps[kWinogradMostTaps * kTileRows];
    T made[kWinogradPoints[kF53] * kTileRows];
    T check{0};
    std::fill(std::begin(taps), std::end(taps), T{0});
    for (int64_t t = 0; t < sides_.taps_y; ++t) {
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t at = sides_.weight(first + r, map, t, tap);
        const T value = at < 0 ? T{0} : E::load(weight[at]);
        check += value * T{0};
        taps[t * kTileRows + r] = value;
      }
    }
    WinogradInArgs args{};
    args.src = taps;
    args.dst = made;
    args.tile_step = args.tile_stride = vector_;
    args.step[2] = args.point_stride = kTileRows;
    args.tiles = ceil_div(rows, vector_);
    args.tile[0] = args.tile[1] = kPlain;
    args.tile[2] = cut_.tile;
    weights_(args);
    for (int64_t p = 0; p < points(); ++p) std::copy_n(made + p * kTileRows, rows, to + p * tile_weights());
    return check == T{0};
  }

  // Returns whether all that it computes is finite: what is not, in the source, leaves no output finite that
  // the definition does not have read it.
  bool run_block(const Call& call, const Worker& w, int64_t sample, int64_t first, int64_t tiles,
                 int member) const noexcept {
    const S* const source = static_cast<const S*>(call.source) + sample * sides_.source * source_positions();
    bool finite = true;
    if (!sides_.forward) take_apart(source, w, first, tiles);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      if (call.crew.stopped(member)) return true;
      if (sides_.forward) {
        transform_small(source, w, first + tile);
      } else {
        transform_planes(w.rows + tile * outputs() * sides_.extent, w);
      }
      const Ahead ahead = rows_ahead(source, first + tile);
      for (int64_t at = 0; at < sides_.places_x; at += lanes_)
        finite &= multiply(call, w, sample, first + tile, at, std::min(lanes_, sides_.places_x - at), ahead);
    }
    return finite;
  }

  int64_t source_positions() const noexcept {
    const Geometry& g = problem_.geometry;
    return sides_.forward ? g.small_positions() : g.large_positions();
  }

  void take_apart(const S* source, const Worker& w, int64_t first, int64_t tiles) const noexcept {
    const int64_t rows = (tiles - 1) * outputs() + points();
    const int64_t plane = block_rows() * sides_.extent;
    for (int64_t map = 0; map < sides_.maps; ++map) {
      const S* const from = source + map / sides_.y.stride * source_positions();
      T* const to = w.rows + map * sides_.planes * plane;
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t at =
            (first * outputs() + row) * sides_.y.stride + map % sides_.y.stride - sides_.y.pad_lo;
        take_row_apart<E>(load_, apart_, sides_.x, 0, sides_.x.size,
                          at >= 0 && at < sides_.y.out ? from + at * sides_.x.out : nullptr,
                          to + row * sides_.extent, plane);
      }
    }
  }

  // Rows of the small side to points. Those beside it, and beside a row, are zeros.
  void transform_small(const S* source, const Worker& w, int64_t tile) const noexcept {
    const int64_t first = sides_.from_y + tile * outputs();
    WinogradPointsArgs args{};
    args.map_stride = sides_.last ? 1 : source_positions();
    args.place_stride = sides_.last ? sides_.maps : 1;
    args.row_stride = sides_.x.size * args.place_stride;
    args.src = source + first * args.row_stride;
    args.size = sides_.x.size;
    args.left = sides_.left;
    args.right = sides_.extent - sides_.left - sides_.x.size;
    args.begin = std::clamp<int64_t>(-first, 0, points());
    args.end = std::clamp<int64_t>(sides_.y.size - first, args.begin, points());
    transform(args, w);
  }

  // Rows of the large side that were taken apart.
  void transform_planes(const T* rows, const Worker& w) const noexcept {
    WinogradPointsArgs args{};
    args.src = rows;
    args.map_stride = block_rows() * sides_.extent;
    args.row_stride = sides_.extent;
    args.place_stride = 1;
    args.size = sides_.extent;
    args.end = points();
    transform(args, w);
  }

  void transform(WinogradPointsArgs& args, const Worker& w) const noexcept {
    args.dst = w.points + args.left;
    args.dst_map = points() * pitch_;
    args.dst_point = pitch_;
    args.maps = sides_.maps * sides_.planes;
    args.tile = cut_.tile;
    points_(args);
  }

  // Lines of every map of the small side that the next tile of rows reads first; where maps lie together,
  // each has a share of them.
  struct Ahead {
    const char* from;
    int64_t lines;
    int64_t step;  // bytes from one map's to the next
  };
  Ahead rows_ahead(const S* source, int64_t tile) const noexcept {
    constexpr auto line = static_cast<int64_t>(kAlignment);
    constexpr auto element = static_cast<int64_t>(sizeof(S));
    const int64_t row = sides_.from_y + (tile + 1) * outputs() + sides_.taps_y - 1;
    const int64_t rows = std::clamp<int64_t>(sides_.y.size - row, 0, outputs());
    if (!sides_.forward || row < 0 || rows == 0) return {};
    const int64_t lines = ceil_div(rows * sides_.x.size * element, line);
    if (sides_.last)
      return {reinterpret_cast<const char*>(source + row * sides_.x.size * sides_.maps), lines, lines * line};
    return {reinterpret_cast<const char*>(source + row * sides_.x.size), lines, source_positions() * element};
  }

  bool multiply(const Call& call, const Worker& w, int64_t sample, int64_t tile, int64_t at, int64_t count,
                const Ahead& ahead) const noexcept {
    const int64_t of_tile = cut_.kernel->rows;
    void* c[kTileRows];
    bool finite = true;
    TapsArgs args{};
    args.b_offset = offset_.data();
    args.taps = sides_.taps_x;
    args.depth = sides_.maps;
    args.b_step = sides_.planes * points() * pitch_;
    args.c = c;
    args.ahead_step = ahead.step;
    const int64_t calls = ceil_div(sides_.places_x, lanes_) * row_tiles_ * points();
    int64_t index = at / lanes_ * row_tiles_ * points();
    WinogradRowsArgs out{};
    out.src = w.sums;
    out.activation = activate_.get();
    out.finite = &finite;
    out.point_stride = of_tile * lanes_;
    out.src_row = lanes_;
    out.outputs = std::min(outputs(), sides_.places_y - tile * outputs());
    out.lanes = count;
    out.tile = cut_.tile;
    if (sides_.forward) {
      out.dst_row = outputs() * lanes_;
      out.dst_output = lanes_;
    } else {
      out.dst_row = problem_.geometry.small_positions();
      out.dst_output = sides_.x.size;
    }
    for (int64_t part = 0; part < row_tiles_; ++part) {
      const int64_t first = first_row(part);
      const int64_t rows = first_row(part + 1) - first;
      args.rows = static_cast<int32_t>(rows);
      if (!sides_.forward) {
        out.dst = static_cast<S*>(call.out) + (sample * sides_.outputs + first) * out.dst_row +
                  tile * outputs() * out.dst_output + at;
      }
      for (int64_t p = 0; p < points(); ++p) {
        if (!sides_.forward) fetch_outputs(out, rows * p / points(), rows * (p + 1) / points());
        for (int64_t r = 0; r < rows; ++r) c[r] = w.sums + (p * of_tile + r) * lanes_;
        args.a = w.packed + (part * points() + p) * tile_weights();
        args.b = w.points + p * pitch_ + at;
        const int64_t line = ahead.lines * index / calls;
        args.ahead = ahead.from + line * static_cast<int64_t>(kAlignment);
        args.ahead_lines = static_cast<int32_t>(ahead.lines * ++index / calls - line);
        (*cut_.kernel)(args);
      }
      out.rows = rows;
      out.bias = w.bias == nullptr ? nullptr : w.bias + first;
      if (sides_.forward) out.dst = w.strip + first * out.dst_row;
      outputs_(out);
    }
    if (sides_.forward) spread(call, w, sample, tile, at, count, out.outputs);
    return finite;
  }

  // Lines that are stored soon, of some rows.
  static void fetch_outputs(const WinogradRowsArgs& out, int64_t begin, int64_t end) noexcept {
    constexpr auto line = static_cast<int64_t>(kAlignment / sizeof(S));
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t j = 0; j < out.outputs; ++j) {
        const S* const to = static_cast<const S*>(out.dst) + r * out.dst_row + j * out.dst_output;
        for (int64_t l = 0; l < out.lanes; l += line) __builtin_prefetch(to + l, 1);
      }
    }
  }

  // Brings together what takes turns in some positions of a tile of rows.
  void spread(const Call& call, const Worker& w, int64_t sample, int64_t tile, int64_t at, int64_t count,
              int64_t made) const noexcept {
    const auto& [y, x] = std::tie(sides_.y, sides_.x);
    const int64_t step = outputs() * lanes_;
    const int64_t turns = sides_.turns;
    const int64_t each = turns / x.stride;  // maps of an output position
    const int64_t planes = sides_.outputs / each;
    // Where the first position begins in a row, and positions all of whose phases lie in it.
    const int64_t start = (sides_.first_x + at) * x.stride - x.pad_lo;
    const int64_t low = std::clamp<int64_t>(ceil_div(-start, x.stride), 0, count);
    const int64_t high = std::clamp<int64_t>(floor_div(x.out - start, x.stride), low, count);
    for (int64_t row = 0; row < sides_.rows; row += turns) {
      for (int64_t j = 0; j < made; ++j) {
        const int64_t at_y =
            (sides_.first_y + tile * outputs() + j) * y.stride + sides_.phase_y(row) - y.pad_lo;
        if (at_y < 0 || at_y >= y.out) continue;
        const T* const from = w.strip + row * step + j * lanes_;
        const int64_t plane = sample * planes + (sides_.last ? 0 : sides_.output(row));
        S* const to = static_cast<S*>(call.out) + ((plane * y.out + at_y) * x.out + start) * each;
        const auto clipped = [&](int64_t i) noexcept {
          for (int64_t r = 0; r < turns; ++r) {
            const int64_t place = start + i * x.stride + r / each;
            if (place >= 0 && place < x.out) to[i * turns + r] = E::store(from[r * step + i]);
          }
        };
        for (int64_t i = 0; i < low; ++i) clipped(i);
        for (int64_t i = high; i < count; ++i) clipped(i);
        if (low < high) turns_(TurnsArgs{from + low, step, to + low * turns, turns, high - low});
      }
    }
  }

  Problem problem_;
  Activate activate_;
  Sides sides_;
  Planes apart_;
  Cut cut_;
  const Kernel& load_;
  const Kernel& turns_;
  const Kernel& points_;
  const Kernel& weights_;
  const Kernel& outputs_;
  int64_t vector_;
  int64_t lanes_;
  int64_t row_tiles_;
  int64_t skew_;                 // elements before a row of points, so that its first place begins a line
  int64_t pitch_;                // elements from a row of points to the next
  std::vector<int64_t> offset_;  // of each tap along x in the points
  int threads_ = 1;
};

std::optional<std::string> refusal(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const auto& [z, y, x] = g.axes;
  if (g.channels_last && problem.pass != Pass::forward) return "maps of a position lie together";
  if (g.groups > 1) return "groups";
  if (z.size != 1 || z.out != 1 || z.kernel != 1 || z.pad_lo != 0) return "three axes";
  if (y.dilation != 1 || (x.dilation != 1 && x.kernel > 1)) return "dilation";
  if (y.stride > kMostRows || (y.kernel != 2 * y.stride && y.kernel != 3 * y.stride))
    return "phases along y have neither two nor three taps";
  if (y.pad_lo < 0 || y.pad_lo >= y.kernel || x.pad_lo < 0 || x.pad_lo >= x.kernel)
    return "pads beyond the taps";
  const int64_t width = std::max(x.kernel, x.stride);
  if (g.filters > kMostRows || width > kMostRows || g.filters * y.stride * width > kMostRows)
    return "more than " + std::to_string(kMostRows) + " filters and phases";
  if (g.channels > kMostDepth / x.kernel)
    return "more than " + std::to_string(kMostDepth) + " channels and taps";
  const auto lanes = static_cast<int64_t>(machine::lanes(compute_dtype(problem.dtype), problem.isa));
  if (x.size < lanes) return "rows are shorter than " + std::to_string(lanes);
  return std::nullopt;
}

double cost(const Problem& problem) { return Cut(problem, Sides(problem)).seconds; }

// The products of the largest tile, at full speed.
double least_seconds(const Problem& problem) {
  const Axis& y = problem.geometry.axes[1];
  const WinogradTile tile = tiles_for(y.kernel == 2 * y.stride, problem.dtype).back();
  return machine::least_seconds(problem) * kWinogradPoints[tile] /
         (kWinogradOutputs[tile] * kWinogradTaps[tile]);
}

}  // namespace

extern const Algorithm winograd_rows;
const Algorithm winograd_rows{"winograd_rows", refusal, cost, make_stored<WinogradRows>, true, least_seconds};

}  // namespace tconv
