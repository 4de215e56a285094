// The blocks of the frame generation network by name, for tests and reference numbers. Pictures are [n, C, h,
// w], tokens [n, length, width]; parameters are inputs called param.<published name> and their sizes make the
// block. Results: 'out', 'grad.<input>', 'grad.param.<name>'.
#include "nn/attention.h"
#include "nn/gated.h"
#include "nn/linear.h"
#include "nn/registry_call.h"
#include "nn/resample.h"
#include "nn/residual_block.h"
#include "nn/sti_layer.h"
#include "nn/transformer.h"

namespace duet {

namespace {

/// One call of a block: published layouts in and out, parameters by their published names.
class BlockCall {
 public:
  explicit BlockCall(Call& call) : c(call.context), list(0, false), call_(call) {}

  Context& c;
  ParameterList list;

  bool has(const std::string& name) const { return call_.has(name); }
  int64_t number(const std::string& name, int64_t fallback) const {
    return static_cast<int64_t>(call_.number(name, static_cast<double>(fallback)));
  }
  std::string text(const std::string& name, const std::string& fallback) const {
    return call_.text(name, fallback);
  }
  float epsilon() const { return static_cast<float>(call_.number("epsilon", 1e-5)); }
  /// Dimension `axis` of a parameter that is given.
  int64_t size(const std::string& parameter, int axis) const {
    const Tensor& given = call_.input("param." + parameter);
    require(axis < given.shape().rank(), "Expected more dimensions for ", parameter, " but received ",
            given.shape().text());
    return given.dim(axis);
  }

  /// The grid of an input of pictures, `frames` of them a clip.
  PictureGrid grid(const std::string& name, int64_t frames = 1) const {
    const Shape& shape = call_.input(name).shape();
    require(shape.rank() == 4 && frames >= 1 && shape[0] % frames == 0, "Expected '", name, "' as clips of ",
            frames, " pictures [n, C, h, w] but received ", shape.text());
    return {shape[0] / frames, frames, shape[2], shape[3]};
  }

  Var pictures(const std::string& name) {
    const Tensor& given = call_.input(name);
    const PictureGrid shape = grid(name);
    const Tensor rows = c.tape.empty({shape.rows(), given.dim(1)});
    arrange(given, rows, shape, given.dim(1), true);
    return tracked(name, rows, given.shape(), true);
  }

  /// The last dimension as columns.
  Var tokens(const std::string& name) {
    const Tensor& given = call_.input(name);
    const Tensor rows = c.tape.empty({given.rowCount(), given.columns()});
    currentMemory().copy(rows.raw(), given.raw(), rows.bytes());
    return tracked(name, rows, given.shape(), false);
  }

  /// Fills the parameters of the block that has been made.
  void loadParameters() {
    for (const PublishedParameter& p : list.all()) {
      const Tensor& given = call_.input("param." + p.name);
      require(given.shape() == p.shape, "Expected ", p.shape.text(), " for ", p.name, " but received ",
              given.shape().text());
      p.fromPublished(valuesOf(given).data(), p.parameter->value);
      p.parameter->trainable = true;
    }
  }

  void keepPictures(const std::string& name, const Tensor& rows, const PictureGrid& shape) {
    if (!rows.defined()) return;
    const Tensor out = Tensor::zeros({shape.pictures(), rows.columns(), shape.height, shape.width});
    arrange(rows, out, shape, rows.columns(), false);
    call_.results[name] = out;
  }
  void keepTokens(const std::string& name, const Tensor& rows, const Shape& shape) {
    if (rows.defined()) call_.results[name] = Call::persistent(rows, shape);
  }

  void finishPictures(const Var& out, const PictureGrid& shape) {
    keepPictures("out", out.value, shape);
    if (!has("gradOutput")) return;
    const Tensor& given = call_.input("gradOutput");
    require(given.elements() == out.value.elements(), "Expected a gradient of ", out.value.elements(),
            " values but received ", given.shape().text());
    const Tensor gradient = c.tape.empty(out.value.shape());
    arrange(given, gradient, shape, out.value.columns(), true);
    back(out, gradient);
  }
  void finishTokens(const Var& out, const Shape& shape) {
    keepTokens("out", out.value, shape);
    if (!has("gradOutput")) return;
    const Tensor gradient = c.tape.empty(out.value.shape());
    require(call_.input("gradOutput").elements() == gradient.elements(), "Expected a gradient of ",
            gradient.elements(), " values but received ", call_.input("gradOutput").shape().text());
    currentMemory().copy(gradient.raw(), call_.input("gradOutput").raw(), gradient.bytes());
    back(out, gradient);
  }

 private:
  struct Tracked {
    std::string name;
    int slot;
    Shape shape;
    bool pictures;
  };

  /// From planes [pictures, channels, pixels] to rows of pixels (`in`), or back.
  static void arrange(const Tensor& from, const Tensor& to, const PictureGrid& grid, int64_t channels,
                      bool in) {
    const int64_t pixels = grid.pixels();
    const std::vector<float> given = valuesOf(from);
    std::vector<float> made(given.size());
    for (int64_t picture = 0; picture < grid.pictures(); ++picture)
      for (int64_t channel = 0; channel < channels; ++channel)
        for (int64_t pixel = 0; pixel < pixels; ++pixel) {
          const auto plane = static_cast<size_t>((picture * channels + channel) * pixels + pixel);
          const auto row = static_cast<size_t>((picture * pixels + pixel) * channels + channel);
          made[in ? row : plane] = given[in ? plane : row];
        }
    copyIn(to, made.data());
  }

  Var tracked(const std::string& name, const Tensor& rows, const Shape& shape, bool pictures) {
    const Var var = c.tape.track(rows);
    tracked_.push_back({name, var.slot, shape, pictures});
    return var;
  }

  void back(const Var& out, const Tensor& gradient) {
    c.tape.give(out, gradient);
    c.tape.backward();
    for (const Tracked& input : tracked_) {
      const Tensor found = c.tape.take(input.slot);
      if (input.pictures)
        keepPictures("grad." + input.name, found, grid(input.name));
      else
        keepTokens("grad." + input.name, found, input.shape);
    }
    for (const PublishedParameter& p : list.all()) {
      if (!p.parameter->hasGradient) continue;
      const Tensor copy = Tensor::zeros(p.shape);
      copyIn(copy, p.copyOf(p.parameter->gradient).data());
      call_.results["grad.param." + p.name] = copy;
    }
  }

  Call& call_;
  std::vector<Tracked> tracked_;
};

void runStiLayer(Call& call) {
  BlockCall b(call);
  const PictureGrid grid = b.grid("x", b.number("frames", 8));
  StiShape shape;
  shape.channels = b.size("norm.weight", 0);
  shape.frames = grid.frames;
  shape.groups = b.number("groups", 1);
  shape.heads = b.number("heads", 8);
  const std::string variant = b.text("variant", "interaction");
  require(variant == "interaction" || variant == "semantic" || variant == "detail",
          "Expected 'interaction', 'semantic' or 'detail' for attribute 'variant' but received '", variant,
          "'");
  shape.variant = variant == "interaction" ? StiVariant::interaction
                  : variant == "semantic"  ? StiVariant::semantic
                                           : StiVariant::detail;
  if (shape.variant != StiVariant::detail)
    shape.headSize = b.size("transformer_blocks.to_q.weight", 0) / shape.heads;
  StiLayer layer(b.list, "", shape);
  b.loadParameters();
  StiTrace trace;
  const Var out = layer.forward(b.c, b.pictures("x"), grid, nullptr, &trace);
  const int64_t tokens = grid.frames * (grid.height / 2) * (grid.width / 2);
  b.keepTokens("attention", trace.attention, {grid.clips, tokens, shape.channels});
  b.keepPictures("semantic", trace.semantic, grid);
  b.keepPictures("detail", trace.detail, grid);
  b.finishPictures(out, grid);
}

void runResidualBlock(Call& call) {
  BlockCall b(call);
  const PictureGrid grid = b.grid("x");
  ResidualBlockShape shape;
  shape.in = b.size("conv1.weight", 1);
  shape.out = b.size("conv1.weight", 0);
  shape.time = b.has("temb") ? b.size("time_emb_proj.weight", 1) : 0;
  shape.groups = b.number("groups", 1);
  shape.epsilon = b.epsilon();
  ResidualBlock block(b.list, "", shape);
  b.loadParameters();
  const Var time = shape.time > 0 ? activate(b.c, b.tokens("temb"), Activation::silu) : Var{};
  b.finishPictures(block.forward(b.c, b.pictures("x"), grid, time), grid);
}

TextTokens contextOf(BlockCall& b, Call& call) {
  const Shape& shape = call.input("context").shape();
  require(shape.rank() == 3, "Expected 'context' as [n, tokens, width] but received ", shape.text());
  return {b.tokens("context"), shape[0], shape[1], nullptr, nullptr};
}

void runSpatialTransformer(Call& call) {
  BlockCall b(call);
  PictureGrid grid = b.grid("x", b.number("frames", 1));
  SpatialTransformer transformer(
      b.list, "",
      {b.size("proj_in.weight", 1), b.size("proj_in.weight", 0), b.number("heads", 1), b.number("groups", 1),
       b.size("transformer_blocks.0.attn2.to_k.weight", 1)});
  b.loadParameters();
  TextTokens text = contextOf(b, call);
  const Var out = transformer.forward(b.c, b.pictures("x"), grid, text);
  b.finishPictures(out, grid);
}

void runTemporalTransformer(Call& call) {
  BlockCall b(call);
  const PictureGrid grid = b.grid("x", b.number("frames", 8));
  TemporalTransformer transformer(b.list, "",
                                  {b.size("proj_in.weight", 1), b.size("proj_in.weight", 0),
                                   b.number("heads", 1), b.number("groups", 1), 0});
  b.loadParameters();
  b.finishPictures(transformer.forward(b.c, b.pictures("x"), grid), grid);
}

/// x: [sequences, length, width]
void runTransformerBlock(Call& call) {
  BlockCall b(call);
  const Shape& shape = call.input("x").shape();
  require(shape.rank() == 3, "Expected 'x' as [n, length, width] but received ", shape.text());
  TransformerBlock block(b.list, "",
                         {shape[2], shape[2], b.number("heads", 1), 1, b.size("attn2.to_k.weight", 1)});
  b.loadParameters();
  PictureGrid grid{shape[0], 1, shape[1], 1};
  TextTokens text = contextOf(b, call);
  const Var out = block.feed(b.c, block.attendPictures(b.c, b.tokens("x"), grid, text));
  b.finishTokens(out, shape);
}

/// x: [sequences, frames, width]
void runTemporalEncoder(Call& call) {
  BlockCall b(call);
  const Shape& shape = call.input("x").shape();
  require(shape.rank() == 3, "Expected 'x' as [n, frames, width] but received ", shape.text());
  const int64_t heads = b.number("heads", 1);
  TemporalEncoder encoder(b.list, "", shape[2], heads, b.size("attn1.to_q.weight", 0) / heads,
                          b.size("ff.net.0.proj.weight", 0));
  b.loadParameters();
  b.finishTokens(encoder.forward(b.c, b.tokens("x"), {shape[0], shape[1], 1, 1}), shape);
}

/// Self-attention of x, or attention to `context` where it is given, with its projections; no norm, no
/// residual.
void runAttentionLayer(Call& call) {
  BlockCall b(call);
  const Shape& shape = call.input("x").shape();
  const bool cross = b.has("context");
  const int64_t inner = b.size("to_q.weight", 0), sequences = shape[0], length = shape[1];
  LinearLayer q, kv, out;
  if (cross) {
    b.list.linear("to_q", q, inner, shape[2], false);
    b.list.stacked("", {"to_k", "to_v"}, kv, inner, b.size("to_k.weight", 1));
  } else {
    b.list.stacked("", {"to_q", "to_k", "to_v"}, kv, inner, shape[2]);
  }
  b.list.linear("to_out.0", out, shape[2], inner);
  b.loadParameters();
  const int64_t keys = cross ? call.input("context").dim(1) : length;
  auto layout = std::make_shared<AttentionLayout>();
  layout->heads = b.number("heads", 1);
  for (int64_t i = 0; i < sequences; ++i)
    layout->spans.push_back({i * length, (i + 1) * length, i * keys, (i + 1) * keys});
  const Var x = b.tokens("x");
  const Var attended = cross ? crossAttention(b.c, linear(b.c, x, q.use, nullptr),
                                              linear(b.c, b.tokens("context"), kv.use, nullptr), layout, 0.0f)
                             : selfAttention(b.c, linear(b.c, x, kv.use, nullptr), layout, 0.0f);
  b.finishTokens(linear(b.c, attended, out.use, &out.bias), shape);
}

/// Linear layers or 3x3 convolutions called `names` (joined by commas) with an activation between them;
/// attributes stride, toHeight and toWidth make it a change of size.
void runLayers(Call& call) {
  BlockCall b(call);
  std::vector<std::string> names;
  std::string rest = b.text("names", "");
  for (size_t comma; (comma = rest.find(',')) != std::string::npos; rest = rest.substr(comma + 1))
    names.push_back(rest.substr(0, comma));
  names.push_back(rest);
  const std::string kind = b.text("between", "silu");
  require(kind == "silu" || kind == "gelu",
          "Expected 'silu' or 'gelu' for attribute 'between' but received '", kind, "'");
  const Activation between = kind == "silu" ? Activation::silu : Activation::gelu;
  const Shape& shape = call.input("x").shape();
  if (shape.rank() == 4) {
    std::vector<ConvolutionLayer> layers(names.size());
    for (size_t i = 0; i < names.size(); ++i)
      b.list.convolution(names[i], layers[i], b.size(names[i] + ".weight", 0),
                         b.size(names[i] + ".weight", 1), b.size(names[i] + ".weight", 2));
    b.loadParameters();
    PictureGrid grid = b.grid("x");
    Var x = b.pictures("x");
    if (b.number("toHeight", 0) > 0) {
      x = upsampleNearest(b.c, x, grid, b.number("toHeight", 0), b.number("toWidth", 0));
      grid.height = b.number("toHeight", 0);
      grid.width = b.number("toWidth", 0);
    }
    ConvolutionOptions options;
    options.stride = b.number("stride", 1);
    for (size_t i = 0; i < layers.size(); ++i) {
      if (i > 0) x = activate(b.c, x, between);
      x = convolution(b.c, x, grid, layers[i].kernel, &layers[i].bias, options);
      grid = convolved(grid, layers[i].kernel.size, options);
    }
    b.finishPictures(x, grid);
    return;
  }
  std::vector<LinearLayer> layers(names.size());
  for (size_t i = 0; i < names.size(); ++i)
    b.list.linear(names[i], layers[i], b.size(names[i] + ".weight", 0), b.size(names[i] + ".weight", 1));
  b.loadParameters();
  Var x = b.tokens("x");
  for (size_t i = 0; i < layers.size(); ++i) {
    if (i > 0) x = activate(b.c, x, between);
    x = linear(b.c, x, layers[i].use, &layers[i].bias);
  }
  Shape outShape = shape;
  outShape[shape.rank() - 1] = x.value.columns();
  b.finishTokens(x, outShape);
}

/// GEGLU: net.0.proj, net.2.
void runGatedLayer(Call& call) {
  BlockCall b(call);
  const Shape& shape = call.input("x").shape();
  LinearLayer first, second;
  b.list.linear("net.0.proj", first, b.size("net.0.proj.weight", 0), shape[shape.rank() - 1]);
  b.list.linear("net.2", second, b.size("net.2.weight", 0), b.size("net.2.weight", 1));
  b.loadParameters();
  b.finishTokens(
      gatedFeedForward(b.c, b.tokens("x"), first.use, &first.bias, second.use, &second.bias, Var{}), shape);
}

void runResize(Call& call) {
  BlockCall b(call);
  PictureGrid grid = b.grid("x"), to = grid;
  const bool up = b.number("toHeight", 0) > 0;
  to.height = up ? b.number("toHeight", 0) : grid.height / 2;
  to.width = up ? b.number("toWidth", 0) : grid.width / 2;
  const Var x = b.pictures("x");
  b.finishPictures(up ? upsampleNearest(b.c, x, grid, to.height, to.width) : averagePool(b.c, x, grid), to);
}

}  // namespace

OpTable blockOps() {
  return {{"stiLayer", runStiLayer},
          {"residualBlock", runResidualBlock},
          {"spatialTransformer", runSpatialTransformer},
          {"temporalTransformer", runTemporalTransformer},
          {"transformerBlock", runTransformerBlock},
          {"temporalEncoder", runTemporalEncoder},
          {"attentionLayer", runAttentionLayer},
          {"layers", runLayers},
          {"gatedLayer", runGatedLayer},
          {"resize", runResize}};
}

}  // namespace duet
