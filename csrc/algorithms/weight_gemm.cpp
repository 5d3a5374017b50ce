// Weight gradient as matrix products whose depth is positions. The small side is packed for the product
// kernel; the large side is copied with its maps innermost, some rows at a time, and a tap only shifts where
// it is read. Where it has few maps, taps along x and maps are one run of neighbours, read as one. Either
// side may lie in the lanes. Sums are never shared out.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <tuple>

#include "algorithms/algorithm.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "packing.hpp"

namespace tconv {
namespace {

constexpr int64_t kMostTaps = 1 << 20;
constexpr size_t kStripBytes = 1 << 20;
constexpr size_t kSumBytes = 1 << 20;
constexpr int64_t kPanelBytes = 20 << 10;
constexpr int64_t kPiece = 256;
// What a tile costs beside its products: for all of them, and a vector of sums that is not near; a row of
// positions that is listed for it, and one that is copied.
constexpr double kTileSeconds = 70 / machine::kHertz;
constexpr double kListSeconds = 20 / machine::kHertz;
constexpr double kRowSeconds = 110 / machine::kHertz;
constexpr double kNearSums = 1.7;  // times as long as alone; more where they leave the second cache
constexpr double kFarSums = 3.6;
// A vector that is moved: mirrored, of the side in the rows of which processors read ahead, and of the other,
// where one vector holds all maps or not; in order, of either side. Short rows are parts of vectors.
constexpr double kSmallSeconds = 7.5 / machine::kHertz;
constexpr double kLineSeconds = 2.5 / machine::kHertz;
constexpr double kLargeSeconds = 7 / machine::kHertz;
constexpr double kSmallLastSeconds = 6.5 / machine::kHertz;
constexpr double kLargeLastSeconds = 4.5 / machine::kHertz;
constexpr double kPartSeconds = 8 / machine::kHertz;     // the same of a group
constexpr double kShortRows = 2;                         // times as long
constexpr double kPieceSeconds = 14 / machine::kHertz;   // of a map's short row beyond the second cache
constexpr double kFarRows = 4;                           // the same from memory, mirrored
constexpr double kSquareSeconds = 30 / machine::kHertz;  // sums mirrored, a square of a vector's lanes
constexpr double kClearBytesPerSecond = 60e9;

// What lies in rows and lanes, and the kernel for it. A span is what one product makes for each channel: the
// filters of a tap, or the filters of all taps along x (`joined`).
struct Roles {
  bool joined = false;
  bool lanes_large = true;  // spans in the lanes, channels in the rows; or the other way
  const Kernel* gemm = nullptr;
  double step_seconds = 0;  // of one position of the small side
  double sum_seconds = 0;   // of fetching and storing all sums
  int64_t width = 0;        // of a span
  int64_t spans = 0;

  explicit Roles(const Problem& problem) {
    const Geometry& g = problem.geometry;
    const int64_t channels = g.channels / g.groups;
    const int64_t filters = g.filters / g.groups;
    const Axis& x = g.axes[2];
    for (const Kernel& kernel : kernels(Family::gemm, compute_dtype(problem.dtype), problem.isa)) {
      const double vectors = kernel.lanes / machine::lanes(kernel.dtype, kernel.isa);
      for (const bool join : {false, true}) {
        if (join && (x.kernel == 1 || x.dilation != 1)) continue;
        const int64_t wide = join ? x.kernel * filters : filters;
        const int64_t count = g.taps() / (join ? x.kernel : 1);
        for (const bool large : {true, false}) {
          const int64_t panels = ceil_div(large ? wide : channels, kernel.lanes);
          // A panel of the large side comes near for all rows to share, copied or where it lies.
          const double copies = large ? vectors * machine::kCopySeconds : 0;
          const int64_t rows = large ? channels : wide;
          const double step =
              static_cast<double>(count * panels) * (machine::rows_step_seconds(kernel, rows) + copies);
          const double sums = static_cast<double>(count * panels) *
                              (static_cast<double>(rows) * vectors * machine::kCopySeconds +
                               static_cast<double>(ceil_div(rows, kernel.rows)) * kTileSeconds);
          const double depth = static_cast<double>(kPanelBytes) / (kernel.lanes * 4);
          const auto seconds = [depth](double one, double all) { return one + all / depth; };
          if (gemm == nullptr || seconds(step, sums) < seconds(step_seconds, sum_seconds)) {
            *this = {join, large, &kernel, step, sums, wide, count};
          }
        }
      }
    }
  }

 private:
  Roles(bool join, bool large, const Kernel* kernel, double step, double sums, int64_t wide,
        int64_t count) noexcept
      : joined(join),
        lanes_large(large),
        gemm(kernel),
        step_seconds(step),
        sum_seconds(sums),
        width(wide),
        spans(count) {}
};

template <class T>
class WeightGemm final : public Recipe {
 public:
  explicit WeightGemm(const Problem& problem)
      : problem_(problem),
        roles_(problem),
        gemm_(*roles_.gemm),
        load_(tconv::kernel(Family::load, problem.dtype, problem.isa)),
        copy_(tconv::kernel(Family::load, compute_dtype(problem.dtype), problem.isa)),
        store_(tconv::kernel(Family::store, problem.dtype, problem.isa)),
        channels_(problem.geometry.channels / problem.geometry.groups),
        filters_(problem.geometry.filters / problem.geometry.groups),
        taps_(problem.geometry.taps()) {
    cut();
  }

  std::string kernel() const override { return gemm_.name; }
  size_t workspace_bytes() const noexcept override { return workspace_; }

  // Expected on one thread.
  double seconds() const noexcept {
    const Geometry& g = problem_.geometry;
    const bool last = g.channels_last;
    const double width = machine::lanes(gemm_.dtype, gemm_.isa);
    const auto lanes = static_cast<int64_t>(width);
    const auto ratio = [](int64_t size, int64_t part) { return static_cast<double>(ceil_div(size, part)); };
    const auto groups = static_cast<double>(g.groups);
    const auto positions = static_cast<double>(g.batch * g.small_positions()) * groups;
    double boxes = groups * ratio(g.batch, block_samples_);
    double again = 1;  // how often a position of the large side is staged, because boxes overlap
    for (int a = 0; a < kAxes; ++a) {
      const double blocks = ratio(g.axes[a].size, block_[a]);
      boxes *= blocks;
      again *= blocks * static_cast<double>(reach(a, block_[a])) / static_cast<double>(g.axes[a].out);
    }
    const bool far = static_cast<double>(sums_bytes()) > machine::kSecondCacheBytes;
    const double rounds = boxes * ratio(block_samples_ * block_[0] * block_[1], rows_at_a_time());
    const double panels =
        static_cast<double>(roles_.spans) * ratio(roles_.lanes_large ? roles_.width : channels_, gemm_.lanes);
    const double products = positions * inside_share() * roles_.step_seconds +
                            rounds * roles_.sum_seconds * (far ? kFarSums : kNearSums) +
                            positions / static_cast<double>(block_[2]) * panels * kListSeconds;

    // The parts of the sums each stage what they need of both sides.
    const double wides = ratio(roles_.width, wide_part_);
    const double others = ratio(channels_, channel_part_) * ratio(roles_.spans, span_part_);
    const auto vectors = [&](int64_t maps) { return ratio(maps, lanes); };
    const double part = machine::far_parts(problem_) ? machine::kFarPartSeconds : kPartSeconds;
    const double packed = !last ? kSmallSeconds : g.groups > 1 ? part : kSmallLastSeconds;
    const double small = positions * wides * others * ratio(channel_part_, unit()) *
                         vectors(std::min(unit(), channel_part_)) * packed;
    const double rows =
        static_cast<double>(g.batch * g.axes[0].out * g.axes[1].out) * groups * again * wides * others;
    const double mirrored = (kept_maps() <= lanes ? kLineSeconds : kLargeSeconds) *
                            (machine::stays_near(problem_) ? 1 : kFarRows) *
                            (g.axes[2].out < lanes ? kShortRows : 1);
    const double moved = !last ? mirrored : g.groups > 1 ? part : kLargeLastSeconds;
    const double large_side = static_cast<double>(g.large_elements()) * sizeof(T);
    const bool pieces = !last && g.axes[2].out < 2 * lanes && large_side > machine::kSecondCacheBytes;
    const double large =
        rows * (static_cast<double>(g.axes[2].out) * vectors(kept_maps()) * moved + kRowSeconds +
                (pieces ? static_cast<double>(kept_maps()) * kPieceSeconds : 0));
    const double cleared = static_cast<double>(small_bytes() + large_bytes()) / kClearBytesPerSecond;

    const double weights = static_cast<double>(g.weight_elements());
    const double squares = static_cast<double>(g.channels) * vectors(filters_) *
                           (roles_.joined ? static_cast<double>(roles_.spans) : vectors(roles_.spans));
    const double stored = last ? weights / width * machine::kScatterSeconds : squares * kSquareSeconds;
    // What is mirrored is charged as if it came from afar.
    const double read =
        static_cast<double>(g.small_elements()) * wides * others +
        (last ? static_cast<double>(g.large_elements()) * again * others * (roles_.joined ? wides : 1) : 0);
    return products + small + large + cleared + stored * (far ? 2 : 1) +
           machine::far_seconds(problem_,
                                (read + weights) * static_cast<double>(storage_bytes(problem_.dtype)));
  }

  bool run(const Call& call) const override {
    const Buffer scratch(workspace_);
    Arrays arrays{};
    arrays.small = reinterpret_cast<T*>(scratch.data());
    arrays.large = reinterpret_cast<T*>(scratch.data() + small_bytes());
    arrays.sums = reinterpret_cast<T*>(scratch.data() + small_bytes() + large_bytes());
    arrays.workers = scratch.data() + small_bytes() + large_bytes() + sums_bytes();
    std::memset(scratch.data(), 0, small_bytes() + large_bytes());
    call.crew.limit(threads_);
    const Geometry& g = problem_.geometry;
    std::atomic<bool> finite{true};
    Part part{};
    for (part.group = 0; part.group < g.groups; ++part.group) {
      for (part.wide = 0; part.wide < roles_.width; part.wide += wide_part_) {
        part.wides = std::min(wide_part_, roles_.width - part.wide);
        for (part.channel = 0; part.channel < channels_; part.channel += channel_part_) {
          part.channels = std::min(channel_part_, channels_ - part.channel);
          for (part.span = 0; part.span < roles_.spans; part.span += span_part_) {
            part.spans = std::min(span_part_, roles_.spans - part.span);
            sum_part(call, arrays, part, finite);
            // Zeros stood for what lies beside the large side.
            if (!finite.load()) return false;
            finish(call, arrays.sums, part);
          }
        }
      }
    }
    return true;
  }

 private:
  // Positions of the small side: of some samples, a box each.
  struct Box {
    int64_t sample;
    int64_t samples;
    int64_t begin[kAxes];
    int64_t size[kAxes];

    int64_t rows() const noexcept { return samples * size[0] * size[1]; }
  };
  // The sums that are kept at a time.
  struct Part {
    int64_t group;
    int64_t wide, wides;
    int64_t channel, channels;
    int64_t span, spans;
  };
  struct Arrays {
    T* small;
    T* large;
    T* sums;
    char* workers;
  };
  struct Worker {
    T* panel;
    int64_t* small_offset;
    int64_t* large_offset;
    void** c;
  };

  // The share of products with places on the large side; along joined taps all are computed.
  double inside_share() const noexcept {
    double share = 1;
    for (int a = 0; a < (roles_.joined ? 2 : kAxes); ++a) {
      const Axis& axis = problem_.geometry.axes[a];
      share *= static_cast<double>(axis.taps_inside()) / static_cast<double>(axis.size * axis.kernel);
    }
    return share;
  }

  int64_t reach(int axis, int64_t size) const noexcept {
    const Axis& a = problem_.geometry.axes[axis];
    const int64_t all = (size - 1) * a.stride + (a.kernel - 1) * a.dilation + 1;
    return axis == 2 && roles_.joined ? all : std::min(all, a.out);
  }
  // First position of the large side that a block from `begin` on reads; joined taps may begin beside it.
  int64_t origin(int axis, int64_t begin) const noexcept {
    const Axis& a = problem_.geometry.axes[axis];
    const int64_t first = begin * a.stride - a.pad_lo;
    return axis == 2 && roles_.joined ? first : std::max<int64_t>(0, first);
  }

  // Maps of the small side in a tile of rows or a panel of lanes.
  int64_t unit() const noexcept {
    if (!roles_.lanes_large) return gemm_.lanes;
    return ceil_div(channel_part_, ceil_div(channel_part_, gemm_.rows));
  }
  int64_t positions() const noexcept { return block_samples_ * block_[0] * block_[1] * block_[2]; }
  size_t small_bytes() const noexcept {
    return aligned(static_cast<size_t>(positions() * ceil_div(channel_part_, unit()) * unit()) * sizeof(T));
  }
  // Maps kept of the large side, and elements from one position to the next: where maps are the whole span,
  // not a power of two lines, or positions meet in one set of the cache.
  int64_t kept_maps() const noexcept { return roles_.joined ? filters_ : wide_part_; }
  int64_t large_step() const noexcept {
    return roles_.joined || kept_maps() < 16 ? kept_maps() : (ceil_div(kept_maps(), 16) | 1) * 16;
  }
  size_t large_bytes() const noexcept {
    const int64_t places = block_samples_ * reach(0, block_[0]) * reach(1, block_[1]) * reach(2, block_[2]);
    return aligned(static_cast<size_t>(places * large_step() + gemm_.lanes) * sizeof(T));
  }
  int64_t sum_rows() const noexcept { return roles_.lanes_large ? channel_part_ : wide_part_; }
  int64_t sum_lanes() const noexcept {
    return ceil_div(roles_.lanes_large ? wide_part_ : channel_part_, gemm_.lanes) * gemm_.lanes;
  }
  size_t sums_bytes() const noexcept {
    return aligned(static_cast<size_t>(span_part_ * sum_rows() * sum_lanes()) * sizeof(T));
  }
  // Rows of positions whose panel stays in the nearest cache.
  int64_t rows_at_a_time() const noexcept {
    const int64_t most = kPanelBytes / (gemm_.lanes * static_cast<int64_t>(sizeof(T)));
    return std::clamp<int64_t>(most / block_[2], 1, block_samples_ * block_[0] * block_[1]);
  }
  bool copies_panels() const noexcept { return roles_.lanes_large && channel_part_ > gemm_.rows; }

  char* lay_out(char* memory, Worker* made) const noexcept {
    const auto claim = [&memory](auto** part, int64_t count) {
      *part = reinterpret_cast<std::remove_reference_t<decltype(*part)>>(memory);
      memory += aligned(static_cast<size_t>(count) * sizeof(**part));
    };
    claim(&made->panel, copies_panels() ? rows_at_a_time() * block_[2] * gemm_.lanes : 0);
    claim(&made->small_offset, rows_at_a_time());
    claim(&made->large_offset, rows_at_a_time());
    claim(&made->c, gemm_.rows);
    return memory;
  }
  size_t worker_bytes() const noexcept {
    Worker made{};
    return static_cast<size_t>(lay_out(nullptr, &made) - static_cast<char*>(nullptr));
  }
  size_t total() const noexcept {
    return small_bytes() + large_bytes() + sums_bytes() + worker_bytes() * static_cast<size_t>(threads_);
  }

  void cut() {
    const Geometry& g = problem_.geometry;
    const int64_t wide_unit = roles_.lanes_large ? gemm_.lanes : gemm_.rows;
    const int64_t channel_unit = roles_.lanes_large ? gemm_.rows : gemm_.lanes;
    // Joined taps of several maps are stored together.
    const int64_t least_wide =
        roles_.joined && filters_ > 1 ? roles_.width : std::min(wide_unit, roles_.width);
    const int64_t least_channels = std::min(channel_unit, channels_);
    threads_ = 1;
    wide_part_ = least_wide;
    channel_part_ = least_channels;
    span_part_ = 1;
    block_samples_ = 1;
    for (int64_t& size : block_) size = 1;
    workspace_ = total();
    if (workspace_ > problem_.workspace) return;

    // All taps and channels of as many filters as are kept close; then less, until it fits.
    span_part_ = roles_.spans;
    channel_part_ = channels_;
    const auto sum_bytes = [&](int64_t wide) {
      return static_cast<size_t>(span_part_ * channel_part_ * wide) * sizeof(T);
    };
    if (least_wide < roles_.width) {
      wide_part_ = std::clamp<int64_t>(static_cast<int64_t>(kSumBytes / sum_bytes(wide_unit)), 1,
                                       ceil_div(roles_.width, wide_unit));
      const int64_t parts = ceil_div(ceil_div(roles_.width, wide_unit), wide_part_);
      wide_part_ = std::min(roles_.width, ceil_div(ceil_div(roles_.width, wide_unit), parts) * wide_unit);
    }
    const auto whole = [](int64_t part, int64_t unit) { return ceil_div(part / 2, unit) * unit; };
    while (total() > problem_.workspace) {
      if (wide_part_ > least_wide) {
        wide_part_ = std::max(least_wide, whole(wide_part_, wide_unit));
      } else if (span_part_ > 1) {
        span_part_ = (span_part_ + 1) / 2;
      } else {
        channel_part_ = std::max(least_channels, whole(channel_part_, channel_unit));
      }
      if (total() > problem_.workspace && wide_part_ == least_wide && span_part_ == 1 &&
          channel_part_ == least_channels)
        break;
    }

    block_samples_ = g.batch;
    for (int a = 0; a < kAxes; ++a) block_[a] = g.axes[a].size;
    const int64_t most_x = kPanelBytes / (gemm_.lanes * static_cast<int64_t>(sizeof(T)));
    block_[2] = ceil_div(block_[2], ceil_div(block_[2], most_x));
    const auto smaller = [&] {
      for (int64_t* size : {&block_samples_, &block_[0], &block_[1], &block_[2]}) {
        if (*size == 1) continue;
        *size = (*size + 1) / 2;
        return true;
      }
      return false;
    };
    while (small_bytes() + large_bytes() > kStripBytes && positions() > 64 && smaller()) {
    }
    while (total() > problem_.workspace && smaller()) {
    }
    threads_ = problem_.threads;
    while (threads_ > 1 && total() > problem_.workspace) --threads_;
    workspace_ = total();
  }

  void sum_part(const Call& call, const Arrays& arrays, const Part& part, std::atomic<bool>& finite) const {
    const Geometry& g = problem_.geometry;
    bool started = false;
    Box box{};
    for (box.sample = 0; box.sample < g.batch; box.sample += block_samples_) {
      box.samples = std::min(block_samples_, g.batch - box.sample);
      for (box.begin[0] = 0; box.begin[0] < g.axes[0].size; box.begin[0] += block_[0]) {
        for (box.begin[1] = 0; box.begin[1] < g.axes[1].size; box.begin[1] += block_[1]) {
          for (box.begin[2] = 0; box.begin[2] < g.axes[2].size; box.begin[2] += block_[2]) {
            for (int a = 0; a < kAxes; ++a) box.size[a] = std::min(block_[a], g.axes[a].size - box.begin[a]);
            stage(call, arrays, part, box, finite);
            multiply(call, arrays, part, box, started);
            started = true;
          }
        }
      }
    }
  }

  // Whether a box meets places beside the large side, along x.
  bool leaves(const Box& box) const noexcept {
    const Axis& x = problem_.geometry.axes[2];
    const int64_t first = origin(2, box.begin[2]);
    return roles_.joined && (first < 0 || first + reach(2, box.size[2]) > x.out);
  }

  // Copies what a block reads of both sides.
  void stage(const Call& call, const Arrays& arrays, const Part& part, const Box& box,
             std::atomic<bool>& finite) const {
    const Geometry& g = problem_.geometry;
    Box wide = box;
    for (int a = 0; a < 2; ++a) {
      const Axis& axis = g.axes[a];
      wide.begin[a] = origin(a, box.begin[a]);
      const int64_t end =
          (box.begin[a] + box.size[a] - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1;
      wide.size[a] = std::max<int64_t>(0, std::min(axis.out, end - axis.pad_lo) - wide.begin[a]);
    }
    wide.begin[2] = origin(2, box.begin[2]);
    wide.size[2] = reach(2, box.size[2]);
    if (!roles_.joined)
      wide.size[2] = std::max<int64_t>(0, std::min(wide.size[2], g.axes[2].out - wide.begin[2]));
    const int64_t units = ceil_div(part.channels, unit());
    const int64_t small_units = units * box.samples;
    const int64_t pieces = ceil_div(wide.size[2], kPiece);
    const int64_t large_units = wide.rows() * pieces;
    const double seconds = static_cast<double>(small_bytes() + large_bytes()) / machine::kStoreBytesPerSecond;
    const bool checks = leaves(box);
    call.crew.share(small_units + large_units, seconds, [&](int64_t index, int) noexcept {
      if (index >= small_units) {
        copy_piece(call.weight, arrays.large, part, wide, index - small_units, pieces);
      } else if (!pack_unit(call.source, arrays.small, part, box, index / box.samples, index % box.samples,
                            checks)) {
        finite.store(false, std::memory_order_relaxed);
      }
    });
  }

  // Some maps of one sample of the small side: [unit][position][map].
  bool pack_unit(const void* source, T* small, const Part& part, const Box& box, int64_t index,
                 int64_t sample, bool checks) const noexcept {
    const Geometry& g = problem_.geometry;
    const auto& [z, y, x] = g.axes;
    const bool last = g.channels_last;
    const int64_t places = g.small_positions();
    const int64_t each = box.size[0] * box.size[1] * box.size[2];
    const int64_t first = index * unit();
    const int64_t maps = std::min(unit(), part.channels - first);
    const int64_t map = part.group * channels_ + part.channel + first;
    T* const to = small + (index * box.samples + sample) * each * unit();
    // Rows that follow each other in memory are one.
    int64_t run = box.size[2];
    int64_t runs_y = box.size[1];
    int64_t runs_z = box.size[0];
    if (run == x.size) {
      run *= runs_y;
      runs_y = 1;
      if (box.size[1] == y.size) {
        run *= runs_z;
        runs_z = 1;
      }
    }
    MoveArgs args{};
    args.rows = last ? run : maps;
    args.columns = last ? maps : run;
    args.src_row = last ? g.channels : places;
    args.src_column = 1;
    args.dst_row = last ? unit() : 1;
    args.dst_column = last ? 1 : unit();
    T* next = to;
    for (int64_t iz = 0; iz < runs_z; ++iz) {
      for (int64_t iy = 0; iy < runs_y; ++iy) {
        const int64_t place = ((box.begin[0] + iz) * y.size + box.begin[1] + iy) * x.size + box.begin[2];
        const int64_t at = (box.sample + sample) * g.channels * places +
                           (last ? place * g.channels + map : map * places + place);
        args.src =
            static_cast<const char*>(source) + at * static_cast<int64_t>(storage_bytes(problem_.dtype));
        args.dst = next;
        load_(args);
        next += run * unit();
      }
    }
    // Lanes that no map fills hold zeros.
    return !checks || all_finite(to, each * unit());
  }

  // A piece of a row of the large side: [sample][z][y][x][map].
  void copy_piece(const void* grad, T* large, const Part& part, const Box& wide, int64_t index,
                  int64_t pieces) const noexcept {
    const Geometry& g = problem_.geometry;
    const auto& [az, ay, ax] = g.axes;
    const bool last = g.channels_last;
    const int64_t step = large_step();
    int64_t rest = index / pieces;
    const int64_t y = rest % wide.size[1];
    rest /= wide.size[1];
    const int64_t z = rest % wide.size[0];
    const int64_t sample = rest / wide.size[0];
    const int64_t begin = index % pieces * kPiece;
    const int64_t end = std::min(begin + kPiece, wide.size[2]);
    const int64_t from = std::clamp(-wide.begin[2], begin, end);
    const int64_t to = std::clamp(ax.out - wide.begin[2], from, end);
    T* row =
        large + ((sample * reach(0, block_[0]) + z) * reach(1, block_[1]) + y) * reach(2, block_[2]) * step;
    std::fill(row + begin * step, row + from * step, T{0});
    std::fill(row + to * step, row + end * step, T{0});
    if (from == to) return;
    const int64_t maps = roles_.joined ? filters_ : part.wides;
    const int64_t map = part.group * filters_ + (roles_.joined ? 0 : part.wide);
    const int64_t places = g.large_positions();
    const int64_t place = ((wide.begin[0] + z) * ay.out + wide.begin[1] + y) * ax.out + wide.begin[2] + from;
    const int64_t at =
        (wide.sample + sample) * g.filters * places + (last ? place * g.filters + map : map * places + place);
    MoveArgs args{};
    args.src = static_cast<const char*>(grad) + at * static_cast<int64_t>(storage_bytes(problem_.dtype));
    args.dst = row + from * step;
    args.rows = last ? to - from : maps;
    args.columns = last ? maps : to - from;
    args.src_row = last ? g.filters : places;
    args.src_column = 1;
    args.dst_row = last ? step : 1;
    args.dst_column = last ? 1 : step;
    if (last) {
      load_(args);
    } else {
      gather_maps(load_, args, problem_.dtype);
    }
  }

  // Small positions of a block, from its first, whose tap k lies on the large side.
  std::pair<int64_t, int64_t> inside(int axis, const Box& box, int64_t k) const noexcept {
    const Axis& a = problem_.geometry.axes[axis];
    const int64_t offset = box.begin[axis] * a.stride + k * a.dilation - a.pad_lo;
    const int64_t begin = std::clamp<int64_t>(ceil_div(-offset, a.stride), 0, box.size[axis]);
    const int64_t end =
        std::clamp<int64_t>(floor_div(a.out - 1 - offset, a.stride) + 1, begin, box.size[axis]);
    return {begin, end};
  }

  void multiply(const Call& call, const Arrays& arrays, const Part& part, const Box& box,
                bool accumulate) const {
    const int64_t panels = ceil_div(roles_.lanes_large ? part.wides : part.channels, gemm_.lanes);
    const int64_t rows = roles_.lanes_large ? part.channels : part.wides;
    const int64_t height = roles_.lanes_large ? unit() : ceil_div(rows, ceil_div(rows, gemm_.rows));
    const int64_t tiles = ceil_div(rows, height);
    const int64_t jobs = part.spans * panels;
    int64_t pieces = 1;
    if (threads_ > 1 && jobs < 4 * threads_) pieces = std::min(tiles, ceil_div(int64_t{4} * threads_, jobs));
    const double seconds = roles_.step_seconds * static_cast<double>(box.rows() * box.size[2] * jobs) /
                           static_cast<double>(roles_.spans * ceil_div(roles_.width, gemm_.lanes));
    call.crew.share(jobs * pieces, seconds, [&](int64_t index, int member) noexcept {
      Worker worker{};
      lay_out(arrays.workers + static_cast<size_t>(member) * worker_bytes(), &worker);
      const int64_t piece = index % pieces;
      const int64_t job = index / pieces;
      const Tiles mine{height, tiles * piece / pieces, tiles * (piece + 1) / pieces, rows};
      multiply_panel(arrays, worker, part, box, job / panels, job % panels, mine, accumulate);
    });
  }

  struct Tiles {
    int64_t height;
    int64_t begin;
    int64_t end;
    int64_t rows;
  };

  void multiply_panel(const Arrays& arrays, const Worker& w, const Part& part, const Box& box, int64_t span,
                      int64_t panel, const Tiles& tiles, bool accumulate) const noexcept {
    const auto& [z, y, x] = problem_.geometry.axes;
    const int64_t tap = (part.span + span) * (roles_.joined ? x.kernel : 1);
    const int64_t k[kAxes] = {tap / x.kernel / y.kernel, tap / x.kernel % y.kernel, tap % x.kernel};
    int64_t begin[kAxes];
    int64_t end[kAxes];
    int64_t shift[kAxes];
    for (int a = 0; a < kAxes; ++a) {
      const Axis& axis = problem_.geometry.axes[a];
      std::tie(begin[a], end[a]) = inside(a, box, k[a]);
      shift[a] = box.begin[a] * axis.stride + k[a] * axis.dilation - axis.pad_lo - origin(a, box.begin[a]);
    }
    if (roles_.joined) {
      begin[2] = 0;
      end[2] = box.size[2];
    }
    const int64_t depth = end[2] - begin[2];
    const int64_t step = large_step();
    const int64_t lane = panel * gemm_.lanes;
    const int64_t small_unit = box.rows() * box.size[2] * unit();
    const T* large = arrays.large + (roles_.joined ? part.wide : 0);
    const bool copies = copies_panels();

    GemmArgs args{};
    args.c = w.c;
    args.lanes = gemm_.lanes;
    args.a_step = roles_.lanes_large ? unit() : x.stride * step;
    args.b_step = roles_.lanes_large && !copies ? x.stride * step : gemm_.lanes;
    args.a_offset = roles_.lanes_large ? w.small_offset : w.large_offset;
    args.b_offset = roles_.lanes_large ? w.large_offset : w.small_offset;
    const int64_t many = rows_at_a_time();
    for (int64_t first = 0; first < box.rows(); first += many) {
      const int64_t last = std::min(first + many, box.rows());
      int64_t segments = 0;
      for (int64_t row = first; depth > 0 && row < last; ++row) {
        const int64_t iy = row % box.size[1];
        const int64_t iz = row / box.size[1] % box.size[0];
        const int64_t sample = row / box.size[1] / box.size[0];
        if (iz < begin[0] || iz >= end[0] || iy < begin[1] || iy >= end[1]) continue;
        const int64_t at = (((sample * reach(0, block_[0]) + iz * z.stride + shift[0]) * reach(1, block_[1]) +
                             iy * y.stride + shift[1]) *
                                reach(2, block_[2]) +
                            begin[2] * x.stride + shift[2]) *
                           step;
        w.small_offset[segments] = (row * box.size[2] + begin[2]) * unit();
        w.large_offset[segments] = at;
        if (copies) {
          w.large_offset[segments] = segments * depth * gemm_.lanes;
          MoveArgs move{};
          move.src = large + at + lane;
          move.dst = w.panel + w.large_offset[segments];
          move.rows = depth;
          move.columns = gemm_.lanes;
          move.src_row = x.stride * step;
          move.src_column = 1;
          move.dst_row = gemm_.lanes;
          move.dst_column = 1;
          copy_(move);
        }
        ++segments;
      }
      if (segments == 0 && accumulate) continue;
      args.segments = segments;
      args.depth = depth;
      // Rows that follow each other on both sides are one.
      if (segments == last - first && depth == box.size[2] && copies) {
        args.depth *= segments;
        args.segments = 1;
      }
      args.accumulate = accumulate;
      accumulate = true;
      const T* lanes = copies               ? w.panel
                       : roles_.lanes_large ? large + lane
                                            : arrays.small + panel * small_unit;
      args.b = lanes;
      for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
        const int64_t top = tile * tiles.height;
        const int64_t rows = std::min(tiles.height, tiles.rows - top);
        args.a = roles_.lanes_large ? arrays.small + tile * small_unit : large + top;
        args.rows = static_cast<int32_t>(rows);
        for (int64_t r = 0; r < rows; ++r) {
          w.c[r] = arrays.sums + (span * sum_rows() + top + r) * sum_lanes() + lane;
        }
        gemm_(args);
      }
    }
  }

  // Brings the sums, [span][row][lane], into the order of the weight.
  void finish(const Call& call, const T* sums, const Part& part) const {
    const bool last = problem_.geometry.channels_last;
    const int64_t kx = problem_.geometry.axes[2].kernel;
    const int64_t channel = filters_ * taps_;
    const int64_t filter = last ? 1 : taps_;
    const int64_t tap = last ? filters_ : 1;
    const auto element = static_cast<int64_t>(storage_bytes(problem_.dtype));
    const int64_t span_sums = sum_rows() * sum_lanes();
    const int64_t span_tap = roles_.joined ? kx : 1;
    const int64_t base = (part.group * channels_ + part.channel) * channel + part.span * span_tap * tap;
    const auto move = [&](const T* from, int64_t at, int64_t rows, int64_t src_row, int64_t dst_row,
                          int64_t columns, int64_t src_column, int64_t dst_column) noexcept {
      store_(MoveArgs{from, src_row, src_column, static_cast<char*>(call.out) + (base + at) * element,
                      dst_row, dst_column, rows, columns});
    };
    const double seconds = static_cast<double>(sums_bytes()) / machine::kStoreBytesPerSecond;
    // Neighbours in the weight: a span where filters are innermost or one, else taps of a filter.
    const bool runs = last || filters_ == 1;
    const int64_t wide_at = roles_.joined ? part.wide : part.wide * filter;
    if (roles_.lanes_large) {
      call.crew.share(part.channels, seconds, [&](int64_t c, int) noexcept {
        const T* from = sums + c * sum_lanes();
        const int64_t to = c * channel + wide_at;
        if (runs) {
          move(from, to, part.spans, span_sums, span_tap * tap, part.wides, 1, 1);
        } else if (!roles_.joined) {
          move(from, to, part.wides, 1, filter, part.spans, span_sums, 1);
        } else {
          for (int64_t s = 0; s < part.spans; ++s) {
            move(from + s * span_sums, to + s * kx, filters_, 1, filter, kx, filters_, 1);
          }
        }
      });
    } else if (runs) {
      call.crew.share(part.spans, seconds, [&](int64_t s, int) noexcept {
        move(sums + s * span_sums, s * span_tap * tap + wide_at, part.wides, sum_lanes(), 1, part.channels, 1,
             channel);
      });
    } else {
      const int64_t maps = roles_.joined ? filters_ : part.wides;
      call.crew.share(maps, seconds, [&](int64_t f, int) noexcept {
        const T* from = sums + f * sum_lanes();
        const int64_t to = f * filter + wide_at;
        if (!roles_.joined) {
          move(from, to, part.spans, span_sums, 1, part.channels, 1, channel);
        } else {
          for (int64_t s = 0; s < part.spans; ++s) {
            move(from + s * span_sums, to + s * kx, kx, filters_ * sum_lanes(), 1, part.channels, 1, channel);
          }
        }
      });
    }
  }

  Problem problem_;
  Roles roles_;
  const Kernel& gemm_;
  const Kernel& load_;
  const Kernel& copy_;
  const Kernel& store_;
  int64_t channels_;  // of a group
  int64_t filters_;   // of a group
  int64_t taps_;
  // Positions of the small side that are staged at a time.
  int64_t block_samples_ = 1;
  int64_t block_[kAxes] = {};
  // What sums are kept at a time: of a span, channels, spans.
  int64_t wide_part_ = 0;
  int64_t channel_part_ = 0;
  int64_t span_part_ = 0;
  int threads_ = 1;
  size_t workspace_ = 0;
};

std::optional<std::string> refusal(const Problem& problem) {
  if (problem.geometry.taps() > kMostTaps) return "more than " + std::to_string(kMostTaps) + " taps";
  return std::nullopt;
}

double cost(const Problem& problem) {
  return compute_dtype(problem.dtype) == DType::f64 ? WeightGemm<double>(problem).seconds()
                                                    : WeightGemm<float>(problem).seconds();
}

}  // namespace

extern const Algorithm weight_gemm;
const Algorithm weight_gemm{"weight_gemm", refusal, cost, make_computed<WeightGemm>};

}  // namespace tconv
