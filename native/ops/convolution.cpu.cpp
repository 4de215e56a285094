#include "ops/convolution.h"

#include "ops/kernels.h"
#include "ops/simd.h"

namespace duet::cpu::DUET_ISA {
namespace {

/// Where a tap lands in x along one axis, or -1 outside.
inline int64_t landing(int64_t position, int64_t tap, int64_t extent, const PatchGather& c) {
  int64_t at;
  if (c.transposed) {
    const int64_t shifted = position + c.padding - tap;
    if (shifted < 0 || shifted % c.stride != 0) return -1;
    at = shifted / c.stride;
  } else {
    at = position * c.stride + tap - c.padding;
  }
  return at >= 0 && at < extent ? at : -1;
}

void gatherPatches(const PatchGather& c) {
  const size_t pixelBytes = static_cast<size_t>(c.channels) * sizeOf(c.dtype);
  const auto* x = static_cast<const char*>(c.x);
  auto* patches = static_cast<char*>(c.patches);
  const int64_t pixels = c.outHeight * c.outWidth;
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < c.rows; ++r) {
    const int64_t row = c.firstRow + r, picture = row / pixels, pixel = row % pixels;
    const int64_t y = pixel / c.outWidth, column = pixel % c.outWidth;
    char* to = patches + static_cast<size_t>(r * c.size * c.size) * pixelBytes;
    for (int64_t kh = 0; kh < c.size; ++kh) {
      const int64_t fromY = landing(y, kh, c.height, c);
      for (int64_t kw = 0; kw < c.size; ++kw, to += pixelBytes) {
        const int64_t fromX = landing(column, kw, c.width, c);
        if (fromY < 0 || fromX < 0)
          std::memset(to, 0, pixelBytes);
        else
          std::memcpy(to,
                      x + static_cast<size_t>((picture * c.height + fromY) * c.width + fromX) * pixelBytes,
                      pixelBytes);
      }
    }
  }
}

template <typename Y>
void sumPatchesAs(const PatchSum& c) {
  const int64_t n = c.channels, taps = c.size * c.size;
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < c.pictures * c.height * c.width; ++row) {
    const int64_t picture = row / (c.height * c.width);
    const int64_t i = row / c.width % c.height + c.padding, j = row % c.width + c.padding;
    const float* from[9];
    int count = 0;
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t y = i - tap / c.size, x = j - tap % c.size;
      if (y < 0 || x < 0 || y % c.stride != 0 || x % c.stride != 0) continue;
      if (y / c.stride >= c.patchHeight || x / c.stride >= c.patchWidth) continue;
      const int64_t patch = (picture * c.patchHeight + y / c.stride) * c.patchWidth + x / c.stride;
      from[count++] = c.patches + (patch * taps + tap) * n;
    }
    Y* to = static_cast<Y*>(c.y) + row * n;
    for (int64_t k = 0; k < n; k += kLanes) {
      const int64_t lanes = n - k < kLanes ? n - k : kLanes;
      Vec sum = c.accumulate ? loadSome(to + k, lanes) : Vec{};
      for (int t = 0; t < count; ++t) sum += loadSome(from[t] + k, lanes);
      storeSome(to + k, sum, lanes);
    }
  }
}

void sumPatches(const PatchSum& c) {
  c.yType == DType::bf16 ? sumPatchesAs<bf16>(c) : sumPatchesAs<float>(c);
}

}  // namespace

ConvolutionKernels convolutionKernels() { return {gatherPatches, sumPatches}; }

}  // namespace duet::cpu::DUET_ISA
