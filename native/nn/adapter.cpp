#include "nn/adapter.h"

#include "ops/kernels.h"

namespace duet {

namespace {

/// The branches as one bottleneck of rank r.
struct Stacked {
  Tensor down;      // r x D
  Tensor downBias;  // r
  Tensor up;        // D x r, scaled by the branch weights
  Tensor upBias;    // D, scaled and summed
  int64_t rank = 0;
};

Stacked stack(Tape& tape, const std::vector<AdapterBranch>& branches, int64_t width) {
  Stacked s;
  for (const AdapterBranch& branch : branches) {
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
  const Backend& ops = backend();
  const Memory& memory = currentMemory();
  constexpr int64_t size = sizeof(float);
  int64_t first = 0;
  for (const AdapterBranch& branch : branches) {
    Adapter& a = *branch.adapter;
    const int64_t rank = a.downWeight.value.dim(0);
    memory.copy(s.down.f32() + first * width, a.downWeight.f32(), a.downWeight.value.bytes());
    memory.copy(s.downBias.f32() + first, a.downBias.f32(), a.downBias.value.bytes());
    const Tensor up = tape.empty({width, rank});
    ops.elementwise.scale(a.upWeight.f32(), branch.weight, up.f32(), up.elements(), false);
    ops.gated.copyColumns({up.raw(), rank * size, s.up.f32() + first, s.rank * size, width, rank * size});
    ops.elementwise.scale(a.upBias.f32(), branch.weight, s.upBias.f32(), width, true);
    first += rank;
  }
  return s;
}

Matrix matrix(const float* data, int64_t stride, bool transposed = false) {
  return {data, DType::f32, stride, transposed};
}

struct Kept {
  std::vector<AdapterBranch> branches;
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

/// Gradients of the trained branches. The gradient of a down projection is dz^T x. Where
/// x was not kept, x = y - z U^T - 1 u^T gives dz^T x = dz^T y - (dz^T z) U^T - (sum dz) u^T, which needs
/// two small products instead of a second copy of x.
void branchGradients(Tape& tape, const Kept& kept, const float* dy, const float* dz, const float* x,
                     const float* y, int64_t width) {
  const int64_t rows = kept.hidden.dim(0), total = kept.stacked.rank;
  const float* z = kept.hidden.f32();
  const auto& ops = backend().elementwise;
  int64_t first = 0;
  for (const AdapterBranch& branch : kept.branches) {
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
        ops.scale(sums.f32(), -1.0f, sums.f32(), rank, false);
        multiply(rank, width, 1, matrix(sums.f32(), 1), matrix(kept.stacked.upBias.f32(), width), target,
                 width, true);
      }
    }
    first += rank;
  }
}

bool anyTrainable(const std::vector<AdapterBranch>& branches) {
  for (const AdapterBranch& b : branches)
    if (b.adapter->downWeight.trainable || b.adapter->downBias.trainable || b.adapter->upWeight.trainable ||
        b.adapter->upBias.trainable)
      return true;
  return false;
}

}  // namespace

Var adapt(Context& context, const Var& x, const Var* residual, std::vector<AdapterBranch> branches) {
  Tape& tape = context.tape;
  const int64_t width = x.value.columns(), rows = x.value.rowCount();
  require(!residual || residual->value.elements() == x.value.elements(), "Expected a residual of ",
          x.value.shape().text(), " but received ", residual ? residual->value.shape().text() : "");
  const bool trained = anyTrainable(branches);
  const bool tracked = tape.recording() && (trained || x.tracked() || (residual && residual->tracked()));
  Kept kept{std::move(branches), {}, {}};
  kept.stacked = stack(tape, kept.branches, width);
  const int64_t rank = kept.stacked.rank;
  kept.hidden = tape.empty({rows, rank});
  Tensor y = tape.empty({rows, width});
  multiply(rows, rank, width, matrix(x.value.f32(), width), matrix(kept.stacked.down.f32(), width, true),
           kept.hidden.f32(), rank, false, kept.stacked.downBias.f32());
  backend().activation.forward(
      {kept.hidden.raw(), kept.hidden.raw(), DType::f32, kept.hidden.elements(), Activation::relu});
  multiply(rows, width, rank, matrix(kept.hidden.f32(), rank), matrix(kept.stacked.up.f32(), rank, true),
           y.f32(), width, false, kept.stacked.upBias.f32(), (residual ? residual->value : x.value).f32(),
           width);
  if (!tracked) return {y, -1};

  const Var result = tape.track(y);
  const int made = result.slot;
  const Tensor input = residual && trained ? x.value : Tensor{};
  const Tensor output = !residual && trained ? y : Tensor{};
  const bool apart = residual != nullptr;
  const int xSlot = x.slot, residualSlot = residual ? residual->slot : -1;
  tape.record([&tape, made, kept, input, output, apart, xSlot, residualSlot, rows, width] {
    Tensor dy = tape.take(made);
    if (!dy.defined()) return;
    const int64_t rank = kept.stacked.rank;
    Tensor dz = tape.empty({rows, rank});
    multiply(rows, rank, width, matrix(dy.f32(), width), matrix(kept.stacked.up.f32(), rank), dz.f32(), rank,
             false);
    backend().activation.backward(
        {kept.hidden.raw(), DType::f32, dz.raw(), dz.raw(), DType::f32, dz.elements(), Activation::relu});
    branchGradients(tape, kept, dy.f32(), dz.f32(), input.defined() ? input.f32() : nullptr,
                    output.defined() ? output.f32() : nullptr, width);
    if (apart) tape.give(residualSlot, dy);
    if (xSlot < 0) return;
    // dx = dz D, and + dy where x is its own residual: written over dy.
    Tensor dx = !apart && dy.unique() ? dy : tape.empty(dy.shape());
    if (!apart && !dx.sameStorage(dy)) currentMemory().copy(dx.raw(), dy.raw(), dy.bytes());
    dy = Tensor{};
    multiply(rows, width, rank, matrix(dz.f32(), rank), matrix(kept.stacked.down.f32(), width), dx.f32(),
             width, !apart);
    tape.give(xSlot, dx);
  });
  return result;
}

}  // namespace duet
