#include "packing.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <numeric>

#include "machine.hpp"
#include "pack_abi.hpp"
#include "phases.hpp"

namespace tconv {
namespace {

constexpr int64_t kSliceMaps = 64;  // that one thread packs at a time

}  // namespace

void copy_bytes(const void* from, char* to, size_t bytes, Crew& crew) {
  constexpr size_t part = size_t{1} << 20;
  crew.share(static_cast<int64_t>((bytes + part - 1) / part),
             static_cast<double>(bytes) / machine::kStoreBytesPerSecond, [&](int64_t unit, int) noexcept {
               const size_t first = static_cast<size_t>(unit) * part;
               std::memcpy(to + first, static_cast<const char*>(from) + first, std::min(part, bytes - first));
             });
}

void gather_maps(const Kernel& load, MoveArgs move, DType dtype) noexcept {
  constexpr int64_t line = 16;
  const auto stored = static_cast<int64_t>(storage_bytes(dtype));
  const auto computed = static_cast<int64_t>(compute_bytes(dtype));
  const int64_t maps = move.rows;
  for (int64_t first = 0; first < maps; first += line) {
    const auto* const from = static_cast<const char*>(move.src);
    for (int64_t map = line; map < std::min(2 * line, maps - first); ++map) {
      const char* const ahead = from + map * move.src_row * stored;
      for (int64_t i = 0; i < move.columns * stored; i += 64) __builtin_prefetch(ahead + i);
    }
    move.rows = std::min(line, maps - first);
    load(move);
    move.src = from + line * move.src_row * stored;
    move.dst = static_cast<char*>(move.dst) + line * move.dst_row * computed;
  }
}

ColumnPacking::ColumnPacking(const Problem& problem, int lanes, int64_t chunk_maps)
    : dtype_(problem.dtype),
      pass_(problem.pass),
      axes_(problem.geometry.axes),
      lanes_(lanes),
      groups_(problem.geometry.groups),
      chunk_maps_(chunk_maps),
      taps_(problem.geometry.taps()),
      pack_(kernel(Family::pack, problem.dtype, problem.isa)) {
  const Geometry& g = problem.geometry;
  const int64_t channels = g.channels / g.groups;
  const int64_t filters = g.filters / g.groups;
  const int64_t filter_stride = g.channels_last ? 1 : taps_;
  group_stride_ = channels * filters * taps_;
  tap_stride_ = g.channels_last ? filters : 1;
  const bool forward = problem.pass == Pass::forward;
  depth_maps_ = forward ? channels : filters;
  column_maps_ = forward ? filters : channels;
  depth_stride_ = forward ? filters * taps_ : filter_stride;
  column_stride_ = forward ? filter_stride : filters * taps_;
  panels_ = (column_maps_ + lanes_ - 1) / lanes_;
  for (const Axis& axis : g.axes) {
    order_key_ += std::to_string(axis.kernel) + "s" + std::to_string(forward ? axis.stride : 1) + "d" +
                  std::to_string(forward ? axis.dilation : 1) + "x";
  }
}

// The place of each tap: a residue's taps are neighbours, on all axes.
std::vector<int64_t> ColumnPacking::order() const {
  const bool forward = pass_ == Pass::forward;
  std::vector<int64_t> order;
  const auto z = packed_order(axes_[0], pass_);
  const auto y = packed_order(axes_[1], pass_);
  const auto x = packed_order(axes_[2], pass_);
  const auto residues = [&](const Axis& axis) {
    std::vector<int64_t> residue;
    for (int64_t k = 0; k < axis.kernel; ++k) {
      residue.push_back(forward ? k % axis.stride * (axis.dilation % axis.stride) % axis.stride : 0);
    }
    return residue;
  };
  std::array<std::vector<int64_t>, 3> residue;
  std::array<std::vector<int64_t>, 3> before;  // place of the first tap of the residue
  std::array<std::vector<int64_t>, 3> count;   // taps of the residue
  const std::array<const std::vector<int64_t>*, 3> place{&z, &y, &x};
  for (size_t a = 0; a < 3; ++a) {
    residue[a] = residues(axes_[a]);
    const auto size = static_cast<size_t>(forward ? axes_[a].stride : 1);
    std::vector<int64_t> firsts(size, INT64_MAX);
    std::vector<int64_t> counts(size, 0);
    for (size_t k = 0; k < residue[a].size(); ++k) {
      const auto r = static_cast<size_t>(residue[a][k]);
      firsts[r] = std::min(firsts[r], (*place[a])[k]);
      ++counts[r];
    }
    for (const int64_t r : residue[a]) {
      before[a].push_back(firsts[static_cast<size_t>(r)]);
      count[a].push_back(counts[static_cast<size_t>(r)]);
    }
  }
  order.reserve(static_cast<size_t>(taps_));
  const int64_t all_y = axes_[1].kernel;
  const int64_t all_x = axes_[2].kernel;
  for (size_t kz = 0; kz < z.size(); ++kz) {
    for (size_t ky = 0; ky < y.size(); ++ky) {
      for (size_t kx = 0; kx < x.size(); ++kx) {
        const int64_t start = before[0][kz] * all_y * all_x +
                              count[0][kz] * (before[1][ky] * all_x + count[1][ky] * before[2][kx]);
        order.push_back(start +
                        ((z[kz] - before[0][kz]) * count[1][ky] + y[ky] - before[1][ky]) * count[2][kx] +
                        x[kx] - before[2][kx]);
      }
    }
  }
  return order;
}

std::string ColumnPacking::key() const {
  std::string key = "columns ";
  for (const int64_t number : {static_cast<int64_t>(dtype_), lanes_, groups_, depth_maps_, column_maps_,
                               chunk_maps_, column_stride_, depth_stride_}) {
    key += std::to_string(number) + " ";
  }
  return key + order_key_;
}

size_t ColumnPacking::panel_bytes() const noexcept {
  return static_cast<size_t>(depth_maps_ * taps_ * lanes_) * compute_bytes(dtype_);
}

template <class T>
bool ColumnPacking::pack_maps(const void* weight, T* packed, int64_t panel, int64_t begin, int64_t end,
                              const std::vector<int64_t>& order) const noexcept {
  const int64_t group = panel / panels_;
  const int64_t column = panel % panels_ * lanes_;
  const auto element = static_cast<int64_t>(storage_bytes(dtype_));
  const char* from =
      static_cast<const char*>(weight) + (group * group_stride_ + column * column_stride_) * element;
  bool finite = true;
  PackArgs args{};
  args.column_stride = column_stride_;
  args.columns = std::min(lanes_, column_maps_ - column);
  args.lanes = lanes_;
  args.finite = &finite;
  // Maps that lie together are what the kernel takes for taps.
  const bool neighbours = depth_stride_ == 1 && (tap_stride_ > 1 || taps_ == 1) && column_stride_ > 1;
  std::array<int64_t, kSliceMaps> in_order;
  std::iota(in_order.begin(), in_order.end(), 0);
  int64_t step = 1;
  for (int64_t map = begin; map < end; map += step) {
    const int64_t chunk = map / chunk_maps_;
    const int64_t chunk_begin = chunk * chunk_maps_;
    const int64_t maps = std::min(chunk_maps_, depth_maps_ - chunk_begin);
    T* const to = packed + chunk_begin * taps_ * lanes_ + (map - chunk_begin) * lanes_;
    args.src = from + map * depth_stride_ * element;
    if (!neighbours) {
      args.tap_stride = tap_stride_;
      args.taps = taps_;
      args.order = order.data();
      args.dst = to;
      args.tap_step = maps * lanes_;
      pack_(args);
      continue;
    }
    step = std::min(end, chunk_begin + maps) - map;
    args.tap_stride = 1;
    args.taps = step;
    args.order = in_order.data();
    args.tap_step = lanes_;
    for (const int64_t place : order) {
      args.dst = to + place * maps * lanes_;
      pack_(args);
      args.src = static_cast<const char*>(args.src) + tap_stride_ * element;
    }
  }
  return finite;
}

bool ColumnPacking::pack(const void* weight, char* packed, int64_t first, int64_t last, Crew& crew) const {
  const std::vector<int64_t> order = this->order();
  std::atomic<bool> finite{true};
  const int64_t slices = (depth_maps_ + kSliceMaps - 1) / kSliceMaps;
  const double seconds =
      static_cast<double>(last - first) * static_cast<double>(panel_bytes()) / machine::kStoreBytesPerSecond;
  crew.share((last - first) * slices, seconds, [&](int64_t unit, int) noexcept {
    char* to = packed + static_cast<size_t>(unit / slices) * panel_bytes();
    const int64_t panel = first + unit / slices;
    const int64_t begin = unit % slices * kSliceMaps;
    const int64_t end = std::min(begin + kSliceMaps, depth_maps_);
    const bool good = compute_dtype(dtype_) == DType::f64
                          ? pack_maps(weight, reinterpret_cast<double*>(to), panel, begin, end, order)
                          : pack_maps(weight, reinterpret_cast<float*>(to), panel, begin, end, order);
    if (!good) finite.store(false, std::memory_order_relaxed);
  });
  return finite.load();
}

}  // namespace tconv
