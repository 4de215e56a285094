// The sizes of a discrete frame generation network (RDTF, arXiv 2503.17735) and what its forward pass takes.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "models/caption_encoder.h"
#include "nn/sti_layer.h"

namespace duet {

/// Defaults are the published network's; names in comments are those of its config.json.
struct DfgnConfig {
  int64_t channels = 4;  // in_channels, out_channels: 4 latents, or 3 or 4 pixels
  std::vector<int64_t> blockChannels = {320, 640, 1024, 1280};  // block_out_channels
  int64_t layersPerBlock = 2;                                   // layers_per_block
  int64_t normGroups = 32;                                      // norm_num_groups
  int64_t textWidth = 1024;                                     // cross_attention_dim
  int64_t t5Width = 768;                                        // t5_dim; 0: no second text encoder
  int64_t headSize = 64;                                        // attention_head_dim
  int64_t frames = 8;
  StiVariant sti = StiVariant::interaction;
  bool maskPadding = false;
  std::optional<CaptionEncoderConfig> captionEncoder;  // its own text encoder, of states of textWidth

  int64_t levels() const { return static_cast<int64_t>(blockChannels.size()); }
  int64_t timeWidth() const { return 4 * blockChannels.front(); }
  /// Throws InvalidArgument naming the field, what was expected and what was received.
  void validate() const;
  /// Throws InvalidArgument when the deepest level would be smaller than 2 x 2.
  void checkSize(int64_t height, int64_t width) const;
};

}  // namespace duet
