// The yardstick of docs/performance.md: how fast this machine multiplies matrices.
#include <algorithm>
#include <chrono>
#include <vector>

#include "core/memory.h"
#include "core/philox.h"
#include "nn/registry.h"
#include "ops/kernels.h"

namespace duet {

namespace {

void fillWithNormals(const Tensor& tensor, const Philox& generator) {
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  fillNormal(values.data(), tensor.elements(), 1.0f, generator);
  currentMemory().copyIn(tensor.raw(), values.data(), tensor.bytes());
}

}  // namespace

double productRate(int64_t m, int64_t n, int64_t k, DType dtype) {
  for (int64_t size : {m, n, k})
    require(size >= 1 && size <= 65536, "Expected sizes from 1 to 65536 but received ", size);
  require(dtype == DType::f32 || dtype == DType::bf16, "Expected f32 or bf16 but received ", nameOf(dtype));
  Tensor a = Tensor::zeros({m, k}, dtype), b = Tensor::zeros({k, n}), c = Tensor::zeros({m, n}, dtype);
  Tensor values = Tensor::zeros({m, k});
  fillWithNormals(values, {1, 1});
  fillWithNormals(b, {1, 2});
  backend().elementwise.convert(values.raw(), DType::f32, a.raw(), dtype, a.elements());
  const auto packed = backend().product.pack({b.f32(), k, n, n}, dtype, nullptr);
  Product product{};
  product.m = m;
  product.n = n;
  product.k = k;
  product.a = {a.raw(), dtype, k, false};
  product.b = {nullptr, dtype, n, false};
  product.packedB = packed.get();
  product.c = c.raw();
  product.cType = dtype;
  product.cStride = n;
  double best = 0;
  for (int repeat = 0; repeat < 12; ++repeat) {
    const auto begin = std::chrono::steady_clock::now();
    backend().product.multiply(product);
    uint16_t first;
    currentMemory().copyOut(&first, c.raw(), sizeof(first));  // waits for a device
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    best = std::max(best, 2.0 * static_cast<double>(m * n) * static_cast<double>(k) / seconds * 1e-9);
  }
  return best;
}

}  // namespace duet
