// The parameters of a ViLT under their public names: construction, random initialisation as
// published, and loading of Hugging Face's safetensors.
#include <algorithm>
#include <cmath>

#include "core/host_access.h"
#include "core/philox.h"
#include "io/safetensors.h"
#include "models/vilt.h"

namespace duet {

namespace {

constexpr float kInitialDeviation = 0.02f;

void use(Weights& weights, Parameter& parameter, int64_t firstRow, int64_t rows) {
  weights.parameter = &parameter;
  weights.firstRow = firstRow;
  weights.rows = rows;
}

bool startsWith(const std::string& text, const std::string& beginning) {
  return text.compare(0, beginning.size(), beginning) == 0;
}

std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < names.size() && i < 12; ++i) text += (i ? ", " : "") + names[i];
  if (names.size() > 12) text += ", and " + std::to_string(names.size() - 12) + " more";
  return text;
}

/// Tensors of published checkpoints that are not part of the encoder.
bool knownExtra(const std::string& name) {
  return startsWith(name, "mlm_score.") || name == "embeddings.text_embeddings.position_ids";
}

}  // namespace

void Vilt::name(const std::string& name, Parameter& parameter, const Shape& shape, int64_t firstRow) {
  byName_[name] = names_.size();
  names_.push_back({name, &parameter, firstRow, shape});
}

void Vilt::make(const std::string& publicName, Parameter& parameter, const Shape& shape, float deviation,
                uint64_t seed, float constant) {
  parameter.name = publicName;
  parameter.value = Tensor::zeros(shape);
  const int64_t count = parameter.value.elements();
  const uint64_t stream = draws_++;
  if (!initialise_) deviation = 0.0f;
  if (deviation > 0.0f)
    fillOnHost(parameter.value, [&](float* to) { fillNormal(to, count, deviation, {seed, stream}); });
  else if (deviation < 0.0f)
    fillOnHost(parameter.value, [&](float* to) { fillUniform(to, count, -deviation, {seed, stream}); });
  else if (constant != 0.0f)
    fillOnHost(parameter.value, [&](float* to) { std::fill_n(to, count, constant); });
  if (!publicName.empty() && publicName.find(".qkv.") == std::string::npos)
    name(publicName, parameter, shape);
}

Vilt::Vilt(const ViltConfig& config, uint64_t seed, bool initialise)
    : config_(config), initialise_(initialise) {
  config_.validate();
  const int64_t d = config_.hiddenSize, f = config_.intermediateSize, g = config_.grid(),
                p = config_.patchSize;
  const float std = kInitialDeviation;
  const std::string e = "embeddings.", t = e + "text_embeddings.";
  make(e + "cls_token", classToken_, {1, 1, d}, std, seed);
  make(e + "position_embeddings", positions_, {1, 1 + g * g, d}, std, seed);
  make(t + "word_embeddings.weight", wordTable_, {config_.vocabSize, d}, std, seed);
  make(t + "position_embeddings.weight", textPositions_, {config_.maxPositionEmbeddings, d}, std, seed);
  make(t + "token_type_embeddings.weight", textTypes_, {config_.typeVocabSize, d}, std, seed);
  make(t + "LayerNorm.weight", textNorm_, {d}, 0, seed, 1.0f);
  make(t + "LayerNorm.bias", textNormBias_, {d}, 0, seed);
  // The convolution with kernel = stride = patch is a product over unfolded patches.
  make("", patch_, {d, config_.channels * p * p}, std, seed);
  patch_.name = e + "patch_embeddings.projection.weight";
  name(patch_.name, patch_, {d, config_.channels, p, p});
  make(e + "patch_embeddings.projection.bias", patchBias_, {d}, 0, seed);
  make(e + "token_type_embeddings.weight", modality_, {config_.modalityTypes, d}, std, seed);
  if (config_.modalityTypes == 3) copy(modality_.value.rows(2, 3), modality_.value.rows(1, 2));
  use(patchUse_, patch_, 0, d);
  for (int64_t i = 0; i < config_.layers; ++i) {
    layers_.push_back(std::make_unique<ViltLayer>());
    ViltLayer& layer = *layers_.back();
    const std::string l = "encoder.layer." + std::to_string(i) + ".";
    make(l + "attention.attention.qkv.weight", layer.qkv, {3 * d, d}, std, seed);
    if (config_.qkvBias) make(l + "attention.attention.qkv.bias", layer.qkvBias, {3 * d}, 0, seed);
    const char* parts[] = {"query", "key", "value"};
    for (int64_t j = 0; j < 3; ++j) {
      name(l + "attention.attention." + parts[j] + ".weight", layer.qkv, {d, d}, j * d);
      if (config_.qkvBias) name(l + "attention.attention." + parts[j] + ".bias", layer.qkvBias, {d}, j * d);
    }
    make(l + "attention.output.dense.weight", layer.out, {d, d}, std, seed);
    make(l + "attention.output.dense.bias", layer.outBias, {d}, 0, seed);
    make(l + "intermediate.dense.weight", layer.up, {f, d}, std, seed);
    make(l + "intermediate.dense.bias", layer.upBias, {f}, 0, seed);
    make(l + "output.dense.weight", layer.down, {d, f}, std, seed);
    make(l + "output.dense.bias", layer.downBias, {d}, 0, seed);
    make(l + "layernorm_before.weight", layer.normBefore, {d}, 0, seed, 1.0f);
    make(l + "layernorm_before.bias", layer.normBeforeBias, {d}, 0, seed);
    make(l + "layernorm_after.weight", layer.normAfter, {d}, 0, seed, 1.0f);
    make(l + "layernorm_after.bias", layer.normAfterBias, {d}, 0, seed);
    use(layer.qkvUse, layer.qkv, 0, 3 * d);
    use(layer.qUse, layer.qkv, 0, d);
    use(layer.kvUse, layer.qkv, d, 2 * d);
    use(layer.outUse, layer.out, 0, d);
    use(layer.upUse, layer.up, 0, f);
    use(layer.downUse, layer.down, 0, d);
  }
  make("layernorm.weight", norm_, {d}, 0, seed, 1.0f);
  make("layernorm.bias", normBias_, {d}, 0, seed);
  make("pooler.dense.weight", pooler_, {d, d}, std, seed);
  make("pooler.dense.bias", poolerBias_, {d}, 0, seed);
  use(poolerUse_, pooler_, 0, d);
  initialise_ = true;  // adapters and heads that are added later
}

void Vilt::addAdapters(int64_t reduction, uint64_t seed) {
  require(!adapters_, "The model already has adapters");
  const int64_t d = config_.hiddenSize;
  require(reduction >= 1 && d / reduction >= 1, "Expected an adapter reduction from 1 to ", d,
          " but received ", reduction);
  const int64_t rank = d / reduction;
  draws_ = 1000000;  // streams of their own: the backbone's draws do not shift them
  for (size_t i = 0; i < layers_.size(); ++i)
    for (int j = 0; j < 3; ++j) {
      Adapter& a = layers_[i]->adapters[j];
      const std::string n =
          "encoder.layer." + std::to_string(i) + ".output.adapter.adapter_" + std::to_string(j);
      make(n + "_down.weight", a.downWeight, {rank, d}, kInitialDeviation, seed);
      make(n + "_down.bias", a.downBias, {rank}, 0, seed);
      make(n + "_up.weight", a.upWeight, {d, rank}, kInitialDeviation, seed);
      make(n + "_up.bias", a.upBias, {d}, 0, seed);
    }
  adapters_ = true;
}

void Vilt::addHead(const std::string& task, int64_t classes, uint64_t seed) {
  require(!task.empty(), "Expected a name for the head but received an empty one");
  require(heads_.count(task) == 0, "The model already has a head called '", task, "'");
  require(classes >= 1, "Expected at least 1 class for head '", task, "' but received ", classes);
  const int64_t d = config_.hiddenSize;
  auto head = std::make_unique<ViltHead>();
  const std::string n = "task_layer." + task + ".";
  // Streams of its own for every task: heads of one seed are drawn independently.
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : task) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  draws_ = 2000000 + (hash >> 24) * 8;
  // torch.nn.Linear's initialisation: uniform within 1 / sqrt(inputs)
  const float first = -1.0f / std::sqrt(static_cast<float>(d)),
              second = -1.0f / std::sqrt(static_cast<float>(2 * d));
  make(n + "clf_fc0.weight", head->first, {2 * d, d}, first, seed);
  make(n + "clf_fc0.bias", head->firstBias, {2 * d}, first, seed);
  make(n + "clf_norm0.weight", head->norm, {2 * d}, 0, seed, 1.0f);
  make(n + "clf_norm0.bias", head->normBias, {2 * d}, 0, seed);
  make(n + "clf_fc1.weight", head->second, {classes, 2 * d}, second, seed);
  make(n + "clf_fc1.bias", head->secondBias, {classes}, second, seed);
  use(head->firstUse, head->first, 0, 2 * d);
  use(head->secondUse, head->second, 0, classes);
  heads_[task] = std::move(head);
}

const NamedParameter& Vilt::find(const std::string& wanted) const {
  const auto found = byName_.find(wanted);
  if (found == byName_.end())
    fail(Code::NotFound, "Expected the name of a parameter but received '", wanted, "'");
  return names_[found->second];
}

void Vilt::load(const std::string& path) {
  const auto file = SafetensorsFile::open(path);
  std::map<std::string, std::string> inFile;  // our name -> the file's
  bool prefixed = false;
  for (const auto& entry : file.entries()) prefixed = prefixed || startsWith(entry.name, "vilt.");
  std::vector<std::string> extra, missing, wrong;
  for (const auto& entry : file.entries()) {
    const std::string& key = entry.name;
    const std::string ours = prefixed && startsWith(key, "vilt.") ? key.substr(5) : key;
    const bool part = byName_.count(ours) && ours.find(".adapter.") == std::string::npos &&
                      !startsWith(ours, "task_layer.");
    if (part)
      inFile[ours] = key;
    else if (!knownExtra(ours))
      extra.push_back(key);
  }
  for (const NamedParameter& p : names_) {
    if (p.name.find(".adapter.") != std::string::npos || startsWith(p.name, "task_layer.")) continue;
    const auto found = inFile.find(p.name);
    if (found == inFile.end()) {
      missing.push_back(p.name);
      continue;
    }
    const Shape shape{file.entry(found->second).shape};
    const bool widened =
        p.parameter == &modality_ && config_.modalityTypes == 3 && shape == Shape{2, config_.hiddenSize};
    const std::string& dtype = file.entry(found->second).dtype;
    if (dtype != "F32" && dtype != "BF16" && dtype != "F16")
      fail(Code::Corrupt, "Expected floating-point weights for ", p.name, " in ", path, " but found ",
           nameOf(file.tensor(found->second).dtype()));
    if (shape != p.shape && !widened)
      wrong.push_back(p.name + " is " + shape.text() + ", expected " + p.shape.text());
  }
  if (!missing.empty() || !extra.empty() || !wrong.empty())
    fail(Code::InvalidArgument, "The tensors of ", path, " do not fit the model of its config.json.",
         missing.empty() ? "" : " Missing: " + listed(missing) + ".",
         extra.empty() ? "" : " Unexpected: " + listed(extra) + ".",
         wrong.empty() ? "" : " Wrong shape: " + listed(wrong) + ".",
         " Check that both files belong together");
  // A weight stacked from several tensors stays in the file when all of them are f32 there.
  std::map<Parameter*, std::vector<Tensor>> parts;
  for (const NamedParameter& p : names_) {
    const auto found = inFile.find(p.name);
    if (found != inFile.end() && p.shape.rank() == 2 && p.shape[0] < p.parameter->value.dim(0))
      parts[p.parameter].push_back(file.tensor(found->second));
  }
  std::erase_if(parts, [](const auto& stacked) {
    return std::any_of(stacked.second.begin(), stacked.second.end(), [](const Tensor& part) {
      return part.dtype() != DType::f32 || !currentMemory().onHost;
    });
  });
  for (auto& [parameter, tensors] : parts) {
    parameter->value = Tensor::zeros(parameter->value.shape());  // untouched from here on
    parameter->parts = std::move(tensors);
    parameter->changed();
  }
  for (const NamedParameter& p : names_) {
    const auto found = inFile.find(p.name);
    if (found == inFile.end() || parts.count(p.parameter)) continue;
    const Tensor stored = file.tensor(found->second);
    const bool whole = p.firstRow == 0 && p.parameter->value.elements() == p.shape.elements() &&
                       stored.elements() == p.shape.elements();
    if (whole && stored.dtype() == DType::f32 &&
        currentMemory().onHost) {  // used where it lies in the mapped file
      p.parameter->value = stored.reshape(p.parameter->value.shape());
      p.parameter->borrowed = true;
    } else {
      p.parameter->own();
      const int64_t begin = p.firstRow * (p.shape.elements() / std::max<int64_t>(p.shape[0], 1));
      const Tensor all = p.parameter->value.reshape({p.parameter->value.elements()});
      fillOnHost(all.rows(begin, begin + stored.elements()), [&](float* target) {
        for (int64_t i = 0; i < stored.elements(); ++i) {
          if (stored.dtype() == DType::f32)
            target[i] = stored.f32()[i];
          else if (stored.dtype() == DType::bf16)
            target[i] = toFloat(stored.data<bf16>()[i]);
          else
            target[i] = halfToFloat(static_cast<const uint16_t*>(stored.raw())[i]);
        }
      });
      if (p.parameter == &modality_ &&
          stored.elements() < p.shape.elements())  // the third type copies the second
        copy(modality_.value.rows(2, 3), modality_.value.rows(1, 2));
    }
    p.parameter->changed();
  }
  file.release();
}

size_t Vilt::packedBytes() const {
  size_t bytes = patchUse_.packedBytes() + poolerUse_.packedBytes();
  for (const auto& layer : layers_)
    for (const Weights* w :
         {&layer->qkvUse, &layer->qUse, &layer->kvUse, &layer->outUse, &layer->upUse, &layer->downUse})
      bytes += w->packedBytes();
  return bytes;
}

}  // namespace duet
