#include "memory.hpp"

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <mutex>
#include <string>
#include <utility>

#include "errors.hpp"

namespace tconv {
namespace {

constexpr size_t kHugePage = size_t{1} << 21;
// Fresh pages cost more than most calls compute, so freed blocks are kept, up to so many bytes.
constexpr size_t kKeptWorkspace = size_t{1} << 26;
constexpr size_t kKeptOutputs = size_t{1} << 28;

constexpr size_t kBlocks = 16;
// From here on a huge page is had and cleared sooner than small ones.
constexpr size_t kLeastHuge = kHugePage / 2;

struct Block {
  char* data = nullptr;
  size_t capacity = 0;
  uint64_t age = 0;  // number of blocks freed before
};

// Freed blocks, for the next that ask.
class Kept {
 public:
  // Of a kept block, up to `spare` percent of what is asked for may lie idle, or the rest of a huge page.
  Kept(size_t limit, size_t spare) : limit_(limit), spare_(spare) {}

  Block take(size_t bytes) noexcept {
    const size_t idle = std::max(bytes / 100 * spare_, bytes < kLeastHuge ? 0 : kHugePage);
    const std::lock_guard lock(mutex);
    Block* best = nullptr;
    for (Block& block : blocks_) {
      if (block.data != nullptr && block.capacity >= bytes && block.capacity - bytes <= idle &&
          (best == nullptr || block.capacity < best->capacity)) {
        best = &block;
      }
    }
    if (best == nullptr) return {};
    bytes_ -= best->capacity;
    return std::exchange(*best, {});
  }

  // Those kept longest make room.
  void give(Block block) noexcept {
    std::array<Block, kBlocks> dropped;
    size_t count = 0;
    {
      const std::lock_guard lock(mutex);
      if (block.capacity > limit_) {
        dropped[count++] = block;
      } else {
        Block* slot = nullptr;
        while (true) {
          Block* oldest = nullptr;
          for (Block& kept : blocks_) {
            if (kept.data == nullptr)
              slot = &kept;
            else if (oldest == nullptr || kept.age < oldest->age)
              oldest = &kept;
          }
          if (slot != nullptr && bytes_ + block.capacity <= limit_) break;
          bytes_ -= oldest->capacity;
          dropped[count++] = std::exchange(*oldest, {});
        }
        bytes_ += block.capacity;
        block.age = freed_++;
        *slot = block;
      }
    }
    for (size_t i = 0; i < count; ++i) std::free(dropped[i].data);
  }

  void trim(size_t limit) noexcept {
    std::array<Block, kBlocks> freed;
    {
      const std::lock_guard lock(mutex);
      freed = std::exchange(blocks_, {});
      bytes_ = 0;
      limit_ = limit;
    }
    for (const Block& block : freed) std::free(block.data);
  }
  void trim() noexcept { trim(limit_); }

  size_t bytes() noexcept {
    const std::lock_guard lock(mutex);
    return bytes_;
  }

  std::mutex mutex;

 private:
  std::array<Block, kBlocks> blocks_;
  uint64_t freed_ = 0;
  size_t bytes_ = 0;
  size_t limit_;
  size_t spare_;
};

Kept kept_workspace(kKeptWorkspace, 300);
Kept kept_outputs(kKeptOutputs, 40);

const int fork_handlers = pthread_atfork(
    [] {
      kept_workspace.mutex.lock();
      kept_outputs.mutex.lock();
    },
    [] {
      kept_outputs.mutex.unlock();
      kept_workspace.mutex.unlock();
    },
    [] {
      kept_outputs.mutex.unlock();
      kept_workspace.mutex.unlock();
    });

std::atomic<uint64_t> current_bytes{0};
std::atomic<uint64_t> peak_bytes{0};
std::atomic<int64_t> allocations_until_failure{-1};

// A kept block or a fresh one; none where memory cannot be had.
Block obtain(Kept& kept, size_t bytes) noexcept {
  if (bytes > SIZE_MAX / 2) return {};
  Block block = kept.take(bytes);
  if (block.data != nullptr) return block;
  const size_t alignment = bytes >= kLeastHuge ? kHugePage : kAlignment;
  // Rounded up, so that a block also serves what is a little larger.
  const size_t step = std::max(alignment, std::bit_floor(bytes) / 8);
  const size_t capacity = (bytes + step - 1) / step * step;
  block.data = static_cast<char*>(std::aligned_alloc(alignment, capacity));
  if (block.data == nullptr) {
    trim_memory();
    return {};
  }
  block.capacity = capacity;
  if (alignment == kHugePage) madvise(block.data, capacity, MADV_HUGEPAGE);
  return block;
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
  const Block block = obtain(kept_workspace, bytes);
  if (block.data == nullptr) fail();
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
  kept_workspace.give({data_, capacity_});
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
  return {current_bytes.load(), peak_bytes.load(), kept_workspace.bytes() + kept_outputs.bytes()};
}

void reset_memory_peak() noexcept { peak_bytes.store(current_bytes.load()); }

void fail_allocation(int64_t after) noexcept { allocations_until_failure.store(after); }

void trim_memory() noexcept {
  kept_workspace.trim();
  kept_outputs.trim();
}

void limit_kept_outputs(size_t bytes) noexcept { kept_outputs.trim(bytes); }

Output obtain_output(size_t bytes) noexcept {
  const Block block = obtain(kept_outputs, bytes);
  return {block.data, block.capacity};
}

void give_output(Output output) noexcept { kept_outputs.give({output.data, output.capacity}); }

}  // namespace tconv
