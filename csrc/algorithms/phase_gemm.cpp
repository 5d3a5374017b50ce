// Forward and data gradient as matrix products, one for each phase of the output: rows are output positions,
// lanes are output maps, the depth is taps times input maps. Input is gathered into small panels, a tap
// offset at a time, that all phases share; nothing is scattered, and no zero is inserted.
#include <algorithm>
#include <cstring>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "packing.hpp"
#include "phases.hpp"

namespace tconv {
namespace {

constexpr int64_t kMostStride = 1 << 16;
constexpr int64_t kMostTaps = 1 << 20;
// Steps of depth that one sum runs before it is added to the output; also bounds the panels.
constexpr int64_t kDepth = 4096;
constexpr int64_t kPanelBytes = 384 << 10;
constexpr int64_t kStripBytes = 256 << 10;
constexpr int64_t kMostBlockPositions = 512;

int64_t ceil_div(int64_t a, int64_t b) noexcept { return (a + b - 1) / b; }

// The problem as products: which maps are gathered and which are made.
struct Sides {
  int64_t groups;
  int64_t depth_maps;   // gathered maps of a group
  int64_t column_maps;  // made maps of a group
  int64_t batch;
  int64_t taps;

  explicit Sides(const Problem& problem) noexcept
      : groups(problem.geometry.groups),
        depth_maps((problem.pass == Pass::forward ? problem.geometry.channels : problem.geometry.filters) /
                   problem.geometry.groups),
        column_maps((problem.pass == Pass::forward ? problem.geometry.filters : problem.geometry.channels) /
                    problem.geometry.groups),
        batch(problem.geometry.batch),
        taps(problem.geometry.taps()) {}

  // Gathered maps handled at a time. Decided by the weights alone, because it decides the order of sums.
  int64_t chunk_maps() const noexcept {
    const int64_t chunks = ceil_div(depth_maps * taps, kDepth);
    return std::max<int64_t>(1, ceil_div(depth_maps, chunks));
  }
};

const Kernel& choose_tile(const Problem& problem) {
  const Sides sides(problem);
  const auto candidates = kernels(Family::gemm, compute_dtype(problem.dtype), problem.isa);
  const Kernel* best = nullptr;
  double least = 0;
  for (const Kernel& kernel : candidates) {
    const double seconds = static_cast<double>(ceil_div(sides.column_maps, kernel.lanes)) *
                           machine::tile_step_seconds(kernel, kernel.rows) / kernel.rows;
    if (best == nullptr || seconds < least) {
      best = &kernel;
      least = seconds;
    }
  }
  return *best;
}

template <class T>
class PhaseGemm final : public Recipe {
 public:
  PhaseGemm(const Problem& problem)
      : problem_(problem),
        sides_(problem),
        axes_{phase_axis(problem.geometry.axes[0], problem.pass),
              phase_axis(problem.geometry.axes[1], problem.pass),
              phase_axis(problem.geometry.axes[2], problem.pass)},
        gemm_(choose_tile(problem)),
        gather_(tconv::kernel(Family::gather, problem.dtype, problem.isa)),
        store_(tconv::kernel(Family::store, problem.dtype, problem.isa)),
        packing_(problem, gemm_.lanes, sides_.chunk_maps()) {
    const bool last = problem.geometry.channels_last;
    src_maps_ = sides_.groups * sides_.depth_maps;
    dst_maps_ = sides_.groups * sides_.column_maps;
    const auto strides = [last](int64_t maps, int64_t size0, int64_t size1, int64_t size2) {
      Strides s{};
      s.map = last ? 1 : size0 * size1 * size2;
      s.axis[2] = last ? maps : 1;
      s.axis[1] = size2 * s.axis[2];
      s.axis[0] = size1 * s.axis[1];
      s.sample = maps * size0 * size1 * size2;
      return s;
    };
    src_ = strides(src_maps_, axes_[0].src_size, axes_[1].src_size, axes_[2].src_size);
    dst_ = strides(dst_maps_, axes_[0].dst_size, axes_[1].dst_size, axes_[2].dst_size);
    direct_store_ = last && problem.dtype == compute_dtype(problem.dtype);
    offsets_ = 1;
    grid_ = 1;
    for (const PhaseAxis& axis : axes_) {
      offsets_ *= static_cast<int64_t>(axis.offsets.size());
      grid_ *= axis.positions;
      int64_t most = 0;
      for (int64_t phase = 0; phase < axis.phases(); ++phase) most = std::max(most, axis.tap_count(phase));
      phase_taps_ *= most;
    }
    positions_ = sides_.batch * grid_;
    // Samples innermost: a tile then holds one place of many samples, and taps outside the image drop out
    // whole.
    samples_inside_ = sides_.batch >= 4 && grid_ <= 256 && offsets_ > 1;
    panels_ = ceil_div(sides_.column_maps, gemm_.lanes);
    chunk_ = sides_.chunk_maps();
    jobs_ = panels_ * axes_[0].phases() * axes_[1].phases();
    cut();
  }

  std::string kernel() const override { return gemm_.name; }
  size_t workspace_bytes() const noexcept override { return workspace_; }
  std::string packing_key() const override { return packing_.key(); }
  size_t packed_bytes() const noexcept override { return packing_.bytes(); }
  bool pack(const void* weight, char* packed, Crew& crew) const override {
    return packing_.pack(weight, packed, 0, sides_.groups * panels_, crew);
  }
  // The least workspace that any such recipe needs.
  size_t least() const noexcept { return least_; }

  bool run(const Call& call) const override {
    const Buffer scratch(workspace_);
    char* free = scratch.data();
    const auto claim = [&free](size_t bytes) {
      char* claimed = free;
      free += aligned(bytes);
      return claimed;
    };
    T* bias = nullptr;
    if (call.bias != nullptr) {
      bias = reinterpret_cast<T*>(claim(bias_bytes()));
      spread_bias(call.bias, bias);
    }
    char* packed =
        call.packed == nullptr ? claim(packing_.panel_bytes() * static_cast<size_t>(pack_panels_)) : nullptr;
    // A small workspace has room for fewer workers than there are threads.
    call.crew.limit(threads_);
    std::vector<Worker> workers;
    workers.reserve(static_cast<size_t>(threads_));
    for (int i = 0; i < threads_; ++i)
      workers.push_back(worker(free + static_cast<size_t>(i) * worker_bytes_));

    const int64_t all_panels = sides_.groups * panels_;
    for (int64_t first = 0; first < all_panels; first += pack_panels_) {
      const int64_t last = std::min(first + pack_panels_, all_panels);
      const char* weights = static_cast<const char*>(call.packed);
      if (packed != nullptr) {
        if (!packing_.pack(call.weight, packed, first, last, call.crew)) return false;
        weights = packed - static_cast<size_t>(first) * packing_.panel_bytes();
      }
      run_panels(call, reinterpret_cast<const T*>(weights), bias, first, last, workers);
    }
    return true;
  }

 private:
  struct Strides {
    int64_t map;
    int64_t sample;
    int64_t axis[3];
  };

  struct Place {
    int64_t sample;
    int64_t t[3];
    int64_t base;  // element of src at t * src_step
  };

  // What one thread works in.
  struct Worker {
    T* panel;
    T* strip;
    T* spare;  // a row nobody reads
    Place* places;
    int64_t* offset;
    int64_t* a_offset;
    int64_t* b_offset;
    uint8_t* reached;  // of tile and tap offset: some position is inside the image
    void** rows;
    int64_t block = -1;
    int64_t group = -1;
    int64_t chunk = -1;
  };

  struct Run {
    const Call& call;
    const T* weights;
    const T* bias;
    int64_t first_panel;
    int64_t last_panel;
  };

  int64_t strip_rows() const noexcept { return block_ * axes_[2].phases(); }
  int64_t block_tiles() const noexcept { return ceil_div(block_, gemm_.rows); }
  size_t bias_bytes() const noexcept {
    return static_cast<size_t>(sides_.groups * panels_ * gemm_.lanes) * sizeof(T);
  }

  size_t worker_size() const noexcept {
    return aligned(static_cast<size_t>(offsets_ * chunk_ * block_ + 64) * sizeof(T)) +
           aligned(static_cast<size_t>(job_run_ * strip_rows() * gemm_.lanes) * sizeof(T)) +
           aligned(static_cast<size_t>(gemm_.lanes) * sizeof(T)) +
           aligned(static_cast<size_t>(block_) * sizeof(Place)) +
           aligned(static_cast<size_t>(gemm_.rows) * 8) * 2 +
           aligned(static_cast<size_t>(phase_taps_) * 8) * 2 +
           aligned(static_cast<size_t>(block_tiles() * offsets_));
  }

  Worker worker(char* memory) const noexcept {
    const auto claim = [&memory](size_t bytes) {
      char* claimed = memory;
      memory += aligned(bytes);
      return claimed;
    };
    Worker made{};
    made.panel =
        reinterpret_cast<T*>(claim(static_cast<size_t>(offsets_ * chunk_ * block_ + 64) * sizeof(T)));
    made.strip =
        reinterpret_cast<T*>(claim(static_cast<size_t>(job_run_ * strip_rows() * gemm_.lanes) * sizeof(T)));
    made.spare = reinterpret_cast<T*>(claim(static_cast<size_t>(gemm_.lanes) * sizeof(T)));
    made.places = reinterpret_cast<Place*>(claim(static_cast<size_t>(block_) * sizeof(Place)));
    made.offset = reinterpret_cast<int64_t*>(claim(static_cast<size_t>(gemm_.rows) * 8));
    made.rows = reinterpret_cast<void**>(claim(static_cast<size_t>(gemm_.rows) * 8));
    made.a_offset = reinterpret_cast<int64_t*>(claim(static_cast<size_t>(phase_taps_) * 8));
    made.b_offset = reinterpret_cast<int64_t*>(claim(static_cast<size_t>(phase_taps_) * 8));
    made.reached = reinterpret_cast<uint8_t*>(claim(static_cast<size_t>(block_tiles() * offsets_)));
    return made;
  }

  // Decides blocks, threads and how many panels are packed at a time, so that the workspace holds them.
  void cut() {
    threads_ = 1;
    block_ = std::min<int64_t>(gemm_.rows, positions_);
    job_run_ = 1;
    const bool packs = !problem_.packed;
    pack_panels_ = packs ? 1 : sides_.groups * panels_;
    const auto total = [&] {
      worker_bytes_ = worker_size();
      return aligned(bias_bytes()) +
             (packs ? aligned(packing_.panel_bytes() * static_cast<size_t>(pack_panels_)) : 0) +
             worker_bytes_ * static_cast<size_t>(threads_);
    };
    least_ = total();
    workspace_ = least_;
    if (least_ > problem_.workspace) return;
    const auto try_set = [&](auto& variable, auto value) {
      const auto before = variable;
      variable = value;
      if (total() <= problem_.workspace) return true;
      variable = before;
      return false;
    };
    for (int n = problem_.threads; n > 1 && !try_set(threads_, n); --n) {
    }
    const bool single_chunk = chunk_ >= sides_.depth_maps;
    // As many tiles as keep the panels near the core, and no more than leave every thread several blocks.
    const int64_t per_position = offsets_ * chunk_ * static_cast<int64_t>(sizeof(T));
    const int64_t per_strip = axes_[2].phases() * gemm_.lanes * static_cast<int64_t>(sizeof(T));
    int64_t tiles = std::min(kPanelBytes / per_position, kStripBytes / per_strip) / gemm_.rows;
    tiles = std::clamp<int64_t>(tiles, 1, std::max<int64_t>(1, kMostBlockPositions / gemm_.rows));
    tiles = std::min(tiles, std::max<int64_t>(3, ceil_div(positions_, gemm_.rows * int64_t{4} * threads_)));
    const int64_t blocks = ceil_div(positions_, tiles * gemm_.rows);
    for (int64_t block = std::min(ceil_div(positions_, blocks), positions_); block > block_;
         block -= gemm_.rows) {
      if (try_set(block_, block)) break;
    }
    if (!single_chunk) {
      const int64_t per_job = strip_rows() * gemm_.lanes * static_cast<int64_t>(sizeof(T));
      for (int64_t run = std::min(jobs_, kStripBytes / per_job); run > 1 && !try_set(job_run_, run);
           run = run / 2) {
      }
    }
    if (packs) {
      const int64_t all_panels = sides_.groups * panels_;
      const size_t other = total() - aligned(packing_.panel_bytes());
      const auto room = static_cast<int64_t>((problem_.workspace - other) / aligned(packing_.panel_bytes()));
      pack_panels_ = std::clamp<int64_t>(room, 1, all_panels);
      // A pass over the input for each round of packing; even rounds.
      pack_panels_ = ceil_div(all_panels, ceil_div(all_panels, pack_panels_));
    }
    workspace_ = total();
  }

  void spread_bias(const void* bias, T* spread) const noexcept {
    with_dtype(problem_.dtype, [&](auto e) {
      const auto* from = static_cast<const typename decltype(e)::storage*>(bias);
      for (int64_t g = 0; g < sides_.groups; ++g) {
        T* to = spread + g * panels_ * gemm_.lanes;
        for (int64_t c = 0; c < panels_ * gemm_.lanes; ++c) {
          to[c] = c < sides_.column_maps ? static_cast<T>(e.load(from[g * sides_.column_maps + c])) : T{0};
        }
      }
    });
  }

  Place place(int64_t index) const noexcept {
    Place p{};
    int64_t rest = index;
    if (samples_inside_) {
      p.sample = rest % sides_.batch;
      rest /= sides_.batch;
    }
    p.t[2] = rest % axes_[2].positions;
    rest /= axes_[2].positions;
    p.t[1] = rest % axes_[1].positions;
    rest /= axes_[1].positions;
    p.t[0] = rest % axes_[0].positions;
    if (!samples_inside_) p.sample = rest / axes_[0].positions;
    p.base = p.sample * src_.sample;
    for (int a = 0; a < kAxes; ++a) p.base += p.t[a] * axes_[a].src_step * src_.axis[a];
    return p;
  }

  void run_panels(const Call& call, const T* weights, const T* bias, int64_t first, int64_t last,
                  std::vector<Worker>& workers) const {
    const Run run{call, weights, bias, first, last};
    const int64_t blocks = ceil_div(positions_, block_);
    const int64_t phases = axes_[0].phases() * axes_[1].phases();
    // Threads share blocks of positions; where those are few, also the jobs of a block.
    const int64_t first_group = first / panels_;
    const int64_t groups = (last - 1) / panels_ - first_group + 1;
    int64_t parts = 1;
    if (threads_ > 1 && blocks * groups < 6 * threads_) {
      parts = std::min(jobs_, ceil_div(int64_t{6} * threads_, blocks * groups));
    }
    const double seconds = machine::seconds(problem_) * static_cast<double>(last - first) /
                           static_cast<double>(sides_.groups * panels_) * threads_;
    call.crew.share(groups * blocks * parts, seconds, [&](int64_t unit, int member) noexcept {
      const int64_t part = unit % parts;
      const int64_t block = unit / parts % blocks;
      const int64_t group = first_group + unit / parts / blocks;
      const int64_t panel_begin = std::max(first, group * panels_) - group * panels_;
      const int64_t panel_end = std::min(last, (group + 1) * panels_) - group * panels_;
      const int64_t jobs = (panel_end - panel_begin) * phases;
      const int64_t begin = panel_begin * phases + jobs * part / parts;
      const int64_t end = panel_begin * phases + jobs * (part + 1) / parts;
      run_block(run, workers[static_cast<size_t>(member)], group, block, begin, end);
    });
  }

  void run_block(const Run& run, Worker& w, int64_t group, int64_t block, int64_t job_begin,
                 int64_t job_end) const noexcept {
    const int64_t first = block * block_;
    const int64_t count = std::min(block_, positions_ - first);
    if (w.block != block || w.group != group) {
      for (int64_t i = 0; i < count; ++i) w.places[i] = place(first + i);
      w.block = block;
      w.group = group;
      w.chunk = -1;
    }
    const int64_t tiles = ceil_div(count, gemm_.rows);
    const int64_t chunks = ceil_div(sides_.depth_maps, chunk_);
    for (int64_t job = job_begin; job < job_end; job += job_run_) {
      const int64_t stop = std::min(job + job_run_, job_end);
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t maps = std::min(chunk_, sides_.depth_maps - chunk * chunk_);
        if (w.chunk != chunk) {
          fill_panel(run.call.source, w, group, chunk, maps, count, tiles);
          w.chunk = chunk;
        }
        for (int64_t j = job; j < stop; ++j) multiply(run, w, group, j, j - job, chunk, maps, count, tiles);
      }
      if (!direct_store_) {
        for (int64_t j = job; j < stop; ++j) store_job(run.call.out, w, group, j, j - job, count);
      }
    }
  }

  int64_t tile_begin(int64_t tile, int64_t tiles, int64_t count) const noexcept {
    return count * tile / tiles;
  }

  void fill_panel(const void* source, Worker& w, int64_t group, int64_t chunk, int64_t maps, int64_t count,
                  int64_t tiles) const noexcept {
    const int64_t map0 = (group * sides_.depth_maps + chunk * chunk_) * src_.map;
    GatherArgs args{};
    args.src = source;
    args.map_stride = src_.map;
    args.offset = w.offset;
    args.maps = maps;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t begin = tile_begin(tile, tiles, count);
      const int64_t rows = tile_begin(tile + 1, tiles, count) - begin;
      const Place* places = w.places + begin;
      T* panel = w.panel + begin * offsets_ * maps;
      uint8_t* reached = w.reached + tile * offsets_;
      args.count = rows;
      args.width = rows;
      int64_t u = 0;
      for (const int64_t oz : axes_[0].offsets) {
        for (const int64_t oy : axes_[1].offsets) {
          for (const int64_t ox : axes_[2].offsets) {
            const int64_t shift = oz * src_.axis[0] + oy * src_.axis[1] + ox * src_.axis[2] + map0;
            bool any = false;
            for (int64_t m = 0; m < rows; ++m) {
              const Place& p = places[m];
              const bool inside =
                  inside_axis(0, p.t[0], oz) & inside_axis(1, p.t[1], oy) & inside_axis(2, p.t[2], ox);
              w.offset[m] = inside ? p.base + shift : -1;
              any |= inside;
            }
            reached[u] = any;
            if (any) {
              args.dst = panel + u * maps * rows;
              gather_(args);
            }
            ++u;
          }
        }
      }
    }
  }

  bool inside_axis(int axis, int64_t t, int64_t offset) const noexcept {
    return static_cast<uint64_t>(t * axes_[axis].src_step + offset) <
           static_cast<uint64_t>(axes_[axis].src_size);
  }

  struct Job {
    int64_t panel;
    int64_t phase_z;
    int64_t phase_y;
  };

  Job job(int64_t index) const noexcept {
    const int64_t phases_y = axes_[1].phases();
    const int64_t phases = axes_[0].phases() * phases_y;
    return {index / phases, index % phases / phases_y, index % phases_y};
  }

  void multiply(const Run& run, Worker& w, int64_t group, int64_t job_index, int64_t slot, int64_t chunk,
                int64_t maps, int64_t count, int64_t tiles) const noexcept {
    const Job j = job(job_index);
    const auto& [z, y, x] = axes_;
    const int64_t panel = group * panels_ + j.panel;
    const int64_t lanes = std::min<int64_t>(gemm_.lanes, sides_.column_maps - j.panel * gemm_.lanes);
    T* strip = w.strip + slot * strip_rows() * gemm_.lanes;
    GemmArgs args{};
    args.a = w.panel;
    args.b = run.weights + packing_.chunk_offset(panel, chunk);
    args.a_offset = w.a_offset;
    args.b_offset = w.b_offset;
    args.depth = maps;
    args.b_step = gemm_.lanes;
    args.c = w.rows;
    args.lanes = static_cast<int32_t>(direct_store_ ? lanes : gemm_.lanes);
    args.accumulate = chunk > 0;
    const bool final_chunk = (chunk + 1) * chunk_ >= sides_.depth_maps;
    if (final_chunk && run.bias != nullptr) args.bias_lanes = run.bias + panel * gemm_.lanes;
    for (int64_t phase_x = 0; phase_x < x.phases(); ++phase_x) {
      const int64_t taps_z = z.tap_count(j.phase_z);
      const int64_t taps_y = y.tap_count(j.phase_y);
      const int64_t taps_x = x.tap_count(phase_x);
      const int64_t first_tap =
          z.packed_tap[j.phase_z] * y.kernel * x.kernel +
          taps_z * (y.packed_tap[j.phase_y] * x.kernel + taps_y * x.packed_tap[phase_x]);
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t begin = tile_begin(tile, tiles, count);
        const int64_t rows = tile_begin(tile + 1, tiles, count) - begin;
        const uint8_t* reached = w.reached + tile * offsets_;
        const int64_t a_base = begin * offsets_ * maps;
        int64_t segments = 0;
        int64_t tap = first_tap;
        for (int64_t tz = 0; tz < taps_z; ++tz) {
          const int64_t slot_z = z.taps_of(j.phase_z)[tz].slot * static_cast<int64_t>(y.offsets.size());
          for (int64_t ty = 0; ty < taps_y; ++ty) {
            const int64_t slot_y =
                (slot_z + y.taps_of(j.phase_y)[ty].slot) * static_cast<int64_t>(x.offsets.size());
            for (int64_t tx = 0; tx < taps_x; ++tx, ++tap) {
              const int64_t u = slot_y + x.taps_of(phase_x)[tx].slot;
              w.a_offset[segments] = a_base + u * maps * rows;
              w.b_offset[segments] = tap * maps * gemm_.lanes;
              segments += reached[u];
            }
          }
        }
        for (int64_t m = 0; m < rows; ++m) {
          w.rows[m] = direct_store_ ? direct_row(run.call.out, w, group, j, phase_x, begin + m)
                                    : strip + ((begin + m) * x.phases() + phase_x) * gemm_.lanes;
        }
        args.rows = static_cast<int32_t>(rows);
        args.a_step = rows;
        args.segments = segments;
        gemm_(args);
      }
    }
  }

  void* direct_row(void* out, const Worker& w, int64_t group, const Job& j, int64_t phase_x,
                   int64_t position) const noexcept {
    const Place& p = w.places[position];
    const int64_t at_z = p.t[0] * axes_[0].dst_step + j.phase_z;
    const int64_t at_y = p.t[1] * axes_[1].dst_step + j.phase_y;
    const int64_t at_x = p.t[2] * axes_[2].dst_step + phase_x;
    if (at_z >= axes_[0].dst_size || at_y >= axes_[1].dst_size || at_x >= axes_[2].dst_size) return w.spare;
    return static_cast<T*>(out) + p.sample * dst_.sample + at_z * dst_.axis[0] + at_y * dst_.axis[1] +
           at_x * dst_.axis[2] + group * sides_.column_maps + j.panel * gemm_.lanes;
  }

  // Moves the strip of one job to the output, a run along x at a time.
  void store_job(void* out, const Worker& w, int64_t group, int64_t job_index, int64_t slot,
                 int64_t count) const noexcept {
    const Job j = job(job_index);
    const int64_t step = axes_[2].dst_step;
    const int64_t lanes = std::min<int64_t>(gemm_.lanes, sides_.column_maps - j.panel * gemm_.lanes);
    const T* strip = w.strip + slot * strip_rows() * gemm_.lanes;
    const int64_t element = static_cast<int64_t>(storage_bytes(problem_.dtype));
    MoveArgs args{};
    int64_t end;
    for (int64_t begin = 0; begin < count; begin = end) {
      const Place& p = w.places[begin];
      end = begin + 1;
      if (!samples_inside_) end = std::min(count, begin + axes_[2].positions - p.t[2]);
      const int64_t at_z = p.t[0] * axes_[0].dst_step + j.phase_z;
      const int64_t at_y = p.t[1] * axes_[1].dst_step + j.phase_y;
      const int64_t at_x = p.t[2] * step;
      if (at_z >= axes_[0].dst_size || at_y >= axes_[1].dst_size) continue;
      const int64_t width = std::min((end - begin) * step, axes_[2].dst_size - at_x);
      const int64_t at = p.sample * dst_.sample + at_z * dst_.axis[0] + at_y * dst_.axis[1] +
                         at_x * dst_.axis[2] +
                         (group * sides_.column_maps + j.panel * gemm_.lanes) * dst_.map;
      args.src = strip + begin * step * gemm_.lanes;
      args.dst = static_cast<char*>(out) + at * element;
      if (dst_.map == 1) {
        args.rows = width;
        args.columns = lanes;
        args.src_row = gemm_.lanes;
        args.src_column = 1;
        args.dst_row = dst_.axis[2];
        args.dst_column = 1;
      } else {
        args.rows = lanes;
        args.columns = width;
        args.src_row = 1;
        args.src_column = gemm_.lanes;
        args.dst_row = dst_.map;
        args.dst_column = 1;
      }
      store_(args);
    }
  }

  Problem problem_;
  Sides sides_;
  std::array<PhaseAxis, kAxes> axes_;
  const Kernel& gemm_;
  const Kernel& gather_;
  const Kernel& store_;
  ColumnPacking packing_;
  Strides src_{};
  Strides dst_{};
  int64_t src_maps_ = 0;
  int64_t dst_maps_ = 0;
  int64_t offsets_ = 0;     // tap offsets that some phase uses, all axes
  int64_t phase_taps_ = 1;  // most taps of a phase
  int64_t grid_ = 0;        // positions of the longest phase, one sample
  int64_t positions_ = 0;   // of all samples
  int64_t panels_ = 0;      // of a group
  int64_t jobs_ = 0;        // of a group: panel and phase on the two outer axes
  int64_t chunk_ = 0;
  int64_t block_ = 0;    // positions
  int64_t job_run_ = 0;  // jobs whose strips are kept at a time
  int64_t pack_panels_ = 0;
  int threads_ = 1;
  bool direct_store_ = false;
  bool samples_inside_ = false;
  size_t worker_bytes_ = 0;
  size_t workspace_ = 0;
  size_t least_ = 0;
};

std::unique_ptr<Recipe> make(const Problem& problem) {
  if (compute_dtype(problem.dtype) == DType::f64) return std::make_unique<PhaseGemm<double>>(problem);
  return std::make_unique<PhaseGemm<float>>(problem);
}

std::optional<std::string> refusal(const Problem& problem) {
  if (problem.pass == Pass::weight_gradient) return "the pass is the weight gradient";
  for (const Axis& axis : problem.geometry.axes) {
    if (axis.stride > kMostStride) return "stride above " + std::to_string(kMostStride);
  }
  if (problem.geometry.taps() > kMostTaps) return "more than " + std::to_string(kMostTaps) + " taps";
  const auto least = compute_dtype(problem.dtype) == DType::f64 ? PhaseGemm<double>(problem).least()
                                                                : PhaseGemm<float>(problem).least();
  if (least > problem.workspace) {
    return "workspace: got " + std::to_string(problem.workspace) + " bytes; need at least " +
           std::to_string(least);
  }
  return std::nullopt;
}

double cost(const Problem& problem) {
  const Sides sides(problem);
  const Kernel& tile = choose_tile(problem);
  const double width = machine::lanes(tile.dtype, tile.isa);
  double grid = static_cast<double>(sides.batch * sides.groups);
  double offsets = 1;
  double phases = 1;
  for (const Axis& axis : problem.geometry.axes) {
    const PhaseAxis phase = phase_axis(axis, problem.pass);
    grid *= static_cast<double>(phase.positions);
    offsets *= static_cast<double>(phase.offsets.size());
    phases *= static_cast<double>(std::min(phase.phases(), phase.dst_size));
  }
  const auto panels = static_cast<double>(ceil_div(sides.column_maps, tile.lanes));
  const auto depth = static_cast<double>(sides.depth_maps);
  const double steps = grid * panels * static_cast<double>(sides.taps) * depth;
  const double gathered = grid * offsets * depth / std::min(width, static_cast<double>(tile.rows));
  const double scattered = grid * phases * panels * tile.lanes / width;
  return steps * machine::tile_step_seconds(tile, tile.rows) / tile.rows +
         gathered * machine::kGatherSeconds + scattered * machine::kScatterSeconds +
         grid * phases * panels / tile.rows * machine::kCallSeconds + machine::traffic_seconds(problem);
}

}  // namespace

extern const Algorithm phase_gemm;
const Algorithm phase_gemm{"phase_gemm", refusal, cost, make};

}  // namespace tconv
