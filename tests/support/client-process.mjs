// A client without a model in a process of its own: client-process.mjs <url> <number> [phase in which it kills itself].
// Its work is that of `madeHandler` in duet-server.ts.

import { setTimeout as sleep } from 'node:timers/promises';
import { DuetClient } from '../../dist/federated/server/client.js';

const [url, number, phase] = process.argv.slice(2);
const site = Number(number);
const dieIn = (now) => {
  if (phase === now) process.kill(process.pid, 'SIGKILL');
};

await DuetClient.run({
  server: url,
  name: `site${site}`,
  index: site,
  insecure: process.env.DUET_TEST_INSECURE === '1',
  handler: {
    async train({ shared, round }) {
      dieIn('training');
      await sleep(Number(process.env.DUET_TEST_WORK_MS ?? 0));
      const trained = Object.entries(shared).map(([name, values]) => [
        name,
        values.map((value, place) => value * 0.9 + Math.sin(site * 31 + round * 7 + place)),
      ]);
      if (phase === 'sending') setTimeout(dieIn, 3, 'sending');
      return {
        samples: 10 + site,
        shared: Object.fromEntries(trained),
        metrics: { loss: 1 / (site + round) },
      };
    },
    async evaluate({ round }) {
      dieIn('evaluating');
      return { samples: 4, accuracy: { shared: 1 - 1 / (round + site + 1) } };
    },
  },
  onEvent: ({ event }) => {
    if (event === 'joined') process.stdout.write('joined\n');
    if (event === 'joined') dieIn('joined');
    if (event === 'answered') dieIn('answered');
  },
});
