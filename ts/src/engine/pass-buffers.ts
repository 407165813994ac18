/**
 * Every buffer of a pass, with its shape. R rows go through the layers together; M of them at a time through the MLP.
 *
 * Buffers of passes of few rows are kept from pass to pass, so that decoding allocates nothing; those of a prefill
 * are given back after it.
 *
 * @module
 */

import type { ModelConfig } from '../model/config.js';
import { derivedSizes } from '../model/config.js';
import type { CachePlan } from './cache-host.js';
import type { Softmax } from './calls.js';
import type { Pointer } from './kernels.js';
import type { LinearMemory } from './memory.js';
import { type Activations, activationTileBytes, chunkRows } from './placed-weights.js';

/** Rows that go through the MLP together, about: this bounds its buffers. */
const MLP_ROWS = 256;

/** Bytes of logits computed at once. */
const LOGITS_BYTES = 16 * 2 ** 20;

/** The counts that the sizes of buffers depend on. */
export interface PassSize {
  /** R. */
  readonly rows: number;
  /** Columns of the finished keys of the pass's own tokens. */
  readonly ownColumns: number;
  /** Rows of which logits are wanted. */
  readonly logitRows: number;
}

/** See the module. f32 unless said otherwise. */
export class PassBuffers {
  readonly size: PassSize;
  readonly plan: CachePlan;
  /** The residual stream, [R, hiddenSize]. */
  readonly stream: Pointer;
  /** The increment of attention, then of the MLP, to the stream, [R, hiddenSize]. */
  readonly delta: Pointer;
  /** Input of attention, then of the MLP, [R, hiddenSize], with its tiles. */
  readonly x: Activations;
  /** x before the gain of its norm, [R, hiddenSize]. */
  readonly normalized: Pointer;
  /** [R, queryDim] */
  readonly queries: Pointer;
  /** Exact keys (before RoPE) and values of the pass's own tokens, [R, kvDim] each. */
  readonly keys: Pointer;
  readonly values: Pointer;
  /** Latents of x, [R, widest latent] each; 0 where no layer stores latents. */
  readonly latents: readonly [key: Pointer, value: Pointer];
  /** Averages of values, [R, queryDim], with their tiles. */
  readonly attended: Activations;
  /** Running softmaxes, [R, heads], that end as `attended`. */
  readonly softmax: Softmax;
  /** Finished keys of the pass's own tokens, run by run, each [kvDim, tokens rounded up to 8]. */
  readonly ownKeysT: Pointer;
  /** Gate, then gated, [M, intermediateSize], with its tiles. */
  readonly mlp: Activations;
  /** [M, intermediateSize] */
  readonly up: Pointer;
  /** [rows of one go, vocabSize] */
  readonly logits: Pointer;
  /** Rows of logits computed at once. */
  readonly logitRows: number;
  readonly #memory: LinearMemory;
  readonly #owned: Pointer[] = [];
  readonly #growing = new Map<string, { pointer: Pointer; bytes: number }>();

  /** @throws {MemoryError} if there is no room; nothing is taken then */
  constructor(memory: LinearMemory, config: ModelConfig, plan: CachePlan, size: PassSize) {
    this.#memory = memory;
    this.size = size;
    this.plan = plan;
    const { hiddenSize, intermediateSize, numAttentionHeads, vocabSize } = config;
    const { kvDim, queryDim } = derivedSizes(config);
    const { rows, ownColumns, logitRows } = size;
    const floats = (count: number, columns: number): Pointer => this.#take(count * columns * 4);
    try {
      this.stream = floats(rows, hiddenSize);
      this.delta = floats(rows, hiddenSize);
      this.x = this.#activations(rows, hiddenSize);
      this.normalized = floats(rows, hiddenSize);
      this.queries = floats(rows, queryDim);
      this.keys = floats(rows, kvDim);
      this.values = floats(rows, kvDim);
      const latent = Math.max(0, ...plan.layers.flatMap(({ down }) => down.map(({ outputs }) => outputs)));
      this.latents = latent > 0 ? [floats(rows, latent), floats(rows, latent)] : [0, 0];
      this.attended = this.#activations(rows, queryDim);
      const [maxima, sums] = [floats(rows, numAttentionHeads), floats(rows, numAttentionHeads)];
      this.softmax = { maxima, sums, acc: this.attended.floats, width: config.headDim };
      this.ownKeysT = floats(ownColumns, kvDim);
      const chunk = Math.min(rows, chunkRows(hiddenSize));
      const mlpRows = Math.min(rows, Math.max(1, Math.floor(MLP_ROWS / chunk)) * chunk);
      this.mlp = this.#activations(mlpRows, intermediateSize);
      this.up = floats(mlpRows, intermediateSize);
      const fitting = Math.max(1, Math.floor(LOGITS_BYTES / 4 / vocabSize));
      this.logitRows = Math.min(logitRows, fitting, chunk);
      this.logits = floats(this.logitRows, vocabSize);
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /** Whether a pass of this size, with caches of this plan, can use the buffers. */
  serves(plan: CachePlan, { rows, ownColumns, logitRows }: PassSize): boolean {
    const { size } = this;
    return (
      plan === this.plan && rows <= size.rows && ownColumns <= size.ownColumns && logitRows <= size.logitRows
    );
  }

  /** A buffer whose size shows only during the pass. Its contents are lost when it grows. */
  reserve(purpose: 'parts' | 'blocks', bytes: number): Pointer {
    const known = this.#growing.get(purpose);
    if (known && known.bytes >= bytes) return known.pointer;
    if (known) this.#memory.free(known.pointer);
    this.#growing.delete(purpose);
    const pointer = this.#memory.allocate(bytes, 'scratch of a pass');
    this.#growing.set(purpose, { pointer, bytes });
    return pointer;
  }

  /** Gives the memory back. */
  dispose(): void {
    for (const pointer of this.#owned.splice(0)) this.#memory.free(pointer);
    for (const { pointer } of this.#growing.values()) this.#memory.free(pointer);
    this.#growing.clear();
  }

  #take(bytes: number): Pointer {
    const pointer = this.#memory.allocate(bytes, 'scratch of a pass');
    this.#owned.push(pointer);
    return pointer;
  }

  #activations(rows: number, columns: number): Activations {
    const { chunk, stride, bytes } = activationTileBytes(rows, columns);
    const floats = this.#take(rows * columns * 4);
    return { floats, tiles: this.#take(bytes), tileStride: stride, rows, columns, chunk };
  }
}

/** Rows up to which buffers are kept for the next pass. */
export const KEPT_ROWS = 16;
