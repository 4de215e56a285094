/**
 * What a site remembers between rounds, and how it is laid out in a checkpoint:
 *
 * ```
 * personal/<parameter>    what stays with the site
 * received/<parameter>    shared parameters as the site last received them
 * update/<parameter>      what it answered to its last training
 * ```
 */

import { z } from 'zod';
import type { Vilt } from '../models/vilt.js';
import type { Tensors } from '../native/core.js';
import type { Checkpoint } from '../run/run-folder.js';
import type { LocalReport } from './client.js';
import type { ClientState } from './client-round.js';
import { packGroups, unpackGroups } from './state.js';

/** What a site answers to a training. */
export interface SiteUpdate {
  /** Training samples: the weight of this update. */
  samples: number;
  /** The shared parameters as the site trained them. */
  shared: Tensors;
  report: LocalReport;
}

export interface SiteState extends ClientState {
  /** Of the last training; 0 before the first. */
  round: number;
  /** Round of the state that training began from. */
  before: number;
  /** The last training: id of its task, and the answer. */
  last?: { id: string; update: SiteUpdate };
}

const metadataSchema = z.object({
  format: z.literal('duet-site-1'),
  round: z.int().min(1),
  before: z.int().min(0),
  id: z.string(),
  samples: z.int().min(1),
  report: z.object({
    client: z.string(),
    samples: z.number(),
    batches: z.number(),
    loss: z.number(),
    losses: z.record(z.string(), z.number()),
    trainAccuracy: z.number(),
    learningRate: z.number(),
  }),
});

export function packSite(model: Vilt, state: SiteState & Required<Pick<SiteState, 'last'>>): Checkpoint {
  const { round, before, personal, received, last } = state;
  const { samples, shared, report } = last.update;
  const about = { format: 'duet-site-1', round, before, id: last.id, samples, report };
  return packGroups(model, { personal, received, update: shared }, about);
}

/** @throws DuetError CORRUPT when the content is not a checkpoint of a site */
export function unpackSite(content: Checkpoint, path: string): SiteState {
  const pattern = /^(personal|received|update)\/(.*)$/;
  const { about, groups } = unpackGroups(content, metadataSchema, pattern, path);
  const { round, before, id, samples, report } = about;
  const [personal = {}, received = {}, shared = {}] = ['personal', 'received', 'update'].map((group) =>
    groups.get(group),
  );
  return { round, before, personal, received, last: { id, update: { samples, shared, report } } };
}
