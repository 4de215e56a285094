// A block has the rows of a unit in the channels of a group, which is few kilobytes to some hundred: it reads
// them once from memory and then from cache. So a norm is one launch, and its gradient two.
#include "ops/group_norm.h"

#include <type_traits>

#include "gpu/column_sum.h"
#include "gpu/curves.h"
#include "gpu/vector.h"
#include "ops/kernels.h"

namespace duet::gpu {
namespace {

constexpr unsigned kMostThreads = 512;

/// The block's unit and group, and what of them is this thread's: V channels of the group from `first` on,
/// then those `step` further, each in the rows that begin at `from`, `stride` apart, before `end`.
template <int V>
struct Part {
  int unit, group, width, first, step, down, row;
  int64_t begin;  // of the group in the unit's first row
  int64_t from, stride, end;

  DUET_DEVICE explicit Part(const GroupNormShape& s) {
    const int groups = static_cast<int>(s.groups), block = static_cast<int>(blockIdx.x);
    const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
    unit = block / groups;
    group = block % groups;
    width = static_cast<int>(s.channels) / groups;
    const int across = width / V < threads ? width / V : threads;
    first = thread % across * V;
    step = across * V;
    down = threads / across;
    row = thread / across;
    end = s.unitRows * s.channels;
    begin = unit * end + group * width;
    from = row < down ? row * s.channels : end;
    stride = down * s.channels;
  }
};

/// z = (x - centre) * rstd * gamma + beta for V channels from `channel` on.
template <int V>
struct Channels {
  float centre[V], gamma[V], beta[V];

  DUET_DEVICE void centreOn(const GroupNormShape& s, const float* shift, int64_t unit, int64_t channel,
                            float mean) {
    float by[V] = {};
    if (shift) loadConstant(shift + unit / s.unitsPerClip * s.channels, channel, by);
    for (int j = 0; j < V; ++j) centre[j] = mean - by[j];
  }
  DUET_DEVICE void load(const float* g, const float* b, int64_t channel) {
    loadConstant(g, channel, gamma);
    loadConstant(b, channel, beta);
  }
};

template <int V, bool Silu, typename Y>
__global__ void __launch_bounds__(kMostThreads, 2) forwardKernel(GroupNormForward c) {
  const GroupNormShape& s = c.shape;
  const Part<V> own(s);
  const float* x = c.x + own.begin;
  const int offset = own.group * own.width;
  const float inverse = 1.0f / (static_cast<float>(s.unitRows) * static_cast<float>(own.width));
  Channels<V> channels{};

  float sum = 0.0f;
  for (int i = own.first; i < own.width; i += own.step) {
    channels.centreOn(s, c.shift, own.unit, offset + i, 0.0f);
#pragma unroll 4
    for (int64_t place = own.from + i; place < own.end; place += own.stride) {
      float v[V];
      loadConstant(x, place, v);
      for (int j = 0; j < V; ++j) sum += v[j] - channels.centre[j];
    }
  }
  const float mean = blockSum(sum) * inverse;

  float square = 0.0f;
  for (int i = own.first; i < own.width; i += own.step) {
    channels.centreOn(s, c.shift, own.unit, offset + i, mean);
#pragma unroll 4
    for (int64_t place = own.from + i; place < own.end; place += own.stride) {
      float v[V];
      loadConstant(x, place, v);
      for (int j = 0; j < V; ++j) square += (v[j] - channels.centre[j]) * (v[j] - channels.centre[j]);
    }
  }
  const float rstd = 1.0f / sqrtf(blockSum(square) * inverse + s.epsilon);

  Y* y = static_cast<Y*>(c.y) + own.begin;
  for (int i = own.first; i < own.width; i += own.step) {
    channels.centreOn(s, c.shift, own.unit, offset + i, mean);
    channels.load(c.gamma, c.beta, offset + i);
#pragma unroll 4
    for (int64_t place = own.from + i; place < own.end; place += own.stride) {
      float v[V];
      loadConstant(x, place, v);
      for (int j = 0; j < V; ++j) {
        const float z = (v[j] - channels.centre[j]) * (rstd * channels.gamma[j]) + channels.beta[j];
        v[j] = Silu ? z * logistic(z) : z;
      }
      storeVector(y, place, v);
    }
  }
  if (threadIdx.x > 0) return;
  c.mean[blockIdx.x] = mean;
  c.rstd[blockIdx.x] = rstd;
}

/// Sums over a unit's rows, of dz, of dz * xhat and of dx: units x 3 x channels.
enum { kSumDz, kSumDot, kSumDx, kSums };

/// Adds up what the threads of the same channels have, one below the other; the uppermost has the result.
template <int V>
DUET_DEVICE void sumDown(float (&sums)[kSums][V], const Part<V>& own, float* shared) {
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  const int across = own.step / V;
  const auto at = [&](int k, int j, int of) -> float& { return shared[(k * V + j) * threads + of]; };
  __syncthreads();
  for (int k = 0; k < kSums; ++k)
    for (int j = 0; j < V; ++j) at(k, j, thread) = sums[k][j];
  for (int rows = own.down; rows > 1;) {
    const int half = (rows + 1) / 2;
    __syncthreads();
    if (own.row + half < rows)
      for (int k = 0; k < kSums; ++k)
        for (int j = 0; j < V; ++j) {
          sums[k][j] += at(k, j, thread + half * across);
          at(k, j, thread) = sums[k][j];
        }
    rows = half;
  }
}

/// dx = rstd * (dz gamma - mean(dz gamma) - xhat mean(dz gamma xhat)) with dz = dy, or dy silu'(z).
template <int V, bool Silu, typename Y>
__global__ void __launch_bounds__(kMostThreads, 2) backwardKernel(GroupNormBackward c, float* unitSums) {
  DUET_DYNAMIC_SHARED(float, shared);
  const GroupNormShape& s = c.shape;
  const Part<V> own(s);
  const float* x = c.x + own.begin;
  const Y* dy = static_cast<const Y*>(c.dy) + own.begin;
  const int offset = own.group * own.width;
  const float mean = c.mean[blockIdx.x], rstd = c.rstd[blockIdx.x];
  Channels<V> channels{};
  const auto at = [&](int64_t place, float(&xhat)[V], float(&dz)[V]) {
    loadConstant(x, place, xhat);
    loadConstant(dy, place, dz);
    for (int j = 0; j < V; ++j) {
      xhat[j] = (xhat[j] - channels.centre[j]) * rstd;
      if constexpr (Silu) dz[j] *= siluSlope(xhat[j] * channels.gamma[j] + channels.beta[j]);
    }
  };

  float sum = 0.0f, dot = 0.0f;
  float* to = unitSums + own.unit * kSums * s.channels + offset;
  for (int start = 0; start < own.width; start += own.step) {
    const int i = start + own.first;
    const bool any = own.from < own.end && i < own.width;
    // In place of dx, xhat, until it is known what it is multiplied by.
    float sums[kSums][V] = {};
    if (any) {
      channels.centreOn(s, c.shift, own.unit, offset + i, mean);
      channels.load(c.gamma, c.beta, offset + i);
#pragma unroll 2
      for (int64_t place = own.from + i; place < own.end; place += own.stride) {
        float xhat[V], dz[V];
        at(place, xhat, dz);
        for (int j = 0; j < V; ++j) {
          sums[kSumDz][j] += dz[j];
          sums[kSumDot][j] += dz[j] * xhat[j];
          sums[kSumDx][j] += xhat[j];
        }
      }
    }
    sumDown(sums, own, shared);
    if (!any || own.row > 0) continue;
    for (int k = 0; k < kSums; ++k) storeVector(to, k * s.channels + i, sums[k]);
    for (int j = 0; j < V; ++j) {
      sum += sums[kSumDz][j] * channels.gamma[j];
      dot += sums[kSumDot][j] * channels.gamma[j];
    }
  }
  if (!c.dx && !c.dshift) return;
  const float rows = static_cast<float>(s.unitRows);
  const float inverse = 1.0f / (rows * static_cast<float>(own.width));
  const float meanSum = blockSum(sum) * inverse, meanDot = blockSum(dot) * inverse;

  if (c.dshift && own.row == 0)
    for (int i = own.first; i < own.width; i += own.step)
      for (int64_t channel = i; channel < i + V; ++channel) {
        float& sumDx = to[kSumDx * s.channels + channel];
        sumDx = rstd * (to[kSumDz * s.channels + channel] * c.gamma[offset + channel] - rows * meanSum -
                        sumDx * meanDot);
      }
  if (!c.dx) return;
  float* dx = c.dx + own.begin;
  for (int i = own.first; i < own.width; i += own.step) {
    channels.centreOn(s, c.shift, own.unit, offset + i, mean);
    channels.load(c.gamma, c.beta, offset + i);
#pragma unroll 2
    for (int64_t place = own.from + i; place < own.end; place += own.stride) {
      float xhat[V], dz[V], result[V] = {};
      at(place, xhat, dz);
      if (c.accumulate) loadVector(dx, place, result);
      for (int j = 0; j < V; ++j)
        result[j] += rstd * (dz[j] * channels.gamma[j] - meanSum - xhat[j] * meanDot);
      storeVector(dx, place, result);
    }
  }
}

/// work(V) with the widest vectors the group's channels make.
template <typename Work>
void withVectors(const GroupNormShape& s, bool fit4, bool fit2, Work work) {
  const int64_t width = s.channels / s.groups;
  if (fit4 && width % 4 == 0)
    work(std::integral_constant<int, 4>{});
  else if (fit2 && width % 2 == 0)
    work(std::integral_constant<int, 2>{});
  else
    work(std::integral_constant<int, 1>{});
}

/// Threads for a unit's part of a group: about eight vectors each.
unsigned threadsFor(const GroupNormShape& s, int vector) {
  const int64_t vectors = s.unitRows * (s.channels / s.groups) / vector;
  return kWarp * blocksFor(vectors, 8 * kWarp, kMostThreads / kWarp);
}

unsigned blocksOf(const GroupNormShape& s) { return static_cast<unsigned>(s.units * s.groups); }

template <typename Work>
void withSilu(bool silu, Work work) {
  silu ? work(std::true_type{}) : work(std::false_type{});
}

void forward(const GroupNormForward& c) {
  withType(c.yType, [&](auto type) {
    using Y = decltype(type);
    Y* y = static_cast<Y*>(c.y);
    const bool fit4 = vectorsFit<4>(c.x, c.shift, c.gamma, c.beta, y);
    const bool fit2 = vectorsFit<2>(c.x, c.shift, c.gamma, c.beta, y);
    withVectors(c.shape, fit4, fit2, [&](auto v) {
      withSilu(c.shape.silu, [&](auto silu) {
        launch(forwardKernel<v(), silu(), Y>, blocksOf(c.shape), threadsFor(c.shape, v()), 0, c);
      });
    });
  });
}

void backward(const GroupNormBackward& c) {
  const GroupNormShape& s = c.shape;
  const int64_t channels = s.channels;
  const Scratch<float> scratch(s.units * kSums * channels);
  float* sums = scratch.data();
  withType(c.dyType, [&](auto type) {
    using Y = decltype(type);
    const Y* dy = static_cast<const Y*>(c.dy);
    const bool fit4 = vectorsFit<4>(c.x, c.shift, c.gamma, c.beta, dy, c.dx);
    const bool fit2 = vectorsFit<2>(c.x, c.shift, c.gamma, c.beta, dy, c.dx);
    withVectors(s, fit4, fit2, [&](auto v) {
      withSilu(s.silu, [&](auto silu) {
        const unsigned threads = threadsFor(s, v());
        launch(backwardKernel<v(), silu(), Y>, blocksOf(s), threads, threads * kSums * v() * sizeof(float), c,
               sums);
      });
    });
  });
  if (c.dgamma || c.dbeta)
    sumColumns<2>(
        s.units, channels,
        [=] DUET_LAMBDA(int64_t unit, int64_t i, float(&sum)[2]) {
          const float* from = sums + unit * kSums * channels + i;
          sum[0] += from[kSumDot * channels];
          sum[1] += from[kSumDz * channels];
        },
        [=] DUET_LAMBDA(int64_t, int64_t i, const float(&sum)[2]) {
          if (c.dgamma) c.dgamma[i] = (c.accumulateGamma ? c.dgamma[i] : 0.0f) + sum[0];
          if (c.dbeta) c.dbeta[i] = (c.accumulateBeta ? c.dbeta[i] : 0.0f) + sum[1];
        });
  if (c.dshift)
    forEach(s.units / s.unitsPerClip * channels, [=] DUET_LAMBDA(int64_t i) {
      const int64_t unit = i / channels * s.unitsPerClip;
      float sum = c.accumulateShift ? c.dshift[i] : 0.0f;
      for (int64_t u = unit; u < unit + s.unitsPerClip; ++u)
        sum += sums[(u * kSums + kSumDx) * channels + i % channels];
      c.dshift[i] = sum;
    });
}

}  // namespace

GroupNormKernels groupNormKernels() { return {forward, backward}; }

}  // namespace duet::gpu
