#include "ops/packing.h"

#include <algorithm>

#include "ops/kernels.h"
#include "ops/scratch.h"
#include "ops/transpose.h"

namespace duet::cpu::DUET_ISA {
namespace {

// What a 32-bit word of the packed matrix holds: one f32, or the bf16 of two rows.
template <typename T>
constexpr int64_t kRowsOfWord = 4 / sizeof(T);

float valueAt(const PackSource& c, int64_t k, int64_t n) {
  if (k >= c.k || n >= c.n) return 0.0f;
  return c.transposed ? c.data[n * c.stride + k] : c.data[c.row(k) + n];
}

/// Any rows of some columns, element by element.
template <typename T>
void packSome(const PackSource& c, int64_t firstRow, int64_t rows, int64_t column, int64_t columns, T* to) {
  constexpr int64_t each = kRowsOfWord<T>;
  for (int64_t k = 0; k < rows; ++k)
    for (int64_t n = 0; n < columns; ++n)
      writeAs(to, (k / each * kPackedColumns + n) * each + k % each, valueAt(c, firstRow + k, column + n));
}

inline Vec wordsOfRows(const float* first, const float*, float) { return loadVec(first); }
inline Vec wordsOfRows(const float* first, const float* second, bf16) {
  Vec low = loadVec(first), high = loadVec(second);
  bf16 halves[2][kLanes];
  storeVec(halves[0], low);
  storeVec(halves[1], high);
  const VecBits left = __builtin_convertvector(*reinterpret_cast<const VecHalf*>(halves[0]), VecBits);
  const VecBits right = __builtin_convertvector(*reinterpret_cast<const VecHalf*>(halves[1]), VecBits);
  return (Vec)(left | right << 16);
}

/// As many words as lanes along a row that is stored side by side.
inline Vec wordsAlong(const float* from, float) { return loadVec(from); }
inline Vec wordsAlong(const float* from, bf16) {
  bf16 halves[2 * kLanes];
  storeVec(halves, loadVec(from));
  storeVec(halves + kLanes, loadVec(from + kLanes));
  return *reinterpret_cast<const Vec*>(halves);
}

/// 64 columns of rows [firstRow, firstRow + unit), all inside the matrix.
template <typename T>
void packWhole(const PackSource& c, int64_t firstRow, int64_t unit, int64_t column, T* to) {
  constexpr int64_t each = kRowsOfWord<T>;
  float* words = reinterpret_cast<float*>(to);
  if (!c.transposed) {
    for (int64_t k = 0; k < unit; k += each) {
      const float* first = c.data + c.row(firstRow + k) + column;
      const float* second = each > 1 ? c.data + c.row(firstRow + k + 1) + column : first;
      for (int64_t n = 0; n < kPackedColumns; n += kLanes)
        storeVec(words + k / each * kPackedColumns + n, wordsOfRows(first + n, second + n, T{}));
    }
    return;
  }
  for (int64_t n = 0; n < kPackedColumns; n += kLanes)
    for (int64_t k = 0; k < unit; k += kLanes * each) {
      Vec block[kLanes];
      for (int64_t i = 0; i < kLanes; ++i)
        block[i] = wordsAlong(c.data + (column + n + i) * c.stride + firstRow + k, T{});
      transpose(block);
      for (int64_t i = 0; i < kLanes; ++i) storeVec(words + (k / each + i) * kPackedColumns + n, block[i]);
    }
}

template <typename T>
void packAs(const PackSource& c, T* to) {
  const int64_t unit = packedRowUnit(DTypeOf<T>::value), rows = packedRows(c.k, DTypeOf<T>::value);
  const int64_t rowBlocks = rows / unit, columnBlocks = packedColumns(c.n) / kPackedColumns;
#pragma omp parallel for schedule(static) if (c.k * c.n > 16384)
  for (int64_t item = 0; item < rowBlocks * columnBlocks; ++item) {
    // In the order in which the matrix is stored.
    const int64_t row = (c.transposed ? item % rowBlocks : item / columnBlocks) * unit;
    const int64_t column = (c.transposed ? item / rowBlocks : item % columnBlocks) * kPackedColumns;
    T* block = to + column * rows + row * kPackedColumns;
    if (row + unit <= c.k && column + kPackedColumns <= c.n)
      packWhole(c, row, unit, column, block);
    else
      packSome(c, row, unit, column, kPackedColumns, block);
  }
}

void pack(const PackSource& c, DType dtype, void* to) {
  dtype == DType::bf16 ? packAs(c, static_cast<bf16*>(to)) : packAs(c, static_cast<float*>(to));
}

}  // namespace

PackingKernels packingKernels() { return {pack}; }

}  // namespace duet::cpu::DUET_ISA
