/** The settings a run folder remembers: everything that decides the numbers of a federation. */

import { taskOf } from './client.js';
import type { Federation } from './federation.js';

export async function runSettings(federation: Federation): Promise<unknown> {
  const { model, strategy, clients } = federation;
  const { runDir: _, resume: _resume, keepCheckpoints: _keep, ...settings } = federation.settings;
  const { config, compute, seed, adapterReduction } = model;
  return {
    strategy: { name: strategy.name, ...strategy.settings },
    ...settings,
    model: {
      fingerprint: await model.fingerprint(),
      inputs: model.inputsFingerprint(),
      hiddenSize: config.hidden_size,
      layers: config.num_hidden_layers,
      adapterReduction,
      compute,
      seed,
    },
    clients: clients.map((client) => ({
      name: client.name,
      task: taskOf(client),
      classes: model.heads.get(taskOf(client)),
      samples: client.train.size,
      data: client.train.fingerprint,
      evaluationSamples: client.evaluation?.size,
      evaluationData: client.evaluation?.fingerprint,
    })),
  };
}
