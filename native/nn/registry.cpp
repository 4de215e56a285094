#include <algorithm>

#include "core/philox.h"
#include "nn/adapter.h"
#include "nn/attention.h"
#include "nn/embedding.h"
#include "nn/linear.h"
#include "nn/norm.h"
#include "nn/registry_call.h"
#include "ops/device.h"
#include "ops/kernels.h"

namespace duet {

namespace {

Shape withColumns(const Shape& shape, int64_t columns) {
  Shape result = shape;
  result[result.rank() - 1] = columns;
  return result;
}

std::shared_ptr<std::vector<int32_t>> indices(const Tensor& tensor) {
  return std::make_shared<std::vector<int32_t>>(tensor.data<int32_t>(),
                                                tensor.data<int32_t>() + tensor.elements());
}

void runLinear(Call& c) {
  Weights w = whole(c.parameter("weight"));
  Var x = c.value("x", c.compute());
  Parameter* bias = c.optionalParameter("bias");
  Var residual = c.has("residual") ? c.value("residual") : Var{};
  LinearOptions options{c.activation(), residual.value.defined() ? &residual : nullptr, DType::f32};
  c.finish(linear(c.context, x, w, bias, options), withColumns(c.input("x").shape(), w.out()));
}

void runFeedForward(Call& c) {
  Weights first = whole(c.parameter("first.weight")), second = whole(c.parameter("second.weight"));
  Parameter *firstBias = c.optionalParameter("first.bias"), *secondBias = c.optionalParameter("second.bias");
  Var x = c.value("x", c.compute());
  Var residual = c.has("residual") ? c.value("residual") : Var{};
  c.finish(feedForward(c.context, x, first, firstBias, second, secondBias, c.activation(), residual),
           withColumns(c.input("x").shape(), second.out()));
}

void runLayerNorm(Call& c) {
  Parameter &gamma = c.parameter("weight"), &beta = c.parameter("bias");
  const Var x = c.value("x");
  c.finish(layerNorm(c.context, x, gamma, beta, static_cast<float>(c.number("epsilon", 1e-5)), c.compute()),
           c.input("x").shape());
}

void runRmsNorm(Call& c) {
  const Var x{c.value("x").value, -1};
  const auto epsilon = static_cast<float>(c.number("epsilon", 1e-6));
  c.finish(rmsNorm(c.context, x, c.parameter("weight", false), epsilon, c.compute()), c.input("x").shape());
}

std::shared_ptr<AttentionLayout> layoutOf(Call& c, int64_t queries, int64_t keys) {
  auto layout = std::make_shared<AttentionLayout>();
  layout->heads = static_cast<int64_t>(c.number("heads", 1));
  if (c.has("spans")) {
    const Tensor& spans = c.input("spans", DType::i32);
    require(spans.columns() == 4, "Expected 'spans' as n x 4 but received ", spans.shape().text());
    for (int64_t i = 0; i < spans.rowCount(); ++i) {
      const int32_t* s = spans.data<int32_t>() + i * 4;
      layout->spans.push_back({s[0], s[1], s[2], s[3]});
    }
  } else {
    layout->spans.push_back({0, queries, 0, keys});
  }
  if (c.has("keyMask")) {
    const Tensor& mask = c.input("keyMask", DType::u8);
    layout->keyMask.assign(mask.data<uint8_t>(), mask.data<uint8_t>() + mask.elements());
  }
  layout->causal = c.flag("causal", false);
  layout->scale = static_cast<float>(c.number("scale", 0));
  if (c.has("bias")) layout->bias = c.input("bias");
  return layout;
}

void runAttention(Call& c) {
  const float dropout = static_cast<float>(c.number("dropout", 0));
  c.context.training = dropout > 0;
  c.context.seed = static_cast<uint64_t>(c.number("seed", 0));
  if (c.has("qkv")) {
    const Shape shape = withColumns(c.input("qkv").shape(), c.input("qkv").columns() / 3);
    Var qkv = c.value("qkv", c.compute());
    const auto layout = layoutOf(c, qkv.value.rowCount(), qkv.value.rowCount());
    const Var out = selfAttention(c.context, qkv, layout, dropout);
    qkv = {};  // nobody else holds it, as in a network: its gradient may take its place
    c.finish(out, shape);
    return;
  }
  const Var q = c.value("q", c.compute());
  Var kv = c.value("kv", c.compute());
  const auto layout = layoutOf(c, q.value.rowCount(), kv.value.rowCount());
  const Var out = crossAttention(c.context, q, kv, layout, dropout);
  kv = {};
  c.finish(out, c.input("q").shape());
}

void runAdapter(Call& c) {
  const std::string mode = c.text("mode", "single"), call = c.text("call", "vilt");
  require(mode == "single" || mode == "gated",
          "Expected 'single' or 'gated' for attribute 'mode' but received '", mode, "'");
  require(call == "vilt" || call == "separate" || call == "bert",
          "Expected 'vilt', 'separate' or 'bert' for attribute 'call' but received '", call, "'");
  std::vector<std::unique_ptr<Adapter>> adapters;
  std::vector<std::vector<std::string>> names;
  std::vector<AdapterBranch> branches;
  const auto add = [&](const std::string& name, float weight) {
    adapters.push_back(std::make_unique<Adapter>());
    Adapter& a = *adapters.back();
    const std::pair<const char*, Parameter*> parts[] = {{"_down.weight", &a.downWeight},
                                                        {"_down.bias", &a.downBias},
                                                        {"_up.weight", &a.upWeight},
                                                        {"_up.bias", &a.upBias}};
    for (const auto& [suffix, p] : parts) {
      p->name = name + suffix;
      p->value = Tensor::zeros(c.input(p->name).shape());
      currentMemory().copy(p->value.raw(), c.input(p->name).raw(), p->value.bytes());
      p->trainable = true;
    }
    branches.push_back({&a, weight});
  };
  add(c.text("first", "adapter_0"), mode == "single" ? 1.0f : 0.5f);
  if (mode == "gated") add(c.text("second", "adapter_2"), 0.5f);
  const Var x = c.value("x");
  const Shape shape = c.input("x").shape();
  if (call == "vilt") {
    c.finish(adapt(c.context, x, nullptr, branches), shape);
  } else {
    const Var residual = c.value("residual");
    if (call == "separate") {
      c.finish(adapt(c.context, x, &residual, branches), shape);
    } else {  // ALBEF's text layers: one norm used twice around the adapter
      Parameter &gamma = c.parameter("layerNorm.weight"), &beta = c.parameter("layerNorm.bias");
      const float epsilon = static_cast<float>(c.number("epsilon", 1e-12));
      const Var z = layerNorm(c.context, duet::add(c.context, x, residual), gamma, beta, epsilon);
      const Var a = adapt(c.context, z, &x, branches);
      c.finish(layerNorm(c.context, duet::add(c.context, a, residual), gamma, beta, epsilon), shape);
    }
  }
  for (const auto& a : adapters)
    for (Parameter* p : {&a->downWeight, &a->downBias, &a->upWeight, &a->upBias})
      if (p->hasGradient) c.results["grad." + p->name] = p->gradient;
}

void runEmbedding(Call& c) {
  std::vector<EmbeddingInput> terms;
  int64_t rows = 0, width = 0;
  for (int i = 0; c.has("table." + std::to_string(i)); ++i) {
    const std::string n = std::to_string(i);
    Parameter& table = c.parameter("table." + n);
    EmbeddingInput term{&table, *indices(c.input("index." + n, DType::i32)), {}};
    if (c.has("weight." + n)) {
      const Tensor& weight = c.input("weight." + n);
      term.weight = valuesOf(weight);
      require(weight.elements() == static_cast<int64_t>(term.index.size()), "Expected one weight an index");
    }
    rows = static_cast<int64_t>(term.index.size());
    width = table.value.columns();
    terms.push_back(std::move(term));
  }
  require(!terms.empty(), "Expected an input called 'table.0'");
  c.finish(embed(c.context, std::move(terms), rows, width), {rows, width});
}

void runGatherRows(Call& c) {
  const Var x = c.value("x");
  const auto index = indices(c.input("index", DType::i32));
  c.finish(gatherRows(c.context, x, index), {static_cast<int64_t>(index->size()), x.value.columns()});
}

void runAddRows(Call& c) {
  const Var base = c.value("base"), x = c.value("x");
  c.finish(addRows(c.context, base, x, indices(c.input("index", DType::i32))), c.input("base").shape());
}

void runActivation(Call& c) {
  const Var x = c.value("x", c.compute());
  c.finish(activate(c.context, x, c.activation()), c.input("x").shape());
}

void runDropout(Call& c) {
  c.context.training = true;
  c.context.seed = static_cast<uint64_t>(c.number("seed", 0));
  c.context.stream = static_cast<uint64_t>(c.number("stream", 0));
  const float p = static_cast<float>(c.number("probability", 0.5));
  require(p >= 0.0f && p < 1.0f, "Expected a probability from 0 to below 1 but received ", p);
  c.finish(dropout(c.context, c.value("x"), p), c.input("x").shape());
}

void runSoftmax(Call& c) {
  const Tensor& x = c.input("x");
  require(x.shape().rank() >= 1 && x.columns() > 0, "Expected at least one column but received ",
          x.shape().text());
  const bool log = c.flag("log", false);
  Tensor y = Tensor::zeros(x.shape());
  backend().loss.softmax(x.f32(), y.f32(), x.rowCount(), x.columns(), log);
  c.results["out"] = y;
  if (c.has("gradOutput")) {
    require(c.input("gradOutput").elements() == x.elements(), "Expected a gradient of ", x.shape().text());
    Tensor dx = Tensor::zeros(x.shape());
    backend().loss.softmaxBackward(y.f32(), c.input("gradOutput").f32(), dx.f32(), x.rowCount(), x.columns(),
                                   log);
    c.results["grad.x"] = dx;
  }
}

Tensor scalar(double value) {
  Tensor result = Tensor::zeros({1});
  const float there = static_cast<float>(value);
  copyIn(result, &there);
  return result;
}

void runDistillation(Call& c) {
  const Tensor& x = c.input("output");
  const std::string part = c.text("part", "kl");
  require(part == "kl" || part == "bce" || part == "combined",
          "Expected 'kl', 'bce' or 'combined' for attribute 'part' but received '", part, "'");
  require(x.shape().rank() >= 2, "Expected logits of two or more dimensions but received ", x.shape().text());
  const int axis = static_cast<int>(c.number("axis", -1));
  const int a = axis < 0 ? axis + x.shape().rank() : axis;
  require(a >= 1 && a < x.shape().rank(), "Expected an axis within ", x.shape().text(), " but received ",
          axis);
  int64_t outer = 1, inner = 1;
  for (int i = 0; i < a; ++i) outer *= x.dim(i);
  for (int i = a + 1; i < x.shape().rank(); ++i) inner *= x.dim(i);
  Tensor gradient = Tensor::zeros(x.shape());
  require(x.elements() > 0, "Expected logits of at least one element but received ", x.shape().text());
  require(c.number("temperature", 3) > 0, "Expected a positive temperature but received ",
          c.number("temperature", 3));
  const float share = part == "combined" ? 0.5f : 1.0f;
  double loss = 0;
  if (part != "kl") {
    const Tensor& labels = c.input("labels");
    require(labels.shape() == x.shape(), "Expected labels of ", x.shape().text(), " but received ",
            labels.shape().text());
    loss += share * backend().loss.binary({x.f32(), labels.f32(), x.dim(0), x.elements() / x.dim(0), x.dim(0),
                                           share, gradient.f32(), false});
  }
  if (part != "bce") {
    const Tensor& target = c.input("target");
    require(target.shape() == x.shape(), "Expected a target of ", x.shape().text(), " but received ",
            target.shape().text());
    loss += share * backend().loss.distillation({x.f32(), target.f32(), outer, x.dim(a), inner, x.dim(0),
                                                 static_cast<float>(c.number("temperature", 3)), share,
                                                 gradient.f32(), true});
  }
  c.results["loss"] = scalar(loss);
  c.results["grad.output"] = gradient;
}

void runCrossEntropy(Call& c) {
  const Tensor& x = c.input("logits");
  const Tensor& labels = c.input("labels", DType::i32);
  require(x.shape().rank() >= 1 && x.columns() > 0, "Expected at least one class but received ",
          x.shape().text());
  require(labels.elements() == x.rowCount(), "Expected ", x.rowCount(), " labels but received ",
          labels.elements());
  for (int64_t i = 0; i < labels.elements(); ++i)
    require(labels.data<int32_t>()[i] < x.columns(), "Expected labels below ", x.columns());
  Tensor gradient = Tensor::zeros(x.shape());
  c.results["loss"] = scalar(backend().loss.crossEntropy(
      {x.f32(), labels.data<int32_t>(), x.rowCount(), x.columns(), gradient.f32()}));
  c.results["grad.logits"] = gradient;
}

Tensor copyOf(const Tensor& from) {
  Tensor copy = Tensor::zeros(from.shape());
  currentMemory().copy(copy.raw(), from.raw(), copy.bytes());
  return copy;
}

void runAdamW(Call& c) {
  require(c.number("step", 1) >= 1, "Expected a step of at least 1 but received ", c.number("step", 1));
  Tensor p = copyOf(c.input("parameter")), m = copyOf(c.input("average")),
         v = copyOf(c.input("averageSquare"));
  const Tensor& g = c.input("gradient");
  require(g.elements() == p.elements() && m.elements() == p.elements() && v.elements() == p.elements(),
          "Expected parameter, gradient, average and averageSquare of the same size");
  std::vector<AdamWTensor> tensors;
  eachPiece(c, p.elements(), [&](int64_t first, int64_t count) {
    tensors.push_back({p.f32() + first, g.f32() + first, m.f32() + first, v.f32() + first, count,
                       static_cast<int64_t>(c.number("step", 1)), c.number("weightDecay", 0.01)});
  });
  backend().optimizer.adamw({c.number("learningRate", 1e-3), c.number("beta1", 0.9), c.number("beta2", 0.999),
                             c.number("epsilon", 1e-8)},
                            tensors);
  c.results["out"] = p;
  c.results["average"] = m;
  c.results["averageSquare"] = v;
}

void runGradientNorm(Call& c) {
  const Tensor& x = c.input("x");
  std::vector<Numbers> numbers;
  eachPiece(c, x.elements(), [&](int64_t first, int64_t count) {
    numbers.push_back({x.f32() + first, count});
  });
  c.results["out"] = scalar(std::sqrt(backend().optimizer.squareSum(numbers)));
}

/// A check of the ground that kernels of a device stand on (native/gpu/check.cuda.cu).
void runGpuCheck(Call& c) {
  const DevicePlugin* plugin = OnDevice::plugin();
  if (!plugin)
    fail(Code::Unsupported, "Expected a GPU, real or emulated, for gpu_check but this is the host");
  const Tensor out = Tensor::zeros({static_cast<int64_t>(c.number("count", 1))});
  plugin->check(c.text("what", "").c_str(), c.has("x") ? c.input("x").f32() : nullptr,
                c.has("y") ? c.input("y").f32() : nullptr, out.f32());
  c.results["out"] = out;
}

void runPhilox(Call& c) {
  const auto count = static_cast<int64_t>(c.number("count", 4));
  require(count > 0 && count % 4 == 0 && count <= (1 << 20),
          "Expected a count that is a multiple of 4 up to 1048576");
  const Philox generator{static_cast<uint64_t>(c.number("seed", 0)),
                         static_cast<uint64_t>(c.number("stream", 0))};
  std::vector<int32_t> words(static_cast<size_t>(count));
  std::vector<float> normal(static_cast<size_t>(count));
  for (int64_t i = 0; i < count / 4; ++i) {
    const auto w = generator.words(static_cast<uint64_t>(i) + static_cast<uint64_t>(c.number("counter", 0)));
    for (int64_t j = 0; j < 4; ++j)
      words[static_cast<size_t>(i * 4 + j)] = static_cast<int32_t>(w[static_cast<size_t>(j)]);
  }
  fillNormal(normal.data(), count, 1.0f, generator);
  c.results["out"] = Tensor::zeros({count}, DType::i32);
  currentMemory().copyIn(c.results["out"].raw(), words.data(), words.size() * sizeof(int32_t));
  c.results["normal"] = Tensor::zeros({count});
  copyIn(c.results["normal"], normal.data());
}

const OpTable& table() {
  static const OpTable ops = [] {
    OpTable all{{"linear", runLinear},
                {"feed_forward", runFeedForward},
                {"layer_norm", runLayerNorm},
                {"rms_norm", runRmsNorm},
                {"attention", runAttention},
                {"adapter", runAdapter},
                {"embedding", runEmbedding},
                {"gather_rows", runGatherRows},
                {"add_rows", runAddRows},
                {"activation", runActivation},
                {"dropout", runDropout},
                {"softmax", runSoftmax},
                {"distillation_loss", runDistillation},
                {"cross_entropy", runCrossEntropy},
                {"adamw", runAdamW},
                {"gradient_norm", runGradientNorm},
                {"philox", runPhilox},
                {"gpu_check", runGpuCheck}};
    all.merge(productOps());
    all.merge(pictureOps());
    all.merge(blockOps());
    return all;
  }();
  return ops;
}

}  // namespace

NamedTensors runOp(const std::string& name, const NamedTensors& inputs,
                   const std::map<std::string, Attribute>& attributes, const Tensor& gradOutput) {
  const auto found = table().find(name);
  if (found == table().end()) {
    std::string known;
    for (const std::string& op : opNames()) known += (known.empty() ? "" : ", ") + op;
    fail(Code::NotFound, "Expected the name of an op (", known, ") but received '", name, "'");
  }
  NamedTensors all = inputs;
  if (gradOutput.defined()) all["gradOutput"] = gradOutput;
  Call call(all, attributes, gradOutput);
  found->second(call);
  return std::move(call.results);
}

std::vector<std::string> opNames() {
  std::vector<std::string> names;
  for (const auto& [name, op] : table()) names.push_back(name);
  return names;
}

}  // namespace duet
