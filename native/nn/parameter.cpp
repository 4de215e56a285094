#include "nn/parameter.h"

#include <sys/mman.h>
#include <unistd.h>

#include "ops/kernels.h"

namespace duet {

void Parameter::changed() { ++version_; }

void Parameter::own() {
  if (!borrowed) return;
  Tensor copy = Tensor::zeros(value.shape());
  std::memcpy(copy.raw(), value.raw(), value.bytes());
  value = copy;
  borrowed = false;
}

void Parameter::dropPages() const {
  if (!borrowed) return;
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<uintptr_t>(value.raw());
  const uintptr_t begin = (address + page - 1) / page * page, end = (address + value.bytes()) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

float* Parameter::gradientTarget(bool& accumulate) {
  if (!gradient.defined()) gradient = Tensor::zeros(value.shape());
  accumulate = hasGradient;
  hasGradient = true;
  return gradient.f32();
}

// The stored matrix as B of a product: forward wants in x out, backward out x in.
Matrix Weights::plain(bool transposedUse) const {
  const int64_t columns = in();
  return {parameter->f32() + firstRow * columns, DType::f32, columns, transposedUse};
}

void Weights::fill(Product& product, DType compute, Packed& packed, bool transposedUse) {
  product.b = plain(transposedUse);
  product.n = transposedUse ? out() : in();
  product.k = transposedUse ? in() : out();
  // Rows a multiple of 4 KiB apart fall into the same cache sets when read down a column block.
  const bool colliding = !transposedUse && product.k >= 64 && in() * 4 % 4096 == 0;
  if (compute == DType::f32 && !colliding) return;
  if (packed.version != parameter->version_) {
    packed.matrix = backend().product.pack(product.b, product.k, product.n, compute);
    packed.version = parameter->version_;
    if (forward_.matrix && backward_.matrix) parameter->dropPages();
  }
  product.b.dtype = compute;
  product.packedB = packed.matrix.get();
}

void Weights::forward(Product& product, DType compute) { fill(product, compute, forward_, true); }
void Weights::backward(Product& product, DType compute) { fill(product, compute, backward_, false); }

void Weights::releasePacked(DType compute) {
  if (compute == DType::f32) backward_ = {};
}

size_t Weights::packedBytes() const {
  size_t bytes = 0;
  for (const Packed* packed : {&forward_, &backward_})
    if (packed->matrix) bytes += backend().product.packedBytes(*packed->matrix);
  return bytes;
}

}  // namespace duet
