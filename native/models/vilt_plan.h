// How one batch lies in memory. Only real tokens are computed: the valid text tokens of a sample, its
// picture class token and its valid patches are consecutive rows, samples follow one another, and
// the total is rounded up so that product shapes repeat. Padding::keep lays out every padded token
// as the published code does (text, class token, as many patches as the fullest picture has).
#pragma once

#include <memory>
#include <vector>

#include "core/arena.h"
#include "models/vilt_config.h"
#include "nn/attention.h"

namespace duet {

enum class Padding { drop, keep };

struct ViltPlan {
  int64_t batch = 0;
  int64_t rows = 0;        // of all samples, rounded up
  int64_t tokensEach = 0;  // Padding::keep: rows of one sample
  // Text tokens, in order: what they are and where they go.
  std::vector<int32_t> word, type, position;
  std::shared_ptr<std::vector<int32_t>> textRow;
  // Patches: pixels (patches x channels * p * p, in the order of the convolution weight) and place.
  Tensor patches;  // let go of once embedded
  std::shared_ptr<std::vector<int32_t>> patchRow;
  std::vector<int32_t> patchGridIndex;  // row, column pairs
  // One entry a row: modality, class token, the four neighbours in the position table.
  std::vector<int32_t> modality, classToken;
  std::vector<int32_t> positionIndex[4];
  std::vector<float> positionWeight[4];
  // Where samples begin and end, and which rows are hidden as keys (Padding::keep).
  std::vector<int64_t> firstRow, endRow;
  std::vector<uint8_t> keyMask;
};

/// The samples [first, end) of a plan that is embedded already, as rows of their own from `firstRow[first]`
/// of it on.
ViltPlan samplesOf(const ViltPlan& plan, int64_t first, int64_t end);

/// Checks the batch against the model's sizes and lays it out.
ViltPlan planBatch(const ViltConfig& config, const ViltBatch& batch, Arena& arena, Padding padding);

}  // namespace duet
