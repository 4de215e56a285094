// Our side of `feddat-step`: a process that loads the files of feddat-files.ts and runs steps on request. It speaks the
// protocol of peers/feddat_step.py: `step N` is answered by one line of JSON with seconds, cpuSeconds, peakBytes, losses.
import { createInterface } from 'node:readline';
import { DEFAULT_TASK, Vilt } from '../dist/models/vilt.js';
import type { ComputeType, Tensors } from '../dist/native/core.js';
import type { StepResult, ViltBatch } from '../dist/native/federated.js';
import { native } from '../dist/native.js';
import { fileNames } from './feddat-files.js';
import { peakBytes } from './peak-memory.js';
import type { PassOrder, StepShape } from './work.js';

export interface OurOptions {
  folder: string;
  shape: StepShape;
  dtype: ComputeType;
  threads: number;
  order: PassOrder;
}

async function readBatch(file: string, s: StepShape): Promise<ViltBatch> {
  const { tensors } = await native.readSafetensors(file);
  return {
    batch: s.batch,
    textLength: s.textTokens,
    height: s.imageSize,
    width: s.imageSize,
    inputIds: tensors.input_ids!.data as Int32Array,
    tokenTypeIds: tensors.token_type_ids!.data as Int32Array,
    attentionMask: tensors.attention_mask!.data as Uint8Array,
    pixelValues: tensors.pixel_values!.data as Float32Array,
    pixelMask: tensors.pixel_mask!.data as Uint8Array,
    targets: tensors.targets!.data as Float32Array,
  };
}

async function readState(file: string): Promise<Tensors> {
  const { tensors } = await native.readSafetensors(file);
  return Object.fromEntries(
    Object.entries(tensors).map(([name, tensor]) => [name, tensor.data as Float32Array]),
  );
}

async function serve(options: OurOptions): Promise<void> {
  const answer = (values: unknown): void => {
    process.stdout.write(`${JSON.stringify(values)}\n`);
  };
  const { shape, threads } = options;
  const files = fileNames(options.folder);
  const importedBytes = peakBytes();
  using model = await Vilt.fromPretrained(files.model, {
    answers: shape.answers,
    adapters: { reduction: shape.reduction },
    compute: options.dtype,
    threads,
  });
  await model.write(await readState(files.state));
  await model.startTraining({
    method: 'feddat',
    task: DEFAULT_TASK,
    optimizer: { learningRate: 1e-4, betas: [0.9, 0.98], epsilon: 1e-8, weightDecay: 0.01 },
    schedule: { kind: 'constant', warmupSteps: 0, maxSteps: 1_000_000 },
    temperature: 3,
    order: options.order,
    clearGradients: 'none',
  });
  const batch = await readBatch(files.batch, shape);
  // What the benchmark itself has read is let go of, as the peer does by counting references.
  globalThis.gc?.();
  answer({ ready: `duet-train, oneDNN ${native.systemInfo().onednn}`, threads, importedBytes });

  for await (const line of createInterface({ input: process.stdin })) {
    const [command, count] = line.split(' ');
    if (command === 'quit') break;
    if (command === 'step') answer({ ...(await run(model, batch, Number(count))), memory: model.memory() });
    else answer({ error: `Expected "step N" or "quit" but received ${line}` });
  }
}

async function run(model: Vilt, batch: ViltBatch, count: number): Promise<Record<string, unknown>> {
  const seconds: number[] = [];
  const losses: StepResult['feddat'][] = [];
  const processor = process.cpuUsage();
  for (let i = 0; i < count; i++) {
    const start = performance.now();
    const result = await model.step(batch);
    seconds.push((performance.now() - start) / 1000);
    losses.push(result.feddat);
  }
  const { user, system } = process.cpuUsage(processor);
  return { seconds, cpuSeconds: (user + system) / 1e6, peakBytes: peakBytes(), losses };
}

await serve(JSON.parse(process.argv[2]!) as OurOptions);
