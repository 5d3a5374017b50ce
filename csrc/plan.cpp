#include "plan.hpp"

#include <pthread.h>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <list>
#include <mutex>
#include <unordered_map>

#include "machine.hpp"
#include "packing.hpp"

namespace tconv {

#define TCONV_ALGORITHM(name, passes) extern const Algorithm name;
#include "algorithms/algorithms.inc"
#undef TCONV_ALGORITHM

namespace {

namespace passes {
constexpr unsigned forward = 1U << static_cast<unsigned>(Pass::forward);
constexpr unsigned data_gradient = 1U << static_cast<unsigned>(Pass::data_gradient);
constexpr unsigned weight_gradient = 1U << static_cast<unsigned>(Pass::weight_gradient);
constexpr unsigned maps = forward | data_gradient;
constexpr unsigned any = maps | weight_gradient;
}  // namespace passes

constexpr const Algorithm* kAlgorithms[] = {
#define TCONV_ALGORITHM(name, passes) &name,
#include "algorithms/algorithms.inc"
#undef TCONV_ALGORITHM
};

// Of which passes each is asked.
constexpr unsigned kPasses[] = {
#define TCONV_ALGORITHM(name, of) passes::of,
#include "algorithms/algorithms.inc"
#undef TCONV_ALGORITHM
};

bool serves(size_t algorithm, Pass pass) noexcept {
  return (kPasses[algorithm] >> static_cast<unsigned>(pass) & 1) != 0;
}

std::optional<std::string> refusal_of_pass(Pass pass) {
  constexpr const char* names[] = {"forward", "the data gradient", "the weight gradient"};
  return std::string("the pass is ") + names[static_cast<size_t>(pass)];
}

// For the same reason one thread is what they are compared on. The gradient of weights is a sum over the
// batch.
Problem usual(const Problem& problem) {
  Problem usual = problem;
  usual.threads = 1;
  if (problem.pass != Pass::weight_gradient) usual.geometry.batch = usual_batch(problem.geometry);
  return usual;
}

}  // namespace

Plan::Plan(const Problem& problem, std::string_view wanted, const Plan* near)
    : problem_(problem), folded_(problem) {
  check(problem.geometry);
  folded_.geometry = folded(problem.geometry);
  if (!wanted.empty()) {
    take(wanted);
  } else {
    const Problem sized = of_usual_size(folded_);
    if (near != nullptr && near->first_choice_ && of_usual_size(near->folded_) == sized) {
      algorithm_ = near->algorithm_;
      first_choice_ = !make();
    }
    if (!first_choice_) choose(sized);
  }
  seconds_ = algorithm_->cost(folded_);
  packing_key_ = recipe_->packing_key();
}

void Plan::take(std::string_view wanted) {
  const auto found = std::ranges::find(kAlgorithms, wanted, [](const Algorithm* a) { return a->name; });
  if (found == std::end(kAlgorithms))
    throw ParameterError("algorithm: got '" + std::string(wanted) + "'; there is no such one");
  algorithm_ = *found;
  const bool serving = serves(static_cast<size_t>(found - kAlgorithms), problem_.pass);
  if (const auto reason = serving ? make() : refusal_of_pass(problem_.pass))
    throw ParameterError(std::string(wanted) + ": refuses: " + *reason);
}

void Plan::choose(const Problem& sized) {
  const Problem compared = usual(sized);
  const double with_every_product = machine::least_seconds(compared);
  std::array<bool, std::size(kAlgorithms)> refused{};
  std::array<std::optional<double>, std::size(kAlgorithms)> seconds_of;
  for (first_choice_ = true;; first_choice_ = false) {
    size_t chosen = std::size(kAlgorithms);
    double least = 0;
    for (size_t i = 0; i < std::size(kAlgorithms); ++i) {
      const Algorithm& algorithm = *kAlgorithms[i];
      if (refused[i] || !serves(i, compared.pass)) continue;
      const bool others = chosen < std::size(kAlgorithms);
      if (others && !algorithm.saves && with_every_product >= least) continue;
      if (others && algorithm.floor != nullptr && algorithm.floor(compared) >= least) continue;
      if (!seconds_of[i]) {
        refused[i] = algorithm.refusal(sized).has_value();
        if (refused[i]) continue;
        seconds_of[i] = algorithm.cost(compared);
      }
      if (others && *seconds_of[i] >= least) continue;
      chosen = i;
      least = *seconds_of[i];
    }
    algorithm_ = kAlgorithms[chosen];
    if (!make()) return;
    refused[chosen] = true;
  }
}

std::optional<std::string> Plan::make() {
  if (auto reason = algorithm_->refusal(folded_)) return reason;
  recipe_ = algorithm_->make(folded_);
  // The workspace that one needs is known when it is made, which takes longer than to compare them all.
  return workspace_refusal(problem_, recipe_->workspace_bytes());
}

std::vector<std::pair<std::string, std::string>> Plan::refusals() const {
  std::vector<std::pair<std::string, std::string>> list;
  for (size_t i = 0; i < std::size(kAlgorithms); ++i) {
    const Algorithm& algorithm = *kAlgorithms[i];
    const bool serving = serves(i, problem_.pass);
    if (const auto reason = serving ? refusal_of(algorithm, folded_) : refusal_of_pass(problem_.pass))
      list.emplace_back(algorithm.name, *reason);
  }
  return list;
}

std::vector<std::pair<std::string, double>> Plan::costs() const {
  std::vector<std::pair<std::string, double>> list;
  for (size_t i = 0; i < std::size(kAlgorithms); ++i) {
    const Algorithm& algorithm = *kAlgorithms[i];
    if (serves(i, problem_.pass) && !refusal_of(algorithm, folded_))
      list.emplace_back(algorithm.name, algorithm.cost(folded_));
  }
  return list;
}

PackedWeights Plan::pack(PlainWeights weight, Crew& crew) const {
  Buffer packed;
  if (!packing_key_.empty()) {
    packed = Buffer(recipe_->packed_bytes());
    if (!listed().pack(weight.data, packed.data(), crew)) packed = Buffer();
  }
  Buffer copy;
  if (weight.keeper == nullptr && (packed.data() == nullptr || recipe_->needs_finite_source())) {
    copy = Buffer(static_cast<size_t>(problem_.geometry.weight_elements()) * storage_bytes(problem_.dtype));
    copy_bytes(weight.data, copy.data(), copy.bytes(), crew);
  }
  return {packing_key_, std::move(packed), std::move(weight), std::move(copy)};
}

Packing::Packing(const Plan& plan) : key_(plan.packing_key()), packed_(plan.recipe().packed_bytes()) {}

bool Packing::advance(const Plan& plan, const void* weight, double seconds, Crew& crew) {
  if (touched_ < packed_.bytes()) {
    // By the clock, for one page may take as long as thousands of others.
    constexpr size_t page = 4096;
    const std::chrono::duration<double> most(seconds);
    const auto begin = std::chrono::steady_clock::now();
    do {
      packed_.data()[touched_] = 0;
      touched_ += page;
    } while (touched_ < packed_.bytes() && std::chrono::steady_clock::now() - begin < most);
    return false;
  }
  const int64_t parts = plan.recipe().packing_parts();
  const double part = static_cast<double>(packed_.bytes()) / static_cast<double>(parts);
  const auto most = static_cast<int64_t>(seconds * machine::kPackBytesPerSecond / part);
  const int64_t end = std::min(parts, done_ + std::max<int64_t>(1, most));
  finite_ = plan.listed().pack_parts(weight, packed_.data(), done_, end, crew);
  done_ = end;
  return done_ == parts || !finite_;
}

void Plan::run(const void* source, const void* weight, const void* bias, void* out, Crew& crew) const {
  const Call call{source, weight, nullptr, bias, out, crew};
  if (!listed().run(call)) make_direct(folded_)->run(call);
}

void Plan::run_packed(const void* source, const PackedWeights& packed, const void* bias, void* out,
                      Crew& crew) const {
  if (packed.key() != packing_key_) {
    throw ParameterError("weights: packed for another plan; pack them for this one");
  }
  if (packing_key_.empty()) return run(source, packed.plain(), bias, out, crew);
  if (packed.packed() == nullptr || !listed().run({source, nullptr, packed.packed(), bias, out, crew})) {
    make_direct(folded_)->run({source, packed.plain(), nullptr, bias, out, crew});
  }
}

namespace {

// A plan and what it was asked for, beside its problem.
struct Entry {
  uint64_t hash;
  std::string algorithm;
  std::shared_ptr<const Plan> plan;
};

uint64_t hash_of(const Problem& p, std::string_view algorithm) noexcept {
  uint64_t hash = 0x9e3779b97f4a7c15u;
  const auto mix = [&hash](uint64_t value) {
    hash = (hash ^ value) * 0xff51afd7ed558ccdu;
    hash ^= hash >> 32;
  };
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
  return hash ^ std::hash<std::string_view>{}(algorithm);
}

std::mutex cache_mutex;
std::list<Entry> by_age;  // latest first
std::unordered_multimap<uint64_t, std::list<Entry>::iterator> by_hash;
CacheCounters counters{0, 0, 0, 1024};

const int fork_handlers =
    pthread_atfork([] { cache_mutex.lock(); }, [] { cache_mutex.unlock(); }, [] { cache_mutex.unlock(); });

std::shared_ptr<const Plan> look(uint64_t hash, const Problem& problem, std::string_view algorithm) {
  for (auto [found, end] = by_hash.equal_range(hash); found != end; ++found) {
    const auto entry = found->second;
    if (entry->algorithm != algorithm || entry->plan->problem() != problem) continue;
    by_age.splice(by_age.begin(), by_age, entry);
    return entry->plan;
  }
  return nullptr;
}

void shrink(std::list<Entry>& dropped) {
  while (by_age.size() > counters.limit) {
    const auto oldest = std::prev(by_age.end());
    auto found = by_hash.find(oldest->hash);
    while (found->second != oldest) ++found;
    by_hash.erase(found);
    dropped.splice(dropped.begin(), by_age, oldest);
  }
}

}  // namespace

std::shared_ptr<const Plan> find_plan(const Problem& problem, std::string_view algorithm, const Plan* near) {
  const uint64_t hash = hash_of(problem, algorithm);
  {
    const std::lock_guard lock(cache_mutex);
    if (auto plan = look(hash, problem, algorithm)) {
      ++counters.hits;
      return plan;
    }
    ++counters.misses;
  }
  auto made = std::make_shared<const Plan>(problem, algorithm, near);
  std::list<Entry> fresh{{hash, std::string(algorithm), made}};
  std::list<Entry> dropped;  // destroyed after the lock
  const std::lock_guard lock(cache_mutex);
  if (auto plan = look(hash, problem, algorithm)) return plan;
  by_hash.emplace(hash, fresh.begin());
  by_age.splice(by_age.begin(), fresh);
  shrink(dropped);
  return made;
}

CacheCounters cache_counters() noexcept {
  const std::lock_guard lock(cache_mutex);
  CacheCounters now = counters;
  now.size = by_age.size();
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
  by_hash.clear();
  dropped.swap(by_age);
  counters.hits = counters.misses = 0;
}

std::vector<std::string> algorithm_names() {
  std::vector<std::string> names;
  for (const Algorithm* algorithm : kAlgorithms) names.emplace_back(algorithm->name);
  return names;
}

}  // namespace tconv
