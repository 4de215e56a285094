#include "nn/merged_linear.h"

#include "nn/row_products.h"
#include "ops/kernels.h"

namespace duet {

namespace {

/// f32 numbers of a parameter, rows x columns.
struct Block {
  const float* data;
  int64_t rows, columns;

  Block(const Parameter& p) : data(p.f32()), rows(p.value.dim(0)), columns(p.value.elements() / rows) {}
  Block(const float* values, int64_t height, int64_t width) : data(values), rows(height), columns(width) {}
  Matrix matrix(bool transposed = false) const { return {data, DType::f32, columns, transposed}; }
};

/// c (+)= a b, c of m x n.
void multiply(int64_t m, int64_t n, int64_t k, const Matrix& a, const Matrix& b, float* c, bool accumulate) {
  Product product{};
  product.m = m;
  product.n = n;
  product.k = k;
  product.a = a;
  product.b = b;
  product.c = c;
  product.cStride = n;
  product.accumulate = accumulate;
  backend().product.multiply(product);
}

void shareOut(LinearLayer& merged, LinearLayer& first, LinearLayer& second) {
  const Block w1(first.weight), w2(second.weight);
  const Block dW(merged.weight.gradient.f32(), w2.rows, w1.columns);
  const Block b1(first.bias.f32(), 1, w1.rows), db(merged.bias.gradient.f32(), 1, w2.rows);
  bool accumulate;
  if (second.weight.trainable) {
    float* to = second.weight.gradientTarget(accumulate);
    multiply(w2.rows, w2.columns, w1.columns, dW.matrix(), w1.matrix(true), to, accumulate);
    multiply(w2.rows, w2.columns, 1, db.matrix(true), b1.matrix(), to, true);
  }
  if (first.weight.trainable) {
    float* to = first.weight.gradientTarget(accumulate);
    multiply(w1.rows, w1.columns, w2.rows, w2.matrix(true), dW.matrix(), to, accumulate);
  }
  if (first.bias.trainable) {
    float* to = first.bias.gradientTarget(accumulate);
    multiply(1, w1.rows, w2.rows, db.matrix(), w2.matrix(), to, accumulate);
  }
}

}  // namespace

bool mergingPays(const LinearLayer& first, const LinearLayer& second, int64_t rows) {
  const int64_t middle = first.weight.value.dim(0), out = second.weight.value.dim(0);
  return rows * (middle - out) > middle * out;
}

std::shared_ptr<LinearLayer> mergedLinear(Context& c, LinearLayer& first, LinearLayer& second) {
  const Block w1(first.weight), w2(second.weight);
  require(w2.columns == w1.rows && first.biased, "Cannot merge ", first.weight.name, " and ",
          second.weight.name);
  const auto merged = std::make_shared<LinearLayer>();
  merged->weight.name = second.weight.name + " " + first.weight.name;
  merged->weight.value = c.tape.empty({w2.rows, w1.columns});
  merged->bias.value = c.tape.empty({w2.rows});
  merged->use.parameter = &merged->weight;
  merged->use.rows = w2.rows;
  multiply(w2.rows, w1.columns, w1.rows, w2.matrix(), w1.matrix(), merged->weight.f32(), false);
  multiply(1, w2.rows, w1.rows, {first.bias.f32(), DType::f32, w1.rows}, w2.matrix(true), merged->bias.f32(),
           false);
  if (!c.tape.recording() || !(first.weight.trainable || first.bias.trainable || second.weight.trainable))
    return merged;
  for (Parameter* p : {&merged->weight, &merged->bias}) {
    p->trainable = true;
    p->gradientArena = first.weight.gradientArena;
  }
  c.tape.record([merged, &first, &second] {
    if (merged->weight.hasGradient) shareOut(*merged, first, second);
  });
  return merged;
}

}  // namespace duet
