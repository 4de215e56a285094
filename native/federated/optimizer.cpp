#include "federated/optimizer.h"

#include <algorithm>
#include <cmath>

#include "ops/kernels.h"

namespace duet {

double learningRateAt(const AdamWOptions& optimizer, const ScheduleOptions& schedule, int64_t step) {
  const double rate = optimizer.learningRate;
  const double warmup = static_cast<double>(schedule.warmupSteps),
               most = static_cast<double>(schedule.maxSteps);
  const double k = static_cast<double>(step);
  if (k < warmup) return rate * k / warmup;
  if (schedule.kind == ScheduleOptions::Kind::constant) return rate;
  if (k >= most) return 0.0;
  const double done = most > warmup ? (k - warmup) / (most - warmup) : 1.0;
  if (schedule.kind == ScheduleOptions::Kind::linear) return rate * (1.0 - done);
  return rate * 0.5 * (1.0 + std::cos(3.141592653589793 * done));
}

AdamW::State& AdamW::state(Parameter& parameter) {
  State& s = states_[&parameter];
  if (!s.average.defined()) {
    s.average = Tensor::zeros(parameter.value.shape());
    s.averageSquare = Tensor::zeros(parameter.value.shape());
  }
  return s;
}

const AdamW::State* AdamW::find(const Parameter& parameter) const {
  const auto found = states_.find(&parameter);
  return found == states_.end() ? nullptr : &found->second;
}

void AdamW::update(const std::vector<Parameter*>& parameters, double learningRate, ClearGradients clear,
                   float scale) {
  std::vector<std::pair<Parameter*, State*>> updated;
  std::vector<AdamWTensor> tensors;
  for (Parameter* p : parameters) {
    if (!p->hasGradient) {
      if (clear == ClearGradients::none || !find(*p)) continue;
      bool accumulate;
      currentMemory().zero(p->gradientTarget(accumulate), p->value.bytes());
    }
    State& s = state(*p);
    const bool noDecay = !options_.decayAll && (p->name.find("bias") != std::string::npos ||
                                                p->name.find("LayerNorm.weight") != std::string::npos);
    updated.emplace_back(p, &s);
    tensors.push_back({p->f32(), p->gradient.f32(), s.average.f32(), s.averageSquare.f32(),
                       p->value.elements(), s.step + 1, noDecay ? 0.0 : options_.weightDecay});
  }
  backend().optimizer.adamw({learningRate, options_.beta1, options_.beta2, options_.epsilon, scale}, tensors);
  for (const auto& [p, s] : updated) {
    ++s->step;
    p->forgetGradient();
    p->changed();
  }
}

AdamW::Clipping AdamW::clip(const std::vector<Parameter*>& parameters, const std::optional<float>& limit) {
  std::vector<Numbers> gradients;
  for (Parameter* p : parameters)
    if (p->hasGradient) gradients.push_back({p->gradient.f32(), p->gradient.elements()});
  Clipping result{std::sqrt(backend().optimizer.squareSum(gradients))};
  if (limit) result.scale = static_cast<float>(std::min(1.0, *limit / (result.norm + 1e-6)));
  return result;
}

void AdamW::forget(const std::vector<Parameter*>& parameters) {
  for (Parameter* p : parameters) p->forgetGradient();
}

}  // namespace duet
