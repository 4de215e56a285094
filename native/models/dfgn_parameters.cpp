// The parameters of a frame generation network under their published names: construction with PyTorch's
// initial values, loading and writing of safetensors.
#include <algorithm>
#include <cmath>

#include "io/safetensors.h"
#include "models/dfgn.h"

namespace duet {

namespace {

constexpr float kEpsilon = 1e-5f;
constexpr int64_t kImageHeads = 2;           // of the encoder of the image latents
constexpr int64_t kInHeads = 8;              // of the first temporal transformer
constexpr float kKeepVariance = 1.7320508f;  // of a uniform distribution within 1: 1 / its deviation
constexpr float kSiluGain = 1.6778f;         // 1 / root mean square of silu(x), x normal

std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < names.size() && i < 12; ++i) text += (i ? ", " : "") + names[i];
  if (names.size() > 12) text += ", and " + std::to_string(names.size() - 12) + " more";
  return text;
}

std::vector<float> asFloats(const Tensor& stored) {
  std::vector<float> values(static_cast<size_t>(stored.elements()));
  for (int64_t i = 0; i < stored.elements(); ++i) {
    if (stored.dtype() == DType::f32)
      values[static_cast<size_t>(i)] = stored.f32()[i];
    else if (stored.dtype() == DType::bf16)
      values[static_cast<size_t>(i)] = toFloat(stored.data<bf16>()[i]);
    else
      values[static_cast<size_t>(i)] = halfToFloat(static_cast<const uint16_t*>(stored.raw())[i]);
  }
  return values;
}

}  // namespace

Dfgn::Dfgn(const DfgnConfig& config, uint64_t seed, bool initialise)
    : config_(config), list_(seed, initialise) {
  config_.validate();
  const int64_t c = config_.channels, first = config_.blockChannels.front(), d = config_.textWidth;
  list_.convolution("conv_in", convIn_, first, 2 * c, 3);
  list_.linear("time_embedding.linear_1", time1_, config_.timeWidth(), first);
  list_.linear("time_embedding.linear_2", time2_, config_.timeWidth(), config_.timeWidth());
  if (config_.t5Width > 0) {
    list_.linear("context_T5_clip_embedding.0", t5First_, 2 * d, config_.t5Width);
    list_.linear("context_T5_clip_embedding.2", t5Second_, d, 2 * d);
  }
  // PyTorch's initial values would let a twentieth of a given frame through; these keep its variance.
  list_.convolution("image_latents_proj_in.0", image1_, 4 * c, c, 3, kKeepVariance);
  list_.convolution("image_latents_proj_in.2", image2_, 4 * c, 4 * c, 3, kKeepVariance * kSiluGain);
  list_.convolution("image_latents_proj_in.4", image3_, c, 4 * c, 3, kKeepVariance * kSiluGain);
  imageEncoder_ =
      std::make_unique<TemporalEncoder>(list_, "image_latents_temporal_encoder.", c, kImageHeads, c, 4 * c);
  const TransformerShape in{first, kInHeads * config_.headSize, kInHeads, config_.normGroups, 0};
  transformerIn_ = std::make_unique<TemporalTransformer>(list_, "transformer_in.", in);
  makeBlocks();
  list_.norm("conv_norm_out", normOut_, first);
  list_.convolution("conv_out", convOut_, c, first, 3);
  if (config_.captionEncoder)
    captionEncoder_ = std::make_unique<CaptionEncoder>(list_, *config_.captionEncoder, d);
}

void Dfgn::makeLayer(DfgnBlock& block, int64_t in, int64_t out, bool transformers) {
  DfgnLayer layer;
  layer.block = block.name;
  layer.number = std::to_string(block.layers.size());
  const auto name = [&](const char* module) { return block.name + module + layer.number + "."; };
  const int64_t groups = config_.normGroups;
  layer.residual = std::make_unique<ResidualBlock>(
      list_, name(".resnets."), ResidualBlockShape{in, out, config_.timeWidth(), groups, kEpsilon});
  StiShape sti;
  sti.channels = out;
  sti.frames = config_.frames;
  sti.groups = groups;
  sti.variant = config_.sti;
  layer.sti = std::make_unique<StiLayer>(list_, name(".temp_convs."), sti);
  if (transformers) {
    TransformerShape shape{out, out, out / config_.headSize, groups, config_.textWidth};
    layer.spatial = std::make_unique<SpatialTransformer>(list_, name(".attentions."), shape);
    shape.text = 0;
    layer.temporal = std::make_unique<TemporalTransformer>(list_, name(".temp_attentions."), shape);
  }
  block.layers.push_back(std::move(layer));
}

void Dfgn::makeBlocks() {
  const std::vector<int64_t>& widths = config_.blockChannels;
  const int64_t levels = config_.levels();
  const auto resample = [&](DfgnBlock& block, const char* module, int64_t width) {
    block.resample = std::make_unique<ConvolutionLayer>();
    list_.convolution(block.name + module, *block.resample, width, width, 3);
  };
  std::vector<int64_t> skips{widths[0]};
  int64_t stream = widths[0];
  for (int64_t level = 0; level < levels; ++level) {
    DfgnBlock block;
    block.name = "down_blocks." + std::to_string(level);
    const int64_t width = widths[static_cast<size_t>(level)];
    const bool deepest = level + 1 == levels;
    for (int64_t i = 0; i < config_.layersPerBlock; ++i) {
      makeLayer(block, stream, width, !deepest);
      stream = width;
      skips.push_back(width);
    }
    if (!deepest) {
      resample(block, ".downsamplers.0.conv", width);
      skips.push_back(width);
    }
    down_.push_back(std::move(block));
  }
  middle_.name = "mid_block";
  makeLayer(middle_, stream, stream, true);
  makeLayer(middle_, stream, stream, false);
  for (int64_t level = levels - 1; level >= 0; --level) {
    DfgnBlock block;
    block.name = "up_blocks." + std::to_string(levels - 1 - level);
    const int64_t width = widths[static_cast<size_t>(level)];
    for (int64_t i = 0; i <= config_.layersPerBlock; ++i) {
      makeLayer(block, stream + skips.back(), width, level + 1 < levels);
      skips.pop_back();
      stream = width;
    }
    if (level > 0) resample(block, ".upsamplers.0.conv", width);
    up_.push_back(std::move(block));
  }
}

void Dfgn::load(const std::string& path, const ValuesOf& valuesOf) {
  const auto file = SafetensorsFile::open(path);
  std::vector<std::string> extra, missing, wrong;
  for (const auto& entry : file.entries())
    if (!list_.has(entry.name)) extra.push_back(entry.name);
  for (const PublishedParameter& p : list_.all()) {
    if (!file.has(p.name)) {
      missing.push_back(p.name);
      continue;
    }
    const auto& entry = file.entry(p.name);
    if (entry.dtype != "F32" && entry.dtype != "BF16" && entry.dtype != "F16")
      fail(Code::Corrupt, "Expected floating-point weights for ", p.name, " in ", path, " but found ",
           entry.dtype);
    if (entry.shape != p.shape.vector())
      wrong.push_back(p.name + " is " + Shape(entry.shape).text() + ", expected " + p.shape.text());
  }
  if (!missing.empty() || !extra.empty() || !wrong.empty())
    fail(Code::InvalidArgument, "The tensors of ", path, " do not fit the network of its config.json.",
         missing.empty() ? "" : " Missing: " + listed(missing) + ".",
         extra.empty() ? "" : " Unexpected: " + listed(extra) + ".",
         wrong.empty() ? "" : " Wrong shape: " + listed(wrong) + ".",
         " Check that both files belong together");
  const auto eachPublished = [&](const auto& work) {
    for (const PublishedParameter& p : list_.all()) {
      const Tensor stored = file.tensor(p.name);
      const std::vector<float> wide = stored.dtype() == DType::f32 ? std::vector<float>{} : asFloats(stored);
      work(p, wide.empty() ? stored.f32() : wide.data());
      file.release(p.name);
    }
  };
  eachPublished([&](const PublishedParameter& p, const float* values) {
    if (!std::all_of(values, values + p.elements(), [](float x) { return std::isfinite(x); }))
      fail(Code::Corrupt, "Expected finite numbers in ", path, " but ", p.name, " has NaN or infinity");
  });
  eachPublished([&](const PublishedParameter& p, const float* values) {
    p.fromPublished(values, valuesOf(*p.parameter));
    p.parameter->changed();
  });
}

void Dfgn::save(const std::string& path, const ValuesOf& valuesOf) const {
  std::vector<SafetensorsInput> tensors;
  std::vector<std::vector<float>>
      copies;  // of kernels, which lie in another order here, and of what lies on a device
  for (const PublishedParameter& p : list_.all()) {
    const Tensor& whole = valuesOf(*p.parameter);
    const float* values = nullptr;
    if (p.kernel || !currentMemory().onHost) {
      copies.push_back(p.copyOf(whole));
      values = copies.back().data();
    } else {
      const int64_t columns = p.elements() / std::max<int64_t>(p.shape[0], 1);
      values = whole.f32() + p.firstRow * columns;
    }
    tensors.push_back({p.name, DType::f32, p.shape.vector(),
                       std::as_bytes(std::span(values, static_cast<size_t>(p.elements())))});
  }
  writeSafetensors(path, std::move(tensors), {{"format", "pt"}});
}

}  // namespace duet
