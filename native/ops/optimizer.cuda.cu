#include "ops/optimizer.h"

#include "gpu/tensors.h"
#include "gpu/total.h"
#include "gpu/vector.h"
#include "ops/kernels.h"

namespace duet::gpu {
namespace {

struct AdamWPart {
  float *parameter, *average, *averageSquare;
  const float* gradient;
  int64_t count;
  AdamWFactors factors;
};

struct AdamWWork {
  float beta2, rest1, rest2, epsilon, scale;
  template <int N>
  DUET_DEVICE void run(const AdamWPart& part, int64_t i) const {
    const AdamWFactors f = part.factors;
    float g[N], m[N], v[N], p[N];
    loadConstant(part.gradient, i, g);
    loadVector(part.average, i, m);
    loadVector(part.averageSquare, i, v);
    loadVector(part.parameter, i, p);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      g[j] *= scale;
      m[j] += rest1 * (g[j] - m[j]);
      v[j] = beta2 * v[j] + rest2 * g[j] * g[j];
      p[j] = p[j] * f.decay - f.rate * m[j] / (sqrtf(v[j]) / f.root + epsilon);
    }
    storeVector(part.average, i, m);
    storeVector(part.averageSquare, i, v);
    storeVector(part.parameter, i, p);
  }
};

void adamw(const AdamWStep& step, const std::vector<AdamWTensor>& tensors) {
  std::vector<AdamWPart> parts;
  parts.reserve(tensors.size());
  for (const AdamWTensor& t : tensors)
    parts.push_back({t.parameter, t.average, t.averageSquare, t.gradient, t.count, AdamWFactors(step, t)});
  const TensorList<AdamWPart> list(parts, [](const AdamWPart& p) {
    return vectorsFit<4>(p.gradient, p.average, p.averageSquare, p.parameter);
  });
  forEachTensor(
      list, AdamWWork{static_cast<float>(step.beta2), static_cast<float>(1.0 - step.beta1),
                      static_cast<float>(1.0 - step.beta2), static_cast<float>(step.epsilon), step.scale});
}

struct SquareWork {
  double sum = 0.0;
  template <int N>
  DUET_DEVICE void run(const Numbers& numbers, int64_t i) {
    float v[N];
    loadConstant(numbers.data, i, v);
#pragma unroll
    for (int j = 0; j < N; ++j) sum += static_cast<double>(v[j]) * v[j];
  }
};

__global__ void __launch_bounds__(kThreads)
    squareSumKernel(const Tiled<Numbers>* list, int count, int64_t tiles, double* parts) {
  SquareWork work;
  eachTile(list, count, tiles, work);
  putPart(parts, work.sum);
}

double squareSum(const std::vector<Numbers>& numbers) {
  const TensorList<Numbers> tensors(numbers, [](const Numbers& n) { return vectorsFit<4>(n.data); });
  if (tensors.tiles() == 0) return 0.0;
  const auto count = static_cast<int>(tensors.list().size());
  const Upload<Tiled<Numbers>> list(tensors.list().data(), count);
  const Scratch<double> parts(tensors.blocks());
  launch(squareSumKernel, tensors.blocks(), kThreads, 0, list.data(), count, tensors.tiles(), parts.data());
  return totalOf(parts, tensors.blocks());
}

struct MovingAverageWork {
  float decay, share;
  template <int N>
  DUET_DEVICE void run(const MovingAverage& tensor, int64_t i) const {
    float a[N], v[N];
    loadVector(tensor.average, i, a);
    loadConstant(tensor.value, i, v);
#pragma unroll
    for (int j = 0; j < N; ++j) a[j] = decay * a[j] + share * v[j];
    storeVector(tensor.average, i, a);
  }
};

void movingAverage(const std::vector<MovingAverage>& tensors, float decay) {
  const TensorList<MovingAverage> list(
      tensors, [](const MovingAverage& t) { return vectorsFit<4>(t.average, t.value); });
  forEachTensor(list, MovingAverageWork{decay, 1.0f - decay});
}

}  // namespace

OptimizerKernels optimizerKernels() { return {adamw, squareSum, movingAverage}; }

}  // namespace duet::gpu
