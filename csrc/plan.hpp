// Which algorithm runs a problem, and a bounded memory of what was decided.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "memory.hpp"

namespace tconv {

// An array of weights, and what keeps it.
struct PlainWeights {
  const void* data;
  std::shared_ptr<const void> keeper;  // null where nothing does
};

// Weights in the order a recipe wants; they outlive the array they came from, or keep it.
class PackedWeights {
 public:
  PackedWeights(std::string key, Buffer packed, PlainWeights plain, Buffer copy) noexcept
      : key_(std::move(key)), packed_(std::move(packed)), plain_(std::move(plain)), copy_(std::move(copy)) {}

  const std::string& key() const noexcept { return key_; }
  // A plain array that is kept is not counted.
  size_t bytes() const noexcept { return packed_.bytes() + copy_.bytes(); }
  // Null where the weights hold an infinity or NaN, which padding must not meet.
  const char* packed() const noexcept { return packed_.data(); }
  // The plain array, where a run may need it.
  const void* plain() const noexcept { return plain_.keeper != nullptr ? plain_.data : copy_.data(); }

 private:
  std::string key_;
  Buffer packed_;
  PlainWeights plain_;
  Buffer copy_;
};

class Plan;

// Weights on their way to the order of a plan that takes plain ones meanwhile.
class Packing {
 public:
  // Throws OutOfMemoryError.
  explicit Packing(const Plan& plan);

  size_t bytes() const noexcept { return packed_.bytes(); }
  // Touches fresh pages, which takes longer than to pack, or packs some more, for about so long; returns
  // whether all are packed. What it packed is packed anew where it does not return. Throws Interrupted.
  bool advance(const Plan& plan, const void* weight, double seconds, Crew& crew);
  // When all are packed.
  PackedWeights finish(PlainWeights plain) {
    return {std::move(key_), finite_ ? std::move(packed_) : Buffer(), std::move(plain), Buffer()};
  }

 private:
  std::string key_;
  Buffer packed_;
  size_t touched_ = 0;  // bytes
  int64_t done_ = 0;    // parts
  bool finite_ = true;
};

class Plan {
 public:
  // Chooses the cheapest algorithm that does not refuse, or the one named; where the plan `near` is of about
  // the same sizes, its own, which is that. Throws ParameterError, ShapeError.
  Plan(const Problem& problem, std::string_view algorithm, const Plan* near);

  const Problem& problem() const noexcept { return problem_; }
  const char* algorithm() const noexcept { return algorithm_->name; }
  // For all but packing and running.
  const Recipe& recipe() const noexcept { return *recipe_; }
  const Recipe& listed() const {
    std::call_once(once_, [this] { recipe_->list(); });
    return *recipe_;
  }
  double seconds() const noexcept { return seconds_; }
  // Plans of equal keys read each other's packed weights; empty where a plan reads plain ones.
  const std::string& packing_key() const noexcept { return packing_key_; }
  // Every algorithm that refuses, and why.
  std::vector<std::pair<std::string, std::string>> refusals() const;
  // The seconds expected of each of the others.
  std::vector<std::pair<std::string, double>> costs() const;

  // Whether a plan for packed weights also takes plain ones, for the same bits.
  bool takes_plain() const { return recipe_->takes_plain(); }

  // A plain array that nothing keeps is copied where a run may need it.
  PackedWeights pack(PlainWeights weight, Crew& crew) const;
  void run(const void* source, const void* weight, const void* bias, void* out, Crew& crew) const;
  // Throws ParameterError where the weights were packed for another plan.
  void run_packed(const void* source, const PackedWeights& packed, const void* bias, void* out,
                  Crew& crew) const;

 private:
  void take(std::string_view algorithm);
  void choose(const Problem& sized);
  // Makes the recipe; or says why the algorithm refuses.
  std::optional<std::string> make();

  Problem problem_;
  Problem folded_;  // the same with axes folded, which algorithms see
  const Algorithm* algorithm_ = nullptr;
  bool first_choice_ = false;  // the cheapest, which does not refuse
  std::unique_ptr<Recipe> recipe_;
  mutable std::once_flag once_;
  std::string packing_key_;
  double seconds_ = 0;
};

struct CacheCounters {
  uint64_t hits;
  uint64_t misses;
  uint64_t size;
  uint64_t limit;
};

// The plan of a problem, remembered; `near` as for Plan.
std::shared_ptr<const Plan> find_plan(const Problem& problem, std::string_view algorithm,
                                      const Plan* near = nullptr);
CacheCounters cache_counters() noexcept;
// Forgets all but the latest plans where there are more than `limit`; at least one is kept.
void limit_cache(uint64_t limit);
void clear_cache() noexcept;

std::vector<std::string> algorithm_names();

}  // namespace tconv
