/**
 * What Flower calls the parts of a request and of its answer. There are two ways: the Message API (`flwr.serverapp.strategy`) names
 * its records freely and its arrays by parameter; the older strategies (`flwr.server.strategy`) have fixed records and arrays by
 * number. Arrays travel under the names of the published state dict (`publishedName`), in the order of the model, as float32.
 *
 * | | Message API | older strategies |
 * | --- | --- | --- |
 * | train | `arrays`, `config` with `server-round` | `fitins.parameters`, `fitins.config` |
 * | its answer | `arrays`, `metrics` with `num-examples` | `fitres.parameters`, `.num_examples`, `.metrics`, `.status` |
 * | evaluate | `arrays`, `config` | `evaluateins.parameters`, `evaluateins.config` |
 * | its answer | `metrics` with `num-examples` | `evaluateres.loss`, `.num_examples`, `.metrics`, `.status` |
 */

import { requireInteger } from '../../arguments.js';
import { DuetError, shown } from '../../errors.js';
import { publishedName } from '../../models/names.js';
import type { TensorData, Tensors } from '../../native/core.js';
import { MOST_ROUNDS } from '../options.js';
import type {
  ArrayRecord,
  ConfigRecord,
  ConfigValue,
  FlowerMessage,
  MetricRecord,
  NumpyArray,
  RecordDict,
} from './records.js';

/** Names that an app can choose, with Flower's defaults. */
export interface FlowerNames {
  /** Record of the metrics in an answer. Default `metrics`. */
  metrics: string;
  /** Metric that weights the average: samples. Default `num-examples`. */
  samples: string;
  /** Setting of a request with the number of the round. Default `server-round`. */
  round: string;
  /** Setting of a request with the rounds of earlier runs that this one goes on from. Default `rounds-done`. */
  done: string;
}

export const FLOWER_NAMES: FlowerNames = {
  metrics: 'metrics',
  samples: 'num-examples',
  round: 'server-round',
  done: 'rounds-done',
};

/** Numbers of an answer. */
export interface Answer {
  samples: number;
  metrics: Record<string, number>;
}

/** Makes the records of an answer. */
export interface Naming {
  /** Whether an evaluation cannot be answered without its loss. */
  needsLoss: boolean;
  trained(answer: Answer & { shared: Tensors }): RecordDict;
  evaluated(answer: Answer & { loss: number }): RecordDict;
}

/** A request to train or to evaluate. */
export interface TrainingRequest {
  kind: 'train' | 'evaluate';
  /** Where the request says it. */
  round: number | undefined;
  shared: Tensors;
  /** Of the answer. */
  naming: Naming;
}

/** Everything a node can be asked for. */
export type FlowerRequest = TrainingRequest | { kind: 'get_parameters' | 'get_properties' | 'query' };

/** Parameters that travel, in order. */
export type SharedShapes = Readonly<Record<string, Pick<TensorData, 'shape'>>>;

/** Of an array that says there is none, in the older naming. */
const NO_ARRAY = '_empty';
const LEGACY = {
  train: { request: 'fitins', answer: 'fitres' },
  evaluate: { request: 'evaluateins', answer: 'evaluateres' },
} as const;

/**
 * What a message asks for.
 * @throws DuetError UNSUPPORTED for another type of message; INVALID_ARGUMENT for other arrays than the parameters that travel,
 *   a round that is no number
 */
export function readRequest(
  { metadata, content = new Map() }: FlowerMessage,
  shapes: SharedShapes,
  names: FlowerNames = FLOWER_NAMES,
): FlowerRequest {
  const kind = metadata.messageType;
  if (kind === 'get_parameters' || kind === 'get_properties' || kind === 'query') return { kind };
  if (kind !== 'train' && kind !== 'evaluate') {
    throw new DuetError(
      'UNSUPPORTED',
      `Expected a message of type train, evaluate or query but received ${shown(kind)}`,
    );
  }
  const least = kind === 'train' ? 1 : 0;
  const ofRun =
    numberOf(content, names.round, least) ??
    numberOf(content, 'server_round', least) ??
    (/^\d{1,15}$/.test(metadata.groupId) ? Number(metadata.groupId) : undefined);
  const done = numberOf(content, names.done, 0) ?? 0;
  const round = ofRun === undefined ? undefined : ofRun + done;
  const { request, answer } = LEGACY[kind];
  const parameters = content.get(`${request}.parameters`);
  if (parameters?.kind === 'arrays') {
    const arrays = [...parameters.values].filter(([name]) => name !== NO_ARRAY).map(([, array]) => array);
    const numbered = new Map(arrays.map((array, index) => [String(index), array]));
    const keys = Object.keys(shapes).map((_, index) => String(index));
    const shared = readArrays(numbered, shapes, keys);
    return { kind, round, shared, naming: legacyNaming(answer, shapes, keys) };
  }
  const records = [...content].filter(([, record]) => record.kind === 'arrays') as [string, ArrayRecord][];
  const [first] = records;
  if (first === undefined || records.length > 1) {
    const received = records.map(([name]) => name).join(', ') || 'none';
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected one record of arrays in a message of type ${kind} but received ${received}`,
    );
  }
  const keys = Object.keys(shapes).map(publishedName);
  const shared = readArrays(first[1].values, shapes, keys);
  return { kind, round, shared, naming: messageNaming(first[0], shapes, keys, names) };
}

/** The answer to `get_parameters`, of older strategies without initial parameters. */
export function parametersAnswer(shared: Tensors, shapes: SharedShapes): RecordDict {
  const keys = Object.keys(shapes).map((_, index) => String(index));
  const parameters = writeArrays(shared, shapes, keys);
  return dict(['getparametersres.parameters', parameters], ['getparametersres.status', OK]);
}

/** The answer to `get_properties` and to `query`. */
export function propertiesAnswer(
  kind: 'get_properties' | 'query',
  properties: Record<string, ConfigValue>,
): RecordDict {
  const record = config(properties);
  if (kind === 'query') return dict(['properties', record]);
  return dict(['getpropertiesres.properties', record], ['getpropertiesres.status', OK]);
}

const OK = config({ code: 0n, message: '' });

function config(values: Record<string, ConfigValue>): ConfigRecord {
  return { kind: 'config', values: new Map(Object.entries(values)) };
}

function dict(...records: [string, ArrayRecord | MetricRecord | ConfigRecord][]): RecordDict {
  return new Map(records);
}

function messageNaming(
  arrays: string,
  shapes: SharedShapes,
  keys: readonly string[],
  names: FlowerNames,
): Naming {
  const metrics = (answer: Answer): [string, MetricRecord] => [
    names.metrics,
    numbers(answer.metrics, names.samples, answer),
  ];
  return {
    needsLoss: false,
    trained: (answer) => dict([arrays, writeArrays(answer.shared, shapes, keys)], metrics(answer)),
    evaluated: (answer) => dict(metrics(answer)),
  };
}

function legacyNaming(prefix: string, shapes: SharedShapes, keys: readonly string[]): Naming {
  const common = (answer: Answer) =>
    dict(
      [`${prefix}.num_examples`, numbers({}, 'num_examples', answer)],
      [`${prefix}.metrics`, config(answer.metrics)],
      [`${prefix}.status`, OK],
    );
  return {
    needsLoss: true,
    trained: (answer) => common(answer).set(`${prefix}.parameters`, writeArrays(answer.shared, shapes, keys)),
    evaluated: (answer) => common(answer).set(`${prefix}.loss`, numbers({ loss: answer.loss })),
  };
}

/** A record of metrics, with the number of samples last. */
function numbers(values: Record<string, number>, name?: string, answer?: Answer): MetricRecord {
  const all = new Map<string, number | bigint>(Object.entries(values));
  if (name !== undefined && answer) all.set(name, BigInt(answer.samples));
  return { kind: 'metrics', values: all };
}

/** @param keys of the arrays, in the order of the parameters */
function readArrays(
  arrays: ReadonlyMap<string, NumpyArray>,
  shapes: SharedShapes,
  keys: readonly string[],
): Tensors {
  const strange = [...arrays.keys()].filter((key) => !keys.includes(key));
  const missing = keys.filter((key) => !arrays.has(key));
  if (strange.length > 0 || missing.length > 0) {
    const some = (names: readonly string[]) => (names.length === 0 ? 'no other' : String(names[0]));
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected ${keys.length} arrays, those that travel, but received ${arrays.size}: ` +
        `${missing.length} are missing (${some(missing)}), ${strange.length} are not known (${some(strange)}); ` +
        'begin the run with arrays of this model and strategy',
    );
  }
  const entries = Object.entries(shapes).map(([name, { shape }], index): [string, Float32Array] => {
    const key = keys[index] as string;
    const array = arrays.get(key) as NumpyArray;
    if (array.shape.length !== shape.length || array.shape.some((size, axis) => size !== shape[axis])) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected shape [${shape.join(', ')}] for array ${key} (${name}) but received [${array.shape.join(', ')}]`,
      );
    }
    return [name, singlePrecision(array, key)];
  });
  return Object.fromEntries(entries);
}

function singlePrecision({ dtype, data }: NumpyArray, key: string): Float32Array {
  if (dtype === 'float32' && data instanceof Float32Array) return data;
  if (dtype === 'float64' && data instanceof Float64Array) return Float32Array.from(data);
  throw new DuetError(
    'INVALID_ARGUMENT',
    `Expected float32 or float64 for array ${key} but received ${dtype}; average in one of them`,
  );
}

function writeArrays(values: Tensors, shapes: SharedShapes, keys: readonly string[]): ArrayRecord {
  const arrays = Object.entries(shapes).map(([name, { shape }], index): [string, NumpyArray] => [
    keys[index] as string,
    { dtype: 'float32', shape: [...shape], data: values[name] as Float32Array },
  ]);
  return { kind: 'arrays', values: new Map(arrays) };
}

/** A whole number in any record of settings; undefined where there is none of this name. */
function numberOf(content: RecordDict, name: string, least: number): number | undefined {
  for (const record of content.values()) {
    const value = record.kind === 'config' ? record.values.get(name) : undefined;
    if (value === undefined) continue;
    return requireInteger(typeof value === 'bigint' ? Number(value) : value, name, least, MOST_ROUNDS);
  }
  return undefined;
}
