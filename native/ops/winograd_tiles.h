// The linear transforms of Winograd's convolution (winograd.h), for a run of tiles and vectors of channels. A
// plane holds one row of channels for each tile of the run, padded to whole vectors.
#pragma once

#include "ops/scratch.h"
#include "ops/simd.h"
#include "ops/winograd.h"

namespace duet::cpu::DUET_ISA {

constexpr int64_t kPlanes = 16;

/// Planes are this much longer than what they hold, so that they do not fall into the same cache sets.
constexpr int64_t kPlaneGap = 80;

/// The planes of up to `run` tiles from `first` on: blocks of `width` channels, a row of them for each tile.
struct TileRun {
  const WinogradPictures& shape;
  int64_t channels, width, run;
  int64_t first = 0;

  int64_t plane() const { return roundUp(channels, width) * run + kPlaneGap; }
  int64_t block() const { return width * run; }
  /// Where channel c of tile k of the run lies in a plane.
  int64_t at(int64_t k, int64_t c) const { return c / width * block() + k * width + c % width; }

  /// Where pixel (dy, dx) of a tile lies, counted from the first of its output; -1 outside the picture.
  int64_t pixel(int64_t tile, int64_t dy, int64_t dx) const {
    const int64_t each = shape.tilesOfPicture(), inside = tile % each;
    const int64_t y = inside / shape.across() * 2 + dy, x = inside % shape.across() * 2 + dx;
    if (y < 0 || x < 0 || y >= shape.height || x >= shape.width) return -1;
    return ((tile / each * shape.height + y) * shape.width + x) * channels;
  }
};

/// Calls work(c, lanes) for every vector of channels.
template <typename Work>
inline void eachVector(int64_t channels, Work work) {
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) work(c, std::integral_constant<int64_t, kLanes>{});
  if (c < channels) work(c, channels - c);
}

/// planes = B' d B of tile `k` of the run.
inline void inputTile(const TileRun& t, int64_t k, const float* x, const float* zeros, float* planes) {
  const float* pixel[4][4];
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) {
      const int64_t at = t.pixel(t.first + k, i - 1, j - 1);
      pixel[i][j] = at < 0 ? zeros : x + at;
    }
  const int64_t plane = t.plane();
  eachVector(t.channels, [&](int64_t c, auto lanes) {
    Vec rows[4][4];
    for (int j = 0; j < 4; ++j) {
      Vec d[4];
      for (int i = 0; i < 4; ++i) d[i] = loadSome(pixel[i][j] + c, lanes);
      rows[0][j] = d[0] - d[2];
      rows[1][j] = d[1] + d[2];
      rows[2][j] = d[2] - d[1];
      rows[3][j] = d[1] - d[3];
    }
    for (int i = 0; i < 4; ++i) {
      float* line = planes + i * 4 * plane + t.at(k, c);
      storeVec(line, rows[i][0] - rows[i][2]);
      storeVec(line + plane, rows[i][1] + rows[i][2]);
      storeVec(line + 2 * plane, rows[i][2] - rows[i][1]);
      storeVec(line + 3 * plane, rows[i][1] - rows[i][3]);
    }
  });
}

/// y = A' planes A + bias + residual.
inline void outputTile(const TileRun& t, int64_t k, const float* planes, const float* bias,
                       const float* residual, float* y) {
  int64_t pixel[2][2];
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 2; ++j) pixel[i][j] = t.pixel(t.first + k, i, j);
  const int64_t plane = t.plane();
  eachVector(t.channels, [&](int64_t c, auto lanes) {
    const float* from = planes + t.at(k, c);
    Vec rows[2][4];
    for (int j = 0; j < 4; ++j) {
      Vec m[4];
      for (int i = 0; i < 4; ++i) m[i] = loadVec(from + (i * 4 + j) * plane);
      rows[0][j] = m[0] + m[1] + m[2];
      rows[1][j] = m[1] - m[2] - m[3];
    }
    const Vec offset = bias ? loadSome(bias + c, lanes) : Vec{};
    for (int i = 0; i < 2; ++i) {
      const Vec pair[2] = {rows[i][0] + rows[i][1] + rows[i][2] + offset,
                           rows[i][1] - rows[i][2] - rows[i][3] + offset};
      for (int j = 0; j < 2; ++j) {
        const int64_t at = pixel[i][j];
        if (at < 0) continue;
        storeSome(y + at + c, residual ? pair[j] + loadSome(residual + at + c, lanes) : pair[j], lanes);
      }
    }
  });
}

/// planes = A dy A': the way back through outputTile.
inline void upstreamTile(const TileRun& t, int64_t k, const float* dy, const float* zeros, float* planes) {
  const float* pixel[2][2];
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 2; ++j) {
      const int64_t at = t.pixel(t.first + k, i, j);
      pixel[i][j] = at < 0 ? zeros : dy + at;
    }
  const int64_t plane = t.plane();
  eachVector(t.channels, [&](int64_t c, auto lanes) {
    Vec rows[4][2];
    for (int j = 0; j < 2; ++j) {
      const Vec upper = loadSome(pixel[0][j] + c, lanes), lower = loadSome(pixel[1][j] + c, lanes);
      rows[0][j] = upper;
      rows[1][j] = upper + lower;
      rows[2][j] = upper - lower;
      rows[3][j] = -lower;
    }
    for (int i = 0; i < 4; ++i) {
      float* line = planes + i * 4 * plane + t.at(k, c);
      storeVec(line, rows[i][0]);
      storeVec(line + plane, rows[i][0] + rows[i][1]);
      storeVec(line + 2 * plane, rows[i][0] - rows[i][1]);
      storeVec(line + 3 * plane, -rows[i][1]);
    }
  });
}

/// G g G' for the taps of one pair of an output and a vector of inputs; `in` floats lie between taps.
inline void kernelTile(const float* weight, int64_t in, int64_t lanes, Vec (&planes)[kPlanes]) {
  Vec rows[4][3];
  for (int j = 0; j < 3; ++j) {
    Vec tap[3];
    for (int i = 0; i < 3; ++i) tap[i] = loadSome(weight + (i * 3 + j) * in, lanes);
    const Vec ends = tap[0] + tap[2];
    rows[0][j] = tap[0];
    rows[1][j] = 0.5f * (ends + tap[1]);
    rows[2][j] = 0.5f * (ends - tap[1]);
    rows[3][j] = tap[2];
  }
  for (int i = 0; i < 4; ++i) {
    const Vec ends = rows[i][0] + rows[i][2];
    planes[i * 4] = rows[i][0];
    planes[i * 4 + 1] = 0.5f * (ends + rows[i][1]);
    planes[i * 4 + 2] = 0.5f * (ends - rows[i][1]);
    planes[i * 4 + 3] = rows[i][2];
  }
}

/// dWeight (+)= G' planes G: the way back through kernelTile.
inline void kernelGradientTile(const float* planes, int64_t plane, int64_t in, int64_t lanes, float* dWeight,
                               bool accumulate) {
  Vec rows[3][4];
  for (int j = 0; j < 4; ++j) {
    Vec u[4];
    for (int i = 0; i < 4; ++i) u[i] = loadVec(planes + (i * 4 + j) * plane);
    const Vec sum = 0.5f * (u[1] + u[2]);
    rows[0][j] = u[0] + sum;
    rows[1][j] = 0.5f * (u[1] - u[2]);
    rows[2][j] = sum + u[3];
  }
  for (int i = 0; i < 3; ++i) {
    const Vec sum = 0.5f * (rows[i][1] + rows[i][2]);
    const Vec line[3] = {rows[i][0] + sum, 0.5f * (rows[i][1] - rows[i][2]), sum + rows[i][3]};
    for (int j = 0; j < 3; ++j) {
      float* at = dWeight + (i * 3 + j) * in;
      storeSome(at, accumulate ? loadSome(at, lanes) + line[j] : line[j], lanes);
    }
  }
}

}  // namespace duet::cpu::DUET_ISA
