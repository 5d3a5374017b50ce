// The face towards Python. Arrays arrive through the buffer protocol, checked only for their number of bytes.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "bias_gradient.hpp"
#include "elementwise.hpp"
#include "fingerprint.hpp"
#include "peak.hpp"
#include "plan.hpp"

namespace nb = nanobind;

namespace tconv {
namespace {

// Calls shorter than this keep the interpreter lock: giving it up and getting it back costs as much.
constexpr double kWorthReleasing = 20e-6;

// The bytes of an array, for as long as this lives.
class View {
 public:
  View(nb::handle array, const char* name, int64_t elements, DType dtype, bool writable) noexcept
      : array_(array),
        name_(name),
        element_(storage_bytes(dtype)),
        wanted_(elements * static_cast<int64_t>(element_)),
        flags_(PyBUF_ND | (writable ? PyBUF_WRITABLE : PyBUF_SIMPLE)),
        held_(PyObject_GetBuffer(array.ptr(), &view_, flags_) == 0) {
    if (!held_) PyErr_Clear();
  }
  ~View() {
    if (held_) PyBuffer_Release(&view_);
  }
  View(const View&) = delete;
  View& operator=(const View&) = delete;

  // Whether the array is contiguous, aligned, and of as many bytes as wanted.
  bool fits() const noexcept {
    return held_ && view_.len == wanted_ && reinterpret_cast<uintptr_t>(view_.buf) % element_ == 0;
  }
  void require() {
    if (!held_) {
      held_ = PyObject_GetBuffer(array_.ptr(), &view_, flags_) == 0;
      if (!held_) throw nb::python_error();
    }
    if (view_.len != wanted_) {
      throw ShapeError(std::string(name_) + ": got " + std::to_string(view_.len) + " bytes; need " +
                       std::to_string(wanted_));
    }
  }

  bool held() const noexcept { return held_; }
  std::span<const Py_ssize_t> shape() const noexcept {
    return {view_.shape, static_cast<size_t>(view_.ndim)};
  }
  void expect(int64_t elements, DType dtype) noexcept {
    element_ = storage_bytes(dtype);
    wanted_ = elements * static_cast<int64_t>(element_);
  }

  void* data() const noexcept { return view_.buf; }
  bool apart_from(const View& other) const noexcept {
    const auto end = [](const Py_buffer& b) { return static_cast<const char*>(b.buf) + b.len; };
    return end(view_) <= other.view_.buf || end(other.view_) <= view_.buf;
  }

 private:
  nb::handle array_;
  const char* name_;
  size_t element_;
  int64_t wanted_;
  int flags_;
  Py_buffer view_;
  bool held_;
};

// Gives up the interpreter lock while it lives, and looks for signals where this is the main thread.
class Released final : public Watch {
 public:
  explicit Released(bool release) : state_(release ? PyEval_SaveThread() : nullptr) {}
  ~Released() override { reacquire(); }
  Released(const Released&) = delete;
  Released& operator=(const Released&) = delete;

  Watch* watch() noexcept { return state_ != nullptr && gettid() == getpid() ? this : nullptr; }

  bool should_stop() noexcept override {
    PyEval_RestoreThread(state_);
    const bool stop = PyErr_CheckSignals() != 0;
    state_ = PyEval_SaveThread();
    return stop;
  }

  void reacquire() noexcept {
    if (state_ != nullptr) PyEval_RestoreThread(state_);
    state_ = nullptr;
  }

 private:
  PyThreadState* state_;
};

// Runs `work(crew)` without the interpreter lock where it may take long.
template <class Work>
void run_released(int threads, double seconds, const Work& work) {
  Released released(seconds > kWorthReleasing);
  try {
    Crew crew(threads, released.watch());
    work(crew);
  } catch (const Interrupted&) {
    released.reacquire();
    throw nb::python_error();
  }
}

int resolve_threads(int64_t threads) {
  if (threads < 0 || threads > INT32_MAX)
    throw ParameterError("threads: got " + std::to_string(threads) + "; need 0 to " +
                         std::to_string(INT32_MAX));
  return threads == 0 ? usable_cores() : static_cast<int>(threads);
}

// An axis that changes neither array.
bool trivial(const Axis& axis) noexcept {
  return axis.size == 1 && axis.out == 1 && axis.kernel == 1 && axis.pad_lo == 0;
}

Geometry make_geometry(int64_t batch, int64_t channels, int64_t filters, int64_t groups, bool channels_last,
                       const std::vector<std::vector<int64_t>>& axes) {
  Geometry g;
  g.batch = batch;
  g.channels = channels;
  g.filters = filters;
  g.groups = groups;
  g.channels_last = channels_last;
  if (axes.empty() || axes.size() > kAxes) {
    throw ShapeError("geometry: axes: got " + std::to_string(axes.size()) + "; need 1 to 3");
  }
  // Trivial axes go to the front, where they change neither array: the innermost loop then has the longest
  // axis.
  size_t next = kAxes;
  for (const auto& axis : axes) {
    if (axis.size() != 9)
      throw ShapeError("geometry: axis: got " + std::to_string(axis.size()) + " numbers; need 9");
  }
  for (size_t i = axes.size(); i-- > 0;) {
    const auto& a = axes[i];
    const Axis axis{a[0], a[1], a[2], a[3], a[4], a[5], a[8]};
    if (!trivial(axis)) g.axes[--next] = axis;
  }
  check(g);
  for (const auto& a : axes) {
    if (a[1] != (a[0] - 1) * a[3] + (a[2] - 1) * a[4] + 1 - a[5] - a[6] + a[7]) {
      throw ShapeError("geometry: axis: out " + std::to_string(a[1]) +
                       " does not follow from the other numbers");
    }
  }
  return g;
}

// The same problem for a small side of another shape, pads as they are; none where it has no such shape or
// where trivial axes change places.
std::optional<Geometry> resized(const Geometry& geometry, std::span<const Py_ssize_t> shape) {
  Geometry g = geometry;
  const size_t axes = shape.size() - 2;
  if (shape.size() < 3 || axes > kAxes || shape[g.channels_last ? axes + 1 : 1] != g.channels) return {};
  g.batch = shape[0];
  for (size_t a = 0; a < kAxes; ++a) {
    Axis& axis = g.axes[a];
    const bool absent = a < kAxes - axes;
    if (trivial(axis) != absent) return {};
    if (absent) continue;
    const int64_t size = shape[a - (kAxes - axes) + (g.channels_last ? 1 : 2)];
    int64_t more;
    if (__builtin_mul_overflow(size - axis.size, axis.stride, &more) ||
        __builtin_add_overflow(axis.out, more, &axis.out)) {
      return {};
    }
    axis.size = size;
    if (trivial(axis)) return {};
  }
  try {
    check(g);
  } catch (const std::exception&) {
    return {};
  }
  return g;
}

Problem make_problem(const Geometry& geometry, int pass, int dtype, uint64_t workspace, int64_t threads,
                     std::string_view isa, bool packed, std::array<double, 3> activation,
                     int winograd_points) {
  if (pass < 0 || pass > 2) throw ParameterError("pass: got " + std::to_string(pass) + "; need 0, 1 or 2");
  Problem problem;
  problem.pass = static_cast<Pass>(pass);
  problem.geometry = geometry;
  problem.dtype = dtype_of(dtype);
  problem.isa = isa_of(isa);
  problem.threads = resolve_threads(threads);
  problem.workspace = workspace;
  problem.packed = packed;
  problem.activation = {activation[0], activation[1], activation[2]};
  problem.winograd_points = winograd_points;
  if (problem.pass == Pass::weight_gradient && !problem.activation.none()) {
    throw ParameterError("activation: got one; the weight gradient has none");
  }
  return problem;
}

// The arrays of one run.
class Arrays {
 public:
  // `weight` is heeded where `packed` is null.
  Arrays(const Plan& plan, View& source, const PackedWeights* packed, nb::handle weight, nb::handle bias,
         nb::handle out)
      : plan_(plan),
        source_(source),
        out_(out, "out", elements(plan.problem(), true), plan.problem().dtype, true),
        packed_(packed) {
    const Problem& p = plan.problem();
    const bool gradient = p.pass == Pass::weight_gradient;
    source_.expect(elements(p, false), p.dtype);
    if (!bias.is_none()) {
      if (gradient) throw ParameterError("bias: got one; the weight gradient has none");
      bias_.emplace(bias, "bias", p.pass == Pass::forward ? p.geometry.filters : p.geometry.channels, p.dtype,
                    false);
    }
    if (packed_ == nullptr) {
      const int64_t wanted = gradient ? p.geometry.large_elements() : p.geometry.weight_elements();
      weight_.emplace(weight, gradient ? "large side" : "weight", wanted, p.dtype, false);
    }
  }

  // Whether all are as run() needs them, the output apart from the others.
  bool fit() const noexcept {
    const auto fits = [this](const View& view) { return view.fits() && out_.apart_from(view); };
    return out_.fits() && fits(source_) && (!bias_ || fits(*bias_)) && (!weight_ || fits(*weight_));
  }

  // Throws where one is not contiguous or has another number of bytes.
  void require() {
    source_.require();
    out_.require();
    if (bias_) bias_->require();
    if (weight_) weight_->require();
  }

  const View& out() const noexcept { return out_; }

  void run() const {
    const void* bias = bias_ ? bias_->data() : nullptr;
    run_released(plan_.problem().threads, plan_.seconds(), [&](Crew& crew) {
      if (weight_) {
        plan_.run(source_.data(), weight_->data(), bias, out_.data(), crew);
      } else {
        plan_.run_packed(source_.data(), *packed_, bias, out_.data(), crew);
      }
    });
  }

  // Of the source or the output.
  static int64_t elements(const Problem& problem, bool out) noexcept {
    const Geometry& g = problem.geometry;
    if (out && problem.pass == Pass::weight_gradient) return g.weight_elements();
    return (problem.pass == Pass::forward) == out && problem.pass != Pass::weight_gradient
               ? g.large_elements()
               : g.small_elements();
  }

 private:
  const Plan& plan_;
  View& source_;
  View out_;
  std::optional<View> bias_;
  std::optional<View> weight_;
  const PackedWeights* packed_;
};

void run_plan(const Plan& plan, nb::handle source, nb::handle weight, nb::handle bias, nb::handle out) {
  View from(source, "source", 0, plan.problem().dtype, false);
  const PackedWeights* packed = nullptr;
  nb::try_cast(weight, packed);
  Arrays arrays(plan, from, packed, weight, bias, out);
  arrays.require();
  arrays.run();
}

// With `keeper` the packed weights keep the array, else a copy where they need it.
std::shared_ptr<PackedWeights> pack_plan(const Plan& plan, nb::handle weight,
                                         std::shared_ptr<const void> keeper) {
  const Problem& p = plan.problem();
  if (p.pass == Pass::weight_gradient) throw ParameterError("pack: the weight gradient has no weights");
  View from(weight, "weight", p.geometry.weight_elements(), p.dtype, false);
  from.require();
  std::shared_ptr<PackedWeights> packed;
  run_released(p.threads, 1, [&](Crew& crew) {
    packed = std::make_shared<PackedWeights>(plan.pack({from.data(), std::move(keeper)}, crew));
  });
  return packed;
}

// Weights that do not change, packed in every order that a plan has asked for. An order depends on kernel,
// stride and groups, seldom on sizes, so there is mostly one. Many sizes are met a few times only, so where
// plans also take plain weights, another order is packed by and by, from the second call on that asks for it.
class KeptWeights {
 public:
  explicit KeptWeights(nb::object plain)
      : plain_(std::move(plain)), keeper_(std::make_shared<nb::object>(plain_)) {}

  // For one call of a plan; null where plain weights serve it.
  std::shared_ptr<PackedWeights> packed_for(const Plan& plan) {
    if (auto known = look(plan)) return known;
    if (!orders_.empty() && plan.takes_plain()) return advance(plan);
    auto packed = pack_plan(plan, plain_, keeper_);
    // Another thread may have packed them meanwhile.
    if (auto known = look(plan)) return known;
    return keep(std::move(packed));
  }

  nb::object operand_for(const Plan& plan) {
    auto packed = packed_for(plan);
    return packed == nullptr ? plain_ : nb::cast(std::move(packed));
  }

  nb::handle plain() const noexcept { return plain_; }

  // Of all orders together, the plain one not counted.
  size_t bytes() const noexcept {
    size_t sum = 0;
    for (const auto& order : alive_) {
      if (const auto packed = order.lock()) sum += packed->bytes();
    }
    for (const auto& [key, begun] : begun_) {
      if (begun->packing) sum += begun->packing->bytes();
    }
    return sum;
  }

 private:
  static constexpr size_t kMostOrders = 4;
  // Of the time of a call, what packing may add to it.
  static constexpr double kPackingShare = 0.25;

  // An order that was asked for.
  struct Begun {
    std::optional<Packing> packing;  // from the second call on
    pid_t packer = 0;                // the process of which a thread packs now
  };

  std::shared_ptr<PackedWeights> look(const Plan& plan) const noexcept {
    for (const auto& packed : orders_) {
      if (packed->key() == plan.packing_key()) return packed;
    }
    return nullptr;
  }

  std::shared_ptr<PackedWeights> keep(std::shared_ptr<PackedWeights> packed) {
    std::erase_if(alive_, [](const auto& order) { return order.expired(); });
    alive_.emplace_back(packed);
    if (orders_.size() >= kMostOrders) orders_.clear();
    return orders_.emplace_back(std::move(packed));
  }

  // Packs a part of the weights; null where not all are packed yet.
  std::shared_ptr<PackedWeights> advance(const Plan& plan) {
    auto [place, first] = begun_.try_emplace(plan.packing_key());
    if (first) place->second = std::make_shared<Begun>();
    // Held, for the interpreter lock is given up.
    const std::shared_ptr<Begun> begun = place->second;
    // After a fork the child has not the thread that packed.
    if (first || begun->packer == getpid()) return nullptr;
    if (!begun->packing) {
      const auto packing =
          std::ranges::count_if(begun_, [](const auto& b) { return b.second->packing.has_value(); });
      if (orders_.size() + static_cast<size_t>(packing) >= kMostOrders) return nullptr;
      begun->packing.emplace(plan);
    }
    const Problem& p = plan.problem();
    View from(plain_, "weight", p.geometry.weight_elements(), p.dtype, false);
    from.require();
    bool all = false;
    struct Turn {
      pid_t& packer;
      explicit Turn(pid_t& of) : packer(of) { packer = getpid(); }
      ~Turn() { packer = 0; }
    };
    {
      const Turn turn(begun->packer);
      run_released(p.threads, 1, [&](Crew& crew) {
        all = begun->packing->advance(plan, from.data(), plan.seconds() * kPackingShare, crew);
      });
    }
    if (!all) return nullptr;
    auto packed = std::make_shared<PackedWeights>(begun->packing->finish({from.data(), keeper_}));
    begun_.erase(plan.packing_key());
    return keep(std::move(packed));
  }

  nb::object plain_;
  std::shared_ptr<const void> keeper_;  // of the plain array
  std::vector<std::shared_ptr<PackedWeights>> orders_;
  // With those that made room for others and are still bound.
  std::vector<std::weak_ptr<PackedWeights>> alive_;
  std::unordered_map<std::string, std::shared_ptr<Begun>> begun_;
};

// Smaller arrays are had sooner from NumPy.
constexpr size_t kLeastMemory = size_t{1} << 17;

// The memory of a large array, kept for the next when it is freed. NumPy takes it through the buffer
// protocol.
class Memory {
 public:
  explicit Memory(size_t bytes) : bytes_(bytes), output_(obtain_output(bytes)) {
    if (output_.data == nullptr) throw std::bad_alloc();
  }
  ~Memory() { give_output(output_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  static int get_buffer(PyObject* self, Py_buffer* view, int flags) noexcept {
    const auto* memory = nb::inst_ptr<Memory>(self);
    return PyBuffer_FillInfo(view, self, memory->output_.data, static_cast<Py_ssize_t>(memory->bytes_), 0,
                             flags);
  }

 private:
  size_t bytes_;
  Output output_;
};

using Shape = nb::typed<nb::tuple, int64_t, nb::ellipsis>;

// A pass, for arrays that need no care, whose plan is found by the shape of the source.
class Bound {
 public:
  Bound(nb::object dtype, std::shared_ptr<KeptWeights> weights, bool resizes)
      : dtype_(std::move(dtype)), weights_(std::move(weights)), resizes_(resizes) {
    const auto numpy = nb::module_::import_("numpy");
    empty_ = numpy.attr("empty");
    ndarray_ = numpy.attr("ndarray");
    dtype_name_ = nb::steal(PyUnicode_InternFromString("dtype"));
    if (!dtype_name_.is_valid()) throw nb::python_error();
  }

  void add(std::shared_ptr<Plan> plan, const std::vector<Py_ssize_t>& source, Shape result) {
    insert({source, std::move(plan), {}, std::move(result)});
  }

  bool knows(const std::vector<Py_ssize_t>& source) const noexcept { return find(source) != nullptr; }

  // None, with nothing done, where an array needs care or the shape of the source is unknown.
  nb::object call(nb::handle source, nb::handle weight, nb::handle bias, nb::handle out) {
    if (!has_dtype(source) || !(out.is_none() || has_dtype(out))) return nb::none();
    View from(source, "source", 0, DType::f32, false);
    if (!from.held()) return nb::none();
    const Entry* found = find(from.shape());
    if (found == nullptr) found = resize(from.shape());
    if (found == nullptr) return nb::none();
    // Held, for others may change the entries where the interpreter lock is given up.
    const std::shared_ptr<const Plan> plan = found->plan;
    const Shape shape = found->result;
    std::shared_ptr<const PackedWeights> packed = found->packed;
    if (weights_ != nullptr && packed == nullptr) packed = pack(*plan, from.shape());
    nb::object result = out.is_none() ? make(*plan, shape) : nb::borrow(out);
    Arrays arrays(*plan, from, packed.get(), weights_ == nullptr ? weight : weights_->plain(), bias, result);
    if (!arrays.fit() || (!out.is_none() && !has_shape(arrays.out(), shape))) return nb::none();
    arrays.run();
    return result;
  }

 private:
  struct Entry {
    std::vector<Py_ssize_t> source;
    std::shared_ptr<const Plan> plan;
    std::shared_ptr<const PackedWeights> packed;  // once asked for
    Shape result;
  };

  static uint64_t hash(std::span<const Py_ssize_t> shape) noexcept {
    uint64_t hash = shape.size();
    for (const Py_ssize_t size : shape) hash = (hash ^ static_cast<uint64_t>(size)) * 0x9e3779b97f4a7c15u;
    return hash;
  }

  const Entry* find(std::span<const Py_ssize_t> source) const noexcept {
    const uint64_t wanted = hash(source);
    for (size_t i = 0; i < hashes_.size(); ++i) {
      if (hashes_[i] == wanted && std::ranges::equal(entries_[i].source, source)) return &entries_[i];
    }
    return nullptr;
  }

  const Entry* insert(Entry entry) {
    constexpr size_t most = 64;
    if (entries_.size() >= most) {
      entries_.clear();
      hashes_.clear();
    }
    hashes_.push_back(hash(entry.source));
    entries_.push_back(std::move(entry));
    return &entries_.back();
  }

  // The entry for a source of another shape, all else being equal; null where only solving anew can tell.
  const Entry* resize(std::span<const Py_ssize_t> source) {
    if (!resizes_ || entries_.empty() || source.size() != entries_.back().source.size()) return nullptr;
    const Plan& near = *entries_.back().plan;
    Problem problem = near.problem();
    const auto geometry = resized(problem.geometry, source);
    if (!geometry) return nullptr;
    problem.geometry = *geometry;
    std::vector<Py_ssize_t> large(source.begin(), source.end());
    const size_t axes = source.size() - 2;
    const size_t first = geometry->channels_last ? 1 : 2;
    large[geometry->channels_last ? axes + 1 : 1] = geometry->filters;
    for (size_t a = 0; a < axes; ++a) large[first + a] = geometry->axes[kAxes - axes + a].out;
    Shape result = nb::steal<Shape>(PyTuple_New(static_cast<Py_ssize_t>(large.size())));
    if (!result.is_valid()) throw nb::python_error();
    for (size_t a = 0; a < large.size(); ++a) {
      PyObject* size = PyLong_FromSsize_t(large[a]);
      if (size == nullptr || PyTuple_SetItem(result.ptr(), static_cast<Py_ssize_t>(a), size) != 0)
        throw nb::python_error();
    }
    return insert(
        {{source.begin(), source.end()}, find_plan(problem, "", &near), nullptr, std::move(result)});
  }

  // Packs if that pays, and keeps it with the entry of `source` if that is still there.
  std::shared_ptr<const PackedWeights> pack(const Plan& plan, std::span<const Py_ssize_t> source) {
    std::shared_ptr<const PackedWeights> packed = weights_->packed_for(plan);
    if (packed == nullptr) return packed;
    for (Entry& entry : entries_) {
      if (std::ranges::equal(entry.source, source)) entry.packed = packed;
    }
    return packed;
  }

  bool has_dtype(nb::handle array) const {
    const nb::object found = nb::steal(PyObject_GetAttr(array.ptr(), dtype_name_.ptr()));
    if (!found.is_valid()) throw nb::python_error();
    // NumPy makes several of one type.
    return found.is(dtype_) || found.equal(dtype_);
  }

  static bool has_shape(const View& array, const Shape& shape) {
    const auto sizes = array.shape();
    if (sizes.size() != shape.size()) return false;
    for (size_t a = 0; a < sizes.size(); ++a) {
      if (sizes[a] != nb::cast<Py_ssize_t>(shape[a])) return false;
    }
    return true;
  }

  // An array of undefined content. Throws OutOfMemoryError.
  nb::object make(const Plan& plan, const Shape& shape) const {
    const Problem& p = plan.problem();
    const size_t bytes = static_cast<size_t>(Arrays::elements(p, true)) * storage_bytes(p.dtype);
    try {
      if (bytes < kLeastMemory) return empty_(shape, dtype_);
      return ndarray_(shape, dtype_, nb::cast(new Memory(bytes), nb::rv_policy::take_ownership));
    } catch (const std::bad_alloc&) {
    } catch (nb::python_error& error) {
      if (!error.matches(PyExc_MemoryError) && !error.matches(PyExc_ValueError)) throw;
    }
    throw OutOfMemoryError(std::string("output: shape ") + nb::repr(shape).c_str() + " of " +
                           nb::str(dtype_).c_str() + " does not fit in memory");
  }

  nb::object dtype_;
  std::shared_ptr<KeptWeights> weights_;
  bool resizes_;
  nb::object empty_;
  nb::object ndarray_;
  nb::object dtype_name_;
  std::vector<uint64_t> hashes_;  // of the sources of entries
  std::vector<Entry> entries_;
};

void sum_over_maps(nb::handle grad, int64_t outer, int64_t maps, int64_t inner, int dtype, nb::handle out,
                   std::string_view isa, int64_t threads) {
  const DType type = dtype_of(dtype);
  const Isa set = isa_of(isa);
  View from(grad, "grad", checked_product({outer, maps, inner}), type, false);
  from.require();
  View to(out, "out", maps, type, true);
  to.require();
  run_released(resolve_threads(threads), static_cast<double>(outer * maps * inner) / 2e9, [&](Crew& crew) {
    bias_gradient(from.data(), outer, maps, inner, type, to.data(), set, crew);
  });
}

uint64_t fingerprint_of(nb::handle array, int64_t elements, int dtype, int64_t threads) {
  const DType type = dtype_of(dtype);
  View from(array, "array", elements, type, false);
  from.require();
  const size_t bytes = static_cast<size_t>(elements) * storage_bytes(type);
  uint64_t found = 0;
  run_released(resolve_threads(threads), static_cast<double>(bytes) / 10e9,
               [&](Crew& crew) { found = fingerprint(from.data(), bytes, crew); });
  return found;
}

// Numbers by row, or None.
class RowView {
 public:
  RowView(const std::tuple<nb::object, int64_t>& given, const char* name) {
    const auto& [array, period] = given;
    if (array.is_none()) return;
    if (period < 1)
      throw ShapeError(std::string(name) + ": got period " + std::to_string(period) + "; need 1 or more");
    view_.emplace(array, name, period, DType::f32, false).require();
    rows_ = {static_cast<const float*>(view_->data()), period};
  }

  ByRow rows() const noexcept { return rows_; }

 private:
  std::optional<View> view_;
  ByRow rows_;
};

void run_pointwise(nb::handle x, nb::handle z, const std::tuple<nb::object, int64_t>& scale,
                   const std::tuple<nb::object, int64_t>& shift, const std::tuple<nb::object, int64_t>& slope,
                   int bend, int64_t rows, int64_t inner, nb::handle out, std::string_view isa,
                   int64_t threads) {
  if (bend < 0 || bend > static_cast<int>(Bend::tanh))
    throw ParameterError("bend: got " + std::to_string(bend) + "; need 0 to 3");
  const int64_t elements = checked_product({rows, inner});
  View from(x, "x", elements, DType::f32, false);
  View to(out, "out", elements, DType::f32, true);
  std::optional<View> other;
  from.require();
  to.require();
  if (!z.is_none()) other.emplace(z, "z", elements, DType::f32, false).require();
  const RowView scales(scale, "scale");
  const RowView shifts(shift, "shift");
  const RowView slopes(slope, "slope");
  const Isa chosen = isa_of(isa);
  if (elements == 0) return;
  run_released(resolve_threads(threads), static_cast<double>(elements) / 2e9, [&](Crew& crew) {
    pointwise(static_cast<const float*>(from.data()),
              other ? static_cast<const float*>(other->data()) : nullptr, scales.rows(), shifts.rows(),
              slopes.rows(), static_cast<Bend>(bend), rows, inner, static_cast<float*>(to.data()), chosen,
              crew);
  });
}

void run_pool(nb::handle source, int64_t maps, const std::vector<std::vector<int64_t>>& axes,
              nb::handle factor_rows, nb::handle factor_columns, nb::handle out, std::string_view isa,
              int64_t threads) {
  if (axes.size() != 2 || axes[0].size() != 5 || axes[1].size() != 5)
    throw ShapeError("pool: axes: got other than 2 times 5 numbers");
  for (const auto& axis : axes) {
    if (std::ranges::any_of(axis, [](int64_t number) { return number < 0 || number > INT32_MAX; }) ||
        axis[3] < 1)
      throw ShapeError("pool: axes: got a number out of range");
  }
  const auto& h = axes[0];
  const auto& w = axes[1];
  View from(source, "source", checked_product({maps, h[0], w[0]}), DType::f32, false);
  View to(out, "out", checked_product({maps, h[1], w[1]}), DType::f32, true);
  from.require();
  to.require();
  std::optional<View> rows;
  std::optional<View> columns;
  if (!factor_rows.is_none()) {
    rows.emplace(factor_rows, "factor_rows", h[1], DType::f32, false).require();
    columns.emplace(factor_columns, "factor_columns", w[1], DType::f32, false).require();
  }
  const PoolArgs map{.src = static_cast<const float*>(from.data()),
                     .out = static_cast<float*>(to.data()),
                     .rows = h[0],
                     .columns = w[0],
                     .out_rows = h[1],
                     .out_columns = w[1],
                     .kernel_rows = h[2],
                     .kernel_columns = w[2],
                     .stride_rows = h[3],
                     .stride_columns = w[3],
                     .pad_rows = h[4],
                     .pad_columns = w[4],
                     .factor_rows = rows ? static_cast<const float*>(rows->data()) : nullptr,
                     .factor_columns = columns ? static_cast<const float*>(columns->data()) : nullptr};
  const Isa chosen = isa_of(isa);
  const double taps = static_cast<double>(maps * h[1] * w[1] * h[2] * w[2]);
  run_released(resolve_threads(threads), taps / 2e9, [&](Crew& crew) { pool(map, maps, chosen, crew); });
}

void raise_as(const char* name, const char* message) {
  PyObject* module = PyImport_ImportModule("tconv.errors");
  if (module == nullptr) return;
  PyObject* type = PyObject_GetAttrString(module, name);
  Py_DECREF(module);
  if (type == nullptr) return;
  PyErr_SetString(type, message);
  Py_DECREF(type);
}

void translate(const std::exception_ptr& thrown, void*) {
  try {
    std::rethrow_exception(thrown);
  } catch (const ShapeError& error) {
    raise_as("ShapeError", error.what());
  } catch (const ParameterError& error) {
    raise_as("ParameterError", error.what());
  } catch (const OutOfMemoryError& error) {
    raise_as("OutOfMemoryError", error.what());
  } catch (const std::bad_alloc&) {
    raise_as("OutOfMemoryError", "engine: out of memory");
  }
}

}  // namespace
}  // namespace tconv

NB_MODULE(_core, m) {
  using namespace tconv;
  using namespace nb::literals;
  m.doc() = "The native engine of tconv.";
  nb::register_exception_translator(translate);
  // Plans stay with geometries that may outlive the interpreter's last look around.
  nb::set_leak_warnings(false);

  nb::class_<Geometry>(m, "Geometry", "A problem in solved integers.")
      .def(
          "__init__",
          [](Geometry* self, int64_t batch, int64_t channels, int64_t filters, int64_t groups,
             bool channels_last, const std::vector<std::vector<int64_t>>& axes) {
            new (self) Geometry(make_geometry(batch, channels, filters, groups, channels_last, axes));
          },
          "batch"_a, "channels"_a, "filters"_a, "groups"_a, "channels_last"_a, "axes"_a,
          "An axis is (size, out, kernel, stride, dilation, pad_lo, pad_hi, adj, grid).");

  nb::class_<PackedWeights>(m, "PackedWeights", "Weights in the order of a plan.")
      .def_prop_ro("nbytes", &PackedWeights::bytes)
      .def_prop_ro("finite", [](const PackedWeights& weights) { return weights.packed() != nullptr; });

  nb::class_<Plan>(m, "Plan", "A problem and the way it will be solved.")
      .def("run", &run_plan, "source"_a, "weight"_a.none(), "bias"_a.none(), "out"_a,
           "Compute. The weight gradient takes the large side in place of the weight.")
      .def(
          "pack", [](const Plan& plan, nb::handle weight) { return pack_plan(plan, weight, nullptr); },
          "weight"_a, "Return the weights in the order this plan wants.")
      .def_prop_ro("algorithm", &Plan::algorithm)
      .def_prop_ro("kernel", [](const Plan& plan) { return plan.recipe().kernel(); })
      .def_prop_ro("isa", [](const Plan& plan) { return name_of(plan.problem().isa); })
      .def_prop_ro("threads", [](const Plan& plan) { return plan.problem().threads; })
      .def_prop_ro("workspace_bytes", [](const Plan& plan) { return plan.recipe().workspace_bytes(); })
      .def_prop_ro("packing_key", &Plan::packing_key)
      .def_prop_ro("takes_plain", &Plan::takes_plain,
                   "Whether a plan for packed weights also takes plain ones, for the same bits.")
      .def_prop_ro("packed_bytes", [](const Plan& plan) { return plan.recipe().packed_bytes(); })
      .def_prop_ro("seconds", &Plan::seconds)
      .def_prop_ro("flops", [](const Plan& plan) { return 2 * plan.problem().geometry.multiply_adds(); })
      .def_prop_ro(
          "array_bytes",
          [](const Plan& plan) {
            const Geometry& g = plan.problem().geometry;
            return static_cast<size_t>(g.small_elements() + g.large_elements() + g.weight_elements()) *
                   storage_bytes(plan.problem().dtype);
          })
      .def_prop_ro("refusals", &Plan::refusals)
      .def_prop_ro("costs", &Plan::costs);

  nb::class_<KeptWeights>(m, "KeptWeights",
                          "Weights that do not change, packed in every order that a plan has asked for.")
      .def(nb::init<nb::object>(), "plain"_a)
      .def("operand_for", &KeptWeights::operand_for, "plan"_a,
           "Return the weights for one call of a plan: in its order, or plain where packing them does not "
           "pay.")
      .def_prop_ro("nbytes", &KeptWeights::bytes, "Bytes of all orders together, the plain one not counted.");

  nb::class_<Bound>(m, "Bound",
                    "A pass, for arrays that need no care, whose plan is found by the source's shape.")
      .def(nb::init<nb::object, std::shared_ptr<KeptWeights>, bool>(), "dtype"_a, "weights"_a.none(),
           "resizes"_a,
           "With `weights` those given to calls are not heeded; with `resizes` plans for other sizes of the "
           "small side "
           "follow from the latest.")
      .def("add", &Bound::add, "plan"_a, "source"_a, "result"_a,
           "Let calls with this shape of the source run a plan.")
      .def("knows", &Bound::knows, "source"_a, "Return whether there is a plan for this shape of the source.")
      .def("__call__", &Bound::call, "source"_a, "weight"_a.none(), "bias"_a.none(), "out"_a.none(),
           "Return the result, in `out` if that is given; None, with nothing done, where there is no plan or "
           "an "
           "array is strided, misaligned, of another type, or overlaps the result.");

  static PyType_Slot buffer[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(&Memory::get_buffer)},
                                 {0, nullptr}};
  nb::class_<Memory>(m, "Memory", nb::type_slots(buffer),
                     "Bytes of undefined content, kept for the next that asks when they are freed.")
      .def(nb::init<size_t>(), "size"_a);
  m.attr("LEAST_MEMORY") = kLeastMemory;

  m.def(
      "plan",
      [](const Geometry& geometry, int pass, int dtype, uint64_t workspace, int64_t threads,
         std::string_view isa, std::string_view algorithm, bool packed, std::array<double, 3> activation,
         int winograd_points) {
        return std::const_pointer_cast<Plan>(find_plan(
            make_problem(geometry, pass, dtype, workspace, threads, isa, packed, activation, winograd_points),
            algorithm));
      },
      "geometry"_a, "pass_"_a, "dtype"_a, "workspace"_a, "threads"_a, "isa"_a, "algorithm"_a, "packed"_a,
      "activation"_a, "winograd_points"_a,
      "Return the plan of a problem, remembered. Pass 0 is forward, 1 the data gradient, 2 the weight "
      "gradient; "
      "dtype is MXNet's number; threads 0 is every core; empty texts leave the choice; an activation is "
      "(slope below zero, low, high); a Winograd tile has so many points along an axis at most.");
  m.def("usual_batch", &usual_batch, "geometry"_a, "The batch for which algorithms are compared.");
  m.def("usual_size", &usual_size, "size"_a,
        "The size of an axis of the small side for which they are compared in the forward pass.");
  m.def("bias_gradient", &sum_over_maps, "grad"_a, "outer"_a, "maps"_a, "inner"_a, "dtype"_a, "out"_a,
        "isa"_a, "threads"_a, "Sum an array of (outer, maps, inner) over all but its maps.");

  m.def("fingerprint", &fingerprint_of, "array"_a, "elements"_a, "dtype"_a, "threads"_a,
        "Return a number of 64 bits that tells whether the array's bytes have changed.");
  m.def("pointwise", &run_pointwise, "x"_a, "z"_a.none(), "scale"_a, "shift"_a, "slope"_a, "bend"_a, "rows"_a,
        "inner"_a, "out"_a, "isa"_a, "threads"_a,
        "Write bend(x * scale + shift + z), float32; scale, shift and slope are pairs of numbers by row, or "
        "None, and the number of rows after which they begin anew.");
  m.def("pool", &run_pool, "source"_a, "maps"_a, "axes"_a, "factor_rows"_a.none(), "factor_columns"_a.none(),
        "out"_a, "isa"_a, "threads"_a,
        "Write the largest element of every window of float32 maps, or sums times factors. An axis is (size, "
        "out, kernel, stride, pad).");

  m.def(
      "peak", [](int dtype, std::string_view isa) { return measured_peak(dtype_of(dtype), isa_of(isa)); },
      "dtype"_a, "isa"_a, "Measure the operations a second of the product kernels, on one thread.");
  m.def(
      "use_team", [](uintptr_t address) { use_team(reinterpret_cast<Team>(address)); }, "address"_a,
      "Take the threads of the GOMP_parallel at an address; 0 for the pool's own.");
  m.def("cores", &usable_cores, "Number of cores this process may use.");
  m.def("quota_cores", &quota_cores, "root"_a = "",
        "Cores of the quotas of control groups, rounded up; 0 for none. Files lie below the folder `root`.");
  m.def(
      "isas",
      [] {
        std::vector<std::string> names;
        for (const Isa isa : usable_isas()) names.emplace_back(name_of(isa));
        return names;
      },
      "Instruction sets of this processor, best first.");
  m.def("algorithms", &algorithm_names, "Names of the algorithms, best first.");
  m.def(
      "kernels",
      [] {
        std::vector<std::string> names;
        for (const Kernel& kernel : all_kernels()) names.emplace_back(kernel.name);
        return names;
      },
      "Names of the kernels of this build.");

  m.def(
      "cache_counters",
      [] {
        const CacheCounters c = cache_counters();
        return std::tuple(c.hits, c.misses, c.size, c.limit);
      },
      "Hits, misses, plans and limit of the plan cache.");
  m.def("limit_cache", &limit_cache, "limit"_a, "Keep at most this many plans.");
  m.def("clear_cache", &clear_cache, "Forget every plan.");

  m.def("memory_current", [] { return memory_counters().current; }, "Temporary and packed bytes in use.");
  m.def("memory_peak", [] { return memory_counters().peak; }, "Most of them since the last reset.");
  m.def(
      "memory_kept", [] { return memory_counters().kept; }, "Bytes of freed buffers kept for the next call.");
  m.def("reset_memory_peak", &reset_memory_peak, "Start the peak anew.");
  m.def("limit_kept_outputs", &limit_kept_outputs, "limit"_a, "Keep at most so many bytes of freed outputs.");
  m.def("trim_memory", &trim_memory, "Return kept buffers to the system.");
  m.def("fail_allocation", &fail_allocation, "after"_a,
        "Make the allocation after the next `after` fail, once; negative for never.");
}
