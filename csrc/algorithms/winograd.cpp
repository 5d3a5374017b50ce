// Forward and data gradient by minimal filtering: the phases of a strided kernel are short dense kernels, and
// those take fewer products on transformed tiles. All phases of the output read the same windows of the
// input, and all phases of the input are more depth, so there is one transform a tile however large the
// stride.
#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "algorithms/winograd/choice.hpp"
#include "algorithms/winograd/layout.hpp"
#include "algorithms/winograd/outputs.hpp"
#include "algorithms/winograd/weights.hpp"
#include "algorithms/winograd/windows.hpp"
#include "algorithms/winograd/worker.hpp"
#include "memory.hpp"

namespace tconv {
namespace {

using namespace filtering;

template <class T>
class Winograd final : public Recipe {
 public:
  explicit Winograd(const Problem& problem)
      : Winograd(problem, best_choice(problem, Maps(problem, product_kernel(problem)))) {}

  Winograd(const Problem& problem, const Choice& choice)
      : layout_(problem, choice), weights_(layout_), windows_(layout_), outputs_(layout_) {}

  std::string kernel() const override { return layout_.gemm.name; }
  size_t workspace_bytes() const noexcept override { return layout_.workspace; }
  bool needs_finite_source() const noexcept override { return true; }
  size_t packed_bytes() const noexcept override {
    return layout_.unit_bytes() * static_cast<size_t>(maps_.groups * layout_.units);
  }

  std::string packing_key() const override {
    const Geometry& g = layout_.problem.geometry;
    std::string key;
    key.reserve(128);
    key.append("winograd ")
        .append(name_of(layout_.problem.isa))
        .append(layout_.problem.pass == Pass::forward ? " f" : " d");
    const auto append = [&key](int64_t value) {
      char digits[std::numeric_limits<int64_t>::digits10 + 2];
      key.append(1, ' ').append(digits, std::to_chars(digits, std::end(digits), value).ptr);
    };
    for (const int64_t value : {static_cast<int64_t>(layout_.problem.dtype), g.channels, g.filters, g.groups,
                                static_cast<int64_t>(g.channels_last)}) {
      append(value);
    }
    for (int a = 0; a < kAxes; ++a) {
      const Axis& axis = g.axes[static_cast<size_t>(a)];
      for (const int64_t value :
           {axis.kernel, axis.stride, axis.dilation, static_cast<int64_t>(layout_.tiling.axes[a].tile),
            layout_.tiling.axes[a].late, static_cast<int64_t>(layout_.tiling.axes[a].nested),
            static_cast<int64_t>(layout_.tiling.axes[a].turned)}) {
        append(value);
      }
    }
    return key;
  }

  bool pack(const void* weight, char* packed, Crew& crew) const override {
    return pack_parts(weight, packed, 0, packing_parts(), crew);
  }
  // Units of weights: [chunk][point][view and map][vector of the chunk][lane], transformed.
  int64_t packing_parts() const noexcept override {
    return maps_.groups * layout_.units * layout_.unit_parts();
  }
  bool pack_parts(const void* weight, char* packed, int64_t first, int64_t last, Crew& crew) const override {
    const double seconds = static_cast<double>(packed_bytes()) * static_cast<double>(last - first) /
                           static_cast<double>(packing_parts()) / 4e9;
    const int64_t slices = layout_.unit_parts() / layout_.unit_blocks;
    T* const units = reinterpret_cast<T*>(packed);
    if (maps_.padded_depth() > maps_.depth) {
      for (int64_t unit = ceil_div(first, layout_.unit_parts()); unit * layout_.unit_parts() < last; ++unit)
        std::memset(units + unit * layout_.unit_elements, 0, layout_.unit_bytes());
    }
    return share_finite(crew, last - first, seconds, [&](int64_t index, int) noexcept {
      const int64_t part = first + index;
      const int64_t unit = part / layout_.unit_parts();
      const int64_t begin = part % slices * kPackedMaps;
      const int64_t block = part / slices % layout_.unit_blocks;
      return weights_.pack_blocks(weight, units + unit * layout_.unit_elements, unit, block, block + 1, begin,
                                  std::min(begin + kPackedMaps, maps_.depth), {0, layout_.depth});
    });
  }

  bool takes_plain() const override { return layout_.problem.packed && from_plain().layout_.by_unit; }

  bool run(const Call& call) const override {
    if (layout_.problem.packed && call.packed == nullptr) return from_plain().run(call);
    const Buffer scratch(layout_.workspace);
    Pieces pieces(scratch.data());
    char* packed = call.packed == nullptr && !layout_.by_unit
                       ? pieces.take(layout_.unit_bytes() * static_cast<size_t>(layout_.pack_units))
                       : nullptr;
    T* bias = pieces.take<T>(layout_.bias_bytes());
    outputs_.spread_bias(call.bias, bias);
    // A small workspace has room for fewer workers than there are threads.
    call.crew.limit(layout_.threads);
    std::vector<Worker<T>> workers(static_cast<size_t>(layout_.threads));
    T* shared = layout_.shares_windows() ? pieces.take<T>(layout_.shared_bytes()) : nullptr;
    for (Worker<T>& w : workers) {
      if (layout_.by_unit) w.packed = pieces.take<T>(layout_.slice_bytes());
      if (layout_.by_chunk) w.turned = pieces.take<T>(layout_.turned_bytes());
      w.strip = pieces.take<T>(layout_.strip_bytes());
      w.transformed = layout_.shares_windows() ? shared : pieces.take<T>(layout_.transformed_bytes());
      w.products = pieces.take<T>(layout_.sum_bytes());
      w.outputs = pieces.take<T>(layout_.output_bytes());
      w.segments = pieces.take<Segment>(layout_.segment_bytes());
      w.next = pieces.take<Segment>(layout_.next_bytes());
      w.fetches = pieces.take<Fetch>(layout_.fetch_bytes());
    }
    std::atomic<bool> finite{true};
    if (layout_.by_unit) {
      for (int64_t group = 0; finite && group < maps_.groups; ++group) {
        run_units({call, nullptr, bias, group, 0, layout_.units, finite}, shared, workers);
      }
      return finite;
    }
    const int64_t all_units = maps_.groups * layout_.units;
    for (int64_t first = 0; first < all_units; first += layout_.pack_units) {
      const int64_t last = std::min(first + layout_.pack_units, all_units);
      const char* weights = static_cast<const char*>(call.packed);
      if (packed != nullptr) {
        char* const all = packed - static_cast<size_t>(first) * layout_.unit_bytes();
        if (!pack_parts(call.weight, all, first * layout_.unit_parts(), last * layout_.unit_parts(),
                        call.crew))
          return false;
        weights = all;
      }
      for (int64_t group = first / layout_.units; group * layout_.units < last; ++group) {
        const int64_t begin = std::max(first, group * layout_.units) - group * layout_.units;
        const int64_t end = std::min(last, (group + 1) * layout_.units) - group * layout_.units;
        run_group({call, reinterpret_cast<const T*>(weights), bias, group, begin, end, finite}, workers);
      }
    }
    return finite;
  }

 private:
  // The same with the same tiles for plain weights, which seldom come.
  const Winograd& from_plain() const {
    std::call_once(plain_made_, [this] {
      Problem plain = layout_.problem;
      plain.packed = false;
      from_plain_ = std::make_unique<Winograd>(plain, best_choice(layout_.problem, maps_));
    });
    return *from_plain_;
  }

  void run_group(const Part<T>& part, std::vector<Worker<T>>& workers) const {
    const double seconds = layout_.all_seconds() * static_cast<double>(part.last_unit - part.first_unit) /
                           static_cast<double>(maps_.groups * layout_.units);
    if (!layout_.together) {
      const int64_t units = part.last_unit - part.first_unit;
      for (Worker<T>& w : workers) w.block = -1;
      part.call.crew.share(layout_.blocks * units, seconds, [&](int64_t i, int member) noexcept {
        Worker<T>& w = workers[static_cast<size_t>(member)];
        const int64_t block = i / units;
        const int64_t unit = part.first_unit + i % units;
        const int64_t segments = layout_.list_segments(block, w.segments);
        if (w.block != block) {
          for (int64_t s = 0; s < segments * layout_.segment_parts(); ++s)
            windows_.transform(part, w, segments, s);
          w.block = block;
        }
        const bool last = unit + 1 == part.last_unit && block + 1 < layout_.blocks;
        multiply(part, w, segments, unit, unit_weights(part, unit), {0, layout_.depth}, {},
                 last ? block + 1 : -1);
      });
      return;
    }
    const double block_seconds = seconds / static_cast<double>(layout_.blocks);
    for (int64_t block = 0; block < layout_.blocks; ++block) {
      int64_t segments = 0;
      for (Worker<T>& w : workers) segments = layout_.list_segments(block, w.segments);
      part.call.crew.share(segments * layout_.segment_parts(), block_seconds / 10,
                           [&](int64_t i, int member) noexcept {
                             windows_.transform(part, workers[static_cast<size_t>(member)], segments, i);
                           });
      part.call.crew.share(part.last_unit - part.first_unit, block_seconds,
                           [&](int64_t i, int member) noexcept {
                             const int64_t unit = part.first_unit + i;
                             multiply(part, workers[static_cast<size_t>(member)], segments, unit,
                                      unit_weights(part, unit), {0, layout_.depth});
                           });
    }
  }

  // Each unit is packed when its turn comes, by the thread that multiplies it with the windows of all blocks:
  // its weights are never far from the core.
  void run_units(const Part<T>& part, T* shared, std::vector<Worker<T>>& workers) const {
    const double seconds = layout_.all_seconds() / static_cast<double>(maps_.groups);
    const size_t apart = aligned(layout_.transformed_bytes()) / sizeof(T);
    part.call.crew.share(
        layout_.blocks * layout_.segment_parts(), seconds / 10, [&](int64_t i, int member) noexcept {
          const int64_t block = i / layout_.segment_parts();
          Worker<T> w = workers[static_cast<size_t>(member)];
          w.transformed = shared + static_cast<size_t>(block) * apart;
          const int64_t segments = layout_.list_segments(block, w.segments);
          for (int64_t s = 0; s < segments; ++s)
            windows_.transform(part, w, segments, s * layout_.segment_parts() + i % layout_.segment_parts());
        });
    part.call.crew.share(layout_.units, seconds, [&](int64_t i, int member) noexcept {
      Worker<T> w = workers[static_cast<size_t>(member)];
      T* const sums = w.products;
      const int64_t unit = part.group * layout_.units + i;
      if (layout_.by_chunk) {
        run_chunks(part, shared, w, i, member);
        return;
      }
      if (maps_.padded_depth() > maps_.depth) std::memset(w.packed, 0, layout_.unit_bytes());
      for (int64_t begin = 0; begin < maps_.depth; begin += layout_.slice_maps) {
        const int64_t end = std::min(begin + layout_.slice_maps, maps_.depth);
        const bool whole = layout_.slices() == 1;
        const Depth depth{begin * layout_.views, whole ? layout_.depth : end * layout_.views};
        if (!weights_.pack_blocks(part.call.weight, w.packed, unit, 0, layout_.unit_blocks, begin, end,
                                  depth))
          part.finite.store(false, std::memory_order_relaxed);
        Fetch ahead =
            end < maps_.depth       ? layout_.plain_weights(part.call.weight, unit, end,
                                                            std::min(end + layout_.slice_maps, maps_.depth))
            : i + 1 < layout_.units ? layout_.plain_weights(part.call.weight, unit + 1, 0,
                                                            std::min(layout_.slice_maps, maps_.depth))
                                    : Fetch{};
        for (int64_t block = 0; block < layout_.blocks; ++block) {
          if (part.call.crew.stopped(member)) return;
          w.transformed = shared + static_cast<size_t>(block) * apart;
          if (!whole) w.products = sums + block * layout_.unit_chunks * layout_.product_elements();
          ahead = multiply(part, w, layout_.list_segments(block, w.segments), i, w.packed, depth, ahead);
        }
      }
    });
  }

  // The same, with the sums of one chunk at a time, those of one phase: its taps are taken from rows of lanes
  // that were made for all phases.
  void run_chunks(const Part<T>& part, T* shared, Worker<T> w, int64_t index, int member) const noexcept {
    const int64_t unit = part.group * layout_.units + index;
    const size_t apart = aligned(layout_.transformed_bytes()) / sizeof(T);
    T* const sums = w.products;
    T* const outputs = w.outputs;
    const auto enter = [&](int64_t block) {
      w.transformed = shared + static_cast<size_t>(block) * apart;
      w.products = sums + (layout_.slices() > 1 ? block * layout_.product_elements() : 0);
      w.outputs = outputs + block * layout_.output_elements();
      return layout_.list_segments(block, w.segments);
    };
    for (int64_t block = 0; block < layout_.unit_blocks; ++block) {
      if (part.call.crew.stopped(member)) return;
      if (!weights_.turn(part.call.weight, unit, block, w.turned + block * layout_.turned_elements()))
        part.finite.store(false, std::memory_order_relaxed);
    }
    if (maps_.padded_depth() > maps_.depth) std::memset(w.packed, 0, layout_.slice_bytes());
    for (int64_t phase = 0; phase < layout_.phases; ++phase) {
      const Form& form = layout_.form_of(phase);
      WinogradInArgs args{};
      args.tile_stride = layout_.chunk_lanes;
      for (int a = 0; a < kAxes; ++a) args.tile[a] = form.tile[a];
      for (int64_t begin = 0; begin < maps_.depth; begin += layout_.slice_maps) {
        const int64_t end = std::min(begin + layout_.slice_maps, maps_.depth);
        const Depth depth{begin * layout_.views, layout_.slices() == 1 ? layout_.depth : end * layout_.views};
        args.point_stride = layout_.point_weights(depth.count());
        Fetch fetch[Layout::kAhead + 1] = {};
        if (form.points > 0) {
          for (int64_t block = 0; block < layout_.unit_blocks; ++block) {
            auto from = weights_.turned_taps(w.turned + block * layout_.turned_elements(), phase);
            from.rows += begin * from.map;
            weights_.transform_phase(from, phase, begin, end, depth, w.packed + block * maps_.lanes, args);
          }
          fetch[Layout::kAhead] = end < maps_.depth ? weights_.turned_slice(w.turned, phase, end)
                                                    : weights_.turned_slice(w.turned, phase + 1, 0);
        }
        for (int64_t block = 0; block < layout_.blocks; ++block) {
          if (part.call.crew.stopped(member)) return;
          const int64_t segments = enter(block);
          multiply_chunk(w, Layout::tiles_in(w.segments, segments), phase, w.packed, depth, fetch,
                         Layout::kAhead + 1);
          if (depth.end == layout_.depth) outputs_.finish_chunk(part, w, segments, index, phase);
        }
      }
    }
    for (int64_t block = 0; block < layout_.blocks; ++block)
      outputs_.store_unit(part, w, enter(block), index);
  }

  const T* unit_weights(const Part<T>& part, int64_t unit) const noexcept {
    return part.weights + (part.group * layout_.units + unit) * layout_.unit_elements;
  }

  // Makes the columns of one unit for all tiles of a block, or adds a part of the depth to their sums:
  // `weights` are those of this part. Fetches `ahead` on the way; returns what is left of it.
  Fetch multiply(const Part<T>& part, Worker<T> w, int64_t segments, int64_t unit, const T* weights,
                 const Depth& depth, const Fetch& ahead = {}, int64_t next_block = -1) const noexcept {
    const int64_t tiles = Layout::tiles_in(w.segments, segments);
    const int64_t point = layout_.point_weights(depth.count());
    w.fetches[Layout::kAhead] = ahead;
    const T* const products = w.products;
    const bool whole = depth.end == layout_.depth;
    // Windows before outputs, in case not all come in time: what is stored waits less than what is loaded.
    Fetch* const fetch = w.fetches + Layout::kAhead + 1;
    int64_t lines =
        next_block >= 0 && layout_.fetches_windows() ? windows_.list_sources(part, w, next_block, fetch) : 0;
    if (whole) lines += outputs_.list_outputs(part, w, segments, unit, fetch + lines);
    for (int64_t chunk = 0; chunk < layout_.chunks_of(unit); ++chunk) {
      multiply_chunk(w, tiles, chunk, weights + layout_.chunk_start[static_cast<size_t>(chunk)] * point,
                     depth, w.fetches, Layout::kAhead + 1 + lines);
      if (whole && !layout_.line) outputs_.finish_chunk(part, w, segments, unit, chunk);
      if (depth.begin > 0 || !whole || layout_.line) w.products += layout_.product_elements();
    }
    if (whole && layout_.line) {
      outputs_.write_unit(part, w, segments, unit, products);
    } else if (whole) {
      outputs_.store_unit(part, w, segments, unit);
    }
    return w.fetches[Layout::kAhead];
  }

  // Makes the products of one chunk, or adds to them.
  void multiply_chunk(const Worker<T>& w, int64_t tiles, int64_t chunk, const T* weights, const Depth& depth,
                      Fetch* fetch, int64_t fetches) const noexcept {
    const int64_t point = layout_.point_weights(depth.count());
    const auto bytes = static_cast<int64_t>(sizeof(T));
    RowGemmArgs gemm{};
    gemm.fetch = fetch + (layout_.by_unit ? 1 : 0);
    gemm.fetches = fetches - (layout_.by_unit ? 1 : 0);
    gemm.a_row = layout_.row;
    gemm.c_row = layout_.chunk_lanes;
    const Form& form = layout_.form_of(chunk);
    gemm.rows = form.all_copies() * tiles;
    // Some of the depth at a time, so that its weights are near for all rows while the next come.
    const int64_t some = layout_.near_depth(depth.count());
    const T* windows = w.transformed + form.start * tiles * layout_.row + depth.begin;
    T* sums = w.products;
    for (int64_t p = 0; p < form.points; ++p) {
      const bool more = p + 1 < form.points;
      for (int64_t begin = 0; begin < depth.count(); begin += some) {
        const bool ends = begin + some >= depth.count();
        gemm.a = windows + begin;
        gemm.b = weights + begin * layout_.chunk_lanes;
        gemm.c = sums;
        gemm.depth = std::min(some, depth.count() - begin);
        gemm.accumulate = depth.begin + begin > 0;
        const int64_t next = ends ? 0 : begin + some;
        const int64_t count = std::min(some, depth.count() - next);
        if (!layout_.by_unit) {
          const T* const at = weights + (ends ? point : next * layout_.chunk_lanes);
          fetch[0] = {reinterpret_cast<const char*>(at), count * layout_.chunk_lanes * bytes, {}, 1, 1, 0, 0};
        }
        fetch[1] = {};
        if ((more || !ends) && layout_.windows_are_far()) {
          const T* const at = windows + (ends ? gemm.rows * layout_.row : next);
          fetch[1] = {
              reinterpret_cast<const char*>(at), count * bytes, {layout_.row * bytes, 0}, gemm.rows, 1, 0, 0};
        }
        layout_.gemm(gemm);
      }
      windows += gemm.rows * layout_.row;
      weights += point;
      sums += gemm.rows * layout_.chunk_lanes;
    }
  }

  const Layout layout_;
  const Maps& maps_ = layout_.maps;
  Weights<T> weights_;
  Windows<T> windows_;
  Outputs<T> outputs_;
  mutable std::once_flag plain_made_;
  mutable std::unique_ptr<Winograd> from_plain_;
};

}  // namespace

extern const Algorithm winograd;
const Algorithm winograd{"winograd", filtering::refusal, filtering::cost, make_computed<Winograd>, true};

}  // namespace tconv
