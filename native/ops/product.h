// Matrix products C = A B (+ bias) (+ residual) (+ C), on oneDNN 2.6 or 3.x. A is M x K, B is K x N;
// either may be stored transposed. A frozen B may be packed once into the library's own layout.
#pragma once

#include <memory>

#include "core/arena.h"
#include "core/tensor.h"
#include "ops/convolution.h"
#include "ops/packing.h"

namespace duet {

struct PackedMatrix;  // B in the layout the library likes best for one K x N and data type

struct Matrix {
  const void* data;
  DType dtype;
  int64_t stride;           // elements between stored rows
  bool transposed = false;  // stored as columns x rows
  const PatchGather* patches =
      nullptr;  // the matrix is these, which nobody has written down (see takesPatches)
};

struct Product {
  int64_t m, n, k;
  Matrix a, b;
  const PackedMatrix* packedB = nullptr;  // used instead of b where given
  void* c = nullptr;
  DType cType = DType::f32;
  int64_t cStride = 0;
  const float* bias = nullptr;      // n
  const float* residual = nullptr;  // m x n, may be c
  int64_t residualStride = 0;
  bool accumulate = false;  // c += ...
};

struct ProductKernels {
  void (*multiply)(const Product&);
  /// Packs a matrix into `dtype` for products with it on the right, in memory of `arena` where one is given.
  std::shared_ptr<PackedMatrix> (*pack)(const PackSource& b, DType dtype, Arena* arena);
  size_t (*packedBytes)(const PackedMatrix&);
  /// Whether this machine multiplies matrices of a type (bf16 needs a processor with AVX-512).
  bool (*supports)(DType dtype);
  /// Whether a packed copy pays when more than one product has this matrix on the right.
  bool (*wantsPacked)(const PackSource& b, DType dtype);
  /// Whether `multiply` takes such patches as an operand as they are described.
  bool (*takesPatches)(const PatchGather&);
  /// Rows of a large product to handle at one time: what lies between two products stays in a CPU's cache,
  /// and a GPU is filled.
  int64_t (*rowsTogether)();
};

ProductKernels productKernels();

}  // namespace duet
