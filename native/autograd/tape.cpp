#include "autograd/tape.h"

#include "core/cancel.h"
#include "ops/kernels.h"

namespace duet {

Var Tape::track(Tensor value) {
  if (!recording_) return {std::move(value), -1};
  gradients_.emplace_back();
  return {std::move(value), static_cast<int>(gradients_.size()) - 1};
}

Var Tape::track(Tensor value, std::function<Tensor()> remake) {
  Var result = track(std::move(value));
  result.remake = std::make_shared<const std::function<Tensor()>>(std::move(remake));
  return result;
}

Tensor Tape::take(int slot) {
  if (slot < 0) return {};
  return std::move(gradients_[static_cast<size_t>(slot)]);
}

void Tape::give(int slot, Tensor gradient) {
  if (slot < 0 || !gradient.defined()) return;
  Tensor& held = gradients_[static_cast<size_t>(slot)];
  if (!held.defined()) {
    held = std::move(gradient);
    return;
  }
  if (held.dtype() != DType::f32 || gradient.dtype() != DType::f32 || held.elements() != gradient.elements())
    fail(Code::Internal, "Gradients of ", held.shape().text(), " and ", gradient.shape().text(),
         " cannot be added");
  Tensor sum = held.unique() ? held : empty(held.shape());
  backend().elementwise.add(held.f32(), gradient.f32(), sum.f32(), sum.elements());
  held = std::move(sum);
}

Tensor Tape::target(int slot, const Shape& shape, DType dtype, bool& accumulate) {
  if (slot < 0) fail(Code::Internal, "A constant has no gradient");
  Tensor& held = gradients_[static_cast<size_t>(slot)];
  accumulate = held.defined();
  if (!held.defined()) {
    held = empty(shape, dtype);
  } else if (!held.unique()) {  // somebody else still reads it
    Tensor copy = empty(held.shape(), held.dtype());
    currentMemory().copy(copy.raw(), held.raw(), held.bytes());
    held = std::move(copy);
  }
  return held;
}

void Tape::backward() {
  while (!records_.empty()) {
    cancelPoint();
    const std::function<void()> step = std::move(records_.back());
    records_.pop_back();
    step();
  }
}

}  // namespace duet
