// Names of devices, what is said of them, and models on a GPU, real or emulated.

import { expect, test } from 'vitest';
import { type DeviceName, inspect, resolveDevice } from '../src/device.js';
import { viltPreset } from '../src/models/config.js';
import { Vilt } from '../src/models/vilt.js';
import { succeed } from './cli-support.js';

const gpus = inspect().gpus.length;

test('inspect says what there is, and in one sentence why no GPU is used', async () => {
  const found = inspect();
  expect(found.cpu).toMatchObject({ isa: expect.any(String), threads: expect.any(Number) });
  expect(found.auto).toBe(gpus > 0 ? 'cuda:0' : 'cpu');
  if (gpus === 0) expect(found.whyNoGpu).toMatch(/^Device 'cuda' cannot be used: [^.]*/);
  else expect(found).not.toHaveProperty('whyNoGpu');
  const { stdout } = await succeed('inspect');
  expect(stdout).toMatch(/^cpu {5}\S+, \d+ threads, oneDNN /);
  expect(stdout).toMatch(new RegExp(`^auto {4}takes ${found.auto}$`, 'm'));
  expect(JSON.parse((await succeed('inspect', '--json')).stdout)).toEqual(found);
});

test('auto and cpu open a model anywhere; cuda never falls back', () => {
  for (const device of ['auto', 'cpu'] as const) {
    using model = Vilt.create(viltPreset('tiny'), { device });
    expect(model.device).toBe(resolveDevice(device));
  }
  if (gpus > 0) return;
  const open = () => Vilt.create(viltPreset('tiny'), { device: 'cuda' });
  expect(open).toThrow(expect.objectContaining({ code: 'UNSUPPORTED', message: inspect().whyNoGpu }));
});

test('tf32 is of GPUs; the CPU says so', () => {
  const open = () => Vilt.create(viltPreset('tiny'), { compute: 'tf32' });
  expect(open).toThrow(
    expect.objectContaining({
      code: 'UNSUPPORTED',
      message:
        'Expected fp32 or bf16 for compute on the CPU but received tf32, which is of GPUs; choose device cuda',
    }),
  );
});

test.each(['gpu', 'cuda:', 'cuda:x', 'cuda:12345', 'CUDA', '', 'cuda: 0'])('%j is no device', (name) => {
  const open = () => Vilt.create(viltPreset('tiny'), { device: name as DeviceName });
  expect(open).toThrow(/Expected auto, cpu, cuda or cuda:<index> for device but received/);
});

test('a GPU that is not there is named with those that are', () => {
  expect(() => resolveDevice('cuda:999')).toThrow(
    gpus > 0 ? /Expected one of cuda:0.* for device but received "cuda:999"/ : /cannot be used/,
  );
});
