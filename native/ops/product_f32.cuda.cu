#include "ops/product_tiles.cuh"

namespace duet::gpu {

template void multiplyTiles<float>(const TiledProduct<Operand, Operand>&);
template void multiplyTiles<float>(const TiledProduct<PatchOperand, Operand>&);
template void multiplyTiles<float>(const TiledProduct<Operand, PatchOperand>&);

}  // namespace duet::gpu
