// What the two CPU attention kernels share: dropout and masks, the softmax of a block of rows and its
// gradient.
#pragma once

#include <cmath>
#include <limits>

#include "core/philox.h"
#include "ops/attention.h"
#include "ops/scratch.h"
#include "ops/simd.h"

namespace duet::cpu::DUET_ISA {

/// Query rows whose scores exist at one time.
constexpr int64_t kQueryBlock = 48;

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

/// Keep factors of one row of probabilities: 0 or 1 / (1 - p).
inline void dropoutRow(const AttentionShape& s, int64_t head, int64_t queryRow, int64_t keys,
                       float* factors) {
  const Philox generator{s.seed, s.stream};
  const uint64_t line = static_cast<uint64_t>(queryRow * s.heads + head) << 20;  // up to 4M keys a row
  const float kept = 1.0f / (1.0f - s.dropout);
  for (int64_t j = 0; j < keys; j += 4) {
    const auto words = generator.words(line + static_cast<uint64_t>(j / 4));
    for (int64_t i = 0; i < 4 && j + i < keys; ++i)
      factors[j + i] = Philox::uniform(words[static_cast<size_t>(i)]) >= s.dropout ? kept : 0.0f;
  }
}

/// Scores of the keys that a query row may not see become -infinity.
inline void hideKeys(const AttentionShape& s, const AttentionSpan& span, int64_t queryRow, float* row,
                     int64_t keys) {
  constexpr float hidden = -std::numeric_limits<float>::infinity();
  if (s.keyMask) {
    const uint8_t* mask = s.keyMask + span.keyBegin;
    for (int64_t j = 0; j < keys; ++j)
      if (!mask[j]) row[j] = hidden;
  }
  if (s.causal)
    for (int64_t j = queryRow - span.queryBegin + 1; j < keys; ++j) row[j] = hidden;
}

/// Scores become scaled scores plus the bias of their head and places.
inline void addBias(const AttentionShape& s, int64_t head, int64_t query, float* row, int64_t keys) {
  const float* bias = s.bias + (head * s.biasLength + query) * s.biasLength;
#pragma omp simd
  for (int64_t j = 0; j < keys; ++j) row[j] = row[j] * s.scale + bias[j];
}

inline int64_t longest(const AttentionShape& s) {
  int64_t keys = 0;
  for (int64_t i = 0; i < s.sequences; ++i) {
    const int64_t n = s.spans[i].keyEnd - s.spans[i].keyBegin;
    keys = n > keys ? n : keys;
  }
  return keys;
}

/// Scores of some query rows become probabilities (after dropout) but for a factor a row, which is given
/// back; keeps the log of the sum of exponentials.
inline void softmaxRows(const AttentionShape& s, const AttentionSpan& span, int64_t head, int64_t row,
                        int64_t rows, float* scores, int64_t width, float* keep, float* logSum,
                        float (&factors)[kQueryBlock]) {
  const int64_t keys = span.keyEnd - span.keyBegin;
  const float factor = s.bias ? 1.0f : s.scale;
  for (int64_t r = 0; r < rows; ++r) {
    float* line = scores + r * width;
    if (s.bias) addBias(s, head, row + r - span.queryBegin, line, keys);
    hideKeys(s, span, row + r, line, keys);
    float top = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < keys; ++j) top = line[j] > top ? line[j] : top;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < keys; ++j) {
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
/// and dS, written with the same row stride; `d` and `ds` may be `p` and `dp`.
template <typename T>
inline void softmaxGradientRows(const AttentionShape& s, const AttentionSpan& span, int64_t head, int64_t row,
                                int64_t rows, float* p, float* dp, int64_t width, float* keep,
                                const float* logSums, T* d, T* ds) {
  const int64_t keys = span.keyEnd - span.keyBegin;
  const float factor = s.scale;
  for (int64_t r = 0; r < rows; ++r) {
    float* line = p + r * width;
    float* gradient = dp + r * width;
    T *lineOut = d + r * width, *gradientOut = ds + r * width;
    const float logSum = logSums[(row + r) * s.heads + head];
    hideKeys(s, span, row + r, line, keys);
    if (s.dropout > 0.0f) {
      dropoutRow(s, head, row + r, keys, keep);
      for (int64_t j = 0; j < keys; ++j) gradient[j] *= keep[j];
    }
    float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
    for (int64_t j = 0; j < keys; ++j) {
      line[j] = expBelowZero(line[j] * factor - logSum);
      dot += line[j] * gradient[j];
    }
    if (s.dropout > 0.0f) {
      for (int64_t j = 0; j < keys; ++j) {
        writeAs(gradientOut, j, line[j] * (gradient[j] - dot) * factor);
        writeAs(lineOut, j, line[j] * keep[j]);
      }
      continue;
    }
#pragma omp simd
    for (int64_t j = 0; j < keys; ++j) {
      const float probability = line[j];
      writeAs(gradientOut, j, probability * (gradient[j] - dot) * factor);
      if (sizeof(T) < sizeof(float)) writeAs(lineOut, j, probability);
    }
  }
}

}  // namespace duet::cpu::DUET_ISA
