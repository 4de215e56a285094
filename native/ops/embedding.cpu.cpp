#include "ops/embedding.h"

#include "ops/kernels.h"
#include "ops/simd.h"

namespace duet::cpu::DUET_ISA {
namespace {

void forward(const EmbeddingTerm* terms, int64_t termCount, float* y, int64_t rows, int64_t columns) {
#pragma omp parallel for schedule(static) if (rows * columns > 16384)
  for (int64_t r = 0; r < rows; ++r) {
    float* out = y + r * columns;
    std::memset(out, 0, static_cast<size_t>(columns) * 4);
    for (int64_t t = 0; t < termCount; ++t) {
      const int32_t entry = terms[t].index[r];
      if (entry < 0) continue;
      const float* from = terms[t].table + static_cast<int64_t>(entry) * columns;
      const float weight = terms[t].weight ? terms[t].weight[r] : 1.0f;
#pragma omp simd
      for (int64_t j = 0; j < columns; ++j) out[j] += weight * from[j];
    }
  }
}

// Rows may name the same entry, so threads share columns, not rows.
void backward(const int32_t* index, const float* weight, const float* dy, float* dtable, int64_t rows,
              int64_t columns) {
  constexpr int64_t kBlock = 64;
#pragma omp parallel for schedule(static) if (rows * columns > 16384)
  for (int64_t begin = 0; begin < columns; begin += kBlock) {
    const int64_t end = begin + kBlock < columns ? begin + kBlock : columns;
    for (int64_t r = 0; r < rows; ++r) {
      if (index[r] < 0) continue;
      float* to = dtable + static_cast<int64_t>(index[r]) * columns;
      const float* from = dy + r * columns;
      const float factor = weight ? weight[r] : 1.0f;
#pragma omp simd
      for (int64_t j = begin; j < end; ++j) to[j] += factor * from[j];
    }
  }
}

}  // namespace

EmbeddingKernels embeddingKernels() { return {forward, backward}; }

}  // namespace duet::cpu::DUET_ISA
