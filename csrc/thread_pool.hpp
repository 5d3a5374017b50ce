// Threads that share out numbered units of work. Which thread runs a unit never decides what it computes.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <type_traits>

namespace tconv {

// Cores this process may use: its affinity, cut by the quota of its control group. At least one.
int usable_cores() noexcept;

// The smallest quota of this process's control group and those around it, in cores, rounded up; 0 for none.
// The system's files lie below the folder `root`.
int quota_cores(const std::string& root);

// Calls `body(data)` on `threads` threads, the caller among them, and returns when all have returned; the
// shape of GOMP_parallel (https://gcc.gnu.org/onlinedocs/libgomp/Implementing-PARALLEL-construct.html).
using Team = void (*)(void (*body)(void*), void* data, unsigned threads, unsigned flags);

// From now on takes the threads of `team`, those of another library of the process, so that they and the
// pool's do not wait for one core; null for the pool's.
void use_team(Team team) noexcept;

// Seconds of work below which waking a sleeping thread costs more than it saves.
inline constexpr double kWorthSharing = 30e-6;

// Lets the calling thread look, between units and within long ones, whether it should stop.
class Watch {
 public:
  virtual ~Watch() = default;
  // Called at most every 50 ms; true to stop.
  virtual bool should_stop() noexcept = 0;
};

// What one call of the engine may use: threads, and a way to be interrupted.
class Crew {
 public:
  explicit Crew(int threads, Watch* watch = nullptr) noexcept;

  int threads() const noexcept { return threads_; }
  // Whether a unit need not be finished. To be asked in units that may take longer than a tenth of a second.
  bool stopped(int member) noexcept;
  // For work that has room for fewer members than there are threads.
  void limit(int threads) noexcept { threads_ = std::min(threads_, threads); }

  // Calls `work(unit, member)` for every unit below `units`, members being below threads(). Throws
  // Interrupted. `seconds` is what the units are expected to take in all; short work stays on this thread.
  // A member begins with the same units in every call, which it then finds in the caches of its core.
  template <class Work>
  void share(int64_t units, double seconds, const Work& work) {
    static_assert(std::is_nothrow_invocable_v<const Work&, int64_t, int>);
    run(
        units, seconds,
        [](const void* body, int64_t unit, int member) noexcept {
          (*static_cast<const Work*>(body))(unit, member);
        },
        &work);
  }

 private:
  using Unit = void (*)(const void* body, int64_t unit, int member) noexcept;
  friend class Pool;

  // Units of one member. Who has done its own takes those that others have not begun yet.
  struct alignas(64) Range {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };
  static constexpr int kMostRanges = 16;

  void run(int64_t units, double seconds, Unit unit, const void* body);
  void cut_ranges(int64_t units, int ranges) noexcept;
  void take_units(Unit unit, const void* body, int member) noexcept;

  int threads_;
  Watch* watch_;  // for member 0, which is the calling thread
  int64_t next_look_ns_ = 0;
  int ranges_ = 1;
  std::array<Range, kMostRanges> range_;
  std::atomic<bool> stopped_{false};
};

// Asks in a long unit of short steps whether it need not be finished: looking at the clock takes longer than
// some of them.
class Pace {
 public:
  Pace(Crew& crew, int member) noexcept : crew_(crew), member_(member) {}

  // After so many multiply-adds, or vectors of them.
  bool stopped(int64_t steps) noexcept {
    left_ -= steps;
    if (left_ <= 0 && !stopped_) {
      left_ = kSteps;
      stopped_ = crew_.stopped(member_);
    }
    return stopped_;
  }

 private:
  static constexpr int64_t kSteps = int64_t{1} << 22;

  Crew& crew_;
  int member_;
  int64_t left_ = kSteps;
  bool stopped_ = false;
};

}  // namespace tconv
