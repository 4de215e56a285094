#include "nn/detail_branch.h"

#include "core/memory.h"
#include "ops/detail_branch.h"
#include "ops/kernels.h"

namespace duet {

namespace {

/// The eight parameters of a block in the order of DetailBlockOf.
void eachOf(DetailBlock& block, auto&& visit) {
  for (Parameter* p : {&block.norm1, &block.norm1Bias, &block.conv1, &block.conv1Bias, &block.norm2,
                       &block.norm2Bias, &block.conv2, &block.conv2Bias})
    visit(*p);
}

DetailBlockOf<const float> valuesOf(DetailBlock& b) {
  return {b.norm1.f32(), b.norm1Bias.f32(), b.conv1.f32(), b.conv1Bias.f32(),
          b.norm2.f32(), b.norm2Bias.f32(), b.conv2.f32(), b.conv2Bias.f32()};
}

/// Storage to add the gradient to; zero where this is the first contribution.
float* gradientOf(Parameter& parameter) {
  if (!parameter.trainable) return nullptr;
  bool accumulate;
  float* target = parameter.gradientTarget(accumulate);
  if (!accumulate) currentMemory().zero(target, parameter.gradient.bytes());
  return target;
}

DetailBlockOf<float> gradientsOf(DetailBlock& b) {
  return {gradientOf(b.norm1), gradientOf(b.norm1Bias), gradientOf(b.conv1), gradientOf(b.conv1Bias),
          gradientOf(b.norm2), gradientOf(b.norm2Bias), gradientOf(b.conv2), gradientOf(b.conv2Bias)};
}

bool anyTrainable(DetailBranch& branch) {
  bool any = false;
  for (DetailBlock& block : branch.blocks) eachOf(block, [&](Parameter& p) { any = any || p.trainable; });
  return any;
}

void check(const Var& x, const PictureGrid& grid, DetailBranch& branch) {
  require(x.value.rowCount() == grid.rows() && x.value.dtype() == DType::f32, "Expected f32 of ", grid.rows(),
          " rows for a detail branch but received ", nameOf(x.value.dtype()), " ", x.value.shape().text());
  require(branch.epsilon > 0.0f, "Expected a positive epsilon for a detail branch but received ",
          branch.epsilon);
  for (DetailBlock& block : branch.blocks)
    eachOf(block, [&](Parameter& p) {
      const bool kernel = &p == &block.conv1 || &p == &block.conv2;
      const int64_t expected = kernel ? grid.frames * grid.frames * 9 : grid.frames;
      require(p.value.elements() == expected, "Expected ", expected, " values of ", p.name, " for clips of ",
              grid.frames, " frames but received ", p.value.shape().text());
    });
}

}  // namespace

Var detailBranch(Context& context, const Var& x, const PictureGrid& grid, DetailBranch& branch) {
  check(x, grid, branch);
  Tape& tape = context.tape;
  const DetailShape shape{grid.clips, grid.frames,       grid.height,
                          grid.width, x.value.columns(), branch.epsilon};
  const Tensor y = tape.empty(x.value.shape());
  backend().detail.forward(
      {shape, {valuesOf(branch.blocks[0]), valuesOf(branch.blocks[1])}, x.value.f32(), y.f32()});
  const bool wantsParameters = anyTrainable(branch);
  if (!tape.recording() || !(x.tracked() || wantsParameters)) return {y, -1};
  const Var result = tape.track(y);
  const int made = result.slot, slot = x.slot;
  const KeptValue source(x);
  tape.record([&tape, made, slot, source, shape, wantsParameters, &branch] {
    const Tensor dy = tape.take(made);
    if (!dy.defined()) return;
    const Tensor input = source.get();
    DetailBackward call{};
    call.shape = shape;
    call.x = input.f32();
    call.dy = dy.f32();
    call.parameters = wantsParameters;
    for (int i = 0; i < 2; ++i) {
      call.blocks[i] = valuesOf(branch.blocks[i]);
      call.gradients[i] = gradientsOf(branch.blocks[i]);
    }
    Tensor dx;
    if (slot >= 0) {
      dx = tape.target(slot, input.shape(), DType::f32, call.accumulate);
      call.dx = dx.f32();
    }
    backend().detail.backward(call);
  });
  return result;
}

Var weightedSum(Context& context, const Var& a, Parameter& w1, const Var& b, Parameter& w2) {
  Tape& tape = context.tape;
  require(a.value.elements() == b.value.elements() && a.value.dtype() == DType::f32 &&
              b.value.dtype() == DType::f32,
          "Cannot add ", nameOf(a.value.dtype()), " ", a.value.shape().text(), " and ",
          nameOf(b.value.dtype()), " ", b.value.shape().text());
  require(w1.value.elements() == 1 && w2.value.elements() == 1, "Expected one value of ", w1.name, " and ",
          w2.name, " but received ", w1.value.shape().text(), " and ", w2.value.shape().text());
  const Tensor y = tape.empty(a.value.shape());
  backend().detail.weightedSum(a.value.f32(), w1.f32(), b.value.f32(), w2.f32(), y.f32(), y.elements());
  if (!tape.recording() || !(a.tracked() || b.tracked() || w1.trainable || w2.trainable)) return {y, -1};
  const KeptValue keptA(a), keptB(b);
  const Var result = tape.track(y, [&tape, keptA, keptB, &w1, &w2] {
    const Tensor valueA = keptA.get(), valueB = keptB.get(), again = tape.empty(valueA.shape());
    backend().detail.weightedSum(valueA.f32(), w1.f32(), valueB.f32(), w2.f32(), again.f32(),
                                 again.elements());
    return again;
  });
  const int made = result.slot, first = a.slot, second = b.slot;
  tape.record([&tape, made, first, second, keptA, keptB, &w1, &w2] {
    const Tensor dy = tape.take(made);
    if (!dy.defined()) return;
    const Tensor valueA = keptA.get(), valueB = keptB.get();
    WeightedSumBackward call{};
    call.a = valueA.f32();
    call.b = valueB.f32();
    call.dy = dy.f32();
    call.w1 = w1.f32();
    call.w2 = w2.f32();
    if (w1.trainable) call.dw1 = w1.gradientTarget(call.accumulateW1);
    if (w2.trainable) call.dw2 = w2.gradientTarget(call.accumulateW2);
    call.count = dy.elements();
    Tensor da, db;
    if (first >= 0) {
      da = tape.target(first, valueA.shape(), DType::f32, call.accumulateA);
      call.da = da.f32();
    }
    const bool same = second == first;  // one value twice: its gradient cannot be written to twice at once
    if (second >= 0) {
      db = same ? tape.empty(valueB.shape())
                : tape.target(second, valueB.shape(), DType::f32, call.accumulateB);
      call.db = db.f32();
    }
    backend().detail.weightedSumBackward(call);
    da = Tensor{};
    if (same) tape.give(second, db);
  });
  return result;
}

}  // namespace duet
