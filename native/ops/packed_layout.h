// The size of a packed matrix on this machine, without packing it.
#pragma once

#include "core/tensor.h"

namespace duet {

size_t packedLayoutBytes(int64_t k, int64_t n, DType dtype);

}  // namespace duet
