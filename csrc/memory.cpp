#include "memory.hpp"

#include <pthread.h>
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <string>
#include <utility>

#include "errors.hpp"

namespace tconv {
namespace {

constexpr size_t kHugePage = size_t{1} << 21;
// Fresh pages cost more than most calls compute, so freed buffers are kept up to this many bytes.
constexpr size_t kKeptBytes = size_t{1} << 26;

struct Block {
  char* data = nullptr;
  size_t capacity = 0;
};

std::atomic<uint64_t> current_bytes{0};
std::atomic<uint64_t> peak_bytes{0};
std::atomic<int64_t> allocations_until_failure{-1};

std::mutex kept_mutex;
std::array<Block, 8> kept;
size_t kept_bytes = 0;

const int fork_handlers =
    pthread_atfork([] { kept_mutex.lock(); }, [] { kept_mutex.unlock(); }, [] { kept_mutex.unlock(); });

Block take(size_t bytes) noexcept {
  const std::lock_guard lock(kept_mutex);
  Block* best = nullptr;
  for (Block& block : kept) {
    if (block.data != nullptr && block.capacity >= bytes && block.capacity / 4 <= bytes &&
        (best == nullptr || block.capacity < best->capacity)) {
      best = &block;
    }
  }
  if (best == nullptr) return {};
  kept_bytes -= best->capacity;
  return std::exchange(*best, {});
}

bool keep(Block block) noexcept {
  if (block.capacity > kKeptBytes) return false;
  const std::lock_guard lock(kept_mutex);
  for (Block& slot : kept) {
    if (slot.data == nullptr) {
      if (kept_bytes + block.capacity > kKeptBytes) return false;
      slot = block;
      kept_bytes += block.capacity;
      return true;
    }
  }
  return false;
}

}  // namespace

Buffer::Buffer(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  const auto fail = [bytes] {
    throw OutOfMemoryError("workspace: no memory for " + std::to_string(bytes) + " temporary bytes");
  };
  if (allocations_until_failure.load(std::memory_order_relaxed) >= 0 &&
      allocations_until_failure.fetch_sub(1, std::memory_order_relaxed) == 0) {
    fail();
  }
  if (bytes > SIZE_MAX / 2) fail();
  Block block = take(bytes);
  if (block.data == nullptr) {
    const size_t alignment = bytes >= 2 * kHugePage ? kHugePage : kAlignment;
    const size_t capacity = (bytes + alignment - 1) / alignment * alignment;
    block = {static_cast<char*>(std::aligned_alloc(alignment, capacity)), capacity};
    if (block.data == nullptr) {
      trim_memory();
      fail();
    }
    if (alignment == kHugePage) madvise(block.data, capacity, MADV_HUGEPAGE);
  }
  data_ = block.data;
  capacity_ = block.capacity;
  const uint64_t now = current_bytes.fetch_add(bytes_, std::memory_order_relaxed) + bytes_;
  uint64_t peak = peak_bytes.load(std::memory_order_relaxed);
  while (peak < now && !peak_bytes.compare_exchange_weak(peak, now, std::memory_order_relaxed)) {
  }
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  current_bytes.fetch_sub(bytes_, std::memory_order_relaxed);
  if (!keep({data_, capacity_})) std::free(data_);
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      capacity_(std::exchange(other.capacity_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(capacity_, other.capacity_);
  return *this;
}

MemoryCounters memory_counters() noexcept {
  const std::lock_guard lock(kept_mutex);
  return {current_bytes.load(), peak_bytes.load(), kept_bytes};
}

void reset_memory_peak() noexcept { peak_bytes.store(current_bytes.load()); }

void fail_allocation(int64_t after) noexcept { allocations_until_failure.store(after); }

void trim_memory() noexcept {
  std::array<Block, 8> blocks;
  {
    const std::lock_guard lock(kept_mutex);
    blocks = std::exchange(kept, {});
    kept_bytes = 0;
  }
  for (const Block& block : blocks) std::free(block.data);
}

}  // namespace tconv
