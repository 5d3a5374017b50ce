// What an algorithm is: it may refuse a problem, it says what a problem would cost, it makes a recipe.
//
// To add one: a file `<name>.cpp` here that defines `const Algorithm <name>`, and its line in algorithms.inc,
// which tells its passes.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>

#include "activation_abi.hpp"
#include "dtypes.hpp"
#include "geometry.hpp"
#include "memory.hpp"
#include "registry.hpp"
#include "thread_pool.hpp"

namespace tconv {

struct Problem {
  Pass pass = Pass::forward;
  Geometry geometry;
  DType dtype = DType::f32;
  Isa isa{};
  int threads = 1;
  size_t workspace = 0;     // temporary bytes a run may use at most
  bool packed = false;      // weights come packed, so neither time nor workspace is spent on packing them
  Activation activation;    // of every output; the weight gradient has none
  int winograd_points = 7;  // most of a tile along one axis

  bool operator==(const Problem&) const = default;
};

// The arrays of one run. `weight` is null where `packed` is given.
struct Call {
  const void* source;  // forward: small side; data gradient: large side; weight gradient: small side
  const void* weight;  // weight gradient: large side
  const void* packed;
  const void* bias;  // or null
  void* out;
  Crew& crew;
};

// Does a problem's activation to sums before they are stored; nothing where there is none.
class Activate {
 public:
  explicit Activate(const Problem& problem)
      : activation_(problem.activation),
        kernel_(activation_.none() ? nullptr
                                   : &kernel(Family::activate, compute_dtype(problem.dtype), problem.isa)) {}

  // To hand to a kernel that does it itself.
  const Activation* get() const noexcept { return kernel_ == nullptr ? nullptr : &activation_; }
  template <class T>
  void operator()(T* data, int64_t count) const noexcept {
    if (kernel_ != nullptr) (*kernel_)(ActivateArgs{data, count, &activation_});
  }

 private:
  Activation activation_;
  const Kernel* kernel_;
};

// A problem with everything decided that no array decides. Immutable once listed, so shared between threads.
class Recipe {
 public:
  virtual ~Recipe() = default;
  // Lists what pack() and run() go by, where that grows with taps, phases or places: only these two need it,
  // and it is short beside what they do. Called once, before the first of them.
  virtual void list() {}
  // The kernel that does the arithmetic.
  virtual std::string kernel() const = 0;
  // What run() takes from memory.hpp; at most the problem's workspace.
  virtual size_t workspace_bytes() const noexcept = 0;
  // Recipes with equal keys read each other's packed weights. Independent of batch, sizes and pads.
  virtual std::string packing_key() const { return {}; }
  virtual size_t packed_bytes() const noexcept { return 0; }
  // Returns false where the weights hold an infinity or NaN and the recipe would multiply them with padding.
  virtual bool pack(const void* /*weight*/, char* /*packed*/, Crew& /*crew*/) const { return true; }
  // Of a recipe for packed weights: whether run() also takes plain ones, for the same bits, in less time than
  // it takes to pack them. Then pack() may be done in parts, which are of about the same size.
  virtual bool takes_plain() const { return false; }
  virtual int64_t packing_parts() const noexcept { return 1; }
  virtual bool pack_parts(const void* weight, char* packed, int64_t /*first*/, int64_t /*last*/,
                          Crew& crew) const {
    return pack(weight, packed, crew);
  }
  // Whether run() needs a finite source, so that what is packed must keep the plain weights too.
  virtual bool needs_finite_source() const noexcept { return false; }
  // Returns false, having written nothing that counts, where pack() would or the source is not finite but has
  // to be. Throws OutOfMemoryError, Interrupted.
  virtual bool run(const Call& call) const = 0;

 protected:
  // The packed weights of a call, packed here where they come plain; null where pack() returns false.
  const char* packed_weights(const Call& call, Pieces& pieces) const {
    if (call.packed != nullptr) return static_cast<const char*>(call.packed);
    char* const packed = pieces.take(packed_bytes());
    return pack(call.weight, packed, call.crew) ? packed : nullptr;
  }

  // The bias as `make` lays it out, in so many bytes; null where there is none.
  template <class T, class Make>
  static const T* made_bias(const Call& call, Pieces& pieces, size_t bytes, const Make& make) {
    if (call.bias == nullptr) return nullptr;
    T* const made = pieces.take<T>(bytes);
    make(call.bias, made);
    return made;
  }
};

// Shares units that return whether what they read is finite; returns whether all did.
template <class Work>
bool share_finite(Crew& crew, int64_t units, double seconds, const Work& work) {
  static_assert(std::is_nothrow_invocable_r_v<bool, const Work&, int64_t, int>);
  std::atomic<bool> finite{true};
  crew.share(units, seconds, [&](int64_t unit, int member) noexcept {
    if (!work(unit, member)) finite.store(false, std::memory_order_relaxed);
  });
  return finite.load();
}

// Makes a recipe whose class is a template of the type in which it computes.
template <template <class> class Made>
std::unique_ptr<Recipe> make_computed(const Problem& problem) {
  if (compute_dtype(problem.dtype) == DType::f64) return std::make_unique<Made<double>>(problem);
  return std::make_unique<Made<float>>(problem);
}

// The same of the type of its elements.
template <template <class> class Made>
std::unique_ptr<Recipe> make_stored(const Problem& problem) {
  return with_dtype(problem.dtype, [&](auto e) -> std::unique_ptr<Recipe> {
    return std::make_unique<Made<decltype(e)>>(problem);
  });
}

// A packing key of a name and what else decides how packed weights lie.
inline std::string key_of(std::string name, std::initializer_list<int64_t> numbers) {
  for (const int64_t number : numbers) name += " " + std::to_string(number);
  return name;
}

// As many samples as fill tiles. Layers of many weights seldom see more than one.
inline int64_t filling_batch(const Geometry& geometry) noexcept {
  constexpr int64_t positions = 256;
  constexpr int64_t many_weights = 4 << 20;
  if (geometry.weight_elements() > many_weights) return 1;
  return std::max<int64_t>(1, positions / geometry.small_positions());
}

// Algorithms may differ in the last bit, and a batch must give the same bits whole or in parts: so they are
// compared for this batch, which the call does not decide. It is as many times one sample as it goes into
// those that fill tiles.
inline int64_t usual_batch(const Geometry& geometry) noexcept {
  return std::lround(std::sqrt(filling_batch(geometry)));
}

// Positions from which an axis is long.
inline constexpr int64_t kLongAxis = 40;

// Of tiles that dilation parts, which take turns along the last axis and are transformed together.
inline constexpr int64_t kMostGap = 1024;

// The size for which a forward pass is compared along a long axis: signals that differ by less than a
// sixteenth mostly choose alike, so that the plan of one soon follows from that of another.
inline int64_t usual_size(int64_t size) noexcept {
  if (size < kLongAxis) return size;
  const auto step = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(size)) / 16);
  return size / step * step;
}

inline Problem of_usual_size(Problem problem) noexcept {
  if (problem.pass != Pass::forward) return problem;
  for (Axis& axis : problem.geometry.axes) {
    const int64_t more = axis.size - usual_size(axis.size);
    // Pads may cut off nearly all.
    if (axis.grid != 0 || axis.out <= more * axis.stride) continue;
    axis.size -= more;
    axis.out -= more * axis.stride;
  }
  return problem;
}

struct Algorithm {
  const char* name;
  // Why this algorithm cannot solve a problem of its passes, whatever the workspace, or nothing.
  std::optional<std::string> (*refusal)(const Problem&);
  // Expected seconds.
  double (*cost)(const Problem&);
  // A recipe that would take more than the problem's workspace takes the least that any would, and is not
  // run.
  std::unique_ptr<Recipe> (*make)(const Problem&);
  // Whether it does fewer products than the definition, so that machine::least_seconds may overrate it.
  bool saves = false;
  // Seconds that cost() does not go below, had sooner and with no regard to refusals; null where there is no
  // such figure.
  double (*floor)(const Problem&) = nullptr;
};

// The refusal of a problem whose workspace is below the least that would do.
inline std::optional<std::string> workspace_refusal(const Problem& problem, size_t least) {
  if (least <= problem.workspace) return std::nullopt;
  return "workspace: got " + std::to_string(problem.workspace) + " bytes; need at least " +
         std::to_string(least);
}

// Why an algorithm cannot solve a problem of its passes within its workspace, or nothing.
inline std::optional<std::string> refusal_of(const Algorithm& algorithm, const Problem& problem) {
  if (auto reason = algorithm.refusal(problem)) return reason;
  return workspace_refusal(problem, algorithm.make(problem)->workspace_bytes());
}

// The recipe of the algorithm that needs nothing: no workspace, no packing, any weights.
std::unique_ptr<Recipe> make_direct(const Problem& problem);

}  // namespace tconv
