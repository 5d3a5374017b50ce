// Forward along one axis to one filter with a long stride, as the inverse short-time Fourier transform: a
// convolution of unit stride to as many maps as the stride, whose maps, lying together, are the output's
// neighbours (Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
// Convolutional Neural Network", 2016). Weights and output are that problem's as they lie in memory.
#include <algorithm>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "machine.hpp"
#include "memory.hpp"

namespace tconv {

extern const Algorithm winograd;
extern const Algorithm phase_gemm;

namespace {

// Maps and positions that one thread turns at a time.
constexpr int64_t kMapRun = 64;
constexpr int64_t kPositionRun = 1024;

struct Inner {
  Problem problem;
  const Algorithm* algorithm = nullptr;
  double seconds = 0;
};

// Bytes of a bias for every map, of the source with its maps together, and of the outputs where some are cut.
struct Room {
  size_t bias;
  size_t source;
  size_t out;

  explicit Room(const Problem& problem) noexcept {
    const Geometry& g = problem.geometry;
    const Axis& x = g.axes[2];
    const size_t element = storage_bytes(problem.dtype);
    const int64_t whole = (x.size - 1) * x.stride + x.kernel;
    bias = aligned(static_cast<size_t>(x.stride) * element);
    source = g.channels_last ? 0 : aligned(static_cast<size_t>(g.small_elements()) * element);
    out = x.pad_lo == 0 && x.out == whole ? 0 : aligned(static_cast<size_t>(g.batch * whole) * element);
  }

  size_t bytes() const noexcept { return bias + source + out; }
};

Inner inner_of(const Problem& problem) {
  Inner inner{problem};
  Geometry& g = inner.problem.geometry;
  const Axis x = g.axes[2];
  const int64_t kernel = x.kernel / x.stride;
  g.filters = x.stride;
  g.channels_last = true;
  g.axes[2] = {x.size, x.size + kernel - 1, kernel, 1, 1, 0, 0};
  const size_t own = Room(problem).bytes();
  inner.problem.workspace = problem.workspace > own ? problem.workspace - own : 0;
  for (const Algorithm* algorithm : {&winograd, &phase_gemm}) {
    if (refusal_of(*algorithm, inner.problem)) continue;
    const double seconds = algorithm->cost(inner.problem);
    if (inner.algorithm != nullptr && seconds >= inner.seconds) continue;
    inner.algorithm = algorithm;
    inner.seconds = seconds;
  }
  return inner;
}

class Subpixel final : public Recipe {
 public:
  explicit Subpixel(const Problem& problem)
      : problem_(problem), room_(problem), load_(tconv::kernel(Family::load, problem.dtype, problem.isa)) {
    const Inner inner = inner_of(problem);
    recipe_ = inner.algorithm->make(inner.problem);
  }

  std::string kernel() const override { return recipe_->kernel(); }
  size_t workspace_bytes() const noexcept override { return room_.bytes() + recipe_->workspace_bytes(); }
  std::string packing_key() const override { return "subpixel " + recipe_->packing_key(); }
  size_t packed_bytes() const noexcept override { return recipe_->packed_bytes(); }
  bool needs_finite_source() const noexcept override { return recipe_->needs_finite_source(); }
  bool pack(const void* weight, char* packed, Crew& crew) const override {
    return recipe_->pack(weight, packed, crew);
  }

  bool run(const Call& call) const override {
    const Buffer scratch(room_.bytes());
    Pieces pieces(scratch.data());
    char* const bias = pieces.take(room_.bias);
    char* const source = pieces.take(room_.source);
    char* const out = pieces.take(room_.out);
    if (call.bias != nullptr) repeat_bias(call.bias, bias);
    if (room_.source > 0) gather_maps(call.source, source, call.crew);
    const Call inner{room_.source > 0 ? source : call.source,
                     call.weight,
                     call.packed,
                     call.bias == nullptr ? nullptr : bias,
                     room_.out > 0 ? out : call.out,
                     call.crew};
    if (!recipe_->run(inner)) return false;
    if (room_.out > 0) cut(out, call);
    return true;
  }

 private:
  void repeat_bias(const void* bias, char* repeated) const noexcept {
    const size_t element = storage_bytes(problem_.dtype);
    for (int64_t r = 0; r < problem_.geometry.axes[2].stride; ++r, repeated += element)
      std::copy_n(static_cast<const char*>(bias), element, repeated);
  }

  // Turns the source so that the maps of a position lie together, in its own type.
  void gather_maps(const void* source, char* turned, Crew& crew) const {
    const Geometry& g = problem_.geometry;
    const int64_t positions = g.axes[2].size;
    const int64_t runs = ceil_div(g.channels, kMapRun);
    const int64_t pieces = ceil_div(positions, kPositionRun);
    const double seconds = static_cast<double>(room_.source) / machine::kStoreBytesPerSecond;
    crew.share(g.batch * pieces * runs, seconds, [&](int64_t unit, int) noexcept {
      const int64_t map = unit % runs * kMapRun;
      const int64_t first = unit / runs % pieces * kPositionRun;
      const int64_t count = std::min(kPositionRun, positions - first);
      const int64_t sample = unit / runs / pieces;
      with_dtype(problem_.dtype, [&](auto e) {
        using S = typename decltype(e)::storage;
        const S* from = static_cast<const S*>(source) + (sample * g.channels + map) * positions + first;
        S* to = reinterpret_cast<S*>(turned) + (sample * positions + first) * g.channels + map;
        const int64_t maps = std::min(kMapRun, g.channels - map);
        if constexpr (sizeof(S) == sizeof(typename decltype(e)::compute)) {
          MoveArgs args{};
          args.src = from;
          args.src_row = positions;
          args.src_column = args.dst_row = 1;
          args.dst = to;
          args.dst_column = g.channels;
          args.rows = maps;
          args.columns = count;
          load_(args);
        } else {
          for (int64_t p = 0; p < count; ++p) {
            for (int64_t m = 0; m < maps; ++m) to[p * g.channels + m] = from[m * positions + p];
          }
        }
      });
    });
  }

  // Copies what the pads leave; what no input reaches holds the bias.
  void cut(const char* whole, const Call& call) const noexcept {
    const Geometry& g = problem_.geometry;
    const Axis& x = g.axes[2];
    const int64_t length = (x.size - 1) * x.stride + x.kernel;
    with_dtype(problem_.dtype, [&](auto e) {
      using E = decltype(e);
      using S = typename E::storage;
      const auto bias =
          call.bias == nullptr ? typename E::compute{0} : E::load(*static_cast<const S*>(call.bias));
      const S rest = E::store(activated_element(bias, problem_.activation));
      const int64_t begin = std::clamp<int64_t>(-x.pad_lo, 0, x.out);
      const int64_t end = std::clamp<int64_t>(length - x.pad_lo, begin, x.out);
      for (int64_t sample = 0; sample < g.batch; ++sample) {
        const S* from = reinterpret_cast<const S*>(whole) + sample * length + x.pad_lo;
        S* to = static_cast<S*>(call.out) + sample * x.out;
        std::fill(to, to + begin, rest);
        std::copy(from + begin, from + end, to + begin);
        std::fill(to + end, to + x.out, rest);
      }
    });
  }

  Problem problem_;
  Room room_;
  const Kernel& load_;
  std::unique_ptr<Recipe> recipe_;
};

std::unique_ptr<Recipe> make(const Problem& problem) { return std::make_unique<Subpixel>(problem); }

std::optional<std::string> refusal(const Problem& problem) {
  const Geometry& g = problem.geometry;
  const auto& [z, y, x] = g.axes;
  if (g.filters != 1) return "more than one filter";
  for (const Axis* axis : {&z, &y}) {
    if (axis->size != 1 || axis->out != 1 || axis->kernel != 1 || axis->stride != 1 || axis->pad_lo != 0)
      return "more than one axis";
  }
  if (x.dilation != 1) return "dilation";
  if (x.grid != 0) return "tiles that keep to a grid";
  if (x.kernel % x.stride != 0) return "the kernel is no multiple of the stride";
  if (x.stride < vector_floats(problem.isa)) return "stride below a vector";
  if (inner_of(problem).algorithm == nullptr) {
    return "workspace: got " + std::to_string(problem.workspace) + " bytes; need at least " +
           std::to_string(Room(problem).bytes()) + " and what a product of matrices needs";
  }
  return std::nullopt;
}

double cost(const Problem& problem) {
  const double turned = static_cast<double>(Room(problem).source + Room(problem).out);
  return inner_of(problem).seconds + turned / machine::kStoreBytesPerSecond;
}

}  // namespace

extern const Algorithm subpixel;
const Algorithm subpixel{"subpixel", refusal, cost, make, true};

}  // namespace tconv
