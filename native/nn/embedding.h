// Sums of table rows (word, position, type, modality embeddings) and moving rows about.
#pragma once

#include <memory>
#include <vector>

#include "nn/context.h"
#include "nn/parameter.h"

namespace duet {

struct EmbeddingInput {
  Parameter* table;            // entries x D (leading dimensions of 1 are ignored)
  std::vector<int32_t> index;  // one a row; below 0 adds nothing
  std::vector<float> weight;   // empty for 1
};

/// y[r] = sum over inputs of weight[r] * table[index[r]]; indices are checked. @returns f32 rows x D
Var embed(Context& context, std::vector<EmbeddingInput> inputs, int64_t rows, int64_t width);

/// Rows index[r] of x (f32). Distinct indices.
Var gatherRows(Context& context, const Var& x, std::shared_ptr<const std::vector<int32_t>> index);

/// base with rows of x added at index[r] (f32). Distinct indices; base is overwritten.
Var addRows(Context& context, const Var& base, const Var& x,
            std::shared_ptr<const std::vector<int32_t>> index);

}  // namespace duet
