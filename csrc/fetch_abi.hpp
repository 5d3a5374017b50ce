// What kernels fetch for those that run after them, on the way.
#pragma once

#include "kernel_abi.hpp"

// Memory to fetch into the second cache: runs of `bytes`, `runs` of them `step[0]` apart, and this `rounds`
// times, `step[1]` apart. What fetches it keeps count of what is left.
struct Fetch {
  const char* at;
  int64_t bytes;
  int64_t step[2];
  int64_t runs;
  int64_t rounds;
  int64_t done_bytes;
  int64_t done_runs;
};

#if defined(TCONV_KERNEL_NAME)

namespace {

// Lines of several fetches, some at every step of the depth.
class Fetching {
 public:
  // Few steps are through before a line a step would fetch all of the first.
  Fetching(Fetch* fetch, int64_t fetches, int64_t steps) noexcept : fetch_(fetch), end_(fetch + fetches) {
    if (fetch_ == end_) return;
    const int64_t lines = fetch_->bytes / kLine * fetch_->runs * fetch_->rounds;
    if (lines > steps) lines_ = (lines + steps - 1) / steps;
    enter();
  }

  [[gnu::always_inline]] inline void step() noexcept {
    for (int64_t line = 0; line < lines_; ++line) {
      if (at_ < run_end_) {
        __builtin_prefetch(at_, 0, 2);
        at_ += kLine;
      } else if (fetch_ != end_) {
        leave_run();
      }
    }
  }

  // Notes how far the last one has come.
  void stop() noexcept {
    if (fetch_ != end_) fetch_->done_bytes = at_ - fetch_->at;
  }

 private:
  static constexpr int64_t kLine = 64;

  [[gnu::always_inline]] inline void enter() noexcept {
    if (fetch_ == end_) return;
    at_ = fetch_->at + fetch_->done_bytes;
    run_end_ = fetch_->rounds > 0 ? fetch_->at + fetch_->bytes : at_;
  }

  // Not a call, which would have all sums leave their registers.
  [[gnu::always_inline]] inline void leave_run() noexcept {
    Fetch& now = *fetch_;
    now.done_bytes = 0;
    if (now.rounds > 0 && ++now.done_runs < now.runs) {
      now.at += now.step[0];
    } else if (now.rounds > 0 && --now.rounds > 0) {
      now.at += now.step[1] - (now.runs - 1) * now.step[0];
      now.done_runs = 0;
    } else {
      ++fetch_;
    }
    enter();
  }

  int64_t lines_ = 1;
  const char* at_ = nullptr;
  const char* run_end_ = nullptr;
  Fetch* fetch_;
  Fetch* end_;
};

}  // namespace

#endif
