// A training step of RDTF's denoising network (arXiv 2503.17735, algorithm 1):
//   1. noisy = sqrt(a_t) x + sqrt(1 - a_t) n for every clip of a batch, t and n drawn or given
//   2. image latents = x where both the condition mask (info mask) and the frame mask are set, else 0
//   3. a dropped text is zeros after its encoder
//   4. loss = mean((m prediction - m target)^2), m the frame mask; published: over all elements, so that a
//   clip of
//      few frames weighs less; `lossOverKept` divides by the elements of real frames instead
//   5. steps 1 to 4 for every micro-batch, their gradients averaged; clipping, AdamW, moving average
// Noise and times are functions of (seed, step, micro-batch): a resumed run draws the same.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>

#include "federated/optimizer.h"
#include "models/dfgn.h"
#include "stickers/ema.h"
#include "stickers/noise_schedule.h"

namespace duet {

/// One batch in JavaScript's memory, published layouts.
struct DenoisingBatch {
  int64_t clips = 0, height = 0, width = 0, textTokens = 0, t5Tokens = 0;
  std::span<const float> latents;      // B x C x F x H x W
  std::span<const float> noise;        // the same, or empty: drawn
  std::span<const int32_t> timesteps;  // B, or empty: drawn
  std::span<const float> text;         // B x textTokens x textWidth
  std::span<const int32_t> tokens;     // B x textTokens, instead of text: for the network's caption encoder
  std::span<const float> t5;           // B x t5Tokens x t5Width
  std::span<const uint8_t> frameMask;  // B x F, or empty: all frames are real
  std::span<const uint8_t> infoMask;   // F or B x F, or empty: no frame is given
  std::span<const uint8_t> dropText;   // B, or empty: no text is dropped
};

/// What the network says about a noisy clip: its noise, sqrt(a) n - sqrt(1 - a) x, or the clip itself.
enum class Prediction { epsilon, velocity, sample };

struct DenoisingOptions {
  AdamWOptions optimizer{3e-5, 0.9, 0.999, 1e-8, 0.01, true};
  ScheduleOptions schedule{ScheduleOptions::Kind::constant, 0, 1};
  NoiseScheduleOptions noise;
  Prediction prediction = Prediction::epsilon;
  std::optional<float> maxGradNorm = 1.0f;
  std::optional<double> emaDecay;
  bool lossOverKept = false;
  bool checkpoint = false;
  uint64_t seed = 0;
  bool keepGradients = false;  // gradients() returns those of the last step, before clipping
  bool keepOutputs = false;    // the result carries what went through the network
};

struct DenoisingResult {
  double loss = 0;
  std::vector<double> clipLosses;  // of all micro-batches
  std::vector<int32_t> timesteps;
  double gradNorm = 0;  // before clipping
  double learningRate = 0;
  int64_t step = 0;  // updates so far
  // Only with keepOutputs, of the last micro-batch: B x C x F x H x W.
  std::vector<float> prediction, noisyLatents, imageLatents;
};

/// Everything a step works on; lives as long as one training.
struct DenoisingTraining {
  DenoisingTraining(Dfgn& network, std::shared_ptr<Arena> arena, DType compute,
                    const DenoisingOptions& options);

  DenoisingResult step(std::span<const DenoisingBatch> batches);
  /// Losses of a batch without learning from it; what is drawn is that of micro-batch 0 of `drawStep`.
  DenoisingResult evaluate(const DenoisingBatch& batch, int64_t drawStep);
  /// One micro-batch through the network and, to learn, back. @returns its loss
  double pass(const DenoisingBatch& batch, int64_t step, int64_t micro, int64_t micros, bool learn,
              DenoisingResult& result);

  Dfgn& network;
  std::shared_ptr<Arena> arena;
  DType compute;
  DenoisingOptions options;
  AdamW optimizer;
  std::unique_ptr<Ema> ema;
  std::vector<float> alphas;
  std::vector<Parameter*> trained;
  int64_t steps = 0;
  std::map<std::string, std::vector<float>> gradients;

 private:
  struct Prepared;
  void draw(Prepared& prepared, const DenoisingBatch& batch, int64_t step, int64_t micro) const;
  Prepared prepare(const DenoisingBatch& batch, int64_t step, int64_t micro) const;
};

/// Marks what is trained: everything but the last detail biases, whose gradient is zero (the norm that
/// follows removes what they add). @returns each parameter once
std::vector<Parameter*> trainEverything(Dfgn& network);

/// Mean squared error of masked frames and its gradient. @param keep clips x frames
struct MaskedLoss {
  double loss = 0;
  std::vector<double> clips;
  Tensor gradient;
};
MaskedLoss maskedLoss(Arena& arena, const Tensor& output, const Tensor& target, const PictureGrid& grid,
                      const std::vector<uint8_t>& keep, bool overKept, bool wantsGradient);

/// Gradients the parameters hold, by published name.
std::map<std::string, std::vector<float>> heldGradients(const Dfgn& network);

}  // namespace duet
