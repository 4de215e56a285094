// 4. A sticker network in a few lines: drawn animations, a short training, a sticker from a first frame and a caption.
//    A few steps only, so what comes out is noise; `duet quickstart` trains one for longer.
//
//    node examples/04-sticker.mjs

import { DfgnConfig, generateStickers, StickerDataset, StickerPipeline, StickerTrainer } from 'duet-train';

await generateStickers('stickers', { size: 32 });
const data = await StickerDataset.fromFolder('stickers', { frames: 8, size: 16 });
const trainer = new StickerTrainer({
  network: DfgnConfig.tiny,
  data,
  patch: 2,
  prediction: 'sample',
  steps: 6,
  batchSize: 2,
  learningRate: 2e-3,
  reportEvery: 2,
  runDir: 'sticker-run',
});
for await (const { metrics } of trainer.run())
  if (metrics) console.log(metrics.number, metrics.loss, metrics.tasks);

const pipeline = await StickerPipeline.load('sticker-run');
const sticker = await pipeline.generate({
  prompt: 'a white ghost floats',
  keep: { 0: 'stickers/ghost.webp' },
  steps: 4,
});
console.log(await sticker.save('ghost.gif', { size: 128, maxBytes: 256 * 1024 }));
pipeline.dispose();
