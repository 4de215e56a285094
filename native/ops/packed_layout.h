// What oneDNN makes of a packed matrix on this machine: its size without packing it, and its bytes, to
// compare ours with.
#pragma once

#include "ops/packing.h"

namespace duet {

size_t packedLayoutBytes(int64_t k, int64_t n, DType dtype);

/// The matrix packed by oneDNN's own reorder. Unsupported where its layout is not that of ops/packing.h.
Tensor packedByLibrary(const PackSource& b, DType dtype);

}  // namespace duet
