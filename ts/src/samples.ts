/**
 * Several continuations of one prompt, side by side: the prompt runs once, and from then on every pass takes the
 * next token of each. Blocks of the prompt are rematerialized once for all of them.
 *
 *     for await (const { sample, text } of generateSamples(model, tokenizer, 'Call me', { samples: 4, temperature: 1 }))
 *
 * Sample i is what `generate` gives with seed `seed + i`, but for the rounding of sums that a pass of several rows
 * takes in another order.
 *
 * @module
 */

import type { ModelCache } from './cache/contract.js';
import type { CacheRequest } from './cache/options.js';
import { assertPositiveInteger } from './errors.js';
import {
  CachedSequence,
  type GeneratedToken,
  type GenerateOptions,
  Generation,
  type GenerationSummary,
  type GenerationTokenizer,
  type PromptRun,
  runPrompt,
} from './generate.js';
import type { BatchOptions, ForwardOptions, LanguageModel } from './model/language-model.js';
import { type Matrix, matrix, row } from './numerics/matrix.js';

/** How to generate several samples. They share passes, which takes the place of guessing. */
export interface SampleOptions extends Omit<GenerateOptions, 'speculate' | 'onSpeculation'> {
  /** How many. */
  readonly samples: number;
}

/** One token of one sample. */
export interface SampleToken extends GeneratedToken {
  /** Number of the sample, from 0. */
  readonly sample: number;
}

/**
 * Starts a generation of several samples. Nothing runs before it is iterated or finished.
 *
 * @param prompt text, or ids as they are
 * @param options `seed` is that of the first sample; a cache given is the first sample's
 * @throws {ConfigError} if the prompt is empty or longer than the context, or an option is outside its set
 * @throws {RangeError} if a number is outside its range
 */
export function generateSamples(
  model: LanguageModel,
  tokenizer: GenerationTokenizer,
  prompt: string | ArrayLike<number>,
  options: SampleOptions,
): SampleGeneration {
  return new SampleGeneration(model, tokenizer, prompt, options);
}

/** Samples that are being generated: iterate it for tokens, or let it finish. It runs once. */
export class SampleGeneration implements AsyncIterable<SampleToken> {
  readonly #passes: JoinedPasses;
  readonly #generations: Generation[];
  readonly #start: (sample: number, cache: CachedSequence | CacheRequest | string | undefined) => Generation;
  readonly #samples: number;
  readonly #steps: AsyncGenerator<SampleToken, void, undefined>;
  #prompted: Promise<PromptRun> | undefined;

  /** @see generateSamples */
  constructor(
    model: LanguageModel,
    tokenizer: GenerationTokenizer,
    prompt: string | ArrayLike<number>,
    options: SampleOptions,
  ) {
    const { samples, seed = 0, ...rest } = options;
    assertPositiveInteger(samples, 'samples');
    this.#samples = samples;
    this.#passes = new JoinedPasses(model, samples);
    const prompted = () => {
      const [first] = this.#generations;
      this.#prompted ??= runPrompt(model, first.sequence, first.prompt, options);
      return this.#prompted;
    };
    const own = (cache: GenerateOptions['cache'], sample: number) =>
      ({ cache, seed: seed + sample, speculate: 'off' }) as const;
    this.#start = (sample, cache) =>
      new Generation(this.#passes, tokenizer, prompt, { ...rest, ...own(cache, sample) }, prompted);
    // The others begin with a copy of this one's cache, once it holds the prompt.
    this.#generations = [this.#start(0, options.cache)];
    this.#steps = this.#run(prompted);
  }

  /** The tokens of all samples, as they come. Leaving the loop ends the generation. */
  [Symbol.asyncIterator](): AsyncGenerator<SampleToken, void, undefined> {
    return this.#steps;
  }

  /** The generations of the samples; all of them once the prompt has run. */
  get generations(): readonly Generation[] {
    return this.#generations;
  }

  /** Runs what is left and tells what was done, sample by sample. */
  async finish(): Promise<GenerationSummary[]> {
    for await (const _token of this.#steps) {
      // Each step adds to the summaries.
    }
    return this.#generations.map(({ summary }) => summary);
  }

  async *#run(prompted: () => Promise<PromptRun>): AsyncGenerator<SampleToken, void, undefined> {
    await prompted();
    const [{ sequence }] = this.#generations;
    for (let sample = 1; sample < this.#samples; sample++) {
      const copy = new CachedSequence(sequence.cache.clone(), sequence.tokens);
      this.#generations.push(this.#start(sample, copy));
    }
    let running = this.#generations.map((generation, sample) => ({
      sample,
      steps: generation[Symbol.asyncIterator](),
    }));
    try {
      while (running.length > 0) {
        const steps = await settled(
          running.map(async (each) => {
            let token: GeneratedToken | undefined;
            try {
              token = (await each.steps.next()).value ?? undefined;
            } finally {
              if (!token) this.#passes.leave(); // it has ended, or failed: the others must not wait for it
            }
            return { each, token };
          }),
        );
        running = steps.filter(({ token }) => token).map(({ each }) => each);
        for (const { each, token } of steps) if (token) yield { ...token, sample: each.sample };
      }
    } finally {
      // An error, or the caller has left the loop: the summaries say so.
      for (const { steps } of running) await steps.return();
    }
  }
}

/** A model for several generations in step: waits for a pass of each, and runs all in one. */
class JoinedPasses implements LanguageModel {
  readonly config: LanguageModel['config'];
  readonly backend: string;
  readonly #model: LanguageModel;
  #members: number;
  #waiting: {
    readonly tokens: ArrayLike<number>;
    readonly cache: ModelCache;
    readonly options: ForwardOptions;
    readonly resolve: (logits: Matrix) => void;
    readonly reject: (error: unknown) => void;
  }[] = [];

  constructor(model: LanguageModel, members: number) {
    this.config = model.config;
    this.backend = model.backend;
    this.#model = model;
    this.#members = members;
  }

  createCache(request: CacheRequest | string): ModelCache {
    return this.#model.createCache(request);
  }

  forward(tokens: ArrayLike<number>, cache: ModelCache, options: ForwardOptions = {}): Promise<Matrix> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ tokens, cache, options, resolve, reject });
      this.#runIfComplete();
    });
  }

  forwardBatch(
    tokens: readonly ArrayLike<number>[],
    caches: readonly ModelCache[],
    options?: BatchOptions,
  ): Promise<Matrix> {
    return this.#model.forwardBatch(tokens, caches, options);
  }

  /** One of the generations has ended and will ask for no more passes. */
  leave(): void {
    this.#members--;
    this.#runIfComplete();
  }

  dispose(): void | Promise<void> {
    return this.#model.dispose();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#model[Symbol.asyncDispose]();
  }

  #runIfComplete(): void {
    const all = this.#waiting;
    if (all.length === 0 || all.length < this.#members) return;
    this.#waiting = [];
    const [{ options }] = all;
    const pass = this.#model.forwardBatch(
      all.map(({ tokens }) => tokens),
      all.map(({ cache }) => cache),
      { signal: options.signal },
    );
    pass.then(
      (logits) => {
        for (const [i, { resolve }] of all.entries()) {
          resolve(matrix(1, logits.columns, row(logits, i)));
        }
      },
      (error: unknown) => {
        for (const { reject } of all) reject(error);
      },
    );
  }
}

/** Waits for all; throws the first error, if there is one, when none runs any more. */
async function settled<T>(promises: readonly Promise<T>[]): Promise<T[]> {
  const results = await Promise.allSettled(promises);
  return results.map((result) => {
    if (result.status === 'rejected') throw result.reason;
    return result.value;
  });
}
