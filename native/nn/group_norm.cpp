#include "nn/group_norm.h"

#include "ops/kernels.h"

namespace duet {

namespace {

void check(const Var& x, const PictureGrid& grid, const Parameter& gamma, const Parameter& beta,
           const GroupNormOptions& options) {
  const int64_t channels = x.value.columns();
  require(x.value.rowCount() == grid.rows() && x.value.dtype() == DType::f32, "Expected f32 of ", grid.rows(),
          " rows for ", gamma.name, " but received ", nameOf(x.value.dtype()), " ", x.value.shape().text());
  require(gamma.value.elements() == channels && beta.value.elements() == channels, "Expected ", channels,
          " channels for ", gamma.name, " but it has ", gamma.value.shape().text(), " and a bias of ",
          beta.value.shape().text());
  require(options.groups >= 1 && channels % options.groups == 0,
          "Expected a number of groups that divides the ", channels, " channels for ", gamma.name,
          " but received ", options.groups);
  require(options.epsilon > 0.0f, "Expected a positive epsilon for ", gamma.name, " but received ",
          options.epsilon);
  if (options.clipShift)
    require(options.clipShift->value.dtype() == DType::f32 &&
                options.clipShift->value.elements() == grid.clips * channels,
            "Expected a shift of f32 [", grid.clips, ", ", channels, "] for ", gamma.name, " but received ",
            options.clipShift->value.shape().text());
}

}  // namespace

Var groupNorm(Context& context, const Var& x, const PictureGrid& grid, Parameter& gamma, Parameter& beta,
              const GroupNormOptions& options) {
  check(x, grid, gamma, beta, options);
  Tape& tape = context.tape;
  GroupNormShape shape{};
  shape.units = options.acrossFrames ? grid.clips : grid.pictures();
  shape.unitRows = options.acrossFrames ? grid.frames * grid.pixels() : grid.pixels();
  shape.unitsPerClip = options.acrossFrames ? 1 : grid.frames;
  shape.channels = x.value.columns();
  shape.groups = options.groups;
  shape.epsilon = options.epsilon;
  shape.silu = options.silu;

  const Tensor shift = options.clipShift ? options.clipShift->value : Tensor{};
  const int shiftSlot = options.clipShift ? options.clipShift->slot : -1;
  const bool tracked =
      tape.recording() && (x.tracked() || shiftSlot >= 0 || gamma.trainable || beta.trainable);
  Tensor y = tape.empty(x.value.shape(), options.outType);
  const Tensor statistics = tape.empty({2, shape.units * shape.groups});
  float* mean = statistics.f32();
  float* rstd = mean + shape.units * shape.groups;
  backend().groupNorm.forward({shape, x.value.f32(), shift.defined() ? shift.f32() : nullptr, gamma.f32(),
                               beta.f32(), y.raw(), options.outType, mean, rstd});
  if (!tracked) return {y, -1};

  const KeptValue source(x);
  const Var result =
      tape.track(y, [&tape, source, shift, statistics, shape, &gamma, &beta, type = options.outType] {
        const Tensor input = source.get(), again = tape.empty(input.shape(), type);
        float* mean = statistics.f32();  // written once more with the same values
        backend().groupNorm.forward({shape, input.f32(), shift.defined() ? shift.f32() : nullptr, gamma.f32(),
                                     beta.f32(), again.raw(), type, mean, mean + shape.units * shape.groups});
        return again;
      });
  const int made = result.slot;
  const int slot = x.slot;
  tape.record([&tape, made, source, slot, shift, shiftSlot, statistics, shape, &gamma, &beta] {
    const Tensor dy = tape.take(made);
    if (!dy.defined()) return;
    const Tensor input = source.get();
    GroupNormBackward call{};
    call.shape = shape;
    call.x = input.f32();
    call.shift = shift.defined() ? shift.f32() : nullptr;
    call.gamma = gamma.f32();
    call.beta = beta.f32();
    call.mean = statistics.f32();
    call.rstd = statistics.f32() + shape.units * shape.groups;
    call.dy = dy.raw();
    call.dyType = dy.dtype();
    Tensor dx, dshift;
    if (slot >= 0) {
      dx = tape.target(slot, input.shape(), DType::f32, call.accumulate);
      call.dx = dx.f32();
    }
    if (shiftSlot >= 0) {
      dshift = tape.target(shiftSlot, shift.shape(), DType::f32, call.accumulateShift);
      call.dshift = dshift.f32();
    }
    if (gamma.trainable) call.dgamma = gamma.gradientTarget(call.accumulateGamma);
    if (beta.trainable) call.dbeta = beta.gradientTarget(call.accumulateBeta);
    backend().groupNorm.backward(call);
  });
  return result;
}

}  // namespace duet
