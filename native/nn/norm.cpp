#include "nn/norm.h"

#include "ops/kernels.h"

namespace duet {

Var layerNorm(Context& context, const Var& x, Parameter& gamma, Parameter& beta, float epsilon,
              DType outType) {
  Tape& tape = context.tape;
  const int64_t rows = x.value.rowCount(), columns = x.value.columns();
  require(gamma.value.elements() == columns && beta.value.elements() == columns, "Expected ", columns,
          " columns for ", gamma.name, " but it has ", gamma.value.shape().text());
  require(epsilon > 0.0f, "Expected a positive epsilon for ", gamma.name, " but received ", epsilon);
  const bool tracked = tape.recording() && (x.tracked() || gamma.trainable || beta.trainable);
  Tensor y = tape.empty(x.value.shape(), outType);
  Tensor statistics = tracked ? tape.empty({2, rows}) : Tensor{};
  float* mean = tracked ? statistics.f32() : nullptr;
  float* rstd = tracked ? mean + rows : nullptr;
  backend().norm.forward(
      {x.value.f32(), gamma.f32(), beta.f32(), y.raw(), outType, mean, rstd, rows, columns, epsilon});
  if (!tracked) return {y, -1};

  const KeptValue source(x);
  const Var result = tape.track(y, [&tape, source, &gamma, &beta, outType, rows, columns, epsilon] {
    const Tensor input = source.get(), again = tape.empty(input.shape(), outType);
    backend().norm.forward({input.f32(), gamma.f32(), beta.f32(), again.raw(), outType, nullptr, nullptr,
                            rows, columns, epsilon});
    return again;
  });
  const int made = result.slot;
  const int slot = x.slot;
  tape.record([&tape, made, source, slot, statistics, &gamma, &beta, rows, columns] {
    const Tensor dy = tape.take(made);
    if (!dy.defined()) return;
    const Tensor input = source.get();
    NormBackward call{};
    call.x = input.f32();
    call.gamma = gamma.f32();
    call.mean = statistics.f32();
    call.rstd = statistics.f32() + rows;
    call.dy = dy.raw();
    call.dyType = dy.dtype();
    call.rows = rows;
    call.columns = columns;
    Tensor dx;
    if (slot >= 0) {
      dx = tape.target(slot, input.shape(), DType::f32, call.accumulate);
      call.dx = dx.f32();
    }
    bool more = false;
    if (gamma.trainable) call.dgamma = gamma.gradientTarget(call.accumulateParameters);
    if (beta.trainable) call.dbeta = beta.gradientTarget(more);
    if (gamma.trainable && beta.trainable && more != call.accumulateParameters)
      fail(Code::Internal, "The two gradients of a layer norm are out of step");
    if (!gamma.trainable) call.accumulateParameters = more;
    backend().norm.backward(call);
  });
  return result;
}

Var rmsNorm(Context& context, const Var& x, Parameter& gamma, float epsilon, DType outType) {
  const int64_t rows = x.value.rowCount(), columns = x.value.columns();
  require(gamma.value.elements() == columns, "Expected ", columns, " columns for ", gamma.name,
          " but it has ", gamma.value.shape().text());
  require(epsilon > 0.0f, "Expected a positive epsilon for ", gamma.name, " but received ", epsilon);
  if (context.tape.recording() && (x.tracked() || gamma.trainable))
    fail(Code::Unsupported, "RMS norm has no gradient; use it for frozen networks only");
  Tensor y = context.tape.empty(x.value.shape(), outType);
  backend().norm.rmsForward({x.value.f32(), gamma.f32(), y.raw(), outType, rows, columns, epsilon});
  return {y, -1};
}

}  // namespace duet
