// Products of bf16 on Hopper's own instructions, where the device has them and they were seen to work there.
#pragma once

#include <string>

#include "ops/product_tiles.h"

namespace duet::gpu {

using MatrixProduct = TiledProduct<Operand, Operand>;

/// Whether products of Hopper's instructions and portable ones agree on the device in use.
bool productsAgree();

/// Which way this thread's products go from now on, on the device in use, which is `device`: Hopper's if both
/// ways agreed there, tried once; with DUET_PRODUCTS=portable in the environment the portable one, untried.
/// @returns the way, for people
const std::string& chooseProducts(int device);

/// Whether a product of bf16 goes that way.
bool takesHopper(const MatrixProduct& product);
void multiplyOnHopper(const MatrixProduct& product);

}  // namespace duet::gpu
