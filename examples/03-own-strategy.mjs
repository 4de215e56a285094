// 3. A strategy of your own: FedAvg whose server takes the median over the clients instead of the mean, so that one broken
//    client cannot move it far. (Run example 1 first: it makes the folders data and model.)

import { FedAvg, Federation, loadClients, Vilt, vqaClients } from 'duet-train';

/** Parameters arrive as Float32Arrays by name: the server's, and what each client sent. */
class FedMedian extends FedAvg {
  aggregate(previous, updates) {
    const medians = Object.entries(previous).map(([name, values]) => {
      const sent = updates.map((update) => update.shared[name] ?? values);
      return [name, values.map((_, index) => median(sent.map((one) => one[index] ?? 0)))];
    });
    return Promise.resolve(Object.fromEntries(medians));
  }
}

function median(values) {
  const sorted = values.sort((a, b) => a - b);
  const middle = sorted.length / 2;
  const [low = 0, high = 0] = [sorted[Math.ceil(middle) - 1], sorted[Math.floor(middle)]];
  return (low + high) / 2;
}

const model = await Vilt.fromPretrained('model', { adapters: { reduction: 8 }, seed: 1 });
const clients = vqaClients(model, await loadClients('data', { view: 'function', split: 'train' }));
const federation = new Federation({ model, strategy: new FedMedian(), clients, rounds: 2, batchSize: 8 });
for await (const round of federation.run()) {
  for (const client of round.clients) console.log(round.number, client.client, client.loss.toFixed(3));
}
model.dispose();
