#include "core/arena.h"
#include "gpu/kernel.h"
#include "ops/kernels.h"
#include "ops/product_finish.cuh"
#include "ops/product_hopper.h"

namespace duet {

struct PackedMatrix {
  Tensor storage;
  Matrix matrix;
};

namespace gpu {
namespace {

bool supports(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16; }

void requireSupported(DType dtype) {
  if (!supports(dtype)) fail(Code::Internal, "Matrix products take f32 or bf16, not ", nameOf(dtype));
}

/// Whether every row begins at a multiple of some bytes; a null is as aligned as can be.
bool alignedTo(int64_t bytes, const void* data, int64_t rowBytes) {
  return (static_cast<int64_t>(reinterpret_cast<uintptr_t>(data)) | rowBytes) % bytes == 0;
}

Operand operandOf(const Matrix& matrix, bool alongK) {
  const int64_t rowBytes = matrix.stride * static_cast<int64_t>(sizeOf(matrix.dtype));
  return {matrix.data, matrix.stride, alongK, alignedTo(16, matrix.data, rowBytes)};
}

/// A chunk of 16 bytes belongs to one pixel. Back through a stride most patches would be zeros.
bool takesPatches(const PatchGather& c) {
  const int64_t pixelBytes = c.channels * static_cast<int64_t>(sizeOf(c.dtype));
  return alignedTo(16, c.x, pixelBytes) && (!c.transposed || c.stride == 1);
}

PatchOperand patchOperandOf(const PatchGather& c) {
  return {c.x,
          static_cast<int>(c.firstRow),
          Pixels(c.firstRow + c.rows, c.outHeight, c.outWidth),
          static_cast<int>(c.height),
          static_cast<int>(c.width),
          static_cast<int>(c.channels),
          static_cast<int>(c.size),
          static_cast<int>(c.stride),
          static_cast<int>(c.transposed ? c.padding : -c.padding),
          c.transposed ? -1 : 1,
          Divisor(c.channels)};
}

Finish finishOf(const Product& c) {
  const auto four = static_cast<int64_t>(4 * sizeOf(c.cType));
  const bool inFours = alignedTo(four, c.c, four / 4 * c.cStride) && alignedTo(16, c.bias, 0) &&
                       alignedTo(16, c.residual, c.residual ? 4 * c.residualStride : 0);
  return {c.c,
          c.bias,
          c.residual,
          c.cStride,
          c.residualStride,
          static_cast<int>(c.m),
          static_cast<int>(c.n),
          c.cType == DType::bf16,
          c.accumulate,
          inFours};
}

/// f32 operands are taken as Float: float or tf32.
template <typename Float>
void multiply(const Product& c) {
  const Matrix& b = c.packedB ? c.packedB->matrix : c.b;
  for (DType dtype : {c.a.dtype, b.dtype, c.cType}) requireSupported(dtype);
  if (c.a.dtype != b.dtype)
    fail(Code::Internal, "Matrix products take operands of one type, not ", nameOf(c.a.dtype), " and ",
         nameOf(b.dtype));
  for (int64_t size : {c.m, c.n, c.k})
    if (size > INT32_MAX) fail(Code::Unsupported, "Matrix products have at most 2^31 - 1 rows, not ", size);
  if (c.m == 0 || c.n == 0) return;
  const auto run = [&](const auto& left, const auto& right) {
    const TiledProduct<std::decay_t<decltype(left)>, std::decay_t<decltype(right)>> product{
        left, right, static_cast<int>(c.m), static_cast<int>(c.n), static_cast<int>(c.k), finishOf(c)};
    if constexpr (std::is_same_v<std::decay_t<decltype(product)>, MatrixProduct>)
      if (b.dtype == DType::bf16 && takesHopper(product)) return multiplyOnHopper(product);
    b.dtype == DType::bf16 ? multiplyTiles<bf16>(product) : multiplyTiles<Float>(product);
  };
  if (c.a.patches)
    run(patchOperandOf(*c.a.patches), operandOf(b, b.transposed));
  else if (b.patches)
    run(operandOf(c.a, !c.a.transposed), patchOperandOf(*b.patches));
  else
    run(operandOf(c.a, !c.a.transposed), operandOf(b, b.transposed));
}

constexpr unsigned kPackRows = 8;

template <typename T>
__global__ void packKernel(PackSource from, int64_t rows, int64_t columns, T* to, int64_t stride,
                           bool inFours) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kPackRows + threadIdx.y;
  if (row >= rows) return;
  const float* source = from.data + (from.transposed ? row * from.stride : from.row(row));
  T* target = to + row * stride;
  for (int64_t column = 4 * threadIdx.x; column < columns; column += 4 * kWarp) {
    if (inFours && column + 4 <= columns) {
      float four[4] = {};
      addFour(four, source + column);
      storeFour(target + column, four);
    } else {
      for (int64_t i = column; i < column + 4 && i < columns; ++i) storeAs(target, i, source[i]);
    }
  }
}

template <typename T>
void packAs(const PackSource& from, int64_t rows, int64_t columns, const Tensor& to, int64_t stride) {
  const bool inFours = alignedTo(16, from.data, 4 * (from.stride | from.blockStride));
  launch(packKernel<T>, blocksFor(rows, kPackRows, INT32_MAX), dim3(kWarp, kPackRows), 0, from, rows, columns,
         to.data<T>(), stride, inFours);
}

/// A copy as it is stored, in the type of the product, whose rows begin at multiples of 16 bytes.
std::shared_ptr<PackedMatrix> pack(const PackSource& b, DType dtype, Arena* arena) {
  requireSupported(dtype);
  const int64_t rows = b.transposed ? b.n : b.k, columns = b.transposed ? b.k : b.n;
  const auto unit = static_cast<int64_t>(16 / sizeOf(dtype));
  const int64_t stride = (columns + unit - 1) / unit * unit;
  const auto packed = std::make_shared<PackedMatrix>();
  packed->storage = arena ? arena->empty({rows, stride}, dtype) : Tensor::zeros({rows, stride}, dtype);
  packed->matrix = {packed->storage.raw(), dtype, stride, b.transposed};
  dtype == DType::bf16 ? packAs<bf16>(b, rows, columns, packed->storage, stride)
                       : packAs<float>(b, rows, columns, packed->storage, stride);
  return packed;
}

size_t packedBytes(const PackedMatrix& packed) { return packed.storage.bytes(); }

/// Rows of f32 are read as well where they are.
bool wantsPacked(const PackSource&, DType dtype) { return dtype != DType::f32; }

/// Tiles of 128 x 128 for a few waves of the multiprocessors, already where a product is narrow.
int64_t rowsTogether() { return int64_t{64} * multiprocessors(); }

}  // namespace

ProductKernels productKernels() {
  return {multiply<float>, pack, packedBytes, supports, wantsPacked, takesPatches, rowsTogether};
}

ProductKernels tf32ProductKernels() {
  ProductKernels kernels = productKernels();
  kernels.multiply = multiply<tf32>;
  return kernels;
}

}  // namespace gpu
}  // namespace duet
