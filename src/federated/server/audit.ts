/**
 * audit.jsonl: what happened to a server, one JSON object a line, append-only. Every line carries the SHA-256 of the line before it, so
 * a line that is changed, taken out or put in shows; the hash of the last line is in each line of metrics.jsonl, so a cut end shows too.
 */

import { createHash } from 'node:crypto';
import { DuetError } from '../../errors.js';
import { appendDurably, readIfThere, writeAtomic } from '../../run/files.js';

/** What a line tells besides its time and the hash of the line before it. */
export type AuditEvent = { event: string } & Record<string, unknown>;
/** A line of audit.jsonl. */
export type AuditLine = AuditEvent & { at: string; previous: string };

/** The `previous` of the first line. */
export const AUDIT_START = '0'.repeat(64);

export class AuditLog {
  readonly path: string;
  /** Hash of the last line. */
  #head: string;
  #waiting: string[] = [];
  #flush: Promise<void> | undefined;

  private constructor(path: string, head: string) {
    this.path = path;
    this.#head = head;
  }

  /**
   * Opens the log of a run; half a line at the end, as a crash leaves it, is cut off.
   * @param rounds lines of metrics.jsonl
   * @throws DuetError CORRUPT when the chain is broken, or lacks a line that a round names
   */
  static async open(path: string, rounds: readonly AuditedRound[]): Promise<AuditLog> {
    const text = (await readIfThere(path)) ?? '';
    const whole = text.slice(0, text.lastIndexOf('\n') + 1);
    const { head } = verified(whole, path, rounds);
    if (whole !== text) await writeAtomic(path, whole);
    return new AuditLog(path, head);
  }

  /** The hash of the last line, once it is on the disk. */
  async head(): Promise<string> {
    const head = this.#head;
    await this.#flush;
    return head;
  }

  /** Resolves once the line is on the disk; lines that come meanwhile share the next write. */
  append(event: AuditEvent): Promise<void> {
    const { event: name, ...rest } = event;
    const line: AuditLine = { at: new Date().toISOString(), event: name, ...rest, previous: this.#head };
    const text = JSON.stringify(line);
    this.#head = hashOf(text);
    this.#waiting.push(`${text}\n`);
    this.#flush ??= this.#write();
    return this.#flush;
  }

  async #write(): Promise<void> {
    // All lines of this turn of the event loop go together.
    await new Promise((resolve) => setImmediate(resolve));
    try {
      while (this.#waiting.length > 0) await appendDurably(this.path, this.#waiting.splice(0).join(''));
    } finally {
      this.#flush = undefined;
    }
  }
}

/** A line of metrics.jsonl: `audit` is the hash of the last line of the log when the round ended. */
export interface AuditedRound {
  number: number;
  audit: string;
}

/**
 * The lines of an audit log.
 * @param rounds lines of metrics.jsonl; without them a log that was cut is not found out
 * @throws DuetError CORRUPT naming the first line that does not follow from the one before it, or the first round whose line is not there
 */
export async function verifyAudit(
  path: string,
  rounds: readonly AuditedRound[] = [],
): Promise<{ lines: AuditLine[]; head: string }> {
  const text = await readIfThere(path);
  if (text === undefined)
    throw new DuetError('NOT_FOUND', `Expected an audit log in ${path} but it is not there`);
  return verified(text, path, rounds);
}

function verified(
  text: string,
  path: string,
  rounds: readonly AuditedRound[],
): { lines: AuditLine[]; head: string } {
  let head = AUDIT_START;
  const hashes = new Set<string>();
  const lines: AuditLine[] = [];
  for (const [index, line] of text.split('\n').entries()) {
    if (line === '') continue;
    const parsed = parsedLine(line);
    if (parsed?.previous !== head) {
      throw new DuetError(
        'CORRUPT',
        `Line ${index + 1} of ${path} does not follow from the line before it: one of them was changed, removed or put in`,
      );
    }
    head = hashOf(line);
    hashes.add(head);
    lines.push(parsed);
  }
  const lost = rounds.find(({ audit }) => !hashes.has(audit));
  if (lost) {
    throw new DuetError(
      'CORRUPT',
      `Expected the line of ${path} that metrics.jsonl names in round ${lost.number} but it is not there: the log was cut, emptied or ` +
        'changed. Put it back from a copy, or start a run in another folder from the last checkpoint',
    );
  }
  return { lines, head };
}

function parsedLine(text: string): AuditLine | undefined {
  try {
    return JSON.parse(text) as AuditLine;
  } catch {
    return undefined;
  }
}

function hashOf(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
