#include "ops/resample.h"

#include "gpu/rows.h"
#include "ops/kernels.h"

namespace duet::gpu {
namespace {

template <typename Unit>
void upsampleAs(const Resample& c) {
  const int64_t units =
      c.channels * static_cast<int64_t>(sizeOf(c.xType)) / static_cast<int64_t>(sizeof(Unit));
  const int64_t rows = c.pictures * c.outHeight * c.outWidth;
  const Pixels pixels(rows, c.outHeight, c.outWidth);
  const Divisor outHeight(c.outHeight), outWidth(c.outWidth);
  const Unit* x = static_cast<const Unit*>(c.x);
  Unit* y = static_cast<Unit*>(c.y);
  const auto height = static_cast<unsigned>(c.height), width = static_cast<unsigned>(c.width);
  forRows(rows, units, [=] DUET_LAMBDA(int64_t row, int64_t unit) {
    const Pixel to = pixels.at(row);
    const int64_t i = outHeight.of(static_cast<unsigned>(to.y) * height),
                  j = outWidth.of(static_cast<unsigned>(to.x) * width);
    y[row * units + unit] = x[((to.picture * int64_t{height} + i) * width + j) * units + unit];
  });
}

void upsample(const Resample& c) {
  const int64_t rowBytes = c.channels * static_cast<int64_t>(sizeOf(c.xType));
  if (inVectors(rowBytes, 16, {c.x, c.y}))
    upsampleAs<uint4>(c);
  else if (c.xType == DType::bf16)
    upsampleAs<uint16_t>(c);
  else
    upsampleAs<uint32_t>(c);
}

/// Calls `work` with the types of x and y and with how many numbers it may take at a time.
template <typename Work>
void asTypes(const Resample& c, Work work) {
  const auto withCount = [&](auto x, auto y) {
    if (inVectors(c.channels, 4, {c.x, c.y}))
      work(x, y, std::integral_constant<int, 4>{});
    else
      work(x, y, std::integral_constant<int, 1>{});
  };
  if (c.xType == DType::bf16)
    c.yType == DType::bf16 ? withCount(bf16{}, bf16{}) : withCount(bf16{}, 0.0f);
  else
    c.yType == DType::bf16 ? withCount(0.0f, bf16{}) : withCount(0.0f, 0.0f);
}

template <int V, typename T>
DUET_DEVICE void storeSum(T* to, Numbers<V> sum, bool accumulate) {
  if (accumulate) {
    const Numbers<V> before = loadNumbers<V>(to);
    for (int k = 0; k < V; ++k) sum.of[k] += before.of[k];
  }
  storeNumbers<V>(to, sum);
}

/// First i with floor(i * small / large) >= source.
DUET_DEVICE int firstOf(int source, int small, int large, const Divisor& bySmall) {
  return static_cast<int>(bySmall.of(static_cast<unsigned>(source * large + small - 1)));
}

template <int V, typename X, typename Y>
void upsampleBackwardAs(const Resample& c) {
  const int64_t rows = c.pictures * c.outHeight * c.outWidth, units = c.channels / V;
  const Pixels pixels(rows, c.outHeight, c.outWidth);
  const Divisor outHeight(c.outHeight), outWidth(c.outWidth);
  const X* x = static_cast<const X*>(c.x);
  Y* y = static_cast<Y*>(c.y);
  const int height = static_cast<int>(c.height), width = static_cast<int>(c.width),
            small = static_cast<int>(c.outHeight), narrow = static_cast<int>(c.outWidth);
  const bool accumulate = c.accumulate;
  forRows(rows, units, [=] DUET_LAMBDA(int64_t row, int64_t unit) {
    const Pixel to = pixels.at(row);
    Numbers<V> sum{};
    const int lastLine = firstOf(to.y + 1, small, height, outHeight),
              firstColumn = firstOf(to.x, narrow, width, outWidth),
              lastColumn = firstOf(to.x + 1, narrow, width, outWidth);
    for (int a = firstOf(to.y, small, height, outHeight); a < lastLine; ++a)
      for (int b = firstColumn; b < lastColumn; ++b) {
        const int64_t from = (int64_t{to.picture} * height + a) * width + b;
        const Numbers<V> term = loadNumbers<V>(x + (from * units + unit) * V);
        for (int k = 0; k < V; ++k) sum.of[k] += term.of[k];
      }
    storeSum<V>(y + (row * units + unit) * V, sum, accumulate);
  });
}

void upsampleBackward(const Resample& c) {
  asTypes(c, [&](auto x, auto y, auto count) {
    upsampleBackwardAs<decltype(count)::value, decltype(x), decltype(y)>(c);
  });
}

template <int V, typename X, typename Y>
void averagePoolAs(const Resample& c) {
  const int64_t rows = c.pictures * c.outHeight * c.outWidth, units = c.channels / V;
  const Pixels pixels(rows, c.outHeight, c.outWidth);
  const X* x = static_cast<const X*>(c.x);
  Y* y = static_cast<Y*>(c.y);
  const int64_t height = c.height, width = c.width;
  forRows(rows, units, [=] DUET_LAMBDA(int64_t row, int64_t unit) {
    const Pixel to = pixels.at(row);
    const X* from = x + (((to.picture * height + 2 * to.y) * width + 2 * to.x) * units + unit) * V;
    const int64_t right = units * V, down = width * right;
    const Numbers<V> a = loadNumbers<V>(from), b = loadNumbers<V>(from + right),
                     d = loadNumbers<V>(from + down), e = loadNumbers<V>(from + down + right);
    Numbers<V> mean;
    for (int k = 0; k < V; ++k) mean.of[k] = 0.25f * ((a.of[k] + b.of[k]) + (d.of[k] + e.of[k]));
    storeNumbers<V>(y + (row * units + unit) * V, mean);
  });
}

void averagePool(const Resample& c) {
  asTypes(c, [&](auto x, auto y, auto count) {
    averagePoolAs<decltype(count)::value, decltype(x), decltype(y)>(c);
  });
}

template <int V, typename X, typename Y>
void averagePoolBackwardAs(const Resample& c) {
  const int64_t rows = c.pictures * c.outHeight * c.outWidth, units = c.channels / V;
  const Pixels pixels(rows, c.outHeight, c.outWidth);
  const X* x = static_cast<const X*>(c.x);
  Y* y = static_cast<Y*>(c.y);
  const int64_t height = c.height, width = c.width;
  const bool accumulate = c.accumulate;
  forRows(rows, units, [=] DUET_LAMBDA(int64_t row, int64_t unit) {
    const Pixel to = pixels.at(row);
    const int i = to.y / 2, j = to.x / 2;
    const bool inside = i < height && j < width;
    if (!inside && accumulate) return;
    Numbers<V> share{};
    if (inside) share = loadNumbers<V>(x + (((to.picture * height + i) * width + j) * units + unit) * V);
    for (int k = 0; k < V; ++k) share.of[k] *= 0.25f;
    storeSum<V>(y + (row * units + unit) * V, share, accumulate);
  });
}

void averagePoolBackward(const Resample& c) {
  asTypes(c, [&](auto x, auto y, auto count) {
    averagePoolBackwardAs<decltype(count)::value, decltype(x), decltype(y)>(c);
  });
}

}  // namespace

ResampleKernels resampleKernels() { return {upsample, upsampleBackward, averagePool, averagePoolBackward}; }

}  // namespace duet::gpu
