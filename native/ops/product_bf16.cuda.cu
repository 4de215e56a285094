#include "ops/product_tiles.cuh"

namespace duet::gpu {

template void multiplyTiles<bf16>(const TiledProduct&);

}  // namespace duet::gpu
