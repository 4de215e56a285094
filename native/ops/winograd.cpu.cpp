#include "ops/winograd.h"

#include <vector>

#include "ops/kernels.h"
#include "ops/simd.h"

namespace duet::cpu::DUET_ISA {
namespace {

static inline void load(const float* p, float& v) { v = *p; }
static inline void load(const float* p, Vec& v) { v = loadVec(p); }
static inline void store(float* p, float v) { *p = v; }
static inline void store(float* p, Vec v) { storeVec(p, v); }

/// Calls work(c, value) for vectors of channels and then for what is left, `value` being of the type to work
/// in.
template <typename Work>
inline void eachChannel(int64_t channels, Work work) {
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) work(c, Vec{});
  for (; c < channels; ++c) work(c, 0.0f);
}

/// One tile: where its four (or two) rows and columns of pixels lie.
struct Tile {
  int64_t picture, y, x;  // the first pixel of the output
  Tile(const WinogradTiles& t, int64_t index)
      : picture(index / t.each()), y(index % t.each() / t.across() * 2), x(index % t.across() * 2) {}
  /// Offset of a pixel relative to the first of the output, or -1 outside the picture.
  int64_t at(const WinogradTiles& t, int64_t dy, int64_t dx) const {
    const int64_t i = y + dy, j = x + dx;
    if (i < 0 || j < 0 || i >= t.height || j >= t.width) return -1;
    return ((picture * t.height + i) * t.width + j) * t.channels;
  }
};

template <typename V>
inline void inputTile(const V (&d)[4][4], V (&out)[4][4]) {
  V rows[4][4];
  for (int j = 0; j < 4; ++j) {
    rows[0][j] = d[0][j] - d[2][j];
    rows[1][j] = d[1][j] + d[2][j];
    rows[2][j] = d[2][j] - d[1][j];
    rows[3][j] = d[1][j] - d[3][j];
  }
  for (int i = 0; i < 4; ++i) {
    out[i][0] = rows[i][0] - rows[i][2];
    out[i][1] = rows[i][1] + rows[i][2];
    out[i][2] = rows[i][2] - rows[i][1];
    out[i][3] = rows[i][1] - rows[i][3];
  }
}

void input(const WinogradTiles& t, const float* x, float* planes) {
  const std::vector<float> zeros(static_cast<size_t>(t.channels));
#pragma omp parallel for schedule(static)
  for (int64_t k = 0; k < t.count; ++k) {
    const Tile tile(t, t.first + k);
    const float* pixel[4][4];
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 4; ++j) {
        const int64_t at = tile.at(t, i - 1, j - 1);
        pixel[i][j] = at < 0 ? zeros.data() : x + at;
      }
    float* to = planes + k * t.channels;
    eachChannel(t.channels, [&](int64_t c, auto kind) {
      using V = decltype(kind);
      V d[4][4], out[4][4];
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) load(pixel[i][j] + c, d[i][j]);
      inputTile(d, out);
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) store(to + (i * 4 + j) * t.plane + c, out[i][j]);
    });
  }
}

void output(const WinogradTiles& t, const float* planes, const float* bias, const float* residual, float* y) {
  const std::vector<float> zeros(static_cast<size_t>(t.channels));
  const float* offset = bias ? bias : zeros.data();
#pragma omp parallel for schedule(static)
  for (int64_t k = 0; k < t.count; ++k) {
    const Tile tile(t, t.first + k);
    const float* from = planes + k * t.channels;
    eachChannel(t.channels, [&](int64_t c, auto kind) {
      using V = decltype(kind);
      V rows[2][4], b;
      load(offset + c, b);
      for (int j = 0; j < 4; ++j) {
        V m[4];
        for (int i = 0; i < 4; ++i) load(from + (i * 4 + j) * t.plane + c, m[i]);
        rows[0][j] = m[0] + m[1] + m[2];
        rows[1][j] = m[1] - m[2] - m[3];
      }
      for (int i = 0; i < 2; ++i) {
        const V pair[2] = {rows[i][0] + rows[i][1] + rows[i][2] + b,
                           rows[i][1] - rows[i][2] - rows[i][3] + b};
        for (int j = 0; j < 2; ++j) {
          const int64_t at = tile.at(t, i, j);
          if (at < 0) continue;
          V value = pair[j], more;
          if (residual) {
            load(residual + at + c, more);
            value += more;
          }
          store(y + at + c, value);
        }
      }
    });
  }
}

void upstream(const WinogradTiles& t, const float* dy, float* planes) {
  const std::vector<float> zeros(static_cast<size_t>(t.channels));
#pragma omp parallel for schedule(static)
  for (int64_t k = 0; k < t.count; ++k) {
    const Tile tile(t, t.first + k);
    const float* pixel[2][2];
    for (int i = 0; i < 2; ++i)
      for (int j = 0; j < 2; ++j) {
        const int64_t at = tile.at(t, i, j);
        pixel[i][j] = at < 0 ? zeros.data() : dy + at;
      }
    float* to = planes + k * t.channels;
    eachChannel(t.channels, [&](int64_t c, auto kind) {
      using V = decltype(kind);
      V g[2][2], rows[4][2];
      for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j) load(pixel[i][j] + c, g[i][j]);
      for (int j = 0; j < 2; ++j) {
        rows[0][j] = g[0][j];
        rows[1][j] = g[0][j] + g[1][j];
        rows[2][j] = g[0][j] - g[1][j];
        rows[3][j] = -g[1][j];
      }
      for (int i = 0; i < 4; ++i) {
        const V out[4] = {rows[i][0], rows[i][0] + rows[i][1], rows[i][0] - rows[i][1], -rows[i][1]};
        for (int j = 0; j < 4; ++j) store(to + (i * 4 + j) * t.plane + c, out[j]);
      }
    });
  }
}

void kernel(const float* weight, int64_t out, int64_t in, float* planes, int64_t plane) {
#pragma omp parallel for schedule(static)
  for (int64_t o = 0; o < out; ++o) {
    const float* g = weight + o * 9 * in;
    float* to = planes + o * in;
    eachChannel(in, [&](int64_t c, auto kind) {
      using V = decltype(kind);
      V rows[4][3];
      for (int j = 0; j < 3; ++j) {
        V tap[3];
        for (int i = 0; i < 3; ++i) load(g + (i * 3 + j) * in + c, tap[i]);
        const V ends = tap[0] + tap[2];
        rows[0][j] = tap[0];
        rows[1][j] = 0.5f * (ends + tap[1]);
        rows[2][j] = 0.5f * (ends - tap[1]);
        rows[3][j] = tap[2];
      }
      for (int i = 0; i < 4; ++i) {
        const V ends = rows[i][0] + rows[i][2];
        const V line[4] = {rows[i][0], 0.5f * (ends + rows[i][1]), 0.5f * (ends - rows[i][1]), rows[i][2]};
        for (int j = 0; j < 4; ++j) store(to + (i * 4 + j) * plane + c, line[j]);
      }
    });
  }
}

void kernelGradient(const float* planes, int64_t plane, int64_t out, int64_t in, float* dWeight,
                    bool accumulate) {
#pragma omp parallel for schedule(static)
  for (int64_t o = 0; o < out; ++o) {
    const float* from = planes + o * in;
    float* to = dWeight + o * 9 * in;
    eachChannel(in, [&](int64_t c, auto kind) {
      using V = decltype(kind);
      V rows[3][4];
      for (int j = 0; j < 4; ++j) {
        V u[4];
        for (int i = 0; i < 4; ++i) load(from + (i * 4 + j) * plane + c, u[i]);
        const V sum = 0.5f * (u[1] + u[2]);
        rows[0][j] = u[0] + sum;
        rows[1][j] = 0.5f * (u[1] - u[2]);
        rows[2][j] = sum + u[3];
      }
      for (int i = 0; i < 3; ++i) {
        const V sum = 0.5f * (rows[i][1] + rows[i][2]);
        V line[3] = {rows[i][0] + sum, 0.5f * (rows[i][1] - rows[i][2]), sum + rows[i][3]};
        for (int j = 0; j < 3; ++j) {
          float* at = to + (i * 3 + j) * in + c;
          if (accumulate) {
            V before;
            load(at, before);
            line[j] += before;
          }
          store(at, line[j]);
        }
      }
    });
  }
}

}  // namespace

WinogradKernels winogradKernels() { return {input, output, upstream, kernel, kernelGradient}; }

}  // namespace duet::cpu::DUET_ISA
