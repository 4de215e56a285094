#include "ops/elementwise.h"

#include "core/philox.h"
#include "gpu/column_sum.h"
#include "gpu/kernel.h"
#include "ops/kernels.h"

namespace duet::gpu {
namespace {

template <typename A, typename B>
void convertAs(const void* from, void* to, int64_t count) {
  const A* a = static_cast<const A*>(from);
  B* b = static_cast<B*>(to);
  forEach(count, [=] DUET_LAMBDA(int64_t i) { storeAs(b, i, loadAs(a, i)); });
}

void convert(const void* from, DType fromType, void* to, DType toType, int64_t count) {
  const bool fromHalf = fromType == DType::bf16, toHalf = toType == DType::bf16;
  if (fromHalf && toHalf)
    convertAs<bf16, bf16>(from, to, count);
  else if (fromHalf)
    convertAs<bf16, float>(from, to, count);
  else if (toHalf)
    convertAs<float, bf16>(from, to, count);
  else
    convertAs<float, float>(from, to, count);
}

void add(const float* a, const float* b, float* y, int64_t count) {
  forEach(count, [=] DUET_LAMBDA(int64_t i) { y[i] = a[i] + b[i]; });
}

template <typename T>
void multiplyAs(const void* a, const void* b, void* y, int64_t count) {
  const T *left = static_cast<const T*>(a), *right = static_cast<const T*>(b);
  T* product = static_cast<T*>(y);
  forEach(count, [=] DUET_LAMBDA(int64_t i) { storeAs(product, i, loadAs(left, i) * loadAs(right, i)); });
}

void multiply(const void* a, const void* b, void* y, DType dtype, int64_t count) {
  dtype == DType::bf16 ? multiplyAs<bf16>(a, b, y, count) : multiplyAs<float>(a, b, y, count);
}

void scale(const float* x, float factor, float* y, int64_t count, bool accumulate) {
  if (accumulate)
    forEach(count, [=] DUET_LAMBDA(int64_t i) { y[i] += factor * x[i]; });
  else
    forEach(count, [=] DUET_LAMBDA(int64_t i) { y[i] = factor * x[i]; });
}

template <typename T>
void columnSumAs(const void* from, int64_t rows, int64_t columns, int64_t stride, float* out,
                 bool accumulate) {
  const T* x = static_cast<const T*>(from);
  sumColumns<1>(
      rows, columns,
      [=] DUET_LAMBDA(int64_t row, int64_t j, float(&sum)[1]) { sum[0] += loadAs(x, row * stride + j); },
      [=] DUET_LAMBDA(int64_t, int64_t j, const float(&sum)[1]) {
        out[j] = (accumulate ? out[j] : 0.0f) + sum[0];
      });
}

void columnSum(const void* x, DType dtype, int64_t rows, int64_t columns, int64_t stride, float* out,
               bool accumulate) {
  dtype == DType::bf16 ? columnSumAs<bf16>(x, rows, columns, stride, out, accumulate)
                       : columnSumAs<float>(x, rows, columns, stride, out, accumulate);
}

template <typename Unit>
void gatherRowsAs(const void* x, const int32_t* index, void* y, int64_t rows, int64_t rowBytes) {
  const Unit* from = static_cast<const Unit*>(x);
  Unit* to = static_cast<Unit*>(y);
  const int64_t units = rowBytes / static_cast<int64_t>(sizeof(Unit));
  forEach(rows * units, [=] DUET_LAMBDA(int64_t i) { to[i] = from[index[i / units] * units + i % units]; });
}

void gatherRows(const void* x, const int32_t* index, void* y, int64_t rows, int64_t rowBytes) {
  const Upload<int32_t> there(index, rows);
  const auto places =
      reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(y) | static_cast<uintptr_t>(rowBytes);
  if (places % 16 == 0)
    gatherRowsAs<uint4>(x, there.data(), y, rows, rowBytes);
  else if (places % 4 == 0)
    gatherRowsAs<uint32_t>(x, there.data(), y, rows, rowBytes);
  else
    gatherRowsAs<uint8_t>(x, there.data(), y, rows, rowBytes);
}

void addRows(const float* x, const int32_t* index, float* y, int64_t rows, int64_t columns) {
  const Upload<int32_t> there(index, rows);
  const int32_t* places = there.data();
  forEach(rows * columns,
          [=] DUET_LAMBDA(int64_t i) { y[places[i / columns] * columns + i % columns] += x[i]; });
}

void dropout(const float* x, float* y, int64_t count, float probability, uint64_t seed, uint64_t stream) {
  const float kept = 1.0f / (1.0f - probability);
  forEach((count + 3) / 4, [=] DUET_LAMBDA(int64_t draw) {
    const auto words = Philox{seed, stream}.words(static_cast<uint64_t>(draw));
    for (int64_t i = 4 * draw; i < 4 * draw + 4 && i < count; ++i)
      y[i] = Philox::uniform(words[static_cast<size_t>(i % 4)]) >= probability ? x[i] * kept : 0.0f;
  });
}

}  // namespace

ElementwiseKernels elementwiseKernels() {
  return {convert, add, multiply, scale, columnSum, gatherRows, addRows, dropout};
}

}  // namespace duet::gpu
