// Forward from few positions by many weights, which are read once and where they lie, not packed: one matrix
// product, rows being input positions, lanes being filters and taps as they follow each other in the weights.
// What every position gives is then added to where it overlaps with the others in the output.
#include <algorithm>
#include <type_traits>

#include "algorithms/algorithm.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "overlap_abi.hpp"
#include "packing.hpp"

namespace tconv {
namespace {

constexpr int64_t kMostStride = 1 << 16;
constexpr int64_t kMostTaps = 1 << 20;
constexpr int64_t kMostDepth = 1 << 16;
constexpr int64_t kMostFilters = 64;                  // of a unit
constexpr int64_t kChunkBytes = 64 << 10;             // of weights that lie in the cache, twice
constexpr int64_t kPositions = 512;                   // of a block of samples, about
constexpr double kRunSeconds = 12 / machine::kHertz;  // of adding a run of neighbours
constexpr double kRowSeconds =
    60 / machine::kHertz;              // of adding what a row gives of a panel, beside its runs
constexpr int64_t kAliasBytes = 4096;  // channels so far apart meet in few sets of any cache
constexpr double kMostTiles = 1.1;     // over those of all samples together
constexpr int64_t kShares = 8;         // of work for each thread, about

// The outputs that no other unit writes: those of some filters, or those of one filter that lie at some
// residues of a long stride; and which weights go to them, in panels.
class Units {
 public:
  Units(const Geometry& g, int64_t lanes) noexcept : lanes_(lanes) {
    const Axis& x = g.axes[2];
    filters_ = g.filters / g.groups;
    taps_ = g.taps();
    row_ = x.kernel;
    stride_ = x.stride;
    if (stride_ >= lanes && x.dilation == 1) {
      residues_ = lanes;
      parts_ = ceil_div(stride_, lanes);
      return;
    }
    // Whole filters that fill their panels best.
    double best = 0;
    for (int64_t count = 1; count <= std::min(kMostFilters, filters_); ++count) {
      const int64_t columns = count * taps_;
      const double filled =
          static_cast<double>(columns) / static_cast<double>(ceil_div(columns, lanes) * lanes);
      if (filled <= best) continue;
      best = filled;
      together_ = count;
    }
  }

  // Of a group.
  int64_t count() const noexcept { return ceil_div(filters_, together_) * parts_; }
  // Panels of all units of a group.
  int64_t panels() const noexcept {
    if (residues_ == 0) {
      const int64_t rest = filters_ % together_;
      return filters_ / together_ * ceil_div(together_ * taps_, lanes_) + ceil_div(rest * taps_, lanes_);
    }
    // The residues come once more in a row of taps where they begin in what whole strides leave of it.
    const int64_t turns = row_ / stride_ * parts_ + ceil_div(row_ % stride_, residues_);
    return taps_ / row_ * turns * filters_;
  }
  int64_t panels(int64_t unit) const noexcept {
    if (residues_ == 0) return ceil_div(filters(unit) * taps_, lanes_);
    return taps_ / row_ * turns(unit);
  }
  int64_t first_filter(int64_t unit) const noexcept { return unit / parts_ * together_; }
  int64_t filters(int64_t unit) const noexcept { return std::min(together_, filters_ - first_filter(unit)); }
  // Residues of the last axis that the unit owns, from which to before which.
  bool whole() const noexcept { return residues_ == 0; }
  int64_t first_residue(int64_t unit) const noexcept { return unit % parts_ * residues_; }
  int64_t end_residue(int64_t unit) const noexcept {
    return std::min(first_residue(unit) + residues_, stride_);
  }

  struct Columns {
    int64_t first;
    int64_t count;
  };
  // Those of a panel, among filters and taps of the group.
  Columns columns(int64_t unit, int64_t panel) const noexcept {
    if (residues_ == 0) {
      const int64_t first = first_filter(unit) * taps_ + panel * lanes_;
      const int64_t end = (first_filter(unit) + filters(unit)) * taps_;
      return {first, std::min(lanes_, end - first)};
    }
    const int64_t in_row = panel % turns(unit) * stride_ + first_residue(unit);
    const int64_t count = std::min(end_residue(unit) - first_residue(unit), row_ - in_row);
    return {first_filter(unit) * taps_ + panel / turns(unit) * row_ + in_row, count};
  }

 private:
  // How often the residues come in a row of taps.
  int64_t turns(int64_t unit) const noexcept {
    return std::max<int64_t>(0, ceil_div(row_ - first_residue(unit), stride_));
  }

  int64_t lanes_;
  int64_t filters_ = 1;  // of the group
  int64_t taps_ = 1;
  int64_t row_ = 1;       // taps of a row
  int64_t stride_ = 1;    // along the row
  int64_t together_ = 1;  // filters of a unit
  int64_t residues_ = 0;  // of a unit; 0 for all
  int64_t parts_ = 1;     // units of a filter
};

double products_seconds(const Kernel& tile, const Geometry& g) noexcept {
  const int64_t positions = g.batch * g.small_positions();
  return static_cast<double>(Units(g, tile.lanes).panels()) *
         (static_cast<double>(g.channels) * machine::rows_step_seconds(tile, positions) +
          static_cast<double>(g.groups * ceil_div(positions, tile.rows)) * machine::kCallSeconds);
}

// The tile that wastes least. Which one it is changes no bit.
const Kernel& best_tile(const Problem& problem) {
  const auto candidates = kernels(Family::plaingemm, problem.dtype, problem.isa);
  return *std::min_element(candidates.begin(), candidates.end(), [&](const Kernel& a, const Kernel& b) {
    return products_seconds(a, problem.geometry) < products_seconds(b, problem.geometry);
  });
}

template <class E>
class OverlapAdd final : public Recipe {
 public:
  using S = typename E::storage;
  using T = typename E::compute;

  explicit OverlapAdd(const Problem& problem)
      : problem_(problem),
        activate_(problem),
        gemm_(best_tile(problem)),
        overlap_(tconv::kernel(Family::overlap, compute_dtype(problem.dtype), problem.isa)),
        load_(tconv::kernel(Family::load, problem.dtype, problem.isa)),
        store_(tconv::kernel(Family::store, problem.dtype, problem.isa)),
        units_(problem.geometry, gemm_.lanes) {
    const Geometry& g = problem.geometry;
    depth_ = g.channels / g.groups;
    columns_ = g.filters / g.groups * g.taps();
    const int64_t most = kChunkBytes / static_cast<int64_t>(sizeof(T)) / gemm_.lanes;
    chunks_ = ceil_div(depth_, most);
    chunk_ = ceil_div(depth_, chunks_);
    samples_ = std::clamp<int64_t>(kPositions / g.small_positions(), 1, g.batch);
    sample_tiles_ = ceil_div(g.small_positions(), gemm_.rows);
    lies_ =
        std::is_same_v<S, T> && g.small_positions() * static_cast<int64_t>(sizeof(T)) % kAliasBytes != 0 &&
        static_cast<double>(samples_ * sample_tiles_) <= kMostTiles * static_cast<double>(tiles(samples_));
    cut();
  }

  std::string kernel() const override { return gemm_.name; }
  size_t workspace_bytes() const noexcept override { return total(); }

  bool run(const Call& call) const override {
    const Geometry& g = problem_.geometry;
    const Buffer scratch(total());
    Pieces pieces(scratch.data());
    T* const source = pieces.take<T>(source_bytes());
    char* const workers = pieces.rest();
    call.crew.limit(threads_);
    const double seconds = machine::seconds(problem_) * threads_;
    const int64_t shares = std::min(units_.count(), ceil_div(kShares * threads_, g.groups));
    for (int64_t first = 0; first < g.batch; first += samples_) {
      const int64_t samples = std::min(samples_, g.batch - first);
      const int64_t before = first * g.filters * g.large_positions();
      Samples block{call, samples, source, static_cast<S*>(call.out) + before};
      if (lies_) {
        block.source = static_cast<const T*>(call.source) + first * g.channels * g.small_positions();
      } else {
        pack(call, source, first, samples);
      }
      call.crew.share(g.groups * shares, seconds, [&](int64_t share, int member) noexcept {
        const int64_t group = share / shares;
        const int64_t part = share % shares;
        run_units(block, worker(workers + static_cast<size_t>(member) * worker_bytes()), group,
                  {units_.count() * part / shares, units_.count() * (part + 1) / shares}, member);
      });
    }
    return true;
  }

 private:
  // Those multiplied at a time.
  struct Samples {
    const Call& call;
    int64_t count;
    const T* source;  // packed, or where it lies
    S* out;
  };
  // A row of taps, or a part of it: its run for a position whose first output begins a row, and how far from
  // there it lies along the outer axes.
  struct TapRow {
    OverlapRun run;
    int64_t z;
    int64_t y;
  };
  struct Worker {
    T* weights[2];  // chunks of a panel
    T* sums;        // of a panel: [position][lane]
    TapRow* rows;   // of a panel
    OverlapRun* runs;
    T* stage;  // outputs of a unit on their way to a shorter type: [sample][filter][position]
  };
  // Outputs of a unit in the compute type, from its first filter of the first sample on.
  struct Outputs {
    T* first;
    int64_t sample;  // elements from one sample to the next
  };
  struct Range {
    int64_t first;
    int64_t end;
  };

  void cut() {
    threads_ = problem_.threads;
    while (threads_ > 1 && total() > problem_.workspace) --threads_;
    if (total() > problem_.workspace) samples_ = 1;
  }
  int64_t tiles(int64_t samples) const noexcept {
    return ceil_div(samples * problem_.geometry.small_positions(), gemm_.rows);
  }
  size_t source_bytes() const noexcept {
    if (lies_) return 0;
    return aligned(static_cast<size_t>(problem_.geometry.channels * tiles(samples_) * gemm_.rows) *
                   sizeof(T));
  }
  size_t stage_bytes() const noexcept {
    if constexpr (std::is_same_v<S, T>) return 0;
    return aligned(static_cast<size_t>(samples_ * units_.filters(0) * problem_.geometry.large_positions()) *
                   sizeof(T));
  }
  size_t chunk_bytes() const noexcept {
    return aligned(static_cast<size_t>(chunk_ * gemm_.lanes) * sizeof(T));
  }
  size_t sums_bytes() const noexcept {
    return aligned(static_cast<size_t>(samples_ * problem_.geometry.small_positions() * gemm_.lanes) *
                   sizeof(T));
  }
  size_t worker_bytes() const noexcept {
    const auto lanes = static_cast<size_t>(gemm_.lanes);
    return 2 * chunk_bytes() + sums_bytes() + aligned(lanes * sizeof(TapRow)) +
           aligned(lanes * sizeof(OverlapRun)) + stage_bytes();
  }
  size_t total() const noexcept { return source_bytes() + worker_bytes() * static_cast<size_t>(threads_); }
  Worker worker(char* memory) const noexcept {
    Pieces pieces(memory);
    Worker made{};
    for (T*& chunk : made.weights) chunk = pieces.take<T>(chunk_bytes());
    made.sums = pieces.take<T>(sums_bytes());
    made.rows = pieces.take<TapRow>(static_cast<size_t>(gemm_.lanes) * sizeof(TapRow));
    made.runs = pieces.take<OverlapRun>(static_cast<size_t>(gemm_.lanes) * sizeof(OverlapRun));
    made.stage = pieces.take<T>(stage_bytes());
    return made;
  }

  // Positions of some samples to rows of tiles: [group][tile][channel][row].
  void pack(const Call& call, T* source, int64_t first, int64_t samples) const {
    const Geometry& g = problem_.geometry;
    const int64_t positions = g.small_positions();
    const int64_t count = tiles(samples);
    const double seconds = static_cast<double>(source_bytes()) / machine::kPackBytesPerSecond;
    call.crew.share(g.groups * count, seconds, [&](int64_t unit, int) noexcept {
      const int64_t group = unit / count;
      const int64_t begin = unit % count * gemm_.rows;
      const int64_t end = std::min(begin + gemm_.rows, samples * positions);
      MoveArgs args{};
      args.rows = depth_;
      args.src_row = positions;
      args.src_column = args.dst_column = 1;
      args.dst_row = gemm_.rows;
      for (int64_t p = begin; p < end; p += args.columns) {
        const int64_t sample = first + p / positions;
        args.columns = std::min(end - p, positions - p % positions);
        args.src = static_cast<const S*>(call.source) + (sample * g.channels + group * depth_) * positions +
                   p % positions;
        args.dst = source + unit * depth_ * gemm_.rows + p - begin;
        load_(args);
      }
    });
  }

  void run_units(const Samples& samples, const Worker& w, int64_t group, Range units,
                 int member) const noexcept {
    const int64_t positions = problem_.geometry.small_positions();
    const int64_t count = lies_ ? samples.count * sample_tiles_ : tiles(samples.count);
    const S* weight = static_cast<const S*>(samples.call.weight) + group * depth_ * columns_;
    // The chunk that is multiplied, and the one that is copied meanwhile.
    struct Place {
      int64_t unit;
      int64_t panel;
      int64_t chunk;
    };
    Place next{units.first, 0, 0};
    while (next.unit < units.end && units_.panels(next.unit) == 0) ++next.unit;
    const auto advance = [&](Place place) noexcept {
      if (++place.chunk < chunks_) return place;
      place.chunk = 0;
      if (++place.panel < units_.panels(place.unit)) return place;
      place.panel = 0;
      do ++place.unit;
      while (place.unit < units.end && units_.panels(place.unit) == 0);
      return place;
    };
    const auto copy = [&](const Place& place, PlainGemmArgs& args) noexcept {
      const auto columns = units_.columns(place.unit, place.panel);
      args.copy_from = weight + place.chunk * chunk_ * columns_ + columns.first;
      args.copy_lanes = static_cast<int32_t>(columns.count);
      args.copy_step = columns_;
      return std::min(chunk_, depth_ - place.chunk * chunk_);
    };
    int buffer = 0;
    if (next.unit < units.end) {
      PlainGemmArgs args{};
      args.copies = copy(next, args);
      args.copy_to = w.weights[buffer];
      gemm_(args);
    }
    for (int64_t unit = units.first; unit < units.end; ++unit) {
      const Outputs to = outputs(samples, w, group, unit);
      set(samples, to, group, unit);
      while (next.unit == unit) {
        if (samples.call.crew.stopped(member)) return;
        const Place now = next;
        next = advance(now);
        PlainGemmArgs args{};
        const int64_t copies = next.unit < units.end ? copy(next, args) : 0;
        const S* const copied = static_cast<const S*>(args.copy_from);
        args.b = w.weights[buffer];
        buffer = 1 - buffer;
        args.depth = std::min(chunk_, depth_ - now.chunk * chunk_);
        args.accumulate = now.chunk > 0;
        args.a_step = lies_ ? positions : gemm_.rows;
        for (int64_t tile = 0; tile < count; ++tile) {
          const int64_t begin = copies * tile / count;
          args.copies = copies * (tile + 1) / count - begin;
          args.copy_from = copied + begin * columns_;
          args.copy_to = w.weights[buffer] + begin * gemm_.lanes;
          int64_t at = tile * gemm_.rows;
          int64_t end = std::min<int64_t>(at + gemm_.rows, samples.count * positions);
          if (lies_) {
            const int64_t sample = tile / sample_tiles_;
            const int64_t part = tile % sample_tiles_;
            at = positions * part / sample_tiles_;
            end = positions * (part + 1) / sample_tiles_;
            args.a = samples.source +
                     (sample * problem_.geometry.channels + group * depth_ + now.chunk * chunk_) * positions +
                     at;
            at += sample * positions;
            end += sample * positions;
          } else {
            args.a = samples.source + ((group * count + tile) * depth_ + now.chunk * chunk_) * gemm_.rows;
          }
          args.c = w.sums + at * gemm_.lanes;
          args.rows = static_cast<int32_t>(end - at);
          gemm_(args);
        }
        if (now.chunk + 1 < chunks_) continue;
        auto panel = units_.columns(unit, now.panel);
        panel.first -= units_.first_filter(unit) * problem_.geometry.taps();
        add(samples.count, w, to, panel);
      }
      finish(samples, to, group, unit);
    }
  }

  Outputs outputs(const Samples& samples, const Worker& w, int64_t group, int64_t unit) const noexcept {
    const Geometry& g = problem_.geometry;
    const int64_t positions = g.large_positions();
    if constexpr (std::is_same_v<S, T>) {
      const int64_t filter = group * (g.filters / g.groups) + units_.first_filter(unit);
      return {samples.out + filter * positions, g.filters * positions};
    }
    return {w.stage, units_.filters(unit) * positions};
  }

  // Calls `work(sums, how many, filter, place in the output)` for all runs of outputs of a unit.
  template <class Work>
  void each_run(int64_t samples, const Outputs& to, int64_t group, int64_t unit,
                const Work& work) const noexcept {
    const Geometry& g = problem_.geometry;
    const Axis& x = g.axes[2];
    const int64_t positions = g.large_positions();
    for (int64_t sample = 0; sample < samples; ++sample) {
      for (int64_t f = 0; f < units_.filters(unit); ++f) {
        const int64_t filter = group * (g.filters / g.groups) + units_.first_filter(unit) + f;
        const int64_t out = (sample * g.filters + filter) * positions;
        T* const sums = to.first + sample * to.sample + f * positions;
        if (units_.whole()) {
          work(sums, positions, filter, out);
          continue;
        }
        const int64_t length = units_.end_residue(unit) - units_.first_residue(unit);
        const int64_t start = units_.first_residue(unit) - x.pad_lo;
        for (int64_t row = 0; row < positions; row += x.out) {
          for (int64_t at = start - ceil_div(start + length, x.stride) * x.stride; at < x.out;
               at += x.stride) {
            const int64_t begin = std::max<int64_t>(at, 0);
            const int64_t end = std::min(at + length, x.out);
            if (begin < end) work(sums + row + begin, end - begin, filter, out + row + begin);
          }
        }
      }
    }
  }

  // Bias, to which everything is added.
  void set(const Samples& samples, const Outputs& to, int64_t group, int64_t unit) const noexcept {
    const S* const bias = static_cast<const S*>(samples.call.bias);
    each_run(samples.count, to, group, unit, [&](T* sums, int64_t count, int64_t filter, int64_t /*out*/) {
      std::fill_n(sums, count, bias == nullptr ? T{0} : E::load(bias[filter]));
    });
  }

  void finish(const Samples& samples, const Outputs& to, int64_t group, int64_t unit) const noexcept {
    if (std::is_same_v<S, T> && activate_.get() == nullptr) return;
    each_run(samples.count, to, group, unit, [&](T* sums, int64_t count, int64_t /*filter*/, int64_t out) {
      activate_(sums, count);
      if constexpr (std::is_same_v<S, T>) return;
      convert_run(store_, sums, samples.out + out, count);
    });
  }

  // Adds the sums of a panel, whose columns count from the unit's first filter.
  void add(int64_t samples, const Worker& w, const Outputs& to,
           const Units::Columns& columns) const noexcept {
    const auto& [z, y, x] = problem_.geometry.axes;
    const int64_t count = list(w.rows, columns);
    OverlapArgs args{};
    args.step = gemm_.lanes;
    args.positions = x.size;
    args.stride = x.stride;
    args.dilation = x.kernel > 1 ? x.dilation : 1;
    args.length = x.out;
    args.run = w.runs;
    for (int64_t row = 0; row < z.size * y.size; ++row) {
      // Those that go to rows of the output.
      args.runs = 0;
      const int64_t at_z = row / y.size * z.stride - z.pad_lo;
      const int64_t at_y = row % y.size * y.stride - y.pad_lo;
      for (const TapRow* tap = w.rows; tap < w.rows + count; ++tap) {
        const int64_t out_z = at_z + tap->z;
        const int64_t out_y = at_y + tap->y;
        if (out_z < 0 || out_z >= z.out || out_y < 0 || out_y >= y.out) continue;
        OverlapRun& run = w.runs[args.runs++];
        run = tap->run;
        run.row += (out_z * y.out + out_y) * x.out;
      }
      for (int64_t sample = 0; sample < samples; ++sample) {
        args.sums = w.sums + (sample * z.size * y.size + row) * x.size * gemm_.lanes;
        args.out = to.first + sample * to.sample;
        overlap_(args);
      }
    }
  }

  // The rows of taps of a panel's columns.
  int64_t list(TapRow* rows, const Units::Columns& columns) const noexcept {
    const auto& [z, y, x] = problem_.geometry.axes;
    int64_t count = 0;
    int64_t row = columns.first / x.kernel;  // through all filters
    int64_t tap = columns.first % x.kernel;
    for (int64_t lane = 0; lane < columns.count; ++row, tap = 0) {
      const int64_t length = std::min(x.kernel - tap, columns.count - lane);
      const int64_t filter = row / y.kernel / z.kernel;
      rows[count++] = {{static_cast<int32_t>(lane), static_cast<int32_t>(length),
                        filter * problem_.geometry.large_positions(), tap * x.dilation - x.pad_lo},
                       row / y.kernel % z.kernel * z.dilation,
                       row % y.kernel * y.dilation};
      lane += length;
    }
    return count;
  }

  Problem problem_;
  Activate activate_;
  const Kernel& gemm_;
  const Kernel& overlap_;
  const Kernel& load_;
  const Kernel& store_;
  Units units_;
  int64_t depth_ = 0;    // channels of a group
  int64_t columns_ = 0;  // filters and taps of a group
  int64_t chunk_ = 0;    // channels multiplied at a time
  int64_t chunks_ = 0;
  int64_t samples_ = 1;  // multiplied at a time
  int64_t sample_tiles_ = 1;
  bool lies_ = false;  // whether the source is read where it lies, each sample in tiles of its own
  int threads_ = 1;
};

std::optional<std::string> refusal(const Problem& problem) {
  const Geometry& g = problem.geometry;
  if (g.channels_last) return "maps lie together";
  for (const Axis& axis : g.axes) {
    if (axis.stride > kMostStride) return "stride above " + std::to_string(kMostStride);
  }
  if (g.taps() > kMostTaps) return "more than " + std::to_string(kMostTaps) + " taps";
  if (g.channels / g.groups > kMostDepth) return "more than " + std::to_string(kMostDepth) + " channels";
  return std::nullopt;
}

double cost(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const Axis& x = g.axes[2];
  const auto width = static_cast<int64_t>(machine::lanes(compute_dtype(problem.dtype), problem.isa));
  // Elements of a run that are added at a time.
  const int64_t together = std::max<int64_t>(1, ceil_div(width, x.dilation));
  const double runs = static_cast<double>(g.batch * g.small_positions() * g.filters) *
                      static_cast<double>(g.taps() / x.kernel * ceil_div(x.kernel, together));
  const double copied = static_cast<double>(g.weight_elements()) / static_cast<double>(width);
  Problem unpacked = problem;
  unpacked.packed = true;  // weights are only read, as packed ones are
  // Outputs of shorter types are numbers of the compute type before.
  unpacked.dtype = compute_dtype(problem.dtype);
  const double staged = storage_bytes(problem.dtype) < storage_bytes(unpacked.dtype)
                            ? static_cast<double>(g.large_elements()) / static_cast<double>(width)
                            : 0;
  const Kernel& tile = best_tile(problem);
  const auto rows = static_cast<double>(g.batch * g.axes[0].size * g.axes[1].size);
  const double calls = rows * static_cast<double>(g.groups * Units(g, tile.lanes).panels());
  return products_seconds(tile, g) + calls * kRowSeconds + runs * kRunSeconds +
         (copied + 2 * staged) * machine::kCopySeconds + machine::traffic_seconds(unpacked);
}

}  // namespace

extern const Algorithm overlap_add;
const Algorithm overlap_add{"overlap_add", refusal, cost, make_stored<OverlapAdd>};

}  // namespace tconv
