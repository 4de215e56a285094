// 1. A federation in ten lines: FedDAT over clients whose pictures are drawn in different styles.
//    The data set is drawn and the small backbone trained first, so nothing has to be downloaded.
//
//    node examples/01-federate.mjs      (in a clone after npm run build; writes folders where it is started)

import { FedDat, Federation, generateSynthetic, loadClients, Vilt, vqaClients } from 'duet-train';
import { trainBackbone } from './backbone.mjs';

await generateSynthetic('data', {
  styles: ['poster', 'outline'],
  size: 32,
  pictures: { train: 16, val: 8 },
  neutralPictures: { train: 32, val: 8 },
});
await trainBackbone('data', 'model');

const model = await Vilt.fromPretrained('model', { adapters: { reduction: 8 }, seed: 1 });
const train = await loadClients('data', { view: 'style', split: 'train' });
const validation = await loadClients('data', { view: 'style', split: 'val' });
const clients = vqaClients(model, train, validation);
const federation = new Federation({
  model,
  strategy: new FedDat({ temperature: 3 }),
  clients,
  rounds: 3,
  batchSize: 8,
  learningRate: 2e-3,
  seed: 1,
  runDir: 'run',
});
for await (const round of federation.run()) console.log(round.number, round.metrics);
model.dispose();
