// Weight gradient as matrix products, one for each tap: the depth is positions. Both sides are copied, some
// rows at a time, with their maps innermost; a tap only shifts where the large side is read. Sums are never
// shared out.
#include <algorithm>
#include <cstring>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "machine.hpp"
#include "memory.hpp"

namespace tconv {
namespace {

constexpr int64_t kMostTaps = 1 << 20;
constexpr int64_t kStripBytes = 768 << 10;
constexpr int64_t kPiece = 256;

int64_t ceil_div(int64_t a, int64_t b) noexcept { return a >= 0 ? (a + b - 1) / b : -(-a / b); }
int64_t floor_div(int64_t a, int64_t b) noexcept { return a >= 0 ? a / b : -((-a + b - 1) / b); }

// Which side lies in the lanes, and the kernel for it.
struct Roles {
  bool lanes_large;  // filters in the lanes, channels in the rows; or the other way
  const Kernel* gemm;
  double step_seconds;  // of all rows and lanes, one tap

  explicit Roles(const Problem& problem) : lanes_large(true), gemm(nullptr), step_seconds(0) {
    const int64_t channels = problem.geometry.channels / problem.geometry.groups;
    const int64_t filters = problem.geometry.filters / problem.geometry.groups;
    for (const Kernel& kernel : kernels(Family::gemm, compute_dtype(problem.dtype), problem.isa)) {
      for (const bool large : {true, false}) {
        const double seconds = static_cast<double>(ceil_div(large ? filters : channels, kernel.lanes)) *
                               machine::rows_step_seconds(kernel, large ? channels : filters);
        if (gemm == nullptr || seconds < step_seconds) {
          gemm = &kernel;
          lanes_large = large;
          step_seconds = seconds;
        }
      }
    }
  }
};

// Steps between positions that are not a power of two, or positions meet in one set of the cache.
int64_t apart(int64_t maps) noexcept { return (ceil_div(maps, 16) | 1) * 16; }

template <class T>
class WeightGemm final : public Recipe {
 public:
  explicit WeightGemm(const Problem& problem)
      : problem_(problem),
        roles_(problem),
        gemm_(*roles_.gemm),
        load_(tconv::kernel(Family::load, problem.dtype, problem.isa)),
        store_(tconv::kernel(Family::store, problem.dtype, problem.isa)),
        channels_(problem.geometry.channels / problem.geometry.groups),
        filters_(problem.geometry.filters / problem.geometry.groups),
        taps_(problem.geometry.taps()) {
    row_maps_ = roles_.lanes_large ? channels_ : filters_;
    lane_maps_ = roles_.lanes_large ? filters_ : channels_;
    panels_ = ceil_div(lane_maps_, gemm_.lanes);
    const int64_t row_step = apart(row_maps_);
    const int64_t lane_step = apart(panels_ * gemm_.lanes);
    small_step_ = roles_.lanes_large ? row_step : lane_step;
    large_step_ = roles_.lanes_large ? lane_step : row_step;
    cut();
  }

  std::string kernel() const override { return gemm_.name; }
  size_t workspace_bytes() const noexcept override { return workspace_; }
  size_t least() const noexcept { return least_; }

  bool run(const Call& call) const override {
    const Buffer scratch(workspace_);
    std::memset(scratch.data(), 0, strip_bytes());
    T* small = reinterpret_cast<T*>(scratch.data());
    T* large = small + small_elements();
    char* rest = scratch.data() + strip_bytes();
    T* sums = reinterpret_cast<T*>(rest);
    char* const workers = rest + sums_bytes();
    call.crew.limit(threads_);
    const Geometry& g = problem_.geometry;
    for (int64_t group = 0; group < g.groups; ++group) {
      for (int64_t first = 0; first < row_maps_; first += part_) {
        const int64_t rows = std::min(part_, row_maps_ - first);
        bool started = false;
        Box box{};
        for (int64_t sample = 0; sample < g.batch; ++sample) {
          for (box.begin[0] = 0; box.begin[0] < g.axes[0].size; box.begin[0] += block_[0]) {
            for (box.begin[1] = 0; box.begin[1] < g.axes[1].size; box.begin[1] += block_[1]) {
              for (box.begin[2] = 0; box.begin[2] < g.axes[2].size; box.begin[2] += block_[2]) {
                for (int a = 0; a < kAxes; ++a)
                  box.size[a] = std::min(block_[a], g.axes[a].size - box.begin[a]);
                stage(call, small, large, sample, group, box);
                multiply(call, small, large, sums, workers, box, first, rows, started);
                started = true;
              }
            }
          }
        }
        finish(call, sums, group, first, rows);
      }
    }
    return true;
  }

 private:
  // Positions of the small side.
  struct Box {
    int64_t begin[kAxes];
    int64_t size[kAxes];
  };

  int64_t reach(int axis, int64_t size) const noexcept {
    const Axis& a = problem_.geometry.axes[axis];
    return std::min((size - 1) * a.stride + (a.kernel - 1) * a.dilation + 1, a.out);
  }
  // First position of the large side that a block from `begin` on reads.
  int64_t origin(int axis, int64_t begin) const noexcept {
    const Axis& a = problem_.geometry.axes[axis];
    return std::max<int64_t>(0, begin * a.stride - a.pad_lo);
  }
  int64_t small_elements() const noexcept {
    return block_[0] * block_[1] * block_[2] * small_step_ + gemm_.lanes;
  }
  int64_t large_elements() const noexcept {
    return reach(0, block_[0]) * reach(1, block_[1]) * reach(2, block_[2]) * large_step_ + gemm_.lanes;
  }
  size_t strip_bytes() const noexcept {
    return aligned(static_cast<size_t>(small_elements() + large_elements()) * sizeof(T));
  }
  size_t sums_bytes() const noexcept {
    return aligned(static_cast<size_t>(taps_ * part_ * panels_ * gemm_.lanes) * sizeof(T));
  }
  size_t worker_bytes() const noexcept {
    return 2 * aligned(static_cast<size_t>(block_[0] * block_[1]) * 8) +
           aligned(static_cast<size_t>(gemm_.rows) * 8);
  }

  void cut() {
    const Geometry& g = problem_.geometry;
    const auto total = [&] {
      return strip_bytes() + sums_bytes() + worker_bytes() * static_cast<size_t>(threads_);
    };
    const auto smaller = [&] {
      for (int64_t& size : block_) {
        if (size == 1) continue;
        size = (size + 1) / 2;
        return true;
      }
      return false;
    };
    threads_ = 1;
    part_ = std::min<int64_t>(gemm_.rows, row_maps_);
    for (int64_t& size : block_) size = 1;
    least_ = workspace_ = total();
    if (least_ > problem_.workspace) return;
    for (int a = 0; a < kAxes; ++a) block_[a] = g.axes[a].size;
    while (strip_bytes() > std::min<size_t>(kStripBytes, problem_.workspace - (least_ - strip_least())) &&
           smaller()) {
    }
    while (total() > problem_.workspace && smaller()) {
    }
    const auto room =
        static_cast<int64_t>((problem_.workspace - total()) /
                             (static_cast<size_t>(taps_ * panels_ * gemm_.lanes) * sizeof(T) + kAlignment));
    part_ = std::min(row_maps_, part_ + room / gemm_.rows * gemm_.rows);
    threads_ = problem_.threads;
    while (threads_ > 1 && total() > problem_.workspace) --threads_;
    workspace_ = total();
  }

  size_t strip_least() const noexcept {
    return aligned(static_cast<size_t>(small_step_ + large_step_ * reach(0, 1) * reach(1, 1) * reach(2, 1)) *
                   sizeof(T));
  }

  // Copies what a block reads of both sides, maps innermost.
  void stage(const Call& call, T* small, T* large, int64_t sample, int64_t group, const Box& box) const {
    const Geometry& g = problem_.geometry;
    Box wide{};
    for (int a = 0; a < kAxes; ++a) {
      wide.begin[a] = origin(a, box.begin[a]);
      const Axis& axis = g.axes[a];
      const int64_t end =
          (box.begin[a] + box.size[a] - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1;
      wide.size[a] = std::max<int64_t>(0, std::min(axis.out, end - axis.pad_lo) - wide.begin[a]);
    }
    const int64_t small_pieces = ceil_div(box.size[2], kPiece);
    const int64_t large_pieces = ceil_div(wide.size[2], kPiece);
    const int64_t small_units = box.size[0] * box.size[1] * small_pieces;
    const int64_t large_units = wide.size[0] * wide.size[1] * large_pieces;
    const double seconds = static_cast<double>(strip_bytes()) / machine::kStoreBytesPerSecond;
    call.crew.share(small_units + large_units, seconds, [&](int64_t unit, int) noexcept {
      if (unit < small_units) {
        const int64_t size[kAxes] = {g.axes[0].size, g.axes[1].size, g.axes[2].size};
        stage_piece(call.source, small, small_step_, g.channels, sample, group * channels_, channels_, size,
                    box, block_[1], block_[2], unit, small_pieces);
      } else {
        const int64_t size[kAxes] = {g.axes[0].out, g.axes[1].out, g.axes[2].out};
        stage_piece(call.weight, large, large_step_, g.filters, sample, group * filters_, filters_, size,
                    wide, reach(1, block_[1]), reach(2, block_[2]), unit - small_units, large_pieces);
      }
    });
  }

  void stage_piece(const void* from, T* to, int64_t step, int64_t all_maps, int64_t sample, int64_t first_map,
                   int64_t maps, const int64_t (&size)[kAxes], const Box& box, int64_t strip_y,
                   int64_t strip_x, int64_t unit, int64_t pieces) const noexcept {
    const int64_t x = unit % pieces * kPiece;
    const int64_t y = unit / pieces % box.size[1];
    const int64_t z = unit / pieces / box.size[1];
    const int64_t place = ((box.begin[0] + z) * size[1] + box.begin[1] + y) * size[2] + box.begin[2] + x;
    const int64_t places = size[0] * size[1] * size[2];
    const bool last = problem_.geometry.channels_last;
    const int64_t at =
        sample * all_maps * places + (last ? place * all_maps + first_map : first_map * places + place);
    const int64_t count = std::min(kPiece, box.size[2] - x);
    MoveArgs args{};
    args.src = static_cast<const char*>(from) + at * static_cast<int64_t>(storage_bytes(problem_.dtype));
    args.dst = to + ((z * strip_y + y) * strip_x + x) * step;
    args.rows = last ? count : maps;
    args.columns = last ? maps : count;
    args.src_row = last ? all_maps : places;
    args.src_column = 1;
    args.dst_row = last ? step : 1;
    args.dst_column = last ? 1 : step;
    load_(args);
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

  void multiply(const Call& call, const T* small, const T* large, T* sums, char* workers, const Box& box,
                int64_t first, int64_t rows, bool accumulate) const {
    const auto& [z, y, x] = problem_.geometry.axes;
    const int64_t tiles = ceil_div(rows, gemm_.rows);
    const int64_t positions = box.size[0] * box.size[1] * box.size[2];
    const double seconds = roles_.step_seconds * static_cast<double>(positions * taps_);
    const int64_t strip_y = reach(1, block_[1]);
    const int64_t strip_x = reach(2, block_[2]);
    call.crew.share(taps_ * panels_, seconds, [&](int64_t unit, int member) noexcept {
      const int64_t panel = unit % panels_;
      const int64_t tap = unit / panels_;
      const int64_t kx = tap % x.kernel;
      const int64_t ky = tap / x.kernel % y.kernel;
      const int64_t kz = tap / x.kernel / y.kernel;
      const auto [z0, z1] = inside(0, box, kz);
      const auto [y0, y1] = inside(1, box, ky);
      const auto [x0, x1] = inside(2, box, kx);
      char* memory = workers + static_cast<size_t>(member) * worker_bytes();
      auto* small_offset = reinterpret_cast<int64_t*>(memory);
      memory += aligned(static_cast<size_t>(block_[0] * block_[1]) * 8);
      auto* large_offset = reinterpret_cast<int64_t*>(memory);
      memory += aligned(static_cast<size_t>(block_[0] * block_[1]) * 8);
      auto** c = reinterpret_cast<void**>(memory);
      GemmArgs args{};
      args.depth = x1 - x0;
      if (args.depth > 0) {
        const int64_t shift_z =
            (box.begin[0] * z.stride + kz * z.dilation - z.pad_lo) - origin(0, box.begin[0]);
        const int64_t shift_y =
            (box.begin[1] * y.stride + ky * y.dilation - y.pad_lo) - origin(1, box.begin[1]);
        const int64_t shift_x =
            (box.begin[2] * x.stride + kx * x.dilation - x.pad_lo) - origin(2, box.begin[2]);
        for (int64_t iz = z0; iz < z1; ++iz) {
          for (int64_t iy = y0; iy < y1; ++iy) {
            small_offset[args.segments] = ((iz * block_[1] + iy) * block_[2] + x0) * small_step_;
            large_offset[args.segments++] =
                (((iz * z.stride + shift_z) * strip_y + iy * y.stride + shift_y) * strip_x + x0 * x.stride +
                 shift_x) *
                large_step_;
          }
        }
      }
      const int64_t large_x = x.stride * large_step_;
      const int64_t lane = panel * gemm_.lanes;
      args.a_offset = roles_.lanes_large ? small_offset : large_offset;
      args.b_offset = roles_.lanes_large ? large_offset : small_offset;
      args.a_step = roles_.lanes_large ? small_step_ : large_x;
      args.b_step = roles_.lanes_large ? large_x : small_step_;
      args.b = (roles_.lanes_large ? large : small) + lane;
      args.c = c;
      args.lanes = gemm_.lanes;
      args.accumulate = accumulate;
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t begin = rows * tile / tiles;
        const int64_t end = rows * (tile + 1) / tiles;
        args.a = (roles_.lanes_large ? small : large) + first + begin;
        args.rows = static_cast<int32_t>(end - begin);
        for (int64_t r = begin; r < end; ++r) {
          c[r - begin] = sums + ((tap * part_ + r) * panels_ * gemm_.lanes + lane);
        }
        gemm_(args);
      }
    });
  }

  // Brings the sums, [tap][row map][lane map], into the order of the weight.
  void finish(const Call& call, const T* sums, int64_t group, int64_t first, int64_t rows) const {
    const bool last = problem_.geometry.channels_last;
    const int64_t lanes = panels_ * gemm_.lanes;
    const int64_t channel = filters_ * taps_;
    const int64_t filter = last ? 1 : taps_;
    const int64_t tap = last ? filters_ : 1;
    const int64_t row_stride = roles_.lanes_large ? channel : filter;
    const int64_t lane_stride = roles_.lanes_large ? filter : channel;
    const double seconds = static_cast<double>(sums_bytes()) / machine::kStoreBytesPerSecond;
    call.crew.share(rows, seconds, [&](int64_t unit, int) noexcept {
      MoveArgs args{};
      args.src = sums + unit * lanes;
      args.dst = static_cast<char*>(call.out) + (group * channels_ * channel + (first + unit) * row_stride) *
                                                    static_cast<int64_t>(storage_bytes(problem_.dtype));
      if (lane_stride == 1) {
        args.rows = taps_;
        args.columns = lane_maps_;
        args.src_row = part_ * lanes;
        args.src_column = 1;
        args.dst_row = tap;
        args.dst_column = 1;
      } else {
        args.rows = lane_maps_;
        args.columns = taps_;
        args.src_row = 1;
        args.src_column = part_ * lanes;
        args.dst_row = lane_stride;
        args.dst_column = tap;
      }
      store_(args);
    });
  }

  Problem problem_;
  Roles roles_;
  const Kernel& gemm_;
  const Kernel& load_;
  const Kernel& store_;
  int64_t channels_;  // of a group
  int64_t filters_;   // of a group
  int64_t taps_;
  int64_t row_maps_ = 0;
  int64_t lane_maps_ = 0;
  int64_t panels_ = 0;
  // Elements from one position to the next in the strips.
  int64_t small_step_ = 0;
  int64_t large_step_ = 0;
  int64_t block_[kAxes] = {};  // positions of the small side
  int64_t part_ = 0;           // row maps whose sums are kept at a time
  int threads_ = 1;
  size_t workspace_ = 0;
  size_t least_ = 0;
};

std::unique_ptr<Recipe> make(const Problem& problem) {
  if (compute_dtype(problem.dtype) == DType::f64) return std::make_unique<WeightGemm<double>>(problem);
  return std::make_unique<WeightGemm<float>>(problem);
}

std::optional<std::string> refusal(const Problem& problem) {
  if (problem.pass != Pass::weight_gradient) return "the pass is not the weight gradient";
  if (problem.geometry.taps() > kMostTaps) return "more than " + std::to_string(kMostTaps) + " taps";
  const size_t least = compute_dtype(problem.dtype) == DType::f64 ? WeightGemm<double>(problem).least()
                                                                  : WeightGemm<float>(problem).least();
  if (least > problem.workspace) {
    return "workspace: got " + std::to_string(problem.workspace) + " bytes; need at least " +
           std::to_string(least);
  }
  return std::nullopt;
}

double cost(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const Roles roles(problem);
  const double width = machine::lanes(roles.gemm->dtype, roles.gemm->isa);
  const auto positions = static_cast<double>(g.batch * g.groups * g.small_positions());
  const auto staged = static_cast<double>(g.small_elements() + g.large_elements()) / width;
  return positions * static_cast<double>(g.taps()) * roles.step_seconds + staged * machine::kScatterSeconds +
         machine::traffic_seconds(problem);
}

}  // namespace

extern const Algorithm weight_gemm;
const Algorithm weight_gemm{"weight_gemm", refusal, cost, make};

}  // namespace tconv
