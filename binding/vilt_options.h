// The option objects of class Vilt, read and checked. Names as in src/native.ts.
#pragma once

#include <vector>

#include "binding/convert.h"
#include "core/system.h"
#include "federated/session.h"
#include "ops/device.h"

namespace duet::binding {

ViltConfig toViltConfig(const Named& named);

struct ViltOptions {
  Device device;
  RuntimeOptions runtime;
  int threads = 0;
};
ViltOptions toViltOptions(const Named& named);

TrainingOptions toTrainingOptions(const Named& named);
AdapterMode toAdapterMode(const Named& named);
/// Any integer from 0 to 2^53 - 1.
uint64_t toSeed(const Named& named);

/// A batch for another thread. The integers are copied: their checked values decide what memory is read.
/// The pixels and targets stay where they are and must be held.
struct BatchInput {
  int64_t batch = 0, textLength = 0, height = 0, width = 0;
  std::vector<int32_t> inputIds, tokenTypeIds;
  std::vector<uint8_t> attentionMask, pixelMask;
  std::span<const float> pixelValues, targets;
  std::vector<Napi::Value> held;

  ViltBatch view() const;
};
BatchInput toBatch(const Named& named);

}  // namespace duet::binding
