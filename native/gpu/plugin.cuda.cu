// The device plugin: kernels and memory behind one symbol. Compiled by nvcc it is `duet-cuda.so`, as C++
// `duet-emulated.so`.
#include "gpu/plugin.h"

#include "gpu/check.h"
#include "gpu/device_memory.h"
#include "ops/product_hopper.h"

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
    gpu::chooseProducts(index);
    replaceMemory(&memory);  // of what the plugin itself makes
  };
  const auto describe = [](int index) {
    gpu::useDevice(index);
    DeviceInfo info = gpu::describeDevice(index);
    info.products = gpu::chooseProducts(index);
    return info;
  };
  static const DevicePlugin plugin{kDeviceContract, gpu::kKind, gpu::deviceCount, describe,  use,
                                   &backend,        &tf32,      &memory,          gpu::check};
  return &plugin;
}
