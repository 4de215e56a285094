#include "ops/winograd.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "ops/kernels.h"
#include "ops/scratch.h"
#include "ops/tile_product.h"
#include "ops/transpose.h"
#include "ops/winograd_tiles.h"

namespace duet::cpu::DUET_ISA {
namespace {

/// Bytes that the planes of a run of tiles may take before and after the products, so that they stay in
/// cache.
constexpr int64_t kRunBytes = 768 * 1024;

/// Tiles of a run in the gradient of the kernel: a fixed number, since its sums are joined run by run,
/// and the outputs that are worked on together.
constexpr int64_t kGradientRun = 192;
constexpr int64_t kGradientRows = 8 * kProductRows;

int64_t padded(int64_t channels) { return roundUp(channels, kLanes); }

// A transformed kernel from K to N channels: planes, tiles of kProductColumns outputs, K rows of them.
int64_t kernelPlane(int64_t from, int64_t to) { return from * roundUp(to, kProductColumns) + kPlaneGap; }

int64_t kernelFloats(int64_t in, int64_t out) {
  return kPlanes * std::max(kernelPlane(in, out), kernelPlane(out, in));
}

float* packedAt(float* kernel, int64_t from, int64_t k, int64_t n) {
  return kernel + (n / kProductColumns * from + k) * kProductColumns + n % kProductColumns;
}

/// Outputs side by side: blocks of as many outputs as lanes are transposed.
void transformForward(const float* weight, int64_t in, int64_t out, float* kernel) {
  const int64_t plane = kernelPlane(in, out);
#pragma omp parallel for schedule(static)
  for (int64_t o = 0; o < out; o += kLanes)
    for (int64_t i = 0; i < in; i += kLanes) {
      const int64_t lanes = in - i < kLanes ? in - i : kLanes;
      Vec block[kPlanes][kLanes] = {}, planes[kPlanes];
      for (int64_t k = 0; k < kLanes && o + k < out; ++k) {
        kernelTile(weight + (o + k) * 9 * in + i, in, lanes, planes);
        for (int64_t p = 0; p < kPlanes; ++p) block[p][k] = planes[p];
      }
      for (int64_t p = 0; p < kPlanes; ++p) {
        transpose(block[p]);
        for (int64_t k = 0; k < lanes; ++k) storeVec(packedAt(kernel + p * plane, in, i + k, o), block[p][k]);
      }
    }
}

/// Inputs side by side. Reversed taps have the same planes with the first and last row and column exchanged.
void transformBack(const float* weight, int64_t in, int64_t out, float* kernel) {
  const int64_t plane = kernelPlane(out, in);
  const auto exchanged = [](int64_t i) { return i % 3 == 0 ? 3 - i : i; };
#pragma omp parallel for schedule(static)
  for (int64_t o = 0; o < out; ++o)
    for (int64_t i = 0; i < in; i += kLanes) {
      Vec planes[kPlanes];
      kernelTile(weight + o * 9 * in + i, in, in - i < kLanes ? in - i : kLanes, planes);
      for (int64_t p = 0; p < kPlanes; ++p)
        storeVec(packedAt(kernel + (exchanged(p / 4) * 4 + exchanged(p % 4)) * plane, out, o, i), planes[p]);
    }
}

void transformKernel(const float* weight, int64_t in, int64_t out, bool back, float* kernel) {
  back ? transformBack(weight, in, out, kernel) : transformForward(weight, in, out, kernel);
}

void convolve(const WinogradConvolution& c) {
  const int64_t in = padded(c.in), out = padded(c.out), tiles = c.shape.tiles();
  const int64_t fitting = kRunBytes / (kPlanes * (in + out) * 4) / kProductRows * kProductRows;
  const int64_t run = std::min(tiles, std::max<int64_t>(fitting, 4 * kProductRows));
  const int64_t runs = (tiles + run - 1) / run;
  const Scratch scratch(kPlanes * (run * (in + out) + 2 * kPlaneGap));
  const std::vector<float> zeros(static_cast<size_t>(c.in));
#pragma omp parallel
  {
    Share share(scratch);
    TileRun before{c.shape, c.in, in, run}, after{c.shape, c.out, out, run};
    float *left = share.take(kPlanes * before.plane()), *right = share.take(kPlanes * after.plane());
#pragma omp for schedule(static)
    for (int64_t index = 0; index < runs; ++index) {
      before.first = after.first = index * run;
      const int64_t count = std::min(run, tiles - before.first);
      for (int64_t k = 0; k < count; ++k) inputTile(before, k, c.x, zeros.data(), left);
      for (int64_t p = 0; p < kPlanes; ++p)
        tileProduct({count, out, c.in, left + p * before.plane(), in, 1,
                     c.kernel + p * kernelPlane(c.in, c.out), kProductColumns, c.in * kProductColumns,
                     right + p * after.plane(), out, false});
      for (int64_t k = 0; k < count; ++k) outputTile(after, k, right, c.bias, c.residual, c.y);
    }
  }
}

/// What the gradient of a kernel works on: both sides in blocks of channels as the product reads them.
struct GradientPlan {
  TileRun left, right;
  int64_t sumPlane;

  GradientPlan(const WinogradPictures& shape, int64_t in, int64_t out)
      : left{shape, out, kGradientRows, std::min(shape.tiles(), kGradientRun)},
        right{shape, in, kProductColumns, std::min(shape.tiles(), kGradientRun)},
        sumPlane(out * padded(in) + kPlaneGap) {}
};

int64_t gradientFloats(const WinogradPictures& shape, int64_t in, int64_t out) {
  const GradientPlan plan(shape, in, out);
  return kPlanes * (plan.left.plane() + plan.right.plane() + plan.sumPlane);
}

void gradient(const WinogradGradient& c) {
  GradientPlan plan(c.shape, c.in, c.out);
  TileRun &left = plan.left, &right = plan.right;
  const int64_t in = padded(c.in), tiles = c.shape.tiles(), run = left.run, sumPlane = plan.sumPlane;
  const int64_t blocks = (c.out + kGradientRows - 1) / kGradientRows;
  float *upstream = c.scratch, *inputs = upstream + kPlanes * left.plane(),
        *sums = inputs + kPlanes * right.plane();
  const std::vector<float> zeros(static_cast<size_t>(std::max(c.in, c.out)));
  for (int64_t first = 0; first < tiles; first += run) {
    left.first = right.first = first;
    const int64_t count = std::min(run, tiles - first);
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < count; ++k) {
      upstreamTile(left, k, c.dy, zeros.data(), upstream);
      inputTile(right, k, c.x, zeros.data(), inputs);
    }
#pragma omp parallel for schedule(static)
    for (int64_t item = 0; item < kPlanes * blocks; ++item) {
      const int64_t p = item / blocks, block = item % blocks, row = block * kGradientRows;
      tileProduct({std::min(kGradientRows, c.out - row), in, count,
                   upstream + p * left.plane() + block * left.block(), 1, kGradientRows,
                   inputs + p * right.plane(), kProductColumns, right.block(), sums + p * sumPlane + row * in,
                   in, first > 0});
    }
  }
#pragma omp parallel for schedule(static)
  for (int64_t o = 0; o < c.out; ++o)
    eachVector(c.in, [&](int64_t i, auto lanes) {
      kernelGradientTile(sums + o * in + i, sumPlane, c.in, lanes, c.dWeight + o * 9 * c.in + i,
                         c.accumulate);
    });
}

}  // namespace

WinogradKernels winogradKernels() {
  return {kernelFloats, transformKernel, convolve, gradientFloats, gradient};
}

}  // namespace duet::cpu::DUET_ISA
