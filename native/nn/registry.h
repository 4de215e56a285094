// Single ops by name, for tests and for comparisons with reference numbers: inputs and attributes
// in, the output and, when a gradient of the output is given, the gradients of the inputs out.
#pragma once

#include <map>
#include <string>
#include <variant>
#include <vector>

#include "core/tensor.h"

namespace duet {

using Attribute = std::variant<double, bool, std::string>;
using NamedTensors = std::map<std::string, Tensor>;

/// Runs op `name`. Results: 'out' (and further outputs), 'grad.<input>' where `gradOutput` is defined.
NamedTensors runOp(const std::string& name, const NamedTensors& inputs,
                   const std::map<std::string, Attribute>& attributes, const Tensor& gradOutput);

/// The names runOp knows.
std::vector<std::string> opNames();

/// Measured rate of the packed matrix product in GFLOP/s: best of a few repetitions of M x N x K.
double productRate(int64_t m, int64_t n, int64_t k, DType dtype);

}  // namespace duet
