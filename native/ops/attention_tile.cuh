// What the attention kernels are written in. A block of four warps multiplies 64 rows of one side with 64 of
// the other, in panels of 64 columns of a head that lie in shared memory; warp w owns the left rows 16 w to
// 16 w + 15. The 64 x 64 results are spread over the threads' registers, kRows x kColumns each, where a row
// is shared by kLanes neighbouring lanes. TensorTile (bf16) and PlainTile (f32) differ in how they do it:
//
//   products(sum, left, right)      sum += left right^T, over the 64 columns of two panels
//   mix(sum, weights, right, own)   sum += weights right: the weights are a result of products
#pragma once

#include <cmath>

#include "core/philox.h"
#include "gpu/kernel.h"
#include "ops/attention.h"

namespace duet::gpu {

constexpr int kTile = 64;              // rows of a tile, columns of a panel
constexpr int kTileThreads = 128;      // four warps
constexpr int kPanel = kTile * kTile;  // elements

/// Where the 16 bytes of a panel's row lie: turned by the row, so that neither a column of chunks nor a row
/// of them meets a bank twice.
template <typename T>
DUET_DEVICE T* chunkOf(T* panel, int row, int chunk) {
  constexpr int elements = 16 / sizeof(T);
  const int turn = sizeof(T) == 2 ? row % 8 : row / 4 % 8;
  return panel + row * kTile + (chunk ^ turn) * elements;
}

/// The columns of one head of a matrix. `aligned`: they come in whole chunks of 16 bytes.
template <typename T>
struct HeadColumns {
  static constexpr int kElements = 16 / sizeof(T), kChunks = kTile / kElements;
  T* data;
  int64_t stride;
  int size;
  bool aligned;

  DUET_DEVICE HeadColumns(const HeadMatrix& m, int64_t head, int64_t size, bool aligned)
      : data(static_cast<T*>(m.data) + head * size),
        stride(m.stride),
        size(static_cast<int>(size)),
        aligned(aligned) {}

  /// By the block: `rows` rows from `row` on, zeros behind them and behind the head. There after copyWait and
  /// a barrier.
  DUET_DEVICE void load(T* panel, int64_t row, int rows, int which) const {
    const int chunk = static_cast<int>(threadIdx.x) % kChunks, column = which * kTile + chunk * kElements;
    const T* from = data + row * stride + column;
    const int left = size - column;
#pragma unroll
    for (int r = static_cast<int>(threadIdx.x) / kChunks; r < kTile; r += kTileThreads / kChunks) {
      T* to = chunkOf(panel, r, chunk);
      const bool there = r < rows && left > 0;
      if (aligned) {
        copyAsync16(to, there ? from + r * stride : data, there ? 16 : 0);
      } else {
        for (int i = 0; i < kElements; ++i) to[i] = there && i < left ? from[r * stride + i] : T{};
      }
    }
  }

  /// By each warp its own rows.
  DUET_DEVICE void store(T* panel, int64_t row, int rows, int which) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp,
              first = static_cast<int>(threadIdx.x) / kWarp * 16;
    const int chunk = lane % kChunks, column = which * kTile + chunk * kElements;
    const int left = size - column;
#pragma unroll
    for (int r = first + lane / kChunks; r < first + 16; r += kWarp / kChunks) {
      if (r >= rows || left <= 0) continue;
      const T* from = chunkOf(panel, r, chunk);
      T* to = data + (row + r) * stride + column;
      if (aligned)
        *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
      else
        for (int i = 0; i < kElements && i < left; ++i) to[i] = from[i];
    }
  }
};

/// Which of four neighbouring keys of a row of probabilities are kept: a bit each (see dropoutRow of the
/// kernels for processors).
DUET_DEVICE unsigned keptOfFour(const AttentionShape& s, int64_t head, int64_t queryRow, int64_t key) {
  const uint64_t line = static_cast<uint64_t>(queryRow * s.heads + head) << 20;
  const auto words = Philox{s.seed, s.stream}.words(line + static_cast<uint64_t>(key / 4));
  unsigned kept = 0;
  for (unsigned i = 0; i < 4; ++i) kept |= (Philox::uniform(words[i]) >= s.dropout ? 1u : 0u) << i;
  return kept;
}

/// bf16 on tensor cores; see tensor_core.h for who holds what.
struct TensorTile {
  using T = bf16;
  static constexpr int kRows = 2, kColumns = 16, kLanes = 4;
  static constexpr int kMostPanels = 4;  // of results that a thread's registers hold
  static constexpr int kStages = 2;
  static constexpr int kBlocks = 3;  // of a multiprocessor, for narrow heads
  static constexpr int kOwn = 0;     // elements of shared memory that mix needs
  /// Exponentials are powers of two; scores and logarithms come multiplied by this.
  static constexpr float kPerUnit = 1.4426950408889634f;

  struct Sum {
    float part[8][4] = {};
    DUET_DEVICE float& at(int i, int j) { return part[j / 2][2 * i + j % 2]; }
  };
  struct Left {
    uint32_t part[4][4];
  };

  DUET_DEVICE static int lane() { return static_cast<int>(threadIdx.x) % kWarp; }
  DUET_DEVICE static int warpRow() { return static_cast<int>(threadIdx.x) / kWarp * 16; }
  DUET_DEVICE static int row(int i) { return warpRow() + lane() / 4 + 8 * i; }
  DUET_DEVICE static int column(int j) { return j / 2 * 8 + lane() % 4 * 2 + j % 2; }
  DUET_DEVICE static float power(float x) { return fastExp2(x); }
  /// One multiply-add: the product with `top` is the same for a whole row.
  DUET_DEVICE static float powerBelow(float score, float top, float factor) {
    return fastExp2(score * factor - top * factor);
  }

  DUET_DEVICE static Left left(const bf16* panel) {
    const int matrix = lane() / 8, from = warpRow() + matrix % 2 * 8 + lane() % 8;
    Left result;
#pragma unroll
    for (int step = 0; step < 4; ++step)
      loadMatrices(result.part[step], chunkOf(panel, from, 2 * step + matrix / 2));
    return result;
  }

  DUET_DEVICE static void products(Sum& sum, const Left& left, const bf16* right) {
    const int matrix = lane() / 8;
#pragma unroll
    for (int step = 0; step < 4; ++step)
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        uint32_t words[4];
        loadMatrices(words, chunkOf(right, 16 * pair + matrix / 2 * 8 + lane() % 8, 2 * step + matrix % 2));
        mmaBf16(sum.part[2 * pair], left.part[step], {words[0], words[1]});
        mmaBf16(sum.part[2 * pair + 1], left.part[step], {words[2], words[3]});
      }
  }

  /// Results of products already lie as the left side of the next wants them.
  DUET_DEVICE static void mix(Sum& sum, const Sum& weights, const bf16* right, bf16*) {
    const int matrix = lane() / 8;
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const float(&low)[4] = weights.part[2 * step], (&high)[4] = weights.part[2 * step + 1];
      const uint32_t left[4] = {packBf16(low[0], low[1]), packBf16(low[2], low[3]),
                                packBf16(high[0], high[1]), packBf16(high[2], high[3])};
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        uint32_t words[4];
        loadMatricesTurned(words,
                           chunkOf(right, 16 * step + matrix % 2 * 8 + lane() % 8, 2 * pair + matrix / 2));
        mmaBf16(sum.part[2 * pair], left, {words[0], words[1]});
        mmaBf16(sum.part[2 * pair + 1], left, {words[2], words[3]});
      }
    }
  }

  /// A result into the own rows of a panel.
  DUET_DEVICE static void put(bf16* panel, Sum& sum) {
#pragma unroll
    for (int i = 0; i < kRows; ++i)
#pragma unroll
      for (int j = 0; j < kColumns; j += 2)
        reinterpret_cast<uint32_t*>(chunkOf(panel, row(i), j / 2))[lane() % 4] =
            packBf16(sum.at(i, j), sum.at(i, j + 1));
  }

  /// A list with a value for every column of the tile: those of this thread.
  DUET_DEVICE static void ofColumns(const float* list, float (&values)[kColumns]) {
#pragma unroll
    for (int j = 0; j < kColumns; j += 2) {
      const float2 two = *reinterpret_cast<const float2*>(list + column(j));
      values[j] = two.x;
      values[j + 1] = two.y;
    }
  }

  /// Dropout. Four neighbouring keys are drawn at once, by one lane for all that hold some of them.
  struct KeptKeysInColumns {
    uint32_t words[kRows];
    DUET_DEVICE KeptKeysInColumns(const AttentionShape& s, int64_t head, int64_t query, int64_t key) {
      const int t = lane() % 4;
      uint32_t drawn = 0;
#pragma unroll 2
      for (int block = 0; block < 8; ++block)
        drawn |= keptOfFour(s, head, query + row(t % 2), key + 8 * block + t / 2 * 4) << 4 * block;
      const uint32_t other = __shfl_xor_sync(kAllLanes, drawn, 1);
      words[0] = (t % 2 == 0 ? drawn : other) >> t % 2 * 2;
      words[1] = (t % 2 == 0 ? other : drawn) >> t % 2 * 2;
    }
    DUET_DEVICE bool at(int i, int j) const { return words[i] >> (j / 2 * 4 + j % 2) & 1; }
  };
  struct KeptKeysInRows {
    uint32_t words[4];
    DUET_DEVICE KeptKeysInRows(const AttentionShape& s, int64_t head, int64_t query, int64_t key) {
      const int quarter = lane() / 4 % 4, firstKey = warpRow() + lane() / 16 * 4;
      uint32_t drawn = 0;
#pragma unroll 2
      for (int draw = 0; draw < 8; ++draw)  // columns 4 quarter + draw / 4 * 2 + draw % 2, rows draw / 2 % 2
        drawn |= keptOfFour(s, head, query + column(4 * quarter + draw / 4 * 2 + draw % 2),
                            key + firstKey + draw / 2 % 2 * 8)
                 << 4 * draw;
      for (int i = 0; i < 4; ++i) words[i] = __shfl_sync(kAllLanes, drawn, (lane() & ~12) | i * 4) >> quarter;
    }
    DUET_DEVICE bool at(int i, int j) const {
      return words[j / 4] >> ((j / 2 % 2 * 4 + i * 2 + j % 2) * 4) & 1;
    }
  };
};

/// f32 in plain multiply-adds, eight rows by four columns a thread.
struct PlainTile {
  using T = float;
  static constexpr int kRows = 8, kColumns = 4, kLanes = 16;
  static constexpr int kMostPanels = 2;
  static constexpr int kStages = 1;  // twice the bytes: two would not fit everywhere
  static constexpr int kBlocks = 2;
  static constexpr int kOwn = kPanel;
  static constexpr float kPerUnit = 1.0f;

  struct Sum {
    float part[8][4] = {};
    DUET_DEVICE float& at(int i, int j) { return part[i][j]; }
  };
  using Left = const float*;

  DUET_DEVICE static int place() { return static_cast<int>(threadIdx.x) % kLanes; }
  DUET_DEVICE static int row(int i) { return static_cast<int>(threadIdx.x) / kLanes * kRows + i; }
  DUET_DEVICE static int column(int j) { return place() * kColumns + j; }
  DUET_DEVICE static float power(float x) { return expf(x); }
  /// 1 for the largest score, however large it is.
  DUET_DEVICE static float powerBelow(float score, float top, float factor) {
    return expf((score - top) * factor);
  }
  DUET_DEVICE static float4 four(const float* panel, int row, int chunk) {
    return *reinterpret_cast<const float4*>(chunkOf(panel, row, chunk));
  }

  DUET_DEVICE static Left left(const float* panel) { return panel; }

  DUET_DEVICE static void products(Sum& sum, Left left, const float* right) {
#pragma unroll 4
    for (int chunk = 0; chunk < kTile / 4; ++chunk) {
      float4 b[kColumns];
#pragma unroll
      for (int j = 0; j < kColumns; ++j) b[j] = four(right, column(j), chunk);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const float4 a = four(left, row(i), chunk);
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          float& to = sum.part[i][j];
          to += a.x * b[j].x;
          to += a.y * b[j].y;
          to += a.z * b[j].z;
          to += a.w * b[j].w;
        }
      }
    }
  }

  /// Rows of weights are read by the lanes that wrote them.
  DUET_DEVICE static void mix(Sum& sum, Sum& weights, const float* right, float* own) {
    put(own, weights);
    __syncwarp();
#pragma unroll 4
    for (int chunk = 0; chunk < kTile / 4; ++chunk) {
      float4 b[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) b[k] = four(right, 4 * chunk + k, place());
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const float4 a = four(own, row(i), chunk);
        const float factors[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          sum.part[i][0] += factors[k] * b[k].x;
          sum.part[i][1] += factors[k] * b[k].y;
          sum.part[i][2] += factors[k] * b[k].z;
          sum.part[i][3] += factors[k] * b[k].w;
        }
      }
    }
    __syncwarp();
  }

  DUET_DEVICE static void put(float* panel, Sum& sum) {
#pragma unroll
    for (int i = 0; i < kRows; ++i)
      *reinterpret_cast<float4*>(chunkOf(panel, row(i), place())) =
          make_float4(sum.part[i][0], sum.part[i][1], sum.part[i][2], sum.part[i][3]);
  }

  DUET_DEVICE static void ofColumns(const float* list, float (&values)[kColumns]) {
    const float4 all = *reinterpret_cast<const float4*>(list + column(0));
    values[0] = all.x, values[1] = all.y, values[2] = all.z, values[3] = all.w;
  }

  struct KeptKeysInColumns {
    uint32_t words = 0;
    DUET_DEVICE KeptKeysInColumns(const AttentionShape& s, int64_t head, int64_t query, int64_t key) {
      for (int i = 0; i < kRows; ++i) words |= keptOfFour(s, head, query + row(i), key + column(0)) << 4 * i;
    }
    DUET_DEVICE bool at(int i, int j) const { return words >> (4 * i + j) & 1; }
  };
  struct KeptKeysInRows {
    uint32_t words = 0;
    DUET_DEVICE KeptKeysInRows(const AttentionShape& s, int64_t head, int64_t query, int64_t key) {
#pragma unroll 2
      for (int draw = 0; draw < 8; ++draw)
        words |= keptOfFour(s, head, query + column(draw % 4), key + row(draw / 4 * 4)) << 4 * draw;
    }
    DUET_DEVICE bool at(int i, int j) const { return words >> ((i / 4 * 4 + j) * 4 + i % 4) & 1; }
  };
};

/// Over the lanes that share rows; all get the result.
template <class Tile>
DUET_DEVICE float rowSum(float value) {
#pragma unroll
  for (int step = Tile::kLanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

template <class Tile>
DUET_DEVICE float rowMax(float value) {
#pragma unroll
  for (int step = Tile::kLanes / 2; step > 0; step /= 2)
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, step));
  return value;
}

}  // namespace duet::gpu
