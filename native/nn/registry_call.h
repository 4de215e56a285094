// One call of a single op by name: inputs as tracked values or as trainable parameters, attributes with
// defaults, results with their gradients.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/host_access.h"
#include "nn/context.h"
#include "nn/parameter.h"
#include "nn/registry.h"
#include "ops/kernels.h"

namespace duet {

using Attributes = std::map<std::string, Attribute>;

/// One call: inputs as tracked values or as trainable parameters, and the results with gradients.
class Call {
 public:
  Call(const NamedTensors& inputs, const Attributes& attributes, const Tensor& gradOutput)
      : arena(Arena::create(size_t{8} << 30)),
        tape(arena, true),
        context{tape},
        inputs_(inputs),
        attributes_(attributes),
        gradOutput_(gradOutput) {}

  std::shared_ptr<Arena> arena;
  Tape tape;
  Context context;
  NamedTensors results;

  bool has(const std::string& name) const { return inputs_.count(name) != 0; }
  const NamedTensors& inputs() const { return inputs_; }

  const Tensor& input(const std::string& name, DType dtype = DType::f32) const {
    const auto found = inputs_.find(name);
    require(found != inputs_.end(), "Expected an input called '", name, "'");
    require(found->second.dtype() == dtype, "Expected '", name, "' as ", nameOf(dtype), " but received ",
            nameOf(found->second.dtype()));
    return found->second;
  }

  /// A copy in the arena, tracked, two-dimensional.
  Var value(const std::string& name, DType compute = DType::f32) {
    const Tensor& given = input(name);
    require(given.shape().rank() >= 1 && given.columns() > 0, "Expected '", name,
            "' of at least one column but received ", given.shape().text());
    Tensor copy = tape.empty({given.rowCount(), given.columns()}, compute);
    backend().elementwise.convert(given.raw(), DType::f32, copy.raw(), compute, given.elements());
    const Var var = tape.track(copy);
    values_.push_back({name, var.slot, given.shape()});
    return var;
  }

  Parameter& parameter(const std::string& name, bool trainable = true) {
    parameters_.push_back(std::make_unique<Parameter>());
    Parameter& p = *parameters_.back();
    p.name = name;
    p.value = Tensor::zeros(input(name).shape());
    currentMemory().copy(p.value.raw(), input(name).raw(), p.value.bytes());
    p.trainable = trainable;
    return p;
  }
  Parameter* optionalParameter(const std::string& name) { return has(name) ? &parameter(name) : nullptr; }

  double number(const std::string& name, double fallback) const {
    const auto found = attributes_.find(name);
    if (found == attributes_.end()) return fallback;
    const double* value = std::get_if<double>(&found->second);
    require(value != nullptr, "Expected a number for attribute '", name, "'");
    return *value;
  }
  std::string text(const std::string& name, const std::string& fallback) const {
    const auto found = attributes_.find(name);
    if (found == attributes_.end()) return fallback;
    const std::string* value = std::get_if<std::string>(&found->second);
    require(value != nullptr, "Expected a text for attribute '", name, "'");
    return *value;
  }
  bool flag(const std::string& name, bool fallback) const {
    const auto found = attributes_.find(name);
    if (found == attributes_.end()) return fallback;
    const bool* value = std::get_if<bool>(&found->second);
    require(value != nullptr, "Expected true or false for attribute '", name, "'");
    return *value;
  }
  DType compute() const {
    const std::string name = text("compute", "f32");
    require(name == "f32" || name == "tf32" || name == "bf16",
            "Expected 'f32', 'tf32' or 'bf16' for attribute 'compute' but received '", name, "'");
    if (name == "bf16" && !backend().product.supports(DType::bf16))
      fail(
          Code::Unsupported,
          "Expected f32 for compute on this machine but received bf16, which needs a processor with AVX-512");
    return name == "bf16" ? DType::bf16 : DType::f32;
  }
  Activation activation() const {
    const std::string name = text("activation", "none");
    if (name == "none") return Activation::none;
    if (name == "gelu") return Activation::gelu;
    if (name == "relu") return Activation::relu;
    if (name == "tanh") return Activation::tanh;
    if (name == "silu") return Activation::silu;
    if (name == "quick_gelu") return Activation::quickGelu;
    if (name == "gelu_tanh") return Activation::geluTanh;
    fail(Code::InvalidArgument,
         "Expected 'none', 'gelu', 'quick_gelu', 'gelu_tanh', 'silu', 'relu' or 'tanh' for attribute "
         "'activation' but received '",
         name, "'");
  }

  /// Stores the output and, where a gradient of it was given, everything that flows back from it.
  void finish(const Var& out, const Shape& shape) {
    results["out"] = persistent(out.value, shape);
    if (!gradOutput_.defined()) return;
    require(gradOutput_.dtype() == DType::f32, "Expected the gradient of the output as f32 but received ",
            nameOf(gradOutput_.dtype()));
    require(gradOutput_.elements() == out.value.elements(), "Expected a gradient of ", shape.text(),
            " for the output but received ", gradOutput_.shape().text());
    Tensor gradient = tape.empty(out.value.shape(), out.value.dtype());
    backend().elementwise.convert(gradOutput_.raw(), gradOutput_.dtype(), gradient.raw(), gradient.dtype(),
                                  gradient.elements());
    tape.give(out, std::move(gradient));
    tape.backward();
    for (const Tracked& v : values_) {
      const Tensor g = tape.take(v.slot);
      results["grad." + v.name] = g.defined() ? persistent(g, v.shape) : Tensor::zeros(v.shape);
    }
    for (const auto& p : parameters_)
      if (p->trainable)
        results["grad." + p->name] = p->hasGradient ? p->gradient : Tensor::zeros(p->value.shape());
  }

  static Tensor persistent(const Tensor& from, const Shape& shape) {
    Tensor copy = Tensor::zeros(shape);
    backend().elementwise.convert(from.raw(), from.dtype(), copy.raw(), DType::f32, copy.elements());
    return copy;
  }

 private:
  struct Tracked {
    std::string name;
    int slot;
    Shape shape;
  };
  const NamedTensors& inputs_;
  const Attributes& attributes_;
  const Tensor& gradOutput_;
  std::vector<Tracked> values_;
  std::vector<std::unique_ptr<Parameter>> parameters_;
};

/// All rows of a weight.
inline Weights whole(Parameter& p) {
  Weights w;
  w.parameter = &p;
  w.rows = p.value.dim(0);
  return w;
}

/// work(first, count) for the attribute `pieces` (1) of about equal size that a list of `count` is cut into.
template <typename Work>
void eachPiece(const Call& c, int64_t count, Work&& work) {
  const auto pieces = static_cast<int64_t>(c.number("pieces", 1));
  for (int64_t i = 0; i < pieces; ++i)
    work(count * i / pieces, count * (i + 1) / pieces - count * i / pieces);
}

using OpTable = std::map<std::string, std::function<void(Call&)>>;

OpTable productOps();  // registry_products.cpp
OpTable pictureOps();  // registry_pictures.cpp: on feature maps
OpTable blockOps();    // registry_blocks.cpp

}  // namespace duet
