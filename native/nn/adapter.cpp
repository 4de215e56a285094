#include "nn/adapter.h"

#include "ops/kernels.h"

namespace duet {

namespace {

/// The branches of one group as one bottleneck of rank r.
struct Stacked {
  Tensor down;      // r x D
  Tensor downBias;  // r
  Tensor up;        // D x r, scaled by the branch weights
  Tensor upBias;    // D, scaled and summed
  int64_t rank = 0;
};

Stacked stack(Tape& tape, const AdapterGroup& group, int64_t width) {
  Stacked s;
  for (const AdapterBranch& branch : group.branches) {
    const Adapter& a = *branch.adapter;
    require(a.downWeight.value.shape().rank() == 2 && a.upWeight.value.shape().rank() == 2,
            "Expected adapter weights of two dimensions for ", a.downWeight.name);
    const int64_t rank = a.downWeight.value.dim(0);
    require(a.downWeight.value.dim(1) == width && a.upWeight.value.dim(0) == width &&
                a.upWeight.value.dim(1) == rank,
            "Expected an adapter of width ", width, " but ", a.downWeight.name, " is ",
            a.downWeight.value.shape().text());
    require(a.downBias.value.elements() == rank && a.upBias.value.elements() == width, "Expected biases of ",
            rank, " and ", width, " for ", a.downWeight.name, " but received ",
            a.downBias.value.shape().text(), " and ", a.upBias.value.shape().text());
    s.rank += rank;
  }
  s.down = tape.empty({s.rank, width});
  s.downBias = tape.empty({s.rank});
  s.up = tape.empty({width, s.rank});
  s.upBias = tape.arena().zeros({width});
  int64_t first = 0;
  for (const AdapterBranch& branch : group.branches) {
    Adapter& a = *branch.adapter;
    const int64_t rank = a.downWeight.value.dim(0);
    std::memcpy(s.down.f32() + first * width, a.downWeight.f32(), a.downWeight.value.bytes());
    std::memcpy(s.downBias.f32() + first, a.downBias.f32(), a.downBias.value.bytes());
    for (int64_t row = 0; row < width; ++row)
      for (int64_t j = 0; j < rank; ++j)
        s.up.f32()[row * s.rank + first + j] = branch.weight * a.upWeight.f32()[row * rank + j];
    backend().elementwise.scale(a.upBias.f32(), branch.weight, s.upBias.f32(), width, true);
    first += rank;
  }
  return s;
}

Matrix matrix(const float* data, int64_t stride, bool transposed = false) {
  return {data, DType::f32, stride, transposed};
}

struct Kept {
  AdapterGroup group;
  Stacked stacked;
  Tensor hidden;  // rows x r, after relu
};

void multiply(int64_t m, int64_t n, int64_t k, Matrix a, Matrix b, float* c, int64_t cStride, bool accumulate,
              const float* bias = nullptr, const float* residual = nullptr, int64_t residualStride = 0) {
  Product p{};
  p.m = m;
  p.n = n;
  p.k = k;
  p.a = a;
  p.b = b;
  p.c = c;
  p.cStride = cStride;
  p.accumulate = accumulate;
  p.bias = bias;
  p.residual = residual;
  p.residualStride = residualStride;
  backend().product.multiply(p);
}

/// Gradients of the trained branches of one group. The gradient of a down projection is dz^T x. Where
/// x was not kept, x = y - z U^T - 1 u^T gives dz^T x = dz^T y - (dz^T z) U^T - (sum dz) u^T, which needs
/// two small products instead of a second copy of x.
void branchGradients(Tape& tape, const Kept& kept, const float* dy, const float* dz, const float* x,
                     const float* y, int64_t width) {
  const int64_t rows = kept.group.rows, total = kept.stacked.rank;
  const float* z = kept.hidden.f32();
  const auto& ops = backend().elementwise;
  int64_t first = 0;
  for (const AdapterBranch& branch : kept.group.branches) {
    Adapter& a = *branch.adapter;
    const int64_t rank = a.downWeight.value.dim(0);
    bool more;
    if (a.upWeight.trainable) {
      float* target = a.upWeight.gradientTarget(more);
      Tensor part = tape.empty({width, rank});
      multiply(width, rank, rows, matrix(dy, width, true), matrix(z + first, total), part.f32(), rank, false);
      ops.scale(part.f32(), branch.weight, target, width * rank, more);
    }
    if (a.upBias.trainable) {
      float* target = a.upBias.gradientTarget(more);
      Tensor part = tape.empty({width});
      ops.columnSum(dy, DType::f32, rows, width, width, part.f32(), false);
      ops.scale(part.f32(), branch.weight, target, width, more);
    }
    if (a.downBias.trainable) {
      float* target = a.downBias.gradientTarget(more);
      ops.columnSum(dz + first, DType::f32, rows, rank, total, target, more);
    }
    if (a.downWeight.trainable) {
      float* target = a.downWeight.gradientTarget(more);
      multiply(rank, width, rows, matrix(dz + first, total, true), matrix(x ? x : y, width), target, width,
               more);
      if (!x) {
        Tensor inner = tape.empty({rank, total}), sums = tape.empty({rank});
        multiply(rank, total, rows, matrix(dz + first, total, true), matrix(z, total), inner.f32(), total,
                 false);
        ops.columnSum(dz + first, DType::f32, rows, rank, total, sums.f32(), false);
        ops.scale(inner.f32(), -1.0f, inner.f32(), rank * total, false);
        multiply(rank, width, total, matrix(inner.f32(), total), matrix(kept.stacked.up.f32(), total, true),
                 target, width, true);
        for (int64_t row = 0; row < rank; ++row)
          ops.scale(kept.stacked.upBias.f32(), -sums.f32()[row], target + row * width, width, true);
      }
    }
    first += rank;
  }
}

bool anyTrainable(const AdapterGroup& group) {
  for (const AdapterBranch& b : group.branches)
    if (b.adapter->downWeight.trainable || b.adapter->downBias.trainable || b.adapter->upWeight.trainable ||
        b.adapter->upBias.trainable)
      return true;
  return false;
}

}  // namespace

Var adapt(Context& context, const Var& x, const Var* residual, const std::vector<AdapterGroup>& groups,
          int64_t outRows) {
  Tape& tape = context.tape;
  const int64_t width = x.value.columns(), inRows = x.value.rowCount();
  require(!residual || residual->value.elements() == x.value.elements(), "Expected a residual of ",
          x.value.shape().text(), " but received ", residual ? residual->value.shape().text() : "");
  bool trained = false;
  int64_t covered = 0;
  for (const AdapterGroup& group : groups) {
    require(group.inBegin >= 0 && group.inBegin + group.rows <= inRows && group.outBegin >= 0 &&
                group.outBegin + group.rows <= outRows,
            "An adapter group lies outside its ", inRows, " input and ", outRows, " output rows");
    trained = trained || anyTrainable(group);
    covered += group.rows;
  }
  const bool tracked = tape.recording() && (trained || x.tracked() || (residual && residual->tracked()));
  const Tensor base = residual ? residual->value : x.value;
  Tensor y = covered == outRows ? tape.empty({outRows, width}) : tape.arena().zeros({outRows, width});
  auto kept = std::make_shared<std::vector<Kept>>();
  for (const AdapterGroup& group : groups) {
    Kept k{group, stack(tape, group, width), tape.empty({group.rows, 0})};
    const int64_t rank = k.stacked.rank;
    k.hidden = tape.empty({group.rows, rank});
    multiply(group.rows, rank, width, matrix(x.value.f32() + group.inBegin * width, width),
             matrix(k.stacked.down.f32(), width, true), k.hidden.f32(), rank, false,
             k.stacked.downBias.f32());
    backend().activation.forward(
        {k.hidden.raw(), k.hidden.raw(), DType::f32, k.hidden.elements(), Activation::relu});
    multiply(group.rows, width, rank, matrix(k.hidden.f32(), rank), matrix(k.stacked.up.f32(), rank, true),
             y.f32() + group.outBegin * width, width, false, k.stacked.upBias.f32(),
             base.f32() + group.inBegin * width, width);
    if (tracked) kept->push_back(std::move(k));
  }
  if (!tracked) return {y, -1};

  const Var result = tape.track(y);
  const int made = result.slot;
  const Tensor input = residual && trained ? x.value : Tensor{};
  const Tensor output = !residual && trained ? y : Tensor{};
  const bool apart = residual != nullptr;
  const int xSlot = x.slot, residualSlot = residual ? residual->slot : -1;
  const Shape shape = x.value.shape();
  const bool inPlace = !apart && inRows == outRows && groups.size() > 0 && covered == outRows && [&] {
    for (const AdapterGroup& g : groups)
      if (g.inBegin != g.outBegin) return false;
    return true;
  }();
  tape.record([&tape, made, kept, input, output, apart, xSlot, residualSlot, shape, width, inPlace] {
    Tensor dy = tape.take(made);
    if (!dy.defined()) return;
    // dx = dy + dz D: written over dy where each row goes back to its own place.
    Tensor dx;
    bool through = apart;  // whether dx already holds something to add to
    if (xSlot >= 0) {
      if (inPlace) {
        dx = dy.unique() ? dy : tape.empty(dy.shape());
        if (!dx.sameStorage(dy)) std::memcpy(dx.raw(), dy.raw(), dy.bytes());
      } else {
        dx = tape.arena().zeros(shape);
      }
    }
    Tensor dResidual = apart && residualSlot >= 0 ? tape.arena().zeros(shape) : Tensor{};
    for (const Kept& k : *kept) {
      const AdapterGroup& g = k.group;
      const int64_t rank = k.stacked.rank;
      const float* dyRows = dy.f32() + g.outBegin * width;
      Tensor dz = tape.empty({g.rows, rank});
      multiply(g.rows, rank, width, matrix(dyRows, width), matrix(k.stacked.up.f32(), rank), dz.f32(), rank,
               false);
      backend().activation.backward(
          {k.hidden.raw(), DType::f32, dz.raw(), dz.raw(), DType::f32, dz.elements(), Activation::relu});
      branchGradients(tape, k, dyRows, dz.f32(), input.defined() ? input.f32() + g.inBegin * width : nullptr,
                      output.defined() ? output.f32() + g.outBegin * width : nullptr, width);
      if (dResidual.defined())
        backend().elementwise.scale(dyRows, 1.0f, dResidual.f32() + g.inBegin * width, g.rows * width, true);
      if (!dx.defined()) continue;
      float* dxRows = dx.f32() + g.inBegin * width;
      if (!inPlace && !through) backend().elementwise.scale(dyRows, 1.0f, dxRows, g.rows * width, true);
      multiply(g.rows, width, rank, matrix(dz.f32(), rank), matrix(k.stacked.down.f32(), width), dxRows,
               width, true);
    }
    dy = Tensor{};
    if (dx.defined()) tape.give(xSlot, dx);
    if (dResidual.defined()) tape.give(residualSlot, dResidual);
  });
  return result;
}

}  // namespace duet
