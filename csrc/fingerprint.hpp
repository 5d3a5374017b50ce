// A number that tells whether bytes have changed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "thread_pool.hpp"

namespace tconv {

// Mixes every bit of `bytes` bytes into 64, at the speed of memory. Bytes that differ have equal fingerprints
// with a chance of 2^-64; the number of threads changes nothing.
uint64_t fingerprint(const void* data, size_t bytes, Crew& crew);

}  // namespace tconv
