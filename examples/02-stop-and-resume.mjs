// 2. A run that is stopped and continued. With a run folder every finished round is on the disk; a resumed run ends with
//    exactly the numbers of one that was never stopped. (Run example 1 first: it makes the folders data and model.)

import { DuetError, FedDat, Federation, loadClients, Vilt, vqaClients } from 'duet-train';

async function run(options) {
  const model = await Vilt.fromPretrained('model', { adapters: { reduction: 8 }, seed: 1 });
  const clients = vqaClients(model, await loadClients('data', { view: 'style', split: 'train' }));
  const strategy = new FedDat();
  const federation = new Federation({
    model,
    strategy,
    clients,
    rounds: 4,
    batchSize: 8,
    runDir: 'stopped',
    resume: options.resume,
  });
  const controller = new AbortController();
  try {
    for await (const round of federation.run({ signal: controller.signal })) {
      console.log('round', round.number, 'loss', round.metrics.loss?.toFixed(3));
      if (round.number === options.stopAfter) controller.abort();
    }
  } catch (error) {
    if (!(error instanceof DuetError && error.code === 'CANCELLED')) throw error;
    console.log('stopped');
  } finally {
    model.dispose();
  }
}

await run({ resume: false, stopAfter: 2 });
await run({ resume: true });
