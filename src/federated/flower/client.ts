/**
 * A site as a node of a Flower SuperLink: train and evaluate messages of a stock ServerApp become tasks of the site.
 *
 * Metrics of a training: `train_loss` (what was minimised) and `train_acc`. Of an evaluation: `eval_acc` (the first mode of the
 * strategy), `eval_loss` (1 - `eval_acc`: the older strategies want a loss, and an evaluation computes none), and `eval_acc_<mode>`
 * for every mode. Their names are the same in every round, because a strategy ends the run when they differ.
 */

import { join } from 'node:path';
import { requireInstance, requireList, requireObject } from '../../arguments.js';
import { DuetError } from '../../errors.js';
import type { Tensors } from '../../native/core.js';
import { packageVersion } from '../../run/versions.js';
import type { ClientEvaluation } from '../evaluation.js';
import { Site, type SiteUpdate } from '../site.js';
import { FolderMessageStore, type MessageStore } from './message-store.js';
import {
  FLOWER_NAMES,
  type FlowerNames,
  parametersAnswer,
  propertiesAnswer,
  readRequest,
  type SharedShapes,
  type TrainingRequest,
} from './naming.js';
import { FlowerNode, type NodeHandler } from './node.js';
import type { NodeEvents } from './node-events.js';
import type { FlowerMessage, RecordDict } from './records.js';
import type { FlowerConnection } from './transport.js';

/** What a site's answers have in them. */
export interface FlowerAnswers {
  /** Names an app chose itself. */
  names?: Partial<FlowerNames>;
  /**
   * The metrics that are answered, where other nodes of the federation have fewer. Default: all. With none, an answer has the number
   * of samples alone, and evaluations for the older strategies, whose answer is a loss, are refused.
   */
  metrics?: readonly string[];
}

/** How a site takes part in the runs of a SuperLink. */
export interface FlowerClientOptions extends FlowerConnection, FlowerAnswers {
  site: Site;
  /** Ends it: it answers what it has begun, and leaves. */
  signal: AbortSignal;
  /** What it was asked and what it answered, for a node that comes back. Default: the folder `messages` of the site's run folder. */
  store?: MessageStore;
  /** What the SuperLink is told; it takes 10 to 1800 and gives a node up after twice as long. Default 30. */
  heartbeatSeconds?: number;
  /** Between two questions for messages. Default 3. */
  pollSeconds?: number;
  /** Told of states, messages, retries and bytes. */
  events?: NodeEvents;
}

/**
 * A site as a node of a Flower SuperLink.
 *
 * ```ts
 * await FlowerClient.run({ superlink: 'fl.example.org:9092', tls: { ca }, keys: { privateKey }, site, signal });
 * ```
 */
export class FlowerClient implements NodeHandler {
  readonly site: Site;
  readonly #names: FlowerNames;
  readonly #metrics: readonly string[] | undefined;
  readonly #shapes: SharedShapes;

  /**
   * Answers messages, for a node of the caller's own.
   * @throws DuetError INVALID_ARGUMENT for a metric that is not known
   */
  constructor(site: Site, options: FlowerAnswers = {}) {
    this.site = requireInstance(site, Site, 'site', 'open one with Site.open');
    const { names, metrics } = requireObject(options, 'options');
    this.#names = { ...FLOWER_NAMES, ...names };
    this.#shapes = site.initialShared();
    const known = [...TRAINING_METRICS, ...evaluationMetrics(site)];
    const strange = metrics && [...requireList(metrics, 'metrics')].find((name) => !known.includes(name));
    if (strange !== undefined) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected metrics among ${known.join(', ')} but received ${strange}`,
      );
    }
    this.#metrics = metrics;
  }

  /**
   * Takes part until the signal is aborted.
   * @throws DuetError UNAUTHENTICATED for a SuperLink that refuses this node, UNSUPPORTED for one of another version or without TLS,
   *   INVALID_ARGUMENT for options that cannot work
   */
  static async run(options: FlowerClientOptions): Promise<void> {
    const { site, signal, names, metrics, store, heartbeatSeconds, pollSeconds, events, ...connection } =
      requireObject(options, 'options');
    const handler = new FlowerClient(site, { ...(names && { names }), ...(metrics && { metrics }) });
    const node = new FlowerNode({
      connection,
      handler,
      store: store ?? new FolderMessageStore(join(site.settings.runDir, 'messages')),
      ...(heartbeatSeconds !== undefined && { heartbeatSeconds }),
      ...(pollSeconds !== undefined && { pollSeconds }),
      ...(events && { events }),
    });
    await node.run(signal);
  }

  /**
   * Answers a message.
   * @throws DuetError UNSUPPORTED and INVALID_ARGUMENT for one that is not understood, and what the site throws
   */
  async handle(message: FlowerMessage, signal?: AbortSignal): Promise<RecordDict> {
    const request = readRequest(message, this.#shapes, this.#names);
    const id = message.metadata.messageId;
    const options = signal ? { signal } : {};
    switch (request.kind) {
      case 'train': {
        const { round = this.site.round + 1, shared } = request;
        return this.#trained(request, await this.site.train({ id, round, shared }, options));
      }
      case 'evaluate': {
        if (request.naming.needsLoss && this.#metrics?.length === 0) {
          throw new DuetError(
            'UNSUPPORTED',
            `Expected a training for site ${this.site.client.name}, which answers no metrics, but received an evaluation`,
          );
        }
        const { round = this.site.round, shared } = request;
        return this.#evaluated(request, await this.site.evaluate({ id, round, shared }, options));
      }
      case 'get_parameters':
        return parametersAnswer(this.#initial(), this.#shapes);
      default:
        return propertiesAnswer(request.kind, this.#properties());
    }
  }

  #trained({ naming }: TrainingRequest, { samples, shared, report }: SiteUpdate): RecordDict {
    const metrics = { train_loss: report.loss, train_acc: report.trainAccuracy };
    return naming.trained({ samples, shared, metrics: this.#chosen(metrics) });
  }

  #evaluated({ naming }: TrainingRequest, evaluation: ClientEvaluation | undefined): RecordDict {
    const { client, strategy } = this.site;
    if (!evaluation) {
      throw new DuetError(
        'NOT_FOUND',
        `Expected evaluation data for site ${client.name} but it has none; sample it for training only`,
      );
    }
    const { samples, accuracy } = evaluation;
    const first = accuracy[strategy.evaluations[0]?.name ?? ''] ?? 0;
    const modes = strategy.evaluations.map(({ name }) => [`eval_acc_${name}`, accuracy[name] ?? 0]);
    const metrics = { eval_loss: 1 - first, eval_acc: first, ...Object.fromEntries(modes) };
    return naming.evaluated({ samples, loss: metrics.eval_loss, metrics: this.#chosen(metrics) });
  }

  #chosen(metrics: Record<string, number>): Record<string, number> {
    const wanted = this.#metrics;
    if (wanted === undefined) return metrics;
    return Object.fromEntries(Object.entries(metrics).filter(([name]) => wanted.includes(name)));
  }

  #initial(): Tensors {
    return Object.fromEntries(
      Object.entries(this.site.initialShared()).map(([name, { data }]) => [name, data as Float32Array]),
    );
  }

  #properties() {
    const { client, strategy } = this.site;
    return {
      client: client.name,
      strategy: strategy.name,
      'train-examples': BigInt(client.train.size),
      'evaluate-examples': BigInt(client.evaluation?.size ?? 0),
      'duet-train': packageVersion(),
    };
  }
}

const TRAINING_METRICS = ['train_loss', 'train_acc'];

function evaluationMetrics({ strategy }: Site): string[] {
  return ['eval_loss', 'eval_acc', ...strategy.evaluations.map(({ name }) => `eval_acc_${name}`)];
}
