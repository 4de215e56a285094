// A process may end at any moment of a training: its exit code is the one it asked for, it never
// crashes and never hangs.

import { describe, expect, test } from 'vitest';
import { runScript } from './native-support.js';

/** Starts steps, then does `end` while the first one runs. */
const whileTraining = (end: string) => `
  (async () => {
    const model = await trainable();
    const steps = [model.step(batch), model.step(batch), model.step(batch)];
    for (const step of steps) step.catch((error) => console.log(error.code));
    setTimeout(async () => { ${end} }, 30);
  })();`;

const clean = { signal: null, stderr: '' };

describe('while a step runs', () => {
  test('process.exit()', () => {
    expect(runScript(whileTraining('process.exit(3);'))).toEqual({ ...clean, status: 3, stdout: '' });
  });

  test('process.exit() in an exit listener, and calls after it', () => {
    const run = runScript(
      whileTraining(`
        process.on('exit', () => { model.step(batch); model.evaluate(batch, 'test', 'none'); process.exit(4); });
        process.exit(3);`),
    );
    expect(run).toEqual({ ...clean, status: 4, stdout: '' });
  });

  test('the end of the script: the work is done first', () => {
    const run = runScript(whileTraining(`await Promise.all(steps); console.log('done');`));
    expect(run).toEqual({ ...clean, status: 0, stdout: 'done\n' });
  });

  test('an uncaught error', () => {
    const run = runScript(whileTraining(`throw new Error('out of ideas');`));
    expect(run).toMatchObject({ status: 1, signal: null });
    expect(run.stderr).toContain('Error: out of ideas');
  });

  test('a signal', () => {
    expect(runScript(whileTraining(`process.kill(process.pid, 'SIGTERM');`))).toMatchObject({
      signal: 'SIGTERM',
    });
  });

  test('process.reallyExit(), which tells nobody', () => {
    const run = runScript(whileTraining('await steps[0]; process.reallyExit(6);'));
    expect(run).toEqual({ ...clean, status: 6, stdout: '' });
  });

  test('process.exit() when others have thrown out or broken the exit listeners', () => {
    const removed = `await steps[0]; process.removeAllListeners('exit'); process.exit(8);`;
    expect(runScript(whileTraining(removed))).toEqual({ ...clean, status: 8, stdout: '' });
    const broken = `process.once('exit', () => { throw new Error('broken listener'); }); process.exit(8);`;
    expect(runScript(whileTraining(broken))).toMatchObject({ signal: null });
  });

  test('an aborting step and the exit at once', () => {
    const run = runScript(whileTraining('model.cancel(); await Promise.allSettled(steps); process.exit(2);'));
    expect(run).toEqual({ ...clean, status: 2, stdout: 'CANCELLED\n'.repeat(3) });
  });
});

describe('an idle process', () => {
  test('ends by itself although models are left', () => {
    const run = runScript(
      `trainable().then((model) => { globalThis.model = model; console.log('ready'); });`,
    );
    expect(run).toEqual({ ...clean, status: 0, stdout: 'ready\n' });
  });

  test('ends by itself when the addon was only loaded', () => {
    expect(runScript(`console.log('loaded');`)).toEqual({ ...clean, status: 0, stdout: 'loaded\n' });
  });

  test('can spawn processes that train', () => {
    const run = runScript(`
      trainable().then(async (model) => {
        await model.step(batch);
        const { execFileSync } = require('node:child_process');
        console.log(execFileSync(process.execPath, ['-p', 'require(' + JSON.stringify(addonFile) + ').systemInfo().threads > 0'], { encoding: 'utf8' }).trim());
        await model.step(batch);
      });`);
    expect(run).toEqual({ ...clean, status: 0, stdout: 'true\n' });
  });
});
