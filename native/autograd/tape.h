// Reverse-mode differentiation: ops record how to go back while the forward pass runs, backward()
// replays the records last to first. A value without a slot is a constant: nothing is recorded for
// what only constants lead to, so frozen weights and everything before the first trainable
// parameter cost nothing.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/arena.h"
#include "core/tensor.h"

namespace duet {

/// A tensor in a computation; `slot` names its gradient on the tape, -1 for constants.
struct Var {
  Tensor value;
  int slot = -1;
  /// Makes the value again, bit for bit, from what is kept anyway; null for a value that must be kept itself.
  std::shared_ptr<const std::function<Tensor()>> remake = nullptr;
  bool tracked() const { return slot >= 0; }
};

/// A value that the way back needs: what is cheap to make again (norms, conversions, sums) is not kept.
class KeptValue {
 public:
  KeptValue() = default;
  explicit KeptValue(const Var& x) : value_(x.remake ? Tensor{} : x.value), remake_(x.remake) {}
  Tensor get() const { return remake_ ? (*remake_)() : value_; }

 private:
  Tensor value_;
  std::shared_ptr<const std::function<Tensor()>> remake_;
};

class Tape {
 public:
  /// With `recording` false the same forward code runs and keeps nothing.
  Tape(std::shared_ptr<Arena> arena, bool recording) : arena_(std::move(arena)), recording_(recording) {}

  bool recording() const { return recording_; }
  Arena& arena() { return *arena_; }
  Tensor empty(const Shape& shape, DType dtype = DType::f32) { return arena_->empty(shape, dtype); }

  /// A value whose gradient is wanted (when recording).
  Var track(Tensor value);
  /// The same for a value that `remake` makes again from what is kept for the way back.
  Var track(Tensor value, std::function<Tensor()> remake);

  /// Registers the way back of an op; runs in reverse order of registration and is then forgotten.
  void record(std::function<void()> backward) { records_.push_back(std::move(backward)); }

  /// The gradient that reached a slot so far; the tape lets go of it. Undefined when none did.
  /// Records hold slots, not values, so that values nobody needs for backward are freed at once.
  Tensor take(int slot);
  Tensor take(const Var& var) { return take(var.slot); }
  /// Adds a gradient of the value's shape; the first one is taken as it is, without a copy.
  void give(int slot, Tensor gradient);
  void give(const Var& var, Tensor gradient) { give(var.slot, std::move(gradient)); }
  /// Storage for a kernel to write the gradient of a slot into: `accumulate` says whether to add.
  Tensor target(int slot, const Shape& shape, DType dtype, bool& accumulate);

  void backward();

 private:
  std::shared_ptr<Arena> arena_;
  bool recording_;
  std::vector<std::function<void()>> records_;
  std::vector<Tensor> gradients_;
};

}  // namespace duet
