#include "ops/group_norm.h"

#include <cmath>
#include <vector>

#include "ops/kernels.h"
#include "ops/scratch.h"
#include "ops/simd.h"

namespace duet::cpu::DUET_ISA {
namespace {

/// Rows that are summed at one time; small enough that they are still in cache for a second look.
constexpr int64_t kChunkRows = 64;

int64_t chunksOf(const GroupNormShape& s) { return (s.unitRows + kChunkRows - 1) / kChunkRows; }

const float* shiftOf(const GroupNormShape& s, const float* shift, int64_t unit) {
  return shift ? shift + unit / s.unitsPerClip * s.channels : nullptr;
}

/// Mean of every channel of a chunk, and the sum of squared differences to it.
void chunkMoments(const float* x, int64_t rows, int64_t channels, float* mean, float* square) {
  for (int64_t r = 0; r < rows; ++r)
#pragma omp simd
    for (int64_t i = 0; i < channels; ++i) mean[i] += x[r * channels + i];
  const float inverse = 1.0f / static_cast<float>(rows);
#pragma omp simd
  for (int64_t i = 0; i < channels; ++i) mean[i] *= inverse;
  for (int64_t r = 0; r < rows; ++r)
#pragma omp simd
    for (int64_t i = 0; i < channels; ++i) {
      const float difference = x[r * channels + i] - mean[i];
      square[i] += difference * difference;
    }
}

/// Joins the moments of chunks and channels into those of a group (Chan et al. 1979), in double.
void joinGroup(const GroupNormForward& c, int64_t unit, int64_t group, const float* moments) {
  const GroupNormShape& s = c.shape;
  const int64_t chunks = chunksOf(s), width = s.channels / s.groups;
  const float* shift = shiftOf(s, c.shift, unit);
  double count = 0, mean = 0, square = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t first = chunk * kChunkRows;
    const double rows =
        static_cast<double>(s.unitRows - first < kChunkRows ? s.unitRows - first : kChunkRows);
    const float* at = moments + (unit * chunks + chunk) * 2 * s.channels;
    for (int64_t i = group * width; i < (group + 1) * width; ++i) {
      const double delta = at[i] + static_cast<double>(shift ? shift[i] : 0.0f) - mean, total = count + rows;
      mean += delta * rows / total;
      square += at[s.channels + i] + delta * delta * count * rows / total;
      count = total;
    }
  }
  c.mean[unit * s.groups + group] = static_cast<float>(mean);
  c.rstd[unit * s.groups + group] = static_cast<float>(1.0 / std::sqrt(square / count + c.shape.epsilon));
}

/// Per channel of a unit: z = (x - centre) * factor + beta.
void channelFactors(const GroupNormShape& s, const float* shift, const float* gamma, const float* mean,
                    const float* rstd, int64_t unit, float* centre, float* factor) {
  const int64_t width = s.channels / s.groups;
  shift = shiftOf(s, shift, unit);
  for (int64_t i = 0; i < s.channels; ++i) {
    const int64_t group = unit * s.groups + i / width;
    centre[i] = mean[group] - (shift ? shift[i] : 0.0f);
    factor[i] = rstd[group] * (gamma ? gamma[i] : 1.0f);
  }
}

template <typename Y>
void writeRows(const GroupNormForward& c, int64_t row, int64_t rows, const float* centre,
               const float* factor) {
  const int64_t n = c.shape.channels;
  const float* beta = c.beta;
  for (int64_t r = row; r < row + rows; ++r) {
    const float* x = c.x + r * n;
    Y* y = static_cast<Y*>(c.y) + r * n;
    if (c.shape.silu) {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) {
        const float z = (x[i] - centre[i]) * factor[i] + beta[i];
        writeAs(y, i, z * logistic(z));
      }
    } else {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) writeAs(y, i, (x[i] - centre[i]) * factor[i] + beta[i]);
    }
  }
}

void forward(const GroupNormForward& c) {
  const GroupNormShape& s = c.shape;
  const int64_t chunks = chunksOf(s), all = s.units * chunks;
  const Zeros moments(all * 2 * s.channels), factors(s.units * 2 * s.channels);
  const auto rowsOf = [&](int64_t index, int64_t& count) {
    const int64_t first = index % chunks * kChunkRows;
    count = s.unitRows - first < kChunkRows ? s.unitRows - first : kChunkRows;
    return index / chunks * s.unitRows + first;
  };
#pragma omp parallel for schedule(static)
  for (int64_t index = 0; index < all; ++index) {
    int64_t rows;
    const int64_t row = rowsOf(index, rows);
    float* at = moments.data + index * 2 * s.channels;
    chunkMoments(c.x + row * s.channels, rows, s.channels, at, at + s.channels);
  }
#pragma omp parallel for schedule(static)
  for (int64_t unit = 0; unit < s.units; ++unit) {
    for (int64_t group = 0; group < s.groups; ++group) joinGroup(c, unit, group, moments.data);
    float* centre = factors.data + unit * 2 * s.channels;
    channelFactors(s, c.shift, c.gamma, c.mean, c.rstd, unit, centre, centre + s.channels);
  }
#pragma omp parallel for schedule(static)
  for (int64_t index = 0; index < all; ++index) {
    int64_t rows;
    const int64_t row = rowsOf(index, rows);
    const float* centre = factors.data + index / chunks * 2 * s.channels;
    if (c.yType == DType::bf16)
      writeRows<bf16>(c, row, rows, centre, centre + s.channels);
    else
      writeRows<float>(c, row, rows, centre, centre + s.channels);
  }
}

/// dz = dy, or dy silu'(z).
template <bool silu, typename Y>
inline float upstream(const Y* dy, int64_t i, float xhat, const float* gamma, const float* beta) {
  const float g = readAs(dy, i);
  return silu ? g * siluSlope(xhat * gamma[i] + beta[i]) : g;
}

/// Column sums of dz and of dz * xhat over some rows.
template <bool silu, typename Y>
void sumRows(const GroupNormBackward& c, int64_t row, int64_t rows, const float* centre, const float* rstd,
             float* sum, float* dot) {
  const int64_t n = c.shape.channels;
  const float *gamma = c.gamma, *beta = c.beta;
  for (int64_t r = row; r < row + rows; ++r) {
    const float* x = c.x + r * n;
    const Y* dy = static_cast<const Y*>(c.dy) + r * n;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const float xhat = (x[i] - centre[i]) * rstd[i];
      const float dz = upstream<silu>(dy, i, xhat, gamma, beta);
      sum[i] += dz;
      dot[i] += dz * xhat;
    }
  }
}

/// dx = rstd * (dz gamma - meanSum - xhat meanDot); its column sums go to `shift` where given.
template <bool silu, typename Y>
void inputRows(const GroupNormBackward& c, int64_t row, int64_t rows, const float* centre, const float* rstd,
               const float* meanSum, const float* meanDot, float* line, float* shift) {
  const int64_t n = c.shape.channels;
  const float *gamma = c.gamma, *beta = c.beta;
  for (int64_t r = row; r < row + rows; ++r) {
    const float* x = c.x + r * n;
    const Y* dy = static_cast<const Y*>(c.dy) + r * n;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const float xhat = (x[i] - centre[i]) * rstd[i];
      const float dz = upstream<silu>(dy, i, xhat, gamma, beta);
      line[i] = rstd[i] * (dz * gamma[i] - meanSum[i] - xhat * meanDot[i]);
    }
    if (shift)
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) shift[i] += line[i];
    if (!c.dx) continue;
    float* dx = c.dx + r * n;
    if (c.accumulate) {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) dx[i] += line[i];
    } else {
      std::memcpy(dx, line, static_cast<size_t>(n) * sizeof(float));
    }
  }
}

/// out[i] (+)= the sum of `count` rows of `from`, `stride` floats apart, in their order.
void addUp(const float* from, int64_t count, int64_t stride, int64_t n, float* out, bool accumulate) {
  std::vector<double> sum(static_cast<size_t>(n), 0.0);
  for (int64_t k = 0; k < count; ++k)
    for (int64_t i = 0; i < n; ++i) sum[static_cast<size_t>(i)] += from[k * stride + i];
  for (int64_t i = 0; i < n; ++i)
    out[i] = static_cast<float>((accumulate ? out[i] : 0.0) + sum[static_cast<size_t>(i)]);
}

template <bool silu, typename Y>
void backwardAs(const GroupNormBackward& c) {
  const GroupNormShape& s = c.shape;
  const int64_t n = s.channels, chunks = chunksOf(s), all = s.units * chunks, width = n / s.groups;
  const Zeros sums(all * 2 * n), shiftSums(c.dshift ? all * n : 0), factors(s.units * 4 * n), lines(all * n);
  const auto rowsOf = [&](int64_t index, int64_t& count) {
    const int64_t first = index % chunks * kChunkRows;
    count = s.unitRows - first < kChunkRows ? s.unitRows - first : kChunkRows;
    return index / chunks * s.unitRows + first;
  };
#pragma omp parallel for schedule(static)
  for (int64_t unit = 0; unit < s.units; ++unit) {
    float* f = factors.data + unit * 4 * n;
    channelFactors(s, c.shift, nullptr, c.mean, c.rstd, unit, f, f + n);
  }
#pragma omp parallel for schedule(static)
  for (int64_t index = 0; index < all; ++index) {
    int64_t rows;
    const int64_t row = rowsOf(index, rows);
    const float* f = factors.data + index / chunks * 4 * n;
    float* sum = sums.data + index * 2 * n;
    sumRows<silu, Y>(c, row, rows, f, f + n, sum, sum + n);
  }
  if (c.dbeta) addUp(sums.data, all, 2 * n, n, c.dbeta, c.accumulateBeta);
  if (c.dgamma) addUp(sums.data + n, all, 2 * n, n, c.dgamma, c.accumulateGamma);
  if (!c.dx && !c.dshift) return;

  const double inverse = 1.0 / static_cast<double>(s.unitRows * width);
#pragma omp parallel for schedule(static)
  for (int64_t unit = 0; unit < s.units; ++unit) {
    float *meanSum = factors.data + unit * 4 * n + 2 * n, *meanDot = meanSum + n;
    for (int64_t group = 0; group < s.groups; ++group) {
      double sum = 0, dot = 0;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const float* at = sums.data + (unit * chunks + chunk) * 2 * n;
        for (int64_t i = group * width; i < (group + 1) * width; ++i) {
          sum += static_cast<double>(at[i]) * c.gamma[i];
          dot += static_cast<double>(at[n + i]) * c.gamma[i];
        }
      }
      for (int64_t i = group * width; i < (group + 1) * width; ++i) {
        meanSum[i] = static_cast<float>(sum * inverse);
        meanDot[i] = static_cast<float>(dot * inverse);
      }
    }
  }
#pragma omp parallel for schedule(static)
  for (int64_t index = 0; index < all; ++index) {
    int64_t rows;
    const int64_t row = rowsOf(index, rows);
    const float* f = factors.data + index / chunks * 4 * n;
    inputRows<silu, Y>(c, row, rows, f, f + n, f + 2 * n, f + 3 * n, lines.data + index * n,
                       c.dshift ? shiftSums.data + index * n : nullptr);
  }
  if (!c.dshift) return;
  const int64_t clipChunks = s.unitsPerClip * chunks;
#pragma omp parallel for schedule(static)
  for (int64_t clip = 0; clip < s.units / s.unitsPerClip; ++clip)
    addUp(shiftSums.data + clip * clipChunks * n, clipChunks, n, n, c.dshift + clip * n, c.accumulateShift);
}

void backward(const GroupNormBackward& c) {
  const bool half = c.dyType == DType::bf16;
  if (c.shape.silu)
    half ? backwardAs<true, bf16>(c) : backwardAs<true, float>(c);
  else
    half ? backwardAs<false, bf16>(c) : backwardAs<false, float>(c);
}

}  // namespace

GroupNormKernels groupNormKernels() { return {forward, backward}; }

}  // namespace duet::cpu::DUET_ISA
