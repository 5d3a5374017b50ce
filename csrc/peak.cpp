#include "peak.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <vector>

namespace tconv {
namespace {

constexpr int64_t kDepth = 64;
constexpr int64_t kSegments = 64;
constexpr int kRepeats = 20;

template <class T>
double best_rate(DType dtype, Isa isa) {
  using Clock = std::chrono::steady_clock;
  const std::array<int64_t, kSegments> same_panel{};
  double best = 0;
  for (const Kernel& gemm : product_kernels(dtype, isa)) {
    const std::vector<T> a(static_cast<size_t>(gemm.rows * kDepth), T{1});
    const std::vector<T> b(static_cast<size_t>(gemm.lanes * kDepth), T{1});
    std::vector<T> c(static_cast<size_t>(gemm.rows * gemm.lanes));
    std::vector<void*> rows;
    for (int row = 0; row < gemm.rows; ++row) rows.push_back(c.data() + row * gemm.lanes);
    GemmArgs args{};
    args.a = a.data();
    args.b = b.data();
    args.a_offset = args.b_offset = same_panel.data();
    args.segments = kSegments;
    args.depth = kDepth;
    args.a_step = gemm.rows;
    args.b_step = gemm.lanes;
    args.c = rows.data();
    args.rows = gemm.rows;
    args.lanes = gemm.lanes;
    const double flops =
        2.0 * gemm.rows * gemm.lanes * static_cast<double>(kDepth * kSegments * steps_of_element(gemm));
    for (int repeat = 0; repeat < kRepeats; ++repeat) {
      const auto start = Clock::now();
      gemm(args);
      best = std::max(best, flops / std::chrono::duration<double>(Clock::now() - start).count());
    }
  }
  return best;
}

}  // namespace

double measured_peak(DType dtype, Isa isa) {
  return dtype == DType::f64 ? best_rate<double>(dtype, isa) : best_rate<float>(dtype, isa);
}

}  // namespace tconv
