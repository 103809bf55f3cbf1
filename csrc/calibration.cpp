// The calibration loss of DisenDiff (CVPR 2024, section 3.3) and its gradient, a row of the batch at a time.
//
// Min-max, 3x3 Gaussian with reflected borders, squared class maps, soft IoU: see kernels/fused/impl/reference.py, which
// is the definition. The maps are small, so everything is done in double precision.
//
// A map with a NaN or an infinity makes every overlap it is part of NaN, and so the gradient of every cell of the maps
// that the overlap pulls on. With one concept nothing pulls on the class map: its gradient is zero.
#include "calibration.hpp"

#include <algorithm>
#include <cmath>

namespace pk {
namespace {

// A 3x3 kernel: outer([edge, centre, edge]) with the border reflected, the edge cell not repeated.
struct Blur {
  double edge, centre;
  explicit Blur(double sigma) {
    const double side = sigma > 0 ? std::exp(-0.5 / (sigma * sigma)) : 0.0;
    edge = side / (1 + 2 * side);
    centre = 1 / (1 + 2 * side);
  }
  static int64_t reflect(int64_t at, int64_t size) {
    if (size == 1) return 0;
    return at < 0 ? 1 : at >= size ? size - 2 : at;
  }
  // One line of `size` cells that are `stride` apart; `adjoint` sends what each cell received back to where it was from.
  void line(const double *from, double *to, int64_t size, int64_t stride, bool adjoint) const {
    for (int64_t i = 0; i < size; ++i) to[i * stride] = 0;
    for (int64_t i = 0; i < size; ++i)
      for (int64_t step = -1; step <= 1; ++step) {
        const int64_t other = reflect(i + step, size);
        const double tap = step == 0 ? centre : edge;
        if (adjoint)
          to[other * stride] += tap * from[i * stride];
        else
          to[i * stride] += tap * from[other * stride];
      }
  }
  void apply(double *map, double *spare, int64_t height, int64_t width, bool adjoint) const {
    for (int64_t y = 0; y < height; ++y) line(map + y * width, spare + y * width, width, 1, adjoint);
    for (int64_t x = 0; x < width; ++x) line(spare + x, map + x, height, width, adjoint);
  }
};

// Soft IoU by products, and what its derivatives need: d/da = b / u - f * (1 - b) / u.
struct Overlap {
  double value, bottom;
  Overlap(const double *a, const double *b, int64_t cells, double smooth) {
    double both = 0, sum = 0;
    for (int64_t i = 0; i < cells; ++i) {
      both += a[i] * b[i];
      sum += a[i] + b[i];
    }
    bottom = sum - both + smooth;
    value = (both + smooth) / bottom;
  }
  double slope(double other) const { return (other - value * (1 - other)) / bottom; }
};

}  // namespace

int64_t calibration_scratch(const pk_calibration &options) {
  const int64_t cells = options.height * options.width;
  return (3 * 2 * options.concepts + 1) * cells;
}

void calibration_row(const pk_calibration &o, const float *maps, float *loss, float *grad, double *scratch) {
  const int64_t cells = o.height * o.width, count = 2 * o.concepts;
  double *blurred = scratch;                 // [2S, cells], after min-max and Gaussian
  double *squared = blurred + count * cells; // [2S, cells], class maps after the squaring
  double *slopes = squared + count * cells;  // [2S, cells], gradient with respect to `squared`, then to `blurred`
  double *spare = slopes + count * cells;    // [cells]
  *loss = 0;
  if (grad != nullptr) std::fill(grad, grad + count * cells, 0.0f);
  if (std::all_of(maps, maps + count * cells, [](float x) { return x == 0; })) return;
  const Blur blur(o.sigma);
  for (int64_t m = 0; m < count; ++m) {
    const float *map = maps + m * cells;
    double *to = blurred + m * cells;
    const double low = *std::min_element(map, map + cells), high = *std::max_element(map, map + cells);
    for (int64_t i = 0; i < cells; ++i) to[i] = o.normalize ? (map[i] - low) / (high - low + 1e-8) : map[i];
    if (o.sigma > 0) blur.apply(to, spare, o.height, o.width, false);
    for (int64_t i = 0; i < cells; ++i) {
      double power = to[i];
      for (int turn = 0; turn < o.suppress && m % 2 == 1; ++turn) power *= power;
      squared[m * cells + i] = power;
    }
  }
  std::fill(slopes, slopes + count * cells, 0.0);
  double total = 0;
  for (int64_t c = 0; c < o.concepts; ++c) {
    const double *modifier = squared + 2 * c * cells, *name = modifier + cells;
    const Overlap overlap(modifier, name, cells, o.smooth);
    total += o.bind * (1 - overlap.value);
    for (int64_t i = 0; i < cells; ++i) slopes[2 * c * cells + i] -= o.bind * overlap.slope(name[i]);
  }
  const double pairs = static_cast<double>(o.concepts * (o.concepts - 1)) / 2;
  for (int64_t c = 0; c < o.concepts; ++c)
    for (int64_t d = c + 1; d < o.concepts; ++d) {
      const int64_t at = (2 * c + 1) * cells, bt = (2 * d + 1) * cells;
      const Overlap overlap(squared + at, squared + bt, cells, o.smooth);
      const double weight = o.separate / pairs;
      total += weight * overlap.value;
      for (int64_t i = 0; i < cells; ++i) {
        slopes[at + i] += weight * overlap.slope(squared[bt + i]);
        slopes[bt + i] += weight * overlap.slope(squared[at + i]);
      }
    }
  *loss = static_cast<float>(total);
  if (grad == nullptr) return;
  for (int64_t m = 0; m < count; ++m) {
    const float *map = maps + m * cells;
    double *slope = slopes + m * cells;
    if (m % 2 == 1 && o.concepts > 1)  // d(x^(2^s)) = 2^s x^(2^s - 1), as a product of 2 x^(2^k)
      for (int64_t i = 0; i < cells; ++i) {
        double power = blurred[m * cells + i];
        for (int turn = 0; turn < o.suppress; ++turn, power *= power) slope[i] *= 2 * power;
      }
    if (o.sigma > 0) blur.apply(slope, spare, o.height, o.width, true);
    float *to = grad + m * cells;
    if (!o.normalize) {
      for (int64_t i = 0; i < cells; ++i) to[i] = static_cast<float>(slope[i]);
      continue;
    }
    if (!std::all_of(map, map + cells, [](float x) { return std::isfinite(x); })) {
      std::fill(to, to + cells, std::nanf(""));  // no range: every cell's gradient is NaN, even that of a slope of zero
      continue;
    }
    const float low = *std::min_element(map, map + cells), high = *std::max_element(map, map + cells);
    const double range = static_cast<double>(high) - low + 1e-8;
    double sum = 0, weighted = 0;
    for (int64_t i = 0; i < cells; ++i) {
      sum += slope[i];
      weighted += slope[i] * (static_cast<double>(map[i]) - low) / range;
    }
    // Cells that share the lowest or highest value share its gradient, as in torch.
    const double at_high = -weighted / range / static_cast<double>(std::count(map, map + cells, high));
    const double at_low = (weighted - sum) / range / static_cast<double>(std::count(map, map + cells, low));
    for (int64_t i = 0; i < cells; ++i) {
      double value = slope[i] / range;
      if (map[i] == high) value += at_high;
      if (map[i] == low) value += at_low;
      to[i] = static_cast<float>(value);
    }
  }
}

}  // namespace pk
