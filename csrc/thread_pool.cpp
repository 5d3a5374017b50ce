#include "thread_pool.hpp"

#include <pthread.h>
#include <sched.h>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "errors.hpp"

namespace tconv {
namespace {

constexpr int64_t kLookEveryNs = 50'000'000;
// How often a thread looks for the next call before it sleeps: about 0.1 ms, within which the next layer
// follows.
constexpr int kSpins = 8000;

inline void relax() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

int64_t now_ns() noexcept {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * int64_t{1'000'000'000} + time.tv_nsec;
}

int affinity() noexcept {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

bool read_line(const std::string& path, char* line, int bytes) {
  std::FILE* file = std::fopen(path.c_str(), "re");
  if (file == nullptr) return false;
  const bool found = std::fgets(line, bytes, file) != nullptr;
  std::fclose(file);
  return found;
}

// The quota that one control group has for itself, in cores, by the words of version 2 or 1; 0 for none.
double quota_of(const std::string& group) {
  char line[128];
  double limit = 0;
  double period = 0;
  const bool told = read_line(group + "/cpu.max", line, sizeof line)
                        ? std::sscanf(line, "%lf %lf", &limit, &period) == 2
                        : read_line(group + "/cpu.cfs_quota_us", line, sizeof line) &&
                              std::sscanf(line, "%lf", &limit) == 1 &&
                              read_line(group + "/cpu.cfs_period_us", line, sizeof line) &&
                              std::sscanf(line, "%lf", &period) == 1;
  return told && limit > 0 && period > 0 ? limit / period : 0;
}

// The names of this process's groups: in the one tree of version 2, and in the tree of processor time of
// version 1. Inside a container they may be those outside, of which only the root is there.
void find_groups(const std::string& root, std::string* unified, std::string* processor) {
  std::FILE* file = std::fopen((root + "/proc/self/cgroup").c_str(), "re");
  if (file == nullptr) return;
  char line[4096];
  while (std::fgets(line, sizeof line, file) != nullptr) {
    const std::string text(line, std::strcspn(line, "\n"));
    const size_t controllers = text.find(':') + 1;
    const size_t end = text.find(':', controllers);
    if (controllers == 0 || end == std::string::npos) continue;
    const std::string listed = "," + text.substr(controllers, end - controllers) + ",";
    if (listed == ",,") unified->assign(text, end + 1);
    if (listed.find(",cpu,") != std::string::npos) processor->assign(text, end + 1);
  }
  std::fclose(file);
}

}  // namespace

int quota_cores(const std::string& root) {
  std::string unified;
  std::string processor;
  find_groups(root, &unified, &processor);
  double least = 0;
  const auto narrow = [&least](const std::string& tree, std::string group) {
    while (true) {
      const double cores = quota_of(tree + group);
      if (cores > 0 && (least == 0 || cores < least)) least = cores;
      if (group.empty()) return;
      group.resize(std::min(group.find_last_of('/'), group.size() - 1));
    }
  };
  narrow(root + "/sys/fs/cgroup", unified);
  narrow(root + "/sys/fs/cgroup/cpu", processor);
  return static_cast<int>(std::ceil(std::min(least, 1e6)));
}

int usable_cores() noexcept {
  static const int limit = [] {
    try {
      return quota_cores("");
    } catch (...) {
      return 0;
    }
  }();
  return limit > 0 ? std::min(limit, affinity()) : affinity();
}

// The threads of the process. One call at a time has them; a call that finds them busy works alone.
class Pool {
 public:
  // Adds threads until there are `wanted`, or as many as the system gives.
  void grow(int wanted) noexcept {
    try {
      while (static_cast<int>(workers_.size()) < wanted) {
        const int member = static_cast<int>(workers_.size()) + 1;
        workers_.emplace_back([this, member] { work(member); });
      }
    } catch (const std::system_error&) {
    } catch (const std::bad_alloc&) {
    }
  }

  // As `lead`, on the threads of a team.
  static void lead_team(Team team, Crew& crew, Crew::Unit unit, const void* body) noexcept {
    struct Work {
      Crew& crew;
      Crew::Unit unit;
      const void* body;
      pthread_t leader;
      std::atomic<int> members{1};
    } work{crew, unit, body, pthread_self()};
    team(
        [](void* data) noexcept {
          Work& shared = *static_cast<Work*>(data);
          const bool leads = pthread_equal(pthread_self(), shared.leader) != 0;
          const int member = leads ? 0 : shared.members.fetch_add(1);
          if (member < shared.crew.threads()) shared.crew.take_units(shared.unit, shared.body, member);
        },
        &work, static_cast<unsigned>(crew.threads()), 0);
  }

  void lead(Crew& crew, Crew::Unit unit, const void* body) noexcept {
    crew_ = &crew;
    unit_ = unit;
    body_ = body;
    open_.store(true);
    round_.fetch_add(1);
    round_.notify_all();
    crew.take_units(unit, body, 0);
    open_.store(false);
    while (inside_.load() != 0) relax();
  }

  std::mutex mutex;

 private:
  void work(int member) noexcept {
    uint32_t seen = 0;
    while (true) {
      for (int spin = 0; spin < kSpins && round_.load(std::memory_order_relaxed) == seen; ++spin) relax();
      round_.wait(seen);
      seen = round_.load();
      inside_.fetch_add(1);
      if (open_.load() && member < crew_->threads()) crew_->take_units(unit_, body_, member);
      inside_.fetch_sub(1);
    }
  }

  std::vector<std::thread> workers_;
  Crew* crew_ = nullptr;
  Crew::Unit unit_ = nullptr;
  const void* body_ = nullptr;
  std::atomic<uint32_t> round_{0};
  std::atomic<int> inside_{0};
  std::atomic<bool> open_{false};
};

namespace {

// Never destroyed: its threads run until the process ends. A forked child has none of them, so it starts
// anew.
std::atomic<Pool*> the_pool{nullptr};
std::atomic<Team> the_team{nullptr};
const int fork_handler = pthread_atfork(nullptr, nullptr, [] {
  the_pool.store(nullptr);
  the_team.store(nullptr);
});

Pool* pool() {
  Pool* found = the_pool.load();
  if (found == nullptr) {
    auto made = std::make_unique<Pool>();
    if (the_pool.compare_exchange_strong(found, made.get())) found = made.release();
  }
  return found;
}

}  // namespace

void use_team(Team team) noexcept { the_team.store(team); }

Crew::Crew(int threads, Watch* watch) noexcept : threads_(std::max(1, threads)), watch_(watch) {
  if (watch_ != nullptr) next_look_ns_ = now_ns() + kLookEveryNs;
}

void Crew::cut_ranges(int64_t units, int ranges) noexcept {
  ranges_ = ranges;
  for (int i = 0; i < ranges; ++i) {
    range_[static_cast<size_t>(i)].next.store(units * i / ranges, std::memory_order_relaxed);
    range_[static_cast<size_t>(i)].end = units * (i + 1) / ranges;
  }
}

bool Crew::stopped(int member) noexcept {
  if (member == 0 && watch_ != nullptr && now_ns() >= next_look_ns_) {
    if (watch_->should_stop()) stopped_.store(true);
    next_look_ns_ = now_ns() + kLookEveryNs;
  }
  return stopped_.load(std::memory_order_relaxed);
}

void Crew::take_units(Unit unit, const void* body, int member) noexcept {
  for (int done = 0; done < ranges_ && !stopped(member);) {
    Range& range = range_[static_cast<size_t>((member + done) % ranges_)];
    const int64_t mine = range.next.fetch_add(1, std::memory_order_relaxed);
    if (mine >= range.end) {
      ++done;
      continue;
    }
    unit(body, mine, member);
  }
}

void Crew::run(int64_t units, double seconds, Unit unit, const void* body) {
  Pool* shared = threads_ > 1 && units > 1 && seconds > kWorthSharing ? pool() : nullptr;
  if (shared != nullptr && shared->mutex.try_lock()) {
    cut_ranges(units, std::min(threads_, kMostRanges));
    if (const Team team = the_team.load(); team != nullptr) {
      Pool::lead_team(team, *this, unit, body);
    } else {
      shared->grow(threads_ - 1);
      shared->lead(*this, unit, body);
    }
    shared->mutex.unlock();
  } else {
    cut_ranges(units, 1);
    take_units(unit, body, 0);
  }
  if (stopped_.load()) throw Interrupted{};
}

}  // namespace tconv
