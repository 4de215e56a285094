// Sums of table rows: y[r] = sum over tables t of weight_t[r] * table_t[index_t[r]]. Word, position,
// type and modality embeddings are one such sum; a bilinearly interpolated position table is four.
#pragma once

#include "core/tensor.h"

namespace duet {

struct EmbeddingTerm {
  const float* table;    // entries x columns
  const int32_t* index;  // rows; below 0 adds nothing
  const float* weight;   // rows, or null for 1
};

struct EmbeddingKernels {
  void (*forward)(const EmbeddingTerm* terms, int64_t termCount, float* y, int64_t rows, int64_t columns);
  /// dtable[index[r]] += weight[r] * dy[r], in row order
  void (*backward)(const int32_t* index, const float* weight, const float* dy, float* dtable, int64_t rows,
                   int64_t columns);
};

}  // namespace duet
