// Gradient checkpointing (Chen et al. 2016, "Training deep nets with sublinear memory cost"): a part of the
// network runs without recording and keeps only its inputs; the way back runs it again, this time recording.
// Costs one more forward pass of the part; the numbers are those of the plain way, bit for bit.
#pragma once

#include <functional>
#include <vector>

#include "nn/context.h"

namespace duet {

using CheckpointedPart = std::function<Var(Context&, const std::vector<Var>&)>;

/// @param inputs everything tracked that `part` reads; parameters need not be named
/// @param part is called twice and may hold only what outlives the backward pass
Var checkpoint(Context& context, const std::vector<Var>& inputs, CheckpointedPart part);

}  // namespace duet
