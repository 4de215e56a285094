#include "ops/convolution.h"

#include "gpu/rows.h"
#include "ops/kernels.h"

namespace duet::gpu {
namespace {

/// Where a tap lands in x along one axis, or -1 outside. Strides are 1 and 2.
DUET_DEVICE int landing(int position, int tap, int extent, int stride, int padding, bool transposed) {
  int at = position * stride + tap - padding;
  if (transposed) {
    const int shifted = position + padding - tap;
    if (shifted < 0 || shifted % stride != 0) return -1;
    at = shifted / stride;
  }
  return at >= 0 && at < extent ? at : -1;
}

template <typename Unit>
void gatherPatchesAs(const PatchGather& c) {
  const int64_t units =
      c.channels * static_cast<int64_t>(sizeOf(c.dtype)) / static_cast<int64_t>(sizeof(Unit));
  const Pixels pixels(c.firstRow + c.rows, c.outHeight, c.outWidth);
  const Unit* x = static_cast<const Unit*>(c.x);
  Unit* patches = static_cast<Unit*>(c.patches);
  const int64_t firstRow = c.firstRow;
  const int height = static_cast<int>(c.height), width = static_cast<int>(c.width),
            size = static_cast<int>(c.size), stride = static_cast<int>(c.stride),
            padding = static_cast<int>(c.padding);
  const bool transposed = c.transposed;
  forRows(c.rows, units, [=] DUET_LAMBDA(int64_t row, int64_t unit) {
    const Pixel at = pixels.at(firstRow + row);
    const Unit* picture = x + at.picture * (int64_t{height} * width * units) + unit;
    Unit* to = patches + row * (size * size * units) + unit;
    for (int kh = 0; kh < size; ++kh) {
      const int y = landing(at.y, kh, height, stride, padding, transposed);
      for (int kw = 0; kw < size; ++kw, to += units) {
        const int column = landing(at.x, kw, width, stride, padding, transposed);
        *to = y < 0 || column < 0 ? Unit{} : picture[(int64_t{y} * width + column) * units];
      }
    }
  });
}

void gatherPatches(const PatchGather& c) {
  const int64_t rowBytes = c.channels * static_cast<int64_t>(sizeOf(c.dtype));
  if (inVectors(rowBytes, 16, {c.x, c.patches}))
    gatherPatchesAs<uint4>(c);
  else if (c.dtype == DType::bf16)
    gatherPatchesAs<uint16_t>(c);
  else
    gatherPatchesAs<uint32_t>(c);
}

template <int V, typename Y>
void sumPatchesAs(const PatchSum& c) {
  const int64_t rows = c.pictures * c.height * c.width, units = c.channels / V;
  const Pixels pixels(rows, c.height, c.width);
  const float* patches = c.patches;
  Y* y = static_cast<Y*>(c.y);
  const int height = static_cast<int>(c.patchHeight), width = static_cast<int>(c.patchWidth),
            size = static_cast<int>(c.size), stride = static_cast<int>(c.stride),
            padding = static_cast<int>(c.padding);
  const bool accumulate = c.accumulate;
  forRows(rows, units, [=] DUET_LAMBDA(int64_t row, int64_t unit) {
    const Pixel at = pixels.at(row);
    Y* to = y + (row * units + unit) * V;
    Numbers<V> sum{};
    if (accumulate) sum = loadNumbers<V>(to);
    for (int kh = 0; kh < size; ++kh) {
      const int line = landing(at.y, kh, height, stride, padding, true);
      for (int kw = 0; kw < size; ++kw) {
        const int column = landing(at.x, kw, width, stride, padding, true);
        if (line < 0 || column < 0) continue;
        const int64_t patch = (int64_t{at.picture} * height + line) * width + column;
        const Numbers<V> term =
            loadNumbers<V>(patches + ((patch * size * size + kh * size + kw) * units + unit) * V);
        for (int k = 0; k < V; ++k) sum.of[k] += term.of[k];
      }
    }
    storeNumbers<V>(to, sum);
  });
}

void sumPatches(const PatchSum& c) {
  const bool vectors = inVectors(c.channels, 4, {c.patches, c.y});
  if (c.yType == DType::bf16)
    vectors ? sumPatchesAs<4, bf16>(c) : sumPatchesAs<1, bf16>(c);
  else
    vectors ? sumPatchesAs<4, float>(c) : sumPatchesAs<1, float>(c);
}

}  // namespace

ConvolutionKernels convolutionKernels() { return {gatherPatches, sumPatches}; }

}  // namespace duet::gpu
