#include "ops/product_tiles.cuh"

namespace duet::gpu {

template void multiplyTiles<bf16>(const TiledProduct<Operand, Operand>&);
template void multiplyTiles<bf16>(const TiledProduct<PatchOperand, Operand>&);
template void multiplyTiles<bf16>(const TiledProduct<Operand, PatchOperand>&);

}  // namespace duet::gpu
