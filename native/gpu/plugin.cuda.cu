// The device plugin: kernels and memory behind one symbol. Compiled by nvcc it is `duet-cuda.so`, as C++
// `duet-emulated.so`.
#include "gpu/plugin.h"

#include "gpu/check.h"
#include "gpu/device_memory.h"

namespace duet::gpu {

ProductKernels productKernels();
ProductKernels tf32ProductKernels();
NormKernels normKernels();
ActivationKernels activationKernels();
AttentionKernels attentionKernels();
ElementwiseKernels elementwiseKernels();
EmbeddingKernels embeddingKernels();
LossKernels lossKernels();
OptimizerKernels optimizerKernels();
ConvolutionKernels convolutionKernels();
GroupNormKernels groupNormKernels();
ResampleKernels resampleKernels();
TemporalAttentionKernels temporalAttentionKernels();
DetailKernels detailKernels();
GatedKernels gatedKernels();
NoiseKernels noiseKernels();

namespace {

Backend make() {
  Backend b{};
  b.name = kKind;
  b.product = productKernels();
  b.norm = normKernels();
  b.activation = activationKernels();
  b.attention = attentionKernels();
  b.elementwise = elementwiseKernels();
  b.embedding = embeddingKernels();
  b.loss = lossKernels();
  b.optimizer = optimizerKernels();
  b.convolution = convolutionKernels();
  b.groupNorm = groupNormKernels();
  b.resample = resampleKernels();
  b.temporalAttention = temporalAttentionKernels();
  b.detail = detailKernels();
  b.gated = gatedKernels();
  b.noise = noiseKernels();
  b.packing.pack = [](const PackSource&, DType, void*) {
    fail(Code::Unsupported, "Packing is of the CPU's products alone");
  };
  return b;
}

}  // namespace

}  // namespace duet::gpu

extern "C" __attribute__((visibility("default"))) const duet::DevicePlugin* duetDevicePlugin() {
  using namespace duet;
  static const Backend backend = gpu::make();
  static const Backend tf32 = [] {
    Backend b = backend;
    b.product = gpu::tf32ProductKernels();
    return b;
  }();
  static const Memory memory = gpu::deviceMemory();
  const auto use = [](int index) {
    gpu::useDevice(index);
    replaceMemory(&memory);  // of what the plugin itself makes
  };
  static const DevicePlugin plugin{kDeviceContract, gpu::kKind, gpu::deviceCount, gpu::describeDevice, use,
                                   &backend,        &tf32,      &memory,          gpu::check};
  return &plugin;
}
