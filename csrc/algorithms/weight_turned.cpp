// Weight gradient of depthwise layers and small groups: a few maps of both sides are turned in the cache to
// lie together, or copied where they do, lanes being groups, and where those are few, samples. Every position
// of the small side lists the places of the large side that its taps lead to, one of zeros standing for those
// beside it.
#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "packing.hpp"
#include "turned_dots_abi.hpp"

namespace tconv {
namespace {

constexpr int64_t kMostPositions = 1 << 13;   // of the maps of a group, which the second cache holds
constexpr int64_t kPiecePositions = 1 << 12;  // the same, if maps can be cut
constexpr int64_t kMostProducts = 1 << 15;    // of a piece of a map, which are listed
constexpr int64_t kMostSums = 1 << 12;        // of a group
constexpr int64_t kFirstCacheBytes = 32 << 10;
constexpr int64_t kUnitBytes = 128 << 10;  // of sums of sets that follow each other in a sample

// What the lanes are, and how maps are cut: into pieces of neighbouring rows, along the first axis that has
// any.
struct Lay {
  int64_t channels;  // of a group
  int64_t filters;
  int64_t taps;
  int64_t groups;  // of a set
  int64_t sets;
  int64_t samples;  // side by side
  int64_t vectors;  // of samples
  Axis axis{};
  int64_t small_row = 1;  // positions
  int64_t large_row = 1;
  int64_t rows = 1;  // of a piece, of the small side

  explicit Lay(const Geometry& g) noexcept
      : channels(g.channels / g.groups),
        filters(g.filters / g.groups),
        taps(g.taps()),
        groups(std::min<int64_t>(g.groups, kTurnedMaps)),
        sets(ceil_div(g.groups, groups)),
        samples(std::clamp<int64_t>(g.batch, 1, kTurnedMaps / groups)),
        vectors(ceil_div(g.batch, samples)) {
    size_t cut = 0;
    while (cut + 1 < kAxes && g.axes[cut].size * g.axes[cut].out == 1) ++cut;
    axis = g.axes[cut];
    for (size_t a = cut + 1; a < kAxes; ++a) {
      small_row *= g.axes[a].size;
      large_row *= g.axes[a].out;
    }
    int64_t most = std::max<int64_t>(axis.size, 1);
    while (rows < most) {
      const int64_t some = (rows + most + 1) / 2;
      if (positions(some) <= kPiecePositions && some * small_row <= kMostProducts / taps) {
        rows = some;
      } else {
        most = some - 1;
      }
    }
    rows = ceil_div(axis.size, pieces());
  }

  int64_t pieces() const noexcept { return ceil_div(axis.size, rows); }
  // Rows of the large side that so many of the small side lead to, at most.
  int64_t extent(int64_t some) const noexcept {
    return std::min(axis.out, (some - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1);
  }
  int64_t positions(int64_t some) const noexcept {
    return channels * some * small_row + filters * extent(some) * large_row;
  }
  int64_t sums() const noexcept { return channels * filters * taps; }
  // Of a piece of a map turned, zeros being behind that of the large side, and of a group.
  int64_t small_elements() const noexcept { return rows * small_row * kTurnedMaps; }
  int64_t large_elements() const noexcept { return (extent(rows) * large_row + 1) * kTurnedMaps; }
  int64_t elements() const noexcept { return channels * small_elements() + filters * large_elements(); }
};

// Neighbouring positions of both sides: the first of each map, and how many.
struct Piece {
  int64_t small_first, small;
  int64_t large_first, large;
  size_t list;
};

struct List {
  std::vector<TurnedRun> runs;
  std::vector<int32_t> table;
};

template <class E>
class WeightTurned final : public Recipe {
 public:
  using S = typename E::storage;
  using T = typename E::compute;

  explicit WeightTurned(const Problem& problem)
      : problem_(problem),
        lay_(problem.geometry),
        load_(tconv::kernel(Family::load, problem.dtype, problem.isa)),
        store_(tconv::kernel(Family::store, problem.dtype, problem.isa)),
        dots_(tconv::kernel(Family::turneddots, compute_dtype(problem.dtype), problem.isa)) {
    for (const Axis& axis : problem.geometry.axes)
      beside_ = beside_ || axis.taps_inside() < axis.size * axis.kernel;
    unit_sets_ = std::clamp<int64_t>(kUnitBytes / set_bytes(), 1, ceil_div(lay_.sets, problem.threads));
    parts_ = std::min(lay_.channels, ceil_div(problem.threads, lay_.sets));
    threads_ = static_cast<int>(std::min<int64_t>(problem.threads, lay_.sets * parts_));
    while (threads_ > 1 && workspace_bytes() > problem.workspace) --threads_;
    while (unit_sets_ > 1 && workspace_bytes() > problem.workspace) unit_sets_ /= 2;
  }

  void list() override {
    const Axis& axis = lay_.axis;
    std::map<std::array<int64_t, 3>, size_t> known;
    for (int64_t begin = 0; begin < axis.size; begin += lay_.rows) {
      const int64_t end = std::min(begin + lay_.rows, axis.size);
      const int64_t reached = begin * axis.stride - axis.pad_lo;
      const int64_t first = std::clamp<int64_t>(reached, 0, axis.out);
      const int64_t last = reached + (end - begin - 1) * axis.stride + (axis.kernel - 1) * axis.dilation;
      const int64_t rows = std::clamp(last + 1, first, axis.out) - first;
      const auto [found, fresh] = known.try_emplace({end - begin, reached - first, rows}, lists_.size());
      pieces_.push_back({begin * lay_.small_row, (end - begin) * lay_.small_row, first * lay_.large_row,
                         rows * lay_.large_row, found->second});
      if (fresh) lists_.push_back(list_of(pieces_.back()));
    }
  }

  std::string kernel() const override { return dots_.name; }
  size_t workspace_bytes() const noexcept override { return worker_bytes() * static_cast<size_t>(threads_); }

  bool run(const Call& call) const override {
    const Buffer scratch(workspace_bytes());
    call.crew.limit(threads_);
    const double seconds = machine::seconds(problem_) * threads_;
    const int64_t units = ceil_div(lay_.sets, unit_sets_) * parts_;
    return share_finite(call.crew, units, seconds, [&](int64_t unit, int member) noexcept {
      T* const sums = reinterpret_cast<T*>(scratch.data() + static_cast<size_t>(member) * worker_bytes());
      const int64_t begin = unit / parts_ * unit_sets_;
      const int64_t end = std::min(begin + unit_sets_, lay_.sets);
      const int64_t part = unit % parts_;
      const Channels some{lay_.channels * part / parts_, lay_.channels * (part + 1) / parts_};
      sum_sets(call, begin, end, some, sums, member);
      // A product with zeros is another number if it is not zero.
      if (beside_ && !all_finite(sums, (end - begin) * set_sums())) return false;
      for (int64_t set = begin; set < end; ++set)
        store(sums + (set - begin) * set_sums(), set, some, static_cast<S*>(call.out));
      return true;
    });
  }

 private:
  // Of each group: few sets are shared out by channels, for which every thread turns the large side.
  struct Channels {
    int64_t begin, end;
  };

  size_t worker_bytes() const noexcept {
    return aligned(static_cast<size_t>(unit_sets_ * set_sums() + lay_.elements()) * sizeof(T));
  }
  int64_t set_sums() const noexcept { return lay_.sums() * kTurnedMaps; }
  int64_t set_bytes() const noexcept { return set_sums() * static_cast<int64_t>(sizeof(T)); }
  int64_t groups_of(int64_t set) const noexcept {
    return std::min(lay_.groups, problem_.geometry.groups - set * lay_.groups);
  }

  List list_of(const Piece& piece) const {
    List made;
    const int64_t runs = ceil_div(lay_.taps, kTurnedTaps);
    for (int64_t r = 0; r < runs; ++r)
      list_run(piece, lay_.taps * r / runs, lay_.taps * (r + 1) / runs, made);
    return made;
  }

  // Taps [first, end).
  void list_run(const Piece& piece, int64_t first, int64_t end, List& to) const {
    const auto& [z, y, x] = problem_.geometry.axes;
    const auto place_of = [](const Axis& axis, int64_t at, int64_t k) {
      const int64_t place = at * axis.stride + k * axis.dilation - axis.pad_lo;
      return place < axis.out ? place : -1;
    };
    TurnedRun run{static_cast<int32_t>(end - first), 0};
    std::vector<int32_t> places(static_cast<size_t>(end - first));
    for (int64_t i = 0; i < piece.small; ++i) {
      const int64_t position = piece.small_first + i;
      bool some = false;
      for (int64_t tap = first; tap < end; ++tap) {
        const int64_t at_z = place_of(z, position / (y.size * x.size), tap / (y.kernel * x.kernel));
        const int64_t at_y = place_of(y, position / x.size % y.size, tap / x.kernel % y.kernel);
        const int64_t at_x = place_of(x, position % x.size, tap % x.kernel);
        const bool inside = at_z >= 0 && at_y >= 0 && at_x >= 0;
        const int64_t place = (at_z * y.out + at_y) * x.out + at_x - piece.large_first;
        places[static_cast<size_t>(tap - first)] =
            static_cast<int32_t>(inside ? place * kTurnedMaps : lay_.large_elements() - kTurnedMaps);
        some = some || inside;
      }
      if (!some) continue;
      to.table.push_back(static_cast<int32_t>(i * kTurnedMaps));
      to.table.insert(to.table.end(), places.begin(), places.end());
      ++run.entries;
    }
    to.runs.push_back(run);
  }

  // Of sets [begin, end), one sample after the other, so that memory is read in order.
  void sum_sets(const Call& call, int64_t begin, int64_t end, Channels some, T* sums,
                int member) const noexcept {
    T* const strip = sums + unit_sets_ * set_sums();
    std::fill_n(sums, (end - begin) * set_sums(), T{0});
    std::fill_n(strip, lay_.elements(), T{0});
    for (int64_t vector = 0; vector < lay_.vectors; ++vector) {
      // Lanes of samples that are no more.
      if ((vector + 1) * lay_.samples > problem_.geometry.batch) std::fill_n(strip, lay_.elements(), T{0});
      for (int64_t set = begin; set < end; ++set) {
        for (const Piece& piece : pieces_) {
          turn_piece(call, vector, set, piece, some, strip);
          sum_piece(strip, lists_[piece.list], some, sums + (set - begin) * set_sums());
          if (call.crew.stopped(member)) return;
        }
      }
    }
  }

  // Brings the maps of a set side by side, of one sample or of several.
  void turn_piece(const Call& call, int64_t vector, int64_t set, const Piece& piece, Channels channels,
                  T* strip) const noexcept {
    const Geometry& g = problem_.geometry;
    const int64_t sample = vector * lay_.samples;
    const int64_t groups = groups_of(set);
    const int64_t samples = std::min(lay_.samples, g.batch - sample);
    const auto maps = [&](const void* side, int64_t count, Channels of, int64_t positions, int64_t first,
                          int64_t some, int64_t step) {
      const int64_t all = g.groups * count;
      const S* from = static_cast<const S*>(side) + sample * all * positions;
      if (g.channels_last) {
        from += first * all + set * lay_.groups * count;
        for (int64_t s = 0; s < samples; ++s) {
          T* const to = strip + s * groups;
          const S* const of_sample = from + s * all * positions;
          if (count == 1) {
            load_(MoveArgs{of_sample, all, 1, to, kTurnedMaps, 1, some, groups});
            continue;
          }
          for (int64_t i = 0; i < some; ++i)
            load_(MoveArgs{of_sample + i * all + of.begin, count, 1, to + of.begin * step + i * kTurnedMaps,
                           1, step, groups, of.end - of.begin});
        }
        strip += count * step;
        return;
      }
      from += set * lay_.groups * count * positions + first;
      for (int64_t map = of.begin; map < of.end; ++map) {
        load_(MoveArgs{from + map * positions, count * positions, 1, strip + map * step, 1, kTurnedMaps,
                       groups * samples, some});
      }
      strip += count * step;
    };
    maps(call.source, lay_.channels, channels, g.small_positions(), piece.small_first, piece.small,
         lay_.small_elements());
    maps(call.weight, lay_.filters, {0, lay_.filters}, g.large_positions(), piece.large_first, piece.large,
         lay_.large_elements());
  }

  void sum_piece(const T* strip, const List& list, Channels some, T* sums) const noexcept {
    TurnedDotsArgs args{};
    args.run = list.runs.data();
    args.runs = static_cast<int64_t>(list.runs.size());
    args.table = list.table.data();
    sums += some.begin * lay_.filters * lay_.taps * kTurnedMaps;
    for (int64_t c = some.begin; c < some.end; ++c) {
      for (int64_t f = 0; f < lay_.filters; ++f) {
        args.small = strip + c * lay_.small_elements();
        args.large = strip + lay_.channels * lay_.small_elements() + f * lay_.large_elements();
        args.sums = sums;
        dots_(args);
        sums += lay_.taps * kTurnedMaps;
      }
    }
  }

  // Adds up what lanes hold of the samples of a group, and brings it to the weights of the set.
  void store(T* sums, int64_t set, Channels some, S* out) const noexcept {
    const int64_t groups = groups_of(set);
    for (T* lanes = sums; lanes < sums + set_sums(); lanes += kTurnedMaps) {
      for (int64_t samples = lay_.samples; samples > 1;) {
        const int64_t half = (samples + 1) / 2;
        for (int64_t lane = 0; lane < (samples - half) * groups; ++lane)
          lanes[lane] += lanes[half * groups + lane];
        samples = half;
      }
    }
    const bool last = problem_.geometry.channels_last;
    S* const to = out + set * lay_.groups * lay_.sums();
    sums += some.begin * lay_.filters * lay_.taps * kTurnedMaps;
    for (int64_t c = some.begin; c < some.end; ++c) {
      for (int64_t f = 0; f < lay_.filters; ++f) {
        store_(MoveArgs{sums, 1, kTurnedMaps, to + c * lay_.filters * lay_.taps + f * (last ? 1 : lay_.taps),
                        lay_.sums(), last ? lay_.filters : 1, groups, lay_.taps});
        sums += lay_.taps * kTurnedMaps;
      }
    }
  }

  Problem problem_;
  Lay lay_;
  int64_t unit_sets_ = 1;  // that a unit sums
  int64_t parts_ = 1;      // of the channels of a group, each a unit
  const Kernel& load_;
  const Kernel& store_;
  const Kernel& dots_;
  bool beside_ = false;  // whether some taps lead beside the large side
  int threads_ = 1;
  std::vector<Piece> pieces_;  // of a map
  std::vector<List> lists_;
};

std::optional<std::string> refusal(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const Lay lay(g);
  if (lay.positions(lay.rows) > kMostPositions)
    return "rows of more than " + std::to_string(kMostPositions) + " positions of the maps of a group";
  if (lay.rows * lay.small_row > kMostProducts / lay.taps)
    return "more than " + std::to_string(kMostProducts) + " products of a row";
  if (lay.sums() > kMostSums) return "more than " + std::to_string(kMostSums) + " weights of a group";
  return std::nullopt;
}

// Fitted to measured times.
double cost(const Problem& problem) {
  const Lay lay(problem.geometry);
  const double lanes = machine::lanes(compute_dtype(problem.dtype), problem.isa);
  // Measured with vectors of 64 bytes; narrower ones take seven tenths, if no more lanes are moved.
  const double vector = std::max(vector_floats(problem.isa) / 16.0, 0.7) * kTurnedMaps / lanes;
  const Geometry& g = problem.geometry;
  const auto bytes = static_cast<double>(g.small_elements() + g.large_elements()) *
                     static_cast<double>(storage_bytes(problem.dtype));
  // Squares of positions and maps are turned. Where maps lie together, a few of every position are copied, or
  // those of groups taken apart.
  const bool near = bytes <= machine::kSecondCacheBytes * 0.7 * static_cast<double>(g.batch);
  const auto turning = [&](int64_t count, int64_t positions) {
    const auto maps = static_cast<double>(count);
    if (!g.channels_last) return 1.5 * maps * std::ceil(static_cast<double>(positions) / lanes) * lanes;
    return static_cast<double>(positions * lay.samples) * (count > 1 ? 10 + (near ? 1.5 : 3) * maps
                                                           : near    ? 1.9
                                                                     : 3.5);
  };
  const double turned = turning(lay.channels, lay.rows * lay.small_row) +
                        turning(lay.filters, lay.extent(lay.rows) * lay.large_row);
  // Of two maps: a step takes as long as its products, or as sums wait for each other.
  const auto runs = static_cast<double>(ceil_div(lay.taps, kTurnedTaps));
  const double step = std::max(0.39 * (static_cast<double>(lay.taps) / runs + 1), 1.15);
  const auto pairs = static_cast<double>(lay.channels * lay.filters);
  const bool late =
      pairs > 1 && lay.elements() * static_cast<int64_t>(compute_bytes(problem.dtype)) > kFirstCacheBytes;
  const auto positions = static_cast<double>(lay.rows * lay.small_row + lay.extent(lay.rows) * lay.large_row);
  const double summed =
      runs * (step * static_cast<double>(lay.rows * lay.small_row) + 8) + (late ? 0.25 * positions : 0);
  const double stored = static_cast<double>(lay.sums()) * (lay.samples > 1 ? 15 : 5) + pairs * 15;
  const auto sets = static_cast<double>(lay.sets);
  return sets *
             (static_cast<double>(lay.vectors * lay.pieces()) * vector * (turned + pairs * summed + 20) +
              stored) *
             1e-9 +
         machine::far_seconds(problem, bytes);
}

}  // namespace

extern const Algorithm weight_turned;
const Algorithm weight_turned{"weight_turned", refusal, cost, make_stored<WeightTurned>};

}  // namespace tconv
