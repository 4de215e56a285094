/**
 * Real Flower for tests: a virtual environment a version (made once, in .cache/flower), a SuperLink on free loopback ports, runs of an
 * app, stock Python nodes. Every process carries a mark in its environment, by which it and all it started are found and killed: Flower's
 * commands put theirs into sessions of their own. What a process printed is shown when a wait for it fails.
 */

import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { createWriteStream, existsSync, readdirSync, readFileSync } from 'node:fs';
import { appendFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { TestContext } from 'vitest';
import { lockFolder } from '../../src/run/lock.js';
import type { Authority } from './certificates.js';

/** A recent release, whose nodes talk HTTP, and an older one, with gRPC. */
export const FLOWER_VERSIONS = (process.env.DUET_FLOWER_VERSIONS ?? '1.41.0,1.30.0').split(',');
const NUMPY = 'numpy==2.4.6';

const cache = fileURLToPath(new URL('../../.cache/flower', import.meta.url));
const MARK = 'DUET_TEST_PROCESS';
const all = randomUUID();
let started = 0;
const home = await mkdtemp(join(tmpdir(), 'duet-flower-'));

export interface FlowerEnvironment {
  version: string;
  /** Folder of the commands. */
  bin: string;
}

/** @returns the environment, or why there is none, which is printed */
export async function flowerEnvironment(version: string): Promise<FlowerEnvironment | string> {
  const reason = await installed(version).catch((error: Error & { stderr?: string }) => {
    const words = (error.stderr || error.message).trim().split('\n');
    return `Flower ${version} cannot be installed: ${words.findLast((line) => line.startsWith('ERROR')) ?? words.at(-1)}`;
  });
  if (reason === undefined) return { version, bin: join(cache, version, 'bin') };
  console.log(`skipped: ${reason}`);
  return reason;
}

async function installed(version: string): Promise<string | undefined> {
  if (process.platform !== 'linux') return `Flower is tested on Linux, this is ${process.platform}`;
  const folder = join(cache, version);
  const done = join(folder, 'installed');
  if (existsSync(done)) return undefined;
  try {
    execFileSync('python3', ['-c', 'import ensurepip, venv'], { stdio: 'ignore' });
  } catch {
    return 'python3 with the module venv is not there';
  }
  await mkdir(folder, { recursive: true });
  const lock = await patientLock(folder);
  try {
    if (existsSync(done)) return undefined;
    const call = promisify(execFile);
    await call('python3', ['-m', 'venv', folder]);
    const pip = ['install', '--quiet', '--disable-pip-version-check', '--retries', '1', '--timeout', '15'];
    await call(join(folder, 'bin/pip'), [...pip, `flwr==${version}`, NUMPY]);
    await writeFile(done, `${version}\n`);
  } finally {
    await lock.release();
  }
  return undefined;
}

async function patientLock(folder: string) {
  for (;;) {
    try {
      return await lockFolder(folder);
    } catch (error) {
      if (!/in use by process/.test(String(error))) throw error;
      await sleep(500);
    }
  }
}

/** A process of the test with its output. */
export class Process {
  readonly child: ChildProcess;
  readonly #name: string;
  readonly #mark = `${all}.${++started}.`;
  #output = '';
  readonly #listeners = new Set<() => void>();
  /** Resolves with the exit code, or the signal. */
  readonly ended: Promise<number | NodeJS.Signals>;

  constructor(
    command: string,
    args: readonly string[],
    options: { env?: NodeJS.ProcessEnv; name?: string } = {},
  ) {
    this.#name = options.name ?? command.split('/').at(-1) ?? command;
    const env = { ...process.env, NODE_OPTIONS: '', ...options.env, [MARK]: this.#mark };
    this.child = spawn(command, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
    const file = createWriteStream(join(home, `${this.#name}-${this.child.pid}.log`));
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        this.#output += text;
        file.write(text);
        this.#tell();
      });
    }
    const closed = new Promise((resolve) => this.child.on('close', resolve));
    this.ended = new Promise((resolve, reject) => {
      this.child.on('error', reject);
      this.child.on('exit', async (code, signal) => {
        await Promise.race([closed, sleep(300)]); // what it started may hold its output open
        resolve(code ?? (signal as NodeJS.Signals));
        this.#tell();
      });
    });
    closed.then(() => file.end());
  }

  get output(): string {
    return this.#output;
  }

  /** How often the output so far has the text. */
  count(text: RegExp): number {
    return [...this.#output.matchAll(new RegExp(text, 'g'))].length;
  }

  /** Resolves when the output has the text so often; fails with the output when the process ends or time runs out before. */
  printed(text: RegExp, times = 1, timeoutMs = 60_000): Promise<void> {
    return new Promise((resolve, reject) => {
      const settle = (error?: Error) => {
        clearTimeout(timer);
        this.#listeners.delete(look);
        error ? reject(error) : resolve();
      };
      const failed = (what: string) =>
        settle(new Error(`Expected ${text} from ${this.#name} but it ${what}:\n${this.tail()}`));
      const look = () => {
        if (this.count(text) >= times) settle();
        else if (this.child.exitCode !== null || this.child.signalCode !== null) failed('ended');
      };
      const timer = setTimeout(() => failed(`did not print it in ${timeoutMs} ms`), timeoutMs);
      this.#listeners.add(look);
      look();
    });
  }

  /** The last lines of its output. */
  tail(lines = 60): string {
    return `--- ${this.#name}\n${this.#output.trimEnd().split('\n').slice(-lines).join('\n')}`;
  }

  /** Kills it and all it started at once, as a crash would. */
  async crash(): Promise<void> {
    await killMarked(this.#mark);
    await this.ended;
  }

  /** Asks it to end and waits for it. */
  stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | NodeJS.Signals> {
    this.child.kill(signal);
    return this.ended;
  }

  #tell(): void {
    for (const listener of [...this.#listeners]) listener();
  }
}

/** Waits for a run to succeed; fails at once when one of the other processes ends before it. */
export async function succeeded(run: Process, ...others: Process[]): Promise<void> {
  const early = others.map(async (other) => {
    const how = await other.ended;
    throw new Error(`Expected this process to outlive the run but it ended with ${how}:\n${other.tail()}`);
  });
  const status = await Promise.race([run.ended, ...early]);
  for (const one of early) one.catch(() => {});
  if (status !== 0)
    throw new Error(`Expected the run to succeed but it ended with ${status}:\n${run.tail()}`);
}

/** Kills what this file started and removes the files. For `afterAll`. */
export async function endFlower(): Promise<void> {
  await killMarked(all);
  await rm(home, { recursive: true, force: true, maxRetries: 5 });
}

async function killMarked(mark: string): Promise<void> {
  for (let found = marked(mark); found.length > 0; found = marked(mark)) {
    for (const id of found) {
      try {
        process.kill(id, 'SIGKILL');
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
      }
    }
    await sleep(20);
  }
}

function marked(mark: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((id) => {
      try {
        return readFileSync(`/proc/${id}/environ`, 'latin1').includes(`${MARK}=${mark}`);
      } catch {
        return false;
      }
    })
    .map(Number);
}

/** Ports nobody listens on now. */
export async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from(
      { length: count },
      () =>
        new Promise<ReturnType<typeof createServer>>((resolve) => {
          const server = createServer().listen(0, '127.0.0.1', () => resolve(server));
        }),
    ),
  );
  const ports = servers.map((server) => (server.address() as { port: number }).port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

async function listening(port: number, by: Process): Promise<void> {
  const end = Date.now() + 60_000;
  const accepts = () =>
    new Promise<boolean>((resolve) => {
      const socket = connect(port, '127.0.0.1');
      socket.on('connect', () => resolve(true)).on('error', () => resolve(false));
      socket.on('connect', () => socket.destroy());
    });
  while (!(await accepts())) {
    if (by.child.exitCode !== null || Date.now() > end)
      throw new Error(`Expected a server on port ${port}:\n${by.tail()}`);
    await sleep(50);
  }
}

export interface SuperLinkOptions {
  /** Of the server's certificate; without it there is no TLS. */
  authority?: Authority;
  /** Only nodes whose key the operator registered. Needs an authority. */
  authentication?: boolean;
}

/** A SuperLink and what an operator does with it. */
export class SuperLink {
  readonly #environment: FlowerEnvironment;
  readonly #args: readonly string[];
  readonly #env: NodeJS.ProcessEnv;
  readonly #ports: readonly number[];
  readonly #options: SuperLinkOptions;
  #process: Process;
  /** host:port for nodes. */
  readonly fleet: string;

  private constructor(
    environment: FlowerEnvironment,
    options: SuperLinkOptions,
    folder: string,
    ports: readonly [number, number, number],
  ) {
    this.#environment = environment;
    this.#options = options;
    this.#env = {
      FLWR_TELEMETRY_ENABLED: '0',
      FLWR_DISABLE_UPDATE_CHECK: '1',
      FLWR_HOME: folder,
      PYTHONDONTWRITEBYTECODE: '1',
      PATH: `${environment.bin}:${process.env.PATH}`,
    };
    const [first, second, third] = ports;
    const local = (port: number) => `127.0.0.1:${port}`;
    const minor = minorOf(environment.version);
    const http = ['--host', '127.0.0.1', '--port', `${first}`];
    const offline = ['--disable-runtime-dependency-installation'];
    if (minor >= 40) {
      this.#ports = [first];
      this.#args = [...http, ...offline];
    } else if (minor >= 37) {
      this.#ports = [first, second];
      this.#args = [...http, ...offline, '--fleet-api-address', local(second)];
    } else {
      this.#ports = ports;
      const addresses = ['--control-api-address', local(first), '--fleet-api-address', local(second)];
      this.#args = [...addresses, '--serverappio-api-address', local(third)];
    }
    this.fleet = `localhost:${minor >= 40 ? first : second}`;
    this.#process = this.#begin();
  }

  /** Returns when it listens. */
  static async start(environment: FlowerEnvironment, options: SuperLinkOptions = {}): Promise<SuperLink> {
    const folder = await mkdtemp(join(home, 'superlink-'));
    const link = new SuperLink(
      environment,
      options,
      folder,
      (await freePorts(3)) as [number, number, number],
    );
    await writeFile(
      join(folder, 'config.toml'),
      `[superlink]\ndefault = "test"\n[superlink.test]\n${link.#connection}`,
    );
    await link.#ready();
    return link;
  }

  get log(): Process {
    return this.#process;
  }

  #begin(): Process {
    const { authority, authentication } = this.#options;
    const certificate = authority?.issue('superlink');
    const tls =
      authority && certificate
        ? [
            ...['--ssl-ca-certfile', authority.certFile, '--ssl-certfile', certificate.certFile],
            ...['--ssl-keyfile', certificate.keyFile, ...(authentication ? ['--enable-supernode-auth'] : [])],
          ]
        : ['--insecure'];
    return new Process(join(this.#environment.bin, 'flower-superlink'), [...tls, ...this.#args], {
      env: this.#env,
    });
  }

  async #ready(): Promise<void> {
    for (const port of this.#ports) await listening(port, this.#process);
  }

  /** Kills it as a crash would and starts another one at the same addresses, which knows nothing of the first. */
  async restart(whileDown: () => Promise<void> = async () => {}): Promise<void> {
    await this.#process.crash();
    await whileDown();
    this.#process = this.#begin();
    await this.#ready();
  }

  /**
   * Starts an app with `flwr run` and follows its log.
   * @param config run config
   */
  async run(app: string, config: Record<string, string | number> = {}): Promise<Process> {
    await this.#connect(app);
    const settings = Object.entries(config).map(([name, value]) => `${name}=${JSON.stringify(value)}`);
    const given = settings.length > 0 ? ['--run-config', settings.join(' ')] : [];
    return this.#command('flwr', ['run', app, 'test', '--stream', ...given]);
  }

  /** Registers a node's public key (a file in OpenSSH's format). */
  async register(publicKeyFile: string, app: string): Promise<void> {
    const place = (await this.#connect(app)) ? [app, 'test'] : ['test'];
    const registered = this.#command('flwr', ['supernode', 'register', publicKeyFile, ...place]);
    if ((await registered.ended) !== 0) throw new Error(registered.tail());
  }

  /** Older commands find the SuperLink in the app. @returns whether this version does */
  async #connect(app: string): Promise<boolean> {
    if (minorOf(this.#environment.version) >= 26) return false;
    const project = join(app, 'pyproject.toml');
    if (/federations\.test/.test(await readFile(project, 'utf8'))) return true;
    await appendFile(project, `\n[tool.flwr.federations.test]\n${this.#connection}`);
    return true;
  }

  /** How commands find it and whom they trust. */
  get #connection(): string {
    const { authority } = this.#options;
    const trust = authority ? `root-certificates = ${JSON.stringify(authority.certFile)}` : 'insecure = true';
    return `address = "localhost:${this.#ports[0]}"\n${trust}\n`;
  }

  /** A stock node, which runs the app's own ClientApp. */
  async node(options: { privateKeyFile?: string } = {}): Promise<Process> {
    const [port] = await freePorts(1);
    const own =
      minorOf(this.#environment.version) >= 37
        ? ['--host', '127.0.0.1', '--port', `${port}`]
        : ['--clientappio-api-address', `127.0.0.1:${port}`];
    const { authority } = this.#options;
    const trust = authority ? ['--root-certificates', authority.certFile] : ['--insecure'];
    const { privateKeyFile } = options;
    const key = privateKeyFile ? ['--auth-supernode-private-key', privateKeyFile] : [];
    return this.#command('flower-supernode', [...trust, ...key, '--superlink', this.fleet, ...own]);
  }

  #command(name: string, args: readonly string[]): Process {
    return new Process(join(this.#environment.bin, name), args, { env: this.#env });
  }

  /** Shows the logs of these processes when the test fails. */
  showOnFailure({ onTestFailed }: TestContext, ...processes: Process[]): void {
    onTestFailed(() => {
      for (const one of [this.#process, ...processes]) console.log(one.tail());
    });
  }

  stop(): Promise<unknown> {
    return this.#process.stop();
  }
}

function minorOf(version: string): number {
  return Number(version.split('.')[1]);
}
