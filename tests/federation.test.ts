// The round loop: who trains, what travels, what is averaged, what is reported, what a failure costs.

import { describe, expect, test } from 'vitest';
import { FixedBatches, type LabelledBatch } from '../src/federated/batch-source.js';
import type { FederatedClient } from '../src/federated/client.js';
import type { Progress } from '../src/federated/report.js';
import { FedDat } from '../src/federated/strategies/feddat.js';
import type { ClientUpdate } from '../src/federated/strategies/strategy.js';
import { isAdapter, isHeadOf } from '../src/models/names.js';
import type { Tensors } from '../src/native/core.js';
import {
  allRounds,
  madeBatch,
  temporaryFolder,
  tinyClients,
  tinyFederation,
  tinyModel,
  withoutTiming,
} from './federation-support.js';

/** FedDAT that remembers what clients sent. */
class WatchedFedDat extends FedDat {
  updates: readonly ClientUpdate[] = [];

  override aggregate(previous: Tensors, updates: readonly ClientUpdate[]): Promise<Tensors> {
    this.updates = updates;
    return super.aggregate(previous, updates);
  }
}

/** A source whose given batch (from 0) throws or is replaced. */
class Disturbed extends FixedBatches {
  readonly #at: number;
  readonly #what: () => LabelledBatch;
  #seen = 0;

  constructor(batches: LabelledBatch[], at: number, what: () => LabelledBatch) {
    super(batches);
    this.#at = at;
    this.#what = what;
  }

  override async *batches(options: {
    batchSize: number;
    signal?: AbortSignal;
  }): AsyncGenerator<LabelledBatch> {
    for await (const batch of super.batches(options)) yield this.#seen++ === this.#at ? this.#what() : batch;
  }
}

function failing(name: string, at = 0): FederatedClient {
  const broken = (): never => {
    throw new Error('the disk of this client is gone');
  };
  return { name, train: new Disturbed([madeBatch(1), madeBatch(2)], at, broken) };
}

describe('a round', () => {
  test('averages adapter_1 by sample counts, fp32, in client order; nothing else travels', async () => {
    const strategy = new WatchedFedDat();
    const federation = tinyFederation({ strategy, rounds: 1 });
    const [report] = await allRounds(federation);
    const [first, second] = strategy.updates;
    expect([first?.samples, second?.samples]).toEqual([4, 6]);
    const { shared } = await federation.tensors(federation.clients[0]!);
    expect(Object.keys(shared).length).toBe(2 * 4);
    let bytes = 0;
    for (const [name, mean] of Object.entries(shared)) {
      expect(isAdapter(name, 'adapter_1')).toBe(true);
      bytes += mean.length * 4;
      const [a, b] = [first!.shared[name]!, second!.shared[name]!];
      const expected = mean.map((_, i) =>
        Math.fround(Math.fround(a[i]! * Math.fround(0.4)) + Math.fround(b[i]! * Math.fround(0.6))),
      );
      for (let i = 0; i < mean.length; i++) expect(Math.abs(mean[i]! - expected[i]!)).toBeLessThan(1e-7);
    }
    expect(report!.bytes).toEqual({ up: 2 * bytes, down: 2 * bytes });
  });

  test('uniform weights, as published', async () => {
    const strategy = new WatchedFedDat({ weights: 'uniform' });
    const federation = tinyFederation({ strategy, rounds: 1 });
    await allRounds(federation);
    const { shared } = await federation.tensors(federation.clients[0]!);
    const [name, mean] = Object.entries(shared)[0]!;
    const [a, b] = strategy.updates.map((update) => update.shared[name]!);
    for (let i = 0; i < mean.length; i++) expect(mean[i]).toBeCloseTo((a![i]! + b![i]!) / 2, 6);
  });

  test('keeps adapter_0 and the head of each client apart, and trains them', async () => {
    const federation = tinyFederation({ rounds: 1 });
    const before = await federation.model.read(federation.model.tunable);
    await allRounds(federation);
    const [a, b] = await Promise.all(federation.clients.map((client) => federation.tensors(client)));
    for (const name of Object.keys(a!.personal)) {
      expect(isAdapter(name, 'adapter_0') || isHeadOf(name, 'vqa')).toBe(true);
      expect(a!.personal[name]).not.toEqual(b!.personal[name]);
      expect(a!.personal[name]).not.toEqual(before[name]);
    }
  });

  test('reports losses, accuracies, question types and times', async () => {
    const federation = tinyFederation({ rounds: 1 });
    const [report] = await allRounds(federation);
    expect(report).toMatchObject({ number: 1, strategy: 'feddat', failures: [] });
    expect(report!.clients.map((client) => client.batches)).toEqual([2, 3]);
    expect(Object.keys(report!.clients[0]!.losses)).toEqual(['bce1', 'kl1', 'loss1', 'bce0', 'kl0', 'loss0']);
    const [first, second] = report!.evaluation!.clients;
    for (const name of ['gated', 'local', 'shared']) {
      expect(report!.metrics.accuracy![name]).toBeCloseTo(
        (first!.accuracy[name]! + second!.accuracy[name]!) / 2,
        12,
      );
    }
    const types = report!.evaluation!.questionTypes!;
    expect(types.even!.samples + types.odd!.samples).toBe(12);
    expect(report!.timing.seconds).toBeGreaterThanOrEqual(report!.timing.trainSeconds);
  });

  test('progress names what is going on', async () => {
    const seen: Progress[] = [];
    await allRounds(tinyFederation({ rounds: 1, onProgress: (progress) => seen.push(progress) }));
    expect(seen.filter((progress) => progress.phase === 'training')).toHaveLength(5);
    expect(seen[0]).toMatchObject({
      strategy: 'feddat',
      round: 1,
      rounds: 1,
      client: 'client0',
      batch: 1,
      batches: 2,
    });
  });
});

describe('the same numbers', () => {
  test('for the same seed', async () => {
    const [a, b] = [await allRounds(tinyFederation()), await allRounds(tinyFederation())];
    expect(withoutTiming(a)).toEqual(withoutTiming(b));
  });

  test('whatever was run before on another model', async () => {
    const alone = withoutTiming(await allRounds(tinyFederation()));
    await allRounds(tinyFederation({ seed: 9, model: tinyModel(9) }));
    expect(withoutTiming(await allRounds(tinyFederation()))).toEqual(alone);
  });
});

describe('the model', () => {
  test('has its initial adapters and heads again after a run, so that strategies can be compared on it', async () => {
    const federation = tinyFederation();
    const { model } = federation;
    const before = await model.read(model.names());
    const first = await allRounds(federation);
    expect(await model.read(model.names())).toEqual(before);
    expect(withoutTiming(await allRounds(tinyFederation({ model })))).toEqual(withoutTiming(first));
  });

  test('may be disposed of while a run stands still', async () => {
    const federation = tinyFederation();
    const rounds = federation.run();
    await rounds.next();
    federation.model.dispose();
    await expect(rounds.next()).rejects.toThrow(/disposed/);
  });
});

describe('evaluation', () => {
  test('every few rounds and after the last, and before the first when asked', async () => {
    const reports = await allRounds(tinyFederation({ rounds: 5, evaluation: { every: 2, before: true } }));
    expect(reports.map((report) => report.number)).toEqual([0, 1, 2, 3, 4, 5]);
    const evaluated = reports.filter((report) => report.evaluation);
    expect(evaluated.map((report) => report.number)).toEqual([0, 2, 4, 5]);
    expect(reports[0]!.clients).toEqual([]);
  });

  test('gated: with the adapter the client received, or with the new aggregate', async () => {
    const logits = async (gatedWith: 'received' | 'aggregate') => {
      const federation = tinyFederation({ strategy: new FedDat({ gatedWith }), rounds: 1 });
      const { model } = federation;
      const initial = await model.read(model.names((name) => isAdapter(name, 'adapter_1')));
      await allRounds(federation);
      const [client] = federation.clients;
      await federation.load(client!);
      const adapter2 = await model.read(model.names((name) => isAdapter(name, 'adapter_2')));
      const { shared } = await federation.tensors(client!);
      const same = (wanted: Tensors) =>
        Object.entries(wanted).every(([name, values]) =>
          Buffer.from(values.buffer).equals(
            Buffer.from(adapter2[name.replace('adapter_1', 'adapter_2')]!.buffer),
          ),
        );
      return { isReceived: same(initial), isAggregate: same(shared) };
    };
    expect(await logits('received')).toEqual({ isReceived: true, isAggregate: false });
    expect(await logits('aggregate')).toEqual({ isReceived: false, isAggregate: true });
  });
});

describe('a client that throws', () => {
  test('costs its share of the round, not the run', async () => {
    const federation = tinyFederation({ clients: [...tinyClients(2), failing('broken', 1)], rounds: 2 });
    const [first, second] = await allRounds(federation);
    expect(first!.failures).toEqual([
      { client: 'broken', during: 'training', code: 'INTERNAL', message: 'the disk of this client is gone' },
    ]);
    expect(first!.clients.map((client) => client.client)).toEqual(['client0', 'client1']);
    // It works again in the next round.
    expect(second!.failures).toEqual([]);
    expect(second!.clients).toHaveLength(3);
  });

  test('leaves the others as they would be without it', async () => {
    const alone = tinyFederation({ clients: tinyClients(2), rounds: 1 });
    const together = tinyFederation({ clients: [...tinyClients(2), failing('broken', 1)], rounds: 1 });
    await allRounds(alone);
    await allRounds(together);
    expect((await together.tensors(together.clients[0]!)).shared).toEqual(
      (await alone.tensors(alone.clients[0]!)).shared,
    );
  });

  test('ends the run when fewer succeed than the quorum', async () => {
    const clients = [...tinyClients(2), failing('broken')];
    await expect(allRounds(tinyFederation({ clients, quorum: 0.9 }))).rejects.toMatchObject({
      message: expect.stringMatching(
        /at least 3 of 3 clients to succeed in round 1 but only 2 did; client broken/,
      ),
    });
  });

  test('is not what onProgress throws: that ends the run as it is', async () => {
    let told = 0;
    const thrown = new Error('the screen is gone');
    const onProgress = () => {
      if (++told === 3) throw thrown;
    };
    await expect(allRounds(tinyFederation({ onProgress }))).rejects.toBe(thrown);
  });

  test('is not what aggregate makes of the updates: its names and lengths are those of before', async () => {
    const lacking = (made: Tensors) => {
      const strategy = new FedDat();
      strategy.aggregate = async () => made;
      return allRounds(tinyFederation({ strategy }));
    };
    await expect(lacking({})).rejects.toThrow(
      /Expected \d+ values of \S*adapter_1\S* from aggregate of strategy \S+ but received none/,
    );
    const { shared } = await (async () => {
      const federation = tinyFederation({ rounds: 1 });
      await allRounds(federation);
      return federation.tensors(federation.clients[0]!);
    })();
    await expect(lacking({ ...shared, a: new Float32Array(1) })).rejects.toThrow(
      /Expected none of a from aggregate of strategy \S+ but received 1 values/,
    );
  });

  test('ends the run when nobody succeeds', async () => {
    await expect(allRounds(tinyFederation({ clients: [failing('broken')] }))).rejects.toThrow(
      /at least 1 of 1/,
    );
  });
});

describe('a loss that is not finite', () => {
  test('stops the run and names client, round and batch', async () => {
    const poisoned = madeBatch(3);
    poisoned.pixelValues[5] = Number.NaN;
    const train = new Disturbed([madeBatch(1), madeBatch(2), madeBatch(3)], 4, () => poisoned);
    const clients = [...tinyClients(1), { name: 'sick', train }];
    const runDir = await temporaryFolder();
    await expect(allRounds(tinyFederation({ clients, rounds: 3, runDir }))).rejects.toMatchObject({
      code: 'NOT_FINITE',
      message: expect.stringMatching(
        /client sick, round 2, batch 2 of 3.*; the run up to round 1 is kept in/,
      ),
    });
  });

  test('in the first round leaves nothing to keep, and says so', async () => {
    const poisoned = madeBatch(3);
    poisoned.pixelValues[5] = Number.NaN;
    const clients = [{ name: 'sick', train: new FixedBatches([poisoned]) }];
    const runDir = await temporaryFolder();
    await expect(allRounds(tinyFederation({ clients, runDir }))).rejects.toMatchObject({
      code: 'NOT_FINITE',
      message: expect.stringMatching(/round 1, batch 1 of 1: .*; no round was done before it$/),
    });
  });
});

describe('logits that are not finite', () => {
  test('stop the run, with client and round', async () => {
    const poisoned = madeBatch(3);
    poisoned.pixelValues.fill(Number.NaN);
    const clients = tinyClients(1).map((client) => ({ ...client, evaluation: new FixedBatches([poisoned]) }));
    await expect(allRounds(tinyFederation({ clients }))).rejects.toMatchObject({
      code: 'NOT_FINITE',
      message: expect.stringMatching(/^Client client0, round 1: Expected finite logits/),
    });
  });
});

describe('an AbortSignal', () => {
  test('stops between two steps; the federation continues from its last round', async () => {
    const controller = new AbortController();
    const federation = tinyFederation({
      rounds: 3,
      onProgress: ({ round, batch }) => {
        if (round === 2 && batch === 2) controller.abort();
      },
    });
    const seen: number[] = [];
    const run = async (signal?: AbortSignal) => {
      for await (const report of federation.run(signal ? { signal } : {})) seen.push(report.number);
    };
    await expect(run(controller.signal)).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(seen).toEqual([1]);
    await run();
    expect(seen).toEqual([1, 2, 3]);
    const whole = tinyFederation({ rounds: 3 });
    await allRounds(whole);
    expect((await federation.tensors(federation.clients[1]!)).personal).toEqual(
      (await whole.tensors(whole.clients[1]!)).personal,
    );
  });

  test('that is aborted already stops before the first step', async () => {
    const rounds = tinyFederation().run({ signal: AbortSignal.abort() });
    await expect(rounds.next()).rejects.toMatchObject({ code: 'CANCELLED' });
  });
});

describe('options that cannot work', () => {
  const cases: [string, Parameters<typeof tinyFederation>[0], RegExp][] = [
    ['rounds', { rounds: 0 }, /Expected number of at least 1 for rounds but received 0/],
    ['a fraction', { rounds: 2.5 }, /Expected integer for rounds but received 2.5/],
    ['a learning rate', { learningRate: Number.NaN }, /Expected number for learningRate but received NaN/],
    ['sampling', { sampling: { fraction: 2 } }, /number of at most 1 for sampling.fraction but received 2/],
    ['a minimum', { sampling: { minimum: 3 } }, /at most the 2 clients of the federation .* but received 3/],
    ['an unknown one', { lr: 1 } as object, /only known settings but received lr/],
    ['no clients', { clients: [] }, /1 to 65535 clients but received 0/],
    ['equal names', { clients: [...tinyClients(1), ...tinyClients(1)] }, /"client0" is there twice/],
    ['an unknown task', { clients: [{ ...tinyClients(1)[0]!, task: 'sums' }] }, /\(vqa\).*received "sums"/],
    [
      'resume without a folder',
      { resume: true },
      /Expected folder to resume for runDir but received nothing/,
    ],
    ['no model', { model: undefined } as object, /Expected Vilt for model but received nothing; open one/],
    [
      'no strategy',
      { strategy: undefined } as object,
      /Expected object for strategy but received nothing; make one, e.g. new FedDat\(\)/,
    ],
    ['a client without data', { clients: [{ name: 'a' }] } as object, /object for train of client a but/],
  ];
  test.each(cases)('%s', (_, options, message) => {
    expect(() => tinyFederation(options)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', message: expect.stringMatching(message) }),
    );
  });
});
