#include "stickers/texts.h"

#include <algorithm>

#include "core/host_access.h"

namespace duet {

namespace {

/// Texts a clip.
int64_t copiesOf(const char* what, size_t size, int64_t clips, int64_t tokens, int64_t width, bool several) {
  require(tokens >= 1, "Expected at least one token of ", what, " but received ", tokens);
  const int64_t each = clips * tokens * width, received = static_cast<int64_t>(size);
  if (!several) {
    require(received == each, "Expected ", each, " values for ", what, " but received ", received);
    return 1;
  }
  require(received >= each && received % each == 0, "Expected ", clips, " x ", tokens, " x ", width,
          " values for ", what, " or a multiple but received ", received);
  return received / each;
}

/// States of one text after another, zeros where it is dropped.
Var statesOf(Arena& arena, std::span<const float> values, int64_t tokens, int64_t width,
             std::span<const uint8_t> drop) {
  const int64_t each = tokens * width, texts = static_cast<int64_t>(values.size()) / each;
  const Tensor rows = arena.empty({texts * tokens, width});
  fillOnHost(rows, [&](float* to) {
    for (int64_t text = 0; text < texts; ++text, to += each)
      if (!drop.empty() && drop[static_cast<size_t>(text)])
        std::fill_n(to, each, 0.0f);
      else
        std::copy_n(values.data() + text * each, each, to);
  });
  return {rows, -1};
}

}  // namespace

void takeTexts(DfgnInputs& inputs, const TextBatch& batch, const DfgnConfig& config, Arena& arena,
               bool several) {
  const int64_t clips = inputs.grid.clips;
  require(
      batch.text.empty() != batch.tokens.empty(),
      "Expected either text (states of an encoder) or tokens (ids for the network's own caption encoder) but "
      "received ",
      batch.text.empty() ? "neither" : "both");
  require(batch.tokens.empty() || config.captionEncoder,
          "Expected text for a network without a caption_encoder but received tokens");
  const bool states = batch.tokens.empty();
  inputs.textTokens = batch.textTokens;
  inputs.copies =
      states ? copiesOf("text", batch.text.size(), clips, batch.textTokens, config.textWidth, several)
             : copiesOf("tokens", batch.tokens.size(), clips, batch.textTokens, 1, several);
  const int64_t texts = inputs.copies * clips;
  require(batch.drop.empty() || static_cast<int64_t>(batch.drop.size()) == texts, "Expected ", texts,
          " values for dropText but received ", batch.drop.size());
  if (states) {
    inputs.text = statesOf(arena, batch.text, batch.textTokens, config.textWidth, batch.drop);
  } else {
    CaptionTokens& captions = inputs.captions;
    captions.captions = texts;
    captions.length = batch.textTokens;
    captions.ids.assign(batch.tokens.begin(), batch.tokens.end());
    for (uint8_t dropped : batch.drop) captions.keep.push_back(dropped ? 0 : 1);
  }
  if (config.t5Width == 0) return;
  const int64_t copies = copiesOf("t5", batch.t5.size(), clips, batch.t5Tokens, config.t5Width, several);
  require(copies == inputs.copies, "Expected as many t5 texts as others but received ", copies, " and ",
          inputs.copies, " a clip");
  inputs.t5Tokens = batch.t5Tokens;
  inputs.t5 = statesOf(arena, batch.t5, batch.t5Tokens, config.t5Width, batch.drop);
}

}  // namespace duet
