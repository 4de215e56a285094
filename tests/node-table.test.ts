// The view of a server's clients: a table that is redrawn on a terminal, plain lines elsewhere.

import { PassThrough } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { eventLine, NodeTable, nodeLines } from '../src/cli/node-table.js';
import type { NodeStatus } from '../src/federated/server/desk.js';

const node = (name: string, state: NodeStatus['state']): NodeStatus => {
  return { name, state, round: 3, seconds: 12.3, bytes: { up: 3_600_000, down: 512 }, failures: 1 };
};

test('a line for each client, those at work first where there is no room for all', () => {
  expect(nodeLines([node('north', 'training'), node('southern', 'away')], 20)).toEqual([
    'client    state     round  time  received  sent   failures',
    'north     training  3      12 s  3.6 MB    512 B  1',
    'southern  away      3      12 s  3.6 MB    512 B  1',
  ]);
  const many = Array.from({ length: 30 }, (_, i) => node(`site${i}`, i === 29 ? 'sending' : 'waiting'));
  const lines = nodeLines(many, 6);
  expect(lines).toHaveLength(6);
  expect(lines[1]).toMatch(/^site29 +sending/);
  expect(lines.at(-1)).toBe('and 26 more');
  expect(nodeLines([], 6)).toEqual([]);
});

test('on a terminal the table is redrawn below the lines that stay', async () => {
  const stream = Object.assign(new PassThrough(), { isTTY: true, columns: 30, rows: 24 });
  const table = new NodeTable(stream);
  {
    using _ = table.follow(() => [node('north', 'training')]);
    await sleep(600);
    table.note('round 1: asked 1 clients');
  }
  const text = String(stream.read());
  expect(text).toContain('north   training  3      12 s');
  // Two lines up and everything below erased, then the line, then the table again, and at the end nothing of it.
  expect(text).toContain('\u001b[2A\u001b[0Jround 1: asked 1 clients\nclient');
  expect(text.endsWith('\u001b[2A\u001b[0J')).toBe(true);
});

test('elsewhere nothing is drawn but lines', async () => {
  const stream = new PassThrough();
  const table = new NodeTable(stream);
  using _ = table.follow(() => [node('north', 'training')]);
  await sleep(600);
  table.note('north joined');
  expect(String(stream.read())).toBe('north joined\n');
});

test('events as lines', () => {
  const lines = [
    { event: 'round', round: 2, attempt: 2, clients: ['a', 'b'] },
    { event: 'failure', round: 2, client: 'a', during: 'train', code: 'REFUSED', message: 'too far' },
    { event: 'deadline', round: 2, missing: ['b'] },
    { event: 'refused', address: '10.0.0.9', message: 'no token' },
    { event: 'aggregate', round: 2 },
  ].map(eventLine);
  expect(lines).toEqual([
    'round 2, attempt 2: asked 2 clients',
    'round 2: a failed in training: too far',
    'round 2: no answer of b by the deadline',
    'refused 10.0.0.9: no token',
    undefined,
  ]);
});

test('words of clients do not steer the terminal', () => {
  const stream = new PassThrough();
  const message = 'a\u001b]0;title\u0007\u001b[2J\nround 9: forged \u009b1m \u202egpj\u2066 \u200b';
  new NodeTable(stream).note(eventLine({ event: 'failure', round: 1, client: 'a', message }) ?? '');
  const text = String(stream.read());
  expect(text).toContain('round 9: forged');
  expect(text.slice(0, -1)).not.toMatch(/[\p{Cc}\p{Cf}]/u);
  expect(nodeLines([node('north\u001b[2J', 'training')], 20)[1]).toMatch(/^north\ufffd\[2J /);
});
