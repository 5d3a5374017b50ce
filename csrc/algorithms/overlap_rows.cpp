// Forward for few filters: one matrix product, rows being input positions as they lie, lanes being taps and
// filters. What every position gives stays in the cache, and each place of the output is the sum of what the
// positions around it give.
#include <algorithm>
#include <array>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "positions_abi.hpp"

namespace tconv {
namespace {

constexpr int64_t kMostStride = 1 << 16;
constexpr int64_t kMostColumns = 4096;
constexpr int64_t kSumsBytes = 256 << 10;  // that one thread holds in its cache
constexpr int64_t kAliasBytes = 4096;      // rows so far apart meet in one set of the first cache,
constexpr int64_t kWays = 8;               // which holds so many lines
constexpr double kTileSeconds = 120 / machine::kHertz;  // of a call, beside its steps
constexpr double kPieceSeconds = 1 / machine::kHertz;   // of a vector that is added
constexpr double kPlaceSeconds = 2 / machine::kHertz;   // of a vector that is stored
constexpr double kApartSeconds = 14 / machine::kHertz;  // of a vector whose maps are taken apart
constexpr double kShortSeconds = 12 / machine::kHertz;  // of a part of a vector of float16 or bfloat16
constexpr double kPackSeconds = 9 / machine::kHertz;    // of a weight that is packed alone
// Packed weights that the second cache does not keep from one tile to the next, and how fast others come.
constexpr double kNearBytes = 512 << 10;
constexpr double kFarBytesPerSecond = 200e9;

// One axis: dst = q * stride + phase - pad reads src = q - tap, for weights k = tap * stride + phase.
struct PlaceAxis {
  int64_t src_size;
  int64_t dst_size;
  int64_t kernel;
  int64_t stride;
  int64_t pad;
  int64_t taps;    // of the phase that has most
  int64_t first;   // lowest q
  int64_t places;  // number of q

  explicit PlaceAxis(const Axis& axis) noexcept
      : src_size(axis.size),
        dst_size(axis.out),
        kernel(axis.kernel),
        stride(axis.stride),
        pad(axis.pad_lo),
        taps(ceil_div(axis.kernel, axis.stride)),
        first(floor_div(pad, stride)),
        places(floor_div(pad + dst_size - 1, stride) - first + 1) {}
};

int64_t columns_of(const Geometry& g) noexcept { return g.filters * g.taps(); }

// Whether positions lie as the products take them, two channels in one element where those take pairs.
bool as_they_lie(const Kernel& tile, const Problem& problem) noexcept {
  return tile.dtype == problem.dtype && (problem.geometry.channels_last || steps_of_element(tile) == 1);
}

// Rows of a tile, so few that the lines they lie in fit the first cache; where maps lie apart, a line of
// each, for maps a power of two apart would meet in few sets of any cache.
int64_t rows_of(const Kernel& tile, const Geometry& g) noexcept {
  if (!g.channels_last)
    return std::min<int64_t>(tile.rows, static_cast<int64_t>(kAlignment / compute_bytes(tile.dtype)));
  const int64_t row_bytes = g.channels * static_cast<int64_t>(storage_bytes(tile.dtype));
  int64_t apart = kAliasBytes / static_cast<int64_t>(kAlignment);
  for (int64_t bytes = row_bytes; apart > 1 && bytes % (2 * static_cast<int64_t>(kAlignment)) == 0;
       bytes /= 2)
    apart /= 2;
  return std::min<int64_t>(tile.rows, kWays * apart);
}

double products_seconds(const Kernel& tile, const Geometry& g) noexcept {
  const auto& [z, y, x] = g.axes;
  // Each row of the source in as many tiles as it takes.
  const int64_t tiles = ceil_div(x.size, rows_of(tile, g));
  const auto passes = static_cast<double>(g.batch * y.size * tiles);
  const auto panels = static_cast<double>(ceil_div(columns_of(g), tile.lanes));
  const auto depth = static_cast<double>(g.channels / steps_of_element(tile));
  const double bytes = panels * depth * tile.lanes * static_cast<double>(compute_bytes(tile.dtype));
  return passes *
         (panels * (depth * machine::tile_step_seconds(tile, ceil_div(x.size, tiles)) + kTileSeconds) +
          (bytes > kNearBytes ? bytes / kFarBytesPerSecond : 0));
}

const Kernel& best_tile(const Problem& problem) {
  auto candidates = kernels(Family::positions, problem.dtype, problem.isa);
  // Pairs of channels, if the last is in one.
  if (candidates.empty() || problem.geometry.channels % steps_of_element(candidates.front()) != 0)
    candidates = kernels(Family::positions, compute_dtype(problem.dtype), problem.isa);
  return *std::min_element(candidates.begin(), candidates.end(), [&](const Kernel& a, const Kernel& b) {
    return products_seconds(a, problem.geometry) < products_seconds(b, problem.geometry);
  });
}

template <class T>
class OverlapRows final : public Recipe {
 public:
  explicit OverlapRows(const Problem& problem)
      : problem_(problem),
        activate_(problem),
        tile_(best_tile(problem)),
        pair_(pair_kernel(tile_)),
        load_(tconv::kernel(Family::load, problem.dtype, problem.isa)),
        convert_(pair_ == nullptr ? load_ : tconv::kernel(Family::loadpairs, problem.dtype, problem.isa)),
        store_(tconv::kernel(Family::store, problem.dtype, problem.isa)),
        // Sums are maps side by side; where those lie apart they are taken apart afterwards.
        apart_(!problem.geometry.channels_last && problem.geometry.filters > 1),
        assemble_(tconv::kernel(Family::assemble, apart_ ? compute_dtype(problem.dtype) : problem.dtype,
                                problem.isa)),
        y_(problem.geometry.axes[1]),
        x_(problem.geometry.axes[2]),
        channels_(problem.geometry.channels),
        rows_(rows_of(tile_, problem.geometry)),
        columns_(columns_of(problem.geometry)),
        panels_(ceil_div(columns_, tile_.lanes)),
        unit_(problem.geometry.filters * x_.stride),
        element_(static_cast<int64_t>(storage_bytes(problem.dtype))) {
    cut();
  }

  std::string kernel() const override { return tile_.name; }
  size_t workspace_bytes() const noexcept override { return workspace_; }
  size_t packed_bytes() const noexcept override {
    return aligned(static_cast<size_t>(panels_ * channels_ * tile_.lanes) * sizeof(T));
  }

  std::string packing_key() const override {
    return key_of("overlap_rows",
                  {static_cast<int64_t>(problem_.dtype), int64_t{tile_.lanes}, channels_, columns_,
                   apart_ ? problem_.geometry.filters : 1, int64_t{pair_ != nullptr}});
  }

  // Packed: [panel][channel][lane]; pairs of channels take the first half of a panel.
  bool pack(const void* weight, char* packed, Crew& crew) const override {
    const double seconds = static_cast<double>(packed_bytes()) / machine::kPackBytesPerSecond;
    crew.share(panels_, seconds, [&](int64_t panel, int) noexcept {
      T* const to = reinterpret_cast<T*>(packed) + panel * channels_ * tile_.lanes;
      const int64_t first = panel * tile_.lanes;
      const int64_t columns = std::min<int64_t>(tile_.lanes, columns_ - first);
      // Lanes are neighbours in the weights, or those of each filter are.
      const int64_t filters = apart_ ? problem_.geometry.filters : 1;
      for (int64_t filter = 0; filter < filters; ++filter) {
        const int64_t tap = ceil_div(first - filter, filters);
        MoveArgs args{};
        args.src = static_cast<const char*>(weight) + (filter * (columns_ / filters) + tap) * element_;
        args.src_row = columns_;
        args.src_column = 1;
        args.dst = to + tap * filters + filter - first;
        args.dst_row = tile_.lanes;
        args.dst_column = filters;
        args.rows = channels_;
        args.columns = ceil_div(first + columns - filter, filters) - tap;
        if (args.columns > 0) load_(args);
      }
      for (int64_t step = 0; columns < tile_.lanes && step < channels_; ++step)
        std::fill(to + step * tile_.lanes + columns, to + (step + 1) * tile_.lanes, T{0});
      if (pair_ != nullptr) (*pair_)(PairArgs{to, 1, channels_, tile_.lanes});
    });
    return true;
  }

  bool run(const Call& call) const override {
    const Buffer scratch(workspace_);
    Pieces pieces(scratch.data());
    const char* packed = packed_weights(call, pieces);
    T* bias = nullptr;
    if (call.bias != nullptr) {
      bias = pieces.take<T>(bias_bytes());
      spread_bias(call.bias, bias);
    }
    char* const workers = pieces.rest();
    call.crew.limit(threads_);
    const int64_t blocks_x = ceil_div(x_.places, block_x_);
    const int64_t blocks_y = ceil_div(y_.places, block_y_);
    call.crew.share(problem_.geometry.batch * blocks_y * blocks_x, machine::seconds(problem_) * threads_,
                    [&](int64_t unit, int member) noexcept {
                      Work work(workers + static_cast<size_t>(member) * worker_bytes(), *this);
                      work.call = &call;
                      work.packed = reinterpret_cast<const T*>(packed);
                      work.bias = bias;
                      work.sample = unit / blocks_x / blocks_y;
                      work.member = member;
                      run_block(work, unit / blocks_x % blocks_y * block_y_, unit % blocks_x * block_x_);
                    });
    return true;
  }

 private:
  // What one thread computes a block with.
  struct Work {
    T* sums;  // of the rows of the source that reach a row of places: [row][position][column]
    T* converted;
    T* strip;  // a row of places
    const void** src;
    const Call* call = nullptr;
    const T* packed = nullptr;
    const T* bias = nullptr;
    int64_t sample = 0;
    int member = 0;

    Work(char* memory, const OverlapRows& recipe) noexcept {
      Pieces pieces(memory);
      sums = pieces.take<T>(recipe.sums_bytes());
      converted = pieces.take<T>(recipe.converted_bytes());
      strip = pieces.take<T>(recipe.strip_bytes());
      src = pieces.take<const void*>(recipe.piece_bytes());
    }
  };

  // From one position's sums to the next one's: an odd number of lines, or they would meet in few sets of the
  // cache.
  int64_t step() const noexcept {
    constexpr auto line = static_cast<int64_t>(kAlignment / sizeof(T));
    return (ceil_div(panels_ * tile_.lanes, line) | 1) * line;
  }
  // Elements of the depth of a product.
  int64_t depth() const noexcept { return channels_ / steps_of_element(tile_); }
  // Sums of a row: those of the places of a block and of what reaches into them.
  int64_t slots() const noexcept { return block_x_ + x_.taps - 1; }
  size_t bias_bytes() const noexcept {
    return static_cast<size_t>(unit_) * sizeof(T) + kAlignment;  // room to read a vector
  }
  size_t sums_bytes() const noexcept {
    return static_cast<size_t>(y_.taps * slots() * step()) * sizeof(T) + kAlignment;
  }
  size_t converted_bytes() const noexcept {
    return as_they_lie(tile_, problem_) ? 0 : static_cast<size_t>(rows_ * depth()) * sizeof(T);
  }
  size_t strip_bytes() const noexcept {
    return apart_ ? static_cast<size_t>(block_x_ * unit_) * sizeof(T) : 0;
  }
  size_t piece_bytes() const noexcept { return static_cast<size_t>(y_.taps * x_.taps) * 8; }
  size_t worker_bytes() const noexcept {
    return aligned(sums_bytes()) + aligned(converted_bytes()) + aligned(strip_bytes()) +
           aligned(piece_bytes());
  }

  // Decides blocks and threads, so that the workspace holds them.
  void cut() {
    block_x_ = block_y_ = 1;
    threads_ = 1;
    const auto total = [&] {
      return (problem_.packed ? 0 : aligned(packed_bytes())) + aligned(bias_bytes()) +
             worker_bytes() * static_cast<size_t>(threads_);
    };
    workspace_ = total();
    if (workspace_ > problem_.workspace) return;
    threads_ = problem_.threads;
    while (threads_ > 1 && total() > problem_.workspace) --threads_;
    block_x_ = x_.places;
    block_y_ = y_.places;
    const auto halve = [](int64_t& block, int64_t places) {
      block = ceil_div(places, 2 * ceil_div(places, block));
    };
    while (block_x_ > 1 && (total() > problem_.workspace ||
                            (static_cast<int64_t>(sums_bytes()) > kSumsBytes && block_x_ > 4 * rows_))) {
      halve(block_x_, x_.places);
    }
    // Blocks compute again what reaches into them, so they are cut where they are long.
    while (threads_ > 1 &&
           problem_.geometry.batch * ceil_div(x_.places, block_x_) * ceil_div(y_.places, block_y_) <
               4 * threads_) {
      const bool along_x = block_x_ * y_.taps >= block_y_ * x_.taps;
      if (along_x ? block_x_ < 8 * std::max(rows_, x_.taps) : block_y_ < 4 * y_.taps) break;
      halve(along_x ? block_x_ : block_y_, along_x ? x_.places : y_.places);
    }
    workspace_ = total();
  }

  void spread_bias(const void* bias, T* spread) const noexcept {
    with_dtype(problem_.dtype, [&](auto e) {
      const auto* from = static_cast<const typename decltype(e)::storage*>(bias);
      for (int64_t i = 0; i < unit_; ++i)
        spread[i] = static_cast<T>(e.load(from[i % problem_.geometry.filters]));
    });
  }

  // Rows of the source in turn, each followed by the places that it is the last to reach.
  void run_block(const Work& work, int64_t first_y, int64_t first_x) const noexcept {
    const int64_t places_x = std::min(block_x_, x_.places - first_x);
    const int64_t end_y = std::min(first_y + block_y_, y_.places);
    if (places_x <= 0) return;
    const int64_t source_x = x_.first + first_x - (x_.taps - 1);
    const int64_t count = places_x + x_.taps - 1;
    for (int64_t q = y_.first + first_y - (y_.taps - 1); q < y_.first + end_y; ++q) {
      if (work.call->crew.stopped(work.member)) return;
      if (q >= 0 && q < y_.src_size) multiply_row(work, q, source_x, count);
      if (q >= y_.first + first_y) assemble_row(work, q, x_.first + first_x, places_x);
    }
  }

  // Where the sums of a row of the source lie.
  T* sums_of(const Work& work, int64_t row) const noexcept {
    return work.sums + row % y_.taps * slots() * step();
  }

  // What `count` positions of a row from `first` on give; those outside give nothing.
  void multiply_row(const Work& work, int64_t row, int64_t first, int64_t count) const noexcept {
    T* const sums = sums_of(work, row);
    const int64_t begin = std::clamp<int64_t>(-first, 0, count);
    const int64_t end = std::clamp<int64_t>(x_.src_size - first, begin, count);
    std::fill(sums, sums + begin * step(), T{0});
    std::fill(sums + end * step(), sums + count * step(), T{0});
    if (begin == end) return;
    const bool last = problem_.geometry.channels_last;
    const int64_t positions = y_.src_size * x_.src_size;
    const int64_t src_x = last ? channels_ : 1;
    const int64_t src_map = last ? 1 : positions;
    const char* const from =
        static_cast<const char*>(work.call->source) +
        (work.sample * channels_ * positions + (row * x_.src_size + first + begin) * src_x) * element_;
    const int64_t tiles = ceil_div(end - begin, rows_);
    PositionsArgs args{};
    args.depth = depth();
    args.c_row = step();
    const bool lies = as_they_lie(tile_, problem_);
    // Of the source, in the time of a step of depth.
    const int64_t steps = steps_of_element(tile_);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t at = (end - begin) * tile / tiles;
      args.rows = static_cast<int32_t>((end - begin) * (tile + 1) / tiles - at);
      args.a = from + at * src_x * element_;
      args.a_row = last ? depth() : 1;
      args.a_step = last ? 1 : src_map;
      // The next rows, or the next line of each map.
      args.ahead = static_cast<const char*>(args.a) +
                   (last ? args.rows * channels_ * element_ : static_cast<int64_t>(2 * kAlignment));
      args.ahead_step = steps * (last ? args.rows : src_map) * element_;
      if (!lies) {
        MoveArgs move{};
        move.src = args.a;
        move.dst = work.converted;
        move.src_column = move.dst_column = 1;
        move.rows = last ? 1 : channels_;
        move.columns = args.rows * (last ? channels_ : 1);
        move.src_row = positions;
        move.dst_row = args.rows;
        convert_(move);
        args.a = work.converted;
        if (!last) args.a_step = args.rows;
      }
      for (int64_t panel = 0; panel < panels_; ++panel) {
        args.b = work.packed + panel * channels_ * tile_.lanes;
        args.c = sums + (begin + at) * step() + panel * tile_.lanes;
        tile_(args);
      }
    }
  }

  // The rows of the output that belong to the places of one row.
  void assemble_row(const Work& work, int64_t q_y, int64_t q_x, int64_t places) const noexcept {
    const int64_t filters = problem_.geometry.filters;
    AssembleArgs args{};
    args.src = work.src;
    args.src_step = step();
    args.unit = unit_;
    args.rest = x_.kernel % x_.stride * filters;
    args.dst_row = apart_ ? 0 : x_.dst_size * filters;
    args.bias = work.bias;
    args.activation = activate_.get();
    const int64_t origin = q_x * x_.stride - x_.pad;  // of the first place, maybe outside
    args.begin = std::max<int64_t>(0, -origin) * filters;
    args.end = std::min(places * x_.stride, x_.dst_size - origin) * filters;
    for (int64_t phase = 0; phase < y_.stride; ++phase) {
      const int64_t at_y = q_y * y_.stride + phase - y_.pad;
      if (at_y < 0 || at_y >= y_.dst_size) continue;
      args.pieces = args.whole = 0;
      // The last tap of a row may reach but a part of a place; such pieces come last.
      const auto list = [&](int64_t first_x, int64_t end_x) {
        for (int64_t tap_y = 0; tap_y * y_.stride + phase < y_.kernel; ++tap_y) {
          if (q_y - tap_y < 0 || q_y - tap_y >= y_.src_size) continue;
          const T* const sums =
              sums_of(work, q_y - tap_y) + (tap_y * y_.stride + phase) * x_.kernel * filters;
          for (int64_t tap_x = first_x; tap_x < end_x; ++tap_x)
            work.src[args.pieces++] = sums + (x_.taps - 1 - tap_x) * step() + tap_x * unit_;
        }
      };
      list(0, x_.kernel / x_.stride);
      args.whole = args.pieces;
      list(x_.kernel / x_.stride, x_.taps);
      const int64_t to = at_y * x_.dst_size + origin;
      if (apart_) {
        args.dst = work.strip;
        assemble_(args);
        MoveArgs move{};
        move.src = work.strip + args.begin;
        move.src_row = filters;
        move.src_column = 1;
        move.dst = static_cast<char*>(work.call->out) +
                   (work.sample * filters * y_.dst_size * x_.dst_size + to + args.begin / filters) * element_;
        move.dst_row = 1;
        move.dst_column = y_.dst_size * x_.dst_size;
        move.rows = (args.end - args.begin) / filters;
        move.columns = filters;
        store_(move);
      } else {
        args.dst = static_cast<char*>(work.call->out) +
                   (work.sample * y_.dst_size * x_.dst_size + to) * filters * element_;
        assemble_(args);
      }
    }
  }

  Problem problem_;
  Activate activate_;
  const Kernel& tile_;
  const Kernel* pair_;  // where products take pairs of channels
  const Kernel& load_;
  const Kernel& convert_;  // what does not lie as products take it
  const Kernel& store_;
  bool apart_;
  const Kernel& assemble_;
  PlaceAxis y_;
  PlaceAxis x_;
  int64_t channels_;
  int64_t rows_;     // of a tile
  int64_t columns_;  // taps and filters
  int64_t panels_;
  int64_t unit_;     // elements of a place in a row of the output
  int64_t element_;  // bytes, as stored
  int64_t block_x_ = 1;
  int64_t block_y_ = 1;
  int threads_ = 1;
  size_t workspace_ = 0;
};

std::optional<std::string> refusal(const Problem& problem) {
  const Geometry& g = problem.geometry;
  if (g.groups > 1) return "groups";
  for (const Axis& axis : g.axes) {
    if (axis.dilation != 1 && axis.kernel > 1) return "dilation";
    if (axis.stride > kMostStride) return "stride above " + std::to_string(kMostStride);
  }
  const Axis& z = g.axes[0];
  if (z.size != 1 || z.out != 1 || z.kernel != 1 || z.pad_lo != 0) return "three axes";
  if (columns_of(g) > kMostColumns) return "more than " + std::to_string(kMostColumns) + " columns";
  return std::nullopt;
}

double cost(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const PlaceAxis y(g.axes[1]);
  const PlaceAxis x(g.axes[2]);
  const double vector = machine::lanes(compute_dtype(problem.dtype), problem.isa);
  const auto rows = static_cast<double>(g.batch * y.dst_size);
  const double vectors = static_cast<double>(x.places) *
                         static_cast<double>(ceil_div(g.filters * x.stride, static_cast<int64_t>(vector)));
  const auto pieces = static_cast<double>(y.taps * x.taps);
  const bool parts = storage_bytes(problem.dtype) < sizeof(float) && g.filters == 1 &&
                     x.stride % static_cast<int64_t>(vector) != 0;
  const Kernel& tile = best_tile(problem);
  const double converted = as_they_lie(tile, problem) ? 0 : static_cast<double>(g.small_elements()) / vector;
  const double apart =
      g.channels_last || g.filters == 1 ? 0 : static_cast<double>(g.large_elements()) / vector;
  // Plain weights of filters that lie apart, few of whose taps go to a panel.
  const double few = std::max(0.0, 1 - tile.lanes / static_cast<double>(g.filters));
  const double packing =
      problem.packed || g.channels_last ? 0 : static_cast<double>(g.weight_elements()) * few * kPackSeconds;
  // Rows are fetched during the products of those before, which hides half of it.
  const double fetched = static_cast<double>(g.small_elements()) *
                         static_cast<double>(storage_bytes(problem.dtype)) *
                         (1 / machine::kStoreBytesPerSecond - 1 / machine::kReadBytesPerSecond) / 2;
  return products_seconds(tile, g) +
         rows * (vectors * (pieces * kPieceSeconds + kPlaceSeconds) + machine::kCallSeconds +
                 (parts ? static_cast<double>(x.places) * kShortSeconds : 0)) +
         converted * machine::kCopySeconds + apart * kApartSeconds + packing +
         machine::traffic_seconds(problem) - fetched;
}

}  // namespace

extern const Algorithm overlap_rows;
const Algorithm overlap_rows{"overlap_rows", refusal, cost, make_computed<OverlapRows>};

}  // namespace tconv
