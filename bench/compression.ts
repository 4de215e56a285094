// `compression`: what codecs and protection of updates do to the bytes that travel and to the accuracy. One federation in one
// process a row and seed; between training and averaging every update goes the way it would go over the network. Data and
// model are those of the quickstart:
//
//   npm run quickstart && npm run bench -- compression runs/quickstart
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Command } from 'commander';
import { loadFederation } from '../dist/cli/federation-data.js';
import { type CodecName, updateCodec } from '../dist/federated/compression.js';
import { Federation } from '../dist/federated/federation.js';
import { updateNorm } from '../dist/federated/privacy/clip.js';
import { Protection } from '../dist/federated/privacy/protection.js';
import { strategyByName } from '../dist/federated/strategies/by-name.js';
import type { Strategy } from '../dist/federated/strategies/strategy.js';
import { Vilt } from '../dist/models/vilt.js';
import type { Tensors } from '../dist/native/core.js';
import { native } from '../dist/native.js';
import { percent } from '../dist/report/accuracy.js';
import { count, threadsOption } from './product-rate.js';

interface Options {
  strategy: string;
  sharedHead?: boolean;
  rounds: number;
  seeds: number[];
  clip: number;
  noise: number[];
  neighbours: 'replace' | 'remove';
  delta: number;
  threads: number;
  json?: boolean;
}

/** What happens to an update on its way, in one row of the table. */
interface Way {
  name: string;
  codec: CodecName;
  stochastic?: boolean;
  clip?: number;
  noise?: number;
}

interface Row extends Way {
  /** One update as a safetensors file. */
  bytes: number;
  /** Median norm of update - received before anything happened to it. */
  norm: number;
  epsilon?: number | undefined;
  /** By evaluation, one a seed. */
  accuracy: Record<string, number[]>;
  seconds: number;
}

function waysOf({ clip, noise }: Options): Way[] {
  return [
    { name: 'fp32', codec: 'fp32' },
    { name: 'nothing (clipped to 1e-9)', codec: 'fp32', clip: 1e-9 },
    { name: 'bf16', codec: 'bf16' },
    { name: 'int8, to nearest', codec: 'int8' },
    { name: 'int8, stochastic', codec: 'int8', stochastic: true },
    { name: `clipped to ${clip}`, codec: 'fp32', clip },
    ...noise.map((sigma): Way => ({ name: `clipped, noise ${sigma}`, codec: 'fp32', clip, noise: sigma })),
  ];
}

/** The way of one federation's updates, and what was seen on it. */
class Journey {
  readonly norms: number[] = [];
  bytes = 0;
  round = 0;
  readonly #protections = new Map<string, Protection>();

  constructor(
    readonly way: Way,
    readonly seed: number,
    readonly options: Options,
    readonly folder: string,
  ) {}

  /** What the server counts of a client's update. */
  async of(client: string, index: number, update: Tensors, received: Tensors): Promise<Tensors> {
    const { codec: name, stochastic, clip } = this.way;
    this.norms.push(await updateNorm(update, received));
    const sent = clip === undefined ? update : await this.#protection(client, clip).apply(update, received);
    const stream = this.round * 2 ** 16 + index;
    const codec = updateCodec(name, stochastic ? { seed: this.seed, stream } : undefined);
    const path = join(this.folder, 'update.safetensors');
    await native.writeSafetensors(path, codec.encode(sent, received), {});
    this.bytes = (await stat(path)).size;
    return codec.decode((await native.readSafetensors(path)).tensors, received);
  }

  get epsilon(): number | undefined {
    return [...this.#protections.values()][0]?.spent?.epsilon;
  }

  #protection(client: string, clip: number): Protection {
    const { neighbours, delta } = this.options;
    const known = this.#protections.get(client);
    if (known) return known;
    const seed = this.seed * 2 ** 16 + this.#protections.size;
    const made = new Protection({ clip, noise: this.way.noise ?? 0, neighbours, delta, seed });
    this.#protections.set(client, made);
    return made;
  }

  /** The strategy, whose server counts what came. */
  through(strategy: Strategy): Strategy {
    const aggregate: Strategy['aggregate'] = async (previous, updates) => {
      this.round++;
      const came = [];
      for (const [index, update] of updates.entries())
        came.push({ ...update, shared: await this.of(update.client, index, update.shared, previous) });
      return strategy.aggregate(previous, came);
    };
    return Object.assign(Object.create(strategy) as Strategy, { aggregate });
  }
}

async function measure(run: string, options: Options): Promise<Row[]> {
  const { rounds, threads, strategy, sharedHead = false } = options;
  const [data, modelFolder] = [join(run, 'data'), join(run, 'model')];
  const { clients, answers } = await loadFederation(data, modelFolder, {
    view: 'style',
    trainSplit: 'train',
    evalSplit: 'val',
    topAnswers: 3129,
  });
  const folder = await mkdtemp(join(tmpdir(), 'duet-compression-'));
  const rows: Row[] = [];
  try {
    for (const way of waysOf(options)) {
      const start = performance.now();
      const row: Row = { ...way, bytes: 0, norm: 0, accuracy: {}, seconds: 0 };
      const norms: number[] = [];
      for (const seed of options.seeds) {
        const journey = new Journey(way, seed, options, folder);
        const adapters = { reduction: 6 };
        using model = await Vilt.fromPretrained(modelFolder, {
          answers,
          heads: 'fresh',
          adapters,
          seed,
          threads,
        });
        const federation = new Federation({
          ...{ model, clients, rounds, seed, batchSize: 32, learningRate: 3e-3 },
          strategy: journey.through(strategyByName(strategy, { fedavg: { sharedHead } })),
          schedule: { kind: 'constant', warmup: 0 },
          evaluation: { every: rounds },
        });
        for await (const { evaluation } of federation.run())
          for (const [name, value] of Object.entries(evaluation?.mean ?? {}))
            row.accuracy[name] = [...(row.accuracy[name] ?? []), value];
        norms.push(...journey.norms);
        Object.assign(row, { bytes: journey.bytes, epsilon: journey.epsilon });
      }
      row.norm = norms.sort((a, b) => a - b)[norms.length >> 1] as number;
      row.seconds = (performance.now() - start) / 1000 / options.seeds.length;
      process.stderr.write(`${tableRow(row)}  ${row.seconds.toFixed(0)} s a run\n`);
      rows.push(row);
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  return rows;
}

function tableRow({ name, bytes, norm, epsilon, accuracy }: Row): string {
  const kilobytes = (bytes / 1000).toFixed(1);
  const spent = epsilon === undefined ? '' : epsilon.toPrecision(3);
  const cells = [name, kilobytes, norm.toPrecision(2), spent, ...Object.values(accuracy).map(percent)];
  return `| ${cells.join(' | ')} |`;
}

function table(rows: readonly Row[]): string {
  const evaluations = Object.keys(rows[0]?.accuracy ?? {});
  const head = ['updates', 'kB each', 'norm', 'epsilon', ...evaluations];
  const rule = ['---', ...head.slice(1).map(() => '---:')];
  return [head, rule]
    .map((cells) => `| ${cells.join(' | ')} |`)
    .concat(rows.map(tableRow))
    .join('\n');
}

export function addCompression(program: Command): void {
  const list = (text: string) => text.split(',').map(Number);
  program
    .command('compression')
    .description('Bytes and accuracy of a federation whose updates are compressed, or clipped and noised.')
    .argument('<run>', 'folder of a quickstart: its data and model are used')
    .option('--strategy <name>', 'feddat or fedavg', 'fedavg')
    .option(
      '--shared-head',
      'fedavg: the head travels too, so that nothing is learned without updates',
      false,
    )
    .option('--rounds <count>', 'rounds of each federation', count, 4)
    .option('--seeds <list>', 'of the federations', list, [1, 2, 3])
    .option('--clip <norm>', 'bound of an update', Number, 1)
    .option('--noise <list>', 'standard deviations as multiples of the bound', list, [0.003, 0.03, 0.3])
    .option('--neighbours <kind>', 'replace or remove', 'replace')
    .option('--delta <probability>', 'at which epsilon is told', Number, 1e-5)
    .addOption(threadsOption())
    .option('--json', 'the rows as JSON', false)
    .action(async (run: string, options: Options) => {
      const rows = await measure(run, options);
      process.stdout.write(`${options.json ? JSON.stringify(rows, null, 1) : table(rows)}\n`);
    });
}
