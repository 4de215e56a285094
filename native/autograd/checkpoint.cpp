#include "autograd/checkpoint.h"

namespace duet {

Var checkpoint(Context& context, const std::vector<Var>& inputs, CheckpointedPart part) {
  Tape& tape = context.tape;
  if (!tape.recording()) return part(context, inputs);
  const std::shared_ptr<Arena> arena = tape.arena().shared_from_this();
  const Context settings = context;  // the second run draws the same dropout
  std::vector<Var> plain;
  for (const Var& input : inputs) plain.push_back({input.value, -1});
  Tensor value;
  {
    Tape forward(arena, false);
    Context inner{forward, context.compute, context.training, context.seed, context.stream};
    value = part(inner, plain).value;
    context.stream = inner.stream;
  }
  const Var result = tape.track(value);
  const int made = result.slot;
  std::vector<int> slots;
  for (const Var& input : inputs) slots.push_back(input.slot);
  tape.record([&tape, arena, plain = std::move(plain), slots = std::move(slots), part = std::move(part), made,
               compute = settings.compute, training = settings.training, seed = settings.seed,
               stream = settings.stream]() mutable {
    Tensor dy = tape.take(made);
    if (!dy.defined()) return;
    Tape again(arena, true);
    Context inner{again, compute, training, seed, stream};
    std::vector<Var> tracked;
    for (size_t i = 0; i < plain.size(); ++i)
      tracked.push_back(slots[i] < 0 ? plain[i] : again.track(plain[i].value));
    plain.clear();
    const int made = part(inner, tracked).slot;
    std::vector<int> innerSlots;
    for (const Var& input : tracked) innerSlots.push_back(input.slot);
    tracked.clear();
    // Sums go on from what has reached the inputs so far, in the order of a plain backward pass.
    for (size_t i = 0; i < slots.size(); ++i)
      if (slots[i] >= 0) again.give(innerSlots[i], tape.take(slots[i]));
    again.give(made, std::move(dy));
    again.backward();
    for (size_t i = 0; i < slots.size(); ++i)
      if (slots[i] >= 0) tape.give(slots[i], again.take(innerSlots[i]));
  });
  return result;
}

}  // namespace duet
