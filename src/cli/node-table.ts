/** Who is doing what, for the person at a server: on a terminal a table that is redrawn, elsewhere plain lines of what happens. */

import type { WriteStream } from 'node:tty';
import type { AuditEvent } from '../federated/server/audit.js';
import type { NodeStatus } from '../federated/server/desk.js';
import type { ServerRound } from '../federated/server/options.js';
import { printable } from '../report/printable.js';
import { accuracies, bytes, duration } from '../report/words.js';

const EVERY_MS = 500;

type Stream = NodeJS.WritableStream & Partial<Pick<WriteStream, 'isTTY' | 'columns' | 'rows'>>;

export class NodeTable {
  readonly #stream: Stream;
  #nodes: () => NodeStatus[] = () => [];
  /** Lines of the table on the screen. */
  #height = 0;

  constructor(stream: Stream = process.stderr) {
    this.#stream = stream;
  }

  /** Shows these from now on; nothing is drawn off a terminal. */
  follow(nodes: () => NodeStatus[]): Disposable {
    this.#nodes = nodes;
    const timer = this.#stream.isTTY ? setInterval(() => this.#draw(), EVERY_MS) : undefined;
    return {
      [Symbol.dispose]: () => {
        clearInterval(timer);
        this.#clear();
        this.#nodes = () => [];
      },
    };
  }

  /** Writes a line that stays. */
  note(text: string): void {
    this.#clear();
    this.#stream.write(`${printable(text)}\n`);
    if (this.#stream.isTTY) this.#draw();
  }

  #draw(): void {
    const { columns = 80, rows = 24 } = this.#stream;
    const lines = nodeLines(this.#nodes(), Math.max(4, rows - 4)).map((line) => line.slice(0, columns - 1));
    this.#clear();
    if (lines.length > 0) this.#stream.write(`${lines.join('\n')}\n`);
    this.#height = lines.length;
  }

  #clear(): void {
    if (this.#height > 0) this.#stream.write(`\u001b[${this.#height}A\u001b[0J`);
    this.#height = 0;
  }
}

const ORDER: Record<NodeStatus['state'], number> = {
  sending: 0,
  training: 1,
  evaluating: 2,
  waiting: 3,
  away: 4,
  left: 5,
};

/** A table of at most so many lines; those at work come first. */
export function nodeLines(nodes: readonly NodeStatus[], most: number): string[] {
  if (nodes.length === 0) return [];
  const all = nodes.length + 1 > most ? [...nodes].sort((a, b) => ORDER[a.state] - ORDER[b.state]) : nodes;
  const shown = all.slice(0, nodes.length + 1 > most ? most - 2 : most);
  const rows = shown.map(({ name, state, round, seconds, bytes: { up, down }, failures }) => [
    printable(name),
    state,
    String(round),
    duration(seconds),
    bytes(up),
    bytes(down),
    String(failures),
  ]);
  rows.unshift(['client', 'state', 'round', 'time', 'received', 'sent', 'failures']);
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  const lines = rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  );
  const more = nodes.length - shown.length;
  return more > 0 ? [...lines, `and ${more} more`] : lines;
}

/** What happened as a line; undefined for what a person need not see. */
export function eventLine(event: AuditEvent): string | undefined {
  const { event: kind, client, round, attempt, message } = event;
  switch (kind) {
    case 'listening':
      return `listening on ${event.url}${event.round ? `, resumed after round ${event.round}` : ''}`;
    case 'joined':
    case 'left':
      return `${client} ${kind}`;
    case 'round':
      return `round ${round}${attempt === 1 ? '' : `, attempt ${attempt}`}: asked ${(event.clients as string[]).length} clients`;
    case 'continued':
      return `round ${round}: continued with ${(event.updates as unknown[]).length} updates`;
    case 'update':
      return `round ${round}: ${client} sent ${bytes(Number(event.bytes))} of ${event.samples} samples`;
    case 'failure':
      return `round ${round}: ${client} failed in ${event.during === 'train' ? 'training' : 'evaluation'}: ${message}`;
    case 'late':
      return `${client} sent an answer that does not count any more (${event.task})`;
    case 'deadline':
      return `round ${round}: no answer of ${(event.missing as string[]).join(', ')} by the deadline`;
    case 'no quorum':
      return `round ${round}: ${event.received} of ${event.asked} updates, ${event.needed} are needed`;
    case 'damaged':
      return `not readable, left out: ${message}`;
    case 'farewell':
      return `all rounds are done; waiting at most ${duration(Number(event.seconds))} for clients to hear of it`;
    case 'error':
      return `error: ${message}`;
    case 'refused':
      return `refused ${client ?? event.address}: ${message}`;
    default:
      return undefined;
  }
}

/** The line of a finished round. */
export function serverRoundLine(
  { number, metrics, clients, bytes: sent, timing }: ServerRound,
  rounds: number,
): string {
  const parts = [
    `round ${number}/${rounds}`,
    `${clients.length} clients`,
    metrics.loss === undefined ? '' : `loss ${metrics.loss.toFixed(3)}`,
    accuracies(metrics.accuracy),
    `received ${bytes(sent.up)}, sent ${bytes(sent.down)}`,
    duration(timing.seconds),
  ];
  return parts.filter((part) => part !== '').join('  ');
}
