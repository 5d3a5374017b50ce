#include "fingerprint.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

namespace tconv {
namespace {

constexpr size_t kLanes = 6;
constexpr size_t kStep = 16;
constexpr size_t kBlock = 256 << 10;
constexpr double kBytesPerSecond = 10e9;

// Digits of pi, half of the bits set and no pattern in them.
constexpr std::array<uint64_t, 8> kKeys = {0x243f6a8885a308d3, 0x13198a2e03707344, 0xa4093822299f31d0,
                                           0x082efa98ec4e6c89, 0x452821e638d01377, 0xbe5466cf34e90c6c,
                                           0xc0ac29b7c97c50dd, 0x3f84d5b5b5470917};

uint64_t read(const char* from) noexcept {
  uint64_t word;
  std::memcpy(&word, from, sizeof word);
  return word;
}

// Both halves of the product: every bit of either factor reaches every bit of the result.
uint64_t mix(uint64_t a, uint64_t b) noexcept {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

uint64_t absorb(uint64_t state, const char* from, uint64_t key) noexcept {
  return mix(read(from) ^ key, read(from + sizeof(uint64_t)) ^ state);
}

uint64_t of_block(const char* data, size_t bytes) noexcept {
  // Chains that do not wait for each other, as a product takes longer than a load.
  std::array<uint64_t, kLanes> states;
  std::copy_n(kKeys.begin(), kLanes, states.begin());
  size_t at = 0;
  for (; at + kLanes * kStep <= bytes; at += kLanes * kStep) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      states[lane] = absorb(states[lane], data + at + lane * kStep, kKeys[lane]);
    }
  }
  for (; at < bytes; at += kStep) {
    char last[kStep] = {};
    std::memcpy(last, data + at, std::min(kStep, bytes - at));
    states[0] = absorb(states[0], last, kKeys[6]);
  }
  uint64_t all = bytes;
  for (const uint64_t state : states) all = mix(all ^ kKeys[7], state ^ kKeys[6]);
  return all;
}

}  // namespace

uint64_t fingerprint(const void* data, size_t bytes, Crew& crew) {
  const auto* from = static_cast<const char*>(data);
  std::vector<uint64_t> blocks((bytes + kBlock - 1) / kBlock);
  crew.share(static_cast<int64_t>(blocks.size()), static_cast<double>(bytes) / kBytesPerSecond,
             [&](int64_t block, int) noexcept {
               const size_t first = static_cast<size_t>(block) * kBlock;
               blocks[static_cast<size_t>(block)] = of_block(from + first, std::min(kBlock, bytes - first));
             });
  return of_block(reinterpret_cast<const char*>(blocks.data()), blocks.size() * sizeof(uint64_t));
}

}  // namespace tconv
