// Attention on the CPU: one task per sequence and head, a block of query rows at a time. All
// products go through tile_product.h, whose right side has unit stride; the left one may be read along
// either axis, so only K and V are ever transposed.
#include <algorithm>
#include <cmath>

#include "ops/attention_rows.h"
#include "ops/kernels.h"
#include "ops/scratch.h"
#include "ops/tile_product.h"
#include "ops/transpose.h"

namespace duet::cpu::DUET_ISA {

// attention_bf16.cpu.cpp
bool hasBf16Dot();
void bf16DotForward(const AttentionForward& c);
void bf16DotBackward(const AttentionBackward& c);

namespace {

/// c (+)= a b; `columns` is a multiple of the lanes (buffers are padded to it).
void multiply(int64_t rows, int64_t columns, int64_t count, const float* a, int64_t aRow, int64_t aStep,
              const float* b, int64_t bRow, float* c, int64_t cRow, bool accumulate) {
  tileProduct({rows, columns, count, a, aRow, aStep, b, bRow, kProductColumns, c, cRow, accumulate});
}

/// Rows of one head as f32, `width` >= headSize columns with zeros behind.
template <typename T>
void copyHead(const HeadMatrix& m, int64_t row, int64_t rows, int64_t head, int64_t size, float* to,
              int64_t width) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* from = static_cast<const T*>(m.data) + (row + r) * m.stride + head * size;
    float* out = to + r * width;
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) out[i] = readAs(from, i);
    for (int64_t i = size; i < width; ++i) out[i] = 0.0f;
  }
}

/// The transpose: size x rows, row stride `width` >= rows with zeros behind.
template <typename T>
void copyHeadTransposed(const HeadMatrix& m, int64_t row, int64_t rows, int64_t head, int64_t size, float* to,
                        int64_t width) {
  for (int64_t r = 0; r < width; r += kLanes)
    for (int64_t i = 0; i < size; i += kLanes) {
      const int64_t count = std::min<int64_t>(kLanes, size - i);
      const T* from = static_cast<const T*>(m.data) + (row + r) * m.stride + head * size + i;
      Vec block[kLanes];
#pragma GCC unroll 16
      for (int64_t k = 0; k < kLanes; ++k)
        block[k] = r + k < rows ? loadSome(from + k * m.stride, count) : Vec{};
      transpose(block);
      for (int64_t k = 0; k < count; ++k) storeVec(to + (i + k) * width + r, block[k]);
    }
}

template <typename T>
void storeHead(const HeadMatrix& m, int64_t row, int64_t rows, int64_t head, int64_t size, const float* from,
               int64_t width, const float* factors = nullptr) {
  for (int64_t r = 0; r < rows; ++r) {
    T* to = static_cast<T*>(m.data) + (row + r) * m.stride + head * size;
    const float* in = from + r * width;
    const float factor = factors ? factors[r] : 1.0f;
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) writeAs(to, i, in[i] * factor);
  }
}

/// Scores of some query rows become probabilities (after dropout) but for a factor a row, which is given
/// back; keeps the log of the sum of exponentials.
void softmaxRows(const AttentionShape& s, const AttentionSpan& span, int64_t head, int64_t row, int64_t rows,
                 float* scores, int64_t width, float* keep, float* logSum, float (&factors)[kQueryBlock]) {
  const int64_t keys = span.keyEnd - span.keyBegin;
  const float factor = s.bias ? 1.0f : s.scale;
  for (int64_t r = 0; r < rows; ++r) {
    float* line = scores + r * width;
    if (s.bias) addBias(s, head, row + r - span.queryBegin, line, keys);
    hideKeys(s, span, row + r, line, keys, width);
    float top = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < width; ++j) top = line[j] > top ? line[j] : top;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < width; ++j) {
      line[j] = expBelowZero((line[j] - top) * factor);
      sum += line[j];
    }
    factors[r] = 1.0f / sum;
    if (logSum) logSum[(row + r) * s.heads + head] = top * factor + std::log(sum);
    if (s.dropout > 0.0f) {
      dropoutRow(s, head, row + r, keys, keep);
      for (int64_t j = 0; j < keys; ++j) line[j] *= keep[j];
    }
  }
}

/// Scores `p` and gradients `dp` of the probabilities of some rows become D (the probabilities after dropout)
/// and dS in their places.
void softmaxGradientRows(const AttentionShape& s, const AttentionSpan& span, int64_t head, int64_t row,
                         int64_t rows, float* p, float* dp, int64_t width, float* keep,
                         const float* logSums) {
  const int64_t keys = span.keyEnd - span.keyBegin;
  const float factor = s.scale;
  for (int64_t r = 0; r < rows; ++r) {
    float* line = p + r * width;
    float* gradient = dp + r * width;
    const float logSum = logSums[(row + r) * s.heads + head];
    hideKeys(s, span, row + r, line, keys, width);
    if (s.dropout > 0.0f) {
      dropoutRow(s, head, row + r, keys, keep);
      for (int64_t j = 0; j < keys; ++j) gradient[j] *= keep[j];
    }
    float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
    for (int64_t j = 0; j < width; ++j) {
      line[j] = expBelowZero(line[j] * factor - logSum);
      dot += line[j] * gradient[j];
    }
    if (s.dropout > 0.0f) {
      for (int64_t j = 0; j < keys; ++j) {
        gradient[j] = line[j] * (gradient[j] - dot) * factor;
        line[j] *= keep[j];
      }
      continue;
    }
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) gradient[j] = line[j] * (gradient[j] - dot) * factor;
  }
}

template <typename T>
void forwardAs(const AttentionForward& c) {
  const AttentionShape& s = c.shape;
  const int64_t size = s.headSize, wide = roundUp(size, kLanes), most = roundUp(longest(s), kLanes);
  const Scratch all(size * most + most * wide + kQueryBlock * (2 * wide + most) + most);
#pragma omp parallel
  {
    Share scratch(all);
    float* kTransposed = scratch.take(size * most);
    float* v = scratch.take(most * wide);
    float* q = scratch.take(kQueryBlock * wide);
    float* out = scratch.take(kQueryBlock * wide);
    float* scores = scratch.take(kQueryBlock * most);
    float* keep = scratch.take(most);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < s.sequences * s.heads; ++task) {
      const AttentionSpan& span = s.spans[task / s.heads];
      const int64_t head = task % s.heads, keys = span.keyEnd - span.keyBegin, width = roundUp(keys, kLanes);
      if (span.queryEnd == span.queryBegin) continue;
      copyHeadTransposed<T>(c.k, span.keyBegin, keys, head, size, kTransposed, width);
      copyHead<T>(c.v, span.keyBegin, keys, head, size, v, wide);
      for (int64_t row = span.queryBegin; row < span.queryEnd; row += kQueryBlock) {
        const int64_t rows = span.queryEnd - row < kQueryBlock ? span.queryEnd - row : kQueryBlock;
        copyHead<T>(c.q, row, rows, head, size, q, wide);
        multiply(rows, width, size, q, wide, 1, kTransposed, width, scores, width, false);
        float factors[kQueryBlock];
        softmaxRows(s, span, head, row, rows, scores, width, keep, c.logSum, factors);
        multiply(rows, wide, keys, scores, width, 1, v, wide, out, wide, false);
        storeHead<T>(c.out, row, rows, head, size, out, wide, factors);
      }
    }
  }
}

// With P the probabilities and D = P o M / (1 - p) after dropout:
//   dV = D^T dO,  dD = dO V^T,  dP = dD o M / (1 - p),
//   dS = P o (dP - rowsum(P o dP)),  dQ = scale dS K,  dK = scale dS^T Q.
template <typename T>
void backwardAs(const AttentionBackward& c) {
  const AttentionShape& s = c.shape;
  const int64_t size = s.headSize, wide = roundUp(size, kLanes), most = roundUp(longest(s), kLanes);
  const Scratch all(2 * size * most + 3 * most * wide + kQueryBlock * (3 * wide + 2 * most) + most);
#pragma omp parallel
  {
    Share scratch(all);
    float* kTransposed = scratch.take(size * most);
    float* vTransposed = scratch.take(size * most);
    float* k = scratch.take(most * wide);
    float* dk = scratch.take(most * wide);
    float* dv = scratch.take(most * wide);
    float* q = scratch.take(kQueryBlock * wide);
    float* dOut = scratch.take(kQueryBlock * wide);
    float* dq = scratch.take(kQueryBlock * wide);
    float* p = scratch.take(kQueryBlock * most);
    float* dp = scratch.take(kQueryBlock * most);
    float* keep = scratch.take(most);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < s.sequences * s.heads; ++task) {
      const AttentionSpan& span = s.spans[task / s.heads];
      const int64_t head = task % s.heads, keys = span.keyEnd - span.keyBegin, width = roundUp(keys, kLanes);
      copyHeadTransposed<T>(c.k, span.keyBegin, keys, head, size, kTransposed, width);
      copyHeadTransposed<T>(c.v, span.keyBegin, keys, head, size, vTransposed, width);
      copyHead<T>(c.k, span.keyBegin, keys, head, size, k, wide);
      std::memset(dk, 0, static_cast<size_t>(keys * wide) * 4);
      std::memset(dv, 0, static_cast<size_t>(keys * wide) * 4);
      for (int64_t row = span.queryBegin; row < span.queryEnd; row += kQueryBlock) {
        const int64_t rows = span.queryEnd - row < kQueryBlock ? span.queryEnd - row : kQueryBlock;
        copyHead<T>(c.q, row, rows, head, size, q, wide);
        copyHead<T>(c.dOut, row, rows, head, size, dOut, wide);
        multiply(rows, width, size, q, wide, 1, kTransposed, width, p, width, false);
        multiply(rows, width, size, dOut, wide, 1, vTransposed, width, dp, width, false);
        softmaxGradientRows(s, span, head, row, rows, p, dp, width, keep, c.logSum);
        multiply(rows, wide, keys, dp, width, 1, k, wide, dq, wide, false);
        storeHead<T>(c.dq, row, rows, head, size, dq, wide);
        multiply(keys, wide, rows, dp, 1, width, q, wide, dk, wide, true);
        multiply(keys, wide, rows, p, 1, width, dOut, wide, dv, wide, true);
      }
      storeHead<T>(c.dk, span.keyBegin, keys, head, size, dk, wide);
      storeHead<T>(c.dv, span.keyBegin, keys, head, size, dv, wide);
    }
  }
}

void forward(const AttentionForward& c) {
  if (c.dtype == DType::bf16 && hasBf16Dot())
    bf16DotForward(c);
  else
    c.dtype == DType::bf16 ? forwardAs<bf16>(c) : forwardAs<float>(c);
}

void backward(const AttentionBackward& c) {
  if (c.dtype == DType::bf16 && hasBf16Dot())
    bf16DotBackward(c);
  else
    c.dtype == DType::bf16 ? backwardAs<bf16>(c) : backwardAs<float>(c);
}

}  // namespace

AttentionKernels attentionKernels() { return {forward, backward}; }

}  // namespace duet::cpu::DUET_ISA
