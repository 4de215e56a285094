#include "nn/transformer.h"

#include "nn/attention.h"
#include "nn/frame_mask.h"
#include "nn/gated.h"
#include "nn/group_norm.h"
#include "nn/linear.h"
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
    std::memcpy(static_cast<std::byte*>(y.raw()) + static_cast<size_t>(i) * x.bytes(), x.raw(), x.bytes());
  return y;
}

TransformerLayers::TransformerLayers(ParameterList& list, const std::string& name,
                                     const TransformerShape& s)
    : shape(s) {
  const std::string block = name + "transformer_blocks.0.";
  list.norm(name + "norm", norm, s.channels);
  list.linear(name + "proj_in", projIn, s.inner, s.channels);
  list.norm(block + "norm1", norm1, s.inner);
  list.stacked(block + "attn1.", {"to_q", "to_k", "to_v"}, qkv1, s.inner, s.inner);
  list.linear(block + "attn1.to_out.0", out1, s.inner, s.inner);
  list.norm(block + "norm2", norm2, s.inner);
  if (s.text > 0) {
    list.linear(block + "attn2.to_q", q2, s.inner, s.inner, false);
    list.stacked(block + "attn2.", {"to_k", "to_v"}, kv2, s.inner, s.text);
  } else {
    list.stacked(block + "attn2.", {"to_q", "to_k", "to_v"}, kv2, s.inner, s.inner);
  }
  list.linear(block + "attn2.to_out.0", out2, s.inner, s.inner);
  list.norm(block + "norm3", norm3, s.inner);
  list.linear(block + "ff.net.0.proj", first, 8 * s.inner, s.inner);
  list.linear(block + "ff.net.2", second, s.inner, 4 * s.inner);
  list.linear(name + "proj_out", projOut, s.channels, s.inner);
}

Var TransformerLayers::enter(Context& c, const Var& x, const PictureGrid& grid, bool acrossFrames) {
  GroupNormOptions options;
  options.groups = shape.groups;
  options.epsilon = kGroupEpsilon;
  options.acrossFrames = acrossFrames;
  options.outType = c.compute;
  return linear(c, groupNorm(c, x, grid, norm.gamma, norm.beta, options), projIn.use, &projIn.bias);
}

Var TransformerLayers::leave(Context& c, const Var& hidden, const Var& x) {
  const Var out = gatedFeedForward(c, normed(c, hidden, norm3), first.use, &first.bias, second.use,
                                   &second.bias, hidden);
  return projected(c, cast(c, out, c.compute), projOut, x);
}

Var SpatialTransformer::keysAndValues(Context& c, TextTokens& text) {
  const bool keeping = text.kept && !c.tape.recording();
  if (keeping) {
    const auto found = text.kept->find(this);
    if (found != text.kept->end()) return {found->second, -1};
  }
  const Var kv = linear(c, cast(c, text.states, c.compute), layers_.kv2.use, nullptr, inComputeType(c));
  if (keeping) text.kept->emplace(this, kv.value);
  return kv;
}

Var SpatialTransformer::forward(Context& c, const Var& x, PictureGrid& grid, TextTokens& text) {
  TransformerLayers& l = layers_;
  Var residual = x;
  Var h = l.enter(c, x, grid, false);
  {
    const Var qkv = linear(c, normed(c, h, l.norm1), l.qkv1.use, nullptr, inComputeType(c));
    const Var attended =
        selfAttention(c, qkv, evenly(grid.pictures(), grid.pixels(), grid.pixels(), l.shape.heads), 0.0f);
    h = projected(c, attended, l.out1, h);
  }
  Var q = linear(c, normed(c, h, l.norm2), l.q2.use, nullptr, inComputeType(c));
  if (text.clips != grid.clips) {
    const int64_t copies = text.clips / grid.clips;
    require(!c.tape.recording() && text.clips == copies * grid.clips, "Expected the text of ", grid.clips,
            " clips but received ", text.clips);
    q = {repeated(c.tape, q.value, copies), -1};
    h = {repeated(c.tape, h.value, copies), -1};
    residual = {repeated(c.tape, residual.value, copies), -1};
    grid.clips = text.clips;
  }
  {
    const int64_t rows = grid.frames * grid.pixels();
    const auto layout = evenly(grid.clips, rows, text.tokens, l.shape.heads);
    if (text.visible) layout->keyMask = *text.visible;
    const Var attended = crossAttention(c, q, keysAndValues(c, text), layout, 0.0f);
    q = Var{};
    h = projected(c, attended, l.out2, h);
  }
  return l.leave(c, h, residual);
}

Var TemporalTransformer::forward(Context& c, const Var& x, const PictureGrid& grid, const uint8_t* keep) {
  TransformerLayers& l = layers_;
  Var h = l.enter(c, zeroHiddenFrames(c, x, grid, keep), grid, true);
  const auto attend = [&](NormLayer& norm, LinearLayer& qkv, LinearLayer& out) {
    const Var stacked = linear(c, normed(c, h, norm), qkv.use, nullptr, inComputeType(c));
    h = projected(c, temporalAttention(c, stacked, grid, l.shape.heads, keep), out, h);
  };
  attend(l.norm1, l.qkv1, l.out1);
  attend(l.norm2, l.kv2, l.out2);
  return l.leave(c, h, x);
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
