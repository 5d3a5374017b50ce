// Weights packed for products whose lanes are output maps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "algorithms/algorithm.hpp"

namespace tconv {

// Whether no value is an infinity or NaN.
template <class T>
inline bool all_finite(const T* values, int64_t count) noexcept {
  // A product with zero is zero, or NaN for infinities and NaN; zeros add up to zero.
  T sums[8] = {};
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    for (int64_t j = 0; j < 8; ++j) sums[j] += values[i + j] * T{0};
  }
  for (; i < count; ++i) sums[0] += values[i] * T{0};
  for (const T sum : sums) {
    if (!(sum == T{0})) return false;
  }
  return true;
}

// The same of values of a storage type.
template <class E>
inline bool finite_stored(const typename E::storage* values, int64_t count) noexcept {
  using T = typename E::compute;
  if constexpr (sizeof *values == sizeof(T)) {
    return all_finite(values, count);
  } else {
    bool all = true;
    for (int64_t i = 0; i < count; ++i) all &= E::load(values[i]) * T{0} == T{0};
    return all;
  }
}

// Brings a run of neighbours to another type, by the family `load` or `store`.
inline void convert_run(const Kernel& move, const void* from, void* to, int64_t count) noexcept {
  MoveArgs args{};
  args.src = from;
  args.src_column = args.dst_column = 1;
  args.dst = to;
  args.rows = 1;
  args.columns = count;
  move(args);
}

// Copies on all threads.
void copy_bytes(const void* from, char* to, size_t bytes, Crew& crew);

// Brings maps that lie apart side by side: `move`, of which rows are maps, by the family `load`, a line of
// maps at a time. Fetches those of the next, for pieces of maps are too short for the processor to see them
// coming.
void gather_maps(const Kernel& load, MoveArgs move, DType dtype) noexcept;

// Panels of `lanes` output maps, in the compute type, the last one filled up with zeros:
//   [group][panel][chunk][tap, in packed order][map of the chunk][lane]
class ColumnPacking {
 public:
  ColumnPacking(const Problem& problem, int lanes, int64_t chunk_maps);

  std::string key() const;
  size_t bytes() const noexcept { return panel_bytes() * static_cast<size_t>(groups_ * panels_); }
  size_t panel_bytes() const noexcept;
  // First element of a chunk of a panel, panels counted through all groups.
  int64_t chunk_offset(int64_t panel, int64_t chunk) const noexcept {
    return (panel * depth_maps_ + chunk * chunk_maps_) * taps_ * lanes_;
  }
  // Packs the panels from `first` to before `last`. Returns false where it meets an infinity or NaN.
  bool pack(const void* weight, char* packed, int64_t first, int64_t last, Crew& crew) const;

 private:
  template <class T>
  bool pack_maps(const void* weight, T* packed, int64_t panel, int64_t begin, int64_t end,
                 const std::vector<int64_t>& order) const noexcept;
  std::vector<int64_t> order() const;

  DType dtype_;
  Pass pass_;
  std::array<Axis, kAxes> axes_;
  int64_t lanes_;
  int64_t groups_;
  int64_t depth_maps_;   // of a group
  int64_t column_maps_;  // of a group
  int64_t panels_;       // of a group
  int64_t chunk_maps_;
  int64_t taps_;
  // Elements of the weight array from one to the next.
  int64_t group_stride_;
  int64_t column_stride_;
  int64_t depth_stride_;
  int64_t tap_stride_;
  const Kernel& pack_;
  std::string order_key_;
};

}  // namespace tconv
