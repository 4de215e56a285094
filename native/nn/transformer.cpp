#include "nn/transformer.h"

#include "nn/attention.h"
#include "nn/frame_mask.h"
#include "nn/gated.h"
#include "nn/group_norm.h"
#include "nn/linear.h"
#include "nn/merged_linear.h"
#include "nn/norm.h"
#include "nn/temporal_attention.h"

namespace duet {

namespace {

constexpr float kGroupEpsilon = 1e-6f;
constexpr float kLayerEpsilon = 1e-5f;

LinearOptions inComputeType(const Context& c) { return {Activation::none, nullptr, c.compute}; }

Var normed(Context& c, const Var& x, NormLayer& norm) {
  return layerNorm(c, x, norm.gamma, norm.beta, kLayerEpsilon, c.compute);
}

/// x + W a + b
Var projected(Context& c, const Var& attended, LinearLayer& layer, const Var& x) {
  return linear(c, attended, layer.use, &layer.bias, {Activation::none, &x, DType::f32});
}

/// `count` sequences of `length` rows; keys of sequence i are `keys` rows.
std::shared_ptr<AttentionLayout> evenly(int64_t count, int64_t length, int64_t keys, int64_t heads) {
  auto layout = std::make_shared<AttentionLayout>();
  layout->heads = heads;
  for (int64_t i = 0; i < count; ++i)
    layout->spans.push_back({i * length, (i + 1) * length, i * keys, (i + 1) * keys});
  return layout;
}

}  // namespace

Tensor repeated(Tape& tape, const Tensor& x, int64_t copies) {
  const Tensor y = tape.empty({x.rowCount() * copies, x.columns()}, x.dtype());
  for (int64_t i = 0; i < copies; ++i)
    currentMemory().copy(static_cast<std::byte*>(y.raw()) + static_cast<size_t>(i) * x.bytes(), x.raw(),
                         x.bytes());
  return y;
}

TransformerBlock::TransformerBlock(ParameterList& list, const std::string& name, const TransformerShape& s)
    : heads_(s.heads) {
  list.norm(name + "norm1", norm1_, s.inner);
  list.stacked(name + "attn1.", {"to_q", "to_k", "to_v"}, qkv1_, s.inner, s.inner);
  list.linear(name + "attn1.to_out.0", out1_, s.inner, s.inner);
  list.norm(name + "norm2", norm2_, s.inner);
  if (s.text > 0) {
    list.linear(name + "attn2.to_q", q2_, s.inner, s.inner, false);
    list.stacked(name + "attn2.", {"to_k", "to_v"}, kv2_, s.inner, s.text);
  } else {
    list.stacked(name + "attn2.", {"to_q", "to_k", "to_v"}, kv2_, s.inner, s.inner);
  }
  list.linear(name + "attn2.to_out.0", out2_, s.inner, s.inner);
  list.norm(name + "norm3", norm3_, s.inner);
  list.linear(name + "ff.net.0.proj", first_, 8 * s.inner, s.inner);
  list.linear(name + "ff.net.2", second_, s.inner, 4 * s.inner);
}

Var TransformerBlock::gated(Context& c, const Var& h, LinearLayer& last, const Var& residual) {
  return gatedFeedForward(c, normed(c, h, norm3_), first_.use, &first_.bias, last.use, &last.bias, residual);
}

Var TransformerBlock::feed(Context& c, const Var& h) { return gated(c, h, second_, h); }

Var TransformerBlock::feedThrough(Context& c, const Var& h, LinearLayer& projection, const Var& x) {
  if (!mergingPays(second_, projection, h.value.rowCount()))
    return projected(c, cast(c, feed(c, h), c.compute), projection, x);
  const auto merged = mergedLinear(c, second_, projection);
  return gated(c, h, *merged, projected(c, cast(c, h, c.compute), projection, x));
}

Var TransformerBlock::keysAndValues(Context& c, TextTokens& text) {
  const bool keeping = text.kept && !c.tape.recording();
  if (keeping) {
    const auto found = text.kept->find(this);
    if (found != text.kept->end()) return {found->second, -1};
  }
  const Var kv = linear(c, cast(c, text.states, c.compute), kv2_.use, nullptr, inComputeType(c));
  if (keeping) text.kept->emplace(this, kv.value);
  return kv;
}

Var TransformerBlock::attendOwn(Context& c, const Var& x, const PictureGrid& grid) {
  const Var qkv = linear(c, normed(c, x, norm1_), qkv1_.use, nullptr, inComputeType(c));
  const auto pictures = evenly(grid.pictures(), grid.pixels(), grid.pixels(), heads_);
  return projected(c, selfAttention(c, qkv, pictures, 0.0f), out1_, x);
}

Var TransformerBlock::attendPictures(Context& c, const Var& x, PictureGrid& grid, TextTokens& text) {
  Var h = attendOwn(c, x, grid);
  Var q = linear(c, normed(c, h, norm2_), q2_.use, nullptr, inComputeType(c));
  if (text.clips != grid.clips) {
    const int64_t copies = text.clips / grid.clips;
    require(!c.tape.recording() && text.clips == copies * grid.clips, "Expected the text of ", grid.clips,
            " clips but received ", text.clips);
    q = {repeated(c.tape, q.value, copies), -1};
    h = {repeated(c.tape, h.value, copies), -1};
    grid.clips = text.clips;
  }
  {
    const auto layout = evenly(grid.clips, grid.frames * grid.pixels(), text.tokens, heads_);
    if (text.visible) layout->keyMask = *text.visible;
    const Var attended = crossAttention(c, q, keysAndValues(c, text), layout, 0.0f);
    q = Var{};
    h = projected(c, attended, out2_, h);
  }
  return h;
}

Var TransformerBlock::attendFrames(Context& c, const Var& x, const PictureGrid& grid, const uint8_t* keep) {
  Var h = x;
  const auto attend = [&](NormLayer& norm, LinearLayer& qkv, LinearLayer& out) {
    const Var stacked = linear(c, normed(c, h, norm), qkv.use, nullptr, inComputeType(c));
    h = projected(c, temporalAttention(c, stacked, grid, heads_, keep), out, h);
  };
  attend(norm1_, qkv1_, out1_);
  attend(norm2_, kv2_, out2_);
  return h;
}

TransformerEnds::TransformerEnds(ParameterList& list, const std::string& name, const TransformerShape& s)
    : groups(s.groups) {
  list.norm(name + "norm", norm, s.channels);
  list.linear(name + "proj_in", projIn, s.inner, s.channels);
  list.linear(name + "proj_out", projOut, s.channels, s.inner);
}

Var TransformerEnds::enter(Context& c, const Var& x, const PictureGrid& grid, bool acrossFrames) {
  GroupNormOptions options;
  options.groups = groups;
  options.epsilon = kGroupEpsilon;
  options.acrossFrames = acrossFrames;
  options.outType = c.compute;
  return linear(c, groupNorm(c, x, grid, norm.gamma, norm.beta, options), projIn.use, &projIn.bias);
}

Var SpatialTransformer::forward(Context& c, const Var& x, PictureGrid& grid, TextTokens& text) {
  const int64_t clips = grid.clips;
  const Var h = block_.attendPictures(c, ends_.enter(c, x, grid, false), grid, text);
  const int64_t copies = grid.clips / clips;
  return block_.feedThrough(c, h, ends_.projOut,
                            copies == 1 ? x : Var{repeated(c.tape, x.value, copies), -1});
}

Var TemporalTransformer::forward(Context& c, const Var& x, const PictureGrid& grid, const uint8_t* keep) {
  const Var h = ends_.enter(c, zeroHiddenFrames(c, x, grid, keep), grid, true);
  return block_.feedThrough(c, block_.attendFrames(c, h, grid, keep), ends_.projOut, x);
}

TemporalEncoder::TemporalEncoder(ParameterList& list, const std::string& name, int64_t width, int64_t heads,
                                 int64_t headSize, int64_t hidden)
    : heads_(heads) {
  list.norm(name + "norm1", norm_, width);
  list.stacked(name + "attn1.", {"to_q", "to_k", "to_v"}, qkv_, heads * headSize, width);
  list.linear(name + "attn1.to_out.0", out_, width, heads * headSize);
  list.linear(name + "ff.net.0.proj", first_, hidden, width);
  list.linear(name + "ff.net.2", second_, width, hidden);
}

Var TemporalEncoder::forward(Context& c, const Var& x, const PictureGrid& grid, const uint8_t* keep) {
  const Var n = layerNorm(c, x, norm_.gamma, norm_.beta, kLayerEpsilon);
  const Var qkv = linear(c, n, qkv_.use, nullptr);
  const Var h = projected(c, temporalAttention(c, qkv, grid, heads_, keep), out_, x);
  return feedForward(c, h, first_.use, &first_.bias, second_.use, &second_.bias, Activation::gelu, h);
}

}  // namespace duet
