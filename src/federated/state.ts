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
import type { Checkpoint } from '../run/run-folder.js';
import { validated } from '../validation.js';
import type { ClientState } from './client-round.js';

export interface FederationState {
  /** Rounds done. */
  round: number;
  shared: Tensors;
  clients: ClientState[];
  optimizer?: Tensors | undefined;
  best?: { round: number; accuracy: number } | undefined;
}

const metadataSchema = z.object({
  format: z.literal('duet-federation-1'),
  round: z.int().min(0),
  received: z.array(z.int().min(0)),
  best: z.object({ round: z.int(), accuracy: z.number() }).optional(),
});

export function packState(model: Vilt, state: FederationState): Checkpoint {
  const groups: Record<string, Tensors> = { shared: state.shared };
  // Clients of one round received the same tensors: each set is stored once.
  const sets = [...new Set(state.clients.map((client) => client.received))];
  for (const [number, set] of sets.entries()) groups[`received/${number}`] = set;
  for (const [index, client] of state.clients.entries()) groups[`client/${index}`] = client.personal;
  groups.optimizer = state.optimizer ?? {};
  const about = {
    format: 'duet-federation-1',
    round: state.round,
    received: state.clients.map((client) => sets.indexOf(client.received)),
    best: state.best,
  };
  return packGroups(model, groups, about);
}

/** @throws DuetError CORRUPT when the content is not a checkpoint of this federation */
export function unpackState(content: Checkpoint, clients: number, path: string): FederationState {
  const pattern = /^(shared|optimizer|client\/\d+|received\/\d+)\/(.*)$/;
  const { about, groups } = unpackGroups(content, metadataSchema, pattern, path);
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

/** Tensors in groups, `<group>/<parameter>`, and what else there is to know. */
export function packGroups(model: Vilt, groups: Record<string, Tensors>, about: object): Checkpoint {
  const tensors: Record<string, TensorData> = {};
  for (const [group, values] of Object.entries(groups)) {
    for (const [name, tensor] of Object.entries(model.withShapes(values)))
      tensors[`${group}/${name}`] = tensor;
  }
  return { tensors, metadata: { duet: JSON.stringify(about) } };
}

/**
 * What `packGroups` made.
 * @param pattern finds group and parameter in the name of a tensor
 * @throws DuetError CORRUPT for anything else
 */
export function unpackGroups<S extends z.ZodType>(
  content: Checkpoint,
  schema: S,
  pattern: RegExp,
  path: string,
): { about: z.output<S>; groups: Map<string, Tensors> } {
  const about = validated(schema, parsed(content.metadata.duet), `checkpoint ${path}`, 'CORRUPT');
  const groups = new Map<string, Tensors>();
  for (const [key, { data }] of Object.entries(content.tensors)) {
    const [, group, name] = pattern.exec(key) ?? [];
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
  return { about, groups };
}

function parsed(text: string | undefined): unknown {
  try {
    return JSON.parse(text ?? 'null');
  } catch {
    return null;
  }
}
