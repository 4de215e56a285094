// `flower-load`: many nodes in this process against a SuperLink that runs already, answering at once. A ServerApp that waits for
// them and sends rounds is started beside it; see docs/flower.md for one.

import { readFileSync } from 'node:fs';
import { type Command, InvalidArgumentError } from 'commander';
import { FlowerHost } from '../dist/federated/flower/host.js';
import type { NodeHandler } from '../dist/federated/flower/node.js';
import type { FlowerMessage, RecordDict } from '../dist/federated/flower/records.js';
import { peakBytes } from './peak-memory.js';
import { count } from './product-rate.js';

interface Options {
  superlink: string;
  nodes: number;
  rounds: number;
  insecure?: boolean;
  rootCertificates?: string;
  connections?: number;
  atOnce: number;
  poll?: number;
  heartbeat: number;
  json?: boolean;
}

/** Sends the arrays back as they came. */
const echo: NodeHandler = {
  async handle({ content, metadata }: FlowerMessage): Promise<RecordDict> {
    const metrics = {
      kind: 'metrics' as const,
      values: new Map<string, number | bigint>([['num-examples', 1n]]),
    };
    const answer: RecordDict = new Map([['metrics', metrics]]);
    const arrays = content?.get('arrays');
    if (arrays && metadata.messageType === 'train') answer.set('arrays', arrays);
    return answer;
  },
};

function number(text: string): number {
  const value = Number(text);
  if (!Number.isFinite(value)) throw new InvalidArgumentError('Expected a number.');
  return value;
}

export function addFlowerLoad(program: Command): void {
  program
    .command('flower-load')
    .description('many nodes of a Flower SuperLink in this process, which send back what they get')
    .requiredOption('--superlink <host:port>', 'a SuperLink with nothing but these nodes')
    .option('--nodes <n>', 'nodes', count, 1000)
    .option('--rounds <n>', 'messages a node answers before all leave', count, 1)
    .option('--insecure', 'no TLS')
    .option('--root-certificates <file>', 'authority of the SuperLink (PEM)')
    .option('--connections <n>', 'TCP connections; by default one for 100 nodes', count)
    .option('--at-once <n>', 'nodes that work at a time', count, 16)
    .option(
      '--poll <seconds>',
      'between two questions of a node; by default one for 100 nodes, at least 3',
      number,
    )
    .option('--heartbeat <seconds>', 'heartbeat interval', number, 300)
    .option('--json', 'print JSON')
    .action(async (options: Options) => {
      const start = performance.now();
      const seconds = () => (performance.now() - start) / 1000;
      const stop = new AbortController();
      const ca = options.rootCertificates;
      const { nodes, rounds, connections } = options;
      const times = { joined: 0, first: 0, last: 0, left: 0 };
      const failures: Record<string, number> = {};
      const check = () => {
        const { joins, messages, answered, errors, dropped } = host.counters;
        if (joins >= nodes) times.joined ||= seconds();
        if (messages > 0) times.first ||= seconds();
        if (answered + errors + dropped < nodes * rounds) return;
        times.last ||= seconds();
        stop.abort();
      };
      const host: FlowerHost = new FlowerHost({
        connection: {
          superlink: options.superlink,
          ...(options.insecure ? { tls: false } : ca ? { tls: { ca: readFileSync(ca, 'utf8') } } : {}),
        },
        nodes,
        handler: () => echo,
        events: () => ({
          onState: check,
          onMessage: ({ outcome, reason = '' }) => {
            if (outcome !== 'answered') failures[reason] = (failures[reason] ?? 0) + 1;
            check();
          },
        }),
        ...(connections && { connections }),
        atOnce: options.atOnce,
        ...(options.poll !== undefined && { pollSeconds: options.poll }),
        heartbeatSeconds: options.heartbeat,
      });
      process.once('SIGINT', () => stop.abort());
      const before = process.cpuUsage();
      await host.run(stop.signal);
      times.left = seconds();
      const { user, system } = process.cpuUsage(before);
      const result = {
        benchmark: 'flower-load',
        nodes,
        rounds,
        seconds: times,
        processorSeconds: (user + system) / 1e6,
        peakBytes: peakBytes(),
        counters: host.counters,
        failures,
      };
      if (options.json) {
        console.log(JSON.stringify(result));
        return;
      }
      const { joined, first, last, left } = times;
      const { answered, errors, dropped, retries, bytesUp, bytesDown } = host.counters;
      const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
      console.log(
        `${nodes} nodes joined in ${joined.toFixed(1)} s and left in ${(left - last).toFixed(1)} s`,
      );
      console.log(
        `${rounds} rounds in ${(last - first).toFixed(1)} s: ${answered} answers, ${errors} errors, ${dropped} dropped, ${retries} retries`,
      );
      console.log(
        `${mib(bytesDown)} down, ${mib(bytesUp)} up, ${result.processorSeconds.toFixed(1)} s of processor time`,
      );
      console.log(`memory ${mib(result.peakBytes)}`);
      for (const [reason, times] of Object.entries(failures)) console.log(`${times} x ${reason}`);
    });
}
