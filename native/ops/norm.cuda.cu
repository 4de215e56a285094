#include "ops/norm.h"

#include "gpu/column_sum.h"
#include "gpu/vector.h"
#include "ops/kernels.h"

namespace duet::gpu {
namespace {

// A row belongs to a warp, which holds it in registers, or, where it is too long for that, to a block, which
// reads it again from cache.
constexpr int kHeldVectors = 8;  // of a lane
constexpr unsigned kRowsOfBlock = 4;
constexpr unsigned kLongRowThreads = 256;

template <int V, bool Held>
struct RowTeam {
  static constexpr int kStep = (Held ? kWarp : static_cast<int>(kLongRowThreads)) * V;

  DUET_DEVICE static int64_t row() {
    return Held ? static_cast<int64_t>(blockIdx.x) * kRowsOfBlock + threadIdx.y : blockIdx.x;
  }

  /// work(k, i) for each of the row's vectors that are this thread's; the k-th begins in column i.
  template <typename Work>
  DUET_DEVICE static void each(int columns, Work work) {
    const int first = static_cast<int>(threadIdx.x) * V;
    if constexpr (Held) {
#pragma unroll
      for (int k = 0; k < kHeldVectors; ++k)
        if (first + k * kStep < columns) work(k, first + k * kStep);
    } else {
      for (int i = first; i < columns; i += kStep) work(0, i);
    }
  }

  DUET_DEVICE static float sum(float value) {
    if constexpr (Held)
      return warpSum(value);
    else
      return blockSum(value);
  }
};

template <typename T, int V, bool Held>
class RowValues {
 public:
  DUET_DEVICE RowValues(const T* x, int64_t row, int columns) : from_(x + row * columns) {}
  DUET_DEVICE float (&load(int k, int i))[V] {
    float(&v)[V] = held_[Held ? k : 0];
    loadConstant(from_, i, v);
    return v;
  }
  DUET_DEVICE float (&again(int k, int i))[V] {
    if constexpr (Held)
      return held_[k];
    else
      return load(k, i);
  }

 private:
  const T* from_;
  float held_[Held ? kHeldVectors : 1][V];
};

/// Layer norm, or RMS norm where there is no beta.
template <int V, bool Held, typename Y, bool Centred>
__global__ void forwardKernel(NormForward c) {
  using Team = RowTeam<V, Held>;
  const int64_t row = Team::row();
  if (row >= c.rows) return;
  const int n = static_cast<int>(c.columns);
  RowValues<float, V, Held> x(c.x, row, n);
  float mean = 0.0f, square = 0.0f;
  if constexpr (Centred) {
    float sum = 0.0f;
    Team::each(n, [&](int k, int i) {
      const float(&v)[V] = x.load(k, i);
      for (int j = 0; j < V; ++j) sum += v[j];
    });
    mean = Team::sum(sum) / static_cast<float>(n);
  }
  Team::each(n, [&](int k, int i) {
    const float(&v)[V] = Centred ? x.again(k, i) : x.load(k, i);
    for (int j = 0; j < V; ++j) square += (v[j] - mean) * (v[j] - mean);
  });
  const float rstd = 1.0f / sqrtf(Team::sum(square) / static_cast<float>(n) + c.epsilon);
  Y* y = static_cast<Y*>(c.y) + row * n;
  Team::each(n, [&](int k, int i) {
    float(&v)[V] = x.again(k, i);
    float gamma[V], beta[V] = {};
    loadConstant(c.gamma, i, gamma);
    if constexpr (Centred) loadConstant(c.beta, i, beta);
    for (int j = 0; j < V; ++j) v[j] = (v[j] - mean) * rstd * gamma[j] + beta[j];
    storeVector(y, i, v);
  });
  if (threadIdx.x > 0) return;
  if (c.mean) c.mean[row] = mean;
  if (c.rstd) c.rstd[row] = rstd;
}

/// dx = rstd * (g - mean(g) - xhat * mean(g * xhat)) with g = dy * gamma.
template <int V, bool Held, typename Y>
__global__ void inputGradientKernel(NormBackward c) {
  using Team = RowTeam<V, Held>;
  const int64_t row = Team::row();
  if (row >= c.rows) return;
  const int n = static_cast<int>(c.columns);
  RowValues<float, V, Held> x(c.x, row, n);
  RowValues<Y, V, Held> dy(static_cast<const Y*>(c.dy), row, n);
  const float mean = c.mean[row], rstd = c.rstd[row];
  const auto upstream = [&](float(&xhat)[V], float(&g)[V], int i) {
    float gamma[V];
    loadConstant(c.gamma, i, gamma);
    for (int j = 0; j < V; ++j) {
      xhat[j] = (xhat[j] - mean) * rstd;
      g[j] *= gamma[j];
    }
  };
  float sum = 0.0f, dot = 0.0f;
  Team::each(n, [&](int k, int i) {
    float(&xhat)[V] = x.load(k, i);
    float(&g)[V] = dy.load(k, i);
    upstream(xhat, g, i);
    for (int j = 0; j < V; ++j) {
      sum += g[j];
      dot += g[j] * xhat[j];
    }
  });
  sum = Team::sum(sum) / static_cast<float>(n);
  dot = Team::sum(dot) / static_cast<float>(n);
  float* dx = c.dx + row * n;
  Team::each(n, [&](int k, int i) {
    float(&xhat)[V] = x.again(k, i);
    float(&g)[V] = dy.again(k, i);
    if constexpr (!Held) upstream(xhat, g, i);
    float result[V] = {};
    if (c.accumulate) loadVector(dx, i, result);
    for (int j = 0; j < V; ++j) result[j] += rstd * (g[j] - sum - xhat[j] * dot);
    storeVector(dx, i, result);
  });
}

/// work(V, Held) as constants, and launches of `kernel` as the rows ask for it.
template <typename Work>
void withRows(int64_t columns, bool fit, Work work) {
  const bool four = fit && columns % 4 == 0;
  const bool held = columns <= kWarp * kHeldVectors * (four ? 4 : 1);
  using One = std::integral_constant<int, 1>;
  using Four = std::integral_constant<int, 4>;
  if (four)
    held ? work(Four{}, std::true_type{}) : work(Four{}, std::false_type{});
  else
    held ? work(One{}, std::true_type{}) : work(One{}, std::false_type{});
}

template <typename Call>
void launchRows(void (*kernel)(Call), bool held, const Call& c) {
  if (c.rows == 0) return;
  if (held)
    launch(kernel, blocksFor(c.rows, kRowsOfBlock, INT32_MAX), dim3(kWarp, kRowsOfBlock), 0, c);
  else
    launch(kernel, static_cast<unsigned>(c.rows), kLongRowThreads, 0, c);
}

template <bool Centred>
void forwardAs(const NormForward& c) {
  withType(c.yType, [&](auto type) {
    using Y = decltype(type);
    const bool fit = vectorsFit<4>(c.x, c.gamma, c.beta, static_cast<Y*>(c.y));
    withRows(c.columns, fit,
             [&](auto v, auto held) { launchRows(forwardKernel<v(), held(), Y, Centred>, held(), c); });
  });
}

void forward(const NormForward& c) { forwardAs<true>(c); }

void rmsForward(const RmsNormForward& c) {
  forwardAs<false>({c.x, c.gamma, nullptr, c.y, c.yType, nullptr, nullptr, c.rows, c.columns, c.epsilon});
}

template <typename Y>
void parameterGradient(const NormBackward& c) {
  sumColumns<2>(
      c.rows, c.columns,
      [=] DUET_LAMBDA(int64_t row, int64_t i, float(&sums)[2]) {
        const int64_t at = row * c.columns + i;
        const float g = loadAs(static_cast<const Y*>(c.dy), at);
        sums[0] += g * (c.x[at] - c.mean[row]) * c.rstd[row];
        sums[1] += g;
      },
      [=] DUET_LAMBDA(int64_t, int64_t i, const float(&sums)[2]) {
        if (c.dgamma) c.dgamma[i] = (c.accumulateParameters ? c.dgamma[i] : 0.0f) + sums[0];
        if (c.dbeta) c.dbeta[i] = (c.accumulateParameters ? c.dbeta[i] : 0.0f) + sums[1];
      });
}

void backward(const NormBackward& c) {
  withType(c.dyType, [&](auto type) {
    using Y = decltype(type);
    if (c.dgamma || c.dbeta) parameterGradient<Y>(c);
    if (!c.dx) return;
    const bool fit = vectorsFit<4>(c.x, c.gamma, static_cast<const Y*>(c.dy), c.dx);
    withRows(c.columns, fit,
             [&](auto v, auto held) { launchRows(inputGradientKernel<v(), held(), Y>, held(), c); });
  });
}

}  // namespace

NormKernels normKernels() { return {forward, backward, rmsForward}; }

}  // namespace duet::gpu
