#include "nn/parameter_list.h"

#include <algorithm>
#include <cmath>

#include "core/host_access.h"
#include "core/philox.h"

namespace duet {

float* PublishedParameter::part(const Tensor& whole) const {
  const int64_t rows = parameter->value.dim(0);
  const int64_t columns = rows > 0 ? parameter->value.elements() / rows : 0;
  return whole.f32() + firstRow * columns;
}

void PublishedParameter::toPublished(const Tensor& whole, float* out) const {
  const auto count = static_cast<size_t>(elements());
  if (!kernel) {
    currentMemory().copyOut(out, part(whole), count * sizeof(float));
    return;
  }
  std::vector<float> stored(count);
  currentMemory().copyOut(stored.data(), part(whole), count * sizeof(float));
  exchangeTaps([&](size_t published, size_t here) { out[published] = stored[here]; });
}

void PublishedParameter::fromPublished(const float* values, const Tensor& whole) const {
  const auto count = static_cast<size_t>(elements());
  if (!kernel) {
    currentMemory().copyIn(part(whole), values, count * sizeof(float));
    return;
  }
  std::vector<float> stored(count);
  exchangeTaps([&](size_t published, size_t here) { stored[here] = values[published]; });
  currentMemory().copyIn(part(whole), stored.data(), count * sizeof(float));
}

/// Kernels are published as [out, in, taps] and lie here as [out, taps, in].
template <typename Exchange>
void PublishedParameter::exchangeTaps(Exchange&& exchange) const {
  const auto out = static_cast<size_t>(shape[0]), in = static_cast<size_t>(shape[1]),
             taps = static_cast<size_t>(shape[2] * shape[3]);
  for (size_t o = 0; o < out; ++o)
    for (size_t i = 0; i < in; ++i)
      for (size_t tap = 0; tap < taps; ++tap) exchange((o * in + i) * taps + tap, (o * taps + tap) * in + i);
}

std::vector<float> PublishedParameter::copyOf(const Tensor& whole) const {
  std::vector<float> values(static_cast<size_t>(elements()));
  toPublished(whole, values.data());
  return values;
}

void ParameterList::allocate(const std::string& name, Parameter& parameter, const Shape& shape) {
  parameter.name = name;
  parameter.value = Tensor::zeros(shape);
  distinct_.push_back(&parameter);
}

void ParameterList::publish(const std::string& name, Parameter& parameter, const Shape& shape,
                            int64_t firstRow, bool kernel) {
  if (!byName_.emplace(name, list_.size()).second) fail(Code::Internal, "Two parameters are called ", name);
  list_.push_back({name, &parameter, firstRow, shape, kernel});
}

void ParameterList::use(Weights& weights, Parameter& parameter) {
  weights.parameter = &parameter;
  weights.firstRow = 0;
  weights.rows = parameter.value.dim(0);
  uses_.push_back(&weights);
}

void ParameterList::fill(Parameter& parameter, int64_t fanIn, float gain) {
  const Philox generator{seed_, draws_++};
  if (!initialise_) return;
  const float bound = gain / std::sqrt(static_cast<float>(fanIn));
  fillOnHost(parameter.value,
             [&](float* to) { fillUniform(to, parameter.value.elements(), bound, generator); });
}

void ParameterList::linear(const std::string& name, LinearLayer& layer, int64_t out, int64_t in,
                           bool biased) {
  layer.biased = biased;
  allocate(name + ".weight", layer.weight, {out, in});
  publish(name + ".weight", layer.weight, {out, in});
  fill(layer.weight, in);
  use(layer.use, layer.weight);
  if (biased) uniform(name + ".bias", layer.bias, {out}, in);
}

void ParameterList::stacked(const std::string& prefix, std::initializer_list<const char*> parts,
                            LinearLayer& layer, int64_t outEach, int64_t in) {
  layer.biased = false;
  std::string name = prefix;
  for (const char* part : parts) name += (part == *parts.begin() ? "" : "+") + std::string(part);
  allocate(name + ".weight", layer.weight, {outEach * static_cast<int64_t>(parts.size()), in});
  fill(layer.weight, in);
  int64_t row = 0;
  for (const char* part : parts) {
    publish(prefix + part + ".weight", layer.weight, {outEach, in}, row);
    row += outEach;
  }
  use(layer.use, layer.weight);
}

void ParameterList::convolution(const std::string& name, ConvolutionLayer& layer, int64_t out, int64_t in,
                                int64_t size, float gain) {
  const int64_t fanIn = in * size * size;
  allocate(name + ".weight", layer.weight, {out, fanIn});
  publish(name + ".weight", layer.weight, {out, in, size, size}, 0, true);
  fill(layer.weight, fanIn, gain);
  layer.kernel.size = size;
  use(layer.kernel.weights, layer.weight);
  uniform(name + ".bias", layer.bias, {out}, fanIn);
}

void ParameterList::norm(const std::string& name, NormLayer& layer, int64_t channels) {
  constant(name + ".weight", layer.gamma, {channels}, 1.0f);
  constant(name + ".bias", layer.beta, {channels}, 0.0f);
}

void ParameterList::uniform(const std::string& name, Parameter& parameter, const Shape& shape,
                            int64_t fanIn) {
  allocate(name, parameter, shape);
  publish(name, parameter, shape);
  fill(parameter, fanIn);
}

void ParameterList::constant(const std::string& name, Parameter& parameter, const Shape& shape, float value) {
  allocate(name, parameter, shape);
  publish(name, parameter, shape);
  if (initialise_)
    fillOnHost(parameter.value, [&](float* to) { std::fill_n(to, parameter.value.elements(), value); });
}

void ParameterList::normal(const std::string& name, Parameter& parameter, const Shape& shape,
                           float deviation) {
  allocate(name, parameter, shape);
  publish(name, parameter, shape);
  const Philox generator{seed_, draws_++};
  if (initialise_)
    fillOnHost(parameter.value,
               [&](float* to) { fillNormal(to, parameter.value.elements(), deviation, generator); });
}

const PublishedParameter& ParameterList::find(const std::string& name) const {
  const auto found = byName_.find(name);
  if (found == byName_.end())
    fail(Code::NotFound, "Expected the name of a parameter but received '", name, "'");
  return list_[found->second];
}

size_t ParameterList::packedBytes() const {
  size_t bytes = 0;
  for (const Weights* weights : uses_) bytes += weights->packedBytes();
  return bytes;
}

}  // namespace duet
