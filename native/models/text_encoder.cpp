#include "models/text_encoder.h"

#include "ops/kernels.h"

namespace duet {

TextEncoder::TextEncoder(DType compute) : compute_(compute), arena_(Arena::create()) {
  if (compute == DType::bf16 && !backend().product.supports(DType::bf16))
    fail(Code::Unsupported,
         "Expected fp32 for compute on this machine but received bf16, which needs a processor with AVX-512");
}

void TextEncoder::load(const std::vector<std::string>& paths) {
  parameters_.load(paths, [this](const std::string& name) { return nameOf(name); });
}

TextStates TextEncoder::encode(const TextBatch& batch, bool everything) {
  parameters_.requireLoaded();
  requireAtLeast("batch", batch.batch, 1);
  requireAtLeast("length", batch.length, 1);
  require(longest_ == 0 || batch.length <= longest_, "Expected texts of at most ", longest_,
          " tokens, for which there are positions, but received ", batch.length);
  const auto tokens = static_cast<size_t>(batch.batch * batch.length);
  require(batch.inputIds.size() == tokens, "Expected ", batch.batch, " x ", batch.length,
          " values for inputIds but received ", batch.inputIds.size());
  require(batch.attentionMask.empty() || batch.attentionMask.size() == tokens, "Expected ", batch.batch,
          " x ", batch.length, " values for attentionMask but received ", batch.attentionMask.size());
  for (int32_t id : batch.inputIds)
    require(id >= 0 && id < vocabSize_, "Expected token ids from 0 to below ", vocabSize_, " but received ",
            id, "; use the tokenizer that belongs to the model");
  Tape tape(arena_, false);
  Context context{tape, compute_};
  return forward(context, batch, everything);
}

std::shared_ptr<AttentionLayout> textLayout(const TextBatch& batch, int64_t heads) {
  auto layout = std::make_shared<AttentionLayout>();
  layout->heads = heads;
  for (int64_t i = 0; i < batch.batch; ++i) {
    const int64_t begin = i * batch.length, end = begin + batch.length;
    layout->spans.push_back({begin, end, begin, end});
  }
  layout->keyMask.assign(batch.attentionMask.begin(), batch.attentionMask.end());
  return layout;
}

std::vector<int32_t> textPositions(const TextBatch& batch) {
  std::vector<int32_t> positions(static_cast<size_t>(batch.batch * batch.length));
  for (size_t i = 0; i < positions.size(); ++i)
    positions[i] = static_cast<int32_t>(i % static_cast<size_t>(batch.length));
  return positions;
}

void requireAtLeast(const char* field, int64_t value, int64_t least) {
  require(value >= least, "Expected an integer of at least ", least, " for ", field, " but received ", value);
}

}  // namespace duet
