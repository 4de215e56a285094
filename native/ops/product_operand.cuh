// Tiles of the operands of a product: from memory into shared memory by asynchronous copies of 16 bytes (a
// chunk), and from there into the fragments of tensor cores. An operand is stored along K (its rows run along
// K) or across; both are read as they are stored.
//
// A tile has the stored rows one after another. The chunks of a row change places with the row, so that
// neither copies nor fragments meet in a bank: along K a row has 4 chunks, two rows all banks, and a fragment
// takes one chunk of 8 rows; across, fragments of bf16 take one chunk of 8 rows, those of f32 two of 4 rows.
#pragma once

#include "gpu/kernel.h"
#include "ops/product_tiles.h"

namespace duet::gpu {

/// Threads of a block of a product: four warps, two by two over the tile of C.
constexpr int kProductThreads = 128;

template <typename T>
constexpr int kChunk = 16 / static_cast<int>(sizeof(T));
/// What a tile has of K: 4 chunks, two steps of the tensor cores.
template <typename T>
constexpr int kTileDepth = 4 * kChunk<T>;
constexpr int kTileSteps = 2;

template <typename T, int Extent, bool AlongK>
struct TileLayout {
  static constexpr int kRows = AlongK ? Extent : kTileDepth<T>;
  static constexpr int kRowChunks = AlongK ? 4 : Extent / kChunk<T>;
  static constexpr int kValues = Extent * kTileDepth<T>;

  /// Where a chunk begins.
  DUET_DEVICE static int place(int row, int chunk) {
    const int turn = AlongK ? row >> 1 & 3 : sizeof(T) == 2 ? row & 7 : 2 * (row & 3);
    return (row * kRowChunks + (chunk ^ turn)) * kChunk<T>;
  }
};

/// Copies one tile after another, along K, of rows (A) or columns (B) from `first` on. What lies outside of
/// the matrix becomes 0.
template <typename T, int Extent, bool AlongK>
class TileSource {
 public:
  DUET_DEVICE TileSource(const Operand& operand, int first, int extent, int kBegin, int kEnd)
      : aligned_(operand.aligned) {
    const int row = static_cast<int>(threadIdx.x) / kRowChunks;
    const int chunk = static_cast<int>(threadIdx.x) % kRowChunks;
    const int firstRow = (AlongK ? first : kBegin) + row;
    const int firstColumn = (AlongK ? kBegin : first) + chunk * kChunk<T>;
    from_ = static_cast<const T*>(operand.data) + firstRow * operand.stride + firstColumn;
    rows_ = (AlongK ? extent : kEnd) - firstRow;
    columns_ = (AlongK ? kEnd : extent) - firstColumn;
    copyStep_ = kRowsApart * operand.stride;
    tileStep_ = AlongK ? kTileDepth<T> : kTileDepth<T> * operand.stride;
    place_ = Layout::place(row, chunk);
  }

  DUET_DEVICE void next(T* tile) {
    for (int i = 0; i < kCopies; ++i) {
      const int inside = columns_ < kChunk<T> ? columns_ : kChunk<T>;
      const int valid = i * kRowsApart < rows_ && inside > 0 ? inside : 0;
      T* to = tile + place_ + i * kProductThreads * kChunk<T>;
      if (aligned_)
        copyAsync16(to, from_ + i * copyStep_, valid * static_cast<int>(sizeof(T)));
      else
        copyValues(to, from_ + i * copyStep_, valid);
    }
    from_ += tileStep_;
    (AlongK ? columns_ : rows_) -= kTileDepth<T>;
  }

 private:
  using Layout = TileLayout<T, Extent, AlongK>;
  static constexpr int kRowChunks = Layout::kRowChunks;
  static constexpr int kRowsApart = kProductThreads / kRowChunks;
  static constexpr int kCopies = Layout::kRows / kRowsApart;
  static_assert(kRowsApart % (AlongK || sizeof(T) == 2 ? 8 : 4) == 0,
                "copies of a thread change places alike");

  DUET_DEVICE static void copyValues(T* to, const T* from, int valid) {
    struct alignas(16) {
      T values[kChunk<T>];
    } chunk;
    for (int i = 0; i < kChunk<T>; ++i) chunk.values[i] = i < valid ? from[i] : T{};
    *reinterpret_cast<decltype(chunk)*>(to) = chunk;
  }

  const T* from_;
  int64_t copyStep_, tileStep_;
  int rows_, columns_;  // left of the matrix from this thread's first chunk on
  int place_;
  bool aligned_;
};

DUET_DEVICE uint32_t bitsOf(float value) { return __float_as_uint(value); }
DUET_DEVICE uint32_t bitsOf(tf32 value) { return __float_as_uint(value.value); }

/// Words of 16 rows of A, or of 16 columns of B (two fragments), for one step along K.
template <typename T, int Extent, bool AlongK, bool Left>
DUET_DEVICE void loadWords(uint32_t (&words)[4], const T* tile, int first, int step) {
  using Layout = TileLayout<T, Extent, AlongK>;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  // Of the four 8 x 8 matrices of 16 bits that lanes point to: A has those below each other first, B those
  // along K.
  const int beside = Left ? lane / 8 % 2 : lane / 16, along = Left ? lane / 16 : lane / 8 % 2;
  if constexpr (AlongK) {
    loadMatrices(words, tile + Layout::place(first + 8 * beside + lane % 8, 2 * step + along));
  } else if constexpr (sizeof(T) == 2) {
    loadMatricesTurned(words, tile + Layout::place(16 * step + 8 * along + lane % 8, first / 8 + beside));
  } else {
    for (int i = 0; i < 4; ++i) {
      const int k = 8 * step + 4 * (Left ? i / 2 : i % 2) + lane % 4;
      const int column = first + 8 * (Left ? i % 2 : i / 2) + lane / 4;
      words[i] = bitsOf(tile[Layout::place(k, column / 4) + column % 4]);
    }
  }
}

/// What tensor cores take of an operand.
template <typename T>
struct Fragment;

template <>
struct Fragment<bf16> {
  uint32_t words[4];
  DUET_DEVICE void prepare() {}
};

template <>
struct Fragment<tf32> {
  uint32_t words[4];
  DUET_DEVICE void prepare() {
    for (uint32_t& word : words) word = toTf32(__uint_as_float(word));
  }
};

/// An f32 as the sum of two tf32: 22 of its 24 bits.
template <>
struct Fragment<float> {
  uint32_t words[4], rest[4];
  DUET_DEVICE void prepare() {
    for (int i = 0; i < 4; ++i) {
      const float value = __uint_as_float(words[i]);
      words[i] = toTf32(value);
      rest[i] = toTf32(value - __uint_as_float(words[i]));
    }
  }
};

DUET_DEVICE void multiplyAdd(float (&sums)[4], const Fragment<bf16>& a, const Fragment<bf16>& b, int half) {
  mmaBf16(sums, a.words, {b.words[2 * half], b.words[2 * half + 1]});
}

DUET_DEVICE void multiplyAdd(float (&sums)[4], const Fragment<tf32>& a, const Fragment<tf32>& b, int half) {
  mmaTf32(sums, a.words, {b.words[2 * half], b.words[2 * half + 1]});
}

/// a b without the product of the rests, 2^-22 of it. Tensor cores cut off what does not fit their sum, where
/// fp32 rounds: only 8 products are added there, what they give is added to the sums in fp32.
DUET_DEVICE void multiplyAdd(float (&sums)[4], const Fragment<float>& a, const Fragment<float>& b, int half) {
  const uint32_t words[2] = {b.words[2 * half], b.words[2 * half + 1]};
  float part[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  mmaTf32(part, a.rest, words);
  mmaTf32(part, a.words, {b.rest[2 * half], b.rest[2 * half + 1]});
  mmaTf32(part, a.words, words);
  for (int i = 0; i < 4; ++i) sums[i] += part[i];
}

}  // namespace duet::gpu
