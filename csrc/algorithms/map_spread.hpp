// Copies of positions whose maps lie together, in which under each map of the output lies a map of its group
// that is read: the kernels are then those of a group of one map.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <type_traits>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "machine.hpp"
#include "mapspread_abi.hpp"

namespace tconv {

// Whether a group has several maps on some side.
inline bool groups_have_maps(const Geometry& g) noexcept {
  return std::max(g.channels, g.filters) > g.groups;
}

// Of a vector of `lanes` maps, `depth` and `columns` as below, where a call makes all copies or only one.
inline double map_spread_seconds(int64_t depth, int64_t columns, double lanes, bool all) noexcept {
  if (all && columns == 1 && std::has_single_bit(static_cast<uint64_t>(depth)) && depth <= 16) {
    return (2 + static_cast<double>(std::bit_width(static_cast<uint64_t>(depth)))) / machine::kHertz;
  }
  const double loads =
      1 + std::floor(std::ceil(lanes / static_cast<double>(columns)) * static_cast<double>(depth) / lanes);
  return (0.4 + (loads > 2 ? 5 : 1.8) * loads) / machine::kHertz;
}

template <class E>
class MapSpreader {
 public:
  using S = typename E::storage;

  // Of `depth` maps of each group, for `columns` of the output's.
  MapSpreader(const Problem& problem, int64_t depth, int64_t columns)
      : kernel_(tconv::kernel(Family::mapspread, problem.dtype, problem.isa)),
        depth_(depth),
        apart_(columns == 1),
        lanes_(vector_floats(kernel_.isa) * 4 / static_cast<int64_t>(sizeof(typename E::compute))) {
    const int64_t maps = problem.geometry.groups * columns;
    const int64_t vectors = ceil_div(maps, lanes_);
    // Vectors whose first maps have the same place in their groups are alike.
    const int64_t alike = std::min(vectors, columns / std::gcd(columns, lanes_));
    std::vector<int64_t> place;
    for (int64_t v = 0; v < vectors; ++v) {
      const int64_t group = v * lanes_ / columns;
      const auto map = [&](int64_t lane) { return ((v * lanes_ + lane) / columns - group) * depth; };
      vectors_.push_back({nullptr, map(lanes_ - 1) / lanes_ + 1, group * depth});
      if (v >= alike) continue;
      place.push_back(static_cast<int64_t>(table_.size()));
      for (int64_t load = 0; load < vectors_.back().loads; ++load) {
        for (int64_t lane = 0; lane < lanes_; ++lane) {
          const int64_t from = map(lane) - load * lanes_;
          const bool here = from >= 0 && from < lanes_;
          table_.push_back(static_cast<Index>(load == 0 ? (here ? from : 0) : here ? lanes_ + from : lane));
        }
      }
    }
    for (int64_t v = 0; v < vectors; ++v) {
      vectors_[static_cast<size_t>(v)].lane = table_.data() + place[static_cast<size_t>(v % alike)];
    }
  }
  MapSpreader(const MapSpreader&) = delete;
  MapSpreader& operator=(const MapSpreader&) = delete;

  // Maps [first, first + count) of the output, `first` being whole vectors; `args` tells the rest.
  void operator()(MapSpreadArgs args, int64_t first, int64_t count) const noexcept {
    args.vector = vectors_.data() + first / lanes_;
    args.vectors = ceil_div(count, lanes_);
    args.apart = apart_ && args.depth == depth_;
    kernel_(args);
  }

 private:
  using Index = std::make_signed_t<
      std::conditional_t<sizeof(S) == 2, uint16_t, std::conditional_t<sizeof(S) == 4, uint32_t, uint64_t>>>;

  const Kernel& kernel_;
  int64_t depth_;
  bool apart_;  // whether a group gives a lane
  int64_t lanes_;
  std::vector<MapSpread> vectors_;
  std::vector<Index> table_;
};

}  // namespace tconv
