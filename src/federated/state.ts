/**
 * What a federation remembers between rounds, and how it is laid out in a checkpoint:
 *
 * ```
 * shared/<parameter>               the server's shared parameters
 * client/<index>/<parameter>       what stays with a client
 * received/<number>/<parameter>    shared parameters as clients last received them; metadata says who received which
 * optimizer/<key>                  only for strategies that keep their optimizer
 * ```
 *
 * No state of a random generator is needed: draws are named by seed and round (see streams.ts).
 */

import { z } from 'zod';
import { DuetError } from '../errors.js';
import type { Vilt } from '../models/vilt.js';
import type { TensorData, Tensors } from '../native/core.js';
import { validated } from '../validation.js';

export interface FederationState {
  /** Rounds done. */
  round: number;
  shared: Tensors;
  clients: ClientState[];
  optimizer?: Tensors | undefined;
  best?: { round: number; accuracy: number } | undefined;
}

export interface ClientState {
  personal: Tensors;
  /** Shared parameters as this client last received them. */
  received: Tensors;
}

const metadataSchema = z.object({
  format: z.literal('duet-federation-1'),
  round: z.int().min(0),
  received: z.array(z.int().min(0)),
  best: z.object({ round: z.int(), accuracy: z.number() }).optional(),
});

export interface CheckpointContent {
  tensors: Record<string, TensorData>;
  metadata: Record<string, string>;
}

export function packState(model: Vilt, state: FederationState): CheckpointContent {
  const tensors: Record<string, TensorData> = {};
  const put = (prefix: string, values: Tensors) => {
    for (const [name, tensor] of Object.entries(model.withShapes(values))) tensors[prefix + name] = tensor;
  };
  put('shared/', state.shared);
  // Clients of one round received the same tensors: each set is stored once.
  const sets = [...new Set(state.clients.map((client) => client.received))];
  for (const [number, set] of sets.entries()) put(`received/${number}/`, set);
  for (const [index, client] of state.clients.entries()) put(`client/${index}/`, client.personal);
  put('optimizer/', state.optimizer ?? {});
  const about = {
    format: 'duet-federation-1',
    round: state.round,
    received: state.clients.map((client) => sets.indexOf(client.received)),
    best: state.best,
  };
  return { tensors, metadata: { duet: JSON.stringify(about) } };
}

/** @throws DuetError CORRUPT when the content is not a checkpoint of this federation */
export function unpackState(content: CheckpointContent, clients: number, path: string): FederationState {
  const about = validated(metadataSchema, parsed(content.metadata.duet), `checkpoint ${path}`, 'CORRUPT');
  const groups = new Map<string, Tensors>();
  for (const [key, { data }] of Object.entries(content.tensors)) {
    const [, group, name] = /^(shared|optimizer|client\/\d+|received\/\d+)\/(.*)$/.exec(key) ?? [];
    if (group === undefined || name === undefined || !(data instanceof Float32Array)) {
      throw new DuetError(
        'CORRUPT',
        `Expected tensors of a federation checkpoint in ${path} but found ${key}`,
      );
    }
    const values = groups.get(group) ?? {};
    groups.set(group, values);
    values[name] = data;
  }
  if (about.received.length !== clients) {
    throw new DuetError(
      'CORRUPT',
      `Expected ${clients} clients in ${path} but found ${about.received.length}`,
    );
  }
  const empty = new Map<number, Tensors>();
  const receivedSet = (number: number): Tensors => {
    const set = groups.get(`received/${number}`) ?? empty.get(number) ?? {};
    empty.set(number, set);
    return set;
  };
  return {
    round: about.round,
    shared: groups.get('shared') ?? {},
    clients: about.received.map((number, index) => ({
      personal: groups.get(`client/${index}`) ?? {},
      received: receivedSet(number),
    })),
    optimizer: groups.get('optimizer'),
    best: about.best,
  };
}

function parsed(text: string | undefined): unknown {
  try {
    return JSON.parse(text ?? 'null');
  } catch {
    return null;
  }
}
