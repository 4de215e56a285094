// 100 repetitions of everything that takes native memory leave the process as large as it was.

import { describe, expect, test } from 'vitest';
import { runScript } from './native-support.js';

const sanitized = Boolean(process.env.DUET_SANITIZED);
if (sanitized)
  console.log('leaks: skipped, the sanitizer keeps freed memory on purpose (it finds leaks itself)');

const repetitions = 100;
const warmUp = 20;
const sampleEvery = 10;
/** Half the repetitions with a leak of 60 KiB each; the smallest thing here that could be lost has 100 KiB. */
const allowedMiB = 3;

/** Freed blocks go back to the system at once, so that what is resident is what is in use. */
const exactMemory = {
  MALLOC_ARENA_MAX: '1',
  MALLOC_MMAP_THRESHOLD_: '65536',
  MALLOC_TRIM_THRESHOLD_: '65536',
};

/** Resident memory that a process which repeats `body` gains from the first half to the second, in MiB. */
function growth(body: string): number {
  const run = runScript(
    `const size = tiny();
    async function once() { ${body} }
    async function settled() {
      for (let round = 0; round < 3; round++) { gc(); await new Promise((resolve) => setImmediate(resolve)); }
      return process.memoryUsage().rss / 2 ** 20;
    }
    function tiny() { return { ...shape, hiddenSize: 64, intermediateSize: 128, layers: 2, imageSize: 64 }; }
    function tinyBatch() {
      const pixels = 4 * size.imageSize ** 2;
      return { ...batch, height: 64, width: 64, pixelMask: new Uint8Array(pixels).fill(1), pixelValues: new Float32Array(3 * pixels) };
    }
    async function tinyModel() {
      const model = new addon.Vilt(size, { seed: 1, threads: 1 });
      model.addAdapters(8, 1);
      model.addHead(training.task, classes, 1);
      await model.startTraining(training);
      return model;
    }
    (async () => {
      const file = require('node:path').join(require('node:os').tmpdir(), 'duet-leaks-' + process.pid);
      globalThis.file = file;
      try {
        for (let i = 0; i < ${warmUp}; i++) { await once(); gc(); }
        const samples = [];
        for (let i = 1; i <= ${repetitions}; i++) {
          await once();
          gc(); // garbage that piles up would leave holes between what stays
          if (i % ${sampleEvery} === 0) samples.push(await settled());
        }
        const half = samples.length / 2;
        console.log(Math.min(...samples.slice(half)) - Math.min(...samples.slice(0, half)));
      } finally {
        require('node:fs').rmSync(file, { force: true });
      }
    })();`,
    { flags: ['--expose-gc'], env: exactMemory },
  );
  if (run.status !== 0) throw new Error(`The script ended with ${run.status ?? run.signal}: ${run.stderr}`);
  // A script whose promise never settles ends with nothing printed.
  if (!/^-?[\d.e-]+$/.test(run.stdout.trim()))
    throw new Error(`Expected a number of MiB but the script printed '${run.stdout}'`);
  return Number(run.stdout);
}

const cases: [name: string, body: string][] = [
  [
    'a model made, trained and disposed',
    `const model = await tinyModel(); await model.step(tinyBatch()); model.dispose();`,
  ],
  [
    'a model left to the garbage collector',
    `const model = await tinyModel(); await model.step(tinyBatch());`,
  ],
  [
    'steps, evaluations and reads of one model',
    `const model = globalThis.kept ??= await tinyModel();
     const input = tinyBatch();
     await model.step(input);
     await model.evaluate(input, 'test', 'gated');
     await model.hiddenStates(input, 'adapter_1');
     const names = model.parameters().map(({ name }) => name);
     await model.write(await model.read(names));
     await model.setOptimizerState(await model.optimizerState());
     await model.startTraining(training);`,
  ],
  [
    'calls that fail',
    `const model = globalThis.kept ??= await tinyModel();
     const input = tinyBatch();
     const calls = [
       model.step({ ...input, targets: new Float32Array(1) }),
       model.step({ ...input, inputIds: new Int32Array(24).fill(1e6) }),
       model.step({}), model.load('/nowhere'), model.read(['none']), model.write({ none: new Float32Array(50_000) }),
       addon.readSafetensors('/nowhere'), addon.runOp('none', {}, {}), addon.resizePicture(new Uint8Array(50_000), 1, 1, 1, 1),
     ];
     for (const outcome of await Promise.allSettled(calls)) if (outcome.status !== 'rejected') throw new Error('no failure');
     try { new addon.Vilt({}, {}); } catch {}`,
  ],
  [
    'cancelled calls',
    `const input = tinyBatch();
     if (!globalThis.kept) {
       globalThis.kept = await tinyModel();
       await globalThis.kept.step(input); // what lasts is there before: a call may end before it is cancelled
     }
     const model = globalThis.kept;
     const calls = [1, 2, 3].map(() => model.step(input));
     model.cancel();
     await Promise.allSettled(calls);`,
  ],
  [
    'files written and read',
    `const data = new Float32Array(100_000).fill(1);
     await addon.writeSafetensors(file, { small: { dtype: 'u8', shape: [2], data: new Uint8Array(2) }, large: { dtype: 'f32', shape: [100_000], data } }, { a: 'b' });
     await addon.readSafetensors(file);`,
  ],
  [
    'pictures',
    `const rgb = new Uint8Array(200 * 100 * 3);
     await addon.resizePicture(rgb, 200, 100, 300, 200);
     const spec = { shortestEdge: 96, longestEdge: 0, sizeDivisor: 32, resize: true, rescaleFactor: 1, mean: [0, 0, 0], std: [1, 1, 1] };
     await addon.preparePictures([{ rgb, width: 200, height: 100 }, { rgb, width: 100, height: 200 }], spec);`,
  ],
  [
    'single ops',
    `const data = new Float32Array(40_000).fill(0.5);
     const x = { dtype: 'f32', shape: [200, 200], data };
     await addon.runOp('softmax', { x }, {}, x);
     await addon.weightedAverage([data, data], [0.5, 0.5]);`,
  ],
  [
    'workers',
    `const { Worker } = require('node:worker_threads');
     const worker = new Worker('const addon = require(' + JSON.stringify(addonFile) + '); addon.weightedAverage([new Float32Array(10)], [1]);', { eval: true });
     await new Promise((resolve) => worker.once('exit', resolve));`,
  ],
];

describe.skipIf(sanitized)(`memory after ${repetitions} repetitions`, () => {
  test.each(cases)('%s', (_name, body) => {
    const grown = growth(body);
    console.log(`grown by ${grown.toFixed(1)} MiB`);
    expect(grown).toBeLessThan(allowedMiB);
  });
});
