#include "models/autoencoder_kl.h"

#include <algorithm>
#include <cmath>

#include "core/cancel.h"
#include "core/host_access.h"
#include "nn/attention.h"
#include "nn/convolution.h"
#include "nn/gated.h"
#include "nn/group_norm.h"
#include "nn/linear.h"
#include "nn/resample.h"
#include "ops/kernels.h"

namespace duet {

namespace {

constexpr float kEpsilon = 1e-6f;
/// Pictures are worked on together up to this many pixels: one of 256 x 256, or 16 of 64 x 64.
constexpr int64_t kPixelsAtOnce = int64_t{1} << 16;

/// The number of a plane (one channel of one frame of one clip) in one of the two layouts.
enum class Planes { pictures, latents };
int64_t planeOf(Planes layout, const PictureGrid& grid, int64_t channels, int64_t picture, int64_t channel) {
  if (layout == Planes::pictures) return picture * channels + channel;
  const int64_t clip = picture / grid.frames, frame = picture % grid.frames;
  return (clip * channels + channel) * grid.frames + frame;
}

/// Some pictures of `grid` as rows of pixels, channels last.
Tensor toRows(Tape& tape, std::span<const float> from, Planes layout, const PictureGrid& grid,
              int64_t channels, int64_t first, int64_t count) {
  const int64_t pixels = grid.pixels();
  Tensor rows = tape.empty({count * pixels, channels});
  fillOnHost(rows, [&](float* row) {
    for (int64_t i = 0; i < count; ++i)
      for (int64_t c = 0; c < channels; ++c) {
        const float* plane = from.data() + planeOf(layout, grid, channels, first + i, c) * pixels;
        for (int64_t p = 0; p < pixels; ++p) row[(i * pixels + p) * channels + c] = plane[p];
      }
  });
  return rows;
}

/// The way back: `channels` columns from `column` on become planes.
void fromRows(const Tensor& rows, int64_t column, std::span<float> to, Planes layout, const PictureGrid& grid,
              int64_t channels, int64_t first, int64_t count) {
  const int64_t pixels = grid.pixels(), width = rows.columns();
  readOnHost(rows, [&](const float* row) {
    for (int64_t i = 0; i < count; ++i)
      for (int64_t c = 0; c < channels; ++c) {
        float* plane = to.data() + planeOf(layout, grid, channels, first + i, c) * pixels;
        for (int64_t p = 0; p < pixels; ++p) plane[p] = row[(i * pixels + p) * width + column + c];
      }
  });
}

/// Calls work(first picture, number of pictures) for all pictures, some at a time.
template <typename Work>
void inParts(const PictureGrid& grid, int64_t pixels, Work work) {
  const int64_t atOnce = std::max<int64_t>(1, kPixelsAtOnce / pixels);
  for (int64_t first = 0; first < grid.pictures(); first += atOnce)
    work(first, std::min(atOnce, grid.pictures() - first));
}

Var convolve(Context& c, FrozenConvolution& layer, const Var& x, const PictureGrid& grid,
             const ConvolutionOptions& options = {}) {
  return convolution(c, cast(c, x, c.compute), grid, layer.kernel, &layer.bias, options);
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

/// Today's name of an attention layer that older files call query, key, value and proj_attn.
std::string currentName(std::string name) {
  if (name.find(".attentions.") == std::string::npos) return name;
  for (const auto& [old, now] : {std::pair{".query.", ".to_q."},
                                 {".key.", ".to_k."},
                                 {".value.", ".to_v."},
                                 {".proj_attn.", ".to_out.0."}})
    name = replaced(std::move(name), old, now);
  return name;
}

float deviationOf(float logVariance) { return std::exp(0.5f * std::clamp(logVariance, -30.0f, 20.0f)); }

}  // namespace

AutoencoderKl::AutoencoderKl(const AutoencoderConfig& config, DType compute)
    : config_(config), compute_(compute), arena_(Arena::create()) {
  if (compute == DType::bf16 && !backend().product.supports(DType::bf16))
    fail(Code::Unsupported,
         "Expected fp32 for compute on this machine but received bf16, which needs a processor with AVX-512");
  const std::vector<int64_t>& channels = config.channels;
  require(!channels.empty() && channels.size() <= 8,
          "Expected 1 to 8 levels for block_out_channels but received ", channels.size());
  for (int64_t width : channels)
    require(width > 0 && width % config.groups == 0,
            "Expected block_out_channels divisible by norm_num_groups ", config.groups, " but received ",
            width);
  const auto levels = static_cast<int64_t>(channels.size()), latent = config.latentChannels;
  declareEnds("encoder", encoder_, config.inChannels, channels.front(), channels.back(), 2 * latent);
  declareEnds("decoder", decoder_, latent, channels.back(), channels.front(), config.outChannels);
  parameters_.convolution("quant_conv", quant_, 2 * latent, 2 * latent, 1);
  parameters_.convolution("post_quant_conv", postQuant_, latent, latent, 1);

  encoder_.levels.resize(channels.size());
  decoder_.levels.resize(channels.size());
  int64_t down = channels.front(), up = channels.back();
  for (int64_t i = 0; i < levels; ++i) {
    const auto index = static_cast<size_t>(i);
    const bool last = i + 1 == levels;
    const auto declare = [&](const std::string& name, const std::string& resample, Level& level,
                             int64_t blocks, int64_t in, int64_t out) {
      level.residuals.resize(static_cast<size_t>(blocks));
      for (int64_t j = 0; j < blocks; ++j)
        declareResidual(name + ".resnets." + std::to_string(j), level.residuals[static_cast<size_t>(j)],
                        j == 0 ? in : out, out);
      if (!last) parameters_.convolution(name + resample, level.resample, out, out, 3);
    };
    const int64_t nextDown = channels[index], nextUp = channels[channels.size() - 1 - index];
    declare("encoder.down_blocks." + std::to_string(i), ".downsamplers.0.conv", encoder_.levels[index],
            config.layersPerBlock, down, nextDown);
    declare("decoder.up_blocks." + std::to_string(i), ".upsamplers.0.conv", decoder_.levels[index],
            config.layersPerBlock + 1, up, nextUp);
    down = nextDown;
    up = nextUp;
  }
  declareMiddle("encoder.mid_block", encoder_.middle, channels.back());
  declareMiddle("decoder.mid_block", decoder_.middle, channels.back());
}

void AutoencoderKl::declareEnds(const std::string& name, Half& half, int64_t in, int64_t first, int64_t last,
                                int64_t out) {
  parameters_.convolution(name + ".conv_in", half.in, first, in, 3);
  parameters_.norm(name + ".conv_norm_out", half.norm, last);
  parameters_.convolution(name + ".conv_out", half.out, out, last, 3);
}

void AutoencoderKl::declareResidual(const std::string& name, Residual& block, int64_t in, int64_t out) {
  parameters_.norm(name + ".norm1", block.norm1, in);
  parameters_.convolution(name + ".conv1", block.conv1, out, in, 3);
  parameters_.norm(name + ".norm2", block.norm2, out);
  parameters_.convolution(name + ".conv2", block.conv2, out, out, 3);
  block.changesChannels = in != out;
  if (block.changesChannels) parameters_.convolution(name + ".conv_shortcut", block.shortcut, out, in, 1);
}

void AutoencoderKl::declareMiddle(const std::string& name, Middle& middle, int64_t channels) {
  const std::string attention = name + ".attentions.0.";
  declareResidual(name + ".resnets.0", middle.before, channels, channels);
  parameters_.norm(attention + "group_norm", middle.norm, channels);
  parameters_.linear({attention + "to_q", attention + "to_k", attention + "to_v"}, middle.qkv, channels,
                     channels);
  parameters_.linear({attention + "to_out.0"}, middle.out, channels, channels);
  declareResidual(name + ".resnets.1", middle.after, channels, channels);
}

void AutoencoderKl::load(const std::vector<std::string>& paths) { parameters_.load(paths, currentName); }

Var AutoencoderKl::residual(Context& c, Residual& block, const Var& x, const PictureGrid& grid) {
  cancelPoint();
  GroupNormOptions options{config_.groups, kEpsilon, true};
  options.outType = c.compute;
  Var h = groupNorm(c, x, grid, block.norm1.weight, block.norm1.bias, options);
  h = convolve(c, block.conv1, h, grid);
  h = groupNorm(c, h, grid, block.norm2.weight, block.norm2.bias, options);
  const Var identity = block.changesChannels ? convolve(c, block.shortcut, x, grid) : x;
  return convolve(c, block.conv2, h, grid, {1, ConvolutionPadding::same, &identity});
}

/// A residual block, attention of every pixel to all of its picture with one head of full width, another
/// block.
Var AutoencoderKl::middle(Context& c, Middle& m, Var x, const PictureGrid& grid) {
  x = residual(c, m.before, x, grid);
  auto layout = std::make_shared<AttentionLayout>();
  for (int64_t i = 0; i < grid.pictures(); ++i) {
    const int64_t begin = i * grid.pixels(), end = begin + grid.pixels();
    layout->spans.push_back({begin, end, begin, end});
  }
  GroupNormOptions options{config_.groups, kEpsilon};
  options.outType = c.compute;
  const Var normed = groupNorm(c, x, grid, m.norm.weight, m.norm.bias, options);
  const Var qkv = linear(c, normed, m.qkv.use, &m.qkv.bias, {Activation::none, nullptr, c.compute});
  const Var attended = selfAttention(c, qkv, layout, 0);
  x = linear(c, attended, m.out.use, &m.out.bias, {Activation::none, &x, DType::f32});
  return residual(c, m.after, x, grid);
}

Var AutoencoderKl::outcome(Context& c, Half& half, const Var& x, const PictureGrid& grid) {
  GroupNormOptions options{config_.groups, kEpsilon, true};
  options.outType = c.compute;
  return convolve(c, half.out, groupNorm(c, x, grid, half.norm.weight, half.norm.bias, options), grid);
}

Var AutoencoderKl::encodeRows(Context& c, Var x, PictureGrid grid) {
  x = convolve(c, encoder_.in, x, grid);
  for (Level& level : encoder_.levels) {
    for (Residual& block : level.residuals) x = residual(c, block, x, grid);
    if (&level == &encoder_.levels.back()) break;
    const ConvolutionOptions halving{2, ConvolutionPadding::rightBottom};
    x = convolve(c, level.resample, x, grid, halving);
    grid = convolved(grid, 3, halving);
  }
  x = middle(c, encoder_.middle, x, grid);
  return convolve(c, quant_, outcome(c, encoder_, x, grid), grid);
}

Var AutoencoderKl::decodeRows(Context& c, Var x, PictureGrid grid) {
  x = convolve(c, decoder_.in, convolve(c, postQuant_, x, grid), grid);
  x = middle(c, decoder_.middle, x, grid);
  for (Level& level : decoder_.levels) {
    for (Residual& block : level.residuals) x = residual(c, block, x, grid);
    if (&level == &decoder_.levels.back()) break;
    x = upsampleNearest(c, cast(c, x, c.compute), grid, 2 * grid.height, 2 * grid.width);
    grid.height *= 2;
    grid.width *= 2;
    x = convolve(c, level.resample, x, grid);
  }
  return outcome(c, decoder_, x, grid);
}

void AutoencoderKl::requirePictures(const PictureGrid& grid, size_t received) const {
  parameters_.requireLoaded();
  const int64_t unit = config_.reduction();
  require(grid.clips >= 1 && grid.frames >= 1 && grid.height >= 1 && grid.width >= 1,
          "Expected at least one clip, frame and pixel but received ", grid.clips, ", ", grid.frames, " and ",
          grid.height, "x", grid.width);
  require(grid.height % unit == 0 && grid.width % unit == 0,
          "Expected pictures whose sides are multiples of ", unit, " but received ", grid.height, "x",
          grid.width);
  const auto wanted = static_cast<size_t>(grid.rows() * config_.inChannels);
  require(received == wanted, "Expected ", wanted, " values for ", grid.pictures(), " pictures of ",
          config_.inChannels, " x ", grid.height, " x ", grid.width, " but received ", received);
}

std::vector<float> AutoencoderKl::moments(std::span<const float> pictures, const PictureGrid& grid) {
  requirePictures(grid, pictures.size());
  const int64_t unit = config_.reduction(), channels = 2 * config_.latentChannels;
  const PictureGrid small{grid.clips, grid.frames, grid.height / unit, grid.width / unit};
  std::vector<float> result(static_cast<size_t>(small.rows() * channels));
  inParts(grid, grid.pixels(), [&](int64_t first, int64_t count) {
    cancelPoint();
    Tape tape(arena_, false);
    Context c{tape, compute_};
    const Var rows{toRows(tape, pictures, Planes::pictures, grid, config_.inChannels, first, count), -1};
    const Var made = encodeRows(c, rows, {1, count, grid.height, grid.width});
    fromRows(made.value, 0, result, Planes::pictures, small, channels, first, count);
  });
  return result;
}

std::vector<float> AutoencoderKl::encode(std::span<const float> pictures, const PictureGrid& grid,
                                         std::span<const float> noise) {
  const int64_t unit = config_.reduction(), channels = config_.latentChannels;
  const PictureGrid small{grid.clips, grid.frames, grid.height / unit, grid.width / unit};
  const int64_t pixels = small.pixels();
  const auto size = static_cast<size_t>(small.rows() * channels);
  require(noise.empty() || noise.size() == size, "Expected ", size,
          " values of noise, one a latent value, but ", "received ", noise.size());
  const std::vector<float> found = moments(pictures, grid);
  std::vector<float> latents(size);
  for (int64_t picture = 0; picture < small.pictures(); ++picture)
    for (int64_t channel = 0; channel < channels; ++channel) {
      const float* mean = found.data() + (picture * 2 * channels + channel) * pixels;
      const float* logVariance = mean + channels * pixels;
      const int64_t plane = planeOf(Planes::latents, small, channels, picture, channel) * pixels;
      for (int64_t i = 0; i < pixels; ++i) {
        const auto at = static_cast<size_t>(plane + i);
        const float sample = noise.empty() ? mean[i] : mean[i] + deviationOf(logVariance[i]) * noise[at];
        latents[at] = config_.scalingFactor * sample;
      }
    }
  return latents;
}

std::vector<float> AutoencoderKl::decode(std::span<const float> latents, const PictureGrid& grid) {
  requirePictures(grid, static_cast<size_t>(grid.rows() * config_.inChannels));
  const int64_t unit = config_.reduction(), channels = config_.latentChannels;
  const PictureGrid small{grid.clips, grid.frames, grid.height / unit, grid.width / unit};
  const auto wanted = static_cast<size_t>(small.rows() * channels);
  require(latents.size() == wanted, "Expected ", wanted, " latent values for ", grid.pictures(),
          " pictures of ", grid.height, "x", grid.width, " but received ", latents.size());
  std::vector<float> pictures(static_cast<size_t>(grid.rows() * config_.outChannels));
  inParts(grid, grid.pixels(), [&](int64_t first, int64_t count) {
    cancelPoint();
    Tape tape(arena_, false);
    Context c{tape, compute_};
    const Var rows{toRows(tape, latents, Planes::latents, small, channels, first, count), -1};
    const float factor = 1.0f / config_.scalingFactor;
    backend().elementwise.scale(rows.value.f32(), factor, rows.value.f32(), rows.value.elements(), false);
    const Var made = decodeRows(c, rows, {1, count, small.height, small.width});
    fromRows(made.value, 0, pictures, Planes::pictures, grid, config_.outChannels, first, count);
  });
  return pictures;
}

void gaussianOfMoments(std::span<const float> moments, int64_t pictures, float* mean, float* deviation) {
  const auto half = static_cast<int64_t>(moments.size()) / (2 * pictures);
  for (int64_t picture = 0; picture < pictures; ++picture)
    for (int64_t i = 0; i < half; ++i) {
      const float* from = moments.data() + picture * 2 * half;
      mean[picture * half + i] = from[i];
      deviation[picture * half + i] = deviationOf(from[half + i]);
    }
}

}  // namespace duet
