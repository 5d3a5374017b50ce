// Forward and data gradient of depthwise layers, and of groups whose sums are short, where maps lie apart and
// have few positions: a few maps of a sample are turned to lie together, lanes being maps, and the sums of a
// few places are turned back in registers. Every place lists the taps that lead it into the image, so pads
// cost nothing.
#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "depthwise_turned_abi.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "packing.hpp"
#include "phases.hpp"

namespace tconv {
namespace {

constexpr int64_t kMostSource = 1 << 13;  // positions of the maps of a group, which the second cache holds
constexpr int64_t kMostTaps = 1 << 15;    // of the places of a list
constexpr int64_t kMostStride = 1 << 16;
constexpr int64_t kMostListed = 1 << 12;  // of all places together, where a row fills vectors
constexpr int64_t kUnitBlocks = 4;
constexpr double kLateBytesPerSecond = 70e9;  // of weights that the second cache does not hold

// What the lanes are: neighbouring groups, of each of which as many neighbouring output maps. Decided by the
// weights alone.
struct Spread {
  int64_t groups;
  int64_t depth;     // source maps of a group
  int64_t columns;   // output maps of a group
  int64_t set;       // groups of a set, whose source is turned together
  int64_t together;  // output maps of a group in a block

  explicit Spread(const Problem& problem) noexcept
      : groups(problem.geometry.groups),
        depth((problem.pass == Pass::forward ? problem.geometry.channels : problem.geometry.filters) /
              groups),
        columns((problem.pass == Pass::forward ? problem.geometry.filters : problem.geometry.channels) /
                groups),
        set(kTurnedMaps),
        together(1) {
    const int64_t apart = blocks();
    set = std::max<int64_t>(1, kTurnedMaps / columns);
    together = std::min<int64_t>(kTurnedMaps, columns);
    if (blocks() < apart) return;
    set = kTurnedMaps;
    together = 1;
  }

  int64_t sets() const noexcept { return ceil_div(groups, set); }
  int64_t set_blocks() const noexcept { return ceil_div(columns, together); }
  int64_t blocks() const noexcept { return sets() * set_blocks(); }
  int64_t groups_of(int64_t s) const noexcept { return std::min(set, groups - s * set); }
  // Output maps of a block: the first, how many there are, and from one to the next.
  int64_t first_map(int64_t block) const noexcept {
    return block / set_blocks() * set * columns + block % set_blocks() * together;
  }
  int64_t maps_of(int64_t block) const noexcept {
    return groups_of(block / set_blocks()) * std::min(together, columns - block % set_blocks() * together);
  }
  int64_t map_step() const noexcept { return together == 1 ? columns : 1; }
};

// Neighbouring places of a map, as the kernel wants them.
struct Places {
  std::vector<int32_t> slots;
  std::vector<int32_t> table;
  int64_t period;

  // About what the kernel takes, in loads.
  size_t cost() const noexcept { return table.size() + 80 * slots.size(); }
};

constexpr size_t kGap = SIZE_MAX;

// Places that a call of the kernel computes.
struct Run {
  size_t list;     // of Places, or kGap where no tap leads to them
  int64_t origin;  // of the source, in elements
  int64_t dst;
  int64_t places;
};

// Strips hold rows of the source, or all of a map as one row, with a position of zeros behind each.
struct Lists {
  bool rows = false;
  std::vector<Places> places;
  std::vector<Run> runs;  // of a map

  size_t cost() const noexcept {
    size_t sum = 0;
    for (const Run& run : runs) sum += (run.list == kGap ? 0 : places[run.list].cost()) + 30;
    return sum;
  }
};

template <class E>
class DepthwiseTurned final : public Recipe {
 public:
  using S = typename E::storage;
  using T = typename E::compute;

  explicit DepthwiseTurned(const Problem& problem)
      : problem_(problem),
        activate_(problem),
        axes_{PhaseAxis(problem.geometry.axes[0], problem.pass),
              PhaseAxis(problem.geometry.axes[1], problem.pass),
              PhaseAxis(problem.geometry.axes[2], problem.pass)},
        spread_(problem),
        taps_(problem.geometry.taps()),
        lanes_(static_cast<int64_t>(machine::lanes(compute_dtype(problem.dtype), problem.isa))),
        blocks_(spread_.blocks()),
        depth_step_(problem.pass == Pass::forward ? spread_.columns * taps_ : taps_),
        column_step_(problem.pass == Pass::forward ? taps_ : spread_.depth * taps_),
        group_weights_(spread_.depth * spread_.columns * taps_),
        src_positions_(axes_[0].src_size * axes_[1].src_size * axes_[2].src_size),
        dst_positions_(axes_[0].dst_size * axes_[1].dst_size * axes_[2].dst_size),
        load_(tconv::kernel(Family::load, problem.dtype, problem.isa)),
        sum_(tconv::kernel(Family::depthwiseturned, problem.dtype, problem.isa)) {
    const int64_t batch = problem.geometry.batch;
    // Whole sets, if there are enough for all threads.
    unit_blocks_ = ceil_div(kUnitBlocks, spread_.set_blocks()) * spread_.set_blocks();
    if (problem.threads > 1)
      unit_blocks_ = std::clamp<int64_t>(batch * blocks_ / (4 * problem.threads), 1, unit_blocks_);
    sample_units_ = ceil_div(blocks_, unit_blocks_);
    threads_ = problem.threads;
    while (threads_ > 1 && workspace_bytes() > problem.workspace) --threads_;
  }

  void list() override {
    for (PhaseAxis& axis : axes_) axis.list();
    lists_ = lists();
    rows_ = lists_.rows ? axes_[0].src_size * axes_[1].src_size : 1;
    row_ = src_positions_ / rows_;
  }

  std::string kernel() const override { return sum_.name; }
  size_t workspace_bytes() const noexcept override {
    return (problem_.packed ? 0 : aligned(packed_bytes())) + aligned(bias_bytes()) +
           strip_bytes() * static_cast<size_t>(threads_);
  }
  size_t packed_bytes() const noexcept override {
    return static_cast<size_t>(blocks_ * block_weights()) * sizeof(T);
  }
  std::string packing_key() const override {
    return key_of("depthwise_turned",
                  {static_cast<int64_t>(problem_.pass), static_cast<int64_t>(problem_.dtype), spread_.groups,
                   spread_.depth, spread_.columns, taps_});
  }

  bool pack(const void* weight, char* packed, Crew& crew) const override {
    const int64_t blocks = spread_.set_blocks();
    const double seconds = static_cast<double>(packed_bytes()) / machine::kPackBytesPerSecond;
    return share_finite(crew, spread_.sets(), seconds, [&](int64_t set, int) noexcept {
      const S* const from = static_cast<const S*>(weight) + set * spread_.set * group_weights_;
      T* const to = reinterpret_cast<T*>(packed) + set * blocks * block_weights();
      const int64_t groups = spread_.groups_of(set);
      for (int64_t block = 0; block < blocks; ++block) {
        if (spread_.maps_of(set * blocks + block) < kTurnedMaps)
          std::fill_n(to + block * block_weights(), block_weights(), T{0});
      }
      if (spread_.together == 1) {
        turn(from, group_weights_, groups, group_weights_, to);
      } else {
        for (int64_t block = 0; block < blocks; ++block) pack_block(from, groups, block, to);
      }
      return all_finite(to, blocks * block_weights());
    });
  }

  bool run(const Call& call) const override {
    const Buffer scratch(workspace_bytes());
    Pieces pieces(scratch.data());
    const T* const weights = reinterpret_cast<const T*>(packed_weights(call, pieces));
    if (weights == nullptr) return false;
    const T* const bias = made_bias<T>(call, pieces, bias_bytes(), [this](const void* from, T* to) {
      for (int64_t block = 0; block < blocks_; ++block) {
        MoveArgs args{};
        args.src = static_cast<const S*>(from) + spread_.first_map(block);
        args.src_column = spread_.map_step();
        args.dst = to + block * kTurnedMaps;
        args.dst_column = args.rows = 1;
        args.columns = spread_.maps_of(block);
        load_(args);
      }
    });
    call.crew.limit(threads_);
    char* const strips = pieces.rest();
    const int64_t units = problem_.geometry.batch * sample_units_;
    const int64_t maps = spread_.groups * spread_.columns;
    call.crew.share(units, machine::seconds(problem_) * threads_, [&](int64_t unit, int member) noexcept {
      T* const strip = reinterpret_cast<T*>(strips + static_cast<size_t>(member) * strip_bytes());
      const int64_t sample = unit / sample_units_;
      const int64_t begin = unit % sample_units_ * unit_blocks_;
      const int64_t end = std::min(begin + unit_blocks_, blocks_);
      for (int64_t row = 0; row < spread_.depth * rows_; ++row)
        std::fill_n(strip + (row * (row_ + 1) + row_) * kTurnedMaps, kTurnedMaps, T{0});
      int64_t turned = -1;
      for (int64_t block = begin; block < end; ++block) {
        const int64_t set = block / spread_.set_blocks();
        if (set != turned) {
          turn_source(static_cast<const S*>(call.source) +
                          (sample * spread_.groups + set * spread_.set) * spread_.depth * src_positions_,
                      spread_.groups_of(set), strip);
          turned = set;
        }
        sum(strip, weights + first_weight(block), bias == nullptr ? nullptr : bias + block * kTurnedMaps,
            static_cast<S*>(call.out) + (sample * maps + spread_.first_map(block)) * dst_positions_,
            spread_.maps_of(block));
      }
    });
    return true;
  }

 private:
  size_t bias_bytes() const noexcept { return static_cast<size_t>(blocks_ * kTurnedMaps) * sizeof(T); }
  size_t strip_bytes() const noexcept {
    // Whichever way places are listed.
    const int64_t rows = axes_[2].dst_size >= lanes_ ? axes_[0].src_size * axes_[1].src_size : 1;
    return aligned(static_cast<size_t>(spread_.depth * (src_positions_ + rows) * kTurnedMaps) * sizeof(T));
  }
  // Of a map in a strip, for all lanes.
  int64_t map_elements() const noexcept { return rows_ * (row_ + 1) * kTurnedMaps; }
  int64_t block_weights() const noexcept { return spread_.depth * taps_ * kTurnedMaps; }
  // Of a block, in packed weights: blocks of single output maps lie in those of a set as weights do.
  int64_t first_weight(int64_t block) const noexcept {
    if (spread_.together > 1) return block * block_weights();
    const int64_t blocks = spread_.set_blocks();
    return block / blocks * blocks * block_weights() + block % blocks * column_step_ * kTurnedMaps;
  }

  // A block of a set, of several output maps of each group.
  void pack_block(const S* set, int64_t groups, int64_t block, T* packed) const noexcept {
    const int64_t first = block * spread_.together;
    const int64_t columns = std::min(spread_.together, spread_.columns - first);
    for (int64_t group = 0; group < groups; ++group) {
      for (int64_t d = 0; d < spread_.depth; ++d) {
        turn(set + group * group_weights_ + d * depth_step_ + first * column_step_, column_step_, columns,
             taps_, packed + block * block_weights() + d * taps_ * kTurnedMaps + group * columns);
      }
    }
  }

  // Brings maps, or what else lies in runs `step` apart, side by side.
  void turn(const S* from, int64_t step, int64_t maps, int64_t count, T* to) const noexcept {
    MoveArgs args{};
    args.src = from;
    args.src_row = step;
    args.src_column = 1;
    args.dst = to;
    args.dst_row = 1;
    args.dst_column = kTurnedMaps;
    args.rows = maps;
    args.columns = count;
    load_(args);
  }

  // Brings the maps of so many groups side by side, each as many times as a block has output maps of a group.
  void turn_source(const S* maps, int64_t groups, T* strip) const noexcept {
    const int64_t group = spread_.depth * src_positions_;
    for (int64_t d = 0; d < spread_.depth; ++d) {
      for (int64_t row = 0; row < rows_; ++row) {
        const S* const from = maps + d * src_positions_ + row * row_;
        T* const to = strip + d * map_elements() + row * (row_ + 1) * kTurnedMaps;
        if (spread_.together == 1) {
          turn(from, group, groups, row_, to);
        } else {
          for (int64_t g = 0; g < groups; ++g)
            turn(from + g * group, 0, spread_.together, row_, to + g * spread_.together);
        }
      }
    }
  }

  // Of maps turned in `strip`.
  void sum(const T* strip, const T* weights, const T* bias, S* out, int64_t maps) const noexcept {
    DepthwiseTurnedArgs args{};
    args.weight = weights;
    args.depth = spread_.depth;
    args.src_step = map_elements();
    args.weight_step = (spread_.together > 1 ? taps_ : depth_step_) * kTurnedMaps;
    args.bias = bias;
    args.activation = activate_.get();
    args.dst_map = spread_.map_step() * dst_positions_;
    args.maps = maps;
    for (const Run& run : lists_.runs) {
      args.table = nullptr;
      if (run.list != kGap) {
        const Places& places = lists_.places[run.list];
        args.src = strip + run.origin;
        args.slots = places.slots.data();
        args.table = places.table.data();
        args.period = places.period;
      }
      args.dst = out + run.dst;
      args.places = run.places;
      sum_(args);
    }
  }

  // A position of the source by a tap of the weights.
  using Tap = std::pair<int64_t, int64_t>;
  // Those of neighbouring places, one behind the other, in ascending order of the weights.
  template <class T>
  struct TapLists {
    std::vector<size_t> first{0};  // of each place, and the end
    std::vector<T> taps;

    size_t places() const noexcept { return first.size() - 1; }
    // None behind the last place.
    std::span<const T> of(size_t place) const noexcept {
      if (place >= places()) return {};
      return {taps.data() + first[place], first[place + 1] - first[place]};
    }
    void end_place() { first.push_back(taps.size()); }
  };

  // The taps that lead to each place of an axis; offsets are source positions.
  static TapLists<PhaseTap> taps_along(const PhaseAxis& axis) {
    TapLists<PhaseTap> places;
    for (int64_t at = 0; at < axis.dst_size; ++at) {
      const int64_t phase = at % axis.dst_step;
      for (int64_t t = 0; t < axis.tap_count(phase); ++t) {
        PhaseTap tap = axis.taps_of(phase)[t];
        tap.offset += at / axis.dst_step * axis.src_step;
        if (tap.offset >= 0 && tap.offset < axis.src_size) places.taps.push_back(tap);
      }
      places.end_place();
    }
    return places;
  }

  // Lists all places together, or by rows, of which many have the same taps: whichever takes less.
  Lists lists() const {
    const auto& [z, y, x] = axes_;
    const auto along_z = taps_along(z);
    const auto along_y = taps_along(y);
    const auto along_x = taps_along(x);
    // Rows by their rank in the source, and the taps of the weights that begin a row.
    std::vector<std::vector<Tap>> rows;
    size_t row_taps = 0;
    for (size_t at_z = 0; at_z < along_z.places(); ++at_z) {
      for (size_t at_y = 0; at_y < along_y.places(); ++at_y) {
        auto& row = rows.emplace_back();
        for (const PhaseTap& tap_z : along_z.of(at_z)) {
          for (const PhaseTap& tap_y : along_y.of(at_y))
            row.emplace_back(tap_z.offset * y.src_size + tap_y.offset,
                             (tap_z.k * y.kernel + tap_y.k) * x.kernel);
        }
        row_taps += row.size();
      }
    }
    Lists all;
    const bool fills = x.dst_size >= lanes_;
    if (!fills || (rows.size() > 1 && row_taps * along_x.taps.size() <= kMostListed)) {
      TapLists<Tap> taps;
      for (const auto& row : rows) append(taps, row, along_x, x.src_size);
      all.places.push_back(places_of(taps, taps_, src_positions_));
      all.runs.push_back({0, 0, 0, dst_positions_});
      if (!fills) return all;
    }
    Lists by_rows;
    by_rows.rows = true;
    TapLists<Tap> taps_x;
    append(taps_x, {{0, 0}}, along_x, 0);
    const Places of_row = places_of(taps_x, x.kernel, x.src_size);
    std::map<std::vector<Tap>, size_t> known;
    for (size_t r = 0; r < rows.size(); ++r) {
      if (rows[r].empty()) {
        if (r == 0 || !rows[r - 1].empty())
          by_rows.runs.push_back({kGap, 0, static_cast<int64_t>(r) * x.dst_size, 0});
        by_rows.runs.back().places += x.dst_size;
        continue;
      }
      const int64_t first = rows[r].front().first;
      for (Tap& tap : rows[r]) tap.first -= first;
      const auto [found, fresh] = known.try_emplace(rows[r], by_rows.places.size());
      if (fresh) by_rows.places.push_back(repeated(of_row, rows[r], x.src_size + 1));
      by_rows.runs.push_back({found->second, first * (x.src_size + 1) * kTurnedMaps,
                              static_cast<int64_t>(r) * x.dst_size, x.dst_size});
    }
    return all.runs.empty() || by_rows.cost() < all.cost() ? by_rows : all;
  }

  // Appends the places of a row, where rows of the source are `pitch` positions apart.
  static void append(TapLists<Tap>& to, const std::vector<Tap>& row, const TapLists<PhaseTap>& along_x,
                     int64_t pitch) {
    for (size_t place = 0; place < along_x.places(); ++place) {
      for (const auto& [src, weight] : row) {
        for (const PhaseTap& tap : along_x.of(place))
          to.taps.emplace_back(src * pitch + tap.offset, weight + tap.k);
      }
      to.end_place();
    }
  }

  // The places of a row that reads several of the source, `pitch` positions apart, each as `one` does: zeros
  // are behind each of them.
  Places repeated(const Places& one, const std::vector<Tap>& row, int64_t pitch) const {
    Places made{one.slots, {}, one.period};
    for (int32_t& slots : made.slots) slots *= static_cast<int32_t>(row.size());
    made.table.resize(one.table.size() * row.size());
    const auto period = static_cast<size_t>(one.period);
    const size_t width = period + static_cast<size_t>(lanes_);
    const int32_t* square = one.table.data();
    int32_t* to = made.table.data();
    for (const int32_t slots : one.slots) {
      const int32_t* const end = square + static_cast<size_t>(slots) * width;
      for (const auto& [src, weight] : row) {
        const auto source = static_cast<int32_t>(src * pitch * kTurnedMaps);
        const auto factor = static_cast<int32_t>(weight * kTurnedMaps);
        for (const int32_t* slot = square; slot < end; slot += width, to += width) {
          for (size_t i = 0; i < period; ++i) to[i] = slot[i] + factor;
          for (size_t i = period; i < width; ++i) to[i] = slot[i] + source;
        }
      }
      square = end;
    }
    return made;
  }

  // The factors of each place of a period, which those a period apart in a square share.
  struct Factors {
    std::vector<std::vector<int64_t>> of;
    // Of each tap of the weights, the round in which it was met last, and its slot.
    std::vector<size_t> met;
    std::vector<size_t> slot;
    size_t round = 0;

    Factors(size_t period, int64_t weights)
        : of(period), met(static_cast<size_t>(weights)), slot(static_cast<size_t>(weights)) {}
  };

  // Finds them for the square of places that begins at one, and returns how many slots they take.
  size_t share(const TapLists<Tap>& taps, size_t begin, Factors& factors) const {
    size_t slots = 0;
    for (size_t p = 0; p < factors.of.size(); ++p) {
      auto& some = factors.of[p];
      some.clear();
      ++factors.round;
      for (size_t i = p; i < static_cast<size_t>(lanes_); i += factors.of.size()) {
        for (const auto& [source, weight] : taps.of(begin + i)) {
          size_t& met = factors.met[static_cast<size_t>(weight)];
          if (met == factors.round) continue;
          met = factors.round;
          some.push_back(weight);
        }
      }
      slots = std::max(slots, some.size());
    }
    return slots;
  }

  // The slots of all squares where places do not share factors: as many as the place of most taps has.
  size_t slots_apart(const TapLists<Tap>& taps) const noexcept {
    size_t slots = 0;
    for (size_t begin = 0; begin < taps.places(); begin += static_cast<size_t>(lanes_)) {
      size_t most = 0;
      for (size_t i = 0; i < static_cast<size_t>(lanes_); ++i)
        most = std::max(most, taps.of(begin + i).size());
      slots += most;
    }
    return slots;
  }

  // `weights` is how many taps they have, `zeros` a position of the source.
  Places places_of(const TapLists<Tap>& taps, int64_t weights, int64_t zeros) const {
    const auto lanes = static_cast<size_t>(lanes_);
    const size_t least = slots_apart(taps);
    size_t period = lanes;
    size_t size = least * 2 * lanes;
    for (size_t shorter = 1; shorter <= kTurnedPeriod && least * (shorter + lanes) < size; ++shorter) {
      Factors factors(shorter, weights);
      size_t slots = 0;
      for (size_t begin = 0; begin < taps.places() && slots * (shorter + lanes) < size; begin += lanes)
        slots += share(taps, begin, factors);
      if (slots * (shorter + lanes) >= size) continue;
      size = slots * (shorter + lanes);
      period = shorter;
    }
    Places made{{}, {}, static_cast<int64_t>(period)};
    made.table.reserve(size);
    Factors factors(period, weights);
    const size_t width = period + lanes;
    for (size_t begin = 0; begin < taps.places(); begin += lanes) {
      const size_t slots = share(taps, begin, factors);
      made.slots.push_back(static_cast<int32_t>(slots));
      const size_t start = made.table.size();
      made.table.resize(start + slots * width, static_cast<int32_t>(zeros * kTurnedMaps));
      int32_t* const table = made.table.data() + start;
      for (size_t p = 0; p < period; ++p) {
        auto& some = factors.of[p];
        std::ranges::sort(some);
        for (size_t slot = 0; slot < slots; ++slot) {
          table[slot * width + p] = slot < some.size() ? static_cast<int32_t>(some[slot] * kTurnedMaps) : 0;
          if (slot < some.size()) factors.slot[static_cast<size_t>(some[slot])] = slot;
        }
        for (size_t i = p; i < lanes; i += period) {
          for (const auto& [source, weight] : taps.of(begin + i)) {
            table[factors.slot[static_cast<size_t>(weight)] * width + period + i] =
                static_cast<int32_t>(source * kTurnedMaps);
          }
        }
      }
    }
    return made;
  }

  Problem problem_;
  Activate activate_;
  std::array<PhaseAxis, kAxes> axes_;
  Spread spread_;
  int64_t taps_;
  int64_t lanes_;
  int64_t blocks_;
  // Of plain weights, from one source map, output map, or group to the next.
  int64_t depth_step_;
  int64_t column_step_;
  int64_t group_weights_;
  int64_t src_positions_;
  int64_t dst_positions_;
  const Kernel& load_;
  const Kernel& sum_;
  Lists lists_;
  int64_t rows_ = 0;  // of a strip
  int64_t row_ = 0;   // positions of one
  int64_t unit_blocks_ = 1;
  int64_t sample_units_ = 1;
  int threads_ = 1;
};

// An axis as the cost sees it.
struct Reach {
  double src_size;
  double dst_size;
  double period;  // of places that have the same taps, inside the image
  double taps;    // of all places
  double most;    // of a place
};

Reach reach(const Axis& axis, Pass pass) noexcept {
  const bool forward = pass == Pass::forward;
  const int64_t period = forward ? axis.stride / std::gcd(axis.stride, axis.dilation) : 1;
  const int64_t src_size = forward ? axis.size : axis.out;
  return {static_cast<double>(src_size), static_cast<double>(forward ? axis.out : axis.size),
          static_cast<double>(forward ? axis.stride : 1), static_cast<double>(axis.taps_inside()),
          static_cast<double>(std::min(ceil_div(axis.kernel, period), src_size))};
}

// What a way to list places takes for a vector of maps.
struct Listed {
  double taps;    // of a list
  double source;  // positions that are turned, each row to whole vectors
  double places;  // the same
  double loads;   // for the taps of them
  double runs;

  double nanoseconds(double turns, double depth) const noexcept {
    return 1.1 * turns * source + 0.5 * places + 0.37 * depth * loads + 10 * runs;
  }
};

// The ways to list places: all of them, and by rows. Rows shorter than a vector are listed together.
std::array<Listed, 2> ways_to_list(const Problem& problem) noexcept {
  const double lanes = machine::lanes(compute_dtype(problem.dtype), problem.isa);
  const auto& axes = problem.geometry.axes;
  const Reach z = reach(axes[0], problem.pass);
  const Reach y = reach(axes[1], problem.pass);
  const Reach x = reach(axes[2], problem.pass);
  const auto whole = [lanes](double count) { return std::ceil(count / lanes) * lanes; };
  // Of a last square that is nearly empty, the kernel sums a quarter.
  const auto summed = [lanes, whole](double count) {
    const double few = lanes > 4 ? lanes / 4 : 1;
    const double rest = count - std::floor(count / lanes) * lanes;
    return rest == 0 || rest > few ? whole(count) : count - rest + few;
  };
  // Loads of a tap, the factors of places a period apart being one.
  const auto loads = [lanes](double period) {
    return 1 + (period <= kTurnedPeriod ? period : lanes) / lanes;
  };
  const double row_slots = z.taps / z.dst_size * y.taps / y.dst_size * x.most;
  const bool alike = z.period * y.period * x.period == 1;
  const double slots = alike || x.dst_size < lanes ? z.most * y.most * x.most : row_slots;
  const double rows = z.dst_size * y.dst_size;
  const double reached = std::min(z.dst_size, z.taps) * std::min(y.dst_size, y.taps);  // by some tap
  const double stored = reached + (rows - reached) / 4;  // as long as others take
  const double places = rows * x.dst_size;
  return {
      Listed{z.taps * y.taps * x.taps, whole(z.src_size * y.src_size * x.src_size), whole(places),
             summed(places) * slots * loads(alike ? 1 : lanes), 1},
      Listed{z.most * y.most * x.taps, z.src_size * y.src_size * whole(x.src_size),
             stored * whole(x.dst_size), rows * summed(x.dst_size) * row_slots * loads(x.period), reached}};
}

// Whether places are listed together, and by rows.
std::array<bool, 2> may_list(const Problem& problem) noexcept {
  const Axis& x = problem.geometry.axes[2];
  const bool fills = static_cast<double>(problem.pass == Pass::forward ? x.out : x.size) >=
                     machine::lanes(compute_dtype(problem.dtype), problem.isa);
  const auto [all, rows] = ways_to_list(problem);
  return {all.taps <= static_cast<double>(fills ? kMostListed : kMostTaps),
          fills && rows.taps <= static_cast<double>(kMostTaps)};
}

std::optional<std::string> refusal(const Problem& problem) {
  const Geometry& g = problem.geometry;
  if (g.channels_last) return "maps lie together";
  for (const Axis& axis : g.axes) {
    if (axis.stride > kMostStride) return "stride above " + std::to_string(kMostStride);
  }
  const Spread spread(problem);
  const int64_t positions = problem.pass == Pass::forward ? g.small_positions() : g.large_positions();
  if (spread.depth * positions > kMostSource) {
    return "groups of more than " + std::to_string(kMostSource) + " positions of all maps";
  }
  if (spread.depth * g.taps() > kMostTaps)
    return "more than " + std::to_string(kMostTaps) + " taps of all maps";
  const auto [all, rows] = may_list(problem);
  if (!all && !rows) return "more than " + std::to_string(kMostTaps) + " taps";
  return std::nullopt;
}

// Fitted to measured times.
double cost(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const double lanes = machine::lanes(compute_dtype(problem.dtype), problem.isa);
  // Measured with vectors of 64 bytes; narrower ones take half, if no more lanes are moved.
  const double vector = std::max(vector_floats(problem.isa) / 16.0, 0.5) * kTurnedMaps / lanes;
  const Spread spread(problem);
  const auto blocks = static_cast<double>(spread.blocks());
  const auto depth = static_cast<double>(spread.depth);
  // Sources that are turned for a block.
  const double turns = depth / static_cast<double>(spread.set_blocks()) *
                       static_cast<double>(spread.together == 1 ? 1 : spread.set);
  const auto ways = ways_to_list(problem);
  const auto may = may_list(problem);
  double listed = HUGE_VAL;
  for (size_t way = 0; way < ways.size(); ++way) {
    if (may[way]) listed = std::min(listed, ways[way].nanoseconds(turns, depth));
  }
  const double taps = blocks * depth * static_cast<double>(g.taps());
  const double weights = problem.packed ? 0 : taps * vector * 3.3e-9;
  // Many weights come late for every sample, from the last cache or from memory.
  const double weight_bytes = taps * kTurnedMaps * static_cast<double>(compute_bytes(problem.dtype));
  const double late = weight_bytes > machine::kLastCacheBytes / 4 ? weight_bytes / machine::kFarBytesPerSecond
                      : weight_bytes > machine::kSecondCacheBytes ? weight_bytes / kLateBytesPerSecond
                                                                  : 0;
  const double sample = std::max(blocks * (listed + 12) * vector * 1e-9, late);
  const double bytes = static_cast<double>(g.small_elements() + g.large_elements()) *
                       static_cast<double>(storage_bytes(problem.dtype));
  return static_cast<double>(g.batch) * sample + weights + weight_bytes / machine::kReadBytesPerSecond +
         bytes * 0.009e-9 + machine::far_seconds(problem, bytes);
}

}  // namespace

extern const Algorithm depthwise_turned;
const Algorithm depthwise_turned{"depthwise_turned", refusal, cost, make_stored<DepthwiseTurned>};

}  // namespace tconv
