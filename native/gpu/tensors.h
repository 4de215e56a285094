// One launch for the elements of many tensors, whatever their sizes: the elements are cut into tiles, and
// each block takes an equal run of the tiles of all tensors.
#pragma once

#include <algorithm>
#include <vector>

#include "gpu/kernel.h"

namespace duet::gpu {

/// A tensor of a list and the number of its first tile.
template <typename Tensor>
struct Tiled {
  Tensor tensor;
  int64_t firstTile;
  bool vectors;  // it is aligned for four elements at a time
};

template <typename Tensor>
class TensorList {
 public:
  static constexpr int64_t kTile = 16 * kThreads;

  /// `aligned(tensor)` tells whether vectors may be read and written.
  template <typename Aligned>
  TensorList(const std::vector<Tensor>& tensors, Aligned&& aligned) {
    for (const Tensor& t : tensors) {
      if (t.count <= 0) continue;
      list_.push_back({t, tiles_, aligned(t)});
      tiles_ += (t.count + kTile - 1) / kTile;
    }
  }
  const std::vector<Tiled<Tensor>>& list() const { return list_; }
  int64_t tiles() const { return tiles_; }
  unsigned blocks() const { return blocksFor(tiles_, 1, std::min(8 * multiprocessors(), 1024)); }

 private:
  std::vector<Tiled<Tensor>> list_;
  int64_t tiles_ = 0;
};

/// work.run<N>(tensor, i) for the elements of this block's tiles, N from i on at a time.
template <typename Tensor, typename Work>
DUET_DEVICE void eachTile(const Tiled<Tensor>* list, int count, int64_t tiles, Work& work) {
  constexpr int64_t tile = TensorList<Tensor>::kTile;
  const int64_t first = tiles * blockIdx.x / gridDim.x, last = tiles * (blockIdx.x + 1) / gridDim.x;
  int at = 0;  // the last tensor that begins at or before a tile
  for (int end = count; end - at > 1;) {
    const int middle = (at + end) / 2;
    (list[middle].firstTile <= first ? at : end) = middle;
  }
  for (int64_t number = first; number < last; ++number) {
    while (at + 1 < count && list[at + 1].firstTile <= number) ++at;
    const Tiled<Tensor> there = list[at];
    const int64_t begin = (number - there.firstTile) * tile;
    const int64_t stop = begin + tile < there.tensor.count ? begin + tile : there.tensor.count;
    if (there.vectors) {
#pragma unroll 2
      for (int64_t i = begin + 4 * threadIdx.x; i + 4 <= stop; i += 4 * kThreads)
        work.template run<4>(there.tensor, i);
      const int64_t rest = stop / 4 * 4 + threadIdx.x;
      if (rest < stop) work.template run<1>(there.tensor, rest);
    } else {
      for (int64_t i = begin + threadIdx.x; i < stop; i += kThreads) work.template run<1>(there.tensor, i);
    }
  }
}

template <typename Tensor, typename Work>
__global__ void __launch_bounds__(kThreads)
    eachTensorKernel(const Tiled<Tensor>* list, int count, int64_t tiles, Work work) {
  eachTile(list, count, tiles, work);
}

template <typename Tensor, typename Work>
void forEachTensor(const TensorList<Tensor>& tensors, Work work) {
  if (tensors.tiles() == 0) return;
  const auto count = static_cast<int>(tensors.list().size());
  const Upload<Tiled<Tensor>> list(tensors.list().data(), count);
  launch(eachTensorKernel<Tensor, Work>, tensors.blocks(), kThreads, 0, list.data(), count, tensors.tiles(),
         work);
}

}  // namespace duet::gpu
