// Temporary memory: every byte of it comes from here, so that it can be counted and made to fail.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tconv {

// A block aligned to 64 bytes, or to a huge page where it is large. Throws OutOfMemoryError.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  char* data() const noexcept { return data_; }
  size_t bytes() const noexcept { return bytes_; }

 private:
  char* data_ = nullptr;
  size_t bytes_ = 0;     // asked for
  size_t capacity_ = 0;  // held
};

struct MemoryCounters {
  uint64_t current;  // bytes in buffers
  uint64_t peak;     // most since the last reset
  uint64_t kept;     // bytes of freed buffers, kept for the next
};

MemoryCounters memory_counters() noexcept;
void reset_memory_peak() noexcept;
// Makes the allocation after the next `after` ones fail, once; negative for never.
void fail_allocation(int64_t after) noexcept;
// Returns what is kept of freed buffers to the system.
void trim_memory() noexcept;

// The memory of a large output array, which a caller holds as long as it likes. Null where there is none.
struct Output {
  char* data;
  size_t capacity;
};

Output obtain_output(size_t bytes) noexcept;
void give_output(Output output) noexcept;
// Frees what is kept of outputs, and keeps at most so many bytes from now on.
void limit_kept_outputs(size_t bytes) noexcept;

inline constexpr size_t kAlignment = 64;
inline constexpr size_t aligned(size_t bytes) noexcept {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// Hands out aligned pieces of a block, one behind the other.
class Pieces {
 public:
  explicit Pieces(char* memory) noexcept : rest_(memory) {}

  template <class T = char>
  T* take(size_t bytes) noexcept {
    T* piece = reinterpret_cast<T*>(rest_);
    rest_ += aligned(bytes);
    return piece;
  }
  char* rest() const noexcept { return rest_; }

 private:
  char* rest_;
};

}  // namespace tconv
