// Flash attention (Dao et al. 2022; Dao 2023, "FlashAttention-2"): a block takes 64 query rows of a sequence
// and head past all of its keys, or 64 key rows past all of its queries, and scores exist in registers only.
// Heads of up to 64 columns stay in one panel; of wider ones ("wide" below) scores are summed panel by panel.
#include "ops/attention.h"

#include <algorithm>

#include "ops/attention_tile.cuh"
#include "ops/kernels.h"

namespace duet::gpu {
namespace {

/// What a block works on: rows from `first` on of one sequence.
struct Piece {
  AttentionSpan span;
  int64_t first;
  int64_t queryPiece;  // of the sequence's first query rows
};

DUET_DEVICE int tileRows(int64_t from, int64_t end) {
  return static_cast<int>(end - from < kTile ? end - from : kTile);
}

/// A bit for each of `count` keys that the mask shows.
DUET_DEVICE uint64_t visibleKeys(const uint8_t* mask, int64_t first, int count) {
  if (!mask) return count == kTile ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const uint64_t low = __ballot_sync(kAllLanes, lane < count && mask[first + lane] != 0);
  const uint64_t high = __ballot_sync(kAllLanes, lane + kWarp < count && mask[first + lane + kWarp] != 0);
  return low | high << kWarp;
}

constexpr float kHidden = -INFINITY;

/// Of scores with keys in columns; `query` and `key` are places in the sequence.
template <class Tile>
DUET_DEVICE void hideKeys(typename Tile::Sum& scores, uint64_t visible, bool causal, int64_t query,
                          int64_t key) {
  const bool diagonal = causal && key + kTile > query + 1;
  if (visible == ~uint64_t{0} && !diagonal) return;
#pragma unroll
  for (int i = 0; i < Tile::kRows; ++i)
#pragma unroll
    for (int j = 0; j < Tile::kColumns; ++j) {
      const int column = Tile::column(j);
      if (!(visible >> column & 1) || (diagonal && key + column > query + Tile::row(i)))
        scores.at(i, j) = kHidden;
    }
}

template <class Tile>
DUET_DEVICE void addBias(typename Tile::Sum& scores, const AttentionShape& s, int64_t head, int64_t query,
                         int queries, int64_t key, int keys) {
#pragma unroll
  for (int i = 0; i < Tile::kRows; ++i) {
    if (Tile::row(i) >= queries) continue;
    const float* bias = s.bias + (head * s.biasLength + query + Tile::row(i)) * s.biasLength + key;
#pragma unroll
    for (int j = 0; j < Tile::kColumns; ++j)
      if (Tile::column(j) < keys) scores.at(i, j) = scores.at(i, j) * s.scale + bias[Tile::column(j)];
  }
}

template <class Tile, bool kWide>
__global__ void __launch_bounds__(kTileThreads, kWide ? 2 : Tile::kBlocks)
    forwardKernel(AttentionForward c, const Piece* pieces, bool aligned) {
  using T = typename Tile::T;
  constexpr int kPanels = kWide ? Tile::kMostPanels : 1;  // of the output, in registers
  DUET_DYNAMIC_SHARED(T, shared);
  T *queryPanel = shared, *keyPanel = shared + kPanel, *valuePanel = shared + 2 * kPanel,
    *own = shared + 3 * kPanel;
  const AttentionShape& s = c.shape;
  const Piece piece = pieces[blockIdx.x];
  const int64_t head = blockIdx.y, query = piece.first - piece.span.queryBegin;
  const int panels = static_cast<int>((s.headSize + kTile - 1) / kTile);
  const int firstPanel = static_cast<int>(blockIdx.z) * kPanels;
  const int queries = tileRows(piece.first, piece.span.queryEnd);
  int64_t keys = piece.span.keyEnd - piece.span.keyBegin;
  if (s.causal && keys > query + queries) keys = query + queries;
  const HeadColumns<T> q(c.q, head, s.headSize, aligned), k(c.k, head, s.headSize, aligned),
      v(c.v, head, s.headSize, aligned), y(c.out, head, s.headSize, aligned);
  const float factor = (s.bias ? 1.0f : s.scale) * Tile::kPerUnit;

  typename Tile::Sum out[kPanels];
  typename Tile::Left left{};
  float top[Tile::kRows], sum[Tile::kRows];
#pragma unroll
  for (int i = 0; i < Tile::kRows; ++i) top[i] = kHidden, sum[i] = 0.0f;

  const auto rows = [&](int64_t key) { return tileRows(key, keys); };
  if (!kWide) {
    q.load(queryPanel, piece.first, queries, 0);
    k.load(keyPanel, piece.span.keyBegin, rows(0), 0);
    copyCommit();
  }
  for (int64_t key = 0; key < keys; key += kTile) {
    const int64_t keyRow = piece.span.keyBegin + key;
    const uint64_t visible = visibleKeys(s.keyMask, keyRow, rows(key));
    typename Tile::Sum scores;
    for (int panel = 0; panel < (kWide ? panels : 1); ++panel) {
      if (kWide) {
        __syncthreads();
        q.load(queryPanel, piece.first, queries, panel);
        k.load(keyPanel, keyRow, rows(key), panel);
        copyCommit();
      }
      copyWait<0>();
      __syncthreads();
      if (!kWide) {  // values come while scores are made, the next keys while values are summed
        v.load(valuePanel, keyRow, rows(key), 0);
        copyCommit();
      }
      if (kWide || key == 0) left = Tile::left(queryPanel);
      Tile::products(scores, left, keyPanel);
    }

    if (s.bias) addBias<Tile>(scores, s, head, query, queries, key, rows(key));
    hideKeys<Tile>(scores, visible, s.causal, query, key);
#pragma unroll
    for (int i = 0; i < Tile::kRows; ++i) {
      float best = top[i];
#pragma unroll
      for (int j = 0; j < Tile::kColumns; ++j) best = fmaxf(best, scores.at(i, j));
      best = rowMax<Tile>(best);
      const float base = best == kHidden ? 0.0f : best;
      const float shrink = Tile::powerBelow(top[i], base, factor);
      top[i] = best;
      sum[i] *= shrink;
#pragma unroll
      for (int j = 0; j < Tile::kColumns; ++j) {
        scores.at(i, j) = Tile::powerBelow(scores.at(i, j), base, factor);
        sum[i] += scores.at(i, j);
#pragma unroll
        for (int panel = 0; panel < kPanels; ++panel) out[panel].at(i, j) *= shrink;
      }
    }
    if (s.dropout > 0.0f) {
      const typename Tile::KeptKeysInColumns kept(s, head, piece.first, key);
#pragma unroll
      for (int i = 0; i < Tile::kRows; ++i)
#pragma unroll
        for (int j = 0; j < Tile::kColumns; ++j)
          if (!kept.at(i, j)) scores.at(i, j) = 0.0f;
    }

#pragma unroll
    for (int panel = 0; panel < kPanels; ++panel) {
      if (firstPanel + panel >= panels) continue;
      if (kWide) {
        __syncthreads();
        v.load(valuePanel, keyRow, rows(key), firstPanel + panel);
        copyCommit();
      }
      copyWait<0>();
      __syncthreads();
      if (!kWide && key + kTile < keys) {
        k.load(keyPanel, keyRow + kTile, rows(key + kTile), 0);
        copyCommit();
      }
      Tile::mix(out[panel], scores, valuePanel, own);
    }
  }

#pragma unroll
  for (int i = 0; i < Tile::kRows; ++i) {
    const float total = rowSum<Tile>(sum[i]);
    const int row = Tile::row(i);
    if (c.logSum && Tile::column(0) == 0 && blockIdx.z == 0 && row < queries)
      c.logSum[(piece.first + row) * s.heads + head] = top[i] * (s.bias ? 1.0f : s.scale) + logf(total);
    const float share = 1.0f / total / (1.0f - s.dropout);
#pragma unroll
    for (int panel = 0; panel < kPanels; ++panel)
#pragma unroll
      for (int j = 0; j < Tile::kColumns; ++j) out[panel].at(i, j) *= share;
  }
  // A warp alone has read its rows of the queries, so their place is free.
#pragma unroll
  for (int panel = 0; panel < kPanels; ++panel) {
    if (firstPanel + panel >= panels) continue;
    __syncwarp();
    Tile::put(queryPanel, out[panel]);
    __syncwarp();
    y.store(queryPanel, piece.first, queries, firstPanel + panel);
  }
}

// With P the probabilities, D = P o M / (1 - p) after dropout, dP = (dO V^T) o M / (1 - p):
//   delta = rowsum(P o dP),  dS = scale P o (dP - delta),  dQ = dS K,  dK = dS^T Q,  dV = D^T dO.

/// Of 64 query rows and one head: log of the sum of exponentials (times kPerUnit) and delta.
struct alignas(16) RowFacts {
  float logSum[kTile], delta[kTile];
};

/// dQ of one panel and the facts of its rows. The first way over the keys gives delta, which the last keys of
/// it know already; dQ is summed from them back to the first.
template <class Tile, bool kWide>
__global__ void __launch_bounds__(kTileThreads, kWide ? 2 : Tile::kBlocks)
    queryGradientKernel(AttentionBackward c, const Piece* pieces, RowFacts* facts, bool aligned) {
  using T = typename Tile::T;
  constexpr int kStages = kWide ? 1 : Tile::kStages;
  DUET_DYNAMIC_SHARED(T, shared);
  T *queryPanel = shared, *gradientPanel = shared + kPanel, *streamed = shared + 2 * kPanel,
    *own = streamed + 2 * kStages * kPanel;
  const AttentionShape& s = c.shape;
  const Piece piece = pieces[blockIdx.x];
  const int64_t head = blockIdx.y, query = piece.first - piece.span.queryBegin;
  const int panels = kWide ? static_cast<int>((s.headSize + kTile - 1) / kTile) : 1;
  const int outPanel = static_cast<int>(blockIdx.z);
  const int queries = tileRows(piece.first, piece.span.queryEnd);
  int64_t keys = piece.span.keyEnd - piece.span.keyBegin;
  if (s.causal && keys > query + queries) keys = query + queries;
  const HeadColumns<T> q(c.q, head, s.headSize, aligned), k(c.k, head, s.headSize, aligned),
      v(c.v, head, s.headSize, aligned), g(c.dOut, head, s.headSize, aligned),
      dq(c.dq, head, s.headSize, aligned);
  const float factor = s.scale * Tile::kPerUnit, keptShare = 1.0f / (1.0f - s.dropout);

  float logSum[Tile::kRows], delta[Tile::kRows] = {};
#pragma unroll
  for (int i = 0; i < Tile::kRows; ++i) {
    const int row = Tile::row(i);
    logSum[i] = row < queries ? c.logSum[(piece.first + row) * s.heads + head] * Tile::kPerUnit : INFINITY;
  }

  const int64_t tiles = (keys + kTile - 1) / kTile, steps = 2 * tiles - 1;
  const auto tileOf = [&](int64_t step) { return step < tiles ? step : 2 * tiles - 2 - step; };
  const auto load = [&](int64_t step, int panel) {
    const int64_t key = tileOf(step) * kTile;
    T* to = streamed + step % kStages * 2 * kPanel;
    k.load(to, piece.span.keyBegin + key, tileRows(key, keys), panel);
    v.load(to + kPanel, piece.span.keyBegin + key, tileRows(key, keys), panel);
  };
  const auto loadOwn = [&](int panel) {
    q.load(queryPanel, piece.first, queries, panel);
    g.load(gradientPanel, piece.first, queries, panel);
  };
  if (!kWide) {
    loadOwn(0);
    load(0, 0);
    copyCommit();
  }

  typename Tile::Sum sum;
  typename Tile::Left qLeft{}, gLeft{};
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t key = tileOf(step) * kTile;
    T *keyPanel = streamed + step % kStages * 2 * kPanel, *valuePanel = keyPanel + kPanel;
    const uint64_t visible = visibleKeys(s.keyMask, piece.span.keyBegin + key, tileRows(key, keys));
    typename Tile::Sum p, dp;
    for (int panel = 0; panel < panels; ++panel) {
      if (kWide || (kStages == 1 && step > 0)) {
        __syncthreads();
        if (kWide) loadOwn(panel);
        load(step, panel);
        copyCommit();
      }
      copyWait<0>();
      __syncthreads();
      if (kStages > 1 && step + 1 < steps) {
        load(step + 1, 0);
        copyCommit();
      }
      if (kWide || step == 0) {
        qLeft = Tile::left(queryPanel);
        gLeft = Tile::left(gradientPanel);
      }
      Tile::products(p, qLeft, keyPanel);
      Tile::products(dp, gLeft, valuePanel);
    }

    hideKeys<Tile>(p, visible, s.causal, query, key);
    if (s.dropout > 0.0f) {
      const typename Tile::KeptKeysInColumns kept(s, head, piece.first, key);
#pragma unroll
      for (int i = 0; i < Tile::kRows; ++i)
#pragma unroll
        for (int j = 0; j < Tile::kColumns; ++j) dp.at(i, j) = kept.at(i, j) ? dp.at(i, j) * keptShare : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < Tile::kRows; ++i)
#pragma unroll
      for (int j = 0; j < Tile::kColumns; ++j) {
        p.at(i, j) = Tile::power(p.at(i, j) * factor - logSum[i]);
        if (step < tiles) delta[i] += p.at(i, j) * dp.at(i, j);
      }
    if (step < tiles - 1) continue;
    if (step == tiles - 1) {
      RowFacts& known = facts[static_cast<int64_t>(blockIdx.x) * s.heads + head];
#pragma unroll
      for (int i = 0; i < Tile::kRows; ++i) {
        delta[i] = rowSum<Tile>(delta[i]);
        if (Tile::column(0) != 0 || blockIdx.z != 0) continue;
        known.logSum[Tile::row(i)] = logSum[i];
        known.delta[Tile::row(i)] = delta[i];
      }
    }
#pragma unroll
    for (int i = 0; i < Tile::kRows; ++i)
#pragma unroll
      for (int j = 0; j < Tile::kColumns; ++j) p.at(i, j) *= (dp.at(i, j) - delta[i]) * s.scale;
    if (kWide) {
      __syncthreads();
      k.load(keyPanel, piece.span.keyBegin + key, tileRows(key, keys), outPanel);
      copyCommit();
      copyWait<0>();
      __syncthreads();
    }
    Tile::mix(sum, p, keyPanel, own);
  }
  __syncwarp();
  Tile::put(queryPanel, sum);
  __syncwarp();
  dq.store(queryPanel, piece.first, queries, outPanel);
}

/// dK and dV of one panel. A block has read all it ever reads of its own rows of K and V before it writes
/// dK and dV, and no other block reads them unless the head is wide.
template <class Tile, bool kWide>
__global__ void __launch_bounds__(kTileThreads, 2)
    keyGradientKernel(AttentionBackward c, const Piece* pieces, const RowFacts* facts, bool aligned) {
  using T = typename Tile::T;
  constexpr int kStages = kWide ? 1 : Tile::kStages;
  DUET_DYNAMIC_SHARED(T, shared);
  T *keyPanel = shared, *valuePanel = shared + kPanel, *streamed = shared + 2 * kPanel,
    *own = streamed + 2 * kStages * kPanel;
  RowFacts* const factsOf = reinterpret_cast<RowFacts*>(own + Tile::kOwn);
  const AttentionShape& s = c.shape;
  const Piece piece = pieces[blockIdx.x];
  const int64_t head = blockIdx.y, key = piece.first - piece.span.keyBegin;
  const int panels = kWide ? static_cast<int>((s.headSize + kTile - 1) / kTile) : 1;
  const int outPanel = static_cast<int>(blockIdx.z);
  const int keys = tileRows(piece.first, piece.span.keyEnd);
  const int64_t queries = piece.span.queryEnd - piece.span.queryBegin;
  const HeadColumns<T> q(c.q, head, s.headSize, aligned), k(c.k, head, s.headSize, aligned),
      v(c.v, head, s.headSize, aligned), g(c.dOut, head, s.headSize, aligned),
      dk(c.dk, head, s.headSize, aligned), dv(c.dv, head, s.headSize, aligned);
  const float factor = s.scale * Tile::kPerUnit, keptShare = 1.0f / (1.0f - s.dropout);
  const uint64_t visible = visibleKeys(s.keyMask, piece.first, keys);

  const int64_t tiles = (queries + kTile - 1) / kTile, firstTile = s.causal ? key / kTile : 0;
  const auto load = [&](int64_t tile, int panel) {
    const int64_t row = piece.span.queryBegin + tile * kTile;
    const int rows = tileRows(row, piece.span.queryEnd);
    T* to = streamed + tile % kStages * 2 * kPanel;
    q.load(to, row, rows, panel);
    g.load(to + kPanel, row, rows, panel);
    constexpr int chunks = sizeof(RowFacts) / 16;
    const int chunk = static_cast<int>(threadIdx.x);
    if (chunk < chunks)
      copyAsync16(reinterpret_cast<uint4*>(&factsOf[tile % kStages]) + chunk,
                  reinterpret_cast<const uint4*>(&facts[(piece.queryPiece + tile) * s.heads + head]) + chunk);
  };
  const auto loadOwn = [&](int panel) {
    k.load(keyPanel, piece.first, keys, panel);
    v.load(valuePanel, piece.first, keys, panel);
  };
  if (!kWide && firstTile < tiles) {
    loadOwn(0);
    load(firstTile, 0);
    copyCommit();
  }

  typename Tile::Sum dKeys, dValues;
  typename Tile::Left kLeft{}, vLeft{};
  for (int64_t tile = firstTile; tile < tiles; ++tile) {
    T *queryPanel = streamed + tile % kStages * 2 * kPanel, *gradientPanel = queryPanel + kPanel;
    typename Tile::Sum p, dp;  // a row is a key, a column a query
    for (int panel = 0; panel < panels; ++panel) {
      if (kWide || (kStages == 1 && tile > firstTile)) {
        __syncthreads();
        if (kWide) loadOwn(panel);
        load(tile, panel);
        copyCommit();
      }
      copyWait<0>();
      __syncthreads();
      if (kStages > 1 && tile + 1 < tiles) {
        load(tile + 1, 0);
        copyCommit();
      }
      if (kWide || tile == firstTile) {
        kLeft = Tile::left(keyPanel);
        vLeft = Tile::left(valuePanel);
      }
      Tile::products(p, kLeft, queryPanel);
      Tile::products(dp, vLeft, gradientPanel);
    }

    const RowFacts& known = factsOf[tile % kStages];
    float logSum[Tile::kColumns], delta[Tile::kColumns];
    Tile::ofColumns(known.logSum, logSum);  // infinite where there is no query: its probabilities are 0
    Tile::ofColumns(known.delta, delta);
    const bool diagonal = s.causal && tile * kTile < key + kTile;
    if (visible != ~uint64_t{0} || diagonal) {
#pragma unroll
      for (int i = 0; i < Tile::kRows; ++i)
#pragma unroll
        for (int j = 0; j < Tile::kColumns; ++j) {
          const int row = Tile::row(i);
          if (!(visible >> row & 1) || (diagonal && key + row > tile * kTile + Tile::column(j)))
            p.at(i, j) = kHidden;
        }
    }
#pragma unroll
    for (int i = 0; i < Tile::kRows; ++i)
#pragma unroll
      for (int j = 0; j < Tile::kColumns; ++j) p.at(i, j) = Tile::power(p.at(i, j) * factor - logSum[j]);
    if (s.dropout > 0.0f) {
      const typename Tile::KeptKeysInRows kept(s, head, piece.span.queryBegin + tile * kTile, key);
#pragma unroll
      for (int i = 0; i < Tile::kRows; ++i)
#pragma unroll
        for (int j = 0; j < Tile::kColumns; ++j) {
          const float keep = kept.at(i, j) ? keptShare : 0.0f, probability = p.at(i, j);
          p.at(i, j) = probability * keep;
          dp.at(i, j) = probability * (dp.at(i, j) * keep - delta[j]) * s.scale;
        }
    } else {
#pragma unroll
      for (int i = 0; i < Tile::kRows; ++i)
#pragma unroll
        for (int j = 0; j < Tile::kColumns; ++j)
          dp.at(i, j) = p.at(i, j) * (dp.at(i, j) - delta[j]) * s.scale;
    }
    if (kWide) {
      __syncthreads();
      const int64_t row = piece.span.queryBegin + tile * kTile;
      q.load(queryPanel, row, tileRows(row, piece.span.queryEnd), outPanel);
      g.load(gradientPanel, row, tileRows(row, piece.span.queryEnd), outPanel);
      copyCommit();
      copyWait<0>();
      __syncthreads();
    }
    Tile::mix(dValues, p, gradientPanel, own);
    Tile::mix(dKeys, dp, queryPanel, own);
  }
  __syncwarp();
  Tile::put(keyPanel, dKeys);
  Tile::put(valuePanel, dValues);
  __syncwarp();
  dk.store(keyPanel, piece.first, keys, outPanel);
  dv.store(valuePanel, piece.first, keys, outPanel);
}

template <typename T>
__global__ void __launch_bounds__(kTileThreads)
    moveKernel(HeadMatrix from, HeadMatrix to, const Piece* pieces, bool queries, int64_t size,
               bool aligned) {
  DUET_DYNAMIC_SHARED(T, panel);
  const Piece piece = pieces[blockIdx.x];
  const int rows = tileRows(piece.first, queries ? piece.span.queryEnd : piece.span.keyEnd);
  const int which = static_cast<int>(blockIdx.z);
  HeadColumns<T>(from, blockIdx.y, size, aligned).load(panel, piece.first, rows, which);
  copyCommit();
  copyWait<0>();
  __syncthreads();
  HeadColumns<T>(to, blockIdx.y, size, aligned).store(panel, piece.first, rows, which);
}

/// The pieces of all sequences: of their queries, then of their keys.
struct Pieces {
  std::vector<Piece> list;
  int64_t queryPieces = 0;

  Pieces(const AttentionShape& s, bool withKeys) {
    std::vector<int64_t> firstOf;
    for (const AttentionSpan* span = s.spans; span < s.spans + s.sequences; ++span) {
      const int64_t begin = static_cast<int64_t>(list.size());
      firstOf.push_back(begin);
      for (int64_t row = span->queryBegin; row < span->queryEnd; row += kTile)
        list.push_back({*span, row, begin});
    }
    queryPieces = static_cast<int64_t>(list.size());
    for (int64_t i = 0; i < s.sequences && withKeys; ++i)
      for (int64_t row = s.spans[i].keyBegin; row < s.spans[i].keyEnd; row += kTile)
        list.push_back({s.spans[i], row, firstOf[static_cast<size_t>(i)]});
  }
};

int64_t rowsOf(const AttentionShape& s, int64_t AttentionSpan::*end) {
  int64_t rows = 0;
  for (int64_t i = 0; i < s.sequences; ++i) rows = std::max(rows, s.spans[i].*end);
  return rows;
}

template <typename T>
bool isAligned(const HeadMatrix& m, int64_t size) {
  constexpr int64_t elements = 16 / sizeof(T);
  return reinterpret_cast<uintptr_t>(m.data) % 16 == 0 && m.stride % elements == 0 && size % elements == 0;
}

unsigned gridOf(int64_t count) { return static_cast<unsigned>(count); }

template <class Tile, bool kWide>
void forwardAs(AttentionForward c) {
  using T = typename Tile::T;
  const AttentionShape& s = c.shape;
  const Pieces pieces(s, false);
  if (pieces.queryPieces == 0) return;
  const Upload<Piece> there(pieces.list.data(), pieces.queryPieces);
  const Upload<uint8_t> mask(s.keyMask, rowsOf(s, &AttentionSpan::keyEnd));
  c.shape.keyMask = mask.data();
  c.shape.spans = nullptr;  // the pieces say it
  bool aligned = true;
  for (const HeadMatrix& m : {c.q, c.k, c.v, c.out}) aligned = aligned && isAligned<T>(m, s.headSize);
  constexpr int64_t columns = kTile * (kWide ? Tile::kMostPanels : 1);
  launch(forwardKernel<Tile, kWide>,
         dim3(gridOf(pieces.queryPieces), gridOf(s.heads), gridOf((s.headSize + columns - 1) / columns)),
         kTileThreads, (3 * kPanel + Tile::kOwn) * sizeof(T), c, there.data(), aligned);
}

template <class Tile>
void forwardOf(const AttentionForward& c) {
  c.shape.headSize > kTile ? forwardAs<Tile, true>(c) : forwardAs<Tile, false>(c);
}

/// A gradient that is to lie where values are still read: elsewhere first, then moved.
template <typename T>
class Aside {
 public:
  Aside(HeadMatrix& m, bool needed, int64_t rows, int64_t width)
      : place_(m), needed_(needed), memory_(needed ? rows * width : 0) {
    if (needed) m = aside_ = {memory_.data(), width};
  }
  void move(const Piece* pieces, int64_t count, bool queries, const AttentionShape& s) const {
    if (!needed_ || count == 0) return;
    launch(moveKernel<T>, dim3(gridOf(count), gridOf(s.heads), gridOf((s.headSize + kTile - 1) / kTile)),
           kTileThreads, kPanel * sizeof(T), aside_, place_, pieces, queries, s.headSize,
           isAligned<T>(aside_, s.headSize) && isAligned<T>(place_, s.headSize));
  }

 private:
  HeadMatrix place_, aside_{};
  bool needed_;
  Scratch<T> memory_;
};

template <class Tile, bool kWide>
void backwardAs(AttentionBackward c) {
  using T = typename Tile::T;
  const AttentionShape& s = c.shape;
  const int64_t width = s.heads * s.headSize, keyRows = rowsOf(s, &AttentionSpan::keyEnd);
  const Pieces pieces(s, true);
  const int64_t queryPieces = pieces.queryPieces, all = static_cast<int64_t>(pieces.list.size());
  const Upload<Piece> there(pieces.list.data(), all);
  const Upload<uint8_t> mask(s.keyMask, keyRows);
  c.shape.keyMask = mask.data();
  const Scratch<RowFacts> facts(queryPieces * s.heads);
  // dK and dV need the queries after dQ is known. They may take the place of their own rows of K and V, which
  // only their block reads, but for the blocks of other panels of a wide head.
  const Aside<T> dq(c.dq, c.dq.data == c.q.data, rowsOf(s, &AttentionSpan::queryEnd), width),
      dk(c.dk, kWide && c.dk.data == c.k.data, keyRows, width),
      dv(c.dv, kWide && c.dv.data == c.v.data, keyRows, width);
  bool aligned = true;
  for (const HeadMatrix& m : {c.q, c.k, c.v, c.dOut, c.dq, c.dk, c.dv})
    aligned = aligned && isAligned<T>(m, s.headSize);
  constexpr int panels = 2 + 2 * (kWide ? 1 : Tile::kStages);
  constexpr size_t bytes = (panels * kPanel + Tile::kOwn) * sizeof(T),
                   factBytes = Tile::kStages * sizeof(RowFacts);
  const auto grid = [&](int64_t count) {
    return dim3(gridOf(count), gridOf(s.heads), gridOf((s.headSize + kTile - 1) / kTile));
  };
  c.shape.spans = nullptr;  // the pieces say it
  const Piece* keyPieces = there.data() + queryPieces;
  if (queryPieces > 0)
    launch(queryGradientKernel<Tile, kWide>, grid(queryPieces), kTileThreads, bytes, c, there.data(),
           facts.data(), aligned);
  if (all > queryPieces)
    launch(keyGradientKernel<Tile, kWide>, grid(all - queryPieces), kTileThreads, bytes + factBytes, c,
           keyPieces, facts.data(), aligned);
  dq.move(there.data(), queryPieces, true, s);
  dk.move(keyPieces, all - queryPieces, false, s);
  dv.move(keyPieces, all - queryPieces, false, s);
}

template <class Tile>
void backwardOf(const AttentionBackward& c) {
  c.shape.headSize > kTile ? backwardAs<Tile, true>(c) : backwardAs<Tile, false>(c);
}

void forward(const AttentionForward& c) {
  c.dtype == DType::bf16 ? forwardOf<TensorTile>(c) : forwardOf<PlainTile>(c);
}

void backward(const AttentionBackward& c) {
  c.dtype == DType::bf16 ? backwardOf<TensorTile>(c) : backwardOf<PlainTile>(c);
}

}  // namespace

AttentionKernels attentionKernels() { return {forward, backward}; }

}  // namespace duet::gpu
