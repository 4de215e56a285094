// A child process that answers each line it is sent with one line of JSON. Both sides of a comparison run in such a
// process of their own, so that neither shares memory, threads or a warm cache of code with the other.
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

interface Waiting {
  resolve(line: string): void;
  reject(error: Error): void;
}

export class LineProcess implements Disposable {
  readonly #child: ChildProcess;
  readonly #waiting: Waiting[] = [];
  readonly #lines: string[] = [];
  #stderr = '';
  #ended: Error | undefined;

  /** @param what How messages name the process. */
  constructor(
    readonly what: string,
    command: string,
    args: readonly string[],
    env: NodeJS.ProcessEnv,
  ) {
    this.#child = spawn(command, args, { env, stdio: ['pipe', 'pipe', 'pipe'] });
    createInterface({ input: this.#child.stdout! }).on('line', (line) => this.#take(line));
    this.#child.stderr!.on('data', (chunk: Buffer) => {
      this.#stderr = (this.#stderr + chunk.toString()).slice(-4000);
    });
    this.#child.stdin!.on('error', () => {}); // told by 'close'
    this.#child.on('error', (error) =>
      this.#end(new Error(`${what} could not be started: ${error.message}`)),
    );
    this.#child.on('close', (code, signal) => {
      this.#end(new Error(`${what} ended (${signal ?? `code ${code}`}) without an answer.\n${this.#stderr}`));
    });
  }

  /** Sends a line, if one is given, and gives the next answer. Answers come in the order of the calls. */
  async ask(line?: string): Promise<unknown> {
    const answer = new Promise<string>((resolve, reject) => {
      const known = this.#lines.shift();
      if (known !== undefined) resolve(known);
      else if (this.#ended) reject(this.#ended);
      else this.#waiting.push({ resolve, reject });
    });
    if (line !== undefined) this.#child.stdin!.write(`${line}\n`);
    const text = await answer;
    try {
      return JSON.parse(text);
    } catch {
      throw new Error(`${this.what}: expected one line of JSON but received ${text.slice(0, 300)}`);
    }
  }

  [Symbol.dispose](): void {
    this.#child.stdin!.end();
    this.#child.kill();
  }

  #take(line: string): void {
    const next = this.#waiting.shift();
    if (next) next.resolve(line);
    else this.#lines.push(line);
  }

  #end(error: Error): void {
    this.#ended ??= error;
    for (const { reject } of this.#waiting.splice(0)) reject(this.#ended);
  }
}
