// What a person sees while a run goes on, and the words of its numbers.

import { Writable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { accuracyTable, percent, questionTypeTable, type RunResult } from '../src/report/accuracy.js';
import { bytes, duration } from '../src/report/words.js';
import { ProgressLine } from '../src/run/progress.js';

function stream(isTTY: boolean, columns = 30) {
  let written = '';
  const target = new Writable({
    write(chunk, _encoding, done) {
      written += String(chunk);
      done();
    },
  });
  return { stream: Object.assign(target, { isTTY, columns }), written: () => written };
}

describe('the progress line', () => {
  beforeEach(() => vi.useFakeTimers({ toFake: ['performance'] }));
  afterEach(() => vi.useRealTimers());

  test('is rewritten on a terminal, at most ten times a second, cut to its width', () => {
    const { stream: target, written } = stream(true);
    const progress = new ProgressLine({ stream: target });
    for (let step = 0; step < 100; step++) {
      progress.update(`batch ${step} of a great many batches to come`);
      vi.advanceTimersByTime(10);
    }
    const lines = written().split('\r\u001b[2K').slice(1);
    expect(lines).toHaveLength(10);
    expect(lines.every((line) => line.length <= 29 && !line.includes('\n'))).toBe(true);
    progress.note('round 1 done');
    expect(written().endsWith('\r\u001b[2Kround 1 done\n')).toBe(true);
  });

  test('is a plain line now and then elsewhere, and nothing for short work', () => {
    const { stream: target, written } = stream(false);
    const progress = new ProgressLine({ stream: target, plainEveryMs: 1000 });
    for (let step = 0; step < 25; step++) {
      progress.update(`batch ${step}`);
      vi.advanceTimersByTime(100);
    }
    expect(written()).toBe('batch 10\nbatch 20\n');
  });
});

describe('words', () => {
  test('durations and bytes', () => {
    expect([0.42, 12.3, 89, 300, 7260].map(duration)).toEqual([
      '0.4 s',
      '12 s',
      '89 s',
      '5 min',
      '2 h 1 min',
    ]);
    expect([12, 1234, 407_000, 3_600_000, 250e6, 16.8e9, 240e9].map(bytes)).toEqual([
      '12 B',
      '1.2 kB',
      '407 kB',
      '3.6 MB',
      '250 MB',
      '16.8 GB',
      '240 GB',
    ]);
  });

  test('percent over seeds', () => {
    expect(percent([0.5])).toBe('50.0');
    expect(percent([0.5, undefined, 0.6])).toBe('55.0 ± 7.1');
    expect(percent([undefined])).toBe('-');
  });

  test('tables', () => {
    const accuracy = (value: number) => ({ samples: 10, accuracy: { shared: value } });
    const result: RunResult = {
      strategy: 'fedavg',
      seed: 1,
      evaluation: {
        clients: [
          { client: 'a', ...accuracy(0.25) },
          { client: 'b', ...accuracy(0.75) },
        ],
        mean: { shared: 0.5 },
        questionTypes: { color: accuracy(0.4) },
      },
    };
    expect(accuracyTable([result], 'markdown')).toBe(
      '| strategy | evaluated | a | b | mean |\n| --- | --- | ---: | ---: | ---: |\n| fedavg | shared adapter | 25.0 | 75.0 | 50.0 |',
    );
    expect(questionTypeTable([result], 'markdown')).toContain('| color | 10 | 40.0 |');
    expect(accuracyTable([result])).toMatch(/│ fedavg +│ shared adapter │ 25\.0 │ 75\.0 │ 50\.0 │/);
  });
});
