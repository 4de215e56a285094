// Parameters under their published names: construction with PyTorch's initial values, and the way between the
// published layout and the one the products use (projections stacked in one matrix, convolution kernels as
// [out, kh, kw, in] instead of [out, in, kh, kw]).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <vector>

#include "nn/convolution.h"
#include "nn/parameter.h"

namespace duet {

struct LinearLayer {
  Parameter weight, bias;
  Weights use;
  bool biased = true;
  Parameter* biasOrNull() { return biased ? &bias : nullptr; }
};

struct ConvolutionLayer {
  Parameter weight, bias;
  ConvolutionKernel kernel;
};

struct NormLayer {
  Parameter gamma, beta;
};

/// A parameter, or some rows of a stacked one, under its published name and shape.
struct PublishedParameter {
  std::string name;
  Parameter* parameter = nullptr;
  int64_t firstRow = 0;
  Shape shape;
  bool kernel = false;  // [out, in, kh, kw] when published

  int64_t elements() const { return shape.elements(); }
  /// Copies this part of `whole`, which lies as the parameter does (its value, gradient, a moment), out.
  void toPublished(const Tensor& whole, float* out) const;
  void fromPublished(const float* values, const Tensor& whole) const;
  std::vector<float> copyOf(const Tensor& whole) const;

 private:
  float* part(const Tensor& whole) const;
  template <typename Exchange>
  void exchangeTaps(Exchange&& exchange) const;
};

class ParameterList {
 public:
  /// @param initialise false leaves zeros, for weights that are loaded next
  ParameterList(uint64_t seed, bool initialise) : seed_(seed), initialise_(initialise) {}
  ParameterList(const ParameterList&) = delete;
  ParameterList& operator=(const ParameterList&) = delete;

  // Layers register their addresses, so they may not move afterwards.
  void linear(const std::string& name, LinearLayer& layer, int64_t out, int64_t in, bool biased = true);
  /// One matrix for several projections of the same input, `<prefix><part>.weight` each, without bias.
  void stacked(const std::string& prefix, std::initializer_list<const char*> parts, LinearLayer& layer,
               int64_t outEach, int64_t in);
  /// @param gain of the initial weights, which lie within gain / sqrt(in size^2)
  void convolution(const std::string& name, ConvolutionLayer& layer, int64_t out, int64_t in, int64_t size,
                   float gain = 1.0f);
  void norm(const std::string& name, NormLayer& layer, int64_t channels);
  /// Uniform within 1 / sqrt(fanIn), PyTorch's start of linear and convolution layers.
  void uniform(const std::string& name, Parameter& parameter, const Shape& shape, int64_t fanIn);
  void constant(const std::string& name, Parameter& parameter, const Shape& shape, float value);
  /// Normal around 0, for tables of embeddings.
  void normal(const std::string& name, Parameter& parameter, const Shape& shape, float deviation);

  const std::vector<PublishedParameter>& all() const { return list_; }
  bool has(const std::string& name) const { return byName_.count(name) != 0; }
  /// Throws NotFound.
  const PublishedParameter& find(const std::string& name) const;
  /// Every parameter once, stacked ones as one.
  const std::vector<Parameter*>& distinct() const { return distinct_; }
  size_t packedBytes() const;

 private:
  void allocate(const std::string& name, Parameter& parameter, const Shape& shape);
  void publish(const std::string& name, Parameter& parameter, const Shape& shape, int64_t firstRow = 0,
               bool kernel = false);
  void use(Weights& weights, Parameter& parameter);
  void fill(Parameter& parameter, int64_t fanIn, float gain = 1.0f);

  uint64_t seed_;
  bool initialise_;
  uint64_t draws_ = 0;
  std::vector<PublishedParameter> list_;
  std::map<std::string, size_t> byName_;
  std::vector<Parameter*> distinct_;
  std::vector<const Weights*> uses_;
};

}  // namespace duet
