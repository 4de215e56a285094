#include "nn/linear.h"

#include <algorithm>

#include "nn/row_products.h"
#include "ops/kernels.h"

namespace duet {

Var linear(Context& context, const Var& x, Weights& weight, Parameter* bias, const LinearOptions& options) {
  Tape& tape = context.tape;
  const int64_t rows = x.value.rowCount(), chunk = rowChunk(rows);
  require(x.value.columns() == weight.in(), "Expected ", weight.in(), " columns for ", weight.parameter->name,
          " but received ", x.value.shape().text());
  checkWeights(weight, bias);
  if (options.residual) checkResidual(*options.residual, rows, weight.out());
  const DType compute = x.value.dtype();
  const bool wantsWeight = tape.recording() && (trainable(weight) || trainable(bias));
  const bool tracked =
      tape.recording() && (wantsWeight || x.tracked() || (options.residual && options.residual->tracked()));
  const bool keepsBefore = keepsInput(options.activation) && tracked;

  Tensor y = tape.empty({rows, weight.out()}, options.outType);
  Tensor before = keepsBefore ? tape.empty({rows, weight.out()}, options.outType) : y;
  Parameter* biasPart = bias;
  Parameter slice;  // the bias of a part of stacked layers
  if (bias && weight.rows != bias->value.elements()) {
    slice.value = bias->value.rows(weight.firstRow, weight.firstRow + weight.rows);
    biasPart = &slice;
  }
  const float* residual = options.residual ? options.residual->value.f32() : nullptr;
  const StepPacks packs(context.training ? &tape.arena() : nullptr, compute, {&weight});
  for (int64_t row = 0; row < rows; row += chunk) {
    const int64_t count = std::min(chunk, rows - row);
    forwardRows(x.value, row, weight, biasPart, residual ? residual + row * weight.out() : nullptr, before,
                row, count, compute);
    if (options.activation != Activation::none)
      backend().activation.forward(
          {at(before, row), at(y, row), options.outType, count * weight.out(), options.activation});
  }
  if (!tracked) return {y, -1};

  const Var result = tape.track(y);
  const int made = result.slot;
  const int residualSlot = options.residual ? options.residual->slot : -1;
  const Activation activation = options.activation;
  const Tensor kept = activation == Activation::none ? Tensor{} : before;
  const KeptValue source = wantsWeight && trainable(weight) ? KeptValue(x) : KeptValue{};
  const int slot = x.slot;
  const Shape inputShape = x.value.shape();
  tape.record(
      [&tape, made, residualSlot, activation, kept, source, slot, inputShape, compute, bias, &weight] {
        Tensor dy = tape.take(made);
        if (!dy.defined()) return;
        const Tensor input = source.get();
        if (activation != Activation::none) {
          Tensor dBefore = dy.unique() ? dy : tape.empty(dy.shape(), dy.dtype());
          backend().activation.backward(
              {kept.raw(), kept.dtype(), dy.raw(), dBefore.raw(), dy.dtype(), dy.elements(), activation});
          dy = dBefore;
        }
        tape.give(residualSlot, dy);
        if (trainable(bias)) biasGradient(*bias, weight.firstRow, dy);
        const int64_t rows = dy.rowCount(), chunk = rowChunk(rows);
        Tensor buffer = dy.dtype() == compute ? Tensor{} : tape.empty({chunk, dy.columns()}, compute);
        const StepPacks packs(&tape.arena(), compute, {&weight});
        bool accumulateWeight = trainable(weight) && beginWeightGradient(weight);
        bool accumulate = false;
        Tensor dx;
        if (slot >= 0) dx = tape.target(slot, inputShape, compute, accumulate);
        for (int64_t row = 0; row < rows; row += chunk) {
          const int64_t count = std::min(chunk, rows - row);
          int64_t dyRow;
          const Tensor& dyRows = inType(dy, row, count, compute, buffer, dyRow);
          if (trainable(weight)) {
            weightGradientRows(dyRows, dyRow, input, row, weight, count, accumulateWeight);
            accumulateWeight = true;
          }
          if (dx.defined()) inputGradientRows(dyRows, dyRow, weight, dx, row, count, compute, accumulate);
        }
      });
  return result;
}

Var feedForward(Context& context, const Var& x, Weights& first, Parameter* firstBias, Weights& second,
                Parameter* secondBias, Activation activation, const Var& residual) {
  Tape& tape = context.tape;
  const int64_t rows = x.value.rowCount(), hidden = first.out(), width = second.out();
  require(x.value.columns() == first.in() && second.in() == hidden,
          "Feed-forward sizes do not fit: ", x.value.shape().text(), ", ", first.parameter->name, ", ",
          second.parameter->name);
  checkWeights(first, firstBias);
  checkWeights(second, secondBias);
  if (residual.value.defined()) checkResidual(residual, rows, width);
  const DType compute = x.value.dtype();
  const bool wantsWeights =
      trainable(first) || trainable(firstBias) || trainable(second) || trainable(secondBias);
  const bool tracked = tape.recording() && (wantsWeights || x.tracked() || residual.tracked());
  const bool throughHidden = tracked && (wantsWeights || x.tracked());
  const int64_t chunk = rowChunk(rows);

  Tensor y = tape.empty({rows, width});
  Tensor before = tape.empty({throughHidden ? rows : chunk, hidden}, compute);
  Tensor after = tape.empty({chunk, hidden}, compute);
  const StepPacks packs(context.training ? &tape.arena() : nullptr, compute, {&first, &second});
  for (int64_t row = 0; row < rows; row += chunk) {
    const int64_t count = std::min(chunk, rows - row);
    const int64_t beforeRow = throughHidden ? row : 0;
    forwardRows(x.value, row, first, firstBias, nullptr, before, beforeRow, count, compute);
    backend().activation.forward({at(before, beforeRow), after.raw(), compute, count * hidden, activation});
    forwardRows(after, 0, second, secondBias,
                residual.value.defined() ? residual.value.f32() + row * width : nullptr, y, row, count,
                compute);
  }
  if (!tracked) return {y, -1};

  const Var result = tape.track(y);
  const int made = result.slot;
  if (!throughHidden) before = Tensor{};
  const KeptValue source = trainable(first) ? KeptValue(x) : KeptValue{};
  const Shape inputShape = x.value.shape();
  const int slot = x.slot;
  const int residualSlot = residual.slot;
  tape.record([&tape, made, residualSlot, before, source, inputShape, slot, compute, activation, firstBias,
               secondBias, &first, &second, throughHidden] {
    Tensor dy = tape.take(made);
    if (!dy.defined()) return;
    const Tensor input = source.get();
    tape.give(residualSlot, dy);
    if (!throughHidden) return;
    if (trainable(secondBias)) biasGradient(*secondBias, 0, dy);
    const int64_t rows = dy.rowCount(), hidden = first.out(), chunk = rowChunk(rows);
    Tensor converted = dy.dtype() == compute ? Tensor{} : tape.empty({chunk, dy.columns()}, compute);
    Tensor dHidden = tape.empty({chunk, hidden}, compute);
    Tensor after = trainable(second) ? tape.empty({chunk, hidden}, compute) : Tensor{};
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
      if (trainable(second)) {
        backend().activation.forward({at(before, row), after.raw(), compute, count * hidden, activation});
        weightGradientRows(dyRows, dyRow, after, 0, second, count, accumulateSecond);
        accumulateSecond = true;
      }
      inputGradientRows(dyRows, dyRow, second, dHidden, 0, count, compute, false);
      // relu and tanh differentiate from the value after, which is made again here
      const void* kept = at(before, row);
      Tensor made;
      if (!keepsInput(activation) && activation != Activation::none) {
        made = tape.empty({count, hidden}, compute);
        backend().activation.forward({at(before, row), made.raw(), compute, count * hidden, activation});
        kept = made.raw();
      }
      backend().activation.backward(
          {kept, compute, dHidden.raw(), dHidden.raw(), compute, count * hidden, activation});
      if (trainable(first)) {
        weightGradientRows(dHidden, 0, input, row, first, count, accumulateFirst);
        accumulateFirst = true;
      }
      if (trainable(firstBias)) biasGradient(*firstBias, 0, dHidden.rows(0, count));
      if (dx.defined()) inputGradientRows(dHidden, 0, first, dx, row, count, compute, accumulate);
    }
  });
  return result;
}

Var activate(Context& context, const Var& x, Activation activation) {
  Tape& tape = context.tape;
  Tensor y = tape.empty(x.value.shape(), x.value.dtype());
  backend().activation.forward({x.value.raw(), y.raw(), y.dtype(), y.elements(), activation});
  if (!tape.recording() || !x.tracked()) return {y, -1};
  const Var result = tape.track(y);
  const int made = result.slot;
  const Tensor kept = keepsInput(activation) ? x.value : y;
  const int source = x.slot;
  tape.record([&tape, made, source, kept, activation] {
    Tensor dy = tape.take(made);
    if (!dy.defined()) return;
    Tensor dx = dy.unique() ? dy : tape.empty(dy.shape(), dy.dtype());
    backend().activation.backward(
        {kept.raw(), kept.dtype(), dy.raw(), dx.raw(), dy.dtype(), dy.elements(), activation});
    dy = Tensor{};
    tape.give(source, dx);
  });
  return result;
}

Var dropout(Context& context, const Var& x, float probability) {
  if (!context.training || probability <= 0.0f) return x;
  Tape& tape = context.tape;
  const uint64_t seed = context.seed, stream = context.stream++;
  Tensor y = tape.empty(x.value.shape());
  backend().elementwise.dropout(x.value.f32(), y.f32(), y.elements(), probability, seed, stream);
  if (!tape.recording() || !x.tracked()) return {y, -1};
  const Var result = tape.track(y);
  const int made = result.slot;
  const int source = x.slot;
  tape.record([&tape, made, source, probability, seed, stream] {
    Tensor dy = tape.take(made);
    if (!dy.defined()) return;
    Tensor dx = tape.empty(dy.shape());
    backend().elementwise.dropout(dy.f32(), dx.f32(), dx.elements(), probability, seed, stream);
    tape.give(source, dx);
  });
  return result;
}

Var add(Context& context, const Var& a, const Var& b) {
  Tape& tape = context.tape;
  require(a.value.elements() == b.value.elements(), "Cannot add ", a.value.shape().text(), " and ",
          b.value.shape().text());
  Tensor y = tape.empty(a.value.shape());
  backend().elementwise.add(a.value.f32(), b.value.f32(), y.f32(), y.elements());
  if (!tape.recording() || (!a.tracked() && !b.tracked())) return {y, -1};
  const Var result = tape.track(y, [&tape, keptA = KeptValue(a), keptB = KeptValue(b)] {
    const Tensor valueA = keptA.get(), valueB = keptB.get(), again = tape.empty(valueA.shape());
    backend().elementwise.add(valueA.f32(), valueB.f32(), again.f32(), again.elements());
    return again;
  });
  const int made = result.slot;
  const int first = a.slot, second = b.slot;
  tape.record([&tape, made, first, second] {
    Tensor dy = tape.take(made);
    tape.give(first, dy);
    tape.give(second, dy);
  });
  return result;
}

Var multiply(Context& context, const Var& a, const Var& b) {
  require(a.value.shape() == b.value.shape() && a.value.dtype() == b.value.dtype(), "Cannot multiply ",
          a.value.shape().text(), " and ", b.value.shape().text());
  if (context.tape.recording() && (a.tracked() || b.tracked()))
    fail(Code::Unsupported, "The product of two values has no gradient; use it for frozen networks only");
  Tensor y = context.tape.empty(a.value.shape(), a.value.dtype());
  backend().elementwise.multiply(a.value.raw(), b.value.raw(), y.raw(), y.dtype(), y.elements());
  return {y, -1};
}

}  // namespace duet
