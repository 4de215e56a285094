#include "ops/winograd.h"

#include <omp.h>

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

/// Most tiles in a run of the gradient of the kernel: a fixed number, since its sums are joined run by run;
/// and the outputs that are worked on together.
constexpr int64_t kGradientRun = 192;
constexpr int64_t kGradientRows = 8 * kProductRows;

int64_t padded(int64_t channels) { return roundUp(channels, kLanes); }

/// Tiles of a run, at most so many, where all runs are about equal.
int64_t evenRun(int64_t tiles, int64_t most) {
  const int64_t runs = (tiles + most - 1) / most;
  return (tiles + runs - 1) / runs;
}

/// Calls work(integral constant) with the tile side as a constant.
template <typename Work>
auto withSide(int64_t side, Work work) {
  return side == 4 ? work(std::integral_constant<int, 4>{}) : work(std::integral_constant<int, 2>{});
}

// A transformed kernel from K to N channels: planes, tiles of kProductColumns outputs, K rows of them.
int64_t kernelPlane(int64_t from, int64_t to) { return from * roundUp(to, kProductColumns) + kPlaneGap; }

int64_t kernelFloats(int64_t side, int64_t in, int64_t out) {
  return (side + 2) * (side + 2) * std::max(kernelPlane(in, out), kernelPlane(out, in));
}

float* packedAt(float* kernel, int64_t from, int64_t k, int64_t n) {
  return kernel + (n / kProductColumns * from + k) * kProductColumns + n % kProductColumns;
}

/// Outputs side by side: blocks of as many outputs as lanes are transposed.
template <int Side>
void transformForward(const float* weight, int64_t in, int64_t out, float* kernel) {
  const int64_t plane = kernelPlane(in, out);
#pragma omp parallel for schedule(static)
  for (int64_t o = 0; o < out; o += kLanes)
    for (int64_t i = 0; i < in; i += kLanes) {
      const int64_t lanes = in - i < kLanes ? in - i : kLanes;
      Vec taps[9][kLanes];
      for (int64_t tap = 0; tap < 9; ++tap) {
        for (int64_t k = 0; k < kLanes; ++k)
          taps[tap][k] = o + k < out ? loadSome(weight + ((o + k) * 9 + tap) * in + i, lanes) : Vec{};
        transpose(taps[tap]);
      }
      for (int64_t k = 0; k < lanes; ++k)
        kernelTile<Side>([&](int tap) { return taps[tap][k]; }, packedAt(kernel, in, i + k, o), plane);
    }
}

/// Inputs side by side, taps reversed.
template <int Side>
void transformBack(const float* weight, int64_t in, int64_t out, float* kernel) {
  const int64_t plane = kernelPlane(out, in);
#pragma omp parallel for schedule(static)
  for (int64_t o = 0; o < out; ++o)
    eachVector(in, [&](int64_t i, auto lanes) {
      const float* taps = weight + o * 9 * in + i;
      kernelTile<Side>([&](int tap) { return loadSome(taps + (8 - tap) * in, lanes); },
                       packedAt(kernel, out, o, i), plane);
    });
}

void transformKernel(int64_t side, const float* weight, int64_t in, int64_t out, bool back, float* kernel) {
  withSide(side, [&](auto constant) {
    back ? transformBack<constant>(weight, in, out, kernel)
         : transformForward<constant>(weight, in, out, kernel);
  });
}

template <int Side>
void convolveTiles(const WinogradConvolution& c) {
  constexpr int64_t kPlanes = TileRun<Side>::kPlanes;
  const int64_t in = padded(c.in), out = padded(c.out), tiles = c.shape.tiles();
  // As many runs for every thread.
  const int64_t fitting = std::max<int64_t>(kRunBytes / (kPlanes * (in + out) * 4), 4 * kProductRows);
  const int64_t runs = std::min(tiles, roundUp((tiles + fitting - 1) / fitting, omp_get_max_threads()));
  const int64_t run = (tiles + runs - 1) / runs;
  const Scratch scratch(kPlanes * (run * (in + out) + 2 * kPlaneGap));
  const std::vector<float> zeros(static_cast<size_t>(c.in));
#pragma omp parallel
  {
    Share share(scratch);
    TileRun<Side> before{c.shape, c.in, in, run}, after{c.shape, c.out, out, run};
    float *left = share.take(kPlanes * before.plane()), *right = share.take(kPlanes * after.plane());
#pragma omp for schedule(static)
    for (int64_t first = 0; first < tiles; first += run) {
      before.first = after.first = first;
      const int64_t count = std::min(run, tiles - first);
      for (int64_t k = 0; k < count; ++k) inputTile(before, k, c.x, zeros.data(), left);
      for (int64_t p = 0; p < kPlanes; ++p)
        tileProduct({count, out, c.in, left + p * before.plane(), in, 1,
                     c.kernel + p * kernelPlane(c.in, c.out), kProductColumns, c.in * kProductColumns,
                     right + p * after.plane(), out, false});
      for (int64_t k = 0; k < count; ++k) outputTile(after, k, right, c.bias, c.residual, c.y);
    }
  }
}

void convolve(const WinogradConvolution& c) {
  withSide(c.shape.side, [&](auto side) { convolveTiles<side>(c); });
}

/// What the gradient of a kernel works on: both sides in blocks of channels as the product reads them.
template <int Side>
struct GradientPlan {
  TileRun<Side> left, right;
  int64_t sumPlane;

  GradientPlan(const WinogradPictures& shape, int64_t in, int64_t out)
      : left{shape, out, kGradientRows, evenRun(shape.tiles(), kGradientRun)},
        right{shape, in, kProductColumns, left.run},
        sumPlane(out * padded(in) + kPlaneGap) {}
};

int64_t gradientFloats(const WinogradPictures& shape, int64_t in, int64_t out) {
  return withSide(shape.side, [&](auto side) {
    const GradientPlan<side> plan(shape, in, out);
    return TileRun<side>::kPlanes * (plan.left.plane() + plan.right.plane() + plan.sumPlane);
  });
}

template <int Side>
void gradientOfTiles(const WinogradGradient& c) {
  constexpr int64_t kPlanes = TileRun<Side>::kPlanes;
  GradientPlan<Side> plan(c.shape, c.in, c.out);
  TileRun<Side>&left = plan.left, &right = plan.right;
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
      kernelGradientTile<Side>(sums + o * in + i, sumPlane, c.in, lanes, c.dWeight + o * 9 * c.in + i,
                               c.accumulate);
    });
}

void gradient(const WinogradGradient& c) {
  withSide(c.shape.side, [&](auto side) { gradientOfTiles<side>(c); });
}

}  // namespace

WinogradKernels winogradKernels() {
  return {kernelFloats, transformKernel, convolve, gradientFloats, gradient};
}

}  // namespace duet::cpu::DUET_ISA
