// Forward of depthwise layers, and sums of few maps, whose maps lie together and are fewer than lanes, for
// strides along the last axis: lanes are neighbours in a row of the output, of all phases and maps, and what
// they read is picked from a vector of the source. Rows of the source are copied to rows with borders of
// zeros.
#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <type_traits>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "depthwise_phases_abi.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "packing.hpp"

namespace tconv {
namespace {

constexpr int64_t kMostDepth = 8;  // maps of a group that are summed
constexpr int64_t kMostTaps = 1024;
constexpr int64_t kMostStride = 64;
constexpr int64_t kMostPatterns = 32;
constexpr int64_t kMostPacked = 1 << 16;  // elements of packed weights
constexpr int64_t kStripBytes = 64 << 10;

// Taps of an axis that the outputs of a residue of the stride have: every `hop`-th from `first` on, each of
// which reads `step` positions before the one before it.
struct Residue {
  int64_t first;
  int64_t taps;
};
struct Residues {
  int64_t hop;
  int64_t step;
  std::vector<Residue> all;
  int64_t most = 0;

  explicit Residues(const Axis& axis)
      : hop(axis.stride / std::gcd(axis.stride, axis.dilation)),
        step(hop * axis.dilation / axis.stride),
        all(static_cast<size_t>(axis.stride), Residue{0, 0}) {
    for (int64_t k = std::min(hop, axis.kernel) - 1; k >= 0; --k)
      all[static_cast<size_t>(k * axis.dilation % axis.stride)] = {k, ceil_div(axis.kernel - k, hop)};
    for (const Residue& residue : all) most = std::max(most, residue.taps);
  }
};

// What decides the order of packed weights. Lanes are counted from output position -pad on.
struct Patterns {
  struct Lane {
    int64_t source;  // element of a row that the first tap reads
    int64_t map;
    const Residue* residue;
  };

  int64_t lanes;     // of a vector
  int64_t channels;  // of all groups
  int64_t filters;   // likewise
  int64_t depth;     // maps of a group that are summed
  int64_t count;
  int64_t positions;  // of the source, in a round of all patterns
  Residues residues;
  int64_t whole_taps;          // that all residues have
  std::vector<Lane> all;       // of all patterns
  std::vector<int64_t> first;  // lowest source of a pattern
  int64_t reach = 0;           // highest source less the lowest

  explicit Patterns(const Problem& problem)
      : lanes(static_cast<int64_t>(machine::lanes(compute_dtype(problem.dtype), problem.isa))),
        channels(problem.geometry.channels),
        filters(problem.geometry.filters),
        depth(channels / problem.geometry.groups),
        count(pattern_count(problem)),
        positions(count * lanes / (problem.geometry.axes[2].stride * filters)),
        residues(problem.geometry.axes[2]),
        whole_taps(residues.most) {
    const Axis& x = problem.geometry.axes[2];
    const int64_t columns = filters / problem.geometry.groups;
    for (int64_t position = 0; position < positions; ++position) {
      for (int64_t r = 0; r < x.stride; ++r) {
        const Residue& residue = residues.all[static_cast<size_t>(r)];
        whole_taps = std::min(whole_taps, residue.taps);
        const int64_t source = (position + floor_div(r - residue.first * x.dilation, x.stride)) * channels;
        for (int64_t map = 0; map < filters; ++map)
          all.push_back({source + map / columns * depth, map, &residue});
      }
    }
    for (auto lane = all.begin(); lane != all.end(); lane += lanes) {
      const auto [low, high] = std::minmax_element(
          lane, lane + lanes, [](const Lane& a, const Lane& b) { return a.source < b.source; });
      first.push_back(low->source);
      reach = std::max(reach, high->source - low->source);
    }
  }
  // Lanes point into the residues.
  Patterns(const Patterns&) = delete;
  Patterns& operator=(const Patterns&) = delete;

  static int64_t pattern_count(const Problem& problem) noexcept {
    const auto width = static_cast<int64_t>(machine::lanes(compute_dtype(problem.dtype), problem.isa));
    return std::lcm(problem.geometry.axes[2].stride * problem.geometry.filters, width) / width;
  }
  // Elements of the source from a tap to the next, which is before it.
  int64_t tap_step() const noexcept { return residues.step * channels; }
  int64_t row_elements() const noexcept { return count * residues.most * lanes; }
};

template <class E>
class DepthwisePhases final : public Recipe {
 public:
  using S = typename E::storage;
  using T = typename E::compute;
  using Index = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

  explicit DepthwisePhases(const Problem& problem)
      : problem_(problem),
        activate_(problem),
        patterns_(problem),
        residues_z_(problem.geometry.axes[0]),
        residues_y_(problem.geometry.axes[1]),
        load_(tconv::kernel(Family::load, problem.dtype, problem.isa)),
        sum_(tconv::kernel(Family::depthwisephases, problem.dtype, problem.isa)) {
    const auto& [z, y, x] = problem.geometry.axes;
    for (int64_t pattern = 0; pattern < patterns_.count; ++pattern) {
      const auto* const lanes = patterns_.all.data() + pattern * patterns_.lanes;
      for (int64_t lane = 0; lane < patterns_.lanes; ++lane)
        index_.push_back(
            static_cast<Index>(lanes[lane].source - patterns_.first[static_cast<size_t>(pattern)]));
      for (int64_t tap = patterns_.whole_taps; tap < patterns_.residues.most; ++tap) {
        for (int64_t lane = 0; lane < patterns_.lanes; ++lane)
          mask_.push_back(tap < lanes[lane].residue->taps ? Index{-1} : Index{0});
      }
    }
    const int64_t low = *std::min_element(patterns_.first.begin(), patterns_.first.end()) -
                        (patterns_.residues.most - 1) * patterns_.tap_step();
    before_ = ceil_div(-low, patterns_.channels);
    // Lanes behind the row, and what vectors hold behind those that are picked.
    const int64_t reached = (x.pad_lo + x.out + patterns_.lanes) / x.stride + 2;
    row_ = (before_ + std::max(x.size, reached)) * patterns_.channels + patterns_.lanes;
    threads_ = problem.threads;
    planes_ = std::min(z.size, residues_z_.most);
    rows_ = y.out;
    const auto units = [&] { return problem.geometry.batch * z.out * ceil_div(y.out, rows_); };
    while (rows_ > 1 && (strip_bytes() > kStripBytes || (threads_ > 1 && units() < 4 * threads_) ||
                         workspace_bytes() > problem.workspace)) {
      rows_ = (rows_ + 1) / 2;
    }
    while (threads_ > 1 && workspace_bytes() > problem.workspace) --threads_;
    units_ = units();
  }

  std::string kernel() const override { return sum_.name; }
  size_t workspace_bytes() const noexcept override {
    return (problem_.packed ? 0 : aligned(packed_bytes())) + aligned(bias_bytes()) +
           worker_bytes() * static_cast<size_t>(threads_);
  }
  size_t packed_bytes() const noexcept override {
    return static_cast<size_t>(lists() * patterns_.row_elements()) * sizeof(T);
  }
  std::string packing_key() const override {
    const Geometry& g = problem_.geometry;
    return key_of("depthwise_phases", {static_cast<int64_t>(problem_.dtype), g.channels, g.filters, g.groups,
                                       g.axes[0].kernel * g.axes[1].kernel, g.axes[2].kernel,
                                       g.axes[2].stride, g.axes[2].dilation, patterns_.lanes});
  }

  // Packed: [map of a group][row of taps][pattern][tap][lane]
  bool pack(const void* weight, char* packed, Crew&) const override {
    const Geometry& g = problem_.geometry;
    const int64_t columns = g.filters / g.groups;
    const int64_t kernel = g.axes[2].kernel;
    T* to = reinterpret_cast<T*>(packed);
    for (int64_t list = 0; list < lists(); ++list) {
      const int64_t depth = list / row_taps();
      const int64_t row = list % row_taps();
      for (int64_t pattern = 0; pattern < patterns_.count; ++pattern) {
        for (int64_t tap = 0; tap < patterns_.residues.most; ++tap) {
          for (int64_t i = 0; i < patterns_.lanes; ++i) {
            const auto& [source, map, residue] =
                patterns_.all[static_cast<size_t>(pattern * patterns_.lanes + i)];
            const int64_t channel = map / columns * patterns_.depth + depth;
            const int64_t k = row * kernel + residue->first + tap * patterns_.residues.hop;
            const S* const from = static_cast<const S*>(weight) + (channel * g.taps() + k) * columns;
            *to++ = tap < residue->taps ? static_cast<T>(E::load(from[map % columns])) : T{0};
          }
        }
      }
    }
    return all_finite(reinterpret_cast<const T*>(packed), lists() * patterns_.row_elements());
  }

  bool run(const Call& call) const override {
    const Buffer scratch(workspace_bytes());
    Pieces pieces(scratch.data());
    const char* packed = packed_weights(call, pieces);
    if (packed == nullptr) return false;
    const T* const bias =
        made_bias<T>(call, pieces, bias_bytes(), [this](const void* from, T* to) { spread_bias(from, to); });
    call.crew.limit(threads_);
    char* const workers = pieces.rest();
    call.crew.share(units_, machine::seconds(problem_) * threads_, [&](int64_t unit, int member) noexcept {
      run_unit(call, reinterpret_cast<const T*>(packed), bias,
               workers + static_cast<size_t>(member) * worker_bytes(), unit);
    });
    return true;
  }

 private:
  // Rows of taps of a map, and of all maps of a group.
  int64_t row_taps() const noexcept {
    return problem_.geometry.axes[0].kernel * problem_.geometry.axes[1].kernel;
  }
  int64_t lists() const noexcept { return patterns_.depth * row_taps(); }
  size_t bias_bytes() const noexcept {
    return static_cast<size_t>(patterns_.count * patterns_.lanes) * sizeof(T);
  }
  // Source rows that so many neighbouring rows of the output may read.
  int64_t strip_rows() const noexcept {
    const Axis& y = problem_.geometry.axes[1];
    return std::min(y.size, (rows_ - 1 + (y.kernel - 1) * y.dilation) / y.stride + 1);
  }
  size_t strip_bytes() const noexcept {
    return static_cast<size_t>(planes_ * strip_rows() * row_) * sizeof(T);
  }
  size_t pointer_bytes() const noexcept { return aligned(static_cast<size_t>(lists()) * sizeof(void*)); }
  size_t worker_bytes() const noexcept { return aligned(strip_bytes()) + 2 * pointer_bytes(); }

  void spread_bias(const void* bias, T* to) const noexcept {
    for (int64_t i = 0; i < patterns_.count * patterns_.lanes; ++i)
      to[i] = static_cast<T>(E::load(static_cast<const S*>(bias)[i % patterns_.filters]));
  }

  // Calls `body(source index, kernel index)` for the taps of an output position that lead into the image.
  template <class Body>
  static void for_taps(const Axis& axis, const Residues& residues, int64_t at, const Body& body) {
    const int64_t place = at + axis.pad_lo;
    const Residue& residue = residues.all[static_cast<size_t>(place % axis.stride)];
    if (residue.taps == 0) return;
    int64_t k = residue.first;
    int64_t source = floor_div(place - k * axis.dilation, axis.stride);
    for (; k < axis.kernel && source >= 0; k += residues.hop, source -= residues.step) {
      if (source < axis.size) body(source, k);
    }
  }

  // Some rows of a plane of the output.
  void run_unit(const Call& call, const T* weights, const T* bias, char* memory,
                int64_t unit) const noexcept {
    const Geometry& g = problem_.geometry;
    const auto& [z, y, x] = g.axes;
    const int64_t blocks = ceil_div(y.out, rows_);
    const int64_t first = unit % blocks * rows_;
    const int64_t end = std::min(first + rows_, y.out);
    const int64_t at_z = unit / blocks % z.out;
    const int64_t sample = unit / blocks / z.out;
    Pieces pieces(memory);
    T* const strip = pieces.take<T>(strip_bytes());
    const auto** const sources = pieces.take<const void*>(pointer_bytes());
    const auto** const factors = pieces.take<const void*>(pointer_bytes());
    const int64_t begin_row =
        std::clamp<int64_t>(ceil_div(first + y.pad_lo - (y.kernel - 1) * y.dilation, y.stride), 0, y.size);
    const int64_t end_row =
        std::clamp<int64_t>(floor_div(end - 1 + y.pad_lo, y.stride) + 1, begin_row, y.size);
    T* to = strip;
    for_taps(z, residues_z_, at_z, [&](int64_t src_z, int64_t) {
      for (int64_t row = begin_row; row < end_row; ++row, to += row_) {
        const int64_t line = (sample * z.size + src_z) * y.size + row;
        fill(static_cast<const S*>(call.source) + line * x.size * g.channels, to);
      }
    });
    DepthwisePhasesArgs args{};
    args.src = sources;
    args.weight = factors;
    args.taps = patterns_.residues.most;
    args.whole_taps = patterns_.whole_taps;
    args.tap_step = patterns_.tap_step();
    args.patterns = patterns_.count;
    args.round = patterns_.positions * patterns_.channels;
    args.first = patterns_.first.data();
    args.index = index_.data();
    args.mask = mask_.data();
    args.bias = bias;
    args.activation = activate_.get();
    args.begin = x.pad_lo * g.filters;
    args.end = args.begin + x.out * g.filters;
    for (int64_t at_y = first; at_y < end; ++at_y) {
      args.rows = 0;
      for (int64_t depth = 0; depth < patterns_.depth; ++depth) {
        int64_t plane = 0;
        for_taps(z, residues_z_, at_z, [&](int64_t, int64_t kz) {
          for_taps(y, residues_y_, at_y, [&](int64_t src_y, int64_t ky) {
            sources[args.rows] = strip + (plane * (end_row - begin_row) + src_y - begin_row) * row_ +
                                 before_ * g.channels + depth;
            factors[args.rows++] =
                weights + (depth * row_taps() + kz * y.kernel + ky) * patterns_.row_elements();
          });
          ++plane;
        });
      }
      const int64_t line = (sample * z.out + at_z) * y.out + at_y;
      args.dst = static_cast<S*>(call.out) + line * x.out * g.filters - args.begin;
      sum_(args);
    }
  }

  void fill(const S* from, T* row) const noexcept {
    const int64_t before = before_ * patterns_.channels;
    const int64_t elements = problem_.geometry.axes[2].size * patterns_.channels;
    std::fill_n(row, before, T{0});
    convert_run(load_, from, row + before, elements);
    std::fill(row + before + elements, row + row_, T{0});
  }

  Problem problem_;
  Activate activate_;
  Patterns patterns_;
  Residues residues_z_;
  Residues residues_y_;
  const Kernel& load_;
  const Kernel& sum_;
  std::vector<Index> index_;
  std::vector<Index> mask_;
  int64_t before_;
  int64_t row_;     // elements of a row of the strip
  int64_t planes_;  // of the source that an output plane reads, at most
  int64_t rows_;    // of the output, of a unit
  int64_t units_;
  int threads_;
};

std::optional<std::string> refusal(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const Axis& x = g.axes[2];
  if (problem.pass != Pass::forward) return "a gradient";
  if (!g.channels_last || g.small_apart) return "maps lie apart";
  if (x.stride == 1) return "stride of 1 along the last axis";
  for (const Axis& axis : g.axes) {
    if (axis.stride > kMostStride) return "stride above " + std::to_string(kMostStride);
    if (axis.pad_lo < 0) return "pads below zero";
  }
  if (g.channels > kMostDepth * g.groups) return "sums of more than " + std::to_string(kMostDepth) + " maps";
  if (g.taps() > kMostTaps) return "more than " + std::to_string(kMostTaps) + " taps";
  const auto lanes = static_cast<int64_t>(machine::lanes(compute_dtype(problem.dtype), problem.isa));
  if (g.filters >= lanes) return "as many filters as lanes";
  if (Patterns::pattern_count(problem) > kMostPatterns) {
    return "more than " + std::to_string(kMostPatterns) + " patterns of phases and maps";
  }
  const Patterns patterns(problem);
  if (patterns.reach >= lanes) return "lanes read beyond a vector of the source";
  if (g.channels / g.groups * g.axes[0].kernel * g.axes[1].kernel * patterns.row_elements() > kMostPacked) {
    return "weights of lanes are more than " + std::to_string(kMostPacked);
  }
  return std::nullopt;
}

double cost(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const Patterns patterns(problem);
  double taps = static_cast<double>(patterns.depth);
  for (const Axis& axis : {g.axes[0], g.axes[1]}) {
    taps *= std::min(static_cast<double>(axis.kernel) / static_cast<double>(axis.stride),
                     static_cast<double>(axis.size));
  }
  const auto rows = static_cast<double>(g.batch * g.axes[0].out * g.axes[1].out);
  const double vectors =
      rows * (1 + static_cast<double>(g.axes[2].out * g.filters) / static_cast<double>(patterns.lanes));
  // Measured with vectors of 64 bytes; narrower ones take half.
  const double vector = std::max(vector_floats(problem.isa) / 16.0, 0.5);
  const double nanoseconds =
      vectors * vector * (2 + taps * (0.4 + 0.55 * static_cast<double>(patterns.residues.most))) +
      rows * (25 + 3 * taps);
  return nanoseconds * 1e-9 +
         (problem.packed ? 0 : static_cast<double>(patterns.row_elements()) * 2e-9 * taps) +
         machine::far_seconds(problem, static_cast<double>(g.small_elements() + g.large_elements()) *
                                           static_cast<double>(storage_bytes(problem.dtype)));
}

}  // namespace

extern const Algorithm depthwise_phases;
const Algorithm depthwise_phases{"depthwise_phases", refusal, cost, make_stored<DepthwisePhases>};

}  // namespace tconv
