/**
 * metrics.jsonl: one JSON object a line, one line a round, appended and flushed. What lies after the checkpoint a run is
 * resumed from (a later round, half a line) is cut off first.
 */

import { appendDurably, parseJson, readIfThere, writeAtomic } from './files.js';

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
   * @throws DuetError CORRUPT when another line is not JSON
   */
  async read(): Promise<Line[]> {
    const text = (await readIfThere(this.path)) ?? '';
    const lines = text.slice(0, text.lastIndexOf('\n') + 1).split('\n');
    return lines.filter((line) => line !== '').map((line) => parseJson(line, this.path) as Line);
  }

  /** Keeps the lines up to and including `number`. */
  async cutAfter(number: number): Promise<void> {
    const text = await readIfThere(this.path);
    if (text === undefined) return;
    const kept = (await this.read()).filter((line) => line.number <= number);
    const wanted = kept.map((line) => `${JSON.stringify(line)}\n`).join('');
    if (wanted !== text) await writeAtomic(this.path, wanted);
  }
}
