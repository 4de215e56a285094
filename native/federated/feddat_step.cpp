// A batch as published:
//   1. teacher pass, no gradient: logits_all from the dual adapter (adapters 0 and 2 averaged)
//   2. adapter 1: L_1 = (BCE(logits_1) + KL(logits_1 || logits_all)) / 2, backward, update, schedule step
//   3. dual adapter again with the updated head: L_0 = (BCE(logits_0) + KL(logits_0 || logits_1)) / 2,
//      backward through adapter 0 only, update, schedule step
// The head is trained in both updates. PassOrder::published runs exactly these three passes.
//
// PassOrder::merged computes the same numbers with less work. Between 1 and 3 only adapter 1 and the
// head change, and neither is read by the dual-adapter trunk: without dropout the trunk of 1 and 3 is
// one pass, kept until its gradient is known. What lies before the first adapter is computed once. It
// holds only without dropout and when parameters without a gradient are skipped (otherwise momentum
// moves adapter 0 in step 2). Step 2 goes through the batch a few samples at a time, so that the
// activations of one and a fraction of a pass are in memory, not of two.
#include "federated/feddat_step.h"

#include <algorithm>
#include <cmath>

#include "core/host_access.h"
#include "ops/kernels.h"

namespace duet {

namespace {

/// Some samples of a batch: `first` and those that follow, as many as there are rows of logits.
struct Samples {
  const ViltBatch& batch;
  int64_t first = 0;
};

struct LossAndGradient {
  double bce = 0, kl = 0;
  Tensor gradient;
};

/// The share of these samples in (BCE * C + T^2 KL) / 2 of the batch, against the targets and, where given, a
/// teacher's logits for the same samples.
LossAndGradient mutualLoss(Arena& arena, const Tensor& logits, const Samples& samples, const float* teacher,
                           float temperature) {
  LossAndGradient result;
  const int64_t rows = logits.dim(0), classes = logits.dim(1), all = samples.batch.batch;
  const Tensor targets = arena.empty(logits.shape());
  copyIn(targets, samples.batch.targets.data() + samples.first * classes);
  result.gradient = arena.empty(logits.shape());
  const float share = teacher ? 0.5f : 1.0f;
  result.bce = backend().loss.binary(
      {logits.f32(), targets.f32(), rows, classes, all, share, result.gradient.f32(), false});
  if (teacher)
    result.kl = backend().loss.distillation(
        {logits.f32(), teacher, rows, classes, 1, all, temperature, share, result.gradient.f32(), true});
  return result;
}

void checkFinite(double loss, const char* name) {
  if (!std::isfinite(loss))
    fail(Code::NotFinite, "Expected a finite loss but ", name, " is ", loss,
         "; lower the learning rate or look at this batch's pictures and targets");
}

double correctScore(const Tensor& logits, std::span<const float> targets) {
  const int64_t classes = logits.dim(1);
  return readOnHost(logits, [&](const float* values) {
    double sum = 0.0;
    for (int64_t row = 0; row < logits.dim(0); ++row) {
      const float* line = values + row * classes;
      const int64_t best = std::max_element(line, line + classes) - line;
      sum += targets[static_cast<size_t>(row * classes + best)];
    }
    return sum;
  });
}

void setTrainable(const std::vector<Parameter*>& parameters, bool trainable) {
  for (Parameter* p : parameters) p->trainable = trainable;
}

std::vector<Parameter*> joined(const std::vector<Parameter*>& a, const std::vector<Parameter*>& b) {
  std::vector<Parameter*> result = a;
  result.insert(result.end(), b.begin(), b.end());
  return result;
}

/// Logits of the head for pooled rows, without recording.
Tensor logitsOf(Training& t, const Tensor& pooled) {
  Tape tape(t.arena, false);
  Context context = t.context(tape, 0);
  return t.model.classify(context, Var{pooled, -1}, t.head).value;
}

struct HeadPass {
  Tensor logits;
  LossAndGradient loss;
  Tensor dPooled;
};

/// What is reported of one of the two updates.
struct Reported {
  double bce = 0, kl = 0;
  Tensor logits, pooled;
};

/// Head forward, loss, head backward; the head's gradients stay in its parameters.
HeadPass headPass(Training& t, const Tensor& pooled, const Samples& samples, const Tensor& teacher,
                  const char* name) {
  HeadPass pass;
  Tape tape(t.arena, true);
  Context context = t.context(tape, 0);
  const Var input = tape.track(pooled);
  const Var logits = t.model.classify(context, input, t.head);
  pass.logits = logits.value;
  pass.loss = mutualLoss(*t.arena, pass.logits, samples, teacher.f32(), t.options.temperature);
  checkFinite(pass.loss.bce + pass.loss.kl, name);
  tape.give(logits, pass.loss.gradient);
  tape.backward();
  pass.dPooled = tape.take(input);
  return pass;
}

void fill(StepResult& result, const Reported& first, const Reported& second) {
  FedDatLosses l;
  l.bce1 = first.bce;
  l.kl1 = first.kl;
  l.loss1 = 0.5 * (l.bce1 + l.kl1);
  l.bce0 = second.bce;
  l.kl0 = second.kl;
  l.loss0 = 0.5 * (l.bce0 + l.kl0);
  result.loss = l.loss1;
  result.feddat = l;
}

void keepOutputs(StepResult& result, const Tensor& logitsAll, const Tensor& pooledAll, const Reported& first,
                 const Reported& second) {
  result.logitsAll = valuesOf(logitsAll);
  result.logits1 = valuesOf(first.logits);
  result.logits0 = valuesOf(second.logits);
  result.pooledAll = valuesOf(pooledAll);
  result.pooled1 = valuesOf(first.pooled);
  result.pooled0 = valuesOf(second.pooled);
}

/// Samples of about as many rows as products need to be fast.
constexpr int64_t kFewestRows = 768;

/// The end of a run of samples that begins with `first`.
int64_t samplesTogether(const ViltPlan& plan, int64_t first) {
  const int64_t most = std::max(kFewestRows, backend().product.rowsTogether());
  const int64_t parts = (plan.rows + most - 1) / most;
  return std::min(plan.batch, first + (plan.batch + parts - 1) / parts);
}

/// Forward, loss and backward of adapter 1, whose gradients and the head's add up over the runs of samples.
Reported adapter1Passes(Training& t, const ViltBatch& batch, const ViltPlan& plan, const Tensor& start,
                        const Tensor& logitsAll) {
  Reported result;
  result.logits = t.arena->empty(logitsAll.shape());
  result.pooled = t.arena->empty({plan.batch, t.model.config().hiddenSize});
  for (int64_t first = 0, end; first < plan.batch; first = end) {
    end = samplesTogether(plan, first);
    const ViltPlan part = samplesOf(plan, first, end);
    const int64_t row = plan.firstRow[static_cast<size_t>(first)];
    Tape tape(t.arena, true);
    Context context = t.context(tape, 0);
    const Var pooled =
        t.model.pooled(context, part, Var{start.rows(row, row + part.rows), -1}, AdapterMode::adapter1);
    const HeadPass head = headPass(t, pooled.value, {batch, first}, logitsAll.rows(first, end), "L_1");
    result.bce += head.loss.bce;
    result.kl += head.loss.kl;
    copy(result.logits.rows(first, end), head.logits);
    copy(result.pooled.rows(first, end), pooled.value);
    tape.give(pooled, head.dPooled);
    tape.backward();
  }
  return result;
}

StepResult mergedStep(Training& t, const ViltBatch& batch) {
  StepResult result;
  ViltPlan plan = planBatch(t.model.config(), batch, *t.arena, Padding::drop);
  setTrainable(t.all, true);
  Tape trunk(t.arena, true);
  Context context = t.context(trunk, 0);
  Var start = t.model.untilAdapters(context, plan);
  const Var pooled = t.model.pooled(context, plan, start, AdapterMode::gated);
  const Tensor logitsAll = logitsOf(t, pooled.value);

  const Reported first = adapter1Passes(t, batch, plan, start.value, logitsAll);
  start = Var{};
  const double rate1 = t.takeLearningRate();
  if (t.options.keepGradients) t.keepGradients("update_1.", joined(t.headPart, t.adapter1Part));
  t.optimizer.update(joined(t.headPart, t.adapter1Part), rate1, ClearGradients::none);
  if (t.options.keepGradients) t.keepParameters("after_update_1.");

  const HeadPass head = headPass(t, pooled.value, {batch}, first.logits, "L_0");
  trunk.give(pooled, head.dPooled);
  trunk.backward();
  const double rate0 = t.takeLearningRate();
  if (t.options.keepGradients) t.keepGradients("update_0.", joined(t.headPart, t.adapter0Part));
  t.optimizer.update(joined(t.headPart, t.adapter0Part), rate0, ClearGradients::none);

  const Reported second{head.loss.bce, head.loss.kl, head.logits, pooled.value};
  fill(result, first, second);
  result.learningRates = {rate1, rate0};
  result.correct = correctScore(logitsAll, batch.targets);
  if (t.options.keepOutputs) keepOutputs(result, logitsAll, pooled.value, first, second);
  return result;
}

/// One forward and backward through the trunk and the head in one adapter mode.
/// @param plan a copy: a pass uses its plan up
Reported fullPass(Training& t, ViltPlan plan, const ViltBatch& batch, AdapterMode mode, const Tensor& teacher,
                  int pass, const char* name) {
  Tape trunk(t.arena, true);
  Context context = t.context(trunk, pass);
  const Var pooled = t.model.pooled(context, plan, mode);
  const HeadPass head = headPass(t, pooled.value, {batch}, teacher, name);
  trunk.give(pooled, head.dPooled);
  trunk.backward();
  return {head.loss.bce, head.loss.kl, head.logits, pooled.value};
}

StepResult publishedStep(Training& t, const ViltBatch& batch) {
  StepResult result;
  const ViltPlan plan = planBatch(t.model.config(), batch, *t.arena, Padding::drop);
  Tensor pooledAll;
  {
    Tape tape(t.arena, false);
    Context context = t.context(tape, 0);
    ViltPlan copy = plan;
    pooledAll = t.model.pooled(context, copy, AdapterMode::gated).value;
  }
  const Tensor logitsAll = logitsOf(t, pooledAll);

  auto update = [&](const char* prefix) {
    if (t.options.keepGradients) t.keepGradients(prefix, t.all);
    const AdamW::Clipping clipping = AdamW::clip(t.all, t.options.maxGradNorm);
    result.gradNorm = clipping.norm;
    const double rate = t.takeLearningRate();
    t.optimizer.update(t.all, rate, t.options.clearGradients, clipping.scale);
    result.learningRates.push_back(rate);
  };
  setTrainable(t.all, true);
  setTrainable(t.adapter0Part, false);
  const Reported first = fullPass(t, plan, batch, AdapterMode::adapter1, logitsAll, 1, "L_1");
  update("update_1.");
  if (t.options.keepGradients) t.keepParameters("after_update_1.");
  setTrainable(t.adapter0Part, true);
  setTrainable(t.adapter1Part, false);
  const Reported second = fullPass(t, plan, batch, AdapterMode::gated, first.logits, 2, "L_0");
  update("update_0.");
  setTrainable(t.adapter1Part, true);

  fill(result, first, second);
  result.correct = correctScore(logitsAll, batch.targets);
  if (t.options.keepOutputs) keepOutputs(result, logitsAll, pooledAll, first, second);
  return result;
}

void checkOptions(const TrainingOptions& o) {
  const AdamWOptions& a = o.optimizer;
  require(std::isfinite(a.learningRate) && a.learningRate >= 0,
          "Expected a learningRate of 0 or more but received ", a.learningRate);
  require(a.beta1 >= 0 && a.beta1 < 1 && a.beta2 >= 0 && a.beta2 < 1,
          "Expected betas from 0 to below 1 but received ", a.beta1, " and ", a.beta2);
  require(a.epsilon > 0, "Expected a positive epsilon but received ", a.epsilon);
  require(a.weightDecay >= 0, "Expected a weightDecay of 0 or more but received ", a.weightDecay);
  require(o.temperature > 0, "Expected a positive temperature but received ", o.temperature);
  require(o.schedule.maxSteps >= 1 && o.schedule.warmupSteps >= 0,
          "Expected maxSteps of at least 1 and warmupSteps of 0 or more but received ", o.schedule.maxSteps,
          " and ", o.schedule.warmupSteps);
  require(!o.maxGradNorm || *o.maxGradNorm > 0, "Expected a positive maxGradNorm but received ",
          o.maxGradNorm ? *o.maxGradNorm : 0);
}

void append(std::vector<Parameter*>& list, Adapter& a) {
  for (Parameter* p : {&a.downWeight, &a.downBias, &a.upWeight, &a.upBias}) list.push_back(p);
}

}  // namespace

Training::Training(Vilt& m, std::shared_ptr<Arena> memory, Compute type, const TrainingOptions& o)
    : model(m),
      arena(std::move(memory)),
      compute(type == Compute::bf16 ? DType::bf16 : DType::f32),
      options(o),
      head(m.head(o.task)),
      optimizer(o.optimizer) {
  checkOptions(o);
  for (const NamedParameter& p : model.parameters()) {
    p.parameter->trainable = false;
    p.parameter->hasGradient = false;
  }
  headPart = {&head.first, &head.firstBias, &head.norm, &head.normBias, &head.second, &head.secondBias};
  const bool adapting =
      o.method == Method::feddat || (o.method == Method::single && o.adapter != AdapterMode::none);
  require(!adapting || model.hasAdapters(), "Training adapters needs a model with adapters; add them first");
  for (ViltLayer* layer : model.layers()) {
    if (o.method == Method::feddat || (o.method == Method::single && o.adapter == AdapterMode::adapter0))
      append(adapter0Part, layer->adapters[0]);
    if (o.method == Method::feddat || (o.method == Method::single && o.adapter == AdapterMode::adapter1))
      append(adapter1Part, layer->adapters[1]);
  }
  require(o.method != Method::single || o.adapter != AdapterMode::gated,
          "Expected adapter_0, adapter_1 or none for a single-adapter training but received gated");
  if (o.method == Method::full) {
    for (const NamedParameter& p : model.parameters()) {
      const bool other = p.name.find(".adapter.") != std::string::npos || p.name.rfind("task_layer.", 0) == 0;
      if (!other && std::find(backbonePart.begin(), backbonePart.end(), p.parameter) == backbonePart.end())
        backbonePart.push_back(p.parameter);
    }
  }
  all = joined(joined(headPart, adapter1Part), joined(adapter0Part, backbonePart));
  for (Parameter* p : all) {
    p->own();
    p->trainable = true;
  }
  if (o.method == Method::feddat)  // the received shared adapter, frozen, is the server's half of the teacher
    for (ViltLayer* layer : model.layers()) {
      Adapter &from = layer->adapters[1], &to = layer->adapters[2];
      std::pair<Parameter*, Parameter*> pairs[] = {{&from.downWeight, &to.downWeight},
                                                   {&from.downBias, &to.downBias},
                                                   {&from.upWeight, &to.upWeight},
                                                   {&from.upBias, &to.upBias}};
      for (auto& [source, target] : pairs) copy(target->value, source->value);
    }
}

Context Training::context(Tape& tape, int pass) const {
  return {tape, compute, true, options.seed,
          (static_cast<uint64_t>(batches) * 4 + static_cast<uint64_t>(pass)) << 20};
}

void Training::keepGradients(const std::string& prefix, const std::vector<Parameter*>& parameters) {
  for (const NamedParameter& p : model.parameters()) {
    if (!p.parameter->hasGradient ||
        std::find(parameters.begin(), parameters.end(), p.parameter) == parameters.end())
      continue;
    gradients[prefix + p.name] = valuesOf(p.parameter->gradient.rows(p.firstRow, p.firstRow + p.shape[0]));
  }
}

void Training::keepParameters(const std::string& prefix) {
  for (const NamedParameter& p : model.parameters())
    if (std::find(all.begin(), all.end(), p.parameter) != all.end())
      gradients[prefix + p.name] = valuesOf(p.view());
}

StepResult fedDatStep(Training& t, const ViltBatch& batch) {
  t.gradients.clear();
  const ViltConfig& c = t.model.config();
  const bool exact = c.hiddenDropout == 0.0f && c.attentionDropout == 0.0f &&
                     t.options.clearGradients == ClearGradients::none && !t.options.maxGradNorm;
  StepResult result =
      t.options.order == PassOrder::merged && exact ? mergedStep(t, batch) : publishedStep(t, batch);
  ++t.batches;
  return result;
}

StepResult plainStep(Training& t, const ViltBatch& batch) {
  t.gradients.clear();
  StepResult result;
  ViltPlan plan = planBatch(t.model.config(), batch, *t.arena, Padding::drop);
  Tape tape(t.arena, true);
  Context context = t.context(tape, 0);
  const AdapterMode mode = t.options.method == Method::full ? AdapterMode::none : t.options.adapter;
  const Var pooled = t.model.pooled(context, plan, mode);
  const Var logits = t.model.classify(context, pooled, t.head);
  const LossAndGradient loss = mutualLoss(*t.arena, logits.value, {batch}, nullptr, 1.0f);
  checkFinite(loss.bce, "the loss");
  result.correct = correctScore(logits.value, batch.targets);
  tape.give(logits, loss.gradient);
  tape.backward();
  if (t.options.keepGradients) t.keepGradients("update.", t.all);
  const AdamW::Clipping clipping = AdamW::clip(t.all, t.options.maxGradNorm);
  result.gradNorm = clipping.norm;
  const double rate = t.takeLearningRate();
  t.optimizer.update(t.all, rate, t.options.clearGradients, clipping.scale);
  ++t.batches;
  result.loss = loss.bce;
  result.bce = loss.bce;
  result.learningRates = {rate};
  if (t.options.keepOutputs) {
    result.logits1 = valuesOf(logits.value);
    result.pooled1 = valuesOf(pooled.value);
  }
  return result;
}

}  // namespace duet
