#include "nn/resample.h"

#include "ops/kernels.h"

namespace duet {

namespace {

Resample between(const Tensor& x, const PictureGrid& from, const Tensor& y, const PictureGrid& to) {
  Resample call{};
  call.x = x.raw();
  call.xType = x.dtype();
  call.y = y.raw();
  call.yType = y.dtype();
  call.pictures = from.pictures();
  call.channels = x.columns();
  call.height = from.height;
  call.width = from.width;
  call.outHeight = to.height;
  call.outWidth = to.width;
  return call;
}

Var resample(Context& context, const Var& x, const PictureGrid& from, const PictureGrid& to, DType outType,
             void (*forward)(const Resample&), void (*backward)(const Resample&)) {
  Tape& tape = context.tape;
  require(x.value.rowCount() == from.rows(), "Expected ", from.rows(), " rows of pixels but received ",
          x.value.shape().text());
  const Tensor y = tape.empty({to.rows(), x.value.columns()}, outType);
  forward(between(x.value, from, y, to));
  if (!tape.recording() || !x.tracked()) return {y, -1};
  const Var result = tape.track(y, [&tape, source = KeptValue(x), from, to, outType, forward] {
    const Tensor input = source.get(), again = tape.empty({to.rows(), input.columns()}, outType);
    forward(between(input, from, again, to));
    return again;
  });
  const int made = result.slot, slot = x.slot;
  const Shape shape{from.rows(), x.value.columns()};
  const DType type = x.value.dtype();
  tape.record([&tape, made, slot, shape, type, from, to, backward] {
    const Tensor dy = tape.take(made);
    if (!dy.defined()) return;
    bool accumulate;
    const Tensor dx = tape.target(slot, shape, type, accumulate);
    Resample call = between(dy, to, dx, from);
    call.accumulate = accumulate;
    backward(call);
  });
  return result;
}

}  // namespace

Var upsampleNearest(Context& context, const Var& x, const PictureGrid& grid, int64_t height, int64_t width) {
  require(height >= 1 && width >= 1 && grid.pixels() >= 1, "Expected sizes of at least 1 but received ",
          grid.height, "x", grid.width, " to ", height, "x", width);
  PictureGrid to = grid;
  to.height = height;
  to.width = width;
  return resample(context, x, grid, to, x.value.dtype(), backend().resample.upsample,
                  backend().resample.upsampleBackward);
}

Var averagePool(Context& context, const Var& x, const PictureGrid& grid, DType outType) {
  require(grid.height >= 2 && grid.width >= 2, "Expected pictures of at least 2x2 to pool but received ",
          grid.height, "x", grid.width);
  require(x.value.dtype() == DType::f32, "Expected f32 to pool but received ", nameOf(x.value.dtype()));
  PictureGrid to = grid;
  to.height /= 2;
  to.width /= 2;
  return resample(context, x, grid, to, outType, backend().resample.averagePool,
                  backend().resample.averagePoolBackward);
}

}  // namespace duet
