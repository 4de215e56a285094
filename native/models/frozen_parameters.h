// The parameters of a network that is only used, under their published names: a model declares them in its
// constructor, load() fills them from safetensors files. Names are strict: what is missing, left over or of
// another shape is listed, and nothing changes.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "nn/convolution.h"
#include "nn/parameter.h"

namespace duet {

struct FrozenNorm {
  Parameter weight, bias;
};

/// One linear layer, or several published ones of the same input stacked (query, key and value).
struct FrozenLinear {
  Parameter weight, bias;
  Weights use;
  bool biased = true;

  Parameter* biasIfAny() { return biased ? &bias : nullptr; }
};

struct FrozenConvolution {
  Parameter weight, bias;
  ConvolutionKernel kernel;
};

class FrozenParameters {
 public:
  // Each declares '<name>.weight' and, where there is one, '<name>.bias'. The layers must stay where they
  // are.
  void table(const std::string& name, Parameter& table, int64_t entries, int64_t width);
  void scale(const std::string& name, Parameter& weight, int64_t width);
  void norm(const std::string& name, FrozenNorm& norm, int64_t width);
  void linear(const std::vector<std::string>& names, FrozenLinear& layer, int64_t outEach, int64_t in,
              bool biased = true);
  void convolution(const std::string& name, FrozenConvolution& layer, int64_t out, int64_t in, int64_t size);

  /// What a tensor of a file is called here: a declared name, "" for what is known not to belong to the
  /// model, or nothing for a name that should not be there.
  using Rename = std::function<std::optional<std::string>(const std::string&)>;

  /// f32, bf16 or f16; f32 tables, vectors and linear weights stay where they lie in the mapped file.
  void load(const std::vector<std::string>& paths, const Rename& rename);
  void requireLoaded() const;

  bool has(const std::string& name) const;
  size_t bytes() const;

 private:
  struct Entry {
    std::string name;
    Parameter* parameter;
    Shape shape;   // as published
    Shape stored;  // of the whole parameter
    int64_t firstElement;
    const Weights* use;
  };
  void add(const std::string& name, Parameter& parameter, const Shape& shape, const Shape& stored,
           int64_t firstElement = 0, const Weights* use = nullptr);

  std::vector<Entry> entries_;
  bool loaded_ = false;
};

/// `name` without `prefix` where it begins with it.
std::string withoutPrefix(const std::string& name, const std::string& prefix);
bool startsWith(const std::string& text, const std::string& beginning);
bool endsWith(const std::string& text, const std::string& end);

}  // namespace duet
