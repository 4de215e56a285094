#include "ops/product_tiles.cuh"

namespace duet::gpu {

template void multiplyTiles<tf32>(const TiledProduct<Operand, Operand>&);
template void multiplyTiles<tf32>(const TiledProduct<PatchOperand, Operand>&);
template void multiplyTiles<tf32>(const TiledProduct<Operand, PatchOperand>&);

}  // namespace duet::gpu
