// A small text encoder that belongs to a frame generation network and is trained with it, for those who have
// no pretrained one. Token and learned position embeddings; layers x += attn(LN(x)); x += W2 gelu(W1 LN(x));
// a final layer norm. Id 0 is padding: it is no key anywhere, so how far a caption is padded changes nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "nn/parameter_list.h"

namespace duet {

struct CaptionEncoderConfig {
  int64_t vocabSize = 0, maxLength = 0, layers = 2, heads = 4;

  /// Throws InvalidArgument naming the field. @param width of the states
  void validate(int64_t width) const;
};

/// Token ids of some captions, each padded to the same length.
struct CaptionTokens {
  std::vector<int32_t> ids;  // captions * length; empty when there are none
  int64_t captions = 0, length = 0;
  std::vector<uint8_t> keep;  // one a caption, 0 where its states are replaced by zeros; empty: all are kept

  bool given() const { return !ids.empty(); }
  bool dropped(int64_t caption) const { return !keep.empty() && !keep[static_cast<size_t>(caption)]; }
  /// One byte a token of all texts of a clip, `before` visible ones in front of its caption. A dropped
  /// caption is visible as a whole: its states are zeros.
  std::vector<uint8_t> visible(int64_t before = 0) const;
};

class CaptionEncoder {
 public:
  static constexpr int32_t kPadding = 0;

  CaptionEncoder(ParameterList& list, const CaptionEncoderConfig& config, int64_t width);

  /// @param tokens must live until the backward pass is over @returns f32 captions * length x width
  Var forward(Context& context, const CaptionTokens& tokens);

 private:
  struct Layer {
    NormLayer norm1, norm2;
    LinearLayer qkv, out, first, second;
  };
  void check(const CaptionTokens& tokens) const;

  CaptionEncoderConfig config_;
  int64_t width_;
  Parameter tokenTable_, positionTable_;
  std::vector<std::unique_ptr<Layer>> layers_;
  NormLayer norm_;
};

}  // namespace duet
