// The kernels of denoising training: noising, the masked squared error, time embeddings.
#pragma once

#include "core/tensor.h"

namespace duet {

struct MaskedSquaredError {
  const float* output;  // clips x frames x pixels x channels, row after row
  const float* target;
  const uint8_t* keep;            // clips x frames
  int64_t clips, frames, values;  // values = pixels * channels of one frame
  bool overKept;                  // divide by the kept elements instead of all
  float* gradient;                // null, or d loss / d output
  double* clipLoss;               // null, or the mean over each clip (same denominator rule)
};

struct NoiseKernels {
  /// mean((m * output - m * target)^2) in double, summed in a fixed order.
  double (*maskedSquaredError)(const MaskedSquaredError&);
  /// out[i] = [cos(t f_0..f_h-1), sin(t f_0..f_h-1)], f_j = exp(-ln(10000) j / h), h = width / 2. [count,
  /// width]
  void (*timeEmbedding)(const float* times, int64_t count, int64_t width, float* out);
};

}  // namespace duet
