// Two linear layers with nothing between them as one: W = W2 W1, b = W2 b1. It takes fewer products where the
// second layer is narrower than the first.
#pragma once

#include <memory>

#include "nn/context.h"
#include "nn/parameter_list.h"

namespace duet {

/// Whether the layer W pays for `rows` rows: it costs out x middle x in products and saves rows x (middle -
/// out) x in, on the way back as well.
bool mergingPays(const LinearLayer& first, const LinearLayer& second, int64_t rows);

/// The layer W, made anew in every pass. The bias of `second` is left to the caller. On the way back, after
/// that of all its uses, the gradients are shared out:
///   dW2 += dW W1' + db b1',   dW1 += W2' dW,   db1 += W2' db.
std::shared_ptr<LinearLayer> mergedLinear(Context& context, LinearLayer& first, LinearLayer& second);

}  // namespace duet
