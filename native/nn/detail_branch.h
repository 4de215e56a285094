// The detail branch of a spatio-temporal interaction layer (RDTF, section 3.2): two residual blocks over
// clips * channels pictures whose channels are the frames, as one op.
#pragma once

#include "nn/context.h"
#include "nn/parameter.h"
#include "nn/picture_grid.h"

namespace duet {

/// One block d + conv2(SiLU(norm2(conv1(SiLU(norm1(d)))))), norms of one group over all frames and pixels.
struct DetailBlock {
  Parameter norm1, norm1Bias, conv1, conv1Bias;  // [F], [F], [F, F, 3, 3] as published, [F]
  Parameter norm2, norm2Bias, conv2, conv2Bias;
};

struct DetailBranch {
  DetailBlock blocks[2];
  float epsilon = 1e-6f;
};

/// @param x f32, rows x channels @returns f32, the same shape
Var detailBranch(Context& context, const Var& x, const PictureGrid& grid, DetailBranch& branch);

/// w1 * a + w2 * b with trained scalars; all f32.
Var weightedSum(Context& context, const Var& a, Parameter& w1, const Var& b, Parameter& w2);

}  // namespace duet
