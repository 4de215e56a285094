#include "nn/row_products.h"

#include "ops/kernels.h"

namespace duet {

void* at(const Tensor& tensor, int64_t row, int64_t column) {
  return static_cast<std::byte*>(tensor.raw()) +
         static_cast<size_t>(row * tensor.columns() + column) * sizeOf(tensor.dtype());
}

Matrix rowsFrom(const Tensor& tensor, int64_t row, bool transposed) {
  return {at(tensor, row), tensor.dtype(), tensor.columns(), transposed};
}

void forwardRows(const Matrix& x, Weights& weight, Parameter* bias, const float* residual, const Tensor& y,
                 int64_t yRow, int64_t rows, DType compute) {
  for (int64_t column = 0, done = 0; done < weight.out(); column = done) {
    Product product{};
    weight.forward(product, compute, done);
    product.m = rows;
    product.a = x;
    product.c = at(y, yRow, column);
    product.cType = y.dtype();
    product.cStride = y.columns();
    product.bias = bias ? bias->f32() + column : nullptr;
    product.residual = residual ? residual + column : nullptr;
    product.residualStride = y.columns();
    backend().product.multiply(product);
  }
}

void inputGradientRows(const Tensor& dy, int64_t dyRow, Weights& weight, const Tensor& dx, int64_t dxRow,
                       int64_t rows, DType compute, bool accumulate) {
  for (int64_t column = 0, done = 0; done < weight.out(); column = done) {
    Product product{};
    weight.backward(product, compute, done);
    product.m = rows;
    product.a = {at(dy, dyRow, column), dy.dtype(), dy.columns(), false};
    product.c = at(dx, dxRow);
    product.cType = dx.dtype();
    product.cStride = dx.columns();
    product.accumulate = accumulate || column > 0;
    backend().product.multiply(product);
  }
}

void weightGradientRows(const Tensor& dy, int64_t dyRow, const Matrix& x, Weights& weight, int64_t rows,
                        bool accumulate) {
  bool unused;
  Product product{};
  product.m = weight.out();
  product.n = weight.in();
  product.k = rows;
  product.a = rowsFrom(dy, dyRow, true);
  product.b = x;
  product.c = weight.parameter->gradientTarget(unused) + weight.firstRow * weight.in();
  product.cStride = weight.in();
  product.accumulate = accumulate;
  backend().product.multiply(product);
}

const Tensor& inType(const Tensor& tensor, int64_t row, int64_t rows, DType type, Tensor& buffer,
                     int64_t& outRow) {
  if (tensor.dtype() == type) {
    outRow = row;
    return tensor;
  }
  backend().elementwise.convert(at(tensor, row), tensor.dtype(), buffer.raw(), type, rows * tensor.columns());
  outRow = 0;
  return buffer;
}

void checkWeights(const Weights& weight, const Parameter* bias) {
  const Shape& shape = weight.parameter->value.shape();
  require(shape.rank() == 2, "Expected a weight of two dimensions for ", weight.parameter->name,
          " but received ", shape.text());
  if (bias)
    require(bias->value.elements() == shape[0], "Expected a bias of ", shape[0], " for ",
            weight.parameter->name, " but received ", bias->value.shape().text());
}

void checkResidual(const Var& residual, int64_t rows, int64_t columns) {
  require(residual.value.elements() == rows * columns && residual.value.dtype() == DType::f32,
          "Expected a residual of f32 [", rows, ", ", columns, "] but received ",
          residual.value.shape().text());
}

bool beginWeightGradient(Weights& weight) {
  bool accumulate;
  Parameter& parameter = *weight.parameter;
  parameter.gradientTarget(accumulate);
  const bool whole = weight.rows == parameter.value.dim(0);
  if (!accumulate && !whole) {
    currentMemory().zero(parameter.gradient.raw(), parameter.gradient.bytes());
    accumulate = true;
  }
  return accumulate;
}

void biasGradient(Parameter& bias, int64_t firstRow, const Tensor& dy) {
  bool accumulate;
  float* target = bias.gradientTarget(accumulate);
  if (!accumulate && dy.columns() != bias.value.elements()) {
    currentMemory().zero(target, bias.gradient.bytes());
    accumulate = true;
  }
  backend().elementwise.columnSum(dy.raw(), dy.dtype(), dy.rowCount(), dy.columns(), dy.columns(),
                                  target + firstRow, accumulate);
}

}  // namespace duet
