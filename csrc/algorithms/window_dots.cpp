// Data gradient for windows that are long runs of memory on both sides: every output is a dot product of
// plain weights with the gradient where it lies, lanes being elements of the window. Nothing is packed, and
// nothing copied but where windows leave the image or the type is a short one.
#include <algorithm>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "dots_abi.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "packing.hpp"

namespace tconv {
namespace {

constexpr int64_t kMostTaps = 1 << 20;
constexpr int64_t kChunkBytes = 4 << 10;  // of a row of weights that is multiplied at a time
constexpr int64_t kPositions = 512;       // of a block, about
constexpr int64_t kApart = 48;            // the same where windows do not overlap
constexpr int64_t kPart = 64;             // channels of a block, at most
// Weights come in pieces of a few rows.
constexpr double kWeightBytesPerSecond = 18e9;
constexpr double kNearWeightBytesPerSecond = 140e9;  // where the second cache holds them
// The gradient, by what holds all: the second cache, the last one with room to spare, or less.
constexpr double kNearBytesPerSecond = 200e9;
constexpr double kReadBytesPerSecond = 80e9;
constexpr double kFarBytesPerSecond = 20e9;
constexpr double kSumSeconds = 4 / machine::kHertz;  // of an output, beside its products
// What a tile costs beside its products: for a run of the window, and a call.
constexpr double kRunCycles = 4;
constexpr double kCallCycles = 70;

// The windows of a problem: `runs` of them follow each other in a row of weights, each of `run` elements.
struct Windows {
  int64_t maps;  // that a run does not hold
  int64_t run;
  int64_t runs;

  explicit Windows(const Geometry& g) noexcept {
    const int64_t filters = g.filters / g.groups;
    maps = g.channels_last ? 1 : filters;
    run = g.axes[2].kernel * (g.channels_last ? filters : 1);
    runs = maps * g.axes[0].kernel * g.axes[1].kernel;
  }
};

// Where an image is one window its samples follow each other as the windows of a row do: the problem as one
// sample, of which tiles take several columns.
Problem in_a_row(const Problem& problem) noexcept {
  const Geometry& g = problem.geometry;
  if (g.groups > 1 || !g.one_window()) return problem;
  const int64_t window = g.filters * g.taps();
  Problem row = problem;
  row.geometry = {1, g.channels, 1, 1, true, {}};
  row.geometry.axes[2] = {g.batch, g.batch * window, window, window};
  return row;
}

// Whether every window lies inside a row of the image.
bool inside(const Axis& x) noexcept {
  return x.pad_lo <= 0 && (x.size - 1) * x.stride - x.pad_lo + x.kernel <= x.out;
}

template <class E>
class WindowDots final : public Recipe {
 public:
  using S = typename E::storage;
  using T = typename E::compute;

  explicit WindowDots(const Problem& given)
      : problem_(in_a_row(given)),
        activate_(given),
        windows_(problem_.geometry),
        dots_(tconv::kernel(Family::dots, given.dtype, given.isa)),
        load_(tconv::kernel(Family::load, given.dtype, given.isa)),
        store_(tconv::kernel(Family::store, given.dtype, given.isa)),
        channels_(given.geometry.channels / given.geometry.groups),
        row_elements_(windows_.run * windows_.runs) {
    const Geometry& g = problem_.geometry;
    const auto& [z, y, x] = g.axes;
    unit_ = g.channels_last ? g.filters : 1;
    staged_ = !inside(x) || given.dtype != compute_dtype(given.dtype);
    staged_row_ = ((x.size - 1) * x.stride + x.kernel) * unit_;
    maps_ = g.channels_last ? 1 : g.filters;
    const int64_t most = kChunkBytes / static_cast<int64_t>(sizeof(S));
    pieces_ = ceil_div(windows_.run, most);
    piece_ = ceil_div(windows_.run, pieces_);
    chunk_runs_ = std::clamp<int64_t>(most / windows_.run, 1, windows_.runs);
    cut();
  }

  std::string kernel() const override { return dots_.name; }
  size_t workspace_bytes() const noexcept override { return total(); }
  std::string packing_key() const override {
    return "plain " + std::to_string(static_cast<int>(problem_.dtype)) + " " +
           std::to_string(problem_.geometry.weight_elements());
  }
  size_t packed_bytes() const noexcept override {
    return static_cast<size_t>(problem_.geometry.weight_elements()) * sizeof(S);
  }
  bool pack(const void* weight, char* packed, Crew& crew) const override {
    copy_bytes(weight, packed, packed_bytes(), crew);
    return finite(weight, crew);
  }

  bool run(const Call& call) const override {
    const Geometry& g = problem_.geometry;
    const bool leaves = !inside(g.axes[2]);
    if (leaves && call.packed == nullptr && !finite(call.weight, call.crew)) return false;
    const Buffer scratch(total());
    const S* weight = static_cast<const S*>(call.packed == nullptr ? call.weight : call.packed);
    call.crew.limit(threads_);
    for (int64_t sample = 0; sample < g.batch; sample += samples_) {
      run_samples(call, weight, scratch.data(), sample, std::min(samples_, g.batch - sample));
    }
    return true;
  }

 private:
  void run_samples(const Call& call, const S* weight, char* scratch, int64_t first, int64_t count) const {
    const Geometry& g = problem_.geometry;
    const T* source = static_cast<const T*>(call.source);
    if (staged_) {
      T* stage = reinterpret_cast<T*>(scratch);
      copy(call, stage, first, count);
      source = stage;
    } else {
      source += first * g.filters * g.large_positions();
    }
    const int64_t parts = ceil_div(channels_, part_);
    char* const workers = scratch + stage_bytes();
    const double seconds =
        machine::seconds(problem_) * threads_ * static_cast<double>(count) / static_cast<double>(g.batch);
    call.crew.share(g.groups * parts * count * blocks(), seconds, [&](int64_t unit, int member) noexcept {
      const int64_t block = unit % blocks();
      const int64_t sample = unit / blocks() % count;
      const int64_t part = unit / blocks() / count;
      run_block(call, weight, source, worker(workers + static_cast<size_t>(member) * worker_bytes()),
                {part / parts, part % parts * part_, first, sample, block / row_blocks() * rows_,
                 block % row_blocks() * columns_},
                member);
    });
  }

  struct Worker {
    T* sums;
    int64_t* a_offset;
    int64_t* b_offset;
  };

  // Blocks of a row of positions, and of a sample.
  int64_t row_blocks() const noexcept { return ceil_div(problem_.geometry.axes[2].size, columns_); }
  int64_t blocks() const noexcept {
    const auto& axes = problem_.geometry.axes;
    return ceil_div(axes[0].size * axes[1].size, rows_) * row_blocks();
  }
  // Units of work of the samples that are staged at a time.
  int64_t units() const noexcept {
    return problem_.geometry.groups * ceil_div(channels_, part_) * samples_ * blocks();
  }
  void cut() {
    const Geometry& g = problem_.geometry;
    const Axis& x = g.axes[2];
    columns_ = std::min<int64_t>(x.size, dots_.lanes);
    if (total() > problem_.workspace) return;
    const auto try_set = [&](auto& variable, auto wanted) {
      for (const auto before = variable; wanted > before; wanted = wanted / 2) {
        variable = wanted;
        if (total() <= problem_.workspace) return;
        variable = before;
      }
    };
    try_set(part_, ceil_div(channels_, ceil_div(channels_, kPart)));
    try_set(columns_, std::min(x.size, x.stride < x.kernel ? kPositions : kApart));
    if (columns_ == x.size)
      try_set(rows_, std::clamp<int64_t>(kPositions / x.size, 1, g.axes[0].size * g.axes[1].size));
    try_set(threads_, problem_.threads);
    try_set(samples_, g.batch);
    while (threads_ > 1 && rows_ > 1 && units() < 4 * threads_) rows_ = (rows_ + 1) / 2;
  }
  size_t stage_bytes() const noexcept {
    const Geometry& g = problem_.geometry;
    return staged_
               ? aligned(static_cast<size_t>(samples_ * maps_ * g.axes[0].out * g.axes[1].out * staged_row_) *
                         sizeof(T))
               : 0;
  }
  size_t sums_bytes() const noexcept {
    return aligned(static_cast<size_t>(part_ * rows_ * columns_) * sizeof(T));
  }
  size_t worker_bytes() const noexcept {
    return sums_bytes() + 2 * aligned(static_cast<size_t>(chunk_runs_) * 8);
  }
  size_t total() const noexcept { return stage_bytes() + worker_bytes() * static_cast<size_t>(threads_); }

  Worker worker(char* memory) const noexcept {
    return {
        reinterpret_cast<T*>(memory), reinterpret_cast<int64_t*>(memory + sums_bytes()),
        reinterpret_cast<int64_t*>(memory + sums_bytes() + aligned(static_cast<size_t>(chunk_runs_) * 8))};
  }

  bool finite(const void* weight, Crew& crew) const {
    return share_finite(
        crew, problem_.geometry.channels, static_cast<double>(packed_bytes()) / machine::kReadBytesPerSecond,
        [&](int64_t row, int) noexcept {
          return finite_stored<E>(static_cast<const S*>(weight) + row * row_elements_, row_elements_);
        });
  }

  // Rows of the gradient with what windows read beside them, in the compute type.
  void copy(const Call& call, T* stage, int64_t first, int64_t count) const {
    const Geometry& g = problem_.geometry;
    const Axis& x = g.axes[2];
    const int64_t each = maps_ * g.axes[0].out * g.axes[1].out;
    const int64_t length = staged_row_ / unit_;
    const int64_t begin = std::clamp<int64_t>(x.pad_lo, 0, length);
    const int64_t end = std::clamp<int64_t>(x.out + x.pad_lo, begin, length);
    const double seconds = static_cast<double>(stage_bytes()) / machine::kStoreBytesPerSecond;
    call.crew.share(count * each, seconds, [&](int64_t row, int) noexcept {
      T* to = stage + row * staged_row_;
      std::fill(to, to + begin * unit_, T{0});
      std::fill(to + end * unit_, to + staged_row_, T{0});
      const S* const from =
          static_cast<const S*>(call.source) + ((first * each + row) * x.out + begin - x.pad_lo) * unit_;
      if (begin < end) convert_run(load_, from, to + begin * unit_, (end - begin) * unit_);
    });
  }

  struct Block {
    int64_t group;
    int64_t channel;
    int64_t first_sample;  // of those that `source` holds
    int64_t sample;        // counted from it
    int64_t row;           // of positions
    int64_t column;        // position of the row
  };

  // Some channels at some rows of positions, or a part of one.
  void run_block(const Call& call, const S* weight, const T* source, const Worker& w, const Block& block,
                 int member) const noexcept {
    const auto [group, channel, first_sample, sample, first, column] = block;
    const Geometry& g = problem_.geometry;
    const auto& [z, y, x] = g.axes;
    const int64_t last = std::min(first + rows_, z.size * y.size);
    const int64_t width = std::min(columns_, x.size - column);
    const int64_t count = (last - first) * width;
    const int64_t rows = std::min(part_, channels_ - channel);
    const int64_t map = group * channels_ + channel;
    for (int64_t r = 0; r < rows; ++r) {
      const T bias = call.bias == nullptr ? T{0} : E::load(static_cast<const S*>(call.bias)[map + r]);
      std::fill(w.sums + r * count, w.sums + (r + 1) * count, bias);
    }
    DotsArgs args{};
    args.a_offset = w.a_offset;
    args.b_offset = w.b_offset;
    args.a_row = row_elements_;
    args.b_row = x.stride * unit_;
    args.out_row = count;
    for (int64_t begin = 0; begin < windows_.runs; begin += chunk_runs_) {
      const int64_t end = std::min(begin + chunk_runs_, windows_.runs);
      for (int64_t piece = 0; piece < windows_.run; piece += piece_) {
        if (call.crew.stopped(member)) return;
        args.depth = std::min(piece_, windows_.run - piece);
        for (int64_t row = first; row < last; ++row) {
          args.segments = list(w, group, sample, row, begin, end, piece);
          if (args.segments == 0) continue;
          for (int64_t r = 0; r < rows; r += dots_.rows) {
            args.a = weight + (map + r) * row_elements_;
            args.rows = static_cast<int32_t>(std::min<int64_t>(dots_.rows, rows - r));
            for (int64_t at = 0; at < width; at += dots_.lanes) {
              args.b = source + (column + at) * args.b_row;
              args.out = w.sums + r * count + (row - first) * width + at;
              args.columns = static_cast<int32_t>(std::min<int64_t>(dots_.lanes, width - at));
              dots_(args);
            }
          }
        }
      }
    }
    const int64_t places = g.small_positions();
    const int64_t to = first * x.size + column;
    MoveArgs out{};
    out.src = w.sums;
    out.src_row = count;
    out.src_column = 1;
    out.dst = static_cast<S*>(call.out) + (first_sample + sample) * g.channels * places +
              (g.channels_last ? to * g.channels + map : map * places + to);
    out.dst_row = g.channels_last ? 1 : places;
    out.dst_column = g.channels_last ? g.channels : 1;
    out.rows = rows;
    out.columns = count;
    activate_(w.sums, rows * count);
    store_(out);
  }

  // The runs from `begin` to before `end` that lie inside the image for a row of positions.
  int64_t list(const Worker& w, int64_t group, int64_t sample, int64_t row, int64_t begin, int64_t end,
               int64_t piece) const noexcept {
    const Geometry& g = problem_.geometry;
    const auto& [z, y, x] = g.axes;
    const int64_t row_step = staged_ ? staged_row_ : x.out * unit_;
    const int64_t start = staged_ ? 0 : -x.pad_lo * unit_;
    const int64_t at_z = row / y.size * z.stride - z.pad_lo;
    const int64_t at_y = row % y.size * y.stride - y.pad_lo;
    int64_t segments = 0;
    for (int64_t run = begin; run < end; ++run) {
      const int64_t src_y = at_y + run % y.kernel * y.dilation;
      const int64_t src_z = at_z + run / y.kernel % z.kernel * z.dilation;
      if (src_y < 0 || src_y >= y.out || src_z < 0 || src_z >= z.out) continue;
      const int64_t map = sample * maps_ + group * windows_.maps + run / y.kernel / z.kernel;
      w.a_offset[segments] = run * windows_.run + piece;
      w.b_offset[segments++] = ((map * z.out + src_z) * y.out + src_y) * row_step + start + piece;
    }
    return segments;
  }

  Problem problem_;
  Activate activate_;
  Windows windows_;
  const Kernel& dots_;
  const Kernel& load_;
  const Kernel& store_;
  int64_t channels_;      // of a group
  int64_t row_elements_;  // weights of a channel
  int64_t unit_ = 1;      // elements of a position
  int64_t maps_ = 1;      // of the gradient that lie apart
  bool staged_ = false;
  int64_t staged_row_ = 0;
  int64_t pieces_ = 1;      // of a run, for long ones
  int64_t piece_ = 0;       // elements
  int64_t chunk_runs_ = 1;  // runs that are multiplied at a time
  int64_t part_ = 1;        // channels of a block
  int64_t rows_ = 1;        // of positions, in a block
  int64_t columns_ = 1;     // positions of a row, in a block
  int64_t samples_ = 1;     // staged at a time
  int threads_ = 1;
};

std::optional<std::string> refusal(const Problem& given) {
  const Problem problem = in_a_row(given);
  const Geometry& g = problem.geometry;
  const Axis& x = g.axes[2];
  if (x.dilation != 1 && x.kernel > 1) return "dilated along the last axis";
  if (g.channels_last && g.groups > 1) return "groups, and maps that lie together";
  const auto lanes = static_cast<int64_t>(machine::lanes(compute_dtype(problem.dtype), problem.isa));
  if (Windows(g).run < lanes) return "a window's row is shorter than " + std::to_string(lanes);
  if (g.taps() > kMostTaps) return "more than " + std::to_string(kMostTaps) + " taps";
  return std::nullopt;
}

double cost(const Problem& given) {
  const Problem problem = in_a_row(given);
  const Geometry& g = problem.geometry;
  const Windows windows(g);
  const Kernel& dots = kernel(Family::dots, problem.dtype, problem.isa);
  const double width = machine::lanes(compute_dtype(problem.dtype), problem.isa);
  const double cycle = vector_floats(problem.isa) >= 16 ? 1.0 : 0.5;
  const auto rows = static_cast<double>(g.batch * g.groups * ceil_div(g.channels / g.groups, dots.rows) *
                                        g.axes[0].size * g.axes[1].size);
  const auto steps = static_cast<double>(windows.runs * ceil_div(windows.run, static_cast<int64_t>(width)));
  const double bytes =
      static_cast<double>(windows.run * windows.runs) * static_cast<double>(storage_bytes(problem.dtype));
  const double calls = std::max(1.0, bytes / static_cast<double>(kChunkBytes));
  const auto tile = [&](int64_t columns) {
    const double loads = static_cast<double>(dots.rows + columns) * cycle;
    const double step = 1.07 * std::max(static_cast<double>(dots.rows * columns) * cycle, loads);
    return steps * step + static_cast<double>(windows.runs) * kRunCycles + calls * kCallCycles;
  };
  // A column that is left alone has a tile of its own.
  const int64_t left = g.axes[2].size % dots.lanes;
  const double tiles = static_cast<double>(g.axes[2].size / dots.lanes) * tile(dots.lanes) +
                       (left == 0 ? 0 : tile(left == 1 ? 1 : dots.lanes));
  const bool copies = !inside(g.axes[2]) || problem.dtype != compute_dtype(problem.dtype);
  const auto stored = static_cast<double>(storage_bytes(problem.dtype));
  double read = (copies ? 2 : 1) * static_cast<double>(g.large_elements()) * stored;
  for (const Axis& axis : g.axes)
    read *= std::min(1.0, static_cast<double>(axis.kernel) / static_cast<double>(axis.stride));
  const double weights = static_cast<double>(g.weight_elements()) * stored;
  const double all = read + weights + static_cast<double>(g.small_elements()) * stored;
  const double rate = all < machine::kSecondCacheBytes     ? kNearBytesPerSecond
                      : all < machine::kLastCacheBytes / 8 ? kReadBytesPerSecond
                                                           : kFarBytesPerSecond;
  return rows * tiles / machine::kHertz + read / rate +
         static_cast<double>(g.small_elements()) * kSumSeconds +
         weights / (weights < machine::kSecondCacheBytes ? kNearWeightBytesPerSecond : kWeightBytesPerSecond);
}

}  // namespace

extern const Algorithm window_dots;
const Algorithm window_dots{"window_dots", refusal, cost, make_stored<WindowDots>};

}  // namespace tconv
