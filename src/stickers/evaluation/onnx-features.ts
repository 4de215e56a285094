/** Features of clips from an ONNX model, through an optional package. */

import { invalid, requireInteger, requireKnown, requireText } from '../../arguments.js';
import { DuetError, messageOf } from '../../errors.js';
import { native } from '../../native.js';
import type { ClipShape } from './metrics.js';

/** Turns clips into one feature vector each. */
export interface FeatureExtractor {
  /**
   * @param clips values in [-1, 1], each [channels, frames, height, width]
   * @returns one vector a clip, all of one length
   */
  extract(clips: readonly Float32Array[], shape: ClipShape): Promise<Float32Array[]>;
  /** Asked before anything is computed. @throws DuetError INVALID_ARGUMENT for clips it cannot take */
  check?(shape: ClipShape): void;
}

/** Orders of axes: batch, channels, frames, height, width. */
export const CLIP_LAYOUTS = ['BCFHW', 'BFCHW', 'BFHWC'] as const;
/** Order of axes of a model's input. */
export type ClipLayout = (typeof CLIP_LAYOUTS)[number];

/** How a model is fed. */
export interface OnnxFeaturesOptions {
  /** Order of axes of the model's input. Default BCFHW. */
  layout?: ClipLayout;
  /**
   * Pixels a side that the model takes, e.g. 224 for I3D; frames are resized to it (bilinear). Default: what the model
   * declares, or the size of the clips where it takes any.
   */
  size?: number;
  /** Name of the input; default the model's first. */
  input?: string;
  /** Name of the output; default the model's first. */
  output?: string;
}

/** What is used of onnxruntime-node. */
interface Session {
  inputNames: readonly string[];
  outputNames: readonly string[];
  /** From version 1.21 on; free axes have names. */
  inputMetadata?: readonly { name: string; shape?: readonly (number | string)[] }[];
  run(feeds: Record<string, unknown>): Promise<Record<string, { data: unknown }>>;
}
interface Runtime {
  InferenceSession: { create(path: string): Promise<Session> };
  Tensor: new (type: 'float32', data: Float32Array, dims: number[]) => unknown;
}

/**
 * Features of clips from an ONNX model of your choice, e.g. I3D for FVD, through the optional package
 * onnxruntime-node (`npm install onnxruntime-node`).
 */
export class OnnxFeatures implements FeatureExtractor {
  readonly #runtime: Runtime;
  readonly #session: Session;
  readonly #options: OnnxFeaturesOptions;
  readonly #path: string;

  private constructor(path: string, runtime: Runtime, session: Session, options: OnnxFeaturesOptions) {
    this.#path = path;
    this.#runtime = runtime;
    this.#session = session;
    this.#options = options;
  }

  /** @throws DuetError UNSUPPORTED when onnxruntime-node is not installed, CORRUPT when the model cannot be loaded */
  static async load(path: string, options: OnnxFeaturesOptions = {}): Promise<OnnxFeatures> {
    requireText(path, 'path');
    const { layout = 'BCFHW', size } = requireKnown(options, 'options', {
      layout: true,
      size: true,
      input: true,
      output: true,
    } satisfies Record<keyof OnnxFeaturesOptions, true>);
    if (!CLIP_LAYOUTS.includes(layout)) throw invalid(`one of ${CLIP_LAYOUTS.join(', ')}`, 'layout', layout);
    if (size !== undefined) requireInteger(size, 'size', 1);
    const runtime = await loadRuntime();
    try {
      return new OnnxFeatures(path, runtime, await runtime.InferenceSession.create(path), options);
    } catch (error) {
      throw new DuetError('CORRUPT', `Cannot load the ONNX model ${path}: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  /** @throws DuetError INVALID_ARGUMENT for clips that do not fit what the model declares */
  check(shape: ClipShape): void {
    this.#shapeFor(shape);
  }

  /**
   * One clip at a time, resized to what the model takes; of RGB on white and alpha a model of three channels gets RGB. The
   * model takes [1, ...] float32 in [-1, 1] and gives one row.
   * @throws DuetError INVALID_ARGUMENT for clips it does not take, NOT_FINITE where a clip or what the model makes of it is not finite
   */
  async extract(clips: readonly Float32Array[], shape: ClipShape): Promise<Float32Array[]> {
    const { layout = 'BCFHW', output = this.#session.outputNames[0] } = this.#options;
    const input = this.#input;
    if (input === undefined || output === undefined) {
      throw new DuetError('CORRUPT', 'Expected an ONNX model with an input and an output but it has none');
    }
    const taken = this.#shapeFor(shape);
    const { height, width } = shape;
    const features: Float32Array[] = [];
    for (const [index, clip] of clips.entries()) {
      const kept = clip.subarray(0, taken.channels * shape.frames * height * width);
      const resized =
        taken.height === height && taken.width === width
          ? kept
          : await native.resizeValues(kept, height, width, taken.height, taken.width);
      const { data, dims } = arranged(resized, taken, layout);
      const tensor = new this.#runtime.Tensor('float32', data, dims);
      const results = await this.#session.run({ [input]: tensor }).catch((error: unknown) => {
        throw new DuetError(
          'INVALID_ARGUMENT',
          `The ONNX model does not take clips of ${dims.join('x')} (${layout}): ${messageOf(error)}; choose another layout or size`,
          { cause: error },
        );
      });
      const found = results[output]?.data;
      if (!(found instanceof Float32Array)) {
        throw new DuetError('UNSUPPORTED', `Expected float32 in the output ${output} of the ONNX model`);
      }
      if (!found.every(Number.isFinite)) {
        const culprit = kept.every(Number.isFinite)
          ? `in the output ${output} of the ONNX model ${this.#path}; look at the model`
          : `in clip ${index}, before any model saw it`;
        throw new DuetError('NOT_FINITE', `Expected finite numbers but found NaN or infinity ${culprit}`);
      }
      features.push(Float32Array.from(found));
    }
    return features;
  }

  get #input(): string | undefined {
    return this.#options.input ?? this.#session.inputNames[0];
  }

  /** Of the clips as the model gets them. */
  #shapeFor(shape: ClipShape): ClipShape {
    const { layout = 'BCFHW', size } = this.#options;
    const declared = this.#session.inputMetadata?.find(({ name }) => name === this.#input)?.shape;
    const axis = (letter: string): number | undefined => {
      const length = declared?.[layout.indexOf(letter)];
      return typeof length === 'number' && length > 0 ? length : undefined;
    };
    const taken: ClipShape = {
      channels: axis('C') === 3 ? Math.min(shape.channels, 3) : shape.channels,
      frames: shape.frames,
      height: size ?? axis('H') ?? shape.height,
      width: size ?? axis('W') ?? shape.width,
    };
    const given = { B: 1, C: taken.channels, F: taken.frames, H: taken.height, W: taken.width };
    const fits = [...layout].every(
      (letter) => (axis(letter) ?? given[letter as 'B']) === given[letter as 'B'],
    );
    if (declared === undefined || (declared.length === layout.length && fits)) return taken;
    const received = [...layout].map((letter) => given[letter as 'B']).join('x');
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected clips of ${declared.join('x')}, as the ONNX model declares, but received ${received} (${layout}); choose its layout and size, train with as many frames, or export it with free axes`,
    );
  }
}

async function loadRuntime(): Promise<Runtime> {
  // Not a literal: the package is optional, and so are its types.
  const name = 'onnxruntime-node';
  try {
    return (await import(name)) as Runtime;
  } catch (error) {
    throw new DuetError(
      'UNSUPPORTED',
      `Features from an ONNX model need the package ${name}, which is not there; run: npm install ${name}`,
      { cause: error },
    );
  }
}

/** The clip with its axes in the order of the layout. */
export function arranged(
  clip: Float32Array,
  { channels, frames, height, width }: ClipShape,
  layout: ClipLayout,
): { data: Float32Array; dims: number[] } {
  const sizes = { B: 1, C: channels, F: frames, H: height, W: width };
  const dims = [...layout].map((axis) => sizes[axis as keyof typeof sizes]);
  if (layout === 'BCFHW') return { data: clip, dims };
  const plane = height * width;
  const data = new Float32Array(clip.length);
  for (let channel = 0; channel < channels; channel++) {
    for (let frame = 0; frame < frames; frame++) {
      const source = clip.subarray((channel * frames + frame) * plane).subarray(0, plane);
      if (layout === 'BFCHW') data.set(source, (frame * channels + channel) * plane);
      else
        for (let i = 0; i < plane; i++) data[(frame * plane + i) * channels + channel] = source[i] as number;
    }
  }
  return { data, dims };
}
