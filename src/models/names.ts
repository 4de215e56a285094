/**
 * Names of parameters: groups of them, and the way to and from the state dict of the published FedDAT program.
 *
 * Inside the package the encoder has Hugging Face's ViltModel names. The published program puts `vilt_encoder.vilt.` in front
 * and, because it wraps the output block of every layer, calls its dense layer `output.layer.dense`. Heads
 * (`task_layer.<task>.*`) stand beside the encoder and have no prefix.
 */

import { requireText } from '../arguments.js';
import { DuetError } from '../errors.js';

const PREFIX = 'vilt_encoder.vilt.';
const OUTPUT = /^(encoder\.layer\.\d+\.output)\.dense\./;
const PUBLISHED_OUTPUT = /^(encoder\.layer\.\d+\.output)\.layer\.dense\./;

export type AdapterName = 'adapter_0' | 'adapter_1' | 'adapter_2';

/**
 * The name of a parameter in the state dict of the published FedDAT program: `encoder.layer.0.output.dense.bias`
 * becomes `vilt_encoder.vilt.encoder.layer.0.output.layer.dense.bias`. Heads (`task_layer.<task>.*`) keep their
 * names.
 */
export function publishedName(name: string): string {
  return isHead(requireText(name, 'name')) ? name : PREFIX + name.replace(OUTPUT, '$1.layer.dense.');
}

/** Published to ours. @throws DuetError INVALID_ARGUMENT for a name of neither the encoder nor a head */
export function nameFromPublished(published: string): string {
  if (isHead(requireText(published, 'name'))) return published;
  if (!published.startsWith(PREFIX)) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected a parameter name that begins with ${PREFIX} or task_layer. but received ${published}`,
    );
  }
  return published.slice(PREFIX.length).replace(PUBLISHED_OUTPUT, '$1.dense.');
}

export function isHead(name: string): boolean {
  return name.startsWith('task_layer.');
}

export function isHeadOf(name: string, task: string): boolean {
  return requireText(name, 'name').startsWith(`task_layer.${requireText(task, 'task')}.`);
}

export function isAdapter(name: string, adapter?: AdapterName): boolean {
  requireText(name, 'name');
  return adapter === undefined
    ? /\.adapter\.adapter_[012]_/.test(name)
    : name.includes(`.adapter.${adapter}_`);
}

/** Part of the pretrained encoder: neither adapter nor head. */
export function isBackbone(name: string): boolean {
  return !isHead(name) && !isAdapter(name);
}

/** The same parameter of another adapter. */
export function otherAdapter(name: string, from: AdapterName, to: AdapterName): string {
  return name.replace(`.adapter.${from}_`, `.adapter.${to}_`);
}
