// The three products of a linear layer for some rows at a time (output, input gradient, weight gradient), and
// the checks and bookkeeping around them: shared by everything whose work is a product with a weight.
#pragma once

#include "autograd/tape.h"
#include "nn/parameter.h"

namespace duet {

/// Where row `row` of a tensor begins, or its column `column`.
void* at(const Tensor& tensor, int64_t row, int64_t column = 0);
Matrix rowsFrom(const Tensor& tensor, int64_t row, bool transposed = false);

/// C = A W^T + bias (+ residual) for some rows.
void forwardRows(const Matrix& x, Weights& weight, Parameter* bias, const float* residual, const Tensor& y,
                 int64_t yRow, int64_t rows, DType compute);
inline void forwardRows(const Tensor& x, int64_t xRow, Weights& weight, Parameter* bias,
                        const float* residual, const Tensor& y, int64_t yRow, int64_t rows, DType compute) {
  forwardRows(rowsFrom(x, xRow), weight, bias, residual, y, yRow, rows, compute);
}

/// dX (+)= dY W for some rows.
void inputGradientRows(const Tensor& dy, int64_t dyRow, Weights& weight, const Tensor& dx, int64_t dxRow,
                       int64_t rows, DType compute, bool accumulate);

/// dW += dY^T X over some rows, both of the same type.
void weightGradientRows(const Tensor& dy, int64_t dyRow, const Matrix& x, Weights& weight, int64_t rows,
                        bool accumulate);
inline void weightGradientRows(const Tensor& dy, int64_t dyRow, const Tensor& x, int64_t xRow,
                               Weights& weight, int64_t rows, bool accumulate) {
  weightGradientRows(dy, dyRow, rowsFrom(x, xRow), weight, rows, accumulate);
}

/// Rows of `tensor` in the compute type: themselves, or converted into `buffer`.
const Tensor& inType(const Tensor& tensor, int64_t row, int64_t rows, DType type, Tensor& buffer,
                     int64_t& outRow);

void checkWeights(const Weights& weight, const Parameter* bias);
void checkResidual(const Var& residual, int64_t rows, int64_t columns);

inline bool trainable(const Weights& weight) { return weight.parameter->trainable; }
inline bool trainable(const Parameter* parameter) { return parameter && parameter->trainable; }

/// Whether the gradient of a stacked weight was already begun by another part of it. Parts are zeroed on
/// first touch.
bool beginWeightGradient(Weights& weight);

/// Adds the column sums of dY to the gradient of a bias, from entry `firstRow` on.
void biasGradient(Parameter& bias, int64_t firstRow, const Tensor& dy);

}  // namespace duet
