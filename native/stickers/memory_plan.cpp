#include "stickers/memory_plan.h"

#include <cmath>

#include "ops/dry_run.h"
#include "stickers/denoising_step.h"

namespace duet {

namespace {
// More than a step takes on any machine; address space costs nothing.
constexpr size_t kAddressSpace = size_t{1} << 44;

std::string gigabytes(size_t bytes) {
  const double size = std::round(static_cast<double>(bytes) / 1e7) / 100;
  return size < 0.01 ? "under 0.01 GB" : str(size, " GB");
}

}  // namespace

std::string nameOf(const MemoryPlan& plan) {
  const size_t all = plan.parameters + plan.gradients + plan.moments + plan.averages + plan.activations;
  std::string text = str(gigabytes(all), ": parameters ", gigabytes(plan.parameters), ", gradients ",
                         gigabytes(plan.gradients), ", moments ", gigabytes(plan.moments));
  if (plan.averages > 0) text += ", averages " + gigabytes(plan.averages);
  return text + ", activations " + gigabytes(plan.activations);
}

MemoryPlan planMemory(const DfgnConfig& config, DType compute, const PlannedStep& step) {
  const DryRun dry;
  Dfgn network(config, 0, false);
  const std::shared_ptr<Arena> arena = Arena::create(kAddressSpace);
  DenoisingOptions options;
  options.checkpoint = step.checkpoint;
  DenoisingTraining training(network, arena, compute, options);

  const auto zeros = [](int64_t count) { return std::vector<float>(static_cast<size_t>(count)); };
  const std::vector<float> latents =
      zeros(step.clips * config.channels * config.frames * step.height * step.width);
  const bool ids = config.captionEncoder.has_value();
  const std::vector<int32_t> tokens(ids ? static_cast<size_t>(step.clips * step.textTokens) : 0, 1);
  const std::vector<float> text = zeros(ids ? 0 : step.clips * step.textTokens * config.textWidth);
  const std::vector<float> t5 = zeros(step.clips * step.t5Tokens * config.t5Width);
  const std::vector<uint8_t> drop(static_cast<size_t>(step.clips), 0);
  DenoisingBatch batch;
  batch.clips = step.clips;
  batch.height = step.height;
  batch.width = step.width;
  batch.textTokens = step.textTokens;
  batch.t5Tokens = step.t5Tokens;
  batch.latents = batch.noise = latents;
  batch.text = text;
  batch.tokens = tokens;
  batch.t5 = t5;
  batch.dropText = drop;
  DenoisingResult unused;
  for (int pass = 0; pass < (step.accumulate ? 2 : 1); ++pass) training.pass(batch, 0, 0, 1, true, unused);

  MemoryPlan plan;
  plan.parameters = network.parameters().packedBytes();
  for (const Parameter* p : network.parameters().distinct()) {
    plan.parameters += p->value.bytes();
    if (step.ema) plan.averages += p->value.bytes();
    if (!p->gradient.defined()) continue;
    plan.gradients += p->gradient.bytes();
    plan.moments += 2 * p->gradient.bytes();
  }
  plan.activations = arena->peakBytes() - plan.gradients;
  return plan;
}

}  // namespace duet
