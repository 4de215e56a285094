// `server-load`: many clients of one duet server, whose memory is watched. The server is a process of its own; the clients share
// this one, each with its own TLS connection, session and updates, and no model: an update is the shared parameters plus a constant.
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Command } from 'commander';
import { DuetClient } from '../dist/federated/server/client.js';
import type { Tensors } from '../dist/native/core.js';
import { native } from '../dist/native.js';
import { peakBytes } from './peak-memory.js';
import { count } from './product-rate.js';
import { alignRows, digits } from './statistics.js';

interface Options {
  clients: number;
  values: number;
  rounds: number;
  json?: boolean;
}

const TENSORS = 48;
const SAMPLE_MS = 100;

interface Round {
  number: number;
  clients: unknown[];
  failures: unknown[];
  bytes: { up: number; down: number };
  timing: { seconds: number };
}

/** Resident bytes of a process: now, or the most it ever had. */
function residentBytes(pid: number, field: 'VmRSS' | 'VmHWM'): number {
  const found = new RegExp(`^${field}:\\s*(\\d+) kB$`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return Number(found?.[1]) * 1024;
}

function certificate(folder: string): { cert: string; key: string } {
  const [cert, key] = [join(folder, 'cert.pem'), join(folder, 'key.pem')];
  const made = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'];
  const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1'];
  execFileSync('openssl', ['req', '-x509', ...made, ...subject, '-keyout', key, '-out', cert], {
    stdio: 'pipe',
  });
  return { cert, key };
}

async function measure({ clients, values, rounds }: Options) {
  const folder = mkdtempSync(join(tmpdir(), 'duet-load-'));
  try {
    const { cert, key } = certificate(folder);
    const [initial, runDir, tokens] = [
      join(folder, 'initial.safetensors'),
      join(folder, 'run'),
      join(folder, 'tokens'),
    ];
    const size = Math.ceil(values / TENSORS);
    const shared = Array.from({ length: TENSORS }, (_, layer) => {
      const data = Float32Array.from({ length: size }, (_, place) => Math.sin(layer * size + place));
      return [
        `encoder.layer.${layer}.output.adapter.adapter_1_down.weight`,
        { dtype: 'f32', shape: [size], data },
      ];
    });
    await native.writeSafetensors(initial, Object.fromEntries(shared), {});
    const names = Array.from({ length: clients }, (_, client) => `site${client}`);
    const tokenOf = (name: string) => `token-of-${name}-0123456789`;
    writeFileSync(tokens, names.map((name) => `${name} ${tokenOf(name)}\n`).join(''));
    const args = [initial, '--run', runDir, '--strategy', 'fedavg', '--host', 'localhost', '--port', '0'];
    args.push('--tls-cert', cert, '--tls-key', key, '--tokens', tokens, '--min-clients', String(clients));
    args.push('--quorum', '1', '--rounds', String(rounds), '--evaluate-every', String(rounds));
    const program = new URL('../dist/cli/server.js', import.meta.url).href;
    const code = `import(${JSON.stringify(program)}).then((m) => m.serverCommand().parseAsync(process.argv.slice(1), { from: 'user' }))`;
    const child = spawn(process.execPath, ['-e', code, '--', ...args], {
      stdio: ['ignore', 'inherit', 'pipe'],
    });
    const pid = child.pid as number;
    const ended = new Promise<number | null>((resolve) => child.on('close', resolve));
    const lines: string[] = [];
    const url = await new Promise<string>((resolve, reject) => {
      createInterface({ input: child.stderr as NodeJS.ReadableStream }).on('line', (line) => {
        lines.push(line);
        const listening = /^listening on (\S+)/.exec(line)?.[1];
        if (listening) resolve(listening);
      });
      void ended.then(() => reject(new Error(`The server ended:\n${lines.slice(-20).join('\n')}`)));
    });
    const listening = residentBytes(pid, 'VmRSS');
    let joined = 0;
    let idle = 0;
    let peak = 0;
    let asked = 0;
    const watch = setInterval(() => {
      try {
        // Not a number once it has ended.
        peak = Math.max(peak, residentBytes(pid, 'VmHWM') || 0);
      } catch {
        // Gone.
      }
    }, SAMPLE_MS);
    const ca = readFileSync(cert, 'utf8');
    const start = performance.now();
    const work = (received: Tensors, add: number): Tensors =>
      Object.fromEntries(
        Object.entries(received).map(([name, data]) => [name, data.map((value) => value + add)]),
      );
    const runs = names.map((name, index) =>
      DuetClient.run({
        server: url,
        name,
        index,
        token: tokenOf(name),
        tls: { ca },
        handler: {
          async train({ shared: received }) {
            if (asked++ === 0) idle = residentBytes(pid, 'VmRSS');
            return {
              samples: 1 + (index % 7),
              shared: work(received, index / clients),
              metrics: { loss: 1 },
            };
          },
          evaluate: async () => ({ samples: 1, accuracy: { shared: 0.5 } }),
        },
        onEvent: ({ event }) => {
          if (event === 'joined') joined++;
        },
      }),
    );
    await Promise.all(runs);
    const seconds = (performance.now() - start) / 1000;
    if ((await ended) !== 0) throw new Error(`The server failed:\n${lines.slice(-20).join('\n')}`);
    clearInterval(watch);
    const text = readFileSync(join(runDir, 'metrics.jsonl'), 'utf8').trimEnd().split('\n');
    const reports = text.map((line) => JSON.parse(line) as Round);
    return {
      reports,
      joined,
      seconds,
      memory: { listening, idle, peak, load: peakBytes() },
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

export function addServerLoad(program: Command): void {
  program
    .command('server-load')
    .description('rounds of many clients at one duet server, and the memory of the server')
    .option('--clients <n>', 'clients, each with a TLS connection of its own', count, 1000)
    .option('--values <n>', 'values of the shared adapter', count, 900_000)
    .option('--rounds <n>', 'rounds', count, 2)
    .option('--json', 'print JSON')
    .action(async (options: Options) => {
      const { reports, seconds, memory } = await measure(options);
      if (options.json) {
        console.log(JSON.stringify({ benchmark: 'server-load', ...options, seconds, memory, reports }));
        return;
      }
      const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(0)} MB`;
      const rows = [['round', 'updates', 'failures', 'received', 'sent', 'time']];
      for (const { number, clients, failures, bytes, timing } of reports) {
        const { up, down } = bytes;
        rows.push([
          `${number}`,
          `${clients.length}`,
          `${failures.length}`,
          megabytes(up),
          megabytes(down),
          `${digits(timing.seconds)} s`,
        ]);
      }
      console.log(alignRows(rows));
      const { listening, idle, peak, load } = memory;
      console.log(
        `server: ${megabytes(listening)} before the first client, ${megabytes(idle)} with ${options.clients} connected, ` +
          `${megabytes(peak)} at most (one update: ${megabytes(options.values * 4)}); clients: ${megabytes(load)} at most; ` +
          `${digits(seconds)} s in all`,
      );
    });
}
