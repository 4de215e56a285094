// Bottleneck adapters (Houlsby et al. 2019) as FedDAT uses them (arXiv 2308.12305, section 3.2):
// y = residual + sum_j weight_j (U_j relu(D_j x + d_j) + u_j), one adapter with weight 1 or the dual
// adapter with weights 1/2. Several adapters are one bottleneck of the summed rank: the down
// projections stacked, the up projections side by side and scaled.
#pragma once

#include <vector>

#include "nn/context.h"
#include "nn/parameter.h"

namespace duet {

struct Adapter {
  Parameter downWeight, downBias, upWeight, upBias;  // r x D, r, D x r, D
};

struct AdapterBranch {
  Adapter* adapter;
  float weight;
};

/// @param x f32 rows x D, what the bottleneck reads
/// @param residual what it is added to; null when it is x itself, which is then not kept: backward
///   needs D_j^T gradients only through products with y, see adapter.cpp
Var adapt(Context& context, const Var& x, const Var* residual, std::vector<AdapterBranch> branches);

}  // namespace duet
