// The curves of activations, as in ops/simd.h.
#pragma once

#include "gpu/kernel.h"
#include "ops/normal_tail.h"

namespace duet::gpu {

/// 1 / (1 + exp(-x)) from e = exp(-|x|); NaN for NaN.
DUET_DEVICE float logistic(float x) {
  const float e = expf(-fabsf(x));
  const float share = __fdividef(1.0f, 1.0f + e);
  return x < 0.0f ? e * share : share;
}

/// The derivative of silu(x) = x logistic(x).
DUET_DEVICE float siluSlope(float x) {
  const float s = logistic(x);
  return s * (1.0f + x * (1.0f - s));
}

/// Standard normal distribution function and density at x, sharing one exponential.
DUET_DEVICE void normalCdf(float x, float& cdf, float& density) {
  const float a = fabsf(x), e = expf(-0.5f * a * a);
  const float tail = e * normalTail(__fdividef(1.0f, 1.0f + 0.3f * a));
  cdf = x < 0.0f ? tail : 1.0f - tail;
  density = 0.3989422804014327f * e;
}

}  // namespace duet::gpu
