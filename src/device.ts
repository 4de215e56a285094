/** Devices: where models compute, which there are, and why a GPU is not used. */

import { spawnSync } from 'node:child_process';
import { z } from 'zod';
import { DuetError } from './errors.js';
import { computeTypes, type DeviceInfo } from './native/core.js';
import { addonPath, native } from './native.js';

/**
 * `cpu`; `cuda` or `cuda:<index>`, an NVIDIA GPU, which is an error where it cannot be used; `auto`, the first GPU if one can be
 * used, else the CPU.
 */
export type DeviceName = 'auto' | 'cpu' | 'cuda' | `cuda:${number}`;

/** Where a model computes, once it is open. `emulated` is a GPU played by the host, for tests. */
export type Device = 'cpu' | `cuda:${number}` | 'emulated';

const NAME = /^(auto|cpu|cuda|cuda:\d{1,4}|emulated)$/;

/** Of options: any name of a device. */
export const deviceSchema = z
  .string()
  .regex(NAME, 'Expected auto, cpu, cuda or cuda:<index>')
  .transform((name) => name as DeviceName)
  .default('cpu');

/** Of options: the type of large products. */
export const computeSchema = z.enum(computeTypes).default('fp32');

/** What this machine offers to compute with. */
export interface Inspection {
  /** What `auto` takes. */
  auto: Device;
  /** Instruction set, oneDNN and threads of the CPU kernels. */
  cpu: { isa: string; onednn: string; threads: number };
  /** GPUs that can be used. */
  gpus: (DeviceInfo & { device: Device })[];
  /** One sentence; undefined where a GPU can be used. */
  whyNoGpu?: string;
}

type Probed = { gpus: DeviceInfo[] } | { problem: string; code?: string };

let probed: Probed | undefined;

/** Run in a process of its own with the addon's path: tells the GPUs, or why there are none, as one line of JSON. */
const PROBE = `
  const addon = process.argv[1];
  let answer;
  try {
    answer = { gpus: require(addon).describeDevices('cuda') };
  } catch (error) {
    answer = { problem: String(error.message ?? error), code: error.code };
  }
  process.stdout.write(JSON.stringify(answer));
`;

function ask(environment: Record<string, string> = {}): Probed {
  const child = spawnSync(process.execPath, ['-e', PROBE, addonPath()], {
    encoding: 'utf8',
    env: { ...process.env, ...environment },
    timeout: 60_000,
    killSignal: 'SIGKILL',
  });
  try {
    return JSON.parse(child.stdout) as Probed;
  } catch {
    const how = child.error?.message ?? (child.signal ? `signal ${child.signal}` : `status ${child.status}`);
    return { problem: `Device 'cuda' cannot be used: the process that tried it ended with ${how}` };
  }
}

/**
 * Asks for the GPUs in a child process, once: a driver that ends the process ends only that one. Where GPUs are there but
 * their trial fails (Hopper's own instructions are tried then), once more with portable products, for this process, too.
 * (A few tenths of a second where there is a GPU, a few hundredths where there is none.)
 */
function probe(): Probed {
  if (probed) return probed;
  probed = ask();
  if (!('problem' in probed) || probed.code === 'UNSUPPORTED') return probed;
  const portable = { DUET_PRODUCTS: 'portable' };
  const again = ask(portable);
  if ('gpus' in again) {
    Object.assign(process.env, portable);
    probed = again;
  }
  return probed;
}

/**
 * What this machine can compute with, and in one sentence why a GPU is not used.
 * @throws DuetError UNSUPPORTED when the addon does not load
 */
export function inspect(): Inspection {
  const { isa, onednn, threads } = native.systemInfo();
  const found = probe();
  const gpus =
    'gpus' in found ? found.gpus.map((info, index) => ({ device: `cuda:${index}` as const, ...info })) : [];
  return {
    auto: gpus[0]?.device ?? 'cpu',
    cpu: { isa, onednn, threads },
    gpus,
    ...('problem' in found && { whyNoGpu: found.problem }),
  };
}

/**
 * The device a name stands for.
 * @throws DuetError UNSUPPORTED with the reason when it is a GPU that cannot be used, INVALID_ARGUMENT for one that is not there
 */
export function resolveDevice(name: DeviceName): Device {
  if (name === 'cpu' || (name as string) === 'emulated') return name as Device;
  if (name === 'auto') return inspect().auto;
  const found = probe();
  if ('problem' in found) throw new DuetError('UNSUPPORTED', found.problem);
  const device = name === 'cuda' ? 'cuda:0' : name;
  const index = Number(device.slice('cuda:'.length));
  if (index < found.gpus.length) return device;
  const there = found.gpus.map((_, i) => `cuda:${i}`).join(', ');
  throw new DuetError('INVALID_ARGUMENT', `Expected one of ${there} for device but received "${name}"`);
}
