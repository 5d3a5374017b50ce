// One axis and one filter with a long stride, as the inverse short-time Fourier transform: a convolution of
// unit stride to as many maps as the stride, whose maps, lying together, are the large side's neighbours (Shi
// et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional
// Neural Network", 2016). All arrays are that problem's as they lie in memory.
#include <algorithm>
#include <cstring>
#include <utility>

#include "algorithms/algorithm.hpp"
#include "machine.hpp"
#include "memory.hpp"

namespace tconv {

extern const Algorithm winograd;
extern const Algorithm weight_winograd;

namespace {

const Algorithm& solver(Pass pass) noexcept {
  return pass == Pass::weight_gradient ? weight_winograd : winograd;
}

// Elements of a sample's large side that some tap reaches.
int64_t whole_length(const Axis& x) noexcept { return (x.size - 1) * x.stride + x.kernel; }

// Bytes of a bias for every map, and of the whole large side where some of it is cut.
struct Room {
  size_t bias = 0;
  size_t large = 0;

  explicit Room(const Problem& problem) noexcept {
    const Axis& x = problem.geometry.axes[2];
    const size_t element = storage_bytes(problem.dtype);
    const int64_t whole = whole_length(x);
    if (problem.pass == Pass::forward) bias = aligned(static_cast<size_t>(x.stride) * element);
    if (x.pad_lo != 0 || x.out != whole)
      large = aligned(static_cast<size_t>(problem.geometry.batch * whole) * element);
  }

  size_t bytes() const noexcept { return bias + large; }
};

Problem inner_of(const Problem& problem) {
  Problem inner = problem;
  Geometry& g = inner.geometry;
  const Axis x = g.axes[2];
  const int64_t taps = x.kernel / x.stride;
  g.filters = x.stride;
  g.small_apart = !g.channels_last;
  g.channels_last = true;
  g.axes[2] = {x.size, x.size + taps - 1, taps};
  const size_t own = Room(problem).bytes();
  inner.workspace = problem.workspace > own ? problem.workspace - own : 0;
  return inner;
}

class Subpixel final : public Recipe {
 public:
  explicit Subpixel(const Problem& problem)
      : problem_(problem), room_(problem), recipe_(solver(problem.pass).make(inner_of(problem))) {}

  void list() override { recipe_->list(); }
  std::string kernel() const override { return recipe_->kernel(); }
  size_t workspace_bytes() const noexcept override { return room_.bytes() + recipe_->workspace_bytes(); }
  std::string packing_key() const override {
    const std::string key = recipe_->packing_key();
    return key.empty() ? key : "subpixel " + key;
  }
  size_t packed_bytes() const noexcept override { return recipe_->packed_bytes(); }
  bool needs_finite_source() const noexcept override { return recipe_->needs_finite_source(); }
  bool pack(const void* weight, char* packed, Crew& crew) const override {
    return recipe_->pack(weight, packed, crew);
  }

  bool run(const Call& call) const override {
    const Buffer scratch(room_.bytes());
    Pieces pieces(scratch.data());
    char* const bias = pieces.take(room_.bias);
    char* const large = pieces.take(room_.large);
    const bool forward = problem_.pass == Pass::forward;
    const bool cut = room_.large > 0;
    if (forward && call.bias != nullptr) repeat_bias(call.bias, bias);
    const Call inner{
        cut && problem_.pass == Pass::data_gradient ? fill_up(call.source, large) : call.source,
        cut && problem_.pass == Pass::weight_gradient ? fill_up(call.weight, large) : call.weight,
        call.packed,
        forward && call.bias != nullptr ? bias : call.bias,
        cut && forward ? large : call.out,
        call.crew};
    if (!recipe_->run(inner)) return false;
    if (cut && forward) cut_out(large, call);
    return true;
  }

 private:
  void repeat_bias(const void* bias, char* repeated) const noexcept {
    const size_t element = storage_bytes(problem_.dtype);
    for (int64_t r = 0; r < problem_.geometry.axes[2].stride; ++r, repeated += element)
      std::copy_n(static_cast<const char*>(bias), element, repeated);
  }

  // The whole large side, of which the pads leave a part: what is there from `given`, zeros beside it.
  const char* fill_up(const void* given, char* whole) const noexcept {
    const Axis& x = problem_.geometry.axes[2];
    const size_t element = storage_bytes(problem_.dtype);
    const int64_t length = whole_length(x);
    const auto [begin, end] = left(x);
    const auto bytes = [&](int64_t count) { return static_cast<size_t>(count) * element; };
    std::memset(whole, 0, bytes(problem_.geometry.batch * length));
    for (int64_t sample = 0; end > begin && sample < problem_.geometry.batch; ++sample) {
      std::memcpy(whole + bytes(sample * length + begin + x.pad_lo),
                  static_cast<const char*>(given) + bytes(sample * x.out + begin), bytes(end - begin));
    }
    return whole;
  }

  // Of a sample, the elements that some tap reaches and the pads leave: from the first to before the second.
  static std::pair<int64_t, int64_t> left(const Axis& x) noexcept {
    const int64_t begin = std::clamp<int64_t>(-x.pad_lo, 0, x.out);
    return {begin, std::clamp<int64_t>(whole_length(x) - x.pad_lo, begin, x.out)};
  }

  // Copies what the pads leave; what no input reaches holds the bias.
  void cut_out(const char* whole, const Call& call) const noexcept {
    const Geometry& g = problem_.geometry;
    const Axis& x = g.axes[2];
    const int64_t length = whole_length(x);
    const auto [begin, end] = left(x);
    with_dtype(problem_.dtype, [&](auto e) {
      using E = decltype(e);
      using S = typename E::storage;
      const auto bias =
          call.bias == nullptr ? typename E::compute{0} : E::load(*static_cast<const S*>(call.bias));
      const S rest = E::store(activated_element(bias, problem_.activation));
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
  return solver(problem.pass).refusal(inner_of(problem));
}

double cost(const Problem& problem) {
  return solver(problem.pass).cost(inner_of(problem)) +
         static_cast<double>(Room(problem).large) / machine::kStoreBytesPerSecond;
}

}  // namespace

extern const Algorithm subpixel;
const Algorithm subpixel{"subpixel", refusal, cost, make, true};

}  // namespace tconv
