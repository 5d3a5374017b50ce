#include "algorithms/winograd/layout.hpp"

#include <algorithm>
#include <numeric>

#include "thread_pool.hpp"
#include "winograd_line_abi.hpp"

namespace tconv::filtering {
namespace {

// Runs of plain weights that memory gives at full speed, and how many units may be one for their sake.
constexpr int64_t kRunBytes = 1 << 10;
constexpr int64_t kMostWidth = 4;
// Windows that are transformed for all blocks before weights are packed unit by unit.
constexpr size_t kKeptBytes = 20 << 20;
// Of one unit: weights that are packed before they are multiplied, for no fewer maps than these, and sums
// that wait for the next of them.
constexpr size_t kSliceBytes = 640 << 10;
constexpr int64_t kLeastSliceMaps = 64;
constexpr size_t kSumBytes = 4 << 20;
// The second cache, and how far apart what lies in it meets in the same sets.
constexpr int64_t kSetsBytes = 1 << 20;
constexpr int64_t kSetBytes = 128 << 10;
// Of all chunks, from where on these take turns.
constexpr size_t kManySumBytes = 1 << 20;
constexpr int64_t kProductBytes = 320 << 10;
// Transformed windows of float64 along one axis: with twice the bytes there are twice the blocks that read
// all weights anew, which takes longer than to fetch windows from the last cache.
constexpr int64_t kWideLineBytes = 4 << 20;
// Tiles of a block at least where weights, which every block reads anew, come from the last cache, and where
// the windows of more would leave the second, for they are of float64.
constexpr int64_t kLeastNearTiles = 18;
// Threads that wait for each other, twice a block.
constexpr double kMeetingSeconds = 5e-6;
// Windows transformed by one thread, where they stay in the second cache and beyond, and those that go from
// core to core.
constexpr double kNearBytes = 1 << 20;
constexpr double kNearBytesPerSecond = 10e9;
constexpr double kFarBytesPerSecond = 3e9;
constexpr double kHandedBytesPerSecond = 10e9;

int64_t past_line(const char* at) noexcept {
  return static_cast<int64_t>(reinterpret_cast<uintptr_t>(at) % kAlignment);
}

}  // namespace

Layout::Layout(const Problem& given, const Choice& choice)
    : problem(given),
      gemm(product_kernel(problem)),
      element_bytes(compute_bytes(problem.dtype)),
      maps(problem, gemm),
      tiling(problem, choice),
      src(problem.pass == Pass::forward ? problem.geometry.small_last() : problem.geometry.channels_last,
          maps.groups * maps.depth, tiling.axes[0].src_size, y().src_size, x().src_size),
      dst(problem.pass == Pass::forward ? problem.geometry.channels_last : problem.geometry.small_last(),
          maps.groups * maps.columns, tiling.axes[0].dst_size, y().dst_size, x().dst_size),
      points(tiling.counts.points),
      classes(tiling.counts.classes),
      views(tiling.counts.views),
      phases(tiling.counts.phases),
      depth(views * maps.padded_depth()),
      depth_block(views > 1 && maps.depth % maps.lanes == 0 ? maps.lanes : maps.padded_depth()),
      chunk_lanes(maps.vectors * maps.lanes) {
  for (int64_t c = 0; c < classes; ++c) {
    const auto& axes = tiling.axes;
    const auto at = [](const TiledAxis& axis, int64_t i) { return axis.of_class[static_cast<size_t>(i)]; };
    Form form({at(axes[0], c / x().classes / y().classes), at(y(), c / x().classes % y().classes),
               at(x(), c % x().classes)},
              tiling);
    form.start = all_points;
    all_points += form.points * form.all_copies();
    forms.push_back(form);
  }
  line = is_line();
  // Rows a multiple of 1 KB apart would meet in the same cache sets.
  row = ceil_div(depth, maps.lanes) * maps.lanes;
  if (row * static_cast<int64_t>(element_bytes) % 1024 == 0) row += maps.lanes;
  set_unit(1);
  rows = problem.geometry.batch * tiling.axes[0].tiles() * y().tiles();
  low_origin = *std::min_element(x().origin.begin(), x().origin.end());
  origin_range = *std::max_element(x().origin.begin(), x().origin.end()) - low_origin;
  cut();
}

const Form& Layout::form_of(int64_t chunk) const noexcept {
  if (classes == 1) return forms[0];
  const TiledAxis& z = tiling.axes[0];
  const auto of = [](const TiledAxis& axis, int64_t phase) {
    return axis.class_of[static_cast<size_t>(phase)];
  };
  const int64_t plane =
      of(z, chunk / x().phases / y().phases) * y().classes + of(y(), chunk / x().phases % y().phases);
  return forms[static_cast<size_t>(plane * x().classes + of(x(), chunk % x().phases))];
}

int64_t Layout::list_segments(int64_t block, Segment* segments) const noexcept {
  const int64_t first = rows * row_segments * block / blocks;
  const int64_t count = rows * row_segments * (block + 1) / blocks - first;
  int64_t place = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t index = (first + i) / row_segments;
    Segment& s = segments[i];
    s.x = (first + i) % row_segments * segment_tiles;
    s.tiles = std::min(segment_tiles, x().tiles() - s.x);
    s.y = index % y().tiles();
    s.z = index / y().tiles() % tiling.axes[0].tiles();
    s.sample = index / y().tiles() / tiling.axes[0].tiles();
    s.place = place;
    place += s.tiles;
  }
  return count;
}

PlainStrides Layout::plain_strides() const noexcept {
  const Geometry& g = problem.geometry;
  const int64_t filters = g.filters / g.groups;
  const int64_t filter = g.channels_last ? 1 : g.taps();
  const int64_t channel = filters * g.taps();
  const int64_t tap = g.channels_last ? filters : 1;
  return problem.pass == Pass::forward ? PlainStrides{filter, channel, tap}
                                       : PlainStrides{channel, filter, tap};
}

Fetch Layout::plain_weights(const void* weight, int64_t unit, int64_t begin, int64_t end) const noexcept {
  const auto element = static_cast<int64_t>(storage_bytes(problem.dtype));
  const PlainStrides stride = plain_strides();
  const int64_t column = unit % units * unit_blocks * maps.lanes;
  // Along the three axes of weights, those that lie closest first.
  std::array<std::pair<int64_t, int64_t>, 3> along{
      {{stride.tap, problem.geometry.taps()},
       {stride.column, std::min(unit_blocks * maps.lanes, maps.columns - column)},
       {stride.depth, end - begin}}};
  std::sort(along.begin(), along.end());
  auto [run, next, last] = along;
  if (next.first == run.second) {
    run.second *= next.second;
    next = std::exchange(last, {0, 1});
  }
  const int64_t start = plain_start(unit) + column * stride.column + begin * stride.depth;
  const char* const at = static_cast<const char*>(weight) + start * element;
  const int64_t before = past_line(at);
  return {at - before,
          run.second * element + before,
          {next.first * element, last.first * element},
          next.second,
          last.second,
          0,
          0};
}

Fetch Layout::lines_of(const char* at, int64_t positions, int64_t count,
                       const Strides& strides) const noexcept {
  const auto element = static_cast<int64_t>(storage_bytes(problem.dtype));
  const int64_t before = past_line(at);
  const bool maps_last = strides.map == 1;
  const int64_t step = (maps_last ? strides.axis[2] : strides.map) * element;
  int64_t bytes = (maps_last ? count : positions) * element;
  int64_t runs = maps_last ? positions : count;
  if (bytes == step) bytes *= std::exchange(runs, 1);
  return {at - before, bytes + before, {step, 0}, runs, 1, 0, 0};
}

bool Layout::is_line() const noexcept {
  const TiledAxis& z = tiling.axes[0];
  return z.src_size * z.dst_size * y().src_size * y().dst_size == 1 && x().tile != kPlain &&
         x().src_step * x().gap == 1 && classes * views == 1 &&
         x().outputs() * x().phases <= kWinogradLine / 2;
}

void Layout::set_unit(int64_t width) {
  unit_chunks = width * (classes > 1 ? phases : std::lcm(phases, maps.vectors) / maps.vectors);
  unit_blocks = unit_chunks * maps.vectors / phases;
  units = ceil_div(maps.column_blocks(), unit_blocks);
  chunk_start.clear();
  unit_points = 0;
  for (int64_t chunk = 0; chunk < unit_chunks; ++chunk) {
    chunk_start.push_back(unit_points);
    unit_points += form_of(chunk).points;
  }
  unit_elements = unit_points * point_weights(depth);
}

int64_t Layout::unit_width() const noexcept {
  if (classes > 1) return 1;
  const int64_t width = kRunBytes / plain_weights(nullptr, 0, 0, maps.depth).bytes;
  return std::clamp<int64_t>(std::min(width, units / threads), 1, kMostWidth);
}

int64_t Layout::fewest_blocks(int64_t tiles) const noexcept {
  const int64_t in_row = x().tiles();
  return tiles < in_row ? rows * ceil_div(in_row, tiles) : ceil_div(rows, std::min(tiles / in_row, rows));
}

void Layout::set_blocks(int64_t count) noexcept {
  const int64_t in_row = x().tiles();
  row_segments = std::min(ceil_div(count, rows), ceil_div(in_row, x().gap));
  segment_tiles = x().turns_of(ceil_div(in_row, row_segments)) * x().gap;
  row_segments = ceil_div(in_row, segment_tiles);
  blocks = row_segments > 1 ? rows * row_segments : std::min(count, rows);
  block_segments = ceil_div(rows * row_segments, blocks);
}

double Layout::group_seconds(bool by_block) const noexcept {
  const auto all_blocks = static_cast<double>(blocks);
  const auto all_units = static_cast<double>(units);
  const auto windows = static_cast<double>(transformed_bytes());
  const double transform =
      windows / kNearBytesPerSecond + std::max(0.0, windows - kNearBytes) / kFarBytesPerSecond;
  const double unit = all_seconds() / static_cast<double>(maps.groups) / (all_blocks * all_units) +
                      static_cast<double>(unit_bytes()) / machine::kReadBytesPerSecond;
  if (by_block) {
    return all_blocks * (static_cast<double>(ceil_div(units, threads)) * unit +
                         windows / kHandedBytesPerSecond + kMeetingSeconds);
  }
  double most = 0;
  for (int64_t thread = 0; thread < threads; ++thread) {
    const int64_t first = blocks * units * thread / threads;
    const int64_t last = blocks * units * (thread + 1) / threads;
    if (first == last) continue;
    const int64_t touched = (last - 1) / units - first / units + 1;
    // A unit's share of the transform of its block is counted already.
    const double more = static_cast<double>(touched) - static_cast<double>(last - first) / all_units;
    most = std::max(most, static_cast<double>(last - first) * unit + more * transform);
  }
  return most;
}

void Layout::share_blocks(int64_t tiles) noexcept {
  const int64_t fewest = fewest_blocks(tiles);
  set_blocks(fewest);
  together = false;
  if (threads == 1) return;
  const double apart = group_seconds(false);
  const double by_block = group_seconds(true);
  set_blocks(ceil_div(fewest, threads) * threads);
  const double even = group_seconds(false);
  if (even < std::min(apart, by_block)) return;
  together = by_block < apart;
  set_blocks(fewest);
}

bool Layout::windows_are_few() const noexcept {
  const size_t windows = transformed_bytes() * static_cast<size_t>(blocks);
  return windows <= std::min(kKeptBytes, unit_bytes() * static_cast<size_t>(units));
}

void Layout::slice() noexcept {
  slice_maps = maps.depth;
  if (maps.padded_depth() > maps.depth) return;
  const size_t sums = all_sum_bytes();
  if (sums > kSumBytes) return;
  // Sums come and go with every part, so the larger they are, the fewer parts.
  const auto bytes = static_cast<int64_t>(std::max(kSliceBytes, sums));
  const int64_t pieces = ceil_div(static_cast<int64_t>(slice_bytes()), bytes);
  const int64_t step = views > 1 ? depth_block : maps.lanes;
  int64_t some = ceil_div(maps.depth, pieces);
  // The plain weights of a part come while the one before is multiplied, and must not drive each other out.
  const auto element = static_cast<int64_t>(storage_bytes(problem.dtype));
  const int64_t map_bytes = unit_blocks * maps.lanes * problem.geometry.taps() * element;
  const int64_t most = kSetsBytes / std::max(map_bytes, std::gcd(plain_strides().depth * element, kSetBytes));
  if (static_cast<int64_t>(sums) < most * map_bytes) some = std::min(some, most);
  some = std::max(some, kLeastSliceMaps);
  slice_maps = std::min(maps.depth, ceil_div(some, step) * step);
}

bool Layout::sums_are_many() const noexcept {
  return classes > 1 && unit_bytes() > kSliceBytes &&
         product_bytes() * static_cast<size_t>(unit_chunks * blocks) > kManySumBytes;
}

void Layout::cut() {
  const bool packs = !problem.packed;
  const int64_t all_units = maps.groups * units;
  const auto total = [&] {
    const size_t worker = aligned(strip_bytes()) + aligned(sum_bytes()) + aligned(output_bytes()) +
                          aligned(segment_bytes()) + aligned(next_bytes()) + aligned(fetch_bytes()) +
                          (by_unit ? aligned(slice_bytes()) : 0) + (by_chunk ? aligned(turned_bytes()) : 0) +
                          (shares_windows() ? 0 : aligned(transformed_bytes()));
    return (packs && !by_unit ? aligned(unit_bytes() * static_cast<size_t>(pack_units)) : 0) +
           aligned(bias_bytes()) + (shares_windows() ? aligned(shared_bytes()) : 0) +
           worker * static_cast<size_t>(threads);
  };
  const auto bytes = static_cast<int64_t>(element_bytes);
  const double weights = static_cast<double>(unit_bytes()) * static_cast<double>(all_units);
  const bool near = problem.packed && weights <= machine::kLastCacheBytes;
  const bool wide = element_bytes > sizeof(float);
  const int64_t windows = wide && line ? kWideLineBytes : classes * kTransformedBytes;
  const int64_t most = std::clamp<int64_t>(
      std::min(windows / (all_points * row * bytes), kProductBytes / (points * chunk_lanes * bytes)),
      near || wide ? kLeastNearTiles : kLeastBlockTiles, kMostBlockTiles);
  threads = 1;
  together = false;
  pack_units = packs ? 1 : all_units;
  slice_maps = maps.depth;
  set_blocks(fewest_blocks(1));
  workspace = total();
  if (workspace > problem.workspace) return;
  for (threads = all_seconds() > kWorthSharing ? std::max(1, problem.threads) : 1;; --threads) {
    for (int64_t tiles = most; tiles > 0; tiles = tiles * 3 / 4) {
      set_blocks(fewest_blocks(tiles));
      by_unit = packs && windows_are_few() && units >= threads;
      by_chunk = by_unit && sums_are_many();
      if (by_unit) {
        for (int64_t width = unit_width(); width > 0; width /= 2) {
          set_unit(width);
          slice();
          if (total() <= problem.workspace) {
            workspace = total();
            return;
          }
        }
        by_unit = by_chunk = false;
        set_unit(1);
        slice_maps = maps.depth;
      }
      share_blocks(tiles);
      if (total() <= problem.workspace) {
        if (packs) {
          const size_t other = total() - aligned(unit_bytes());
          const auto room = static_cast<int64_t>((problem.workspace - other) / aligned(unit_bytes()));
          pack_units = ceil_div(all_units, ceil_div(all_units, std::clamp<int64_t>(room, 1, all_units)));
        }
        workspace = total();
        return;
      }
    }
  }
}

}  // namespace tconv::filtering
