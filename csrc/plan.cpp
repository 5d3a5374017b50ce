#include "plan.hpp"

#include <pthread.h>

#include <array>
#include <bit>
#include <list>
#include <mutex>
#include <unordered_map>

#include "machine.hpp"
#include "packing.hpp"

namespace tconv {

#define TCONV_ALGORITHM(name) extern const Algorithm name;
#include "algorithms/algorithms.inc"
#undef TCONV_ALGORITHM

namespace {

constexpr const Algorithm* kAlgorithms[] = {
#define TCONV_ALGORITHM(name) &name,
#include "algorithms/algorithms.inc"
#undef TCONV_ALGORITHM
};

// For the same reason one thread is what they are compared on. The gradient of weights is a sum over the
// batch.
Problem usual(const Problem& problem) {
  Problem usual = problem;
  if (problem.pass != Pass::weight_gradient) usual.geometry.batch = usual_batch(problem.geometry);
  usual.threads = 1;
  return usual;
}

}  // namespace

Plan::Plan(const Problem& problem, std::string_view wanted) : problem_(problem) {
  check(problem.geometry);
  const Problem compared = usual(problem);
  const double with_every_product = machine::least_seconds(compared);
  std::array<bool, std::size(kAlgorithms)> too_large{};
  double least = 0;
  while (recipe_ == nullptr) {
    size_t chosen = std::size(kAlgorithms);
    for (size_t i = 0; i < std::size(kAlgorithms); ++i) {
      const Algorithm& algorithm = *kAlgorithms[i];
      if (too_large[i] || (!wanted.empty() && wanted != algorithm.name)) continue;
      if (algorithm_ != nullptr && !algorithm.saves && with_every_product >= least) continue;
      if (algorithm_ != nullptr && algorithm.floor != nullptr && algorithm.floor(compared) >= least) continue;
      if (const auto reason = algorithm.refusal(problem)) {
        if (!wanted.empty()) throw ParameterError(std::string(wanted) + ": refuses: " + *reason);
        continue;
      }
      const double seconds = algorithm.cost(compared);
      if (algorithm_ == nullptr || seconds < least) {
        algorithm_ = &algorithm;
        chosen = i;
        least = seconds;
      }
    }
    if (algorithm_ == nullptr)
      throw ParameterError("algorithm: got '" + std::string(wanted) + "'; there is no such one");
    recipe_ = algorithm_->make(problem);
    // The workspace that one needs is known when it is made, which takes longer than to compare them all.
    if (const auto reason = workspace_refusal(problem, recipe_->workspace_bytes())) {
      if (!wanted.empty()) throw ParameterError(std::string(wanted) + ": refuses: " + *reason);
      too_large[chosen] = true;
      recipe_.reset();
      algorithm_ = nullptr;
    }
  }
  careful_ = make_direct(problem);
  seconds_ = problem == compared ? least : algorithm_->cost(problem);
  packing_key_ = recipe_->packing_key();
}

std::vector<std::pair<std::string, std::string>> Plan::refusals() const {
  std::vector<std::pair<std::string, std::string>> list;
  for (const Algorithm* algorithm : kAlgorithms) {
    if (const auto reason = refusal_of(*algorithm, problem_)) list.emplace_back(algorithm->name, *reason);
  }
  return list;
}

std::vector<std::pair<std::string, double>> Plan::costs() const {
  std::vector<std::pair<std::string, double>> list;
  for (const Algorithm* algorithm : kAlgorithms) {
    if (!refusal_of(*algorithm, problem_)) list.emplace_back(algorithm->name, algorithm->cost(problem_));
  }
  return list;
}

PackedWeights Plan::pack(const void* weight, Crew& crew) const {
  Buffer packed;
  if (!packing_key_.empty()) {
    packed = Buffer(recipe_->packed_bytes());
    if (!recipe_->pack(weight, packed.data(), crew)) packed = Buffer();
  }
  Buffer plain;
  if (packed.data() == nullptr || recipe_->needs_finite_source()) {
    plain = Buffer(static_cast<size_t>(problem_.geometry.weight_elements()) * storage_bytes(problem_.dtype));
    copy_bytes(weight, plain.data(), plain.bytes(), crew);
  }
  return {packing_key_, std::move(packed), std::move(plain)};
}

void Plan::run(const void* source, const void* weight, const void* bias, void* out, Crew& crew) const {
  const Call call{source, weight, nullptr, bias, out, crew};
  if (!recipe_->run(call)) careful_->run(call);
}

void Plan::run_packed(const void* source, const PackedWeights& packed, const void* bias, void* out,
                      Crew& crew) const {
  if (packed.key() != packing_key_) {
    throw ParameterError("weights: packed for another plan; pack them for this one");
  }
  if (packed.packed() == nullptr || !recipe_->run({source, nullptr, packed.packed(), bias, out, crew})) {
    careful_->run({source, packed.plain(), nullptr, bias, out, crew});
  }
}

namespace {

struct Key {
  Problem problem;
  std::string algorithm;

  bool operator==(const Key&) const = default;
};

struct KeyHash {
  size_t operator()(const Key& key) const noexcept {
    uint64_t hash = 0x9e3779b97f4a7c15u;
    const auto mix = [&hash](uint64_t value) {
      hash = (hash ^ value) * 0xff51afd7ed558ccdu;
      hash ^= hash >> 32;
    };
    const Problem& p = key.problem;
    const Geometry& g = p.geometry;
    mix(static_cast<uint64_t>(g.batch));
    mix(static_cast<uint64_t>(g.channels) << 32 ^ static_cast<uint64_t>(g.filters));
    mix(static_cast<uint64_t>(g.groups) << 8 ^ static_cast<uint64_t>(p.pass) << 4 ^
        static_cast<uint64_t>(p.dtype) << 1 ^ static_cast<uint64_t>(g.channels_last));
    for (const Axis& axis : g.axes) {
      mix(static_cast<uint64_t>(axis.size) << 24 ^ static_cast<uint64_t>(axis.out));
      mix(static_cast<uint64_t>(axis.kernel) << 40 ^ static_cast<uint64_t>(axis.stride) << 20 ^
          static_cast<uint64_t>(axis.dilation) << 10 ^ static_cast<uint64_t>(axis.pad_lo));
    }
    mix(static_cast<uint64_t>(p.workspace) << 8 ^ static_cast<uint64_t>(p.threads) << 3 ^
        static_cast<uint64_t>(p.isa) << 1 ^ static_cast<uint64_t>(p.packed));
    mix(static_cast<uint64_t>(p.winograd_points));
    mix(std::bit_cast<uint64_t>(p.activation.slope) ^ std::bit_cast<uint64_t>(p.activation.low) << 1 ^
        std::bit_cast<uint64_t>(p.activation.high) << 2);
    return hash ^ std::hash<std::string>{}(key.algorithm);
  }
};

using Entry = std::pair<Key, std::shared_ptr<const Plan>>;

std::mutex cache_mutex;
std::list<Entry> by_age;  // latest first
std::unordered_map<Key, std::list<Entry>::iterator, KeyHash> by_key;
CacheCounters counters{0, 0, 0, 1024};

const int fork_handlers =
    pthread_atfork([] { cache_mutex.lock(); }, [] { cache_mutex.unlock(); }, [] { cache_mutex.unlock(); });

std::shared_ptr<const Plan> look(const Key& key) {
  const auto found = by_key.find(key);
  if (found == by_key.end()) return nullptr;
  by_age.splice(by_age.begin(), by_age, found->second);
  return found->second->second;
}

void shrink(std::list<Entry>& dropped) {
  while (by_key.size() > counters.limit) {
    by_key.erase(by_age.back().first);
    dropped.splice(dropped.begin(), by_age, std::prev(by_age.end()));
  }
}

}  // namespace

std::shared_ptr<const Plan> find_plan(const Problem& problem, std::string_view algorithm) {
  Key key{problem, std::string(algorithm)};
  {
    const std::lock_guard lock(cache_mutex);
    if (auto plan = look(key)) {
      ++counters.hits;
      return plan;
    }
    ++counters.misses;
  }
  auto made = std::make_shared<const Plan>(problem, algorithm);
  std::list<Entry> dropped;  // destroyed after the lock
  const std::lock_guard lock(cache_mutex);
  if (auto plan = look(key)) return plan;
  by_age.emplace_front(key, made);
  by_key.emplace(std::move(key), by_age.begin());
  shrink(dropped);
  return made;
}

CacheCounters cache_counters() noexcept {
  const std::lock_guard lock(cache_mutex);
  CacheCounters now = counters;
  now.size = by_key.size();
  return now;
}

void limit_cache(uint64_t limit) {
  std::list<Entry> dropped;
  const std::lock_guard lock(cache_mutex);
  counters.limit = std::max<uint64_t>(1, limit);
  shrink(dropped);
}

void clear_cache() noexcept {
  std::list<Entry> dropped;
  const std::lock_guard lock(cache_mutex);
  by_key.clear();
  dropped.swap(by_age);
  counters.hits = counters.misses = 0;
}

std::vector<std::string> algorithm_names() {
  std::vector<std::string> names;
  for (const Algorithm* algorithm : kAlgorithms) names.emplace_back(algorithm->name);
  return names;
}

}  // namespace tconv
