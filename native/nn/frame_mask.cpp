#include "nn/frame_mask.h"

namespace duet {

namespace {

void copyKept(const Tensor& from, const Tensor& to, const PictureGrid& grid, const uint8_t* keep) {
  const size_t bytes = from.bytes() / static_cast<size_t>(grid.pictures());
  for (int64_t picture = 0; picture < grid.pictures(); ++picture) {
    const size_t offset = static_cast<size_t>(picture) * bytes;
    std::byte* target = static_cast<std::byte*>(to.raw()) + offset;
    if (keep[picture])
      currentMemory().copy(target, static_cast<const std::byte*>(from.raw()) + offset, bytes);
    else
      currentMemory().zero(target, bytes);
  }
}

}  // namespace

Var zeroHiddenFrames(Context& context, const Var& x, const PictureGrid& grid, const uint8_t* keep) {
  if (keep == nullptr) return x;
  Tape& tape = context.tape;
  require(x.value.rowCount() == grid.rows(), "Expected ", grid.rows(), " rows but received ",
          x.value.shape().text());
  const Tensor y = tape.empty(x.value.shape(), x.value.dtype());
  copyKept(x.value, y, grid, keep);
  if (!tape.recording() || !x.tracked()) return {y, -1};
  const Var result = tape.track(y);
  const int made = result.slot, source = x.slot;
  tape.record([&tape, made, source, grid, keep] {
    const Tensor dy = tape.take(made);
    if (!dy.defined()) return;
    const Tensor dx = tape.empty(dy.shape(), dy.dtype());
    copyKept(dy, dx, grid, keep);
    tape.give(source, dx);
  });
  return result;
}

}  // namespace duet
