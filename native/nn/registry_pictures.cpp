// The ops on feature maps, for tests and reference numbers. Inputs and outputs are rows of pixels with the
// channels last; attributes clips, frames, height and width give their grid.
#include "nn/convolution.h"
#include "nn/detail_branch.h"
#include "nn/gated.h"
#include "nn/group_norm.h"
#include "nn/registry_call.h"
#include "nn/resample.h"
#include "nn/temporal_attention.h"
#include "ops/kernels.h"

namespace duet {

namespace {

int64_t count(const Call& c, const std::string& name, int64_t fallback, int64_t least = 1) {
  const double value = c.number(name, static_cast<double>(fallback));
  require(value >= static_cast<double>(least) && value <= 1e6 &&
              value == static_cast<double>(static_cast<int64_t>(value)),
          "Expected a whole number from ", least, " to 1000000 for attribute '", name, "' but received ",
          value);
  return static_cast<int64_t>(value);
}

PictureGrid gridOf(const Call& c) {
  return {count(c, "clips", 1), count(c, "frames", 1), count(c, "height", 1), count(c, "width", 1)};
}

/// The results take the type that attribute 'out' names: f32, or the compute type.
DType outType(const Call& c) {
  const std::string out = c.text("out", "f32");
  require(out == "f32" || out == "compute", "Expected 'f32' or 'compute' for attribute 'out' but received '",
          out, "'");
  return out == "f32" ? DType::f32 : c.compute();
}

Shape matrixOf(const Var& v) { return {v.value.rowCount(), v.value.columns()}; }
void finish(Call& c, const Var& out) { c.finish(out, matrixOf(out)); }

/// Weight [out, size * size * in], kernel taps before the inputs.
void runConvolution(Call& c) {
  ConvolutionKernel kernel;
  kernel.weights = whole(c.parameter("weight"));
  kernel.size = count(c, "size", 3);
  Parameter* bias = c.optionalParameter("bias");
  const Var x = c.value("x", c.compute());
  const Var residual = c.has("residual") ? c.value("residual") : Var{};
  ConvolutionOptions options;
  options.stride = count(c, "stride", 1);
  options.outType = outType(c);
  options.residual = c.has("residual") ? &residual : nullptr;
  const std::string padding = c.text("padding", "same");
  require(padding == "same" || padding == "rightBottom",
          "Expected 'same' or 'rightBottom' for attribute 'padding' but received '", padding, "'");
  if (padding == "rightBottom") options.padding = ConvolutionPadding::rightBottom;
  finish(c, convolution(c.context, x, gridOf(c), kernel, bias, options));
}

void runGroupNorm(Call& c) {
  Parameter &gamma = c.parameter("weight"), &beta = c.parameter("bias");
  const Var x = c.value("x");
  const Var shift = c.has("shift") ? c.value("shift") : Var{};
  GroupNormOptions options;
  options.groups = count(c, "groups", 1);
  options.epsilon = static_cast<float>(c.number("epsilon", 1e-5));
  options.silu = c.flag("silu", false);
  options.acrossFrames = c.flag("acrossFrames", false);
  options.clipShift = c.has("shift") ? &shift : nullptr;
  options.outType = c.compute();
  finish(c, groupNorm(c.context, x, gridOf(c), gamma, beta, options));
}

void runUpsampleNearest(Call& c) {
  const Var x = c.value("x", c.compute());
  finish(c, upsampleNearest(c.context, x, gridOf(c), count(c, "toHeight", 0), count(c, "toWidth", 0)));
}

void runAveragePool(Call& c) {
  const Var x = c.value("x");
  finish(c, averagePool(c.context, x, gridOf(c), c.compute()));
}

void runTemporalAttention(Call& c) {
  const Var qkv = c.value("qkv", c.compute());
  const PictureGrid grid = gridOf(c);
  const uint8_t* keep = nullptr;
  if (c.has("keep")) {
    const Tensor& mask = c.input("keep", DType::u8);
    require(mask.elements() == grid.pictures(), "Expected a mask of ", grid.pictures(),
            " frames but received ", mask.shape().text());
    keep = mask.data<uint8_t>();
  }
  finish(c, temporalAttention(c.context, qkv, grid, count(c, "heads", 1), keep));
}

void runDetailBranch(Call& c) {
  DetailBranch branch;
  branch.epsilon = static_cast<float>(c.number("epsilon", 1e-6));
  struct Named {
    std::string name;
    Parameter* parameter;
  };
  std::vector<Named> all;
  for (int i = 0; i < 2; ++i) {
    DetailBlock& b = branch.blocks[i];
    const std::string prefix = "conv_layers." + std::to_string(i) + ".";
    for (const Named& n : {Named{"norm1.weight", &b.norm1},
                           {"norm1.bias", &b.norm1Bias},
                           {"conv1.weight", &b.conv1},
                           {"conv1.bias", &b.conv1Bias},
                           {"norm2.weight", &b.norm2},
                           {"norm2.bias", &b.norm2Bias},
                           {"conv2.weight", &b.conv2},
                           {"conv2.bias", &b.conv2Bias}})
      all.push_back({prefix + n.name, n.parameter});
  }
  for (const Named& n : all) {
    n.parameter->name = n.name;
    n.parameter->value = Tensor::zeros(c.input(n.name).shape());
    currentMemory().copy(n.parameter->value.raw(), c.input(n.name).raw(), n.parameter->value.bytes());
    n.parameter->trainable = true;
  }
  const Var x = c.value("x");
  finish(c, detailBranch(c.context, x, gridOf(c), branch));
  for (const Named& n : all)
    if (n.parameter->hasGradient) c.results["grad." + n.name] = n.parameter->gradient;
}

void runWeightedSum(Call& c) {
  Parameter &w1 = c.parameter("w1"), &w2 = c.parameter("w2");
  const Var a = c.value("a");
  const Var b = c.has("b") ? c.value("b") : a;
  finish(c, weightedSum(c.context, a, w1, b, w2));
}

void runGatedFeedForward(Call& c) {
  Weights first = whole(c.parameter("first.weight")), second = whole(c.parameter("second.weight"));
  Parameter *firstBias = c.optionalParameter("first.bias"), *secondBias = c.optionalParameter("second.bias");
  const Var x = c.value("x", c.compute());
  const Var residual = c.has("residual") ? c.value("residual") : Var{};
  finish(c, gatedFeedForward(c.context, x, first, firstBias, second, secondBias, residual));
}

void runConcatColumns(Call& c) {
  const Var a = c.value("a", c.compute()), b = c.value("b", c.compute());
  finish(c, concatColumns(c.context, a, b));
}

void runTimeEmbedding(Call& c) {
  const Tensor& times = c.input("times");
  const int64_t width = count(c, "width", 2);
  require(width % 2 == 0, "Expected an even width of time embeddings but received ", width);
  Tensor out = Tensor::zeros({times.elements(), width});
  backend().noise.timeEmbedding(times.f32(), times.elements(), width, out.f32());
  c.results["out"] = out;
}

/// output and target: clips x frames x values, any trailing shape. 'out' is the loss, 'clipLoss' one for each
/// clip.
void runMaskedSquaredError(Call& c) {
  const Tensor &output = c.input("output"), &target = c.input("target"), &keep = c.input("keep", DType::u8);
  const PictureGrid grid = gridOf(c);
  require(output.elements() == target.elements() && output.elements() > 0 &&
              output.elements() % grid.pictures() == 0,
          "Expected output and target of ", grid.pictures(), " equal frames but received ",
          output.shape().text(), " and ", target.shape().text());
  require(keep.elements() == grid.pictures(), "Expected a mask of ", grid.pictures(), " frames but received ",
          keep.shape().text());
  Tensor gradient = Tensor::zeros(output.shape()), loss = Tensor::zeros({1}),
         clipLoss = Tensor::zeros({grid.clips});
  std::vector<double> each(static_cast<size_t>(grid.clips));
  const auto mean = static_cast<float>(backend().noise.maskedSquaredError(
      {output.f32(), target.f32(), keep.data<uint8_t>(), grid.clips, grid.frames,
       output.elements() / grid.pictures(), c.flag("overKept", false), gradient.f32(), each.data()}));
  copyIn(loss, &mean);
  copyIn(clipLoss, std::vector<float>(each.begin(), each.end()).data());
  c.results["out"] = loss;
  c.results["clipLoss"] = clipLoss;
  c.results["grad.output"] = gradient;
}

void runMovingAverage(Call& c) {
  const Tensor &average = c.input("average"), &value = c.input("value");
  require(average.elements() == value.elements(), "Expected values of ", average.shape().text(),
          " but received ", value.shape().text());
  Tensor out = Tensor::zeros(average.shape());
  currentMemory().copy(out.raw(), average.raw(), out.bytes());
  std::vector<MovingAverage> tensors;
  eachPiece(c, out.elements(), [&](int64_t first, int64_t count) {
    tensors.push_back({out.f32() + first, value.f32() + first, count});
  });
  backend().optimizer.movingAverage(tensors, static_cast<float>(c.number("decay", 0.99)));
  c.results["out"] = out;
}

}  // namespace

OpTable pictureOps() {
  return {{"convolution", runConvolution},
          {"groupNorm", runGroupNorm},
          {"upsampleNearest", runUpsampleNearest},
          {"averagePool", runAveragePool},
          {"temporalAttention", runTemporalAttention},
          {"detailBranch", runDetailBranch},
          {"weightedSum", runWeightedSum},
          {"gatedFeedForward", runGatedFeedForward},
          {"concatColumns", runConcatColumns},
          {"timeEmbedding", runTimeEmbedding},
          {"maskedSquaredError", runMaskedSquaredError},
          {"movingAverage", runMovingAverage}};
}

}  // namespace duet
