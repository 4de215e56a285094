#include "models/dfgn.h"

#include "autograd/checkpoint.h"
#include "core/cancel.h"
#include "core/host_access.h"
#include "nn/embedding.h"
#include "nn/gated.h"
#include "nn/group_norm.h"
#include "nn/linear.h"
#include "nn/resample.h"
#include "ops/kernels.h"

namespace duet {

namespace {

constexpr float kEpsilon = 1e-5f;

/// Rows [0, clips * perClip): all of them, or the first copy of a repeated value.
Var firstClips(const Var& x, int64_t rows) {
  return x.value.rowCount() == rows ? x : Var{x.value.rows(0, rows), x.slot};
}

/// Positions of the rows of a text of `tokens` each that stands at `offset` of every clip's `all` tokens.
std::shared_ptr<std::vector<int32_t>> tokenRows(int64_t clips, int64_t tokens, int64_t offset, int64_t all) {
  auto rows = std::make_shared<std::vector<int32_t>>();
  for (int64_t clip = 0; clip < clips; ++clip)
    for (int64_t token = 0; token < tokens; ++token)
      rows->push_back(static_cast<int32_t>(clip * all + offset + token));
  return rows;
}

}  // namespace

/// What the layers of one pass share.
struct Dfgn::Pass {
  DfgnInputs& inputs;
  PictureGrid grid;
  Var time;
  TextTokens text;
  const uint8_t* keep;
};

void DfgnTrace::add(const std::string& name, const Var& x, const Shape& shape) {
  entries.push_back({name, shape, valuesOf(x.value)});
}

void DfgnTrace::pictures(const std::string& name, const Var& x, const PictureGrid& grid) {
  const int64_t channels = x.value.columns(), pixels = grid.pixels();
  Entry entry{name, {grid.pictures(), channels, grid.height, grid.width}, {}};
  entry.values.resize(static_cast<size_t>(x.value.elements()));
  readOnHost(x.value, [&](const float* from) {
    for (int64_t picture = 0; picture < grid.pictures(); ++picture)
      for (int64_t pixel = 0; pixel < pixels; ++pixel)
        for (int64_t channel = 0; channel < channels; ++channel)
          entry.values[static_cast<size_t>((picture * channels + channel) * pixels + pixel)] = *from++;
  });
  entries.push_back(std::move(entry));
}

Var Dfgn::embedTime(Context& c, const DfgnInputs& inputs) {
  const auto clips = static_cast<int64_t>(inputs.times.size());
  const int64_t width = config_.blockChannels.front();
  const Tensor waves = c.tape.empty({clips, width});
  const Tensor times = c.tape.empty({clips});
  copyIn(times, inputs.times.data());
  backend().noise.timeEmbedding(times.f32(), clips, width, waves.f32());
  Var x = linear(c, Var{waves, -1}, time1_.use, &time1_.bias, {Activation::silu, nullptr, DType::f32});
  x = linear(c, x, time2_.use, &time2_.bias);
  if (inputs.trace) inputs.trace->add("time_embedding", x, {clips, config_.timeWidth()});
  // Every residual block begins with a SiLU of it.
  x = activate(c, x, Activation::silu);
  return inputs.copies == 1 ? x : Var{repeated(c.tape, x.value, inputs.copies), -1};
}

/// Those given, or what the caption encoder makes of the captions: once for all passes that keep its output.
Var Dfgn::textStates(Context& c, const DfgnInputs& inputs) {
  if (!inputs.captions.given()) return inputs.text;
  const bool keeping = inputs.kept && !c.tape.recording();
  if (keeping) {
    const auto found = inputs.kept->find(captionEncoder_.get());
    if (found != inputs.kept->end()) return {found->second, -1};
  }
  const Var states = captionEncoder_->forward(c, inputs.captions);
  if (inputs.trace)
    inputs.trace->add("caption_encoder", states,
                      {inputs.captions.captions, inputs.captions.length, config_.textWidth});
  if (keeping) inputs.kept->emplace(captionEncoder_.get(), states.value);
  return states;
}

/// The T5 tokens, projected, then the others.
TextTokens Dfgn::tokens(Context& c, const DfgnInputs& inputs) {
  const int64_t clips = inputs.grid.clips * inputs.copies, all = inputs.t5Tokens + inputs.textTokens;
  TextTokens text{textStates(c, inputs), clips, all, inputs.kept, nullptr};
  if (inputs.captions.given())
    text.visible = std::make_shared<std::vector<uint8_t>>(inputs.captions.visible(inputs.t5Tokens));
  if (config_.t5Width == 0) return text;
  Var t5 = linear(c, cast(c, inputs.t5, c.compute), t5First_.use, &t5First_.bias,
                  {Activation::silu, nullptr, c.compute});
  t5 = linear(c, t5, t5Second_.use, &t5Second_.bias);
  if (inputs.trace)
    inputs.trace->add("context_T5_clip_embedding", t5, {clips, inputs.t5Tokens, config_.textWidth});
  Var joined{c.tape.arena().zeros({clips * all, config_.textWidth}), -1};
  joined = addRows(c, joined, t5, tokenRows(clips, inputs.t5Tokens, 0, all));
  text.states = addRows(c, joined, text.states, tokenRows(clips, inputs.textTokens, inputs.t5Tokens, all));
  return text;
}

/// Noisy latents and the features of the known frames, and the two layers in front of the U. Few channels: in
/// f32.
Var Dfgn::embedInputs(Context& c, DfgnInputs& inputs) {
  const PictureGrid& grid = inputs.grid;
  const uint8_t* keep = inputs.keep.empty() ? nullptr : inputs.keep.data();
  Var image = convolution(c, inputs.image, grid, image1_.kernel, &image1_.bias);
  image = convolution(c, activate(c, image, Activation::silu), grid, image2_.kernel, &image2_.bias);
  image = convolution(c, activate(c, image, Activation::silu), grid, image3_.kernel, &image3_.bias);
  DfgnTrace* trace = inputs.trace;
  if (trace) trace->pictures("image_latents_proj_in", image, grid);
  image = imageEncoder_->forward(c, image, grid, keep);
  if (trace) {  // one sequence a pixel
    const int64_t pixels = grid.pixels(), width = config_.channels;
    const Tensor sequences = c.tape.empty({grid.rows(), width});
    for (int64_t row = 0; row < grid.rows(); ++row) {
      const int64_t pixel = row % pixels, frame = row / pixels % grid.frames,
                    clip = row / pixels / grid.frames;
      currentMemory().copy(sequences.f32() + ((clip * pixels + pixel) * grid.frames + frame) * width,
                           image.value.f32() + row * width, static_cast<size_t>(width) * 4);
    }
    trace->add("image_latents_temporal_encoder", Var{sequences, -1},
               {grid.clips * pixels, grid.frames, width});
  }
  const Var x = convolution(c, concatColumns(c, inputs.noisy, image), grid, convIn_.kernel, &convIn_.bias);
  if (trace) trace->pictures("conv_in", x, grid);
  return x;
}

Var Dfgn::layerBody(Context& c, DfgnLayer& layer, Var x, PictureGrid& grid, const Var& time, TextTokens& text,
                    const uint8_t* keep, DfgnTrace* trace) {
  cancelPoint();
  const auto note = [&](const char* module) {
    if (trace) trace->pictures(layer.block + module + layer.number, x, grid);
  };
  x = layer.residual->forward(c, x, grid, firstClips(time, grid.clips));
  note(".resnets.");
  x = layer.sti->forward(c, x, grid, keep);
  note(".temp_convs.");
  if (layer.spatial) {
    x = layer.spatial->forward(c, x, grid, text);
    note(".attentions.");
    x = layer.temporal->forward(c, x, grid, keep);
    note(".temp_attentions.");
  }
  return x;
}

/// @param skip undefined on the way down
Var Dfgn::runLayer(Context& c, Pass& pass, DfgnLayer& layer, const Var& x, const Var& skip) {
  if (!pass.inputs.checkpoint || !c.tape.recording())
    return layerBody(c, layer, skip.value.defined() ? concatColumns(c, x, skip) : x, pass.grid, pass.time,
                     pass.text, pass.keep, pass.inputs.trace);
  std::vector<Var> inputs{x, pass.time, pass.text.states};
  const bool joins = skip.value.defined();
  if (joins) inputs.push_back(skip);
  return checkpoint(
      c, inputs,
      [this, &layer, grid = pass.grid, clips = pass.text.clips, tokens = pass.text.tokens,
       visible = pass.text.visible, keep = pass.keep, joins](Context& inner, const std::vector<Var>& in) {
        TextTokens text{in[2], clips, tokens, nullptr, visible};
        PictureGrid here = grid;
        return layerBody(inner, layer, joins ? concatColumns(inner, in[0], in[3]) : in[0], here, in[1], text,
                         keep, nullptr);
      });
}

Var Dfgn::run(Context& c, Pass& pass, Var x) {
  struct Skip {
    Var x;
    PictureGrid grid;
  };
  std::vector<Skip> skips{{x, pass.grid}};
  DfgnTrace* trace = pass.inputs.trace;
  const auto note = [&](const std::string& name) {
    if (trace) trace->pictures(name, x, pass.grid);
  };
  for (DfgnBlock& block : down_) {
    for (DfgnLayer& layer : block.layers) {
      x = runLayer(c, pass, layer, x, Var{});
      skips.push_back({x, pass.grid});
    }
    if (block.resample) {
      ConvolutionOptions half;
      half.stride = 2;
      ConvolutionKernel& kernel = block.resample->kernel;
      x = convolution(c, cast(c, x, c.compute), pass.grid, kernel, &block.resample->bias, half);
      pass.grid = convolved(pass.grid, kernel.size, half);
      skips.push_back({x, pass.grid});
      note(block.name + ".downsamplers.0");
    }
    note(block.name);
  }
  for (DfgnLayer& layer : middle_.layers) x = runLayer(c, pass, layer, x, Var{});
  note(middle_.name);
  for (DfgnBlock& block : up_) {
    for (DfgnLayer& layer : block.layers) {
      Var skip = std::move(skips.back().x);
      const int64_t copies = pass.grid.clips / skips.back().grid.clips;
      if (copies > 1) skip = {repeated(c.tape, skip.value, copies), -1};
      skips.pop_back();
      x = runLayer(c, pass, layer, x, skip);
    }
    if (block.resample) {
      const PictureGrid& size = skips.back().grid;  // twice as large, or one less where a side was odd
      const Var larger = upsampleNearest(c, cast(c, x, c.compute), pass.grid, size.height, size.width);
      pass.grid.height = size.height;
      pass.grid.width = size.width;
      x = convolution(c, larger, pass.grid, block.resample->kernel, &block.resample->bias);
      note(block.name + ".upsamplers.0");
    }
    note(block.name);
  }
  return x;
}

Var Dfgn::forward(Context& c, DfgnInputs& inputs) {
  config_.checkSize(inputs.grid.height, inputs.grid.width);
  require(inputs.copies == 1 || !c.tape.recording(), "Expected one text a clip while training but received ",
          inputs.copies);
  const uint8_t* keep = inputs.keep.empty() ? nullptr : inputs.keep.data();
  Context plain{c.tape, DType::f32, c.training, c.seed, c.stream};
  Pass pass{inputs, inputs.grid, embedTime(plain, inputs), tokens(c, inputs), keep};
  Var x = embedInputs(plain, inputs);
  inputs.noisy = inputs.image = Var{};
  x = transformerIn_->forward(c, x, pass.grid, keep);
  if (inputs.trace) inputs.trace->pictures("transformer_in", x, pass.grid);
  x = run(c, pass, std::move(x));
  GroupNormOptions norm;
  norm.groups = config_.normGroups;
  norm.epsilon = kEpsilon;
  if (inputs.trace)
    inputs.trace->pictures("conv_norm_out", groupNorm(c, x, pass.grid, normOut_.gamma, normOut_.beta, norm),
                           pass.grid);
  norm.silu = true;
  x = groupNorm(c, x, pass.grid, normOut_.gamma, normOut_.beta, norm);
  return convolution(c, x, pass.grid, convOut_.kernel, &convOut_.bias);
}

}  // namespace duet
