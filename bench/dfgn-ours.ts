// Our side of `dfgn-step` and `dfgn-sample`: a process that loads the files of dfgn-files.ts and works on request. It speaks
// the protocol of peers/dfgn_step.py: `step N` is answered by one line of JSON with seconds, cpuSeconds, peakBytes, losses.
import { createInterface } from 'node:readline';
import { Dfgn } from '../dist/models/dfgn.js';
import type { ComputeType, TensorData } from '../dist/native/core.js';
import type { DenoisingBatch } from '../dist/native/stickers.js';
import { native } from '../dist/native.js';
import { Ddim } from '../dist/stickers/samplers/ddim.js';
import { sample } from '../dist/stickers/samplers/sampler.js';
import { NoiseSchedule } from '../dist/stickers/samplers/schedule.js';
import { fileNames } from './dfgn-files.js';
import { peakBytes } from './peak-memory.js';
import type { ClipShape } from './work-dfgn.js';

export interface OurOptions {
  folder: string;
  shape: ClipShape;
  dtype: ComputeType;
  threads: number;
  /** Generate clips instead of training. */
  sampling?: { steps: number; guidance: number };
  /** Compute activations again on the way back. */
  checkpoint?: boolean;
}

type Numbers = Record<string, number>;
type Work = () => Promise<Numbers>;

const floats = (tensor: TensorData | undefined): Float32Array => tensor!.data as Float32Array;

async function training(network: Dfgn, o: OurOptions, tensors: Record<string, TensorData>): Promise<Work> {
  await network.startTraining({
    optimizer: { learningRate: 3e-5, betas: [0.9, 0.999], epsilon: 1e-8, weightDecay: 0.01 },
    schedule: { kind: 'constant', warmupSteps: 0, maxSteps: 1_000_000 },
    maxGradNorm: 1,
    ...(o.checkpoint && { checkpoint: true }),
  });
  const { clips, height, width, textTokens, t5Tokens } = o.shape;
  const batch: DenoisingBatch = {
    ...{ clips, height, width, textTokens, t5Tokens },
    latents: floats(tensors.latents),
    noise: floats(tensors.noise),
    timesteps: tensors.timesteps!.data as Int32Array,
    text: floats(tensors.text),
    t5: floats(tensors.t5),
    infoMask: tensors.info_mask!.data as Uint8Array,
    frameMask: tensors.frame_mask!.data as Uint8Array,
  };
  return async () => ({ loss: (await network.step(batch)).loss });
}

function sampling(network: Dfgn, o: OurOptions, tensors: Record<string, TensorData>): Work {
  const { clips, height, width, textTokens, t5Tokens } = o.shape;
  const { steps, guidance } = o.sampling!;
  const both = (first: Float32Array, second: Float32Array): Float32Array =>
    Float32Array.of(...first, ...second);
  const latents = floats(tensors.latents);
  const given = tensors.info_mask!.data as Uint8Array;
  const frame = height * width;
  const frames = o.shape.num_frames;
  const clipLength = latents.length / clips;
  // [clips, channels, frames, height, width]
  const imageLatents = latents.map((value, i) => {
    const position = Math.floor(i / clipLength) * frames + (Math.floor(i / frame) % frames);
    return given[position] ? value : 0;
  });
  const rest = {
    ...{ clips, height, width, textTokens, t5Tokens, imageLatents },
    text: both(floats(tensors.negative_text), floats(tensors.text)),
    t5: both(floats(tensors.negative_t5), floats(tensors.t5)),
    frameMask: tensors.frame_mask!.data as Uint8Array,
  };
  const schedule = new NoiseSchedule();
  return async () => {
    const last = await sample(new Ddim(schedule, { steps }), floats(tensors.noise), (noisyLatents, time) =>
      network.predict({ ...rest, noisyLatents, timesteps: new Float32Array(clips).fill(time) }, guidance),
    );
    return { rms: Math.sqrt(last.reduce((sum, value) => sum + value * value, 0) / last.length) };
  };
}

async function run(work: Work, count: number): Promise<Record<string, unknown>> {
  const seconds: number[] = [];
  const losses: Numbers[] = [];
  const processor = process.cpuUsage();
  for (let i = 0; i < count; i++) {
    const start = performance.now();
    losses.push(await work());
    seconds.push((performance.now() - start) / 1000);
  }
  const { user, system } = process.cpuUsage(processor);
  return { seconds, cpuSeconds: (user + system) / 1e6, peakBytes: peakBytes(), losses };
}

async function serve(options: OurOptions): Promise<void> {
  const answer = (values: unknown): void => {
    process.stdout.write(`${JSON.stringify(values)}\n`);
  };
  const files = fileNames(options.folder);
  const { dtype: compute, threads } = options;
  const importedBytes = peakBytes();
  using network = await Dfgn.fromPretrained(files.model, { compute, threads });
  const { tensors } = await native.readSafetensors(files.batch);
  const work = options.sampling
    ? sampling(network, options, tensors)
    : await training(network, options, tensors);
  answer({ ready: `duet-train, oneDNN ${native.systemInfo().onednn}`, threads, importedBytes });
  for await (const line of createInterface({ input: process.stdin })) {
    const [command, count] = line.split(' ');
    if (command === 'quit') break;
    if (command === 'step') answer({ ...(await run(work, Number(count))), memory: network.memory() });
    else answer({ error: `Expected "step N" or "quit" but received ${line}` });
  }
}

await serve(JSON.parse(process.argv[2]!) as OurOptions);
