/**
 * Threads that take tasks, and how much of the work is done.
 *
 * @module
 */

import { derivedSizes, type ModelConfig } from '../../model/config.js';

/** Tasks that any of some threads can do, each thread one at a time. */
export class ThreadPool<T> {
  readonly #idle: T[];
  readonly #waiting: ((thread: T) => void)[] = [];

  constructor(threads: readonly T[]) {
    this.#idle = [...threads];
  }

  /** Runs a task on a thread that has none, as soon as there is one. */
  async run<R>(task: (thread: T) => Promise<R>): Promise<R> {
    const thread = this.#idle.shift() ?? (await new Promise<T>((resolve) => this.#waiting.push(resolve)));
    try {
      return await task(thread);
    } finally {
      const next = this.#waiting.shift();
      if (next) next(thread);
      else this.#idle.push(thread);
    }
  }
}

/** What a calibration has to do. */
export interface WorkPlan {
  readonly config: ModelConfig;
  /** Tokens of all windows. */
  readonly tokens: number;
  /** Tokens of all windows on which sensitivities are measured. */
  readonly probeTokens: number;
  /** Layers below that each set predicts from. */
  readonly predicts: readonly number[];
}

/** Kinds of steps: a token that was collected, a probe of one part of one layer on all windows, a layer of a set. */
export type WorkStep = 'tokens' | 'probes' | 'layers';

/** Progress in estimated multiply-adds, so that the time left can be told from the time gone. */
export class WorkMeter {
  readonly #costs: Readonly<Record<WorkStep, number>>;
  readonly #onProgress: (done: number, total: number) => void;
  #total: number;
  #done = 0;

  constructor(
    { config, tokens, probeTokens, predicts }: WorkPlan,
    onProgress: (done: number, total: number) => void,
  ) {
    const { hiddenSize, intermediateSize, numHiddenLayers, vocabSize } = config;
    const { kvDim, queryDim } = derivedSizes(config);
    const n = Math.min(hiddenSize, 2 * kvDim);
    const layer = hiddenSize * (2 * queryDim + 2 * kvDim + 3 * intermediateSize);
    // A probe runs half of the layers, on average, and all logits.
    const probe = probeTokens * (0.5 * numHiddenLayers * layer + hiddenSize * vocabSize);
    this.#costs = {
      tokens: numHiddenLayers * (layer + 3 * n * n),
      probes: probe,
      // Products with all tokens, and f64 work of the fit, which is about thirty times slower.
      layers: 2.5 * tokens * n * n + 30 * 10 * n ** 3,
    };
    const steps = predicts.reduce((sum, predict) => sum + (predict === 0 ? 0.1 : predict + 1), 0);
    this.#total =
      tokens * this.#costs.tokens +
      2 * numHiddenLayers * probe +
      numHiddenLayers * steps * this.#costs.layers;
    this.#onProgress = onProgress;
  }

  /** Some steps need not be done: they were kept by a run before. */
  skip(step: WorkStep, count: number): void {
    this.#total -= count * this.#costs[step];
  }

  /** Some steps are done; a fraction of one counts, too. */
  add(step: WorkStep, count: number): void {
    this.#done += count * this.#costs[step];
    this.#onProgress(Math.min(this.#done, this.#total), this.#total);
  }
}
