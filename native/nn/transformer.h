// The two transformers of a video U-Net, with the parameter names of the diffusers library: group norm, a
// linear projection in, one block x += attn1(LN(x)); x += attn2(LN(x)); x += GEGLU(LN(x)), a projection out,
// plus the input.
//
// - spatial: a sequence is one picture; attn2 looks at the clip's text. Keys and values of the text are made
//   once a clip, not once a frame.
// - temporal: a sequence is one pixel over the frames of its clip; both attentions look at that sequence.
// Group
//   norm takes its statistics over all frames of the clip.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "nn/context.h"
#include "nn/parameter_list.h"
#include "nn/picture_grid.h"

namespace duet {

/// The tokens of every clip's text, one clip behind another.
struct TextTokens {
  Var states;  // f32, clips * tokens rows
  int64_t clips = 0, tokens = 0;
  /// Where passes without recording keep a layer's keys and values for the next pass with the same text.
  std::map<const void*, Tensor>* kept = nullptr;
  /// Null, or one byte a token: what is padding is no key.
  std::shared_ptr<const std::vector<uint8_t>> visible = nullptr;
};

struct TransformerShape {
  int64_t channels = 0, inner = 0, heads = 1, groups = 1;
  int64_t text = 0;  // width of the text states; spatial only
};

/// h += attn1(LN(h)); h += attn2(LN(h)); h += GEGLU(LN(h))
class TransformerBlock {
 public:
  TransformerBlock(ParameterList& list, const std::string& name, const TransformerShape& shape);

  /// The attentions. Sequences are pictures; attn2 reads the text. See SpatialTransformer for `grid`.
  Var attendPictures(Context& context, const Var& x, PictureGrid& grid, TextTokens& text);
  /// The same where sequences are pixels over the frames.
  Var attendFrames(Context& context, const Var& x, const PictureGrid& grid, const uint8_t* keep);
  /// h + S g(h), the rest of the block.
  Var feed(Context& context, const Var& h);
  /// P (h + S g(h)) + p + x. Where P has fewer outputs than S it is P h + (P S) g(h) + ..., with fewer
  /// products.
  Var feedThrough(Context& context, const Var& h, LinearLayer& projection, const Var& x);

 private:
  Var keysAndValues(Context& context, TextTokens& text);
  Var attendOwn(Context& context, const Var& x, const PictureGrid& grid);
  Var gated(Context& context, const Var& h, LinearLayer& last, const Var& residual);

  int64_t heads_;
  NormLayer norm1_, norm2_, norm3_;
  LinearLayer qkv1_, out1_;
  LinearLayer q2_, kv2_, out2_;  // temporal: kv2 holds q, k and v, q2 is not there
  LinearLayer first_, second_;
};

/// What both transformers have around their block.
struct TransformerEnds {
  TransformerEnds(ParameterList& list, const std::string& name, const TransformerShape& shape);
  Var enter(Context& context, const Var& x, const PictureGrid& grid, bool acrossFrames);

  int64_t groups;
  NormLayer norm;
  LinearLayer projIn, projOut;
};

class SpatialTransformer {
 public:
  SpatialTransformer(ParameterList& list, const std::string& name, const TransformerShape& shape)
      : ends_(list, name, shape), block_(list, name + "transformer_blocks.0.", shape) {}

  /// @param grid when the text has several times as many clips (guidance), every clip is repeated where the
  /// text first matters and the grid afterwards says so; only in passes without recording
  Var forward(Context& context, const Var& x, PictureGrid& grid, TextTokens& text);

 private:
  TransformerEnds ends_;
  TransformerBlock block_;
};

class TemporalTransformer {
 public:
  TemporalTransformer(ParameterList& list, const std::string& name, const TransformerShape& shape)
      : ends_(list, name, shape), block_(list, name + "transformer_blocks.0.", shape) {}

  /// @param keep null, or one byte a clip and frame: hidden frames are no keys and enter the norm as zeros
  Var forward(Context& context, const Var& x, const PictureGrid& grid, const uint8_t* keep = nullptr);

 private:
  TransformerEnds ends_;
  TransformerBlock block_;
};

/// The block over the image latents: x += attn(LN(x)); x += W2 gelu(W1 x). Few channels, always in f32.
class TemporalEncoder {
 public:
  TemporalEncoder(ParameterList& list, const std::string& name, int64_t width, int64_t heads,
                  int64_t headSize, int64_t hidden);
  Var forward(Context& context, const Var& x, const PictureGrid& grid, const uint8_t* keep = nullptr);

 private:
  int64_t heads_;
  NormLayer norm_;
  LinearLayer qkv_, out_, first_, second_;
};

/// [x, x, ...]; without recording.
Tensor repeated(Tape& tape, const Tensor& x, int64_t copies);

}  // namespace duet
