/**
 * Two hosts on one machine: network namespaces with a line between them that is late, loses frames and can be cut
 * (lossy-link.py). Needs Linux, root, `ip` and Python; `whyNoHosts` says what is missing.
 */

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export type HostName = 'a' | 'b';

const SCRIPT = fileURLToPath(new URL('./lossy-link.py', import.meta.url));

/** In words why two hosts cannot be made here; undefined where they can. */
export function whyNoHosts(): string | undefined {
  try {
    execFileSync('python3', ['--version'], { stdio: 'ignore' });
    ip('netns', 'add', 'duet-probe');
    ip('netns', 'del', 'duet-probe');
    return undefined;
  } catch (error) {
    return `network namespaces need Linux, root, ip and python3: ${(error as Error).message.split('\n')[0]}`;
  }
}

export class TwoHosts implements AsyncDisposable {
  readonly addresses: Readonly<Record<HostName, string>> = { a: '10.77.0.1', b: '10.77.0.2' };
  readonly #space: (end: HostName | 'link') => string;
  readonly #link: ChildProcess;
  readonly #answers: NodeJS.AsyncIterator<string>;

  private constructor(space: (end: HostName | 'link') => string, link: ChildProcess) {
    this.#space = space;
    this.#link = link;
    this.#answers = createInterface({ input: link.stdout as NodeJS.ReadableStream })[Symbol.asyncIterator]();
  }

  /** @param loss share of the frames that are lost, 0 to 1 */
  static async open({ delayMs, loss }: { delayMs: number; loss: number }): Promise<TwoHosts> {
    const space = (end: string) => `duet-${process.pid}-${end}`;
    for (const end of ['a', 'b', 'link']) ip('netns', 'add', space(end));
    for (const [end, address] of [
      ['a', '10.77.0.1/24'],
      ['b', '10.77.0.2/24'],
    ] as const) {
      const device = `line-${end}`;
      const peer = ['type', 'veth', 'peer', 'name', device, 'netns', space('link')];
      ip('link', 'add', device, 'netns', space(end), ...peer);
      ip('-n', space(end), 'addr', 'add', address, 'dev', device);
      for (const where of [end, 'link']) ip('-n', space(where), 'link', 'set', device, 'up');
      ip('-n', space(end), 'link', 'set', 'lo', 'up');
      ip('netns', 'exec', space(end), 'python3', SCRIPT, 'plain', device);
    }
    const relay = ['netns', 'exec', space('link'), 'python3', SCRIPT, 'link', 'line-a', 'line-b'];
    const link = spawn('ip', [...relay, String(delayMs), String(loss)], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const hosts = new TwoHosts(space, link);
    await hosts.#answers.next();
    return hosts;
  }

  /** Command and arguments that run a program on one of the hosts. */
  on(host: HostName, command: string, args: readonly string[]): [string, string[]] {
    return ['ip', ['netns', 'exec', this.#space(host), command, ...args]];
  }

  /** Nothing goes through from here on. */
  async cut(): Promise<void> {
    await this.#say('cut');
  }

  /** Frames go through again. */
  async mend(): Promise<void> {
    await this.#say('mend');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = once(this.#link, 'exit');
    this.#link.kill();
    await ended;
    for (const end of ['a', 'b', 'link'] as const) ip('netns', 'del', this.#space(end));
  }

  async #say(word: string): Promise<void> {
    this.#link.stdin?.write(`${word}\n`);
    await this.#answers.next();
  }
}

function ip(...args: string[]): void {
  execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'pipe'] });
}
