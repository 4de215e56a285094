// The device plugin: kernels and memory behind one symbol. Compiled by nvcc it is `duet-cuda.so`, as C++
// `duet-emulated.so`.
#include "gpu/plugin.h"

#include "gpu/check.h"
#include "gpu/device_memory.h"

namespace duet::gpu {

// Families that have kernels for GPUs.
__attribute__((weak)) ProductKernels productKernels();
__attribute__((weak)) NormKernels normKernels();
__attribute__((weak)) ActivationKernels activationKernels();
__attribute__((weak)) AttentionKernels attentionKernels();
__attribute__((weak)) ElementwiseKernels elementwiseKernels();
__attribute__((weak)) EmbeddingKernels embeddingKernels();
__attribute__((weak)) LossKernels lossKernels();
__attribute__((weak)) OptimizerKernels optimizerKernels();
__attribute__((weak)) ConvolutionKernels convolutionKernels();
__attribute__((weak)) GroupNormKernels groupNormKernels();
__attribute__((weak)) ResampleKernels resampleKernels();
__attribute__((weak)) TemporalAttentionKernels temporalAttentionKernels();
__attribute__((weak)) DetailKernels detailKernels();
__attribute__((weak)) GatedKernels gatedKernels();
__attribute__((weak)) NoiseKernels noiseKernels();
__attribute__((weak)) PackingKernels packingKernels();

namespace {

template <typename Result, typename... Arguments>
void fill(Result (*&kernel)(Arguments...)) {
  if (kernel) return;
  kernel = [](Arguments...) -> Result { fail(Code::Unsupported, "This kernel is not there for GPUs yet"); };
}

template <typename... Kernels>
void fillMissing(Kernels&... kernels) {
  (fill(kernels), ...);
}

Backend make() {
  Backend b{};
  b.name = kKind;
  if (productKernels) b.product = productKernels();
  if (normKernels) b.norm = normKernels();
  if (activationKernels) b.activation = activationKernels();
  if (attentionKernels) b.attention = attentionKernels();
  if (elementwiseKernels) b.elementwise = elementwiseKernels();
  if (embeddingKernels) b.embedding = embeddingKernels();
  if (lossKernels) b.loss = lossKernels();
  if (optimizerKernels) b.optimizer = optimizerKernels();
  if (convolutionKernels) b.convolution = convolutionKernels();
  if (groupNormKernels) b.groupNorm = groupNormKernels();
  if (resampleKernels) b.resample = resampleKernels();
  if (temporalAttentionKernels) b.temporalAttention = temporalAttentionKernels();
  if (detailKernels) b.detail = detailKernels();
  if (gatedKernels) b.gated = gatedKernels();
  if (noiseKernels) b.noise = noiseKernels();
  if (packingKernels) b.packing = packingKernels();
  fillMissing(b.product.multiply, b.product.pack, b.product.packedBytes, b.product.supports,
              b.product.wantsPacked, b.product.takesPatches);
  fillMissing(b.norm.forward, b.norm.backward, b.norm.rmsForward);
  fillMissing(b.activation.forward, b.activation.backward, b.attention.forward, b.attention.backward);
  fillMissing(b.embedding.forward, b.embedding.backward);
  fillMissing(b.loss.distillation, b.loss.binary, b.loss.crossEntropy, b.loss.softmax,
              b.loss.softmaxBackward);
  fillMissing(b.optimizer.adamw, b.optimizer.squareSum);
  fillMissing(b.convolution.gatherPatches, b.convolution.sumPatches);
  fillMissing(b.groupNorm.forward, b.groupNorm.backward);
  fillMissing(b.resample.upsample, b.resample.upsampleBackward, b.resample.averagePool,
              b.resample.averagePoolBackward);
  fillMissing(b.temporalAttention.forward, b.temporalAttention.backward);
  fillMissing(b.detail.forward, b.detail.backward, b.detail.weightedSum, b.detail.weightedSumBackward);
  fillMissing(b.gated.forward, b.gated.backward, b.gated.copyColumns);
  fillMissing(b.noise.maskedSquaredError, b.noise.timeEmbedding, b.noise.movingAverage);
  fillMissing(b.packing.pack);
  return b;
}

}  // namespace

}  // namespace duet::gpu

extern "C" __attribute__((visibility("default"))) const duet::DevicePlugin* duetDevicePlugin() {
  using namespace duet;
  static const Backend backend = gpu::make();
  static const Memory memory = gpu::deviceMemory();
  const auto use = [](int index) {
    gpu::useDevice(index);
    replaceMemory(&memory);  // of what the plugin itself makes
  };
  static const DevicePlugin plugin{kDeviceContract, gpu::kKind, gpu::deviceCount, gpu::describeDevice, use,
                                   &backend,        &memory,    gpu::check};
  return &plugin;
}
