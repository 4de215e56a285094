// The option objects of class Dfgn, read and checked. Names as in src/native.ts.
#pragma once

#include <vector>

#include "binding/convert.h"
#include "stickers/session.h"

namespace duet::binding {

DfgnConfig toDfgnConfig(const Named& named);
DenoisingOptions toDenoisingOptions(const Named& named);
PlannedStep toPlannedStep(const Named& named);
StickerSession::Part toPart(const Named& named);

/// A batch for another thread. Integers are copied: their checked values decide what memory is read. Floats
/// stay where they are and must be held.
struct DenoisingInput {
  DenoisingBatch batch;
  std::vector<int32_t> timesteps, tokens;
  std::vector<uint8_t> frameMask, infoMask, dropText;

  DenoisingBatch view() const;
};
std::vector<DenoisingInput> toDenoisingInputs(const std::vector<Named>& batches,
                                              std::vector<Napi::Value>& held);

struct PredictionInput {
  PredictionBatch batch;
  std::vector<int32_t> tokens;
  std::vector<uint8_t> frameMask, dropText;

  PredictionBatch view() const;
};
PredictionInput toPredictionInput(const Named& named, std::vector<Napi::Value>& held);

}  // namespace duet::binding
