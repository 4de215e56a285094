// One CPU backend for each instruction set this file is compiled for.
#include "ops/kernels.h"
#include "ops/simd.h"

namespace duet::cpu::DUET_ISA {

NormKernels normKernels();
ActivationKernels activationKernels();
AttentionKernels attentionKernels();
ElementwiseKernels elementwiseKernels();
EmbeddingKernels embeddingKernels();
LossKernels lossKernels();
OptimizerKernels optimizerKernels();
ConvolutionKernels convolutionKernels();
WinogradKernels winogradKernels();
GroupNormKernels groupNormKernels();
ResampleKernels resampleKernels();
TemporalAttentionKernels temporalAttentionKernels();
DetailKernels detailKernels();
GatedKernels gatedKernels();
NoiseKernels noiseKernels();
PackingKernels packingKernels();

#define DUET_TEXT_OF(name) #name
#define DUET_TEXT(name) DUET_TEXT_OF(name)

const Backend& makeBackend() {
  static const Backend backend{DUET_TEXT(DUET_ISA), productKernels(),
                               normKernels(),       activationKernels(),
                               attentionKernels(),  elementwiseKernels(),
                               embeddingKernels(),  lossKernels(),
                               optimizerKernels(),  convolutionKernels(),
                               winogradKernels(),   groupNormKernels(),
                               resampleKernels(),   temporalAttentionKernels(),
                               detailKernels(),     gatedKernels(),
                               noiseKernels(),      packingKernels()};
  return backend;
}

}  // namespace duet::cpu::DUET_ISA
