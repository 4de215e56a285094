// The steps of the detail branch on one strip: a vector of channels of one clip. A strip is frames x height x
// width vectors; what a convolution reads has a border of zeros around each frame.
#pragma once

#include <cmath>

#include "ops/simd.h"

namespace duet::cpu::DUET_ISA {

constexpr int kTileOut = 4;                        // output frames at a time
constexpr int kTilePixels = kLanes == 16 ? 4 : 2;  // pixels at a time: what the registers hold

/// Sizes of a strip; `padded` and `plain` count vectors.
struct Strip {
  int64_t frames, height, width;

  int64_t pixels() const { return height * width; }
  int64_t plain() const { return frames * pixels(); }
  int64_t pitch() const { return width + 2; }
  int64_t paddedFrame() const { return (height + 2) * pitch(); }
  int64_t padded() const { return frames * paddedFrame(); }
  int64_t outTiles() const { return (frames + kTileOut - 1) / kTileOut; }
  int64_t packedWeights() const { return outTiles() * kTileOut * frames * 9; }
};

/// [out, in, 3, 3] as tiles of output frames: [tile][in][tap][out in tile], zeros beyond the last frame.
/// `flipped` gives the weights of the input gradient: in and out exchanged, taps reversed.
inline void packDetailWeights(const Strip& s, const float* weight, bool flipped, float* packed) {
  for (int64_t tile = 0; tile < s.outTiles(); ++tile)
    for (int64_t in = 0; in < s.frames; ++in)
      for (int64_t tap = 0; tap < 9; ++tap)
        for (int64_t k = 0; k < kTileOut; ++k) {
          const int64_t out = tile * kTileOut + k;
          float value = 0.0f;
          if (out < s.frames)
            value = flipped ? weight[(in * s.frames + out) * 9 + 8 - tap]
                            : weight[(out * s.frames + in) * 9 + tap];
          *packed++ = value;
        }
}

template <int P>
inline void convolveTile(const Strip& s, const Vec* from, const float* weights, int64_t y, int64_t x,
                         Vec (&sum)[kTileOut][P]) {
  const int64_t pitch = s.pitch();
  for (int64_t in = 0; in < s.frames; ++in) {
    const Vec* line = from + in * s.paddedFrame() + y * pitch + x;
    for (int ky = 0; ky < 3; ++ky, line += pitch) {
      Vec v[P + 2];
      for (int p = 0; p < P + 2; ++p) v[p] = line[p];
      for (int kx = 0; kx < 3; ++kx, weights += kTileOut)
        for (int k = 0; k < kTileOut; ++k) {
          const Vec w = fillVec(weights[k]);
          for (int p = 0; p < P; ++p) sum[k][p] += w * v[p + kx];
        }
    }
  }
}

template <int P>
inline void convolveAt(const Strip& s, const Vec* from, const float* weights, const float* bias,
                       const Vec* add, Vec* to, int64_t tile, int64_t y, int64_t x) {
  Vec sum[kTileOut][P];
  const int64_t first = tile * kTileOut, pixel = y * s.width + x;
  for (int k = 0; k < kTileOut; ++k)
    for (int p = 0; p < P; ++p) sum[k][p] = fillVec(bias && first + k < s.frames ? bias[first + k] : 0.0f);
  convolveTile<P>(s, from, weights + tile * kTileOut * s.frames * 9, y, x, sum);
  for (int k = 0; k < kTileOut && first + k < s.frames; ++k) {
    const int64_t at = (first + k) * s.pixels() + pixel;
    for (int p = 0; p < P; ++p) to[at + p] = add ? add[at + p] + sum[k][p] : sum[k][p];
  }
}

/// to = 3x3 convolution of the padded `from` (+ bias) (+ add); `to` and `add` are plain.
inline void convolveStrip(const Strip& s, const Vec* from, const float* weights, const float* bias,
                          const Vec* add, Vec* to) {
  for (int64_t tile = 0; tile < s.outTiles(); ++tile)
    for (int64_t y = 0; y < s.height; ++y) {
      int64_t x = 0;
      for (; x + kTilePixels <= s.width; x += kTilePixels)
        convolveAt<kTilePixels>(s, from, weights, bias, add, to, tile, y, x);
      for (; x + 2 <= s.width; x += 2) convolveAt<2>(s, from, weights, bias, add, to, tile, y, x);
      for (; x < s.width; ++x) convolveAt<1>(s, from, weights, bias, add, to, tile, y, x);
    }
}

template <int O, int I>
inline void weightGradientTile(const Strip& s, const Vec* upstream, const Vec* from, int64_t out, int64_t in,
                               int ky, Vec* gradient) {
  Vec sum[O][I][3] = {};
  const int64_t pitch = s.pitch(), frame = s.paddedFrame();
  for (int64_t y = 0; y < s.height; ++y) {
    const Vec* g = upstream + out * frame + (y + 1) * pitch + 1;
    const Vec* v = from + in * frame + (y + ky) * pitch;
    for (int64_t x = 0; x < s.width; ++x)
      for (int i = 0; i < I; ++i)
        for (int kx = 0; kx < 3; ++kx) {
          const Vec value = v[i * frame + x + kx];
          for (int o = 0; o < O; ++o) sum[o][i][kx] += g[o * frame + x] * value;
        }
  }
  for (int o = 0; o < O; ++o)
    for (int i = 0; i < I; ++i)
      for (int kx = 0; kx < 3; ++kx)
        gradient[((out + o) * s.frames + in + i) * 9 + ky * 3 + kx] = sum[o][i][kx];
}

/// gradient[out, in, tap] = the sum over pixels of upstream[out] * from[in] under the tap, a vector of
/// channels each; both padded.
inline void weightGradientStrip(const Strip& s, const Vec* upstream, const Vec* from, Vec* gradient) {
  for (int ky = 0; ky < 3; ++ky) {
    int64_t in = 0;
    const auto over = [&](auto inputs) {
      constexpr int I = decltype(inputs)::value;
      int64_t out = 0;
      for (; out + 4 <= s.frames; out += 4)
        weightGradientTile<4, I>(s, upstream, from, out, in, ky, gradient);
      for (; out < s.frames; ++out) weightGradientTile<1, I>(s, upstream, from, out, in, ky, gradient);
    };
    if constexpr (kLanes == 16)
      for (; in + 2 <= s.frames; in += 2) over(std::integral_constant<int, 2>{});
    for (; in < s.frames; ++in) over(std::integral_constant<int, 1>{});
  }
}

/// The sum of every frame of a padded strip, a vector of channels each.
inline void frameSums(const Strip& s, const Vec* padded, Vec* sums) {
  for (int64_t f = 0; f < s.frames; ++f) {
    Vec sum{};
    for (int64_t y = 0; y < s.height; ++y) {
      const Vec* line = padded + f * s.paddedFrame() + (y + 1) * s.pitch() + 1;
      for (int64_t x = 0; x < s.width; ++x) sum += line[x];
    }
    sums[f] = sum;
  }
}

struct Moments {
  Vec mean, rstd;
};

inline Vec rootOf(Vec v) {
  for (int i = 0; i < kLanes; ++i) v[i] = std::sqrt(v[i]);
  return v;
}

/// Statistics over all frames and pixels, for each channel on its own.
inline Moments momentsOf(const Strip& s, const Vec* d, float epsilon) {
  const int64_t pixels = s.pixels();
  const Vec count = fillVec(static_cast<float>(s.plain()));
  Vec total{};
  for (int64_t f = 0; f < s.frames; ++f) {
    Vec sum{};
    for (int64_t i = f * pixels; i < (f + 1) * pixels; ++i) sum += d[i];
    total += sum;
  }
  const Vec mean = total / count;
  total = Vec{};
  for (int64_t f = 0; f < s.frames; ++f) {
    Vec sum{};
    for (int64_t i = f * pixels; i < (f + 1) * pixels; ++i) sum += (d[i] - mean) * (d[i] - mean);
    total += sum;
  }
  return {mean, fillVec(1.0f) / rootOf(total / count + fillVec(epsilon))};
}

inline Vec logisticVec(Vec x) {
  Vec y;
#pragma omp simd
  for (int i = 0; i < kLanes; ++i) y[i] = logistic(x[i]);
  return y;
}

/// Inside of `to` (padded) = SiLU((d - mean) rstd gamma + beta); gamma and beta belong to the frame.
inline void normSilu(const Strip& s, const Vec* d, const Moments& m, const float* gamma, const float* beta,
                     Vec* to) {
  for (int64_t f = 0; f < s.frames; ++f) {
    const Vec factor = m.rstd * fillVec(gamma[f]), offset = fillVec(beta[f]);
    for (int64_t y = 0; y < s.height; ++y) {
      const Vec* from = d + (f * s.height + y) * s.width;
      Vec* line = to + f * s.paddedFrame() + (y + 1) * s.pitch() + 1;
      for (int64_t x = 0; x < s.width; ++x) {
        const Vec z = (from[x] - m.mean) * factor + offset;
        line[x] = z * logisticVec(z);
      }
    }
  }
}

/// Back through normSilu: `upstream` (plain) becomes the gradient of d; sums over each frame of what belongs
/// to gamma and beta go to `dgamma` and `dbeta`, a vector of channels each.
inline void normSiluBackward(const Strip& s, const Vec* d, const Moments& m, const float* gamma,
                             const float* beta, Vec* upstream, Vec* dgamma, Vec* dbeta) {
  const int64_t pixels = s.pixels();
  const Vec one = fillVec(1.0f), count = fillVec(static_cast<float>(s.plain()));
  Vec meanSum{}, meanDot{};
  for (int64_t f = 0; f < s.frames; ++f) {
    const Vec scale = fillVec(gamma[f]), offset = fillVec(beta[f]);
    Vec sum{}, dot{};
    for (int64_t i = f * pixels; i < (f + 1) * pixels; ++i) {
      const Vec xhat = (d[i] - m.mean) * m.rstd, z = xhat * scale + offset, logistic = logisticVec(z);
      const Vec dz = upstream[i] * (logistic * (one + z * (one - logistic)));
      sum += dz;
      dot += dz * xhat;
      upstream[i] = dz;
    }
    dbeta[f] = sum;
    dgamma[f] = dot;
    meanSum += sum * scale;
    meanDot += dot * scale;
  }
  meanSum /= count;
  meanDot /= count;
  for (int64_t f = 0; f < s.frames; ++f) {
    const Vec scale = fillVec(gamma[f]);
    for (int64_t i = f * pixels; i < (f + 1) * pixels; ++i) {
      const Vec xhat = (d[i] - m.mean) * m.rstd;
      upstream[i] = m.rstd * (upstream[i] * scale - meanSum - xhat * meanDot);
    }
  }
}

}  // namespace duet::cpu::DUET_ISA
