/** The settings a run folder remembers: everything that decides the numbers. */

import { createHash } from 'node:crypto';
import type { Vilt } from '../models/vilt.js';
import type { Tensors } from '../native/core.js';
import { type FederatedClient, taskOf } from './client.js';
import type { Federation } from './federation.js';
import type { Strategy } from './strategies/strategy.js';

/** @param initial what the model held before the run */
export async function runSettings(federation: Federation, initial: Tensors): Promise<unknown> {
  const { model, strategy, clients } = federation;
  const { runDir: _, resume: _resume, keepCheckpoints: _keep, ...settings } = federation.settings;
  return {
    strategy: strategySettings(strategy),
    ...settings,
    model: await modelSettings(model),
    clients: clients.map((client) => clientSettings(model, client)),
    initialValues: valuesFingerprint(initial),
  };
}

export function strategySettings(strategy: Strategy) {
  return { name: strategy.name, ...strategy.settings };
}

export async function modelSettings(model: Vilt) {
  const { config, compute, seed, adapterReduction } = model;
  return {
    fingerprint: await model.fingerprint(),
    inputs: model.inputsFingerprint(),
    hiddenSize: config.hidden_size,
    layers: config.num_hidden_layers,
    adapterReduction,
    compute,
    seed,
  };
}

export function clientSettings(model: Vilt, client: FederatedClient) {
  return {
    name: client.name,
    task: taskOf(client),
    classes: model.heads.get(taskOf(client)),
    samples: client.train.size,
    data: client.train.fingerprint,
    evaluationSamples: client.evaluation?.size,
    evaluationData: client.evaluation?.fingerprint,
  };
}

/** Names parameters and their values, e.g. those a run begins with: 16 digits of their SHA-256. */
export function valuesFingerprint(values: Tensors): string {
  const hash = createHash('sha256');
  for (const [name, data] of Object.entries(values)) hash.update(`${name} ${data.length} `).update(data);
  return hash.digest('hex').slice(0, 16);
}
