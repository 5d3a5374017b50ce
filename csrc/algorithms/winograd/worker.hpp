// What a run hands around: the room of each thread, and the part of the call that all work on.
#pragma once

#include <atomic>
#include <cstdint>

#include "algorithms/algorithm.hpp"
#include "algorithms/winograd/layout.hpp"
#include "winograd_abi.hpp"

namespace tconv::filtering {

template <class T>
struct Worker {
  T* packed;
  T* turned;  // plain weights of a unit as rows of lanes
  T* strip;
  T* transformed;
  T* products;
  T* outputs;
  Segment* segments;
  Segment* next;  // those of the next block
  Fetch* fetches;
  int64_t block;  // whose windows are transformed
};

template <class T>
struct Part {
  const Call& call;
  const T* weights;  // of the first unit of the first group
  const T* bias;
  int64_t group;
  int64_t first_unit;
  int64_t last_unit;
  std::atomic<bool>& finite;
};

}  // namespace tconv::filtering
