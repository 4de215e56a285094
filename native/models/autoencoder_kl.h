// The variational autoencoder of latent diffusion (Rombach et al., arXiv 2112.10752) as diffusers'
// AutoencoderKL: pictures to a small grid of latent values and back. Frozen; nothing is recorded on the tape.
// Pictures are worked on a few at a time, so that memory does not grow with their number.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/arena.h"
#include "models/frozen_parameters.h"
#include "nn/context.h"
#include "nn/picture_grid.h"

namespace duet {

struct AutoencoderConfig {
  int64_t inChannels = 3, outChannels = 3, latentChannels = 4;
  std::vector<int64_t> channels = {128, 256, 512, 512};  // of the levels, from the picture down
  int64_t layersPerBlock = 2;
  int64_t groups = 32;
  float scalingFactor = 0.18215f;

  /// Pixels of a picture for one latent pixel, along each side.
  int64_t reduction() const { return int64_t{1} << (channels.size() - 1); }
};

class AutoencoderKl {
 public:
  AutoencoderKl(const AutoencoderConfig& config, DType compute);
  AutoencoderKl(const AutoencoderKl&) = delete;
  AutoencoderKl& operator=(const AutoencoderKl&) = delete;

  const AutoencoderConfig& config() const { return config_; }
  /// diffusers' safetensors; the attention layers' older names are known.
  void load(const std::vector<std::string>& paths);

  // Pictures are [clips * frames, channels, height, width] in -1 .. 1, latents [clips, channels, frames,
  // height, width]; `grid` says how many and how large the pictures are.

  /// Mean and log-variance of the latents, [clips * frames, 2 * latent channels, height, width].
  std::vector<float> moments(std::span<const float> pictures, const PictureGrid& grid);
  /// scalingFactor * (mean + deviation * noise), `noise` in the shape of the latents, or empty: the mode.
  std::vector<float> encode(std::span<const float> pictures, const PictureGrid& grid,
                            std::span<const float> noise);
  /// Pictures of latents that were scaled as encode() scales them.
  std::vector<float> decode(std::span<const float> latents, const PictureGrid& grid);

  size_t parameterBytes() const { return parameters_.bytes(); }
  size_t arenaPeakBytes() const { return arena_->peakBytes(); }

 private:
  struct Residual {
    FrozenNorm norm1, norm2;
    FrozenConvolution conv1, conv2, shortcut;
    bool changesChannels = false;
  };
  struct Middle {
    Residual before, after;
    FrozenNorm norm;
    FrozenLinear qkv, out;
  };
  struct Level {
    std::vector<Residual> residuals;
    FrozenConvolution resample;  // in all levels but the last
  };
  struct Half {
    FrozenConvolution in, out;
    std::vector<Level> levels;
    Middle middle;
    FrozenNorm norm;
  };

  void declareResidual(const std::string& name, Residual& block, int64_t in, int64_t out);
  void declareMiddle(const std::string& name, Middle& middle, int64_t channels);
  void declareEnds(const std::string& name, Half& half, int64_t in, int64_t first, int64_t last, int64_t out);

  Var residual(Context& context, Residual& block, const Var& x, const PictureGrid& grid);
  Var middle(Context& context, Middle& middle, Var x, const PictureGrid& grid);
  Var outcome(Context& context, Half& half, const Var& x, const PictureGrid& grid);
  Var encodeRows(Context& context, Var x, PictureGrid grid);
  Var decodeRows(Context& context, Var x, PictureGrid grid);
  void requirePictures(const PictureGrid& grid, size_t received) const;

  AutoencoderConfig config_;
  DType compute_;
  std::shared_ptr<Arena> arena_;
  FrozenParameters parameters_;
  Half encoder_, decoder_;
  FrozenConvolution quant_, postQuant_;
};

/// Mean and deviation, each [pictures, channels, pixels], of moments [pictures, 2 * channels, pixels]; the
/// log-variance is held between -30 and 20.
void gaussianOfMoments(std::span<const float> moments, int64_t pictures, float* mean, float* deviation);

}  // namespace duet
