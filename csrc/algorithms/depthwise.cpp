// Forward and data gradient of depthwise layers and small groups in one streaming pass: every output row is
// the sum of a few shifted input rows, so nothing is turned into a product of matrices. Maps that lie apart
// are copied to rows with borders of zeros, lanes being positions, but for those of two phases of two taps,
// and of data gradients of a few rows of taps, which are read where they are; so are maps that lie together,
// lanes being maps. Where groups of several maps lie together, lanes are the output's maps of all groups, and
// rows are spread in the cache, a copy for each map of a group, so that under each lane lies the map that it
// reads. Of fewer maps than lanes, neighbouring positions are lanes too where both sides go on by one.
#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "algorithms/map_spread.hpp"
#include "algorithms/past_caches.hpp"
#include "depthwise_abi.hpp"
#include "depthwise_columns_abi.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "packing.hpp"
#include "phases.hpp"

namespace tconv {
namespace {

constexpr int64_t kMostDepth = 8;         // maps of a group that are summed
constexpr int64_t kMostSpreadDepth = 32;  // where they are spread
constexpr int64_t kMostTaps = 1024;
constexpr int64_t kMostRowTaps = 64;  // where maps lie together
constexpr int64_t kMostStride = 64;
constexpr int64_t kMostPositions = 2048;  // of a row that is computed at a time
constexpr int64_t kStripBytes = 96 << 10;
constexpr int64_t kMapBlock = 256;
constexpr int64_t kSpreadMaps = 128;
constexpr int64_t kSpreadBytes = 256 << 10;
constexpr int64_t kFoldedMaps = 64;   // of positions that are lanes together, at most
constexpr int64_t kLeastSpread = 16;  // positions of a row
constexpr int64_t kLeastPart = 16;    // positions of a row that are worth a unit
constexpr int kMostLanes = 16;
constexpr int64_t kSweptMaps = 16;  // of a unit

// Taps along the last axis, as the kernels want them.
struct Taps {
  std::vector<int64_t> offset;
  std::vector<int64_t> tap;
};

// Positions whose phases each have the same taps inside the image.
struct Section {
  int64_t begin;
  int64_t end;
  std::vector<Taps> taps;  // of the phases, which are the first
};

// Whether there are two phases of two taps along the last axis.
bool takes_turns(const Problem& problem) noexcept {
  const Axis& x = problem.geometry.axes[2];
  return problem.pass == Pass::forward && x.stride == 2 && x.kernel == 4 && x.dilation == 1;
}

// Whether rows are read where they lie, and summed down columns of vectors.
bool sweeps(const Problem& problem) noexcept {
  const Axis& y = problem.geometry.axes[1];
  const Axis& x = problem.geometry.axes[2];
  return !problem.geometry.channels_last && problem.pass == Pass::data_gradient && y.stride == x.stride &&
         y.stride <= 2 && y.dilation == 1 && x.dilation == 1 && y.kernel > 2 && y.kernel <= kColumnsKernel &&
         y.kernel != 6 && x.kernel <= kColumnsTaps &&
         !kernels(Family::depthwisecolumns, problem.dtype, problem.isa).empty();
}

// Whether groups of several maps lie together.
bool spreads(const Geometry& g) noexcept { return g.channels_last && groups_have_maps(g); }

// Maps of the output that are computed at a time where they are spread: whole vectors, and blocks about
// alike.
int64_t spread_maps(int64_t maps) noexcept {
  return ceil_div(ceil_div(maps, ceil_div(maps, kSpreadMaps)), kMostLanes) * kMostLanes;
}

// How many neighbouring positions are lanes together where maps lie together.
int64_t folded_positions(const Problem& problem) noexcept {
  const Geometry& g = problem.geometry;
  const int64_t maps = problem.pass == Pass::forward ? g.filters : g.channels;
  const double lanes = machine::lanes(compute_dtype(problem.dtype), problem.isa);
  return g.axes[2].stride == 1 && static_cast<double>(maps) < lanes ? kFoldedMaps / maps : 1;
}

template <class E>
class Depthwise final : public Recipe {
 public:
  using S = typename E::storage;
  using T = typename E::compute;

  explicit Depthwise(const Problem& problem)
      : problem_(problem),
        activate_(problem),
        axes_{PhaseAxis(problem.geometry.axes[0], problem.pass),
              PhaseAxis(problem.geometry.axes[1], problem.pass),
              PhaseAxis(problem.geometry.axes[2], problem.pass)},
        groups_(problem.geometry.groups),
        depth_((problem.pass == Pass::forward ? problem.geometry.channels : problem.geometry.filters) /
               groups_),
        columns_((problem.pass == Pass::forward ? problem.geometry.filters : problem.geometry.channels) /
                 groups_),
        maps_(groups_ * columns_),
        taps_(problem.geometry.taps()),
        row_taps_(depth_ * axes_[0].most_taps * axes_[1].most_taps),
        last_(problem.geometry.channels_last),
        spread_(spreads(problem.geometry)),
        fold_(last_ ? folded_positions(problem) : 1),
        sweeps_(sweeps(problem)),
        turns_(!last_ && row_taps_ <= kDepthwiseTurnsRows && takes_turns(problem)),
        block_maps_(spread_ ? spread_maps(maps_) : kMapBlock),
        pitch_(fold_ > 1 ? maps_
               : spread_ ? block_maps_
                         : groups_),
        load_(tconv::kernel(Family::load, problem.dtype, problem.isa)),
        store_(tconv::kernel(Family::store, problem.dtype, problem.isa)),
        sum_(last_     ? tconv::kernel(Family::depthwiselast, problem.dtype, problem.isa)
             : sweeps_ ? tconv::kernel(Family::depthwisecolumns, problem.dtype, problem.isa)
             : turns_  ? tconv::kernel(Family::depthwiseturns, problem.dtype, problem.isa)
                       : tconv::kernel(Family::depthwise,
                                       axes_[2].phases() > 2 ? compute_dtype(problem.dtype) : problem.dtype,
                                       problem.isa)) {
    const auto line = static_cast<int64_t>(kAlignment / sizeof(S));
    stream_ = sizeof(S) == sizeof(T) && (last_ ? maps_ : axes_[2].dst_size) % line == 0 &&
              goes_past_caches(problem, kBarePastCachesBytes);
    position_blocks_ = ceil_div(axes_[2].positions, kMostPositions);
    block_ = ceil_div(ceil_div(axes_[2].positions, position_blocks_), kMostLanes) * kMostLanes;
    if (spread_) spreader_ = std::make_unique<MapSpreader<E>>(problem, depth_, columns_);
    if (!last_ && !sweeps_ && !turns_) lay_out_strip();
    cut();
  }

  void list() override {
    for (PhaseAxis& axis : axes_) axis.list();
    if (last_) {
      list_sections();
    } else if (!sweeps_) {
      list_strip_taps();
    }
  }

  std::string kernel() const override { return sum_.name; }
  size_t workspace_bytes() const noexcept override { return workspace_; }
  size_t packed_bytes() const noexcept override { return static_cast<size_t>(packed_elements()) * sizeof(T); }
  std::string packing_key() const override {
    const Geometry& g = problem_.geometry;
    return key_of("depthwise", {static_cast<int64_t>(problem_.dtype), g.channels, g.filters, g.groups, taps_,
                                int64_t{last_}, int64_t{sweeps_},
                                int64_t{spread_ && problem_.pass == Pass::forward}, fold_});
  }

  bool pack(const void* weight, char* packed, Crew&) const override {
    if (last_) {
      pack_maps(weight, reinterpret_cast<T*>(packed));
    } else if (sweeps_) {
      pack_rows(weight, reinterpret_cast<T*>(packed));
    } else {
      convert_run(load_, weight, packed, problem_.geometry.weight_elements());
    }
    return all_finite(reinterpret_cast<const T*>(packed), packed_elements());
  }

  bool run(const Call& call) const override {
    const Buffer scratch(workspace_);
    Pieces pieces(scratch.data());
    const char* packed = packed_weights(call, pieces);
    if (packed == nullptr) return false;
    const T* const bias =
        made_bias<T>(call, pieces, bias_bytes(), [this](const void* from, T* to) { load_bias(from, to); });
    call.crew.limit(threads_);
    char* const workers = pieces.rest();
    const double seconds = machine::seconds(problem_) * threads_;
    const T* weights = reinterpret_cast<const T*>(packed);
    const bool stream = stream_ && reinterpret_cast<uintptr_t>(call.out) % kAlignment == 0;
    call.crew.share(units_, seconds, [&](int64_t unit, int member) noexcept {
      const Worker w = worker(workers + static_cast<size_t>(member) * worker_bytes());
      if (spread_) {
        run_spread(call, weights, bias, stream, w, unit);
      } else if (last_) {
        run_maps(call, weights, bias, stream, w, unit);
      } else if (sweeps_) {
        run_columns(call, weights, bias, w, unit);
      } else {
        run_rows(call, weights, bias, stream, w, unit);
      }
      if (stream) finish_past_caches();
    });
    return true;
  }

 private:
  // What one thread works in.
  struct Worker {
    T* strip;
    T* result;
    const void** rows;
    const void** weights;
  };

  int64_t packed_elements() const noexcept {
    const int64_t elements = problem_.geometry.weight_elements();
    return sweeps_ ? elements / axes_[2].kernel * kColumnsTaps : elements * fold_;
  }
  size_t bias_bytes() const noexcept { return static_cast<size_t>(maps_ * fold_) * sizeof(T); }
  size_t strip_bytes() const noexcept {
    if (spread_) return static_cast<size_t>(spread_elements()) * sizeof(S);
    if (last_ || sweeps_ || turns_) return 0;
    return static_cast<size_t>(strip_planes_ * strip_rows_ * row_ + kDepthwiseBeyond) * sizeof(T);
  }
  size_t result_bytes() const noexcept {
    return last_ || sweeps_ || turns_ ? 0 : static_cast<size_t>(axes_[2].phases() * block_) * sizeof(T);
  }
  size_t worker_bytes() const noexcept {
    return aligned(strip_bytes()) + aligned(result_bytes()) +
           3 * aligned(static_cast<size_t>(row_taps_) * sizeof(void*));
  }

  Worker worker(char* memory) const noexcept {
    Worker made{};
    made.strip = reinterpret_cast<T*>(memory);
    memory += aligned(strip_bytes());
    made.result = reinterpret_cast<T*>(memory);
    memory += aligned(result_bytes());
    made.rows = reinterpret_cast<const void**>(memory);
    memory += aligned(static_cast<size_t>(row_taps_) * sizeof(void*));
    made.weights = reinterpret_cast<const void**>(memory);
    return made;
  }

  // Of a map on one side.
  int64_t positions(int64_t PhaseAxis::* size) const noexcept {
    return axes_[0].*size * (axes_[1].*size) * (axes_[2].*size);
  }

  // Cuts the work into units, and threads so that the workspace holds them.
  void cut() {
    const Geometry& g = problem_.geometry;
    threads_ = problem_.threads;
    map_blocks_ = ceil_div(maps_, block_maps_);
    if (spread_) {
      cut_spread(axes_[1].dst_size, axes_[2].positions);
      const auto large = [this] {
        return spread_elements() * static_cast<int64_t>(sizeof(S)) > kSpreadBytes ||
               (threads_ > 1 && units_ < 4 * threads_);
      };
      while (rows_ > 1 && large()) cut_spread((rows_ + 1) / 2, block_);
      while (block_ > kLeastSpread && large()) cut_spread(rows_, (block_ + 1) / 2);
    } else if (last_) {
      const int64_t others = g.batch * axes_[0].dst_size * axes_[1].dst_size * map_blocks_;
      // Threads at different maps of the same positions would wait for each other's lines.
      const int64_t most = std::max<int64_t>(1, axes_[2].positions / kLeastPart);
      parts_ = threads_ > 1 ? std::clamp<int64_t>(ceil_div(4 * threads_, others), 1, most) : 1;
      units_ = others * parts_;
    } else if (sweeps_) {
      cut_columns(kSweptMaps, axes_[1].dst_size);
      while (threads_ > 1 && units_ < 4 * threads_ && parts_ * rows_ > 1) {
        if (parts_ > 2) {
          cut_columns(parts_ / 2, rows_);
        } else if (rows_ > 1) {
          cut_columns(parts_, (rows_ + 1) / 2);
        } else {
          cut_columns(1, 1);
        }
      }
    } else {
      const int64_t others = g.batch * groups_ * axes_[0].dst_size * position_blocks_;
      rows_ = axes_[1].dst_size;
      while (rows_ > 1 && (strip_size() > kStripBytes ||
                           (threads_ > 1 && others * ceil_div(axes_[1].dst_size, rows_) < 4 * threads_))) {
        rows_ = (rows_ + 1) / 2;
      }
      cut_rows(rows_);
    }
    const auto total = [&] {
      return (problem_.packed ? 0 : aligned(packed_bytes())) + aligned(bias_bytes()) +
             worker_bytes() * static_cast<size_t>(threads_);
    };
    while (threads_ > 1 && total() > problem_.workspace) --threads_;
    // Whether it fits at all must not hang on batch or threads, which decide the rows above.
    while (!last_ && !sweeps_ && rows_ > 1 && total() > problem_.workspace) cut_rows((rows_ + 1) / 2);
    while (spread_ && rows_ * block_ > 1 && total() > problem_.workspace) {
      if (rows_ > 1) {
        cut_spread((rows_ + 1) / 2, block_);
      } else {
        cut_spread(1, (block_ + 1) / 2);
      }
    }
    workspace_ = total();
  }

  // Units of so many groups and rows.
  void cut_columns(int64_t groups, int64_t rows) noexcept {
    rows_ = rows;
    parts_ = groups;
    row_blocks_ = ceil_div(axes_[1].dst_size, rows);
    units_ = problem_.geometry.batch * axes_[0].dst_size * ceil_div(groups_, groups) * row_blocks_;
  }

  void cut_rows(int64_t rows) noexcept {
    const PhaseAxis& y = axes_[1];
    rows_ = rows;
    strip_rows_ = source_rows(rows);
    row_blocks_ = ceil_div(y.dst_size, rows);
    units_ = problem_.geometry.batch * groups_ * axes_[0].dst_size * position_blocks_ * row_blocks_;
  }

  void cut_spread(int64_t rows, int64_t positions) noexcept {
    rows_ = rows;
    block_ = positions;
    strip_rows_ = source_rows(rows);
    strip_length_ = source_positions(axes_[2], positions);
    row_blocks_ = ceil_div(axes_[1].dst_size, rows);
    parts_ = ceil_div(axes_[2].positions, positions);
    units_ = problem_.geometry.batch * axes_[0].dst_size * row_blocks_ * parts_ * map_blocks_;
  }
  int64_t spread_elements() const noexcept {
    return depth_ * (axes_[0].most_taps * strip_rows_ * strip_length_ * pitch_ + spread_beyond());
  }
  // Elements that the last position of a copy is spread beyond; of others the next takes them back.
  int64_t spread_beyond() const noexcept { return fold_ > 1 ? kMostLanes : 0; }

  // Source rows that so many neighbouring output rows may read.
  int64_t source_rows(int64_t rows) const noexcept {
    return source_positions(axes_[1], (rows - 1) / axes_[1].dst_step + 1);
  }
  // The same of positions of all phases.
  static int64_t source_positions(const PhaseAxis& axis, int64_t positions) noexcept {
    const int64_t reach = axis.highest_offset - axis.lowest_offset + 1;
    return std::min(axis.src_size, positions * axis.src_step + reach);
  }
  int64_t strip_size() const noexcept {
    return strip_planes_ * source_rows(rows_) * row_ * static_cast<int64_t>(sizeof(T));
  }

  void lay_out_strip() noexcept {
    const PhaseAxis& x = axes_[2];
    // Taps without a shift then read whole lines.
    low_ = floor_div(floor_div(x.lowest_offset, x.src_step), kMostLanes) * kMostLanes;
    halo_ = floor_div(x.highest_offset, x.src_step) - low_;
    segment_ = ceil_div(block_ + halo_, kMostLanes) * kMostLanes;
    const int64_t period = x.src_step / std::gcd(x.src_step, x.axis.dilation);
    row_ = segment_ * std::min(period, x.kernel) + kMostLanes;
    strip_planes_ = row_taps_ / axes_[1].most_taps;
  }

  void list_strip_taps() {
    const PhaseAxis& x = axes_[2];
    strip_taps_ = {};
    residues_.clear();
    std::vector<int64_t> slot(static_cast<size_t>(x.src_step), -1);
    for (const PhaseTap& tap : x.taps) {
      strip_taps_.tap.push_back(tap.k);
      if (turns_) continue;
      const int64_t shift = floor_div(tap.offset, x.src_step);
      const int64_t residue = tap.offset - shift * x.src_step;
      int64_t& at = slot[static_cast<size_t>(residue)];
      if (at < 0) {
        at = static_cast<int64_t>(residues_.size());
        residues_.push_back(residue);
      }
      strip_taps_.offset.push_back(at * segment_ + shift - low_);
    }
  }

  void list_sections() {
    sections_.clear();
    const PhaseAxis& x = axes_[2];
    // Positions that a tap leads into the image.
    const auto inside = [&](const PhaseTap& tap) {
      const int64_t begin = std::clamp<int64_t>(ceil_div(-tap.offset, x.src_step), 0, x.positions);
      const int64_t end =
          std::clamp<int64_t>(floor_div(x.src_size - 1 - tap.offset, x.src_step) + 1, begin, x.positions);
      return std::pair(begin, end);
    };
    std::vector<int64_t> cuts{0};
    for (int64_t phase = 0; phase < x.phases(); ++phase) cuts.push_back(x.count(phase));
    for (const PhaseTap& tap : x.taps) {
      const auto [begin, end] = inside(tap);
      cuts.push_back(begin);
      cuts.push_back(end);
    }
    std::sort(cuts.begin(), cuts.end());
    for (size_t c = 0; c + 1 < cuts.size(); ++c) {
      if (cuts[c] == cuts[c + 1]) continue;
      Section& section = sections_.emplace_back(Section{cuts[c], cuts[c + 1], {}});
      for (int64_t phase = 0; phase < x.phases() && section.begin < x.count(phase); ++phase) {
        Taps& taps = section.taps.emplace_back();
        const int64_t count = x.tap_count(phase);
        for (int64_t i = 0; i < count; ++i) {
          // In the order in which kernels know neighbours: each reads the position before that of the last.
          const PhaseTap& tap = x.taps_of(phase)[x.forward ? i : count - 1 - i];
          const auto [begin, end] = inside(tap);
          if (begin > section.begin || end < section.end) continue;
          taps.offset.push_back(tap.offset * pitch_);
          taps.tap.push_back(tap.k * maps_ * fold_);
        }
      }
    }
  }

  // Weights in the order [map of a group that is read][tap][position of those that are lanes together][map of
  // the output].
  void pack_maps(const void* weight, T* packed) const noexcept {
    const Geometry& g = problem_.geometry;
    const bool forward = problem_.pass == Pass::forward;
    const int64_t filters = g.filters / groups_;
    for (int64_t depth = 0; depth < depth_; ++depth) {
      // Forward, maps of the output are filters, which are neighbours in the weights too.
      for (int64_t column = 0; column < (forward ? columns_ : 1); ++column) {
        MoveArgs args{};
        args.src = static_cast<const S*>(weight) + (forward ? depth * taps_ * filters + column : depth);
        args.src_row = (forward ? depth_ : 1) * taps_ * filters;
        args.src_column = filters;
        args.dst = packed + depth * taps_ * maps_ * fold_ + column;
        args.dst_row = forward ? columns_ : 1;
        args.dst_column = maps_ * fold_;
        args.rows = forward ? groups_ : maps_;
        args.columns = taps_;
        load_(args);
      }
    }
    for (int64_t tap = 0; tap < depth_ * taps_; ++tap) repeat(packed + tap * maps_ * fold_);
  }

  // Weights as they lie, but that rows of taps have room for the most.
  void pack_rows(const void* weight, T* packed) const noexcept {
    std::fill_n(packed, packed_elements(), T{0});
    MoveArgs args{};
    args.src = weight;
    args.src_row = args.columns = axes_[2].kernel;
    args.src_column = 1;
    args.dst = packed;
    args.dst_row = kColumnsTaps;
    args.dst_column = 1;
    args.rows = problem_.geometry.weight_elements() / args.columns;
    load_(args);
  }

  void load_bias(const void* bias, T* to) const noexcept {
    convert_run(load_, bias, to, maps_);
    repeat(to);
  }

  // What the maps of a position have, for those that are lanes with it.
  void repeat(T* maps) const noexcept {
    for (int64_t position = 1; position < fold_; ++position)
      std::copy_n(maps, maps_, maps + position * maps_);
  }

  // A position of dst on one axis, whose successor is found without a division.
  struct Cursor {
    const PhaseAxis& axis;
    int64_t phase;
    int64_t origin;  // source position that tap offsets count from

    Cursor(const PhaseAxis& along, int64_t at) noexcept : axis(along) { move(at); }

    void move(int64_t at) noexcept {
      phase = at % axis.dst_step;
      origin = at / axis.dst_step * axis.src_step;
    }
    void advance() noexcept {
      if (++phase < axis.dst_step) return;
      phase = 0;
      origin += axis.src_step;
    }
    // Whether the taps of the next position lead to where those of this one do, in the same order.
    bool next_reads_the_same() const noexcept {
      const int64_t next = phase + 1 < axis.dst_step ? phase + 1 : 0;
      const int64_t further = next == 0 ? axis.src_step : 0;
      const PhaseTap* const tap = axis.taps_of(phase);
      return std::equal(
          tap, tap + axis.tap_count(phase), axis.taps_of(next), axis.taps_of(next) + axis.tap_count(next),
          [further](const PhaseTap& a, const PhaseTap& b) { return a.offset == b.offset + further; });
    }
    // How many positions of this phase, from this one on, have the same taps in the image.
    int64_t alike() const noexcept {
      int64_t most = axis.positions;
      const PhaseTap* tap = axis.taps_of(phase);
      for (const PhaseTap* const end = tap + axis.tap_count(phase); tap < end; ++tap) {
        const int64_t source = origin + tap->offset;
        if (source >= axis.src_size) continue;
        most = std::min(most, ceil_div((source < 0 ? 0 : axis.src_size) - source, axis.src_step));
      }
      return most;
    }
    // Calls `body(source index, kernel index)` for the taps that lead into the image.
    template <class Body>
    void for_taps(const Body& body) const {
      const PhaseTap* tap = axis.taps_of(phase);
      const PhaseTap* const end = tap + axis.tap_count(phase);
      for (; tap < end; ++tap) {
        const int64_t source = origin + tap->offset;
        if (source >= 0 && source < axis.src_size) body(source, tap->k);
      }
    }
  };

  // Maps of a sample that lie together.
  struct Maps {
    char* out;
    int64_t element;  // bytes
    int64_t first;
    int64_t count;
    bool stream;
  };

  void run_maps(const Call& call, const T* weights, const T* bias, bool stream, const Worker& w,
                int64_t unit) const noexcept {
    const auto& [z, y, x] = axes_;
    const auto element = static_cast<int64_t>(storage_bytes(problem_.dtype));
    const int64_t map = unit % map_blocks_ * block_maps_;
    unit /= map_blocks_;
    const int64_t first = x.positions * (unit % parts_) / parts_;
    const int64_t last = x.positions * (unit % parts_ + 1) / parts_;
    unit /= parts_;
    const int64_t at_y = unit % y.dst_size;
    const int64_t at_z = unit / y.dst_size % z.dst_size;
    const int64_t sample = unit / y.dst_size / z.dst_size;
    Maps maps{};
    const char* const source = static_cast<const char*>(call.source) +
                               (sample * positions(&PhaseAxis::src_size) * groups_ + map) * element;
    maps.out =
        static_cast<char*>(call.out) + (sample * positions(&PhaseAxis::dst_size) * groups_ + map) * element;
    maps.element = element;
    maps.first = map;
    maps.count = std::min(block_maps_, groups_ - map);
    maps.stream = stream;
    sum_maps(maps, weights, bias, w, Cursor(z, at_z), Cursor(y, at_y), at_z * y.dst_size + at_y,
             {first, last}, 0, [&](int64_t /*depth*/, int64_t /*plane*/, int64_t src_z, int64_t src_y) {
               return source + (src_z * y.src_size + src_y) * x.src_size * pitch_ * element;
             });
  }

  // Some positions of some rows of a plane, groups of several maps being spread.
  void run_spread(const Call& call, const T* weights, const T* bias, bool stream, const Worker& w,
                  int64_t unit) const noexcept {
    const auto& [z, y, x] = axes_;
    constexpr auto element = static_cast<int64_t>(sizeof(S));
    const int64_t map = unit % map_blocks_ * block_maps_;
    unit /= map_blocks_;
    const int64_t first_x = unit % parts_ * block_;
    const int64_t end_x = std::min(first_x + block_, x.positions);
    unit /= parts_;
    const int64_t first_y = unit % row_blocks_ * rows_;
    const int64_t end_y = std::min(first_y + rows_, y.dst_size);
    unit /= row_blocks_;
    const int64_t at_z = unit % z.dst_size;
    const int64_t sample = unit / z.dst_size;
    const Cursor place_z(z, at_z);
    const auto [begin_row, end_row] = sources(y, first_y / y.dst_step, (end_y - 1) / y.dst_step + 1);
    const auto [begin, end] = sources(x, first_x, end_x);
    const int64_t row = (end - begin) * pitch_;
    const int64_t plane = (end_row - begin_row) * row;
    int64_t planes = 0;
    place_z.for_taps([&](int64_t, int64_t) { ++planes; });
    S* const strip = reinterpret_cast<S*>(w.strip);
    const int64_t depth_maps = groups_ * depth_;
    const S* const source = static_cast<const S*>(call.source);
    MapSpreadArgs args{};
    args.end = source + problem_.geometry.batch * positions(&PhaseAxis::src_size) * depth_maps;
    args.src_row = x.src_size * depth_maps;
    args.src_step = depth_maps;
    args.dst = strip;
    args.dst_row = row;
    args.dst_step = pitch_;
    args.rows = end_row - begin_row;
    args.count = end - begin;
    args.depth = depth_;
    args.dst_depth = planes * plane + spread_beyond();
    const int64_t count = std::min(block_maps_, maps_ - map);
    S* to = strip;
    place_z.for_taps([&](int64_t src_z, int64_t) {
      args.src = source +
                 (((sample * z.src_size + src_z) * y.src_size + begin_row) * x.src_size + begin) * depth_maps;
      args.dst = to;
      (*spreader_)(args, map, count);
      to += plane;
    });
    Maps maps{};
    maps.out =
        static_cast<char*>(call.out) + (sample * positions(&PhaseAxis::dst_size) * maps_ + map) * element;
    maps.element = element;
    maps.first = map;
    maps.count = count;
    maps.stream = stream;
    Cursor place_y(y, first_y);
    for (int64_t at_y = first_y; at_y < end_y; ++at_y, place_y.advance()) {
      sum_maps(maps, weights, bias, w, place_z, place_y, at_z * y.dst_size + at_y, {first_x, end_x}, begin,
               [&](int64_t depth, int64_t at_plane, int64_t /*at_z*/, int64_t src_y) {
                 return strip + depth * args.dst_depth + at_plane * plane + (src_y - begin_row) * row;
               });
    }
  }

  // Source positions that positions [first, end) read, from the first to before the second.
  static std::pair<int64_t, int64_t> sources(const PhaseAxis& axis, int64_t first, int64_t end) noexcept {
    const int64_t begin = std::clamp<int64_t>(first * axis.src_step + axis.lowest_offset, 0, axis.src_size);
    return {begin,
            std::clamp<int64_t>((end - 1) * axis.src_step + axis.highest_offset + 1, begin, axis.src_size)};
  }

  // Positions of a row of the output, which is at these places of the outer axes; `row_of` tells where
  // position `source_begin` of a source row lies.
  template <class RowOf>
  void sum_maps(const Maps& maps, const T* weights, const T* bias, const Worker& w, const Cursor& place_z,
                const Cursor& place_y, int64_t row, std::pair<int64_t, int64_t> of, int64_t source_begin,
                const RowOf& row_of) const noexcept {
    const auto& [z, y, x] = axes_;
    DepthwiseLastArgs args{};
    args.activation = activate_.get();
    args.stream = maps.stream;
    for (int64_t depth = 0; depth < depth_; ++depth) {
      int64_t plane = 0;
      place_z.for_taps([&](int64_t src_z, int64_t kz) {
        place_y.for_taps([&](int64_t src_y, int64_t ky) {
          w.rows[args.rows] = row_of(depth, plane, src_z, src_y);
          w.weights[args.rows++] =
              weights + (depth * taps_ + (kz * y.kernel + ky) * x.kernel) * maps_ * fold_ + maps.first;
        });
        ++plane;
      });
    }
    args.src = w.rows;
    args.weight = w.weights;
    args.bias = bias == nullptr ? nullptr : bias + maps.first;
    args.src_step = x.src_step * pitch_ * fold_;
    args.dst_step = x.dst_step * maps_ * fold_;
    for (const Section& section : sections_) {
      const int64_t begin = std::max(section.begin, of.first);
      const int64_t positions = std::min(section.end, of.second) - begin;
      if (positions <= 0) continue;
      DepthwisePhase phases[kMostStride];
      args.phase = phases;
      args.phases = 0;
      for (const Taps& taps : section.taps) {
        phases[args.phases] = {taps.offset.data(), taps.tap.data(), static_cast<int64_t>(taps.tap.size()),
                               args.phases * maps_};
        ++args.phases;
      }
      const auto sum = [&](int64_t first, int64_t count, int64_t together) {
        if (count == 0) return;
        args.dst = maps.out + (row * x.dst_size + first * x.dst_step) * maps_ * maps.element;
        args.src_start = (first * x.src_step - source_begin) * pitch_;
        args.count = count;
        args.maps = maps.count * together;
        sum_(args);
      };
      const int64_t rest = positions % fold_;
      sum(begin, positions / fold_, fold_);
      if (rest > 0) sum(begin + positions - rest, 1, rest);
    }
  }

  // Some rows of a plane of the output of some groups.
  void run_columns(const Call& call, const T* weights, const T* bias, const Worker& w,
                   int64_t unit) const noexcept {
    const auto& [z, y, x] = axes_;
    const int64_t first_y = unit % row_blocks_ * rows_;
    unit /= row_blocks_;
    const int64_t runs = ceil_div(groups_, parts_);
    const int64_t first = unit % runs * parts_;
    const int64_t end = std::min(first + parts_, groups_);
    unit /= runs;
    const int64_t at_z = unit % z.dst_size;
    const int64_t sample = unit / z.dst_size;
    const int64_t src_map = positions(&PhaseAxis::src_size);
    const int64_t taps = taps_ / x.kernel * kColumnsTaps;
    DepthwiseColumnsArgs args{};
    args.src = w.rows;
    args.weight = w.weights;
    args.weight_map = depth_ * taps;
    args.src_row = x.src_size;
    args.src_rows = y.src_size;
    args.src_columns = x.src_size;
    args.first_y = first_y * y.src_step + y.lowest_offset;
    args.first_x = x.lowest_offset;
    args.kernel_y = y.kernel;
    args.kernel_x = x.kernel;
    args.step = x.src_step;
    args.activation = activate_.get();
    args.dst_map = positions(&PhaseAxis::dst_size);
    args.dst_row = x.dst_size;
    args.rows = std::min(rows_, y.dst_size - first_y);
    args.columns = x.dst_size;
    // Maps of one group read the same, those of several go on together.
    const bool alone = columns_ > 1;
    args.src_map = alone ? 0 : depth_ * src_map;
    args.maps = alone ? columns_ : end - first;
    const Cursor place_z(z, at_z);
    for (int64_t group = first; group < end; group += alone ? 1 : end - first) {
      args.planes = 0;
      for (int64_t depth = 0; depth < depth_; ++depth) {
        place_z.for_taps([&](int64_t src_z, int64_t kz) {
          w.rows[args.planes] = static_cast<const S*>(call.source) +
                                ((sample * groups_ + group) * depth_ + depth) * src_map +
                                src_z * y.src_size * x.src_size;
          w.weights[args.planes++] =
              weights + (group * columns_ * depth_ + depth) * taps + kz * y.kernel * kColumnsTaps;
        });
      }
      const int64_t map = group * columns_;
      args.bias = bias == nullptr ? nullptr : bias + map;
      args.dst = static_cast<S*>(call.out) + (sample * maps_ + map) * args.dst_map +
                 (at_z * y.dst_size + first_y) * x.dst_size;
      sum_(args);
    }
  }

  // Output rows of a unit, and positions of them.
  struct Rows {
    int64_t sample;
    int64_t group;
    int64_t at_z;
    int64_t first_y;
    int64_t end_y;
    int64_t first_x;
    int64_t positions;
  };

  // Source planes and rows that output plane `at_z` and rows [first_y, end_y) read, in the strip as
  // [map][plane][row].
  struct Strip {
    int64_t map_stride;
    int64_t plane_stride;
    int64_t first_row;
    int64_t rows;
  };

  void run_rows(const Call& call, const T* weights, const T* bias, bool stream, const Worker& w,
                int64_t unit) const noexcept {
    const auto& [z, y, x] = axes_;
    Rows of{};
    of.first_y = unit % row_blocks_ * rows_;
    unit /= row_blocks_;
    of.first_x = unit % position_blocks_ * block_;
    unit /= position_blocks_;
    of.at_z = unit % z.dst_size;
    of.group = unit / z.dst_size % groups_;
    of.sample = unit / z.dst_size / groups_;
    of.end_y = std::min(of.first_y + rows_, y.dst_size);
    of.positions = std::min(block_, x.positions - of.first_x);
    if (of.positions <= 0) return;
    const Cursor place_z(z, of.at_z);
    if (turns_) {
      const auto* const source = static_cast<const S*>(call.source);
      sum_rows(call, weights, bias, stream, w, of, place_z,
               [&](int64_t depth, int64_t /*plane*/, int64_t at_z, int64_t at_y) {
                 const int64_t map = (of.sample * groups_ + of.group) * depth_ + depth;
                 return source + ((map * z.src_size + at_z) * y.src_size + at_y) * x.src_size;
               });
      return;
    }
    Strip strip{};
    const auto [begin_row, end_row] = sources(y, of.first_y / y.dst_step, (of.end_y - 1) / y.dst_step + 1);
    strip.first_row = begin_row;
    strip.rows = end_row - begin_row;
    strip.plane_stride = strip.rows * row_;
    int64_t planes = 0;
    place_z.for_taps([&](int64_t, int64_t) { ++planes; });
    strip.map_stride = planes * strip.plane_stride;
    fill_strip(call.source, w.strip, of, place_z, strip);
    sum_rows(call, weights, bias, stream, w, of, place_z,
             [&](int64_t depth, int64_t plane, int64_t /*at_z*/, int64_t at_y) {
               return w.strip + depth * strip.map_stride + plane * strip.plane_stride +
                      (at_y - strip.first_row) * row_;
             });
  }

  // `row_of` tells where a source row begins that is read in place, or its part in the strip.
  template <class RowOf>
  void sum_rows(const Call& call, const T* weights, const T* bias, bool stream, const Worker& w,
                const Rows& of, const Cursor& place_z, const RowOf& row_of) const noexcept {
    const auto& [z, y, x] = axes_;
    DepthwiseTurnsArgs turns{};
    if (turns_) {
      turns.src = w.rows;
      turns.weight = w.weights;
      turns.size = x.src_size;
      for (int64_t phase = 0; phase < 2; ++phase) turns.first[phase] = x.taps_of(phase)->offset + of.first_x;
      turns.tap = strip_taps_.tap.data();
      turns.activation = activate_.get();
      turns.src_row = y.src_step * x.src_size;
      turns.dst_row = x.dst_size;
      turns.count = std::min(2 * of.positions, x.dst_size - 2 * of.first_x);
      turns.stream = stream;
    }
    DepthwiseArgs args{};
    args.src = w.rows;
    args.weight = w.weights;
    args.activation = activate_.get();
    for (int64_t column = 0; column < columns_; ++column) {
      const int64_t map = of.group * columns_ + column;
      args.bias = turns.bias = bias == nullptr ? nullptr : bias + map;
      S* out = static_cast<S*>(call.out) +
               (((of.sample * groups_ * columns_ + map) * z.dst_size + of.at_z) * y.dst_size + of.first_y) *
                   x.dst_size;
      Cursor place_y(y, of.first_y);
      for (int64_t at_y = of.first_y; at_y < of.end_y; ++at_y, place_y.advance(), out += x.dst_size) {
        args.rows = turns.rows = list_rows(weights, w, of.group, column, place_z, place_y, row_of);
        if (turns_) {
          turns.dst = out + 2 * of.first_x;
          turns.outputs = at_y + 1 < of.end_y && place_y.next_reads_the_same() ? 2 : 1;
          turns.repeats =
              turns.outputs == y.dst_step ? std::min((of.end_y - at_y) / turns.outputs, place_y.alike()) : 1;
          if (turns.outputs == 2) {
            place_y.advance();
            Worker second = w;
            second.weights += turns.rows;
            list_rows(weights, second, of.group, column, place_z, place_y, row_of);
          }
          sum_(turns);
          const int64_t more = turns.outputs * turns.repeats - 1;
          at_y += more;
          out += more * x.dst_size;
          place_y.move(at_y);
        } else if (x.phases() <= 2) {
          sum_phases(args, 0, x.phases(), of, out + of.first_x * x.phases());
        } else {
          for (int64_t phase = 0; phase < x.phases(); ++phase)
            sum_phases(args, phase, 1, of, w.result + phase * block_);
          store_row(out, w.result, of.first_x, of.positions);
        }
      }
    }
  }

  // The sums of one phase, or of two that take turns in the output.
  void sum_phases(DepthwiseArgs& args, int64_t first, int64_t phases, const Rows& of,
                  void* dst) const noexcept {
    const PhaseAxis& x = axes_[2];
    const auto begin = static_cast<size_t>(x.first_tap[static_cast<size_t>(first)]);
    args.offset = strip_taps_.offset.data() + begin;
    args.tap = strip_taps_.tap.data() + begin;
    args.taps[0] = x.tap_count(first);
    args.taps[1] = phases > 1 ? x.tap_count(first + 1) : 0;
    args.phases = phases;
    args.dst = dst;
    args.count = std::min(of.positions * phases,
                          x.count(first) + (phases > 1 ? x.count(first + 1) : 0) - of.first_x * phases);
    if (args.count > 0) sum_(args);
  }

  // Lists what an output row is the sum of; `row_of` tells where a source row lies.
  template <class RowOf>
  int64_t list_rows(const T* weights, const Worker& w, int64_t group, int64_t column, const Cursor& place_z,
                    const Cursor& place_y, const RowOf& row_of) const noexcept {
    const int64_t kernel_y = axes_[1].kernel;
    const int64_t kernel_x = axes_[2].kernel;
    int64_t rows = 0;
    for (int64_t depth = 0; depth < depth_; ++depth) {
      const int64_t pair = problem_.pass == Pass::forward ? (group * depth_ + depth) * columns_ + column
                                                          : (group * columns_ + column) * depth_ + depth;
      int64_t plane = 0;
      place_z.for_taps([&](int64_t src_z, int64_t kz) {
        place_y.for_taps([&](int64_t src_y, int64_t ky) {
          w.rows[rows] = row_of(depth, plane, src_z, src_y);
          w.weights[rows++] = weights + pair * taps_ + (kz * kernel_y + ky) * kernel_x;
        });
        ++plane;
      });
    }
    return rows;
  }

  // Elements of a residue that the positions of a unit read.
  int64_t strip_length(const Rows& of) const noexcept { return std::min(segment_, of.positions + halo_); }

  // Copies what a unit reads, a residue of the source's step after the other, borders being zeros.
  void fill_strip(const void* source, T* strip, const Rows& of, const Cursor& place_z,
                  const Strip& s) const noexcept {
    const auto& [z, y, x] = axes_;
    const auto element = static_cast<int64_t>(storage_bytes(problem_.dtype));
    MoveArgs args{};
    args.rows = s.rows;
    args.src_row = x.src_size;
    args.src_column = x.src_step;
    args.dst_row = row_;
    args.dst_column = 1;
    const int64_t length = strip_length(of);
    for (size_t r = 0; r < residues_.size(); ++r) {
      const int64_t origin = (of.first_x + low_) * x.src_step + residues_[r];
      const int64_t begin = std::clamp<int64_t>(ceil_div(-origin, x.src_step), 0, length);
      const int64_t end =
          std::clamp<int64_t>(floor_div(x.src_size - 1 - origin, x.src_step) + 1, begin, length);
      args.columns = end - begin;
      for (int64_t depth = 0; depth < depth_; ++depth) {
        T* to = strip + depth * s.map_stride + static_cast<int64_t>(r) * segment_;
        place_z.for_taps([&](int64_t src_z, int64_t) {
          for (int64_t row = 0; row < s.rows; ++row) {
            std::fill(to + row * row_, to + row * row_ + begin, T{0});
            std::fill(to + row * row_ + end, to + row * row_ + length, T{0});
          }
          const int64_t map = (of.sample * groups_ + of.group) * depth_ + depth;
          args.src = static_cast<const char*>(source) +
                     (((map * z.src_size + src_z) * y.src_size + s.first_row) * x.src_size + origin +
                      begin * x.src_step) *
                         element;
          args.dst = to + begin;
          if (args.rows > 0 && args.columns > 0) load_(args);
          to += s.plane_stride;
        });
      }
    }
  }

  // The phases of a row take turns in the output.
  void store_row(S* out, const T* result, int64_t first_x, int64_t positions) const noexcept {
    const PhaseAxis& x = axes_[2];
    // Positions with all phases, then maybe one with some.
    const int64_t whole = std::min(positions, x.dst_size / x.dst_step - first_x);
    MoveArgs args{};
    args.src = result;
    args.src_row = block_;
    args.src_column = 1;
    args.dst = out + first_x * x.dst_step;
    args.dst_row = 1;
    args.dst_column = x.dst_step;
    args.rows = x.dst_step;
    args.columns = whole;
    if (whole > 0) store_(args);
    if (whole == positions) return;
    args.src = result + whole;
    args.dst = out + (first_x + whole) * x.dst_step;
    args.rows = x.dst_size % x.dst_step;
    args.columns = 1;
    store_(args);
  }

  Problem problem_;
  Activate activate_;
  std::array<PhaseAxis, kAxes> axes_;
  int64_t groups_;
  int64_t depth_;
  int64_t columns_;
  int64_t maps_;  // of the output
  int64_t taps_;
  int64_t row_taps_;  // source rows that an output row reads, at most
  bool last_;         // whether maps lie together
  bool spread_;       // whether groups of several maps lie together
  int64_t fold_;      // neighbouring positions that are lanes together
  bool sweeps_;       // whether rows are read in place, and summed down columns
  bool turns_;  // whether there are two phases of two taps, which take turns, and rows are read in place
  int64_t block_maps_;  // of a unit, where they lie together
  int64_t pitch_;       // elements from one position of the source to the next there
  const Kernel& load_;
  const Kernel& store_;
  const Kernel& sum_;
  bool stream_ = false;  // whether outputs go past the caches
  // Where maps lie apart.
  Taps strip_taps_;                // along the last axis, in the order of its phases
  std::vector<int64_t> residues_;  // of the source's step that some tap reads
  int64_t low_ = 0;                // shift of the first element of a row of the strip
  int64_t halo_ = 0;               // elements of a row that are read beside its positions
  int64_t position_blocks_ = 1;
  int64_t block_ = 0;    // positions
  int64_t segment_ = 0;  // elements of a residue in a row of the strip
  int64_t row_ = 0;      // elements of a row of the strip
  int64_t strip_planes_ = 1;
  int64_t strip_rows_ = 1;
  int64_t rows_ = 1;  // output rows of a unit
  int64_t row_blocks_ = 1;
  // Where maps lie together.
  std::vector<Section> sections_;
  int64_t map_blocks_ = 1;
  int64_t parts_ = 1;  // that a row is shared in; of columns, groups of a unit
  std::unique_ptr<MapSpreader<E>> spreader_;
  int64_t strip_length_ = 0;  // source positions of a row that is spread
  int64_t units_ = 0;
  int threads_ = 1;
  size_t workspace_ = 0;
};

std::optional<std::string> refusal(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const int64_t most_depth = spreads(g) ? kMostSpreadDepth : kMostDepth;
  if ((problem.pass == Pass::forward ? g.channels : g.filters) > most_depth * g.groups) {
    return "sums of more than " + std::to_string(most_depth) + " maps";
  }
  if (g.taps() > kMostTaps) return "more than " + std::to_string(kMostTaps) + " taps";
  if (g.channels_last && g.axes[2].kernel > kMostRowTaps) {
    return "more than " + std::to_string(kMostRowTaps) + " taps along the last axis";
  }
  for (const Axis& axis : g.axes) {
    if (axis.stride > kMostStride) return "stride above " + std::to_string(kMostStride);
    if (axis.dilation > kMostTaps) return "dilation above " + std::to_string(kMostTaps);
  }
  return std::nullopt;
}

// An axis as the cost sees it.
struct Reach {
  double src_size;
  double dst_size;
  int64_t src_step;
  int64_t dst_step;
  double taps;       // of a position, in the mean
  double most_taps;  // of a phase
  double residues;   // of the source's step that some tap reads
  double extent;     // source positions from the first tap of a phase to the last

  // Source positions that so many neighbouring positions of all phases read.
  double sources(double positions) const noexcept {
    return std::min(src_size, positions * static_cast<double>(src_step) + extent);
  }
};

Reach reach(const Axis& axis, bool forward) noexcept {
  const int64_t period = axis.stride / std::gcd(axis.stride, axis.dilation);
  const auto size = static_cast<double>(axis.size);
  const auto out = static_cast<double>(axis.out);
  const auto kernel = static_cast<double>(axis.kernel);
  const int64_t reached = (axis.kernel - 1) * axis.dilation;
  if (!forward) {
    return {out,
            size,
            axis.stride,
            1,
            kernel,
            kernel,
            static_cast<double>(std::min(period, axis.kernel)),
            static_cast<double>(reached + 1)};
  }
  return {size,
          out,
          1,
          axis.stride,
          kernel / static_cast<double>(axis.stride),
          static_cast<double>(ceil_div(axis.kernel, period)),
          1.0,
          static_cast<double>(reached / axis.stride + 1)};
}

// What each way takes while all lies in the caches, in nanoseconds fitted to measured times.
class Times {
 public:
  explicit Times(const Problem& problem) noexcept
      : problem_(problem),
        forward_(problem.pass == Pass::forward),
        width_(machine::lanes(compute_dtype(problem.dtype), problem.isa)),
        // Measured with vectors of 64 bytes; narrower ones take half, if no more lanes are moved.
        vector_(std::max(vector_floats(problem.isa) / 16.0, 0.5)),
        z_(reach(problem.geometry.axes[0], forward_)),
        y_(reach(problem.geometry.axes[1], forward_)),
        x_(reach(problem.geometry.axes[2], forward_)),
        batch_(static_cast<double>(problem.geometry.batch)),
        groups_(static_cast<double>(problem.geometry.groups)),
        fold_(static_cast<double>(folded_positions(problem))) {}

  // Lanes are maps that lie together.
  double maps() const noexcept {
    const double rows = batch_ * std::ceil(groups_ / kMapBlock) * z_.dst_size * y_.dst_size;
    const double vectors = batch_ * z_.dst_size * y_.dst_size * x_.dst_size * vectors_of(groups_);
    const double row_taps = row_taps_of_position();
    return vectors * vector_ * (1.3 + 0.8 * row_taps * x_.taps) + rows * (80 + row_taps);
  }

  // The same with groups of several maps, which are spread.
  double spread() const noexcept {
    const Geometry& g = problem_.geometry;
    const auto depth = static_cast<double>((forward_ ? g.channels : g.filters) / g.groups);
    const int64_t columns = (forward_ ? g.filters : g.channels) / g.groups;
    const int64_t maps = g.groups * columns;
    const int64_t together = spread_maps(maps);
    const auto blocks = static_cast<double>(ceil_div(maps, together));
    const double vectors = std::ceil(static_cast<double>(maps) / width_);
    const double lists = depth * row_taps_of_position();
    const double all = std::ceil(x_.dst_size / static_cast<double>(x_.dst_step));
    double rows = y_.dst_size;
    double positions = all;
    const auto sources = [&] {
      return y_.sources(std::ceil(rows / static_cast<double>(y_.dst_step))) * x_.sources(positions);
    };
    const auto wide = [&] {
      return depth * z_.most_taps * sources() * static_cast<double>(together) *
                 static_cast<double>(storage_bytes(problem_.dtype)) >
             static_cast<double>(kSpreadBytes);
    };
    while (rows > 1 && wide()) rows = std::ceil(rows / 2);
    while (positions > static_cast<double>(kLeastSpread) && wide()) positions = std::ceil(positions / 2);
    const double planes = batch_ * z_.dst_size;
    const double units = planes * std::ceil(y_.dst_size / rows) * std::ceil(all / positions);
    const double calls = planes * y_.dst_size * std::ceil(all / positions) * blocks;
    const double outputs = planes * y_.dst_size * x_.dst_size;
    const double spread_vector = 1e9 * map_spread_seconds(static_cast<int64_t>(depth), columns, width_, true);
    const double spread = units * depth * std::min(z_.taps, z_.src_size) * sources() * vectors;
    const double pack = problem_.packed ? 0 : static_cast<double>(g.weight_elements());
    return outputs * (blocks / fold_ +
                      vectors_of(static_cast<double>(maps)) * vector_ * (1 + 0.55 * lists * x_.taps)) +
           calls * (20 + 8 * lists) + units * blocks * 100 + spread * vector_ * spread_vector + pack;
  }

  // Lanes are positions of a row, which are summed down columns of two vectors.
  double columns() const noexcept {
    const Geometry& g = problem_.geometry;
    const double strips =
        batch_ * static_cast<double>(g.channels) * z_.dst_size * std::ceil(x_.dst_size / width_) / 2;
    const double planes = static_cast<double>(g.filters) / groups_ * std::min(z_.taps, z_.src_size);
    const double rows = y_.sources(y_.dst_size);
    const double products = 2 * y_.taps / static_cast<double>(y_.src_step) * x_.taps;
    const double pack = problem_.packed ? 0 : static_cast<double>(g.weight_elements()) / x_.taps * 2;
    return strips * (15 + rows * planes * (0.27 * products + (x_.src_step == 1 ? 2 : 4.5))) + pack;
  }

  // The same, as rows of a strip.
  double rows() const noexcept {
    const Geometry& g = problem_.geometry;
    const auto depth = static_cast<double>((forward_ ? g.channels : g.filters) / g.groups);
    const auto columns = static_cast<double>((forward_ ? g.filters : g.channels) / g.groups);
    const double lists = depth * row_taps_of_position();
    const double positions = std::ceil(x_.dst_size / static_cast<double>(x_.dst_step));
    const double blocks = std::ceil(positions / static_cast<double>(kMostPositions));
    const double block = std::ceil(positions / blocks);
    const double phases = std::min(static_cast<double>(x_.dst_step), x_.dst_size);
    const double together = phases <= 2 ? phases : 1.0;
    const double calls = batch_ * groups_ * columns * z_.dst_size * y_.dst_size * blocks * phases / together;
    const double vectors = calls * std::ceil(block * together / width_);
    double sums =
        vectors * vector_ * (0.6 + 0.65 * lists * x_.taps) + calls * (10 + 3 * lists + 0.3 * lists * x_.taps);
    if (phases > 2) sums += static_cast<double>(g.large_elements()) * 0.3;
    if (takes_turns(problem_) && depth * z_.most_taps * y_.most_taps <= kDepthwiseTurnsRows) {
      // Rows of which the next read what lies further on are summed in one call.
      const Axis& y = g.axes[1];
      const bool repeats = y.stride == 1 || (y.stride == 2 && y.kernel % 2 == 0 && y.dilation == 1);
      const double row = 1 + 3.5 * lists + std::ceil(block / width_) * vector_ * (1 + 1.1 * lists);
      return calls * (row + (repeats ? 0 : 16)) + batch_ * groups_ * columns * z_.dst_size * blocks * 60;
    }
    // A strip of as many rows as it holds is filled for each few rows of the result.
    const auto line = static_cast<double>(kMostLanes);
    const double segment =
        std::ceil((block + line + x_.extent / static_cast<double>(x_.src_step)) / line) * line;
    const double row_bytes = (segment * x_.residues + line) * depth * z_.most_taps *
                             static_cast<double>(compute_bytes(problem_.dtype));
    const auto source_rows = [&](double rows) {
      return y_.sources(std::floor((rows - 1) / static_cast<double>(y_.dst_step)) + 1);
    };
    double rows = y_.dst_size;
    while (rows > 1 && source_rows(rows) * row_bytes > static_cast<double>(kStripBytes)) {
      rows = std::ceil(rows / 2);
    }
    const double units = batch_ * groups_ * z_.dst_size * blocks * std::ceil(y_.dst_size / rows);
    const double fills = units * depth * std::min(z_.taps, z_.src_size) * source_rows(rows) * x_.residues;
    const double filled = fills * std::min(segment, x_.src_size / static_cast<double>(x_.src_step));
    return sums + units * 80 + fills * 4 + filled * (x_.src_step == 1 ? 0.11 : 0.25);
  }

 private:
  // Of a position that has so many maps.
  double vectors_of(double maps) const noexcept { return std::ceil(maps * fold_ / width_) / fold_; }

  // Source rows that a position reads of a map.
  double row_taps_of_position() const noexcept {
    return std::min(z_.taps, z_.src_size) * std::min(y_.taps, y_.src_size);
  }

  const Problem& problem_;
  bool forward_;
  double width_;
  double vector_;
  Reach z_;
  Reach y_;
  Reach x_;
  double batch_;
  double groups_;
  double fold_;  // positions that are lanes together where maps lie together
};

double cost(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const Times times(problem);
  const double nanoseconds = spreads(g)        ? times.spread()
                             : g.channels_last ? times.maps()
                             : sweeps(problem) ? times.columns()
                                               : times.rows();
  return nanoseconds * 1e-9 +
         machine::far_seconds(problem, static_cast<double>(g.small_elements() + g.large_elements()) *
                                           static_cast<double>(storage_bytes(problem.dtype)));
}

}  // namespace

extern const Algorithm depthwise;
const Algorithm depthwise{"depthwise", refusal, cost, make_stored<Depthwise>};

}  // namespace tconv
