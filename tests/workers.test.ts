// worker_threads: several environments share the one compute queue; each may end at any moment.

import { Worker } from 'node:worker_threads';
import { describe, expect, test } from 'vitest';
import { runScript, script, tinyShape } from './native-support.js';

/** Runs a script in a worker; resolves with the first message it posts. */
function start(body: string, shape = tinyShape()): { worker: Worker; message: Promise<unknown> } {
  const worker = new Worker(script(`const { parentPort } = require('node:worker_threads');${body}`, shape), {
    eval: true,
    env: process.env,
  });
  const message = new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
    worker.once('exit', (code) => reject(new Error(`the worker ended with ${code}`)));
  });
  return { worker, message };
}

const trainTenSteps = `
  (async () => {
    const model = await trainable();
    const losses = [];
    for (let step = 0; step < 10; step++) losses.push((await model.step(batch)).loss);
    const [name] = model.parameters().map((p) => p.name).filter((name) => name.includes('adapter_1_up.weight'));
    parentPort.postMessage({ losses, weights: (await model.read([name]))[name] });
    model.dispose();
  })();`;

describe('workers', () => {
  test('two train at once and get the numbers that one alone gets', async () => {
    const alone = start(trainTenSteps);
    const expected = await alone.message;
    const together = [start(trainTenSteps), start(trainTenSteps)];
    const results = await Promise.all(together.map(({ message }) => message));
    for (const result of results) expect(result).toEqual(expected);
    expect((expected as { losses: number[] }).losses).toHaveLength(10);
    await Promise.all([alone, ...together].map(({ worker }) => worker.terminate()));
  });

  test('one that ends by itself leaves the others alone', async () => {
    const { worker, message } = start(trainTenSteps);
    const short = start(`parentPort.postMessage(addon.systemInfo()); process.exit(5);`);
    expect(await short.message).toHaveProperty('isa');
    expect(((await message) as { losses: number[] }).losses).toHaveLength(10);
    await worker.terminate();
  });
});

describe('a process whose workers', () => {
  // The main thread never loads the addon: with the last worker its library would go, were it not kept.
  const stormy = (end: string) => `
    const { Worker, isMainThread, parentPort } = require('node:worker_threads');
    const busy = ${JSON.stringify(
      script(`
      const { parentPort } = require('node:worker_threads');
      (async () => {
        const model = await trainable();
        const spec = { shortestEdge: 96, longestEdge: 0, sizeDivisor: 32, resize: true, rescaleFactor: 1, mean: [0, 0, 0], std: [1, 1, 1] };
        const picture = { rgb: new Uint8Array(300 * 300 * 3), width: 300, height: 300 };
        parentPort.postMessage('ready');
        for (;;) {
          model.evaluate(batch, 'test', 'gated');
          addon.preparePictures([picture], spec);
          addon.readSafetensors('/nowhere').catch(() => {});
          await model.step(batch);
        }
      })();`),
    )};
    (async () => {
      for (let round = 0; round < 4; round++) {
        const workers = [1, 2].map(() => new Worker(busy, { eval: true }));
        await Promise.all(workers.map((worker) => new Promise((resolve, reject) => {
          worker.once('message', resolve);
          worker.once('error', reject);
        })));
        await new Promise((resolve) => setTimeout(resolve, 15 * round));
        ${end}
      }
      console.log('end');
    })();`;

  test('are terminated in the middle of their work ends cleanly', () => {
    const body = stormy('await Promise.all(workers.map((worker) => worker.terminate()));');
    expect(runScript(body, { plain: true })).toEqual({
      status: 0,
      signal: null,
      stdout: 'end\n',
      stderr: '',
    });
  });

  test('are still at work when it exits ends cleanly', () => {
    const body = stormy('if (round === 1) process.exit(7); workers.forEach((worker) => worker.unref());');
    expect(runScript(body, { plain: true })).toEqual({ status: 7, signal: null, stdout: '', stderr: '' });
  });
});
