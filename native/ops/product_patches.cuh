// Tiles of patches (convolutions) from the pictures themselves: where TileSource goes along a stored row, a
// patch goes through the taps of the kernel, and a chunk is some channels of one pixel.
#pragma once

#include <type_traits>

#include "ops/product_operand.cuh"

namespace duet::gpu {

template <typename T, int Extent, bool AlongK>
class PatchSource {
 public:
  DUET_DEVICE PatchSource(const PatchOperand& operand, int first, int extent, int kBegin, int kEnd)
      : operand_(operand) {
    const int row = static_cast<int>(threadIdx.x) / kRowChunks;
    const int chunk = static_cast<int>(threadIdx.x) % kRowChunks;
    const int firstRow = (AlongK ? first : kBegin) + row;
    const int firstColumn = (AlongK ? kBegin : first) + chunk * kChunk<T>;
    rows_ = (AlongK ? extent : kEnd) - firstRow;
    columns_ = (AlongK ? kEnd : extent) - firstColumn;
    row_ = operand.firstRow + firstRow;
    const auto column = static_cast<unsigned>(firstColumn);
    const int tap = static_cast<int>(operand.ofChannels.of(column));
    channel_ = static_cast<int>(operand.ofChannels.rest(column));
    line_ = tap / operand.size;
    tapOfLine_ = tap % operand.size;
    place_ = Layout::place(row, chunk);
    if (AlongK)
      for (int i = 0; i < kCopies; ++i) corners_[i] = cornerOf(row_ + i * kRowsApart);
  }

  DUET_DEVICE void next(T* tile) {
    const int down = operand_.step * line_, right = operand_.step * tapOfLine_;
    for (int i = 0; i < kCopies; ++i) {
      const Corner corner = AlongK ? corners_[i] : cornerOf(row_ + i * kRowsApart);
      const bool inside = i * kRowsApart < rows_ && columns_ > 0 &&
                          isBelow(corner.y + down, operand_.height) &&
                          isBelow(corner.x + right, operand_.width);
      const int64_t pixel = inside ? corner.pixel + down * operand_.width + right : 0;
      copyAsync16(tile + place_ + i * kProductThreads * kChunk<T>,
                  static_cast<const T*>(operand_.data) + pixel * operand_.channels + channel_,
                  inside ? 16 : 0);
    }
    if (AlongK) {
      columns_ -= kTileDepth<T>;
      for (channel_ += kTileDepth<T>; channel_ >= operand_.channels; channel_ -= operand_.channels)
        if (++tapOfLine_ == operand_.size) {
          tapOfLine_ = 0;
          ++line_;
        }
    } else {
      row_ += kTileDepth<T>;
      rows_ -= kTileDepth<T>;
    }
  }

 private:
  using Layout = TileLayout<T, Extent, AlongK>;
  static constexpr int kRowChunks = Layout::kRowChunks;
  static constexpr int kRowsApart = kProductThreads / kRowChunks;
  static constexpr int kCopies = Layout::kRows / kRowsApart;

  /// Where the first tap of a row lies, perhaps outside of its picture.
  struct Corner {
    int y, x, pixel;
  };

  DUET_DEVICE Corner cornerOf(int row) const {
    const Pixel at = operand_.pixels.at(row);
    const int y = at.y * operand_.stride + operand_.offset, x = at.x * operand_.stride + operand_.offset;
    return {y, x, (at.picture * operand_.height + y) * operand_.width + x};
  }

  DUET_DEVICE static bool isBelow(int at, int extent) {
    return static_cast<unsigned>(at) < static_cast<unsigned>(extent);
  }

  const PatchOperand& operand_;
  int row_, rows_, columns_;  // the first row of this thread, and what is left from there on
  int channel_, line_, tapOfLine_;
  int place_;
  Corner corners_[AlongK ? kCopies : 1];
};

template <typename Operand, typename T, int Extent, bool AlongK>
using SourceOf = std::conditional_t<std::is_same_v<Operand, PatchOperand>, PatchSource<T, Extent, AlongK>,
                                    TileSource<T, Extent, AlongK>>;

}  // namespace duet::gpu
