#include "nn/parameter.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "ops/kernels.h"

namespace duet {

void Parameter::changed() { ++version_; }

void Parameter::own() {
  if (!parts.empty()) {
    int64_t row = 0;
    for (const Tensor& part : parts) {
      const int64_t end = row + part.dim(0);
      currentMemory().copy(value.rows(row, end).raw(), part.raw(), part.bytes());
      row = end;
    }
    parts.clear();
  }
  if (!borrowed) return;
  Tensor copy = Tensor::zeros(value.shape());
  currentMemory().copy(copy.raw(), value.raw(), value.bytes());
  value = copy;
  borrowed = false;
}

void Parameter::forgetGradient() {
  hasGradient = false;
  if (gradientArena) gradient = {};
}

namespace {

void dropPagesOf(const Tensor& mapped) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<uintptr_t>(mapped.raw());
  const uintptr_t begin = (address + page - 1) / page * page, end = (address + mapped.bytes()) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace

void Parameter::dropPages() const {
  if (borrowed) dropPagesOf(value);
  for (const Tensor& part : parts) dropPagesOf(part);
}

Tensor Parameter::block(int64_t first, int64_t count) const {
  if (parts.empty()) return value.rows(first, first + count);
  int64_t row = 0;
  for (const Tensor& part : parts) {
    if (first < row + part.dim(0)) return part.rows(first - row, std::min(first - row + count, part.dim(0)));
    row += part.dim(0);
  }
  fail(Code::Internal, "Row ", first, " is not in ", name);
}

Tensor Parameter::stacked(int64_t first, int64_t count) const {
  const Tensor begin = block(first, count);
  if (begin.dim(0) == count) return begin;
  Shape shape = value.shape();
  shape[0] = count;
  Tensor copy = Tensor::zeros(shape);
  for (int64_t done = 0; done < count;) {
    const Tensor next = block(first + done, count - done);
    currentMemory().copy(copy.rows(done, done + next.dim(0)).raw(), next.raw(), next.bytes());
    done += next.dim(0);
  }
  return copy;
}

float* Parameter::gradientTarget(bool& accumulate) {
  if (!gradient.defined())
    gradient = gradientArena ? gradientArena->empty(value.shape()) : Tensor::zeros(value.shape());
  accumulate = hasGradient;
  hasGradient = true;
  return gradient.f32();
}

// The stored matrix is B of a product: forward wants it in x out, backward out x in.
void Weights::fill(Product& product, DType compute, Packed& packed, bool transposedUse, int64_t& done) {
  PackSource source{nullptr, transposedUse ? in() : rows, transposedUse ? rows : in(), in(), transposedUse};
  const bool packs = backend().product.wantsPacked(source, compute);
  if (packs && packed.version != parameter->version_) {
    const Tensor whole = parameter->stacked(firstRow, rows);
    source.data = whole.f32();
    packed.matrix = backend().product.pack(source, compute, lender_);
    packed.version = parameter->version_;
    if (compute != DType::f32) parameter->dropPages();
  }
  int64_t count = rows;
  if (packs) {
    product.b = {nullptr, compute, in(), transposedUse};
    product.packedB = packed.matrix.get();
  } else {
    const Tensor next = parameter->block(firstRow + done, rows - done);
    product.b = {next.raw(), DType::f32, in(), transposedUse};
    count = next.dim(0);
  }
  product.n = transposedUse ? count : in();
  product.k = transposedUse ? in() : count;
  done += count;
}

void Weights::forward(Product& product, DType compute, int64_t& done) {
  fill(product, compute, forward_, true, done);
}
void Weights::backward(Product& product, DType compute, int64_t& done) {
  fill(product, compute, backward_, false, done);
}

StepPacks::StepPacks(Arena* arena, DType compute, std::initializer_list<Weights*> weights) {
  if (!arena) return;
  size_t count = 0;
  for (Weights* w : weights) {
    if (!w->parameter->trainable && compute != DType::f32) continue;
    w->lender_ = arena;
    lent_.at(count++) = w;
  }
}

StepPacks::~StepPacks() {
  for (Weights* w : lent_) {
    if (!w) continue;
    w->lender_ = nullptr;
    w->forward_ = w->backward_ = {};
  }
}

size_t Weights::packedBytes() const {
  size_t bytes = 0;
  for (const Packed* packed : {&forward_, &backward_})
    if (packed->matrix) bytes += backend().product.packedBytes(*packed->matrix);
  return bytes;
}

}  // namespace duet
