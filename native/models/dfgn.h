// The discrete frame generation network (DFGN) of RDTF (arXiv 2503.17735), as published: a U-Net over all
// frames of a clip at once, in which every residual block is followed by a spatio-temporal interaction layer
// and, except in the deepest blocks, by a spatial transformer with the text and a temporal transformer. Known
// frames enter through the image latents, which pass a few convolutions and an attention over the frames and
// then stand beside the noisy latents. Forward code only: gradients come from the tape. Parameters have the
// published names and shapes.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "models/dfgn_config.h"
#include "nn/residual_block.h"
#include "nn/transformer.h"

namespace duet {

/// The outputs of the network's stages in published layouts, by the names of their modules.
class DfgnTrace {
 public:
  struct Entry {
    std::string name;
    Shape shape;
    std::vector<float> values;
  };
  /// Rows as pictures [clips * frames, C, height, width].
  void pictures(const std::string& name, const Var& x, const PictureGrid& grid);
  void add(const std::string& name, const Var& x, const Shape& shape);
  std::vector<Entry> entries;
};

/// Everything a pass takes. It lives until the backward pass is over.
struct DfgnInputs {
  PictureGrid grid;
  Var noisy, image;          // f32, rows x channels
  std::vector<float> times;  // one a clip
  Var text;                  // f32, clips * textTokens x textWidth; for guidance several times the clips
  CaptionTokens captions;    // instead of text, for the network's own encoder
  Var t5;                    // f32, clips * t5Tokens x t5Width; undefined without
  int64_t textTokens = 0, t5Tokens = 0;
  int64_t copies = 1;         // texts a clip; more than 1 only without recording
  std::vector<uint8_t> keep;  // clips * frames, 0 on padded frames; empty unless the config hides padding
  std::map<const void*, Tensor>* kept = nullptr;  // see TextTokens
  bool checkpoint = false;                        // keep only every layer's inputs for the way back
  DfgnTrace* trace = nullptr;                     // not together with checkpoint
};

/// A residual block and what follows it.
struct DfgnLayer {
  std::string block;  // e.g. "down_blocks.0"
  std::string number;
  std::unique_ptr<ResidualBlock> residual;
  std::unique_ptr<StiLayer> sti;
  std::unique_ptr<SpatialTransformer> spatial;
  std::unique_ptr<TemporalTransformer> temporal;
};

struct DfgnBlock {
  std::string name;
  std::vector<DfgnLayer> layers;
  std::unique_ptr<ConvolutionLayer> resample;  // none in the last block of either side
};

class Dfgn {
 public:
  /// @param initialise false leaves zeros, for weights that are loaded next
  Dfgn(const DfgnConfig& config, uint64_t seed, bool initialise = true);
  Dfgn(const Dfgn&) = delete;
  Dfgn& operator=(const Dfgn&) = delete;

  const DfgnConfig& config() const { return config_; }
  const ParameterList& parameters() const { return list_; }

  /// What of a parameter is read or written: its value, a moving average, a moment of the optimizer.
  using ValuesOf = std::function<const Tensor&(const Parameter&)>;
  /// Safetensors with exactly the published names and shapes, f32, f16 or bf16. Nothing changes when they
  /// differ: the error lists what is missing, unexpected and of a wrong shape.
  void load(const std::string& path, const ValuesOf& valuesOf);
  void save(const std::string& path, const ValuesOf& valuesOf) const;

  /// @returns f32 rows x channels for copies * clips clips
  Var forward(Context& context, DfgnInputs& inputs);

 private:
  struct Pass;
  Var embedTime(Context& context, const DfgnInputs& inputs);
  Var textStates(Context& context, const DfgnInputs& inputs);
  TextTokens tokens(Context& context, const DfgnInputs& inputs);
  Var embedInputs(Context& context, DfgnInputs& inputs);
  Var runLayer(Context& context, Pass& pass, DfgnLayer& layer, const Var& x, const Var& skip);
  Var layerBody(Context& context, DfgnLayer& layer, Var x, PictureGrid& grid, const Var& time,
                TextTokens& text, const uint8_t* keep, DfgnTrace* trace);
  Var run(Context& context, Pass& pass, Var x);
  void makeLayer(DfgnBlock& block, int64_t in, int64_t out, bool transformers);
  void makeBlocks();

  DfgnConfig config_;
  ParameterList list_;
  ConvolutionLayer convIn_, convOut_;
  NormLayer normOut_;
  LinearLayer time1_, time2_, t5First_, t5Second_;
  ConvolutionLayer image1_, image2_, image3_;
  std::unique_ptr<TemporalEncoder> imageEncoder_;
  std::unique_ptr<TemporalTransformer> transformerIn_;
  std::vector<DfgnBlock> down_, up_;
  DfgnBlock middle_;
  std::unique_ptr<CaptionEncoder> captionEncoder_;  // none unless configured
};

}  // namespace duet
