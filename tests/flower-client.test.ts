// A site behind Flower's messages: both namings, the numbers of the federation in one process, and refusals with a reason.

import { afterEach, describe, expect, test } from 'vitest';
import { type FlowerAnswers, FlowerClient } from '../src/federated/flower/client.js';
import { decodeMessage, encodeMessage } from '../src/federated/flower/objects.js';
import type {
  ArrayRecord,
  ConfigValue,
  FlowerMessage,
  MetricRecord,
  NumpyArray,
  RecordDict,
} from '../src/federated/flower/records.js';
import type { Site, SiteOptions } from '../src/federated/site.js';
import { publishedName } from '../src/models/names.js';
import { packageVersion } from '../src/run/versions.js';
import { allRounds, tinyClients, tinyFederation, tinyModel } from './federation-support.js';
import { tinySite } from './site-support.js';

const open: Site[] = [];
afterEach(() => Promise.all(open.splice(0).map((site) => site.close())));

async function handler(options: Partial<SiteOptions> = {}, more: FlowerAnswers = {}) {
  const site = await tinySite(options);
  open.push(site);
  return new FlowerClient(site, more);
}

let sent = 0;

function message(messageType: string, content: RecordDict, metadata: object = {}): FlowerMessage {
  const about = { runId: 7n, srcNodeId: 1n, dstNodeId: 2n, replyToMessageId: '', groupId: '', ttl: 60 };
  return {
    metadata: { ...about, messageId: `message ${++sent}`, messageType, createdAt: 1e9, ...metadata },
    content,
  };
}

function arraysOf(site: Site, named: (name: string, index: number) => string = publishedName): ArrayRecord {
  const entries = Object.entries(site.initialShared()).map(([name, { shape, data }], index) => {
    const array: NumpyArray = { dtype: 'float32', shape, data: data as Float32Array };
    return [named(name, index), array] as const;
  });
  return { kind: 'arrays', values: new Map(entries) };
}

const config = (values: Record<string, bigint | number> = {}) =>
  ({ kind: 'config', values: new Map(Object.entries(values)) }) as const;

/** A request of the Message API, as it comes off the wire. */
function request(type: string, round: number, arrays: ArrayRecord, name = 'arrays'): FlowerMessage {
  const content: RecordDict = new Map();
  content.set(name, arrays).set('config', config({ 'server-round': BigInt(round) }));
  const { id, objects } = encodeMessage(message(type, content));
  return decodeMessage(id, objects);
}

const metricsIn = (answer: RecordDict, name = 'metrics') =>
  Object.fromEntries((answer.get(name) as MetricRecord).values);

/** Flower's average: value * share in NumPy. */
function average(answers: readonly RecordDict[]): ArrayRecord {
  const counts = answers.map((answer) => Number(metricsIn(answer)['num-examples']));
  const total = counts.reduce((sum, count) => sum + count);
  const records = answers.map((answer) => answer.get('arrays') as ArrayRecord);
  const means = [...records[0]!.values].map(([name, first]): [string, NumpyArray] => {
    const data = new Float32Array(first.data.length);
    for (const [index, record] of records.entries()) {
      const values = record.values.get(name)!.data as Float32Array;
      const share = Math.fround(counts[index]! / total);
      for (let i = 0; i < data.length; i++) data[i] = data[i]! + Math.fround(values[i]! * share);
    }
    return [name, { ...first, data }];
  });
  return { kind: 'arrays', values: new Map(means) };
}

describe('the Message API', () => {
  test('gives the numbers of the federation in one process to 1e-6', async () => {
    const rounds = 3;
    const federation = tinyFederation({ rounds });
    const reports = await allRounds(federation);
    const handlers = await Promise.all(tinyClients().map((client, index) => handler({ client, index })));
    let arrays = arraysOf(handlers[0]!.site);
    for (let round = 1; round <= rounds; round++) {
      const training = handlers.map((one) => one.handle(request('train', round, arrays)));
      const answers = await Promise.all(training);
      arrays = average(answers);
      const { clients, evaluation } = reports[round - 1]!;
      for (const [index, answer] of answers.entries()) {
        const { loss, trainAccuracy } = clients[index]!;
        const metrics = metricsIn(answer);
        expect(Object.keys(metrics)).toEqual(['train_loss', 'train_acc', 'num-examples']);
        expect(metrics).toEqual({
          train_loss: expect.closeTo(loss, 6),
          train_acc: trainAccuracy,
          'num-examples': BigInt(4 + 2 * index),
        });
      }
      for (const [index, one] of handlers.entries()) {
        const answer = await one.handle(request('evaluate', round, arrays));
        const { gated, local, shared } = evaluation!.clients[index]!.accuracy;
        expect([...answer.keys()]).toEqual(['metrics']);
        expect(metricsIn(answer)).toEqual({
          eval_loss: 1 - gated!,
          eval_acc: gated,
          eval_acc_gated: gated,
          eval_acc_local: local,
          eval_acc_shared: shared,
          'num-examples': 6n,
        });
      }
    }
    const { shared } = await federation.tensors(federation.clients[0]!);
    for (const [name, values] of Object.entries(shared)) {
      const { data } = arrays.values.get(publishedName(name))!;
      const worst = values.reduce((most, value, i) => Math.max(most, Math.abs(value - Number(data[i]))), 0);
      expect(worst).toBeLessThan(1e-6);
    }
  });

  test('answers in the record the request used, under names an app chose, with the metrics it wants', async () => {
    const names = { metrics: 'numbers', samples: 'weight', round: 'step' };
    const one = await handler({}, { names, metrics: ['train_loss', 'eval_acc'] });
    const content: RecordDict = new Map();
    content.set('model', arraysOf(one.site)).set('settings', config({ 'server-round': 9n, step: 4n }));
    const trained = await one.handle(message('train', content));
    expect([...trained.keys()]).toEqual(['model', 'numbers']);
    expect(Object.keys(metricsIn(trained, 'numbers'))).toEqual(['train_loss', 'weight']);
    expect(one.site.round).toBe(4);
    const evaluated = await one.handle(message('evaluate', content));
    expect(Object.keys(metricsIn(evaluated, 'numbers'))).toEqual(['eval_acc', 'weight']);
  });

  test('no metrics leave the number of samples alone', async () => {
    const one = await handler({}, { metrics: [] });
    for (const type of ['train', 'evaluate']) {
      const answer = await one.handle(request(type, 1, arraysOf(one.site)));
      expect(Object.keys(metricsIn(answer))).toEqual(['num-examples']);
    }
  });

  test('answers the same message alike without training again', async () => {
    let batches = 0;
    const one = await handler({
      onProgress: () => {
        batches++;
      },
    });
    const train = request('train', 1, arraysOf(one.site));
    const answer = await one.handle(train);
    const trained = batches;
    expect(await one.handle(train)).toEqual(answer);
    expect(batches).toBe(trained);
  });

  test('query tells what the site is', async () => {
    const one = await handler();
    const answer = await one.handle(message('query', new Map()));
    expect(answer).toEqual(
      new Map([
        [
          'properties',
          {
            kind: 'config',
            values: new Map(
              Object.entries({
                client: 'client0',
                strategy: 'feddat',
                'train-examples': 4n,
                'evaluate-examples': 6n,
                'duet-train': packageVersion(),
              }),
            ),
          },
        ],
      ]),
    );
  });
});

describe('the naming of the older strategies', () => {
  const numbered = (site: Site) => arraysOf(site, (_, index) => String(index));

  test('has the same numbers as the Message API; the round is that of the group', async () => {
    const [legacy, current] = await Promise.all([handler(), handler()]);
    const numbers = numbered(legacy.site);
    const fit: RecordDict = new Map([['fitins.parameters', numbers]]);
    fit.set('fitins.config', config());
    const trained = await legacy.handle(message('train', fit, { groupId: '3' }));
    expect(legacy.site.round).toBe(3);
    const wanted = await current.handle(request('train', 3, arraysOf(current.site)));
    const arrays = trained.get('fitres.parameters') as ArrayRecord;
    expect([...arrays.values.keys()]).toEqual([...numbers.values.keys()]);
    const named = wanted.get('arrays') as ArrayRecord;
    expect([...arrays.values.values()]).toEqual([...named.values.values()]);
    const { train_loss, train_acc } = metricsIn(wanted);
    const ok = { kind: 'config', values: new Map(Object.entries({ code: 0n, message: '' })) };
    expect([...trained.keys()].sort()).toEqual([
      'fitres.metrics',
      'fitres.num_examples',
      'fitres.parameters',
      'fitres.status',
    ]);
    expect(metricsIn(trained, 'fitres.num_examples')).toEqual({ num_examples: 4n });
    expect(trained.get('fitres.metrics')).toEqual(
      config({ train_loss: train_loss as number, train_acc: train_acc as number }),
    );
    expect(trained.get('fitres.status')).toEqual(ok);

    const ask: RecordDict = new Map([['evaluateins.parameters', numbers]]);
    ask.set('evaluateins.config', config({ server_round: 3n }));
    const evaluated = await legacy.handle(message('evaluate', ask));
    const accuracy = metricsIn(await current.handle(request('evaluate', 3, arraysOf(current.site))));
    expect(metricsIn(evaluated, 'evaluateres.loss')).toEqual({ loss: 1 - Number(accuracy.eval_acc) });
    expect(metricsIn(evaluated, 'evaluateres.num_examples')).toEqual({ num_examples: 6n });
    expect((evaluated.get('evaluateres.metrics') as typeof ok).values.get('eval_acc')).toBe(
      accuracy.eval_acc,
    );
    expect(evaluated.get('evaluateres.status')).toEqual(ok);
  });

  test('with no metrics, no loss of an evaluation is answered', async () => {
    const one = await handler({}, { metrics: [] });
    const fit: RecordDict = new Map([['fitins.parameters', numbered(one.site)]]);
    const trained = await one.handle(message('train', fit));
    expect(trained.get('fitres.metrics')).toEqual(config());
    const ask: RecordDict = new Map([['evaluateins.parameters', numbered(one.site)]]);
    await expect(one.handle(message('evaluate', ask))).rejects.toThrow(
      /answers no metrics, but received an eval/,
    );
  });

  test('counts rounds itself where nothing says them', async () => {
    const one = await handler();
    const fit: RecordDict = new Map([['fitins.parameters', numbered(one.site)]]);
    for (const round of [1, 2]) {
      await one.handle(message('train', fit));
      expect(one.site.round).toBe(round);
    }
  });

  test('rounds of earlier runs count', async () => {
    const one = await handler();
    const settings = config({ 'server-round': 2n, 'rounds-done': 12n });
    const content: RecordDict = new Map();
    await one.handle(message('train', content.set('arrays', arraysOf(one.site)).set('config', settings)));
    expect(one.site.round).toBe(14);
  });

  test('gives its initial parameters and properties', async () => {
    const one = await handler();
    const parameters = await one.handle(message('get_parameters', new Map()));
    expect(parameters.get('getparametersres.parameters')).toEqual(numbered(one.site));
    const properties = await one.handle(message('get_properties', new Map()));
    expect([...properties.keys()]).toEqual(['getpropertiesres.properties', 'getpropertiesres.status']);
    expect([...parameters.keys()]).toContain('getparametersres.status');
  });
});

describe('is refused with the reason', () => {
  const changed = (site: Site, change: (arrays: Map<string, NumpyArray>) => void): ArrayRecord => {
    const arrays = arraysOf(site);
    change(arrays.values);
    return arrays;
  };
  const first = (arrays: Map<string, NumpyArray>) => [...arrays][0]!;
  const cases: [string, (site: Site) => FlowerMessage, RegExp][] = [
    [
      'another type',
      (site) => request('train.fast', 1, arraysOf(site)),
      /train, evaluate or query .* "train.fast"/,
    ],
    ['no arrays', () => message('train', new Map()), /one record of arrays .* train but received none/],
    [
      'several records of arrays',
      (site) =>
        message(
          'evaluate',
          new Map([
            ['a', arraysOf(site)],
            ['b', arraysOf(site)],
          ]),
        ),
      /received a, b/,
    ],
    [
      'other arrays',
      (site) =>
        request(
          'train',
          1,
          arraysOf(site, (name) => name),
        ),
      /Expected 8 arrays, .* received 8: 8 are missing \(vilt_encoder.vilt.encoder.* 8 are not known \(encoder/,
    ],
    [
      'another shape',
      (site) =>
        request(
          'train',
          1,
          changed(site, (arrays) => first(arrays)[1].shape.unshift(1)),
        ),
      /Expected shape \[(.*)\] for array vilt_.* but received \[1, \1\]/,
    ],
    [
      'whole numbers',
      (site) =>
        request(
          'train',
          1,
          changed(site, (arrays) => {
            const [name, { shape, data }] = first(arrays);
            arrays.set(name, { dtype: 'int32', shape, data: new Int32Array(data.length) });
          }),
        ),
      /float32 or float64 .* but received int32/,
    ],
  ];
  const rounds: [string, string, ConfigValue, RegExp][] = [
    ['train', 'server-round', -1n, /between 1 and \d+ for server-round but received -1/],
    ['train', 'server-round', 0n, /between 1 and \d+ for server-round but received 0/],
    ['train', 'server-round', 2n ** 60n, /integer .* server-round but received 1152921504606847000/],
    ['train', 'server-round', 'x', /integer .* server-round but received "x"/],
    ['train', 'server_round', 1.5, /integer .* server_round but received 1.5/],
    ['train', 'server-round', Number.NaN, /integer .* server-round but received NaN/],
    ['train', 'server-round', [1n], /integer .* server-round but received/],
    ['evaluate', 'server-round', -1n, /between 0 and \d+ for server-round/],
    ['train', 'rounds-done', -1n, /between 0 and \d+ for rounds-done but received -1/],
  ];
  test.each(rounds)('a %s message with %s %s', async (type, name, value, reason) => {
    const one = await handler();
    const values = new Map<string, ConfigValue>([
      ['server-round', 1n],
      [name, value],
    ]);
    if (name === 'server_round') values.delete('server-round');
    const content: RecordDict = new Map();
    content.set('arrays', arraysOf(one.site)).set('config', { kind: 'config', values });
    const refused = one.handle(message(type, content));
    await expect(refused).rejects.toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
    await expect(refused).rejects.toThrow(reason);
    expect(one.site.round).toBe(0);
  });

  test.each(cases)('%s', async (_, make, reason) => {
    const one = await handler();
    await expect(one.handle(make(one.site))).rejects.toThrow(reason);
    expect(one.site.round).toBe(0);
  });

  test('a round that is past, and an evaluation without data', async () => {
    const { evaluation: _, ...client } = tinyClients(1)[0]!;
    const one = await handler({ client });
    await one.handle(request('train', 2, arraysOf(one.site)));
    await expect(one.handle(request('train', 1, arraysOf(one.site)))).rejects.toThrow(/another run folder/);
    await expect(one.handle(request('evaluate', 2, arraysOf(one.site)))).rejects.toThrow(
      /Expected evaluation data for site client0/,
    );
  });

  test('a metric that is not known', async () => {
    await expect(handler({}, { metrics: ['eval_f1'] })).rejects.toThrow(
      /among train_loss, .* received eval_f1/,
    );
  });
});

test('float64 arrays become float32', async () => {
  const model = tinyModel();
  const [one, other] = [await handler({ model }), await handler({ model })];
  const doubles = arraysOf(one.site);
  for (const [name, { shape, data }] of doubles.values)
    doubles.values.set(name, { dtype: 'float64', shape, data: Float64Array.from(data as Float32Array) });
  const answer = await one.handle(request('train', 1, doubles));
  expect(answer).toEqual(await other.handle(request('train', 1, arraysOf(other.site))));
});
