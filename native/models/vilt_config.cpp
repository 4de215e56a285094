#include "models/vilt_config.h"

#include "core/error.h"

namespace duet {

namespace {
void atLeast(const char* field, int64_t value, int64_t least) {
  require(value >= least, "Expected an integer of at least ", least, " for ", field, " but received ", value);
}
void probability(const char* field, float value) {
  require(value >= 0.0f && value < 1.0f, "Expected a probability from 0 to below 1 for ", field,
          " but received ", value);
}
}  // namespace

void ViltConfig::validate() const {
  atLeast("vocabSize", vocabSize, 1);
  atLeast("typeVocabSize", typeVocabSize, 1);
  atLeast("maxPositionEmbeddings", maxPositionEmbeddings, 2);
  atLeast("hiddenSize", hiddenSize, 1);
  atLeast("layers", layers, 1);
  atLeast("heads", heads, 1);
  atLeast("intermediateSize", intermediateSize, 1);
  atLeast("patchSize", patchSize, 1);
  atLeast("imageSize", imageSize, patchSize);
  atLeast("channels", channels, 1);
  atLeast("modalityTypes", modalityTypes, 2);
  require(hiddenSize % heads == 0, "Expected hiddenSize divisible by heads but received ", hiddenSize,
          " and ", heads);
  require(layerNormEps > 0.0f, "Expected a positive layerNormEps but received ", layerNormEps);
  probability("hiddenDropout", hiddenDropout);
  probability("attentionDropout", attentionDropout);
}

}  // namespace duet
