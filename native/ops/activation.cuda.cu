#include "ops/activation.h"

#include <type_traits>

#include "gpu/curves.h"
#include "gpu/vector.h"
#include "ops/kernels.h"

namespace duet::gpu {
namespace {

// Both approximations of gelu are x * logistic(u(x)); tanh(z) = 2 logistic(2z) - 1.
constexpr float kQuickSlope = 1.702f;
constexpr float kTanhSlope = 1.5957691216057308f;  // 2 sqrt(2 / pi)
constexpr float kTanhCubic = 0.044715f;

template <Activation Kind>
DUET_DEVICE float valueAt(float v) {
  if constexpr (Kind == Activation::gelu) {
    float cdf, density;
    normalCdf(v, cdf, density);
    return v * cdf;
  } else if constexpr (Kind == Activation::relu) {
    return v > 0.0f || v != v ? v : 0.0f;  // NaN passes, so that a broken run is seen
  } else if constexpr (Kind == Activation::tanh) {
    return tanhf(v);
  } else if constexpr (Kind == Activation::silu) {
    return v * logistic(v);
  } else if constexpr (Kind == Activation::quickGelu) {
    return v * logistic(kQuickSlope * v);
  } else if constexpr (Kind == Activation::geluTanh) {
    return v * logistic(kTanhSlope * (v + kTanhCubic * v * v * v));
  } else {
    return v;
  }
}

/// The gradient before the activation from the one after it.
template <Activation Kind>
DUET_DEVICE float gradientAt(float v, float dy) {
  if constexpr (Kind == Activation::gelu) {
    float cdf, density;
    normalCdf(v, cdf, density);
    return dy * (cdf + v * density);
  } else if constexpr (Kind == Activation::relu) {
    return v > 0.0f ? dy : 0.0f;
  } else if constexpr (Kind == Activation::tanh) {
    return dy * (1.0f - v * v);
  } else if constexpr (Kind == Activation::silu) {
    return dy * siluSlope(v);
  } else if constexpr (Kind == Activation::quickGelu) {
    const float u = kQuickSlope * v;
    return dy * logistic(u) * (1.0f + kQuickSlope * v * logistic(-u));
  } else if constexpr (Kind == Activation::geluTanh) {
    const float u = kTanhSlope * (v + kTanhCubic * v * v * v);
    const float slope = kTanhSlope * (1.0f + 3.0f * kTanhCubic * v * v);
    return dy * logistic(u) * (1.0f + v * slope * logistic(-u));  // 1 - s(u) = s(-u)
  } else {
    return dy;
  }
}

template <Activation Kind, typename T>
struct Forward {
  const T* x;
  T* y;
  template <int N>
  DUET_DEVICE void run(int64_t i) const {
    float v[N];
    loadVector(x, i, v);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] = valueAt<Kind>(v[j]);
    storeVector(y, i, v);
  }
};

template <Activation Kind, typename K, typename T>
struct Backward {
  const K* kept;
  const T* dy;
  T* dx;
  template <int N>
  DUET_DEVICE void run(int64_t i) const {
    float v[N], g[N];
    loadVector(kept, i, v);
    loadVector(dy, i, g);
#pragma unroll
    for (int j = 0; j < N; ++j) g[j] = gradientAt<Kind>(v[j], g[j]);
    storeVector(dx, i, g);
  }
};

// A kernel for each kind: a branch for each element would take as long as its memory.
template <typename Work>
void withKind(Activation kind, Work work) {
  switch (kind) {
    case Activation::gelu:
      return work(std::integral_constant<Activation, Activation::gelu>{});
    case Activation::relu:
      return work(std::integral_constant<Activation, Activation::relu>{});
    case Activation::tanh:
      return work(std::integral_constant<Activation, Activation::tanh>{});
    case Activation::silu:
      return work(std::integral_constant<Activation, Activation::silu>{});
    case Activation::quickGelu:
      return work(std::integral_constant<Activation, Activation::quickGelu>{});
    case Activation::geluTanh:
      return work(std::integral_constant<Activation, Activation::geluTanh>{});
    case Activation::none:
      return work(std::integral_constant<Activation, Activation::none>{});
  }
}

void forward(const ActivationForward& c) {
  withKind(c.kind, [&](auto kind) {
    withType(c.dtype, [&](auto type) {
      using T = decltype(type);
      const Forward<kind(), T> work{static_cast<const T*>(c.x), static_cast<T*>(c.y)};
      constexpr int n = kVectorOf<T>;
      forEachVector<n>(c.count, vectorsFit<n>(work.x, work.y), work);
    });
  });
}

void backward(const ActivationBackward& c) {
  withKind(c.kind, [&](auto kind) {
    withType(c.keptType, [&](auto keptType) {
      withType(c.dtype, [&](auto type) {
        using K = decltype(keptType);
        using T = decltype(type);
        const Backward<kind(), K, T> work{static_cast<const K*>(c.kept), static_cast<const T*>(c.dy),
                                          static_cast<T*>(c.dx)};
        constexpr int n = kVectorOf<K, T>;
        forEachVector<n>(c.count, vectorsFit<n>(work.kept, work.dy, work.dx), work);
      });
    });
  });
}

}  // namespace

ActivationKernels activationKernels() { return {forward, backward}; }

}  // namespace duet::gpu
