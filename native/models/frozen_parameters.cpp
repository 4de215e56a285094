#include "models/frozen_parameters.h"

#include <algorithm>
#include <map>
#include <set>

#include "core/host_access.h"
#include "io/safetensors.h"

namespace duet {

namespace {

std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < names.size() && i < 12; ++i) text += (i ? ", " : "") + names[i];
  if (names.size() > 12) text += ", and " + std::to_string(names.size() - 12) + " more";
  return text;
}

/// Without dimensions of 1 at the end: 1x1 convolutions and linear layers are stored as either.
std::vector<int64_t> trimmed(const Shape& shape) {
  std::vector<int64_t> dims = shape.vector();
  while (dims.size() > 2 && dims.back() == 1) dims.pop_back();
  return dims;
}

float valueAt(const Tensor& tensor, int64_t i) {
  switch (tensor.dtype()) {
    case DType::f32:
      return tensor.f32()[i];
    case DType::bf16:
      return toFloat(tensor.data<bf16>()[i]);
    default:
      return halfToFloat(static_cast<const uint16_t*>(tensor.raw())[i]);
  }
}

/// Copies `from`; the kernel of a convolution, [out, in, kh, kw], becomes [out, kh, kw, in].
void copyInto(const Tensor& from, const Shape& shape, float* to) {
  if (shape.rank() < 4) {
    for (int64_t i = 0; i < shape.elements(); ++i) to[i] = valueAt(from, i);
    return;
  }
  const int64_t in = shape[1], places = shape[2] * shape[3];
  for (int64_t out = 0; out < shape[0]; ++out)
    for (int64_t channel = 0; channel < in; ++channel)
      for (int64_t place = 0; place < places; ++place)
        to[(out * places + place) * in + channel] = valueAt(from, (out * in + channel) * places + place);
}

}  // namespace

bool startsWith(const std::string& text, const std::string& beginning) {
  return text.compare(0, beginning.size(), beginning) == 0;
}

bool endsWith(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

std::string withoutPrefix(const std::string& name, const std::string& prefix) {
  return startsWith(name, prefix) ? name.substr(prefix.size()) : name;
}

void FrozenParameters::add(const std::string& name, Parameter& parameter, const Shape& shape,
                           const Shape& stored, int64_t firstElement, const Weights* use) {
  parameter.name = name;
  entries_.push_back({name, &parameter, shape, stored, firstElement, use});
}

void FrozenParameters::table(const std::string& name, Parameter& table, int64_t entries, int64_t width) {
  add(name + ".weight", table, {entries, width}, {entries, width});
}

void FrozenParameters::scale(const std::string& name, Parameter& weight, int64_t width) {
  add(name + ".weight", weight, {width}, {width});
}

void FrozenParameters::norm(const std::string& name, FrozenNorm& norm, int64_t width) {
  scale(name, norm.weight, width);
  add(name + ".bias", norm.bias, {width}, {width});
}

void FrozenParameters::linear(const std::vector<std::string>& names, FrozenLinear& layer, int64_t outEach,
                              int64_t in, bool biased) {
  const int64_t out = outEach * static_cast<int64_t>(names.size());
  layer.biased = biased;
  layer.use.parameter = &layer.weight;
  layer.use.rows = out;
  for (size_t i = 0; i < names.size(); ++i) {
    const int64_t row = outEach * static_cast<int64_t>(i);
    add(names[i] + ".weight", layer.weight, {outEach, in}, {out, in}, row * in, &layer.use);
    if (biased) add(names[i] + ".bias", layer.bias, {outEach}, {out}, row);
  }
}

void FrozenParameters::convolution(const std::string& name, FrozenConvolution& layer, int64_t out, int64_t in,
                                   int64_t size) {
  layer.kernel.size = size;
  layer.kernel.weights.parameter = &layer.weight;
  layer.kernel.weights.rows = out;
  add(name + ".weight", layer.weight, {out, in, size, size}, {out, size * size * in}, 0,
      &layer.kernel.weights);
  add(name + ".bias", layer.bias, {out}, {out});
}

bool FrozenParameters::has(const std::string& name) const {
  return std::any_of(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.name == name; });
}

void FrozenParameters::requireLoaded() const { require(loaded_, "Expected weights; load them first"); }

void FrozenParameters::load(const std::vector<std::string>& paths, const Rename& rename) {
  require(!paths.empty(), "Expected at least one file of weights but received none");
  std::vector<SafetensorsFile> files;
  for (const std::string& path : paths) files.push_back(SafetensorsFile::open(path));

  std::set<std::string> declared;
  for (const Entry& entry : entries_) declared.insert(entry.name);
  std::map<std::string, std::pair<const SafetensorsFile*, const SafetensorsEntry*>> found;
  std::vector<std::string> extra, missing, wrong;
  for (const SafetensorsFile& file : files)
    for (const SafetensorsEntry& stored : file.entries()) {
      const std::optional<std::string> name = rename(stored.name);
      if (name && name->empty()) continue;
      if (name && declared.count(*name))
        found.insert({*name, {&file, &stored}});
      else
        extra.push_back(stored.name);
    }
  for (const Entry& entry : entries_) {
    const auto place = found.find(entry.name);
    if (place == found.end()) {
      missing.push_back(entry.name);
      continue;
    }
    const SafetensorsEntry& stored = *place->second.second;
    const Shape shape{stored.shape};
    if (stored.dtype != "F32" && stored.dtype != "BF16" && stored.dtype != "F16")
      fail(Code::Corrupt, "Expected floating-point weights (F32, BF16 or F16) for ", entry.name, " in ",
           place->second.first->path(), " but found ", stored.dtype);
    if (trimmed(shape) != trimmed(entry.shape))
      wrong.push_back(entry.name + " is " + shape.text() + ", expected " + entry.shape.text());
  }
  if (!missing.empty() || !extra.empty() || !wrong.empty())
    fail(Code::InvalidArgument, "The tensors of ", paths[0], " do not fit the model of its config.json.",
         missing.empty() ? "" : " Missing: " + listed(missing) + ".",
         extra.empty() ? "" : " Unexpected: " + listed(extra) + ".",
         wrong.empty() ? "" : " Wrong shape: " + listed(wrong) + ".",
         " Check that both files belong together");

  for (const Entry& entry : entries_) {
    const auto& [file, stored] = found.at(entry.name);
    const Tensor values = file->tensor(stored->name);
    Parameter& parameter = *entry.parameter;
    const bool alone = entry.shape.elements() == entry.stored.elements();
    const bool asStored = entry.shape.rank() < 4 || entry.shape[2] * entry.shape[3] == 1;
    if (alone && asStored && values.dtype() == DType::f32 && currentMemory().onHost) {
      parameter.value = values.reshape(entry.stored);
      parameter.borrowed = true;
    } else {
      if (!parameter.value.defined() || parameter.borrowed) parameter.value = Tensor::zeros(entry.stored);
      parameter.borrowed = false;
      const int64_t count = entry.shape.elements();
      const Tensor part = parameter.value.reshape({entry.stored.elements()});
      fillOnHost(part.rows(entry.firstElement, entry.firstElement + count),
                 [&](float* to) { copyInto(values, entry.shape, to); });
      file->release(stored->name);
    }
    parameter.changed();
  }
  loaded_ = true;
}

size_t FrozenParameters::bytes() const {
  size_t bytes = 0;
  std::set<const Weights*> packed;
  for (const Entry& entry : entries_) {
    bytes += static_cast<size_t>(entry.shape.elements()) * 4;
    if (entry.use && packed.insert(entry.use).second) bytes += entry.use->packedBytes();
  }
  return bytes;
}

}  // namespace duet
