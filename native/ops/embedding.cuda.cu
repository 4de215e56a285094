// Both ways are sums of weighted rows, which the host lists: a row of y has its terms in order, and a row of
// a table has the rows of dy that name it, in their order. A table row that many name is summed in pieces,
// which are added in order.
#include "ops/embedding.h"

#include <algorithm>
#include <vector>

#include "gpu/vector.h"
#include "ops/kernels.h"

namespace duet::gpu {
namespace {

/// Rows that are added one after another: the terms of a table row that more name come in pieces of so many.
constexpr int64_t kPieceRows = 32;

struct Term {
  const float* row;
  float weight;
};

struct Sum {
  float* to;
  int64_t first, count;  // of its terms
  bool accumulate;
};

template <int N>
__global__ void sumKernel(const Term* terms, const Sum* sums, int64_t columns) {
  const Sum sum = sums[blockIdx.x];
  const int64_t step = static_cast<int64_t>(blockDim.x) * gridDim.y * N;
  for (int64_t i = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * N; i < columns;
       i += step) {
    float total[N] = {};
    if (sum.accumulate) loadVector(sum.to, i, total);
#pragma unroll 4
    for (int64_t k = 0; k < sum.count; ++k) {
      const Term term = terms[sum.first + k];
      float v[N];
      loadConstant(term.row, i, v);
      for (int j = 0; j < N; ++j) total[j] += term.weight * v[j];
    }
    storeVector(sum.to, i, total);
  }
}

struct Sums {
  std::vector<Term> terms;
  std::vector<Sum> sums;

  void begin(float* to, bool accumulate) {
    sums.push_back({to, static_cast<int64_t>(terms.size()), 0, accumulate});
  }
  void add(const float* row, float weight) {
    terms.push_back({row, weight});
    ++sums.back().count;
  }

  /// `fit`: all rows begin where vectors of 4 may
  void run(int64_t columns, bool fit) const {
    if (sums.empty() || columns == 0) return;
    const Upload<Term> termsThere(terms.data(), static_cast<int64_t>(terms.size()));
    const Upload<Sum> sumsThere(sums.data(), static_cast<int64_t>(sums.size()));
    const bool four = fit && columns % 4 == 0;
    const int64_t vectors = four ? columns / 4 : columns;
    const unsigned threads = kWarp * blocksFor(vectors, kWarp, kThreads / kWarp);
    const dim3 grid(static_cast<unsigned>(sums.size()), blocksFor(vectors, threads));
    launch(four ? sumKernel<4> : sumKernel<1>, grid, threads, 0, termsThere.data(), sumsThere.data(),
           columns);
  }
};

void forward(const EmbeddingTerm* terms, int64_t termCount, float* y, int64_t rows, int64_t columns) {
  Sums sums;
  sums.sums.reserve(static_cast<size_t>(rows));
  sums.terms.reserve(static_cast<size_t>(rows * termCount));
  bool fit = vectorsFit<4>(y);
  for (int64_t t = 0; t < termCount; ++t) fit = fit && vectorsFit<4>(terms[t].table);
  for (int64_t r = 0; r < rows; ++r) {
    sums.begin(y + r * columns, false);
    for (int64_t t = 0; t < termCount; ++t) {
      const EmbeddingTerm& term = terms[t];
      if (term.index[r] >= 0)
        sums.add(term.table + term.index[r] * columns, term.weight ? term.weight[r] : 1.0f);
    }
  }
  sums.run(columns, fit);
}

void backward(const int32_t* index, const float* weight, const float* dy, float* dtable, int64_t rows,
              int64_t columns) {
  std::vector<int64_t> order;
  order.reserve(static_cast<size_t>(rows));
  for (int64_t r = 0; r < rows; ++r)
    if (index[r] >= 0) order.push_back(r);
  std::stable_sort(order.begin(), order.end(), [=](int64_t a, int64_t b) { return index[a] < index[b]; });
  const auto named = static_cast<int64_t>(order.size());

  // A table row of more than one piece has at most twice as many as full ones.
  const Scratch<float> pieces(2 * (named / kPieceRows) * columns);
  float* piece = pieces.data();
  Sums direct, joined;
  for (int64_t begin = 0, end; begin < named; begin = end) {
    const int32_t entry = index[order[static_cast<size_t>(begin)]];
    for (end = begin; end < named && index[order[static_cast<size_t>(end)]] == entry;) ++end;
    float* to = dtable + entry * columns;
    const bool whole = end - begin <= kPieceRows;
    if (!whole) joined.begin(to, true);
    for (int64_t k = begin; k < end; ++k) {
      if ((k - begin) % kPieceRows == 0) {
        direct.begin(whole ? to : piece, whole);
        if (!whole) {
          joined.add(piece, 1.0f);
          piece += columns;
        }
      }
      const int64_t row = order[static_cast<size_t>(k)];
      direct.add(dy + row * columns, weight ? weight[row] : 1.0f);
    }
  }
  const bool fit = vectorsFit<4>(dy, dtable);
  direct.run(columns, fit);
  joined.run(columns, fit);
}

}  // namespace

EmbeddingKernels embeddingKernels() { return {forward, backward}; }

}  // namespace duet::gpu
