/**
 * How well a cache reads a text that is not its own: the one of lane 1, so that the losses of both lanes can be compared.
 *
 * As long as the lanes agree, a lane has read that text anyway, and nothing more is run. Where they part, a copy of its cache
 * goes on with the tokens of lane 1.
 *
 * @module
 */

import { CachedSequence } from '../../ts/src/generate.js';
import type { LanguageModel } from '../../ts/src/model/language-model.js';
import { row } from '../../ts/src/numerics/matrix.js';
import { logSumExp } from '../../ts/src/sampling.js';
import { disposeCache } from './inspect.js';

/** Mean negative log-likelihood of tokens. */
export class Loss {
  #sum = 0;
  #tokens = 0;

  /** @param logits [vocabSize], what was said before `id` came */
  add(logits: Float32Array, id: number): void {
    this.#sum += logSumExp(logits) - logits[id];
    this.#tokens++;
  }

  /** Nats a token; NaN before the first. */
  get mean(): number {
    return this.#sum / this.#tokens;
  }
}

/** See the module. */
export class SameText {
  readonly #model: LanguageModel;
  readonly #loss: Loss;
  /** After the lanes have parted. */
  #copy: CachedSequence | undefined;
  /** The newest token of the text, which the copy has not read. */
  #newest = 0;

  /** @param loss that of the prompt, which both lanes have read */
  constructor(model: LanguageModel, loss: Loss) {
    this.#model = model;
    this.#loss = loss;
  }

  /**
   * Counts the next token of the text.
   *
   * @param id of the text
   * @param own what the lane has chosen for the same place, if it still writes
   * @param sequence of the lane, which has read all before this place
   * @param logits of the lane for this place; not used after the lanes have parted
   */
  async next(
    id: number,
    own: number | undefined,
    sequence: CachedSequence,
    logits: Float32Array,
    signal: AbortSignal,
  ): Promise<void> {
    if (this.#copy) {
      const read = await this.#copy.run(this.#model, [this.#newest], { signal });
      this.#loss.add(row(read, 0), id);
    } else {
      this.#loss.add(logits, id);
      if (own !== id) this.#copy = new CachedSequence(sequence.cache.clone(), sequence.tokens);
    }
    this.#newest = id;
  }

  dispose(): void {
    if (this.#copy) disposeCache(this.#copy.cache);
    this.#copy = undefined;
  }
}
