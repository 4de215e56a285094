// The backbone of the examples: a ViLT of two layers, trained on the neutral style for a few seconds.

import {
  AnswerVocabulary,
  encodersOf,
  loadPart,
  Pretraining,
  Tokenizer,
  Vilt,
  VqaSource,
  viltPreset,
} from 'duet-train';

/** Trains on the part `plain` of a data folder and writes a model folder. */
export async function trainBackbone(data, folder) {
  const train = await loadPart(data, 'plain', 'train');
  const tokenizer = Tokenizer.fromTexts(train.samples.map((sample) => sample.question));
  const answers = await AnswerVocabulary.load(`${data}/answers.json`);
  const config = viltPreset('tiny', {
    vocab_size: tokenizer.size,
    image_size: 32,
    hidden_size: 32,
    max_position_embeddings: 24,
  });
  const model = Vilt.create(config, { tokenizer, answers, seed: 1 });
  const source = new VqaSource(train.forTraining(answers), encodersOf(model));
  const pretraining = new Pretraining({ model, train: source, epochs: 3, batchSize: 16, learningRate: 2e-3 });
  for await (const epoch of pretraining.run())
    console.log('epoch', epoch.number, 'loss', epoch.metrics.loss.toFixed(2));
  await model.save(folder);
  model.dispose();
}
