#include "ops/dry_run.h"

namespace duet {

namespace {

template <typename Result, typename... Arguments>
void silence(Result (*&kernel)(Arguments...)) {
  kernel = [](Arguments...) -> Result { return Result(); };
}

template <typename... Kernels>
void silenceAll(Kernels&... kernels) {
  (silence(kernels), ...);
}

/// A size in the place of a matrix; nothing but packedBytes looks into it.
std::shared_ptr<PackedMatrix> packSize(const Matrix&, int64_t k, int64_t n, DType dtype) {
  const auto size = std::make_shared<size_t>(static_cast<size_t>(k * n) * sizeOf(dtype));
  return {size, reinterpret_cast<PackedMatrix*>(size.get())};
}

size_t sizeOfPacked(const PackedMatrix& packed) { return reinterpret_cast<const size_t&>(packed); }

/// The backend of this machine with silent kernels.
const Backend& silent() {
  static const Backend made = [] {
    Backend b = backend();
    b.name = "dry run";
    silence(b.product.multiply);
    b.product.pack = packSize;
    b.product.packedBytes = sizeOfPacked;
    silenceAll(b.norm.forward, b.norm.backward, b.norm.rmsForward);
    silenceAll(b.activation.forward, b.activation.backward);
    silenceAll(b.attention.forward, b.attention.backward);
    ElementwiseKernels& e = b.elementwise;
    silenceAll(e.convert, e.add, e.multiply, e.scale, e.columnSum, e.gatherRows, e.addRows, e.dropout);
    silenceAll(b.embedding.forward, b.embedding.backward);
    LossKernels& l = b.loss;
    silenceAll(l.distillation, l.binary, l.crossEntropy, l.softmax, l.softmaxBackward);
    silenceAll(b.optimizer.adamw, b.optimizer.squareSum);
    silenceAll(b.convolution.gatherPatches, b.convolution.exchangeKernel);
    silenceAll(b.groupNorm.forward, b.groupNorm.backward);
    ResampleKernels& r = b.resample;
    silenceAll(r.upsample, r.upsampleBackward, r.averagePool, r.averagePoolBackward);
    silenceAll(b.temporalAttention.forward, b.temporalAttention.backward);
    silenceAll(b.detail.forward, b.detail.backward, b.detail.weightedSum, b.detail.weightedSumBackward);
    silenceAll(b.gated.forward, b.gated.backward, b.gated.copyColumns);
    silenceAll(b.noise.maskedSquaredError, b.noise.timeEmbedding, b.noise.movingAverage);
    return b;
  }();
  return made;
}

}  // namespace

DryRun::DryRun() : before_(replaceBackend(&silent())) {}
DryRun::~DryRun() { replaceBackend(before_); }

}  // namespace duet
