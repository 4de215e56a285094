#include "nn/winograd.h"

#include <algorithm>

#include "ops/kernels.h"

namespace duet {

namespace {

/// Floats that the planes of a run of tiles may take: what stays in the second level of cache.
constexpr int64_t kPlaneFloats = 192 * 1024;

/// Planes are this much longer than their rows, so that the 16 of them do not fall into the same cache sets.
constexpr int64_t kGap = 80;

int64_t tilesOf(const PictureGrid& grid) {
  return grid.pictures() * ((grid.height + 1) / 2) * ((grid.width + 1) / 2);
}

int64_t runOf(const PictureGrid& grid, int64_t channels) {
  const int64_t fitting = kPlaneFloats / (kWinogradPlanes * channels) / 16 * 16;
  return std::min(tilesOf(grid), std::max<int64_t>(64, fitting));
}

WinogradTiles tiles(const PictureGrid& grid, int64_t channels, int64_t run, int64_t first) {
  return {grid.height,          grid.width, channels, first, std::min(run, tilesOf(grid) - first),
          run * channels + kGap};
}

}  // namespace

bool WinogradKernel::pays(const PictureGrid& grid, int64_t in, int64_t out) {
  return std::min(in, out) >= 16 && tilesOf(grid) >= 64 && grid.height >= 2 && grid.width >= 2;
}

WinogradKernel::WinogradKernel(Tape& tape, const float* weight, int64_t out, int64_t in)
    : tape_(tape), out_(out), in_(in), planes_(tape.empty({kWinogradPlanes, out * in + kGap})) {
  backend().winograd.kernel(weight, out, in, planes_.f32(), planes_.columns());
}

void WinogradKernel::run(const PictureGrid& grid, const float* from, bool back, const float* bias,
                         const float* residual, float* to) {
  const int64_t fromChannels = back ? out_ : in_, toChannels = back ? in_ : out_;
  const int64_t run = runOf(grid, std::max(fromChannels, toChannels));
  const Tensor before = tape_.empty({kWinogradPlanes, run * fromChannels + kGap});
  const Tensor after = tape_.empty({kWinogradPlanes, run * toChannels + kGap});
  for (int64_t first = 0; first < tilesOf(grid); first += run) {
    const WinogradTiles left = tiles(grid, fromChannels, run, first),
                        right = tiles(grid, toChannels, run, first);
    backend().winograd.input(left, from, before.f32());
    for (int64_t plane = 0; plane < kWinogradPlanes; ++plane) {
      // A kernel with its taps reversed has the same planes with the first and the last row and column
      // swapped.
      const auto swapped = [](int64_t i) { return i == 0 ? int64_t{3} : i == 3 ? int64_t{0} : i; };
      const int64_t used = back ? swapped(plane / 4) * 4 + swapped(plane % 4) : plane;
      Product product{};
      product.m = left.count;
      product.n = toChannels;
      product.k = fromChannels;
      product.a = {before.f32() + plane * left.plane, DType::f32, fromChannels, false};
      product.b = {planes_.f32() + used * planes_.columns(), DType::f32, in_, !back};
      product.c = after.f32() + plane * right.plane;
      product.cStride = toChannels;
      backend().product.multiply(product);
    }
    backend().winograd.output(right, after.f32(), bias, residual, to);
  }
}

void WinogradKernel::forward(const PictureGrid& grid, const float* x, const float* bias,
                             const float* residual, float* y) {
  run(grid, x, false, bias, residual, y);
}

void WinogradKernel::inputGradient(const PictureGrid& grid, const float* dy, float* dx, bool accumulate) {
  run(grid, dy, true, nullptr, accumulate ? dx : nullptr, dx);
}

void winogradKernelGradient(Tape& tape, const PictureGrid& grid, const float* x, const float* dy, int64_t out,
                            int64_t in, float* dWeight, bool accumulate) {
  const int64_t run = std::min<int64_t>(tilesOf(grid), 512);
  const Tensor right = tape.empty({kWinogradPlanes, run * in + kGap});
  const Tensor left = tape.empty({kWinogradPlanes, run * out + kGap});
  const Tensor gradient = tape.empty({kWinogradPlanes, out * in + kGap});
  for (int64_t first = 0; first < tilesOf(grid); first += run) {
    const WinogradTiles inputs = tiles(grid, in, run, first), outputs = tiles(grid, out, run, first);
    backend().winograd.input(inputs, x, right.f32());
    backend().winograd.upstream(outputs, dy, left.f32());
    for (int64_t plane = 0; plane < kWinogradPlanes; ++plane) {
      Product product{};
      product.m = out;
      product.n = in;
      product.k = inputs.count;
      product.a = {left.f32() + plane * outputs.plane, DType::f32, out, true};
      product.b = {right.f32() + plane * inputs.plane, DType::f32, in, false};
      product.c = gradient.f32() + plane * gradient.columns();
      product.cStride = in;
      product.accumulate = first > 0;
      backend().product.multiply(product);
    }
  }
  backend().winograd.kernelGradient(gradient.f32(), gradient.columns(), out, in, dWeight, accumulate);
}

}  // namespace duet
