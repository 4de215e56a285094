/**
 * metrics.jsonl: one JSON object a line, one line a round, appended and flushed. What lies after the checkpoint a run is
 * resumed from (a later round, half a line) is cut off first.
 */

import { DuetError, shown } from '../errors.js';
import { appendDurably, readIfThere, writeAtomic } from './files.js';

export class MetricsFile<Line extends { number: number }> {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
  }

  append(line: Line): Promise<void> {
    return appendDurably(this.path, `${JSON.stringify(line)}\n`);
  }

  /**
   * Complete lines in order; half a line at the end, as a crash leaves it, is not one.
   * @throws DuetError CORRUPT when another line is not one of a run
   */
  async read(): Promise<Line[]> {
    const text = (await readIfThere(this.path)) ?? '';
    const lines = text.slice(0, text.lastIndexOf('\n') + 1).split('\n');
    return lines.flatMap((line, index) => (line === '' ? [] : [this.#parsed(line, index + 1)]));
  }

  /** Keeps the lines up to and including `number`. */
  async cutAfter(number: number): Promise<void> {
    const text = await readIfThere(this.path);
    if (text === undefined) return;
    const kept = (await this.read()).filter((line) => line.number <= number);
    const wanted = kept.map((line) => `${JSON.stringify(line)}\n`).join('');
    if (wanted !== text) await writeAtomic(this.path, wanted);
  }

  #parsed(text: string, number: number): Line {
    let line: Partial<Line> | null | undefined;
    try {
      line = JSON.parse(text);
    } catch {
      // The same message as for JSON of something else.
    }
    if (Number.isInteger(line?.number)) return line as Line;
    const received = line === undefined ? text.slice(0, 60) : shown(line);
    throw new DuetError(
      'CORRUPT',
      `Expected an object with an integer number in line ${number} of ${this.path} but received ${received}; ` +
        'put the line back or remove it, or start again in another folder',
    );
  }
}
