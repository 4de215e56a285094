#include "nn/sti_layer.h"

#include "nn/attention.h"
#include "nn/frame_mask.h"
#include "nn/group_norm.h"
#include "nn/linear.h"
#include "nn/resample.h"

namespace duet {

StiLayer::StiLayer(ParameterList& list, const std::string& name, const StiShape& shape) : shape_(shape) {
  const bool both = shape.variant == StiVariant::interaction;
  if (both) {
    list.constant(name + "w1", w1_, {1}, 0.0f);
    list.constant(name + "w2", w2_, {1}, 1.0f);
  }
  if (shape.variant != StiVariant::detail) {
    const std::string part = name + "transformer_blocks.";
    const int64_t inner = shape.heads * shape.headSize;
    list.stacked(part, {"to_q", "to_k", "to_v"}, qkv_, inner, shape.channels);
    list.linear(part + "to_out.0", out_, shape.channels, inner);
  }
  if (shape.variant != StiVariant::semantic) {
    const int64_t f = shape.frames, fanIn = f * 9;
    for (int i = 0; i < 2; ++i) {
      DetailBlock& block = detail_.blocks[i];
      const std::string part = name + "conv_layers." + std::to_string(i) + ".";
      list.constant(part + "norm1.weight", block.norm1, {f}, 1.0f);
      list.constant(part + "norm1.bias", block.norm1Bias, {f}, 0.0f);
      list.uniform(part + "conv1.weight", block.conv1, {f, f, 3, 3}, fanIn);
      list.uniform(part + "conv1.bias", block.conv1Bias, {f}, fanIn);
      list.constant(part + "norm2.weight", block.norm2, {f}, 1.0f);
      list.constant(part + "norm2.bias", block.norm2Bias, {f}, 0.0f);
      list.uniform(part + "conv2.weight", block.conv2, {f, f, 3, 3}, fanIn);
      list.uniform(part + "conv2.bias", block.conv2Bias, {f}, fanIn);
    }
  }
  list.norm(name + "norm", norm_, shape.channels);
}

Var StiLayer::semantic(Context& c, const Var& x, const PictureGrid& grid, const uint8_t* keep,
                       StiTrace* trace) {
  PictureGrid pooled = grid;
  pooled.height /= 2;
  pooled.width /= 2;
  auto layout = std::make_shared<AttentionLayout>();
  layout->heads = shape_.heads;
  const int64_t each = grid.frames * pooled.pixels();
  for (int64_t clip = 0; clip < grid.clips; ++clip)
    layout->spans.push_back({clip * each, (clip + 1) * each, clip * each, (clip + 1) * each});
  if (keep)
    for (int64_t picture = 0; picture < grid.pictures(); ++picture)
      layout->keyMask.insert(layout->keyMask.end(), static_cast<size_t>(pooled.pixels()), keep[picture]);

  Var attended;
  {
    const Var qkv = linear(c, averagePool(c, x, grid, c.compute), qkv_.use, nullptr,
                           {Activation::none, nullptr, c.compute});
    attended = selfAttention(c, qkv, std::move(layout), 0.0f);
  }
  attended = linear(c, attended, out_.use, &out_.bias);
  if (trace) trace->attention = attended.value;
  return add(c, upsampleNearest(c, attended, pooled, grid.height, grid.width), x);
}

Var StiLayer::forward(Context& c, const Var& x, const PictureGrid& grid, const uint8_t* keep,
                      StiTrace* trace) {
  require(grid.frames == shape_.frames, "Expected clips of ", shape_.frames, " frames but received ",
          grid.frames, "; the frame count is part of the network's config");
  require(grid.height >= 2 && grid.width >= 2,
          "Expected pictures of at least 2 x 2 in every layer but received ", grid.height, " x ", grid.width,
          "; use a larger picture or fewer levels");
  Var fused, semanticPart, detailPart;
  if (shape_.variant != StiVariant::detail) semanticPart = semantic(c, x, grid, keep, trace);
  if (shape_.variant != StiVariant::semantic)
    detailPart = detailBranch(c, zeroHiddenFrames(c, x, grid, keep), grid, detail_);
  if (trace) {
    trace->semantic = semanticPart.value;
    trace->detail = detailPart.value;
  }
  if (shape_.variant == StiVariant::interaction)
    fused = weightedSum(c, semanticPart, w1_, detailPart, w2_);
  else
    fused = shape_.variant == StiVariant::semantic ? semanticPart : detailPart;
  semanticPart = detailPart = Var{};
  GroupNormOptions options;
  options.groups = shape_.groups;
  options.epsilon = 1e-6f;
  return groupNorm(c, fused, grid, norm_.gamma, norm_.beta, options);
}

}  // namespace duet
