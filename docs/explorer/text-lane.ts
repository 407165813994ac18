/**
 * A text that grows in the worker: one lane.
 *
 * This is not `generate`, because two lanes take turns token by token, and because losses are counted: of the prompt, which
 * needs the logits of all its tokens, and of the text of lane 1, which the other lane reads.
 *
 * @module
 */

import { float16KeyValueBytes } from '../../ts/src/analysis/memory.js';
import { planBytes } from '../../ts/src/engine/plan-bytes.js';
import { type CachedSequence, PREFILL_CHUNK, type StreamingDecoder } from '../../ts/src/generate.js';
import { memoryTotals } from '../../ts/src/memory-totals.js';
import type { LanguageModel } from '../../ts/src/model/language-model.js';
import { row } from '../../ts/src/numerics/matrix.js';
import { Sampler } from '../../ts/src/sampling.js';
import type { Tokenizer } from '../../ts/src/text/tokenizer.js';
import { disposeCache } from './inspect.js';
import type { LaneReport, RunOptions } from './protocol.js';
import { Loss, SameText } from './same-text.js';

/** Above this, the loss of the prompt is not computed: it needs the logits of all its tokens. */
const LOGITS_LIMIT_BYTES = 64 * 2 ** 20;

/** A model and what belongs to it. */
export interface LoadedModel {
  readonly model: LanguageModel;
  readonly tokenizer: Tokenizer;
  readonly fingerprint: string;
}

/** See the module. */
export class TextLane {
  readonly sequence: CachedSequence;
  readonly #loaded: LoadedModel;
  readonly #sampler: Sampler;
  readonly #decoder: StreamingDecoder;
  readonly #history: number[];
  #logits: Float32Array | undefined;
  #waiting: number[];
  readonly #loss = new Loss();
  #hasLoss = true;
  /** Reads the text of another lane; absent if this lane is scored on its own. */
  #sameText: SameText | undefined;
  #generated = 0;
  readonly #generatedBefore: number;
  #seconds = 0;
  #stopped: string | undefined;

  /**
   * @param waiting ids that have not been run
   * @param generatedBefore how many of the newest ids an earlier run chose: its random numbers are passed over
   */
  constructor(
    loaded: LoadedModel,
    sequence: CachedSequence,
    waiting: readonly number[],
    generatedBefore: number,
    options: RunOptions,
  ) {
    const { seed, temperature } = options;
    this.#loaded = loaded;
    this.sequence = sequence;
    this.#waiting = [...waiting];
    this.#history = [...sequence.tokens, ...waiting];
    this.#sampler = new Sampler({ seed, temperature, topK: 40, topP: 0.95, minP: 0.05 });
    this.#generatedBefore = generatedBefore;
    this.#sampler.skip(generatedBefore);
    this.#decoder = loaded.tokenizer.createDecoder(this.#history);
  }

  /** Ids that follow what the cache holds. */
  get pending(): readonly number[] {
    return this.#waiting;
  }

  /** How many of all ids were generated, by this run and those before: the newest ones. */
  get generated(): number {
    return this.#generatedBefore + this.#generated;
  }

  get stopped(): boolean {
    return this.#stopped !== undefined;
  }

  /** Runs what has not been run. */
  async catchUp(signal: AbortSignal): Promise<void> {
    const { model } = this.#loaded;
    const { vocabSize } = model.config;
    while (this.#waiting.length > 0) {
      const chunk = this.#waiting.slice(0, PREFILL_CHUNK);
      const all = chunk.length > 1 && chunk.length * vocabSize * 4 <= LOGITS_LIMIT_BYTES;
      const logits = await this.sequence.run(model, chunk, { logits: all ? 'all' : 'last', signal });
      this.#waiting = this.#waiting.slice(chunk.length);
      if (all) {
        for (let t = 0; t + 1 < chunk.length; t++) this.#loss.add(row(logits, t), chunk[t + 1]);
      }
      this.#logits = row(logits, logits.rows - 1);
    }
  }

  /**
   * Counts the loss of the text of lane 1 in place of that of its own.
   *
   * @param first lane 1; if it begins in another way, there is no text of both, and no loss
   */
  readTextOf(first: TextLane): void {
    this.#hasLoss = String(this.#history) === String(first.#history);
    if (this.#hasLoss) this.#sameText = new SameText(this.#loaded.model, this.#loss);
  }

  /** The text that this lane reads goes on, though its own has ended. */
  async read(lane: number, id: number, signal: AbortSignal): Promise<LaneReport> {
    await this.#sameText?.next(id, undefined, this.sequence, this.#logits as Float32Array, signal);
    return this.report(lane);
  }

  /**
   * Chooses one token and runs it when the next is asked for.
   *
   * @param read the token of the text that this lane reads, for the same place
   */
  async step(lane: number, last: boolean, signal: AbortSignal, read?: number): Promise<LaneReport> {
    const started = performance.now();
    await this.catchUp(signal);
    const { tokenizer, model } = this.#loaded;
    const logits = this.#logits as Float32Array;
    const token = this.#sampler.sample(logits, this.#history);
    this.#history.push(token.id);
    if (!this.#sameText) this.#loss.add(logits, token.id);
    const ended = tokenizer.eosTokenIds.includes(token.id);
    if (!ended) {
      this.#waiting = [token.id];
      this.#generated++;
    }
    if (ended) this.#stopped = 'the model ended the text';
    else if (this.sequence.tokens.length + 1 >= model.config.maxPositionEmbeddings) {
      this.#stopped = 'the context of the model is full';
    } else if (last) this.#stopped = 'all tokens generated';
    let text = ended ? '' : this.#decoder.push(token.id);
    if (this.#stopped !== undefined) text += this.#decoder.flush();
    this.#seconds += (performance.now() - started) / 1000;
    if (read !== undefined) await this.#sameText?.next(read, token.id, this.sequence, logits, signal);
    return { ...this.report(lane), text, id: token.id };
  }

  report(lane: number): LaneReport {
    const { cache } = this.sequence;
    const { config } = this.#loaded.model;
    const bytes = cache.bytes();
    const float16Bytes = float16KeyValueBytes(config, cache.length);
    return {
      lane,
      text: '',
      generated: this.#generated,
      length: cache.length,
      bytes,
      float16Bytes,
      totalBytes: memoryTotals(bytes, planBytes(cache.options, config), float16Bytes).total,
      seconds: this.#seconds,
      loss: this.#hasLoss ? this.#loss.mean : Number.NaN,
      stopped: this.#stopped,
    };
  }

  /** Starts the clock again, after the prompt. */
  resetClock(): void {
    this.#seconds = 0;
  }

  dispose(): void {
    this.#sameText?.dispose();
    disposeCache(this.sequence.cache);
  }
}
