#include "ops/product_tiles.cuh"

namespace duet::gpu {

template void multiplyTiles<float>(const TiledProduct&);

}  // namespace duet::gpu
