#include "nn/gated.h"

#include <algorithm>

#include "nn/row_products.h"
#include "ops/kernels.h"

namespace duet {

Var gatedFeedForward(Context& context, const Var& x, Weights& first, Parameter* firstBias, Weights& second,
                     Parameter* secondBias, const Var& residual) {
  Tape& tape = context.tape;
  const int64_t rows = x.value.rowCount(), hidden = second.in(), width = second.out();
  checkWeights(first, firstBias);
  checkWeights(second, secondBias);
  require(x.value.columns() == first.in() && first.out() == 2 * hidden,
          "Gated feed-forward sizes do not fit: ", x.value.shape().text(), ", ", first.parameter->name, " ",
          first.parameter->value.shape().text(), ", ", second.parameter->name, " ",
          second.parameter->value.shape().text());
  if (residual.value.defined()) checkResidual(residual, rows, width);
  const DType compute = x.value.dtype();
  const bool wantsWeights =
      trainable(first) || trainable(firstBias) || trainable(second) || trainable(secondBias);
  const bool tracked = tape.recording() && (wantsWeights || x.tracked() || residual.tracked());
  const bool throughHidden = tracked && (wantsWeights || x.tracked());
  const int64_t chunk = rowChunk(rows);

  Tensor y = tape.empty({rows, width});
  Tensor before = tape.empty({throughHidden ? rows : chunk, 2 * hidden}, compute);
  {
    const Tensor after = tape.empty({chunk, hidden}, compute);
    const StepPacks packs(context.training ? &tape.arena() : nullptr, compute, {&first, &second});
    for (int64_t row = 0; row < rows; row += chunk) {
      const int64_t count = std::min(chunk, rows - row), beforeRow = throughHidden ? row : 0;
      forwardRows(x.value, row, first, firstBias, nullptr, before, beforeRow, count, compute);
      backend().gated.forward({at(before, beforeRow), after.raw(), nullptr, nullptr, compute, count, hidden});
      forwardRows(after, 0, second, secondBias,
                  residual.value.defined() ? residual.value.f32() + row * width : nullptr, y, row, count,
                  compute);
    }
  }
  if (!tracked) return {y, -1};

  const Var result = tape.track(y);
  const int made = result.slot, slot = x.slot, residualSlot = residual.slot;
  if (!throughHidden) before = Tensor{};
  const KeptValue source = trainable(first) ? KeptValue(x) : KeptValue{};
  const Shape inputShape{rows, x.value.columns()};
  tape.record([&tape, made, slot, residualSlot, before, source, inputShape, compute, firstBias, secondBias,
               &first, &second, throughHidden] {
    const Tensor dy = tape.take(made);
    if (!dy.defined()) return;
    tape.give(residualSlot, dy);
    if (!throughHidden) return;
    const Tensor input = source.get();
    if (trainable(secondBias)) biasGradient(*secondBias, 0, dy);
    const int64_t rows = dy.rowCount(), hidden = second.in(), chunk = rowChunk(rows);
    Tensor converted = dy.dtype() == compute ? Tensor{} : tape.empty({chunk, dy.columns()}, compute);
    const Tensor dBefore = tape.empty({chunk, 2 * hidden}, compute);
    const Tensor hiddenRows =
        tape.empty({chunk, hidden}, compute);  // the gradient of the hidden layer, then the layer
    const StepPacks packs(&tape.arena(), compute, {&first, &second});
    bool accumulateFirst = trainable(first) && beginWeightGradient(first);
    bool accumulateSecond = trainable(second) && beginWeightGradient(second);
    bool accumulate = false;
    Tensor dx;
    if (slot >= 0) dx = tape.target(slot, inputShape, compute, accumulate);
    for (int64_t row = 0; row < rows; row += chunk) {
      const int64_t count = std::min(chunk, rows - row);
      int64_t dyRow;
      const Tensor& dyRows = inType(dy, row, count, compute, converted, dyRow);
      inputGradientRows(dyRows, dyRow, second, hiddenRows, 0, count, compute, false);
      backend().gated.backward({at(before, row), trainable(second) ? hiddenRows.raw() : nullptr,
                                hiddenRows.raw(), dBefore.raw(), compute, count, hidden});
      if (trainable(second)) {
        weightGradientRows(dyRows, dyRow, hiddenRows, 0, second, count, accumulateSecond);
        accumulateSecond = true;
      }
      if (trainable(first)) {
        weightGradientRows(dBefore, 0, input, row, first, count, accumulateFirst);
        accumulateFirst = true;
      }
      if (trainable(firstBias)) biasGradient(*firstBias, 0, dBefore.rows(0, count));
      if (dx.defined()) inputGradientRows(dBefore, 0, first, dx, row, count, compute, accumulate);
    }
  });
  return result;
}

Var concatColumns(Context& context, const Var& a, const Var& b) {
  Tape& tape = context.tape;
  const DType type = a.value.dtype();
  const int64_t rows = a.value.rowCount(), size = static_cast<int64_t>(sizeOf(type));
  require(b.value.rowCount() == rows && b.value.dtype() == type, "Cannot join the columns of ", nameOf(type),
          " ", a.value.shape().text(), " and ", nameOf(b.value.dtype()), " ", b.value.shape().text());
  const int64_t first = a.value.columns(), second = b.value.columns(), both = first + second;
  const auto join = [&tape, first, second, both, rows, size, type](const Tensor& left, const Tensor& right) {
    const Tensor y = tape.empty({rows, both}, type);
    auto* to = static_cast<std::byte*>(y.raw());
    backend().gated.copyColumns({left.raw(), first * size, to, both * size, rows, first * size});
    backend().gated.copyColumns(
        {right.raw(), second * size, to + first * size, both * size, rows, second * size});
    return y;
  };
  const Tensor y = join(a.value, b.value);
  if (!tape.recording() || (!a.tracked() && !b.tracked())) return {y, -1};
  const Var result = tape.track(
      y, [join, keptA = KeptValue(a), keptB = KeptValue(b)] { return join(keptA.get(), keptB.get()); });
  const int made = result.slot, firstSlot = a.slot, secondSlot = b.slot;
  tape.record([&tape, made, firstSlot, secondSlot, first, second, both, rows, size, type] {
    const Tensor dy = tape.take(made);
    if (!dy.defined()) return;
    const auto* from = static_cast<const std::byte*>(dy.raw());
    const auto part = [&](int slot, int64_t begin, int64_t columns) {
      if (slot < 0) return;
      const Tensor piece = tape.empty({rows, columns}, type);
      backend().gated.copyColumns(
          {from + begin * size, both * size, piece.raw(), columns * size, rows, columns * size});
      tape.give(slot, piece);
    };
    part(firstSlot, 0, first);
    part(secondSlot, first, second);
  });
  return result;
}

Var cast(Context& context, const Var& x, DType type) {
  if (x.value.dtype() == type) return x;
  Tape& tape = context.tape;
  const Tensor y = tape.empty(x.value.shape(), type);
  const DType before = x.value.dtype();
  backend().elementwise.convert(x.value.raw(), before, y.raw(), type, y.elements());
  if (!tape.recording() || !x.tracked()) return {y, -1};
  const Var result = tape.track(y, [&tape, source = KeptValue(x), before, type] {
    const Tensor input = source.get(), again = tape.empty(input.shape(), type);
    backend().elementwise.convert(input.raw(), before, again.raw(), type, again.elements());
    return again;
  });
  const int made = result.slot, slot = x.slot;
  tape.record([&tape, made, slot, before] {
    const Tensor dy = tape.take(made);
    if (!dy.defined()) return;
    if (dy.dtype() == before) {
      tape.give(slot, dy);
      return;
    }
    Tensor dx = tape.empty(dy.shape(), before);
    backend().elementwise.convert(dy.raw(), dy.dtype(), dx.raw(), before, dy.elements());
    tape.give(slot, dx);
  });
  return result;
}

}  // namespace duet
