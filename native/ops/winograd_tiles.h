// The linear transforms of Winograd's convolution (winograd.h), for a run of tiles and vectors of channels. A
// plane holds one row of channels for each tile of the run, padded to whole vectors.
#pragma once

#include "ops/scratch.h"
#include "ops/simd.h"
#include "ops/winograd.h"

namespace duet::cpu::DUET_ISA {

/// The transforms along one side of a tile, and those of the way back, whose matrices are transposed.
template <int Side>
struct Filter;

template <>
struct Filter<2> {
  /// B'
  static void input(const Vec* d, Vec* to) {
    to[0] = d[0] - d[2];
    to[1] = d[1] + d[2];
    to[2] = d[2] - d[1];
    to[3] = d[1] - d[3];
  }
  /// A'
  static void output(const Vec* m, Vec* to) {
    to[0] = m[0] + m[1] + m[2];
    to[1] = m[1] - m[2] - m[3];
  }
  /// A
  static void upstream(const Vec* dy, Vec* to) {
    to[0] = dy[0];
    to[1] = dy[0] + dy[1];
    to[2] = dy[0] - dy[1];
    to[3] = -dy[1];
  }
  /// G
  static void kernel(const Vec* g, Vec* to) {
    const Vec ends = g[0] + g[2];
    to[0] = g[0];
    to[1] = 0.5f * (ends + g[1]);
    to[2] = 0.5f * (ends - g[1]);
    to[3] = g[2];
  }
  /// G'
  static void kernelGradient(const Vec* u, Vec* to) {
    const Vec sum = 0.5f * (u[1] + u[2]);
    to[0] = u[0] + sum;
    to[1] = 0.5f * (u[1] - u[2]);
    to[2] = sum + u[3];
  }
};

template <>
struct Filter<4> {
  static constexpr double a = 2.0 / 3, b = 1 / a, s = a * a + b * b, c = 1 / (2 * a * a * (a * a - b * b)),
                          e = 1 / (2 * b * b * (b * b - a * a));

  static void input(const Vec* d, Vec* to) {
    to[0] = d[0] - float(s) * d[2] + d[4];
    const Vec even = d[4] - float(b * b) * d[2], odd = float(a) * d[3] - float(b) * d[1];
    to[1] = even + odd;
    to[2] = even - odd;
    const Vec even2 = d[4] - float(a * a) * d[2], odd2 = float(b) * d[3] - float(a) * d[1];
    to[3] = even2 + odd2;
    to[4] = even2 - odd2;
    to[5] = d[1] - float(s) * d[3] + d[5];
  }
  static void output(const Vec* m, Vec* to) {
    const Vec even = m[1] + m[2], odd = m[1] - m[2], even2 = m[3] + m[4], odd2 = m[3] - m[4];
    to[0] = m[0] + even + even2;
    to[1] = float(a) * odd + float(b) * odd2;
    to[2] = float(a * a) * even + float(b * b) * even2;
    to[3] = float(a * a * a) * odd + float(b * b * b) * odd2 + m[5];
  }
  static void upstream(const Vec* dy, Vec* to) {
    to[0] = dy[0];
    const Vec even = dy[0] + float(a * a) * dy[2], odd = float(a) * dy[1] + float(a * a * a) * dy[3];
    to[1] = even + odd;
    to[2] = even - odd;
    const Vec even2 = dy[0] + float(b * b) * dy[2], odd2 = float(b) * dy[1] + float(b * b * b) * dy[3];
    to[3] = even2 + odd2;
    to[4] = even2 - odd2;
    to[5] = dy[3];
  }
  static void kernel(const Vec* g, Vec* to) {
    to[0] = g[0];
    const Vec even = float(c) * g[0] + float(c * a * a) * g[2], odd = float(c * a) * g[1];
    to[1] = even + odd;
    to[2] = even - odd;
    const Vec even2 = float(e) * g[0] + float(e * b * b) * g[2], odd2 = float(e * b) * g[1];
    to[3] = even2 + odd2;
    to[4] = even2 - odd2;
    to[5] = g[2];
  }
  static void kernelGradient(const Vec* u, Vec* to) {
    const Vec even = u[1] + u[2], even2 = u[3] + u[4];
    to[0] = u[0] + float(c) * even + float(e) * even2;
    to[1] = float(c * a) * (u[1] - u[2]) + float(e * b) * (u[3] - u[4]);
    to[2] = float(c * a * a) * even + float(e * b * b) * even2 + u[5];
  }
};

/// A transform of both sides: `Map` takes From values to To.
template <int From, int To, auto Map, typename Load, typename Store>
inline void bothSides(Load load, Store store) {
  Vec half[To][From];
#pragma GCC unroll 6
  for (int j = 0; j < From; ++j) {
    Vec column[From], mapped[To];
#pragma GCC unroll 6
    for (int i = 0; i < From; ++i) column[i] = load(i, j);
    Map(column, mapped);
#pragma GCC unroll 6
    for (int i = 0; i < To; ++i) half[i][j] = mapped[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < To; ++i) {
    Vec row[To];
    Map(half[i], row);
#pragma GCC unroll 6
    for (int j = 0; j < To; ++j) store(i, j, row[j]);
  }
}

/// Planes are this much longer than what they hold, so that they do not fall into the same cache sets.
constexpr int64_t kPlaneGap = 80;

/// The planes of up to `run` tiles from `first` on: blocks of `width` channels, a row of them for each tile.
template <int Side>
struct TileRun {
  static constexpr int kPlaces = Side + 2, kPlanes = kPlaces * kPlaces;

  const WinogradPictures& shape;
  int64_t channels, width, run;
  int64_t first = 0;

  int64_t plane() const { return roundUp(channels, width) * run + kPlaneGap; }
  int64_t block() const { return width * run; }
  /// Where channel c of tile k of the run lies in a plane.
  int64_t at(int64_t k, int64_t c) const { return c / width * block() + k * width + c % width; }

  /// Where the pixels of a tile lie, from `before` its output's first on; -1 outside the picture.
  template <int Count>
  void pixels(int64_t tile, int64_t before, int64_t (&at)[Count][Count]) const {
    const int64_t each = shape.tilesOfPicture(), inside = tile % each, picture = tile / each * shape.height;
    const int64_t top = inside / shape.across() * Side - before,
                  left = inside % shape.across() * Side - before;
    for (int i = 0; i < Count; ++i)
      for (int j = 0; j < Count; ++j) {
        const int64_t y = top + i, x = left + j;
        const bool outside = y < 0 || x < 0 || y >= shape.height || x >= shape.width;
        at[i][j] = outside ? -1 : ((picture + y) * shape.width + x) * channels;
      }
  }
};

/// Calls work(c, lanes) for every vector of channels.
template <typename Work>
inline void eachVector(int64_t channels, Work work) {
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) work(c, std::integral_constant<int64_t, kLanes>{});
  if (c < channels) work(c, channels - c);
}

/// planes = the transform of some pixels of tile `k` of the run; `zeros` stand for those outside.
template <int Count, auto Map, int Side>
inline void intoPlanes(const TileRun<Side>& t, int64_t k, int64_t before, const float* x, const float* zeros,
                       float* planes) {
  int64_t at[Count][Count];
  t.template pixels<Count>(t.first + k, before, at);
  const float* pixel[Count][Count];
  for (int i = 0; i < Count; ++i)
    for (int j = 0; j < Count; ++j) pixel[i][j] = at[i][j] < 0 ? zeros : x + at[i][j];
  const int64_t plane = t.plane();
  eachVector(t.channels, [&](int64_t c, auto lanes) {
    float* to = planes + t.at(k, c);
    bothSides<Count, Side + 2, Map>(
        [&](int i, int j) { return loadSome(pixel[i][j] + c, lanes); },
        [&](int i, int j, Vec v) { storeVec(to + (i * (Side + 2) + j) * plane, v); });
  });
}

/// planes = B' d B of tile `k` of the run.
template <int Side>
inline void inputTile(const TileRun<Side>& t, int64_t k, const float* x, const float* zeros, float* planes) {
  intoPlanes<Side + 2, Filter<Side>::input>(t, k, 1, x, zeros, planes);
}

/// planes = A dy A': the way back through outputTile.
template <int Side>
inline void upstreamTile(const TileRun<Side>& t, int64_t k, const float* dy, const float* zeros,
                         float* planes) {
  intoPlanes<Side, Filter<Side>::upstream>(t, k, 0, dy, zeros, planes);
}

/// y = A' planes A + bias + residual.
template <int Side>
inline void outputTile(const TileRun<Side>& t, int64_t k, const float* planes, const float* bias,
                       const float* residual, float* y) {
  int64_t pixel[Side][Side];
  t.template pixels<Side>(t.first + k, 0, pixel);
  const int64_t plane = t.plane();
  eachVector(t.channels, [&](int64_t c, auto lanes) {
    const float* from = planes + t.at(k, c);
    const Vec offset = bias ? loadSome(bias + c, lanes) : Vec{};
    bothSides<Side + 2, Side, Filter<Side>::output>(
        [&](int i, int j) { return loadVec(from + (i * (Side + 2) + j) * plane); },
        [&](int i, int j, Vec v) {
          const int64_t at = pixel[i][j];
          if (at < 0) return;
          v += offset;
          storeSome(y + at + c, residual ? v + loadSome(residual + at + c, lanes) : v, lanes);
        });
  });
}

/// planes = G g G' for a pair of an output and an input, with a vector of either; tap(0) to tap(8) are g.
template <int Side, typename Taps>
inline void kernelTile(Taps tap, float* planes, int64_t plane) {
  bothSides<3, Side + 2, Filter<Side>::kernel>(
      [&](int i, int j) { return tap(i * 3 + j); },
      [&](int i, int j, Vec v) { storeVec(planes + (i * (Side + 2) + j) * plane, v); });
}

/// dWeight (+)= G' planes G: the way back through kernelTile.
template <int Side>
inline void kernelGradientTile(const float* planes, int64_t plane, int64_t in, int64_t lanes, float* dWeight,
                               bool accumulate) {
  bothSides<Side + 2, 3, Filter<Side>::kernelGradient>(
      [&](int i, int j) { return loadVec(planes + (i * (Side + 2) + j) * plane); },
      [&](int i, int j, Vec v) {
        float* at = dWeight + (i * 3 + j) * in;
        storeSome(at, accumulate ? loadSome(at, lanes) + v : v, lanes);
      });
}

}  // namespace duet::cpu::DUET_ISA
