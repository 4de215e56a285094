// What the frozen text encoders share: a batch of token ids in, one state a token out. Nothing is recorded on
// the tape; texts of a batch do not see each other, so any number of them can be encoded together.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/arena.h"
#include "models/frozen_parameters.h"
#include "nn/attention.h"
#include "nn/context.h"
#include "ops/activation.h"

namespace duet {

/// B texts of L tokens each. Every position is computed, padded or not.
struct TextBatch {
  int64_t batch = 0, length = 0;
  std::span<const int32_t> inputIds;       // B x L
  std::span<const uint8_t> attentionMask;  // B x L, 0 hides a token as a key; or empty: all are seen
};

/// f32, in the encoder's arena.
struct TextStates {
  Tensor last;    // B*L x width, after the final norm
  Tensor pooled;  // B x width; CLIP alone
  std::vector<Tensor>
      hidden;           // when asked for: the embeddings, then the output of every layer before the norm
  Tensor positionBias;  // when asked for: heads x L x L; T5 alone
};

class TextEncoder {
 public:
  explicit TextEncoder(DType compute);
  virtual ~TextEncoder() = default;
  TextEncoder(const TextEncoder&) = delete;
  TextEncoder& operator=(const TextEncoder&) = delete;

  /// Hugging Face safetensors; several files are one model in parts.
  void load(const std::vector<std::string>& paths);
  /// @param everything hidden states and the like too
  TextStates encode(const TextBatch& batch, bool everything);

  size_t parameterBytes() const { return parameters_.bytes(); }
  size_t arenaPeakBytes() const { return arena_->peakBytes(); }

 protected:
  /// Our name of a tensor in a file, see FrozenParameters::Rename.
  virtual std::optional<std::string> nameOf(const std::string& inFile) const = 0;
  virtual TextStates forward(Context& context, const TextBatch& batch, bool everything) = 0;

  FrozenParameters parameters_;
  int64_t vocabSize_ = 0;
  int64_t longest_ = 0;  // positions there are embeddings for; 0 for any number

 private:
  DType compute_;
  std::shared_ptr<Arena> arena_;
};

/// One sequence a text, with the batch's mask.
std::shared_ptr<AttentionLayout> textLayout(const TextBatch& batch, int64_t heads);
/// 0 .. L-1, text after text.
std::vector<int32_t> textPositions(const TextBatch& batch);

/// Throws InvalidArgument: "Expected an integer of at least 1 for layers but received 0".
void requireAtLeast(const char* field, int64_t value, int64_t least);

}  // namespace duet
