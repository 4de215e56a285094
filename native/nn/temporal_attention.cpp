#include "nn/temporal_attention.h"

#include <algorithm>
#include <vector>

#include "ops/kernels.h"

namespace duet {

Var temporalAttention(Context& context, const Var& qkv, const PictureGrid& grid, int64_t heads,
                      const uint8_t* keep) {
  Tape& tape = context.tape;
  const int64_t columns = qkv.value.columns(), rows = grid.rows();
  require(qkv.value.rowCount() == rows, "Expected ", rows, " rows of queries, keys and values but received ",
          qkv.value.shape().text());
  require(heads >= 1 && columns % (3 * heads) == 0,
          "Expected queries, keys and values of equal widths divisible by ", heads, " heads but received ",
          columns, " columns");
  std::vector<uint8_t> kept;
  if (keep) kept.assign(keep, keep + grid.pictures());
  for (int64_t clip = 0; clip < grid.clips && keep; ++clip)
    require(std::any_of(kept.begin() + clip * grid.frames, kept.begin() + (clip + 1) * grid.frames,
                        [](uint8_t k) { return k != 0; }),
            "Expected at least one visible frame in clip ", clip, " but the mask hides them all");
  TemporalAttention call{};
  call.dtype = qkv.value.dtype();
  call.clips = grid.clips;
  call.frames = grid.frames;
  call.pixels = grid.pixels();
  call.heads = heads;
  call.size = columns / (3 * heads);
  call.qkv = qkv.value.raw();
  call.keep = keep;
  const Tensor out = tape.empty({rows, columns / 3}, qkv.value.dtype());
  call.out = out.raw();
  backend().temporalAttention.forward(call);
  if (!tape.recording() || !qkv.tracked()) return {out, -1};

  const Var result = tape.track(out);
  const int made = result.slot, slot = qkv.slot;
  const Tensor input = qkv.value;
  tape.record([&tape, made, slot, input, kept = std::move(kept), call]() mutable {
    const Tensor dout = tape.take(made);
    if (!dout.defined()) return;
    const Tensor dqkv = tape.target(slot, input.shape(), input.dtype(), call.accumulate);
    call.keep = kept.empty() ? nullptr : kept.data();
    call.dout = dout.raw();
    call.dqkv = dqkv.raw();
    backend().temporalAttention.backward(call);
  });
  return result;
}

}  // namespace duet
