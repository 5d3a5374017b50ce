#include "elementwise.hpp"

#include <algorithm>

namespace tconv {
namespace {

constexpr int64_t kElementsOfUnit = 1 << 14;
constexpr double kElementsPerSecond = 2e9;

}  // namespace

void pointwise(const float* x, const float* z, ByRow scale, ByRow shift, ByRow slope, Bend bend, int64_t rows,
               int64_t inner, float* out, Isa isa, Crew& crew) {
  const Kernel& run = kernel(Family::pointwise, DType::f32, isa);
  const int64_t length = std::min(inner, kElementsOfUnit);
  const int64_t parts = (inner + length - 1) / length;
  const int64_t together = std::max<int64_t>(1, kElementsOfUnit / inner);
  const int64_t units = (rows + together - 1) / together * parts;
  const double seconds = static_cast<double>(rows * inner) / kElementsPerSecond;
  crew.share(units, seconds, [&](int64_t unit, int) noexcept {
    const int64_t first = unit % parts * length;
    const int64_t begin = unit / parts * together;
    for (int64_t row = begin; row < std::min(begin + together, rows); ++row) {
      const int64_t at = row * inner + first;
      run(PointwiseArgs{x + at, z == nullptr ? nullptr : z + at, out + at, std::min(length, inner - first),
                        scale.at(row, 1), shift.at(row, 0), slope.at(row, 0), bend});
    }
  });
}

void pool(const PoolArgs& map, int64_t maps, Isa isa, Crew& crew) {
  const Kernel& run = kernel(Family::pool, DType::f32, isa);
  const int64_t size = map.rows * map.columns;
  const int64_t out_size = map.out_rows * map.out_columns;
  const double taps = static_cast<double>(out_size * map.kernel_rows * map.kernel_columns);
  crew.share(maps, static_cast<double>(maps) * taps / kElementsPerSecond, [&](int64_t unit, int) noexcept {
    PoolArgs one = map;
    one.src += unit * size;
    one.out += unit * out_size;
    run(one);
  });
}

}  // namespace tconv
