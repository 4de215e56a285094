// Eight lanes work on the frames of one pixel and head, eight frames against eight at a time: a lane holds
// eight columns of every frame and, after a sum over the lanes that turns the matrix, the scores of one query
// frame with all eight keys, so that a softmax needs no other lane. Neighbouring groups take neighbouring
// heads, whose columns lie side by side. Clips of up to eight frames with heads of up to 64 columns are read
// once and stay in registers; longer ones go tile by tile, wider ones panel by panel.
#include "ops/temporal_attention.h"

#include <cmath>

#include "gpu/kernel.h"
#include "gpu/vector.h"
#include "ops/kernels.h"

namespace duet::gpu {
namespace {

constexpr int kFrames = 8;   // of a tile
constexpr int kLanes = 8;    // of a group
constexpr int kColumns = 8;  // of a lane
constexpr int kPanelColumns = kLanes * kColumns;
constexpr unsigned kBlock = 128;

DUET_DEVICE int laneOfGroup() { return static_cast<int>(threadIdx.x) % kLanes; }

/// What a group works on: a tile of frames of a pixel and head.
struct Group {
  int64_t index, head, clip, pixel;
  int tile;
  bool inUse;  // groups behind the last do its work again and keep it to themselves

  DUET_DEVICE Group(const TemporalAttention& c, int tiles) {
    const int64_t count = c.clips * c.pixels * tiles * c.heads, wanted = globalThread() / kLanes;
    inUse = wanted < count;
    index = inUse ? wanted : count - 1;
    head = index % c.heads;
    tile = static_cast<int>(index / c.heads % tiles);
    const int64_t place = index / c.heads / tiles;
    clip = place / c.pixels;
    pixel = place % c.pixels;
  }
};

/// The columns of a head over the frames of a pixel. Aligned: they come eight at a time.
template <typename T, bool kAligned>
struct FrameColumns {
  T* data;
  int64_t stride;
  int frames, size;

  /// Of matrix `which` of those that lie side by side in rows of `width` columns.
  DUET_DEVICE FrameColumns(const void* from, const TemporalAttention& c, const Group& g, int64_t width,
                           int which)
      : data(static_cast<T*>(const_cast<void*>(from)) + (g.clip * c.frames * c.pixels + g.pixel) * width +
             (which * c.heads + g.head) * c.size),
        stride(c.pixels * width),
        frames(static_cast<int>(c.frames)),
        size(static_cast<int>(c.size)) {}

  DUET_DEVICE int column(int panel) const { return panel * kPanelColumns + laneOfGroup() * kColumns; }

  DUET_DEVICE void load(float (&x)[kColumns], int frame, int panel) const {
    const int first = column(panel);
    const T* from = data + frame * stride + first;
    const bool there = frame < frames && first < size;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) x[i] = 0.0f;
    if (!there) return;
    if constexpr (kAligned) {
      loadVector(from, 0, x);
    } else {
#pragma unroll
      for (int i = 0; i < kColumns; ++i)
        if (first + i < size) x[i] = loadAs(from, i);
    }
  }

  DUET_DEVICE void load(float (&x)[kFrames][kColumns], int tile, int panel) const {
#pragma unroll
    for (int i = 0; i < kFrames; ++i) load(x[i], tile * kFrames + i, panel);
  }

  DUET_DEVICE void store(float (&x)[kColumns], int frame, int panel, bool accumulate = false) const {
    const int first = column(panel);
    if (frame >= frames || first >= size) return;
    if (accumulate) {
      float before[kColumns];
      load(before, frame, panel);
#pragma unroll
      for (int i = 0; i < kColumns; ++i) x[i] += before[i];
    }
    T* to = data + frame * stride + first;
    if constexpr (kAligned) {
      storeVector<kColumns>(to, 0, x);
    } else {
#pragma unroll
      for (int i = 0; i < kColumns; ++i)
        if (first + i < size) storeAs(to, i, x[i]);
    }
  }
};

DUET_DEVICE float fromLane(float value, int lane) { return __shfl_sync(kAllLanes, value, lane, kLanes); }

/// Lane i gets the sum of x[i] over the group.
DUET_DEVICE float turnedSum(float (&x)[kLanes]) {
  const int lane = laneOfGroup();
#pragma unroll
  for (int half = kLanes / 2; half > 0; half /= 2)
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const bool upper = (lane & half) != 0;
      const float given = upper ? x[i] : x[i + half], kept = upper ? x[i + half] : x[i];
      x[i] = kept + __shfl_xor_sync(kAllLanes, given, half);
    }
  return x[0];
}

/// to += factor x
DUET_DEVICE void addScaled(float (&to)[kColumns], float factor, const float (&x)[kColumns]) {
#pragma unroll
  for (int i = 0; i < kColumns; ++i) to[i] += factor * x[i];
}

/// Products of the eight rows of a tile, of which lane i gets row i, with row y.
DUET_DEVICE float products(const float (&rows)[kFrames][kColumns], const float (&y)[kColumns]) {
  float parts[kFrames] = {};
#pragma unroll
  for (int i = 0; i < kFrames; ++i)
#pragma unroll
    for (int column = 0; column < kColumns; ++column) parts[i] += rows[i][column] * y[column];
  return turnedSum(parts);
}

/// The same with all rows of another tile, over all panels.
template <bool kOnePanel = false, typename T, bool kAligned>
DUET_DEVICE void products(float (&result)[kFrames], const FrameColumns<T, kAligned>& left, int leftTile,
                          const FrameColumns<T, kAligned>& right, int rightTile) {
#pragma unroll
  for (int j = 0; j < kFrames; ++j) result[j] = 0.0f;
  for (int panel = 0; panel == 0 || (!kOnePanel && panel * kPanelColumns < left.size); ++panel) {
    float rows[kFrames][kColumns], y[kColumns];
    left.load(rows, leftTile, panel);
#pragma unroll
    for (int j = 0; j < kFrames; ++j) {
      right.load(y, rightTile * kFrames + j, panel);
      result[j] += products(rows, y);
    }
  }
}

/// Scores of this lane's query frame become scaled, those of keys that are hidden or not there -infinity.
DUET_DEVICE void scaleAndHide(float (&scores)[kFrames], const TemporalAttention& c, const Group& g, int tile,
                              float scale) {
  const int64_t frame = static_cast<int64_t>(tile) * kFrames + laneOfGroup();
  const bool shown = frame < c.frames && (!c.keep || c.keep[g.clip * c.frames + frame]);
  const unsigned keys = __ballot_sync(kAllLanes, shown) >> (threadIdx.x % kWarp / kLanes * kLanes);
#pragma unroll
  for (int j = 0; j < kFrames; ++j) scores[j] = keys >> j & 1 ? scores[j] * scale : -INFINITY;
}

/// The softmax of a row that comes in parts.
struct RunningSoftmax {
  float top = -INFINITY, sum = 0.0f;

  /// Scores become exponentials. @returns what those of earlier parts are to be multiplied by
  DUET_DEVICE float add(float (&scores)[kFrames]) {
    float best = top;
#pragma unroll
    for (int j = 0; j < kFrames; ++j) best = fmaxf(best, scores[j]);
    const float base = best == -INFINITY ? 0.0f : best, shrink = expf(top - base);
    top = best;
    sum *= shrink;
#pragma unroll
    for (int j = 0; j < kFrames; ++j) {
      scores[j] = expf(scores[j] - base);
      sum += scores[j];
    }
    return shrink;
  }
};

/// kOne: for clips of one tile and heads of one panel.
template <typename T, bool kAligned, bool kOne>
__global__ void __launch_bounds__(kBlock)
    temporalForwardKernel(TemporalAttention c, int tilesOfClip, float scale) {
  const int tiles = kOne ? 1 : tilesOfClip;
  const Group g(c, tiles);
  const int64_t width = c.heads * c.size;
  const FrameColumns<T, kAligned> q(c.qkv, c, g, 3 * width, 0), k(c.qkv, c, g, 3 * width, 1),
      v(c.qkv, c, g, 3 * width, 2), y(c.out, c, g, width, 0);
  const int panels = kOne ? 1 : (q.size + kPanelColumns - 1) / kPanelColumns;
  for (int panel = 0; panel < panels; ++panel) {
    float out[kFrames][kColumns] = {};
    RunningSoftmax softmax;
    for (int tile = 0; tile < tiles; ++tile) {
      float weights[kFrames];
      products<kOne>(weights, q, g.tile, k, tile);
      scaleAndHide(weights, c, g, tile, scale);
      const float shrink = softmax.add(weights);
      if (tile > 0) {
#pragma unroll
        for (int i = 0; i < kFrames; ++i) {
          const float factor = fromLane(shrink, i);
#pragma unroll
          for (int column = 0; column < kColumns; ++column) out[i][column] *= factor;
        }
      }
#pragma unroll
      for (int j = 0; j < kFrames; ++j) {
        float value[kColumns];
        v.load(value, tile * kFrames + j, panel);
#pragma unroll
        for (int i = 0; i < kFrames; ++i) addScaled(out[i], fromLane(weights[j], i), value);
      }
    }
    const float share = 1.0f / softmax.sum;
#pragma unroll
    for (int i = 0; i < kFrames; ++i) {
      const float factor = fromLane(share, i);
#pragma unroll
      for (int column = 0; column < kColumns; ++column) out[i][column] *= factor;
      if (g.inUse) y.store(out[i], g.tile * kFrames + i, panel);
    }
  }
}

// dv = p^T do;  ds = p (do v^T - delta) scale with delta = rowsum(p do v^T);  dq = ds k;  dk = ds^T q

/// For clips of one tile and heads of one panel.
template <typename T, bool kAligned>
__global__ void __launch_bounds__(kBlock) temporalBackwardKernel(TemporalAttention c, float scale) {
  const Group g(c, 1);
  const int64_t width = c.heads * c.size;
  const auto part = [&](const void* from, int which) {
    return FrameColumns<T, kAligned>(from, c, g, 3 * width, which);
  };
  const FrameColumns<T, kAligned> k = part(c.qkv, 1), v = part(c.qkv, 2);
  float q[kFrames][kColumns], dout[kFrames][kColumns];
  part(c.qkv, 0).load(q, 0, 0);
  FrameColumns<T, kAligned>(c.dout, c, g, width, 0).load(dout, 0, 0);

  float p[kFrames], ds[kFrames];
#pragma unroll
  for (int j = 0; j < kFrames; ++j) {
    float key[kColumns], value[kColumns];
    k.load(key, j, 0);
    v.load(value, j, 0);
    p[j] = products(q, key);
    ds[j] = products(dout, value);
  }
  scaleAndHide(p, c, g, 0, scale);
  RunningSoftmax softmax;
  softmax.add(p);
  const float share = 1.0f / softmax.sum;
  float delta = 0.0f;
#pragma unroll
  for (int j = 0; j < kFrames; ++j) {
    p[j] *= share;
    delta += p[j] * ds[j];
  }
#pragma unroll
  for (int j = 0; j < kFrames; ++j) ds[j] = p[j] * (ds[j] - delta) * scale;

  const FrameColumns<T, kAligned> dq = part(c.dqkv, 0), dk = part(c.dqkv, 1), dv = part(c.dqkv, 2);
#pragma unroll
  for (int j = 0; j < kFrames; ++j) {
    float dKey[kColumns] = {}, dValue[kColumns] = {};
#pragma unroll
    for (int i = 0; i < kFrames; ++i) {
      addScaled(dKey, fromLane(ds[j], i), q[i]);
      addScaled(dValue, fromLane(p[j], i), dout[i]);
    }
    if (g.inUse) {
      dk.store(dKey, j, 0, c.accumulate);
      dv.store(dValue, j, 0, c.accumulate);
    }
  }
  k.load(q, 0, 0);  // in the queries' place; near by since they were first read
#pragma unroll
  for (int i = 0; i < kFrames; ++i) {
    float dQuery[kColumns] = {};
#pragma unroll
    for (int j = 0; j < kFrames; ++j) addScaled(dQuery, fromLane(ds[j], i), q[j]);
    if (g.inUse) dq.store(dQuery, i, 0, c.accumulate);
  }
}

/// p and ds of this lane's query frame and a tile of keys, from the log of the row's sum of exponentials and
/// its delta.
template <typename T, bool kAligned>
DUET_DEVICE void gradientOfTile(float (&p)[kFrames], float (&ds)[kFrames], const TemporalAttention& c,
                                const Group& g, const FrameColumns<T, kAligned> (&qkv)[3],
                                const FrameColumns<T, kAligned>& dout, int queryTile, int keyTile,
                                float2 facts, float scale) {
  products(p, qkv[0], queryTile, qkv[1], keyTile);
  products(ds, dout, queryTile, qkv[2], keyTile);
  scaleAndHide(p, c, g, keyTile, scale);
#pragma unroll
  for (int j = 0; j < kFrames; ++j) {
    p[j] = expf(p[j] - facts.x);
    ds[j] = p[j] * (ds[j] - facts.y) * scale;
  }
}

/// dq, and for the other kernel log of the sum of exponentials and delta of every query frame.
template <typename T, bool kAligned>
__global__ void __launch_bounds__(kBlock)
    temporalQueryKernel(TemporalAttention c, int tiles, float scale, float2* facts) {
  const Group g(c, tiles);
  const int64_t width = c.heads * c.size;
  const auto part = [&](const void* from, int which) {
    return FrameColumns<T, kAligned>(from, c, g, 3 * width, which);
  };
  const FrameColumns<T, kAligned> qkv[3] = {part(c.qkv, 0), part(c.qkv, 1), part(c.qkv, 2)},
                                  dq = part(c.dqkv, 0);
  const FrameColumns<T, kAligned> dout(c.dout, c, g, width, 0);
  float p[kFrames], ds[kFrames];
  RunningSoftmax softmax;
  float delta = 0.0f;
  for (int tile = 0; tile < tiles; ++tile) {
    products(p, qkv[0], g.tile, qkv[1], tile);
    products(ds, dout, g.tile, qkv[2], tile);
    scaleAndHide(p, c, g, tile, scale);
    delta *= softmax.add(p);
#pragma unroll
    for (int j = 0; j < kFrames; ++j) delta += p[j] * ds[j];
  }
  const float2 own = make_float2(softmax.top + logf(softmax.sum), delta / softmax.sum);
  if (g.inUse) facts[g.index * kFrames + laneOfGroup()] = own;

  for (int panel = 0; panel * kPanelColumns < dq.size; ++panel) {
    float sum[kFrames][kColumns] = {};
    for (int tile = 0; tile < tiles; ++tile) {
      gradientOfTile(p, ds, c, g, qkv, dout, g.tile, tile, own, scale);
#pragma unroll
      for (int j = 0; j < kFrames; ++j) {
        float key[kColumns];
        qkv[1].load(key, tile * kFrames + j, panel);
#pragma unroll
        for (int i = 0; i < kFrames; ++i) addScaled(sum[i], fromLane(ds[j], i), key);
      }
    }
#pragma unroll
    for (int i = 0; i < kFrames; ++i)
      if (g.inUse) dq.store(sum[i], g.tile * kFrames + i, panel, c.accumulate);
  }
}

template <typename T, bool kAligned>
__global__ void __launch_bounds__(kBlock)
    temporalKeyKernel(TemporalAttention c, int tiles, float scale, const float2* facts) {
  const Group g(c, tiles);
  const int64_t width = c.heads * c.size;
  const auto part = [&](const void* from, int which) {
    return FrameColumns<T, kAligned>(from, c, g, 3 * width, which);
  };
  const FrameColumns<T, kAligned> qkv[3] = {part(c.qkv, 0), part(c.qkv, 1), part(c.qkv, 2)},
                                  dk = part(c.dqkv, 1), dv = part(c.dqkv, 2);
  const FrameColumns<T, kAligned> dout(c.dout, c, g, width, 0);
  for (int panel = 0; panel * kPanelColumns < dk.size; ++panel) {
    float dKeys[kFrames][kColumns] = {}, dValues[kFrames][kColumns] = {};
    for (int tile = 0; tile < tiles; ++tile) {
      const int64_t group = g.index + (tile - g.tile) * c.heads;
      float p[kFrames], ds[kFrames];
      gradientOfTile(p, ds, c, g, qkv, dout, tile, g.tile, facts[group * kFrames + laneOfGroup()], scale);
      // Frames behind the last are zeros in q and dout, so whatever p and ds are, they add nothing.
#pragma unroll
      for (int i = 0; i < kFrames; ++i) {
        float row[kColumns];
        qkv[0].load(row, tile * kFrames + i, panel);
#pragma unroll
        for (int j = 0; j < kFrames; ++j) addScaled(dKeys[j], fromLane(ds[j], i), row);
        dout.load(row, tile * kFrames + i, panel);
#pragma unroll
        for (int j = 0; j < kFrames; ++j) addScaled(dValues[j], fromLane(p[j], i), row);
      }
    }
#pragma unroll
    for (int j = 0; j < kFrames; ++j) {
      if (!g.inUse) continue;
      dk.store(dKeys[j], g.tile * kFrames + j, panel, c.accumulate);
      dv.store(dValues[j], g.tile * kFrames + j, panel, c.accumulate);
    }
  }
}

template <typename T, bool kAligned>
void run(TemporalAttention c, bool back) {
  const Upload<uint8_t> keep(c.keep, c.clips * c.frames);
  c.keep = keep.data();
  const int tiles = static_cast<int>((c.frames + kFrames - 1) / kFrames);
  const int64_t groups = c.clips * c.pixels * c.heads * tiles;
  if (groups == 0) return;
  const float scale = 1.0f / std::sqrt(static_cast<float>(c.size));
  const unsigned blocks = blocksFor(groups * kLanes, kBlock, INT32_MAX);
  const bool one = tiles == 1 && c.size <= kPanelColumns;
  if (!back) {
    launch(one ? temporalForwardKernel<T, kAligned, true> : temporalForwardKernel<T, kAligned, false>, blocks,
           kBlock, 0, c, tiles, scale);
  } else if (one) {
    launch(temporalBackwardKernel<T, kAligned>, blocks, kBlock, 0, c, scale);
  } else {
    const Scratch<float2> facts(groups * kFrames);
    launch(temporalQueryKernel<T, kAligned>, blocks, kBlock, 0, c, tiles, scale, facts.data());
    launch(temporalKeyKernel<T, kAligned>, blocks, kBlock, 0, c, tiles, scale, facts.data());
  }
}

template <typename T>
void run(const TemporalAttention& c, const void* rows, const void* others, bool back) {
  const auto places = reinterpret_cast<uintptr_t>(c.qkv) | reinterpret_cast<uintptr_t>(rows) |
                      reinterpret_cast<uintptr_t>(others);
  places % 16 == 0 && c.size % kColumns == 0 ? run<T, true>(c, back) : run<T, false>(c, back);
}

void forward(const TemporalAttention& c) {
  c.dtype == DType::bf16 ? run<bf16>(c, c.out, c.out, false) : run<float>(c, c.out, c.out, false);
}

void backward(const TemporalAttention& c) {
  c.dtype == DType::bf16 ? run<bf16>(c, c.dout, c.dqkv, true) : run<float>(c, c.dout, c.dqkv, true);
}

}  // namespace

TemporalAttentionKernels temporalAttentionKernels() { return {forward, backward}; }

}  // namespace duet::gpu
