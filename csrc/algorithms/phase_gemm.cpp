// Forward and data gradient as matrix products, one for each phase of the output: rows are output positions,
// lanes are output maps, the depth is taps times input maps. Input is gathered into small panels, a tap
// offset at a time, that all phases share; nothing is scattered, and no zero is inserted.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "packing.hpp"
#include "pair_abi.hpp"
#include "phases.hpp"

namespace tconv {
namespace {

constexpr int64_t kMostStride = 1 << 16;
constexpr int64_t kMostTaps = 1 << 20;
constexpr int64_t kPanelBytes = 384 << 10;
constexpr int64_t kStripBytes = 256 << 10;
constexpr int64_t kPackedBytes = 16 << 20;
constexpr int64_t kMostBlockPositions = 512;
constexpr int64_t kRuns = 1024;
// Maps up to this size are worth turning inside out, so that tiles hold one place of many samples.
constexpr int64_t kSmallMap = 64;
constexpr int64_t kColumnsTurned = 256;  // at a time
// A run of neighbours found, and a position where maps lie together, however many.
constexpr double kRunSeconds = 25 / machine::kHertz;
constexpr double kPlaceSeconds = 10 / machine::kHertz;
constexpr double kSingleSeconds = 2 / machine::kHertz;  // a position of one map that has no neighbour
constexpr double kTurnedSeconds = 2 / machine::kHertz;  // an element whose samples become innermost
constexpr double kFarTurns = 5;  // times as long beyond the second cache, in a gradient
constexpr double kStartSeconds = 3500 / machine::kHertz;  // of all else
// A plain weight of a gradient that is packed, in the second cache and beyond it.
constexpr double kNearWeightSeconds = 0.7 / machine::kHertz;
constexpr double kFarWeightSeconds = 2.6 / machine::kHertz;
// A lane of packed weights of a gradient that no map fills, beyond the second cache.
constexpr double kEmptyLaneSeconds = 1.5 / machine::kHertz;

// How many times as long parts of the work take in a pass: products, those of pairs beside, vectors that are
// stored, runs and places that are found, elements that are turned.
struct Figures {
  double products;
  double pairs;
  double stored;
  double runs;
  double places;
  double turned;
};
constexpr Figures kForward{1, 1, 1, 1, 1, 1};
constexpr Figures kGradient{1.1, 1.25, 1.7, 1.5, 1, 0.35};
constexpr Figures kGradientLast{1.2, 1.15, 1, 1.3, 0.8, 0.25};

const Figures& figures_of(const Problem& problem) noexcept {
  if (problem.pass == Pass::forward) return kForward;
  return problem.geometry.channels_last ? kGradientLast : kGradient;
}

// The arrays once, and the weights packed, of whose lanes maps fill a share. A gradient's maps are charged
// with what moves them, unless they come from memory.
double array_seconds(const Problem& problem, double filled_lanes) noexcept {
  if (problem.pass == Pass::forward) return machine::traffic_seconds(problem);
  Problem maps = problem;
  maps.packed = true;
  const auto weights = static_cast<double>(problem.geometry.weight_elements());
  const double packed = weights / filled_lanes;
  const bool near = packed * static_cast<double>(compute_bytes(problem.dtype)) < machine::kSecondCacheBytes;
  const double packing = weights * (near ? kNearWeightSeconds : kFarWeightSeconds) +
                         (near ? 0 : (packed - weights) * kEmptyLaneSeconds);
  return (machine::stays_near(problem) ? 0 : machine::traffic_seconds(maps, 0)) +
         (problem.packed ? 0 : packing);
}

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
};

const Kernel& choose_tile(const Problem& problem) {
  const Sides sides(problem);
  const auto candidates = product_kernels(problem.dtype, problem.isa);
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
        activate_(problem),
        sides_(problem),
        axes_{PhaseAxis(problem.geometry.axes[0], problem.pass),
              PhaseAxis(problem.geometry.axes[1], problem.pass),
              PhaseAxis(problem.geometry.axes[2], problem.pass)},
        gemm_(choose_tile(problem)),
        gather_(tconv::kernel(Family::gather, problem.dtype, problem.isa)),
        load_(tconv::kernel(Family::load, problem.dtype, problem.isa)),
        store_(tconv::kernel(Family::store, problem.dtype, problem.isa)),
        pair_(pair_kernel(gemm_)),
        chunk_(chunk_maps(problem.geometry, problem.pass, sides_.depth_maps)),
        packing_(problem, gemm_.lanes, chunk_) {
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
      offsets_ *= axis.offset_count;
      grid_ *= axis.positions;
      phase_taps_ *= axis.most_taps;
    }
    positions_ = sides_.batch * grid_;
    // Samples innermost: a tile then holds one place of many samples, and taps outside the image drop out
    // whole.
    samples_inside_ = sides_.batch >= 4 && grid_ <= kSmallMap && offsets_ > 1 && leaves_image();
    panels_ = ceil_div(sides_.column_maps, gemm_.lanes);
    jobs_ = panels_ * axes_[0].phases() * axes_[1].phases();
    staged_ = src_;
    cut();
    if (samples_inside_ && workspace_ > problem.workspace) {
      samples_inside_ = false;
      cut();
    }
    const int64_t inner = samples_inside_ ? sides_.batch : 1;
    row_ = axes_[2].positions * inner;
    if (samples_inside_) {
      const int64_t places = axes_[0].src_size * axes_[1].src_size * axes_[2].src_size;
      staged_ = {places * inner,
                 1,
                 {axes_[1].src_size * axes_[2].src_size * inner, axes_[2].src_size * inner, inner}};
    }
    panel_kernel_ = &tconv::kernel(
        Family::panel, samples_inside_ ? compute_dtype(problem.dtype) : problem.dtype, problem.isa);
  }

  void list() override {
    for (PhaseAxis& axis : axes_) axis.list();
  }

  std::string kernel() const override { return gemm_.name; }
  size_t workspace_bytes() const noexcept override { return workspace_; }
  std::string packing_key() const override { return packing_.key() + (pair_ == nullptr ? "" : " pairs"); }
  size_t packed_bytes() const noexcept override { return packing_.bytes(); }
  bool pack(const void* weight, char* packed, Crew& crew) const override {
    return pack_panels(weight, packed, 0, sides_.groups * panels_, crew);
  }

  bool run(const Call& call) const override {
    const Buffer scratch(workspace_);
    Pieces pieces(scratch.data());
    T* bias = nullptr;
    if (call.bias != nullptr) {
      bias = pieces.take<T>(bias_bytes());
      spread_bias(call.bias, bias);
    }
    char* packed = call.packed == nullptr
                       ? pieces.take(packing_.panel_bytes() * static_cast<size_t>(pack_panels_))
                       : nullptr;
    const void* source = call.source;
    if (samples_inside_) {
      T* stage = pieces.take<T>(stage_bytes());
      turn_inside_out(call.source, stage, call.crew);
      source = stage;
    }
    // A small workspace has room for fewer workers than there are threads.
    call.crew.limit(threads_);
    std::vector<Worker> workers;
    workers.reserve(static_cast<size_t>(threads_));
    for (int i = 0; i < threads_; ++i)
      workers.push_back(worker(pieces.rest() + static_cast<size_t>(i) * worker_bytes_));

    const int64_t all_panels = sides_.groups * panels_;
    for (int64_t first = 0; first < all_panels; first += pack_panels_) {
      const int64_t last = std::min(first + pack_panels_, all_panels);
      const char* weights = static_cast<const char*>(call.packed);
      if (packed != nullptr) {
        if (!pack_panels(call.weight, packed, first, last, call.crew)) return false;
        weights = packed - static_cast<size_t>(first) * packing_.panel_bytes();
      }
      run_panels(call, source, reinterpret_cast<const T*>(weights), bias, first, last, workers);
    }
    return true;
  }

 private:
  struct Strides {
    int64_t map;
    int64_t sample;
    int64_t axis[3];
  };

  // Where a position's outputs start: those of the first phase.
  struct Place {
    int64_t base;
    int64_t t[kAxes];
    int64_t end;  // of the slots whose outputs are neighbours, for the first of them
  };

  // Positions [begin, end) of a block that lie in one row of the grid, the first at coordinate `at`.
  struct Segment {
    int64_t begin;
    int64_t end;
    int64_t at;
    int64_t sample;
    int64_t z;
    int64_t y;
  };

  // What one thread works in.
  struct Worker {
    T* panel;
    T* strip;
    T* spare;        // a row nobody reads
    int64_t* slots;  // of each position in the strip, where those of a sample are neighbours
    Place* places;   // by slot
    Segment* segments;
    PanelRun* runs;
    int64_t* offset;
    uint16_t* tile_of;
    int64_t* a_offset;
    int64_t* b_offset;
    uint8_t* reached;  // of tile and tap offset: some position is inside the image
    void** rows;
    int64_t segment_count = 0;
    int64_t block = -1;
    int64_t group = -1;
    int64_t chunk = -1;
  };

  struct Run {
    const Call& call;
    const void* source;
    const T* weights;
    const T* bias;
    int64_t first_panel;
    int64_t last_panel;
  };

  // Elements of the depth that so many maps make.
  int64_t depth(int64_t maps) const noexcept { return ceil_div(maps, steps_of_element(gemm_)); }

  // Packs the panels from `first` to before `last`.
  bool pack_panels(const void* weight, char* packed, int64_t first, int64_t last, Crew& crew) const {
    if (!packing_.pack(weight, packed, first, last, crew)) return false;
    if (pair_ == nullptr) return true;
    const int64_t chunks = ceil_div(sides_.depth_maps, chunk_);
    const double seconds = static_cast<double>(last - first) * static_cast<double>(packing_.panel_bytes()) /
                           machine::kStoreBytesPerSecond;
    crew.share((last - first) * chunks, seconds, [&](int64_t unit, int) noexcept {
      const int64_t chunk = unit % chunks;
      const int64_t maps = std::min(chunk_, sides_.depth_maps - chunk * chunk_);
      T* data = reinterpret_cast<T*>(packed) + packing_.chunk_offset(unit / chunks, chunk);
      (*pair_)(PairArgs{data, sides_.taps, maps, gemm_.lanes});
    });
    return true;
  }

  // Whether some tap leads outside the image from some position.
  bool leaves_image() const noexcept {
    return std::any_of(axes_.begin(), axes_.end(), [](const PhaseAxis& axis) {
      return axis.lowest_offset < 0 ||
             (axis.positions - 1) * axis.src_step + axis.highest_offset >= axis.src_size;
    });
  }

  int64_t strip_rows() const noexcept { return block_ * axes_[2].phases(); }
  int64_t block_tiles() const noexcept { return ceil_div(block_, gemm_.rows); }
  size_t bias_bytes() const noexcept {
    return static_cast<size_t>(sides_.groups * panels_ * gemm_.lanes) * sizeof(T);
  }

  // Positions of a row of the panel: not a power of two, or the rows of a tile meet in one set of the cache.
  int64_t width() const noexcept { return ((block_ + 15) / 16 | 1) * 16; }
  size_t stage_bytes() const noexcept {
    if (!samples_inside_) return 0;
    return static_cast<size_t>(sides_.batch * src_maps_ * axes_[0].src_size * axes_[1].src_size *
                               axes_[2].src_size) *
           sizeof(T);
  }

  // Hands out what a worker needs, from `memory` on; returns the end.
  char* lay_out(char* memory, Worker* made) const noexcept {
    const auto claim = [&memory](auto** part, int64_t count) {
      *part = reinterpret_cast<std::remove_reference_t<decltype(*part)>>(memory);
      memory += aligned(static_cast<size_t>(count) * sizeof(**part));
    };
    claim(&made->panel, offsets_ * std::min(chunk_, sides_.depth_maps) * width());
    claim(&made->strip, direct_store_ ? 0 : job_run_ * strip_rows() * gemm_.lanes);
    claim(&made->spare, gemm_.lanes);
    claim(&made->places, block_);
    claim(&made->slots, block_);
    claim(&made->segments, block_);
    claim(&made->runs, kRuns);
    claim(&made->offset, block_);
    claim(&made->tile_of, block_);
    claim(&made->rows, gemm_.rows);
    claim(&made->a_offset, phase_taps_);
    claim(&made->b_offset, phase_taps_);
    claim(&made->reached, block_tiles() * offsets_);
    return memory;
  }

  size_t worker_size() const noexcept {
    Worker made{};
    return static_cast<size_t>(lay_out(nullptr, &made) - static_cast<char*>(nullptr));
  }

  Worker worker(char* memory) const noexcept {
    Worker made{};
    lay_out(memory, &made);
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
      return aligned(bias_bytes()) + aligned(stage_bytes()) +
             (packs ? aligned(packing_.panel_bytes() * static_cast<size_t>(pack_panels_)) : 0) +
             worker_bytes_ * static_cast<size_t>(threads_);
    };
    workspace_ = total();
    if (workspace_ > problem_.workspace) return;
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
      // No more than stay near until they are used.
      const int64_t near = std::max<int64_t>(1, kPackedBytes / static_cast<int64_t>(packing_.panel_bytes()));
      pack_panels_ = std::clamp<int64_t>(std::min(room, near), 1, all_panels);
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

  // Reorders the source to [map][place][sample], in the compute type.
  void turn_inside_out(const void* source, T* stage, Crew& crew) const {
    const int64_t places = axes_[0].src_size * axes_[1].src_size * axes_[2].src_size;
    const auto element = static_cast<int64_t>(storage_bytes(problem_.dtype));
    const bool apart = src_.map != 1;
    const double seconds = static_cast<double>(stage_bytes()) / machine::kStoreBytesPerSecond;
    crew.share(apart ? src_maps_ : places, seconds, [&](int64_t unit, int member) noexcept {
      const char* from =
          static_cast<const char*>(source) + unit * (apart ? src_.map : src_.axis[2]) * element;
      T* to = stage + unit * sides_.batch * (apart ? places : 1);
      MoveArgs args{};
      args.rows = sides_.batch;
      args.src_row = src_.sample;
      args.src_column = 1;
      args.dst_row = 1;
      args.dst_column = sides_.batch * (apart ? 1 : places);
      const int64_t columns = apart ? places : src_maps_;
      for (int64_t first = 0; first < columns && !crew.stopped(member); first += kColumnsTurned) {
        args.src = from + first * element;
        args.dst = to + first * args.dst_column;
        args.columns = std::min(kColumnsTurned, columns - first);
        load_(args);
      }
    });
  }

  // Finds the rows of the grid that a block holds, and where its positions go.
  void locate(Worker& w, int64_t first, int64_t count, int64_t tiles) const noexcept {
    const int64_t inner = samples_inside_ ? sides_.batch : 1;
    // Samples that are not innermost leave positions as they are.
    if (samples_inside_ || w.block < 0) {
      const int64_t all = samples_inside_ ? count : block_;
      int64_t slot = 0;
      for (int64_t begin = 0; begin < std::min(inner, all); ++begin) {
        for (int64_t i = begin; i < all; i += inner) w.slots[i] = slot++;
      }
    }
    w.segment_count = 0;
    int64_t row = first / row_;
    int64_t at = first % row_;
    for (int64_t begin = 0; begin < count; ++row, at = 0) {
      Segment& s = w.segments[w.segment_count++];
      s.begin = begin;
      s.at = at;
      s.end = begin = std::min(count, begin + row_ - at);
      s.y = row % axes_[1].positions;
      s.z = row / axes_[1].positions % axes_[0].positions;
      s.sample = row / axes_[1].positions / axes_[0].positions;
      int64_t x = at / inner;
      int64_t sample = s.sample + at % inner;
      for (int64_t i = s.begin; i < s.end; ++i) {
        w.places[w.slots[i]] = {sample * dst_.sample + s.z * axes_[0].dst_step * dst_.axis[0] +
                                    s.y * axes_[1].dst_step * dst_.axis[1] +
                                    x * axes_[2].dst_step * dst_.axis[2],
                                {s.z, s.y, x},
                                0};
        if (!samples_inside_ || ++sample == sides_.batch) {
          ++x;
          sample = s.sample;
        }
      }
    }
    find_runs(w, count);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      for (int64_t i = tile_begin(tile, tiles, count); i < tile_begin(tile + 1, tiles, count); ++i) {
        w.tile_of[i] = static_cast<uint16_t>(tile);
      }
    }
  }

  // Finds the slots whose outputs are neighbours, rows being some where they follow each other in the output.
  void find_runs(Worker& w, int64_t count) const noexcept {
    const int64_t step = axes_[2].dst_step;
    const bool whole_rows = axes_[2].positions * step == axes_[2].dst_size;
    if (!samples_inside_) {
      const bool joined = whole_rows && axes_[1].dst_step == 1;
      for (int64_t i = 0; i < w.segment_count; ++i) {
        const Segment& s = w.segments[i];
        const int64_t rows = joined ? axes_[1].positions - s.y : 1;
        w.places[s.begin].end = std::min(count, s.begin + rows * row_ - s.at);
      }
      return;
    }
    for (int64_t i = count; i-- > 0;) {
      Place& p = w.places[i];
      const bool goes_on = i + 1 < count && p.base + step * dst_.axis[2] == w.places[i + 1].base &&
                           (whole_rows || p.t[2] < w.places[i + 1].t[2]);
      p.end = goes_on ? w.places[i + 1].end : i + 1;
    }
  }

  void run_panels(const Call& call, const void* source, const T* weights, const T* bias, int64_t first,
                  int64_t last, std::vector<Worker>& workers) const {
    const Run run{call, source, weights, bias, first, last};
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
      run_block(run, workers[static_cast<size_t>(member)], group, block, begin, end, member);
    });
  }

  void run_block(const Run& run, Worker& w, int64_t group, int64_t block, int64_t job_begin, int64_t job_end,
                 int member) const noexcept {
    const int64_t first = block * block_;
    const int64_t count = std::min(block_, positions_ - first);
    const int64_t tiles = ceil_div(count, gemm_.rows);
    if (w.block != block || w.group != group) {
      if (w.block != block) locate(w, first, count, tiles);
      w.block = block;
      w.group = group;
      w.chunk = -1;
    }
    const int64_t chunks = ceil_div(sides_.depth_maps, chunk_);
    for (int64_t job = job_begin; job < job_end; job += job_run_) {
      const int64_t stop = std::min(job + job_run_, job_end);
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        if (run.call.crew.stopped(member)) return;
        const int64_t maps = std::min(chunk_, sides_.depth_maps - chunk * chunk_);
        if (w.chunk != chunk) {
          fill_panel(run.source, w, group, chunk, maps, count, tiles);
          w.chunk = chunk;
        }
        for (int64_t j = job; j < stop; ++j) multiply(run, w, group, j, j - job, chunk, maps, count, tiles);
      }
      if (!direct_store_) {
        for (int64_t j = job; j < stop; ++j) store_job(run, w, group, j, j - job, count);
      }
    }
  }

  int64_t tile_begin(int64_t tile, int64_t tiles, int64_t count) const noexcept {
    return count * tile / tiles;
  }

  // Positions of a row of the grid, by coordinate, that tap offset `offset` leads into the image.
  std::pair<int64_t, int64_t> reach_x(int64_t offset) const noexcept {
    const PhaseAxis& x = axes_[2];
    const int64_t inner = samples_inside_ ? sides_.batch : 1;
    const int64_t begin = offset >= 0 ? 0 : (-offset + x.src_step - 1) / x.src_step;
    const int64_t end = x.src_size - 1 - offset < 0 ? 0 : (x.src_size - 1 - offset) / x.src_step + 1;
    return {begin * inner, end * inner};
  }

  bool inside_axis(int axis, int64_t t, int64_t offset) const noexcept {
    return static_cast<uint64_t>(t * axes_[axis].src_step + offset) <
           static_cast<uint64_t>(axes_[axis].src_size);
  }

  // Fills the panel, [tap offset][map][position], zeros where an offset leads outside the image.
  void fill_panel(const void* source, Worker& w, int64_t group, int64_t chunk, int64_t maps, int64_t count,
                  int64_t tiles) const noexcept {
    const Strides& src = staged_;
    const bool neighbours = src.map == 1 && maps > 1;
    const int64_t map0 = (group * sides_.depth_maps + chunk * chunk_) * src.map;
    const int64_t step = axes_[2].src_step;
    PanelArgs panel{};
    panel.src = source;
    panel.map_stride = src.map;
    panel.src_step = samples_inside_ ? 1 : step * src.axis[2];
    panel.dst = w.panel;
    panel.width = width();
    panel.maps = maps;
    panel.run = w.runs;
    GatherArgs gather{};
    gather.src = source;
    gather.map_stride = src.map;
    gather.offset = w.offset;
    gather.count = count;
    gather.width = width();
    gather.maps = maps;
    const auto add = [&](int64_t from, int64_t to, int64_t length) {
      w.runs[panel.runs++] = {from, static_cast<int32_t>(to), static_cast<int32_t>(length)};
      if (panel.runs == kRuns) {
        (*panel_kernel_)(panel);
        panel.runs = 0;
      }
    };
    std::fill(w.reached, w.reached + tiles * offsets_, uint8_t{0});
    int64_t u = 0;
    for (const int64_t oz : axes_[0].offsets) {
      for (const int64_t oy : axes_[1].offsets) {
        for (const int64_t ox : axes_[2].offsets) {
          const auto [reach_begin, reach_end] = reach_x(ox);
          const int64_t at = u * maps * width();
          int64_t done = 0;  // positions below are filled, or are zeros that wait to be
          if (neighbours) std::fill(w.offset, w.offset + count, int64_t{-1});
          for (int64_t i = 0; i < w.segment_count; ++i) {
            const Segment& s = w.segments[i];
            if (!inside_axis(0, s.z, oz) || !inside_axis(1, s.y, oy)) continue;
            const int64_t begin = std::max(s.begin, s.begin + reach_begin - s.at);
            const int64_t end = std::min(s.end, s.begin + reach_end - s.at);
            if (begin >= end) continue;
            for (int64_t tile = w.tile_of[begin]; tile <= w.tile_of[end - 1]; ++tile) {
              w.reached[tile * offsets_ + u] = 1;
            }
            const int64_t row = map0 + (samples_inside_ ? 0 : s.sample * src.sample) +
                                (s.z * axes_[0].src_step + oz) * src.axis[0] +
                                (s.y * axes_[1].src_step + oy) * src.axis[1] + ox * src.axis[2];
            const int64_t first = s.at + begin - s.begin;  // coordinate
            if (neighbours) {
              for (int64_t p = begin; p < end; ++p)
                w.offset[p] = row + (first + p - begin) * step * src.axis[2];
              continue;
            }
            if (begin > done) add(-1, at + done, begin - done);
            done = end;
            if (!samples_inside_) {
              add(row + first * step * src.axis[2], at + begin, end - begin);
            } else if (step == 1) {
              add(row + first, at + begin, end - begin);
            } else {
              for (int64_t p = begin; p < end;) {
                const int64_t x = (first + p - begin) / sides_.batch;
                const int64_t sample = (first + p - begin) % sides_.batch;
                const int64_t length = std::min(end - p, sides_.batch - sample);
                add(row + x * step * sides_.batch + sample, at + p, length);
                p += length;
              }
            }
          }
          if (neighbours) {
            gather.dst = w.panel + at;
            gather_(gather);
          } else if (done < count) {
            add(-1, at + done, count - done);
          }
          ++u;
        }
      }
    }
    if (panel.runs > 0) (*panel_kernel_)(panel);
    if (pair_ != nullptr) (*pair_)(PairArgs{w.panel, offsets_, maps, width()});
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

  // Whether no tap leads to the rows of a job, which are filled where maps lie apart.
  bool gap(const Job& j) const noexcept {
    return dst_.map != 1 && axes_[0].tap_count(j.phase_z) * axes_[1].tap_count(j.phase_y) == 0;
  }

  void multiply(const Run& run, Worker& w, int64_t group, int64_t job_index, int64_t slot, int64_t chunk,
                int64_t maps, int64_t count, int64_t tiles) const noexcept {
    const Job j = job(job_index);
    if (gap(j)) return;
    const auto& [z, y, x] = axes_;
    const int64_t panel = group * panels_ + j.panel;
    const int64_t lanes = std::min<int64_t>(gemm_.lanes, sides_.column_maps - j.panel * gemm_.lanes);
    T* strip = w.strip + slot * strip_rows() * gemm_.lanes;
    GemmArgs args{};
    args.a = w.panel;
    args.b = run.weights + packing_.chunk_offset(panel, chunk);
    args.a_offset = w.a_offset;
    args.b_offset = w.b_offset;
    args.depth = depth(maps);
    args.a_step = width();
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
        int64_t segments = 0;
        int64_t tap = first_tap;
        for (int64_t tz = 0; tz < taps_z; ++tz) {
          const int64_t slot_z = z.taps_of(j.phase_z)[tz].slot * static_cast<int64_t>(y.offsets.size());
          for (int64_t ty = 0; ty < taps_y; ++ty) {
            const int64_t slot_y =
                (slot_z + y.taps_of(j.phase_y)[ty].slot) * static_cast<int64_t>(x.offsets.size());
            for (int64_t tx = 0; tx < taps_x; ++tx, ++tap) {
              const int64_t u = slot_y + x.taps_of(phase_x)[tx].slot;
              w.a_offset[segments] = begin + u * args.depth * width();
              w.b_offset[segments] = tap * args.depth * gemm_.lanes;
              segments += reached[u];
            }
          }
        }
        for (int64_t m = 0; m < rows; ++m) {
          w.rows[m] = direct_store_ ? direct_row(run.call.out, w, group, j, phase_x, begin + m)
                                    : strip + (w.slots[begin + m] * x.phases() + phase_x) * gemm_.lanes;
        }
        args.rows = static_cast<int32_t>(rows);
        args.segments = segments;
        gemm_(args);
        if (direct_store_ && final_chunk) {
          for (int64_t m = 0; m < rows; ++m) activate_(static_cast<T*>(w.rows[m]), lanes);
        }
      }
    }
  }

  void* direct_row(void* out, const Worker& w, int64_t group, const Job& j, int64_t phase_x,
                   int64_t position) const noexcept {
    const Place& p = w.places[w.slots[position]];
    const int64_t at_z = p.t[0] * axes_[0].dst_step + j.phase_z;
    const int64_t at_y = p.t[1] * axes_[1].dst_step + j.phase_y;
    const int64_t at_x = p.t[2] * axes_[2].dst_step + phase_x;
    if (at_z >= axes_[0].dst_size || at_y >= axes_[1].dst_size || at_x >= axes_[2].dst_size) return w.spare;
    return static_cast<T*>(out) + p.base + j.phase_z * dst_.axis[0] + j.phase_y * dst_.axis[1] +
           phase_x * dst_.axis[2] + group * sides_.column_maps + j.panel * gemm_.lanes;
  }

  // Moves the strip of one job to the output, a run of neighbours at a time.
  void store_job(const Run& run, const Worker& w, int64_t group, int64_t job_index, int64_t slot,
                 int64_t count) const noexcept {
    const Job j = job(job_index);
    const bool filled = gap(j);
    const int64_t step = axes_[2].dst_step;
    const int64_t lanes = std::min<int64_t>(gemm_.lanes, sides_.column_maps - j.panel * gemm_.lanes);
    T* strip = w.strip + slot * strip_rows() * gemm_.lanes;
    if (!filled) activate_(strip, count * step * gemm_.lanes);
    const int64_t element = static_cast<int64_t>(storage_bytes(problem_.dtype));
    MoveArgs args{};
    int64_t end;
    for (int64_t begin = 0; begin < count; begin = end) {
      const Place& p = w.places[begin];
      end = p.end;
      if (p.t[0] * axes_[0].dst_step + j.phase_z >= axes_[0].dst_size) continue;
      if (p.t[1] * axes_[1].dst_step + j.phase_y >= axes_[1].dst_size) continue;
      const int64_t width =
          (end - 1 - begin) * step + std::min(step, axes_[2].dst_size - w.places[end - 1].t[2] * step);
      const int64_t at = p.base + j.phase_z * dst_.axis[0] + j.phase_y * dst_.axis[1] +
                         (group * sides_.column_maps + j.panel * gemm_.lanes) * dst_.map;
      if (filled) {
        fill(run, group * panels_ + j.panel, lanes, at, width);
        continue;
      }
      args.src = strip + begin * step * gemm_.lanes;
      args.dst = static_cast<char*>(run.call.out) + at * element;
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

  // Neighbours in the output that no tap leads to, in each map of a panel.
  void fill(const Run& run, int64_t panel, int64_t lanes, int64_t at, int64_t width) const noexcept {
    with_dtype(problem_.dtype, [&](auto e) {
      using E = decltype(e);
      auto* out = static_cast<typename E::storage*>(run.call.out) + at;
      for (int64_t lane = 0; lane < lanes; ++lane, out += dst_.map) {
        T value = run.bias == nullptr ? T{0} : run.bias[panel * gemm_.lanes + lane];
        activate_(&value, 1);
        std::fill_n(out, width, E::store(static_cast<typename E::compute>(value)));
      }
    });
  }

  Problem problem_;
  Activate activate_;
  Sides sides_;
  std::array<PhaseAxis, kAxes> axes_;
  const Kernel& gemm_;
  const Kernel& gather_;
  const Kernel& load_;
  const Kernel& store_;
  const Kernel* panel_kernel_ = nullptr;
  const Kernel* pair_;  // where products take pairs
  int64_t chunk_;
  ColumnPacking packing_;
  Strides src_{};
  Strides dst_{};
  Strides staged_{};  // of what panels are filled from
  int64_t src_maps_ = 0;
  int64_t dst_maps_ = 0;
  int64_t offsets_ = 0;     // tap offsets that some phase uses, all axes
  int64_t phase_taps_ = 1;  // most taps of a phase
  int64_t grid_ = 0;        // positions of the longest phase, one sample
  int64_t positions_ = 0;   // of all samples
  int64_t row_ = 0;         // positions of a row of the grid, with samples where they are innermost
  int64_t panels_ = 0;      // of a group
  int64_t jobs_ = 0;        // of a group: panel and phase on the two outer axes
  int64_t block_ = 0;       // positions
  int64_t job_run_ = 0;     // jobs whose strips are kept at a time
  int64_t pack_panels_ = 0;
  int threads_ = 1;
  bool direct_store_ = false;
  bool samples_inside_ = false;
  size_t worker_bytes_ = 0;
  size_t workspace_ = 0;
};

std::optional<std::string> refusal(const Problem& problem) {
  for (const Axis& axis : problem.geometry.axes) {
    if (axis.stride > kMostStride) return "stride above " + std::to_string(kMostStride);
  }
  if (problem.geometry.taps() > kMostTaps) return "more than " + std::to_string(kMostTaps) + " taps";
  return std::nullopt;
}

// What share of the products of positions and taps along an axis is made: taps that lead out of the image are
// left out, along rows where they do for all positions.
double share_made(const Axis& axis, bool rows) noexcept {
  constexpr int64_t most = 64;
  if (axis.kernel > most) return 1;
  int64_t made = 0;
  for (int64_t k = 0; k < axis.kernel; ++k) {
    const int64_t from = axis.pad_lo - k * axis.dilation;
    const int64_t begin = std::clamp<int64_t>(ceil_div(from, axis.stride), 0, axis.size);
    const int64_t end =
        std::clamp<int64_t>(floor_div(axis.out - 1 + from, axis.stride) + 1, begin, axis.size);
    made += rows && begin < end ? axis.size : end - begin;
  }
  return static_cast<double>(made) / static_cast<double>(axis.size * axis.kernel);
}

// Outputs of a map that are stored together.
double stored_run(const Problem& problem) noexcept {
  const Axis& y = problem.geometry.axes[1];
  const Axis& x = problem.geometry.axes[2];
  const bool forward = problem.pass == Pass::forward;
  const int64_t row = forward ? x.out : x.size;
  const bool joined = !forward || (y.stride == 1 && x.out % x.stride == 0);
  return static_cast<double>(joined ? row * (forward ? y.out : y.size) : row);
}

// What the products and the arrays take, and what is stored.
struct Making {
  Sides sides;
  const Kernel& tile;
  double grid;  // positions of all samples and groups
  double phases;
  double share = 1;   // of the products
  double filled = 0;  // share of the phases, those that no tap leads to and that are no work but to fill
  double panels;
  double pairing;  // steps of depth in an element

  bool inside = false;  // whether samples are innermost
  double alone;         // times as long to load and store maps of a group that lie among others

  explicit Making(const Problem& problem)
      : sides(problem),
        tile(choose_tile(problem)),
        grid(1),
        phases(1),
        panels(static_cast<double>(ceil_div(sides.column_maps, tile.lanes))),
        pairing(static_cast<double>(steps_of_element(tile))),
        alone(problem.geometry.channels_last && sides.groups > 1 ? 2.5 : 1) {
    const bool forward = problem.pass == Pass::forward;
    double pairs = 1;
    double reached = 1;
    for (const Axis& axis : problem.geometry.axes) {
      grid *= static_cast<double>(forward ? ceil_div(axis.out, axis.stride) : axis.size);
      phases *= static_cast<double>(forward ? std::min(axis.stride, axis.out) : 1);
      pairs *= share_made(axis, false);
      if (forward && &axis != &problem.geometry.axes[2]) {
        const int64_t period = axis.stride / std::gcd(axis.stride, axis.dilation);
        reached *= static_cast<double>(std::min(period, axis.kernel)) / static_cast<double>(axis.stride);
      }
    }
    if (!problem.geometry.channels_last) filled = 1 - reached;
    inside = sides.batch >= 4 && grid <= static_cast<double>(kSmallMap) && pairs < 1;
    for (const Axis& axis : problem.geometry.axes) {
      const bool rows = &axis == &problem.geometry.axes[2] && !inside;
      share *= share_made(axis, rows);
      if (forward && !rows) {
        share *= static_cast<double>(axis.size) / static_cast<double>(ceil_div(axis.out, axis.stride));
      }
    }
    grid *= static_cast<double>(sides.batch * sides.groups);
  }

  double seconds(const Problem& problem) const noexcept {
    const double steps = grid * share * panels * static_cast<double>(sides.taps) *
                         std::ceil(static_cast<double>(sides.depth_maps) / pairing);
    const double lanes = machine::lanes(tile.dtype, tile.isa);
    const double made = grid * phases * panels * (1 - filled * 0.75);
    const double scattered = made * tile.lanes / lanes * alone;
    // Maps that lie apart are stored by squares of positions, about half of whose time goes to mirror them
    // whether positions fill them or not.
    const double run = stored_run(problem);
    const double squares =
        problem.geometry.channels_last ? 1 : (1 + std::ceil(run / lanes) * lanes / run) / 2;
    const Figures& figures = figures_of(problem);
    const double products = figures.products * (pairing > 1 ? figures.pairs : 1);
    return steps * products * machine::tile_step_seconds(tile, tile.rows) / tile.rows +
           scattered * squares * figures.stored * machine::kScatterSeconds +
           made / tile.rows * machine::kCallSeconds +
           array_seconds(problem, static_cast<double>(sides.column_maps) / (panels * tile.lanes));
  }
};

double least_seconds(const Problem& problem) { return Making(problem).seconds(problem); }

double cost(const Problem& problem) {
  const Making making(problem);
  double offsets = 1;
  for (const Axis& axis : problem.geometry.axes) {
    offsets *= static_cast<double>(PhaseAxis(axis, problem.pass).offset_count);
  }
  const Axis& x = problem.geometry.axes[2];
  const bool forward = problem.pass == Pass::forward;
  const auto depth = static_cast<double>(making.sides.depth_maps);
  const double width = machine::lanes(making.tile.dtype, making.tile.isa);
  // Rows of the grid are gathered one by one; half a vector more where they end within one. With samples
  // innermost, which were turned to be, a position that a stride parts from the next is a row.
  const auto positions = static_cast<double>(forward ? ceil_div(x.out, x.stride) : x.size);
  const double apart = forward ? 1 : static_cast<double>(x.stride);
  const double samples = making.inside ? static_cast<double>(making.sides.batch) : 1.0;
  const double neighbours = making.inside && apart > 1 ? samples : positions * samples;
  const double rows = making.grid / neighbours;
  const double row = neighbours / std::min(width, static_cast<double>(making.tile.rows));
  // Positions far apart share no line of the cache; those of a gradient are taken apart, a few at a time.
  const bool last = problem.geometry.channels_last;
  const double far = forward ? std::clamp(0.75 * apart, 1.0, 16.0) * making.alone
                     : last  ? (making.sides.groups > 1 ? 2 : 0.3)
                             : std::clamp(1.05 * apart, 1.6, 5.0);
  const auto source =
      static_cast<double>(forward ? problem.geometry.small_elements() : problem.geometry.large_elements());
  const double bytes = source * static_cast<double>(compute_bytes(problem.dtype));
  const double turns = !forward && bytes > machine::kSecondCacheBytes ? kFarTurns : 1;
  const double lines = making.inside ? (forward ? 2 : turns) * making.share : far;
  const double gathered = rows * (row + 0.5) * offsets * depth * lines;
  const Figures& figures = figures_of(problem);
  const double turned = making.inside ? source * figures.turned * turns * kTurnedSeconds : 0;
  // Where maps lie together, memory gives short runs of plain weights, slowly.
  const auto weights = static_cast<double>(problem.geometry.weight_elements()) *
                       static_cast<double>(compute_bytes(problem.dtype));
  const bool late = forward && !problem.packed && last && weights > machine::kLastCacheBytes;
  return kStartSeconds + turned + making.seconds(problem) +
         (late ? weights / machine::kPackBytesPerSecond : 0) +
         offsets * (rows * figures.runs * kRunSeconds +
                    (last && depth > 1 ? making.grid * figures.places * kPlaceSeconds : 0) +
                    (last && depth == 1 && apart > 1 ? making.grid * kSingleSeconds : 0)) +
         gathered * (machine::kGatherSeconds + (making.pairing - 1) * machine::kCopySeconds);
}

}  // namespace

extern const Algorithm phase_gemm;
const Algorithm phase_gemm{"phase_gemm", refusal, cost, make_computed<PhaseGemm>, false, least_seconds};

}  // namespace tconv
