// Weight gradient as dot products along positions, which are the lanes: the small side is read where it lies,
// the large side is taken apart by the residues of the stride, so that a tap only shifts where it is read.
// Sums are never shared out.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "algorithms/planes.hpp"
#include "longdots_abi.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "packing.hpp"

namespace tconv {
namespace {

constexpr int64_t kMostTaps = 1 << 12;
constexpr int64_t kNearBytes = 40 << 10;   // of what a tile reads of a block
constexpr int64_t kMostPositions = 4096;   // of a block
constexpr size_t kPlaneBytes = 384 << 10;  // of the large side that is taken apart at a time
constexpr int64_t kLineElements = 16;
// What a tile costs beside its products: for each of its sums, for each segment, and for a vector of a plane
// that comes from the second cache.
constexpr double kSumSeconds = 4 / machine::kHertz;
constexpr double kSegmentSeconds = 10 / machine::kHertz;
constexpr double kPlaneSeconds = 1.3 / machine::kHertz;
// A vector of the large side read and taken apart, and a row of it beside.
constexpr double kApartSeconds = 6 / machine::kHertz;
constexpr double kRowSeconds = 60 / machine::kHertz;

// How positions are cut into blocks: the samples, and the sizes of a box of each.
struct Block {
  int64_t samples = 1;
  int64_t size[kAxes] = {1, 1, 1};

  int64_t positions() const noexcept { return samples * size[0] * size[1] * size[2]; }
  bool halve() noexcept {
    for (int64_t* part : {&samples, &size[0], &size[1], &size[2]}) {
      if (*part == 1) continue;
      *part = (*part + 1) / 2;
      return true;
    }
    return false;
  }
  // Whole rows, then whole planes, then whole samples as long as they stay below so many positions.
  static Block upto(const Geometry& g, int64_t most, int64_t lanes) noexcept {
    const auto even = [](int64_t size, int64_t part) {
      return ceil_div(size, ceil_div(size, std::clamp<int64_t>(part, 1, size)));
    };
    Block block;
    const auto& [z, y, x] = g.axes;
    block.size[2] = even(x.size, most);
    if (block.size[2] < x.size) {
      block.size[2] = std::min(x.size, ceil_div(block.size[2], lanes) * lanes);
      return block;
    }
    block.size[1] = even(y.size, most / x.size);
    if (block.size[1] < y.size) return block;
    block.size[0] = even(z.size, most / (x.size * y.size));
    if (block.size[0] < z.size) return block;
    block.samples = even(g.batch, most / g.small_positions());
    return block;
  }
};

struct Cut {
  Planes planes[kAxes];
  const Kernel* kernel = nullptr;
  Block block;
  int64_t part = 1;  // filters whose planes are made at a time
  double seconds = 0;

  explicit Cut(const Problem& problem)
      : planes{Planes(problem.geometry.axes[0]), Planes(problem.geometry.axes[1]),
               Planes(problem.geometry.axes[2])} {
    for (const Kernel& kernel : kernels(Family::longdots, problem.dtype, problem.isa))
      try_kernel(problem, kernel);
  }

  int64_t extent(int axis) const noexcept { return block.size[axis] + planes[axis].spread; }
  int64_t count() const noexcept { return planes[0].count() * planes[1].count() * planes[2].count(); }
  // Elements from a plane to the next: an odd number of lines, or planes meet in one set of the cache.
  int64_t pitch() const noexcept {
    return (ceil_div(extent(0) * extent(1) * extent(2), kLineElements) | 1) * kLineElements;
  }
  int64_t sample_elements() const noexcept { return part * count() * pitch(); }
  // Whether rows of a block follow each other in planes and in the small side, and so do layers of them.
  bool joins_rows(const Geometry& g) const noexcept {
    return planes[2].spread == 0 && block.size[2] == g.axes[2].size;
  }
  bool joins_layers(const Geometry& g) const noexcept {
    return joins_rows(g) && planes[1].spread == 0 && block.size[1] == g.axes[1].size;
  }

 private:
  void try_kernel(const Problem& problem, const Kernel& kernel) {
    const Geometry& g = problem.geometry;
    const int64_t lanes = static_cast<int64_t>(machine::lanes(compute_dtype(problem.dtype), problem.isa));
    const auto element = static_cast<int64_t>(compute_bytes(problem.dtype));
    const int64_t rows = kernel.rows;
    const int64_t columns = kernel.lanes;
    const int64_t channels = g.channels / g.groups;
    const int64_t filters = g.filters / g.groups;
    const int64_t most = rows == 1
                             ? kMostPositions
                             : std::max(lanes, kNearBytes / ((rows + columns) * element) / lanes * lanes);
    const Kernel* const best = this->kernel;
    const Block best_block = block;
    const int64_t best_part = part;
    this->kernel = &kernel;
    block = Block::upto(g, most, lanes);
    part = 1;
    const auto filter_bytes = [&] {
      return static_cast<size_t>(block.samples * count() * pitch() * element);
    };
    while (filter_bytes() > kPlaneBytes && block.halve()) {
    }
    part = std::clamp<int64_t>(static_cast<int64_t>(kPlaneBytes / filter_bytes()), 1, filters);
    part = ceil_div(filters, ceil_div(filters, part));

    const int64_t depth =
        block.size[2] * (joins_rows(g) ? block.size[1] : 1) * (joins_layers(g) ? block.size[0] : 1);
    const auto steps = static_cast<double>(ceil_div(depth, lanes));
    const double cycle = vector_floats(problem.isa) >= 16 ? 1.0 : 0.5;
    const auto made = static_cast<double>(rows * columns);
    // Taps that only shift read the same plane.
    const double shared = static_cast<double>(count()) / static_cast<double>(g.taps());
    const double step = std::max(made, 1.3 * static_cast<double>(rows + columns)) * cycle / machine::kHertz +
                        static_cast<double>(columns) * shared * kPlaneSeconds;
    const auto tiles = static_cast<double>(ceil_div(channels, rows) * ceil_div(part * g.taps(), columns) *
                                           ceil_div(filters, part));
    const auto positions = static_cast<double>(g.batch * g.groups * g.small_positions());
    const double halo = static_cast<double>(extent(0) * extent(1) * extent(2)) /
                        static_cast<double>(block.size[0] * block.size[1] * block.size[2]);
    const double apart = positions / static_cast<double>(block.size[2]) * halo *
                         static_cast<double>(filters * planes[0].count() * planes[1].count());
    const auto vectors = static_cast<double>(ceil_div(extent(2), lanes) * planes[2].count());
    const auto arrays = static_cast<double>(g.small_elements() + g.large_elements() + g.weight_elements());
    const double cost =
        positions * tiles *
            ((steps * step + kSegmentSeconds) / static_cast<double>(depth) +
             made * kSumSeconds / static_cast<double>(block.positions())) +
        apart * (vectors * kApartSeconds + kRowSeconds) +
        machine::far_seconds(problem, arrays * static_cast<double>(storage_bytes(problem.dtype)));
    if (best != nullptr && seconds <= cost) {
      this->kernel = best;
      block = best_block;
      part = best_part;
    } else {
      seconds = cost;
    }
  }
};

template <class E>
class WeightDots final : public Recipe {
 public:
  using S = typename E::storage;
  using T = typename E::compute;

  explicit WeightDots(const Problem& problem)
      : problem_(problem),
        cut_(problem),
        load_(tconv::kernel(Family::load, problem.dtype, problem.isa)),
        store_(tconv::kernel(Family::store, problem.dtype, problem.isa)),
        channels_(problem.geometry.channels / problem.geometry.groups),
        filters_(problem.geometry.filters / problem.geometry.groups),
        taps_(problem.geometry.taps()) {
    shrink();
    for (int a = 0; a < kAxes; ++a) within_[a] = problem.geometry.axes[a].within();
  }

  void list() override {
    for (Planes& axis : cut_.planes) axis.list();
  }

  std::string kernel() const override { return cut_.kernel->name; }
  size_t workspace_bytes() const noexcept override { return total(); }

  bool run(const Call& call) const override {
    const Buffer scratch(total());
    T* sums = reinterpret_cast<T*>(scratch.data());
    if constexpr (sizeof(S) == sizeof(T)) sums = static_cast<T*>(call.out);
    call.crew.limit(threads_);
    const Geometry& g = problem_.geometry;
    const int64_t parts = ceil_div(filters_, cut_.part);
    // Few parts of filters are shared out by channels, for which every thread makes the planes.
    const int64_t tiles = ceil_div(channels_, cut_.kernel->rows);
    int64_t shares = 1;
    while (shares < tiles && g.groups * parts * shares < 4 * threads_ &&
           g.groups * parts * shares % threads_ != 0)
      ++shares;
    std::atomic<bool> finite{true};
    call.crew.share(g.groups * parts * shares, cut_.seconds, [&](int64_t unit, int member) noexcept {
      if (!finite.load(std::memory_order_relaxed)) return;
      const int64_t share = unit % shares;
      const int64_t part = unit / shares % parts;
      Unit of{};
      of.group = unit / shares / parts;
      of.filter = part * cut_.part;
      of.filters = std::min(cut_.part, filters_ - of.filter);
      of.channel = tiles * share / shares * cut_.kernel->rows;
      of.channels = std::min(tiles * (share + 1) / shares * cut_.kernel->rows, channels_) - of.channel;
      Worker worker{};
      lay_out(scratch.data() + sums_bytes() + static_cast<size_t>(member) * worker_bytes(), &worker);
      if (part == 0 && !finite_beside(static_cast<const S*>(call.source), of, Pace(call.crew, member))) {
        finite.store(false, std::memory_order_relaxed);
        return;
      }
      sum_unit(call, worker, sums, of, member);
    });
    // Zeros stood for what lies beside the large side.
    if (!finite.load()) return false;
    if constexpr (sizeof(S) != sizeof(T)) {
      store_(MoveArgs{sums, 0, 1, call.out, 0, 1, 1, g.weight_elements()});
    }
    return true;
  }

 private:
  // Sums that are made together.
  struct Unit {
    int64_t group;
    int64_t filter, filters;
    int64_t channel, channels;
  };
  struct Worker {
    T* planes;  // [sample][filter][residue z, y, x][z][y][x]
    int64_t* small_offset;
    int64_t* large_offset;
    int64_t* column;
  };
  struct Box {
    int64_t sample, samples;
    int64_t begin[kAxes];
    int64_t size[kAxes];
  };

  size_t sums_bytes() const noexcept {
    return sizeof(S) == sizeof(T)
               ? 0
               : aligned(static_cast<size_t>(problem_.geometry.weight_elements()) * sizeof(T));
  }
  char* lay_out(char* memory, Worker* made) const noexcept {
    Pieces pieces(memory);
    const Block& block = cut_.block;
    const auto rows = static_cast<size_t>(block.samples * block.size[0] * block.size[1]);
    made->planes = pieces.take<T>(static_cast<size_t>(block.samples * cut_.sample_elements()) * sizeof(T));
    made->small_offset = pieces.take<int64_t>(rows * sizeof(int64_t));
    made->large_offset = pieces.take<int64_t>(rows * sizeof(int64_t));
    made->column = pieces.take<int64_t>(static_cast<size_t>(cut_.part * taps_) * sizeof(int64_t));
    return pieces.rest();
  }
  size_t worker_bytes() const noexcept {
    Worker made{};
    return static_cast<size_t>(lay_out(nullptr, &made) - static_cast<char*>(nullptr));
  }
  size_t total() const noexcept { return sums_bytes() + worker_bytes() * static_cast<size_t>(threads_); }

  void shrink() {
    threads_ = 1;
    const int64_t part = std::exchange(cut_.part, 1);
    const Block block = std::exchange(cut_.block, Block{});
    if (total() > problem_.workspace) return;
    cut_.part = part;
    cut_.block = block;
    while (total() > problem_.workspace && cut_.part > 1) cut_.part = (cut_.part + 1) / 2;
    while (total() > problem_.workspace && cut_.block.halve()) {
    }
    threads_ = problem_.threads;
    while (threads_ > 1 && total() > problem_.workspace) --threads_;
  }

  void sum_unit(const Call& call, const Worker& w, T* sums, const Unit& of, int member) const noexcept {
    const Geometry& g = problem_.geometry;
    const int64_t row = filters_ * taps_;
    T* const out = sums + (of.group * channels_ + of.channel) * row + of.filter * taps_;
    for (int64_t c = 0; c < of.channels; ++c) std::fill_n(out + c * row, of.filters * taps_, T{0});
    list_columns(w.column, of.filters);
    const Block& block = cut_.block;
    Box box{};
    for (box.sample = 0; box.sample < g.batch; box.sample += block.samples) {
      box.samples = std::min(block.samples, g.batch - box.sample);
      for (box.begin[0] = 0; box.begin[0] < g.axes[0].size; box.begin[0] += block.size[0]) {
        for (box.begin[1] = 0; box.begin[1] < g.axes[1].size; box.begin[1] += block.size[1]) {
          for (box.begin[2] = 0; box.begin[2] < g.axes[2].size; box.begin[2] += block.size[2]) {
            if (call.crew.stopped(member)) return;
            for (int a = 0; a < kAxes; ++a)
              box.size[a] = std::min(block.size[a], g.axes[a].size - box.begin[a]);
            take_apart(static_cast<const S*>(call.weight), w.planes, of, box);
            multiply(static_cast<const S*>(call.source), w, out, of, box, Pace(call.crew, member));
          }
        }
      }
    }
  }

  // Where the columns of a filter, its taps, begin in the planes.
  void list_columns(int64_t* column, int64_t filters) const noexcept {
    const auto& [pz, py, px] = cut_.planes;
    const auto& [z, y, x] = problem_.geometry.axes;
    for (int64_t f = 0; f < filters; ++f) {
      for (size_t kz = 0; kz < static_cast<size_t>(z.kernel); ++kz) {
        for (size_t ky = 0; ky < static_cast<size_t>(y.kernel); ++ky) {
          for (size_t kx = 0; kx < static_cast<size_t>(x.kernel); ++kx) {
            const int64_t plane = (pz.plane[kz] * py.count() + py.plane[ky]) * px.count() + px.plane[kx];
            *column++ = (f * cut_.count() + plane) * cut_.pitch() +
                        (pz.shift[kz] * cut_.extent(1) + py.shift[ky]) * cut_.extent(2) + px.shift[kx];
          }
        }
      }
    }
  }

  void take_apart(const S* grad, T* planes, const Unit& of, const Box& box) const noexcept {
    const Geometry& g = problem_.geometry;
    const auto& [pz, py, px] = cut_.planes;
    const auto& [z, y, x] = g.axes;
    for (int64_t sample = 0; sample < box.samples; ++sample) {
      for (int64_t f = 0; f < of.filters; ++f) {
        const S* const map =
            grad +
            ((box.sample + sample) * g.filters + of.group * filters_ + of.filter + f) * g.large_positions();
        T* to = planes + sample * cut_.sample_elements() + f * cut_.count() * cut_.pitch();
        for (const int64_t rz : pz.residues) {
          for (const int64_t ry : py.residues) {
            for (int64_t iz = 0; iz < box.size[0] + pz.spread; ++iz) {
              for (int64_t iy = 0; iy < box.size[1] + py.spread; ++iy) {
                const int64_t at_z = (box.begin[0] + iz + pz.first) * z.stride + rz;
                const int64_t at_y = (box.begin[1] + iy + py.first) * y.stride + ry;
                const bool inside = at_z >= 0 && at_z < z.out && at_y >= 0 && at_y < y.out;
                take_row_apart<E>(load_, px, x, box.begin[2], box.size[2],
                                  inside ? map + (at_z * y.out + at_y) * x.out : nullptr,
                                  to + (iz * cut_.extent(1) + iy) * cut_.extent(2), cut_.pitch());
              }
            }
            to += px.count() * cut_.pitch();
          }
        }
      }
    }
  }

  void multiply(const S* source, const Worker& w, T* out, const Unit& of, const Box& box,
                Pace pace) const noexcept {
    const Geometry& g = problem_.geometry;
    const auto& [z, y, x] = g.axes;
    const bool rows_join = cut_.joins_rows(g);
    const bool layers_join = cut_.joins_layers(g);
    int64_t segments = 0;
    for (int64_t sample = 0; sample < box.samples; ++sample) {
      for (int64_t iz = 0; iz < (layers_join ? 1 : box.size[0]); ++iz) {
        for (int64_t iy = 0; iy < (rows_join ? 1 : box.size[1]); ++iy) {
          w.small_offset[segments] = (box.sample + sample) * g.channels * g.small_positions() +
                                     ((box.begin[0] + iz) * y.size + box.begin[1] + iy) * x.size +
                                     box.begin[2];
          w.large_offset[segments] =
              sample * cut_.sample_elements() + (iz * cut_.extent(1) + iy) * cut_.extent(2);
          ++segments;
        }
      }
    }
    const int64_t columns = of.filters * taps_;
    LongDotsArgs args{};
    args.b = w.planes;
    args.a_offset = w.small_offset;
    args.b_offset = w.large_offset;
    args.segments = segments;
    args.depth = box.size[2] * (rows_join ? box.size[1] : 1) * (layers_join ? box.size[0] : 1);
    args.a_row = g.small_positions();
    args.a_next = cut_.kernel->rows * args.a_row;
    args.out_row = filters_ * taps_;
    for (int64_t channel = 0; channel < of.channels; channel += cut_.kernel->rows) {
      args.a = source + (of.group * channels_ + of.channel + channel) * args.a_row;
      args.rows = static_cast<int32_t>(std::min<int64_t>(cut_.kernel->rows, of.channels - channel));
      for (int64_t column = 0; column < columns; column += cut_.kernel->lanes) {
        args.b_column = w.column + column;
        args.columns = static_cast<int32_t>(std::min<int64_t>(cut_.kernel->lanes, columns - column));
        args.out = out + channel * args.out_row + column;
        (*cut_.kernel)(args);
        if (pace.stopped(args.segments * args.depth)) return;
      }
    }
  }

  // Whether the small side is finite where taps leave the large side.
  bool finite_beside(const S* source, const Unit& of, Pace pace) const noexcept {
    const Geometry& g = problem_.geometry;
    const auto& [z, y, x] = g.axes;
    T check{0};
    const auto look = [&check](const S* from, int64_t count) noexcept {
      for (int64_t i = 0; i < count; ++i) check += E::load(from[i]) * T{0};
    };
    for (int64_t sample = 0; sample < g.batch; ++sample) {
      for (int64_t c = 0; c < of.channels; ++c) {
        const S* row =
            source + (sample * g.channels + of.group * channels_ + of.channel + c) * g.small_positions();
        for (int64_t iz = 0; iz < z.size; ++iz) {
          for (int64_t iy = 0; iy < y.size; ++iy, row += x.size) {
            const bool within = iz >= within_[0].first && iz < within_[0].second && iy >= within_[1].first &&
                                iy < within_[1].second;
            const int64_t low = within ? within_[2].first : x.size;
            const int64_t high = within ? within_[2].second : x.size;
            look(row, low);
            look(row + high, x.size - high);
          }
          if (pace.stopped(y.size * x.size)) return true;
        }
      }
    }
    return check == T{0};
  }

  Problem problem_;
  Cut cut_;
  const Kernel& load_;
  const Kernel& store_;
  int64_t channels_;  // of a group
  int64_t filters_;   // of a group
  int64_t taps_;
  std::pair<int64_t, int64_t> within_[kAxes];
  int threads_ = 1;
};

std::optional<std::string> refusal(const Problem& problem) {
  if (problem.geometry.channels_last) return "maps of a position lie together";
  if (problem.geometry.taps() > kMostTaps) return "more than " + std::to_string(kMostTaps) + " taps";
  return std::nullopt;
}

double cost(const Problem& problem) { return Cut(problem).seconds; }

}  // namespace

extern const Algorithm weight_dots;
const Algorithm weight_dots{"weight_dots", refusal, cost, make_stored<WeightDots>};

}  // namespace tconv
