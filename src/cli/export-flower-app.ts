/** duet export-flower-app: the folder an operator starts on a Flower SuperLink. */

import { Command, Option } from 'commander';
import { AnswerVocabulary } from '../data/answers.js';
import { DuetError } from '../errors.js';
import { exportFlowerApp } from '../federated/flower/export-app.js';
import { strategyByName } from '../federated/strategies/by-name.js';
import { Vilt } from '../models/vilt.js';
import type { Tensors } from '../native/core.js';
import { native } from '../native.js';
import { integer } from './options.js';
import { shellCommand } from './stopping.js';

interface ExportFlags {
  model: string;
  strategy: string;
  sharedHead: boolean;
  adapterReduction: number;
  answers?: string;
  heads: 'saved' | 'fresh';
  seed: number;
  init?: string;
  rounds: number;
  minNodes: number;
  legacy: boolean;
}

export function exportFlowerAppCommand(): Command {
  return new Command('export-flower-app')
    .description('Writes a Flower App: stock FedAvg from the initial arrays of a model, for duet clients.')
    .argument('<dir>', 'new folder to write')
    .requiredOption('--model <dir>', "model folder, the clients' own one")
    .addOption(
      new Option('--strategy <name>', 'says what travels').choices(['feddat', 'fedavg']).default('feddat'),
    )
    .option('--shared-head', 'FedAvg: the head travels, too', false)
    .option('--adapter-reduction <factor>', 'width of the model / width of its adapters', integer(1), 16)
    .option('--answers <file>', "answer vocabulary of a shared head (default: the model folder's)")
    .addOption(
      new Option('--heads <kind>', "use the model folder's head or a new one")
        .choices(['saved', 'fresh'])
        .default('saved'),
    )
    .option('--seed <integer>', 'of the initial adapters', integer(0), 0)
    .option('--init <file>', 'safetensors file with other initial values, e.g. those after a round')
    .option('--rounds <count>', 'rounds of a run', integer(1), 3)
    .option('--min-nodes <count>', 'nodes a round needs', integer(1), 2)
    .option('--legacy', 'for the strategies of flwr.server.strategy', false)
    .action(async (out: string, flags: ExportFlags) => {
      const { rounds, minNodes, legacy, heads, seed, sharedHead } = flags;
      const answers = flags.answers === undefined ? undefined : await AnswerVocabulary.load(flags.answers);
      using model = await Vilt.fromPretrained(flags.model, {
        ...(answers && { answers }),
        heads,
        adapters: { reduction: flags.adapterReduction },
        seed,
      });
      const strategy = strategyByName(flags.strategy, { fedavg: { sharedHead } });
      const initial = flags.init === undefined ? undefined : await valuesOf(flags.init);
      const names = await exportFlowerApp(out, {
        ...{ model, strategy, rounds, minNodes, legacy },
        ...(initial && { initial }),
      });
      const command = shellCommand('flwr run', [out]);
      process.stdout.write(`${names.length} arrays in ${out}; start it with: ${command} <superlink>\n`);
    });
}

async function valuesOf(path: string): Promise<Tensors> {
  const { tensors } = await native.readSafetensors(path, true);
  return Object.fromEntries(
    Object.entries(tensors).map(([name, { data, dtype }]) => {
      if (data instanceof Float32Array) return [name, data];
      throw new DuetError('INVALID_ARGUMENT', `Expected f32 for ${name} of ${path} but received ${dtype}`);
    }),
  );
}
