// The gathering form of forward and data gradient, which both read
//   dst[t * dst_step + phase] = sum over taps of the phase of src[t * src_step + offset] * weight[k]
// on every axis. Forward has a phase for each residue of the stride; data gradient has one phase of all taps.
#pragma once

#include <cstdint>
#include <vector>

#include "geometry.hpp"

namespace tconv {

struct PhaseTap {
  int64_t k;
  int64_t offset;
  int64_t slot;  // of `offset` in PhaseAxis::offsets
};

struct PhaseAxis {
  Axis axis;
  bool forward;
  int64_t src_size;
  int64_t dst_size;
  int64_t src_step;
  int64_t dst_step;  // also the number of phases
  int64_t kernel;
  int64_t positions;  // of the longest phase, which is the first
  int64_t most_taps;  // of a phase
  int64_t lowest_offset;
  int64_t highest_offset;
  int64_t offset_count;
  // Empty before list().
  std::vector<PhaseTap> taps;       // by phase, then k
  std::vector<int64_t> first_tap;   // of each phase, and the end
  std::vector<int64_t> packed_tap;  // of each phase: first of its taps in the order that packed weights have
  std::vector<int64_t> offsets;     // all that occur, ascending

  PhaseAxis(const Axis& axis, Pass pass) noexcept;
  void list();

  int64_t phases() const noexcept { return dst_step; }
  // Positions of a phase inside dst.
  int64_t count(int64_t phase) const noexcept { return (dst_size - phase + dst_step - 1) / dst_step; }
  int64_t tap_count(int64_t phase) const noexcept {
    return first_tap[static_cast<size_t>(phase) + 1] - first_tap[static_cast<size_t>(phase)];
  }
  const PhaseTap* taps_of(int64_t phase) const noexcept {
    return taps.data() + first_tap[static_cast<size_t>(phase)];
  }

 private:
  int64_t offset_of(int64_t k) const noexcept;
  void list_phases();
};

// Where taps stand in packed weights: by residue of k * dilation modulo the stride, then k; pads play no
// part. Entry k is the position of tap k.
std::vector<int64_t> packed_order(const Axis& axis, Pass pass);

// Source maps summed at a time, `depth_maps` being those of a group. Decided by the weights alone, because it
// decides the order of sums, which neither batch nor sizes nor threads may change.
int64_t chunk_maps(const Geometry& geometry, Pass pass, int64_t depth_maps);

}  // namespace tconv
