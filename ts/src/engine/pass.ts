/**
 * One forward pass on the kernels: the stages of all layers, in order.
 *
 * The definition is model/transformer.ts. What differs is where things lie and in which order sums are taken:
 *
 * - rows are cut into chunks and outputs into ranges, which become tasks;
 * - attention goes block by block with a running softmax. A few queries average latents and project once
 *   (docs/numerics.md); many queries share a block's rematerialized keys and values;
 * - several sequences can be in one pass, each with its own rows; blocks that they share are read once.
 *
 * @module
 */

import type { KeysAndValues } from '../cache/types.js';
import type { ModelConfig } from '../model/config.js';
import { derivedSizes } from '../model/config.js';
import type { ForwardOptions, TappedTensor } from '../model/language-model.js';
import { pauseForEvents } from '../model/pause.js';
import { concatRows, type Matrix, matrix } from '../numerics/matrix.js';
import { ROPE_CODES } from './kernels.js';
import type { AttentionWeights, PassRows, RopeTables } from './layer-plan.js';
import type { LinearMemory } from './memory.js';
import {
  type Activations,
  activationTileBytes,
  forEachChunk,
  type PlacedMatrix,
  recordLinear,
  recordTile,
} from './placed-weights.js';
import type { Team } from './team.js';
import type { WasmCache, WasmLayerCache } from './wasm-cache.js';

/** Weights of one layer in linear memory. */
export interface PlacedLayer extends AttentionWeights {
  readonly wQ: PlacedMatrix;
  readonly wO: PlacedMatrix;
  readonly bQ: number;
  readonly queryNorm: number;
  readonly mlpNorm: number;
  readonly wGate: PlacedMatrix;
  readonly wUp: PlacedMatrix;
  readonly wDown: PlacedMatrix;
}

/** A model in linear memory. */
export interface PlacedModel {
  readonly config: ModelConfig;
  readonly embedding: PlacedMatrix;
  readonly layers: readonly PlacedLayer[];
  readonly outputNorm: number;
  readonly output: PlacedMatrix;
}

/** Some rows of a pass: the next tokens of one sequence. */
export interface SequenceRows {
  readonly cache: WasmCache;
  /** First row of the pass. */
  readonly first: number;
  readonly count: number;
  /** Position of the first row. */
  readonly position: number;
}

/** {@link ForwardOptions}, and what only this backend offers. */
export interface WasmForwardOptions extends ForwardOptions {
  /**
   * Called in every layer with keys (before RoPE) and values of the tokens of this pass, before they are stored;
   * what it writes into them is stored and used instead. For caches that store keys and values; caches without
   * kernels are simulated with it. [tokens, kvDim] each
   */
  readonly onFreshKeysAndValues?: (layer: number, fresh: KeysAndValues) => void;
}

/** Rows that go through the MLP together, about: what bounds its scratch. */
const MLP_ROWS = 256;

/** Bytes of logits computed in one go. */
const LOGITS_BYTES = 16 * 2 ** 20;

/** Parts into which the blocks of a sequence are cut for threads, each with a running softmax of its own. */
const PIECES = 16;

/** Blocks rematerialized before queries attend to them. */
const BATCH = 8;

/** Queries up to which every part of the blocks has a running softmax of its own. */
const FEW_QUERIES = 16;

/** Rows of one attention task. */
const QUERY_ROWS = 32;

/** A running softmax: pointers. */
interface Softmax {
  readonly maxima: number;
  readonly sums: number;
  readonly acc: number;
}

/** Some blocks that some rows attend to. */
interface BlockRun {
  readonly layer: WasmLayerCache;
  readonly cache: WasmCache;
  readonly from: number;
  readonly to: number;
  readonly firstRow: number;
  readonly rows: number;
  /** Position of the first row, or any position after the blocks. */
  readonly firstQuery: number;
}

/** Keys and values that are not sealed. */
interface TailTile {
  readonly keysT: number;
  readonly tokens: number;
  readonly values: number;
  readonly firstKey: number;
  readonly sequence: SequenceRows;
}

/** Runs one pass. Made for it, and disposed of after it. */
export class Pass {
  readonly #memory: LinearMemory;
  readonly #team: Team;
  readonly #model: PlacedModel;
  readonly #tables: RopeTables;
  readonly #sequences: readonly SequenceRows[];
  readonly #rows: number;
  readonly #options: WasmForwardOptions;
  readonly #owned: number[] = [];
  // f32 unless they are tiles
  #stream = 0;
  #delta = 0; // what the last product adds to the stream
  #x!: Activations;
  #normalized = 0;
  #keys = 0;
  #values = 0;
  #latents: readonly number[] = [];
  #queries = 0;
  #attended!: Activations;
  #dense!: Softmax;
  #mlp!: Activations;
  #gate = 0;
  #up = 0;
  #tailKeys = 0;
  #pieces = 0;
  #piecesBytes = 0;
  #slots = 0;

  constructor(
    memory: LinearMemory,
    team: Team,
    model: PlacedModel,
    tables: RopeTables,
    sequences: readonly SequenceRows[],
    options: WasmForwardOptions,
  ) {
    this.#memory = memory;
    this.#team = team;
    this.#model = model;
    this.#tables = tables;
    this.#sequences = sequences;
    this.#options = options;
    this.#rows = sequences.reduce((sum, { count }) => sum + count, 0);
  }

  /**
   * Runs all layers and stores the tokens.
   *
   * @param tokens ids, row by row
   * @returns logits, fresh, of the last row of every sequence, or of all rows
   */
  async run(tokens: ArrayLike<number>): Promise<Matrix> {
    this.#allocate();
    this.#embed(tokens);
    for (const index of this.#model.layers.keys()) {
      await pauseForEvents(this.#options.signal);
      await this.#layer(index);
    }
    return this.#logits();
  }

  /** Gives the scratch of the pass back. */
  dispose(): void {
    for (const pointer of this.#owned.splice(0)) this.#memory.free(pointer);
  }

  #take(bytes: number): number {
    const pointer = this.#memory.allocate(bytes, 'scratch of a pass');
    this.#owned.push(pointer);
    return pointer;
  }

  #takeActivations(rows: number, columns: number, floats?: number): Activations {
    const { chunk, stride, bytes } = activationTileBytes(rows, columns);
    return {
      floats: floats ?? this.#take(rows * columns * 4),
      tiles: this.#take(bytes),
      tileStride: stride,
      rows,
      columns,
      chunk,
    };
  }

  #allocate(): void {
    const { hiddenSize, intermediateSize, numAttentionHeads } = this.#model.config;
    const { kvDim, queryDim } = derivedSizes(this.#model.config);
    const rows = this.#rows;
    this.#stream = this.#take(rows * hiddenSize * 4);
    this.#delta = this.#take(rows * hiddenSize * 4);
    this.#x = this.#takeActivations(rows, hiddenSize);
    this.#normalized = this.#take(rows * hiddenSize * 4);
    this.#keys = this.#take(rows * kvDim * 4);
    this.#values = this.#take(rows * kvDim * 4);
    const widest = Math.max(0, ...this.#plans().flatMap((plan) => plan.down.map(({ outputs }) => outputs)));
    this.#latents = widest ? [this.#take(rows * widest * 4), this.#take(rows * widest * 4)] : [0, 0];
    this.#queries = this.#take(rows * queryDim * 4);
    this.#attended = this.#takeActivations(rows, queryDim);
    const pairs = rows * numAttentionHeads;
    this.#dense = { maxima: this.#take(pairs * 4), sums: this.#take(pairs * 4), acc: this.#attended.floats };
    // whole chunks of x
    const mlpRows = Math.min(rows, Math.max(1, Math.floor(MLP_ROWS / this.#x.chunk)) * this.#x.chunk);
    this.#mlp = this.#takeActivations(mlpRows, intermediateSize);
    this.#gate = this.#mlp.floats;
    this.#up = this.#take(mlpRows * intermediateSize * 4);
    this.#tailKeys = this.#take((rows + 8 * this.#sequences.length + 8) * kvDim * 4);
  }

  #plans() {
    return this.#sequences[0].cache.plan.layers;
  }

  #embed(tokens: ArrayLike<number>): void {
    const { embedding, config } = this.#model;
    const { type, pointer, rows, columns } = embedding;
    for (let row = 0; row < this.#rows; row++) {
      const target = this.#stream + row * config.hiddenSize * 4;
      this.#team.direct.call(`embed${type}`, pointer, rows, columns, tokens[row], target);
    }
  }

  async #layer(index: number): Promise<void> {
    const team = this.#team;
    const weights = this.#model.layers[index];
    const { hiddenSize } = this.#model.config;
    const teacherForced = this.#options.mode === 'teacherForced';
    const layers = this.#sequences.map(({ cache }) => cache.layers[index]);
    const before = layers.map(({ store }) => ({ blocks: store.blocks, tokens: store.windowTokens }));

    // x and its tiles; what the layer before adds comes first
    this.#recordNorm(index > 0, weights.attentionNorm, true);
    team.barrier();
    if (this.#options.onTensor) await this.#showInputs(index);

    // projections; the window's newest tokens as the cache stores them
    recordLinear(team, weights.wQ, this.#x, this.#queries);
    recordLinear(team, weights.wK, this.#x, this.#keys);
    recordLinear(team, weights.wV, this.#x, this.#values);
    this.#recordLatents(index);
    if (!teacherForced) await this.#recordWindows(layers);
    team.barrier();

    this.#recordFinishedRows(index);
    team.barrier();
    if (this.#options.onFreshKeysAndValues) await this.#replaceKeysAndValues(index);
    if (this.#options.onTensor) await this.#showQueries(index, layers, teacherForced);
    this.#recordRope();
    const rows = this.#passRows();
    for (const [i, { first, count }] of this.#sequences.entries()) {
      await team.makeRoom(64 + 24 * Math.ceil(count / layers[i].plan.options.residualWindow));
      layers[i].recordAppend(team, rows, first, count);
    }
    const tiles = teacherForced ? [] : await this.#recordTail(layers, before);
    team.barrier();
    if (teacherForced) {
      await this.#recordWindows(layers);
      team.barrier();
      layers.forEach((layer, i) => {
        const { windowTokens, sealedTokens } = layer.store;
        if (windowTokens === 0) return;
        const { keysT, values } = this.#sequences[i].cache.exactWindow(index);
        const tokens = layer.plan.options.residualWindow;
        tiles.push({ keysT, values, tokens, firstKey: sealedTokens, sequence: this.#sequences[i] });
      });
      if (this.#options.onTensor) await this.#showKeysAndValues(index, layers);
    }

    await this.#recordAttention(index, layers, before, tiles);
    team.barrier();
    forEachChunk(this.#attended, (first, count, chunk) => {
      team.task();
      recordTile(team, this.#attended, first, count, chunk);
    });
    team.barrier();
    recordLinear(team, weights.wO, this.#attended, this.#delta);
    team.barrier();
    if (this.#options.onTensor)
      await this.#show(index, 'attentionOutput', this.#delta, this.#rows, hiddenSize);

    this.#recordNorm(true, weights.mlpNorm, false);
    team.barrier();
    for (let first = 0; first < this.#rows; first += this.#mlp.rows) await this.#recordMlp(weights, first);
    if (this.#options.onTensor) await this.#show(index, 'mlpOutput', this.#delta, this.#rows, hiddenSize);
    await team.run();
  }

  /** Lets the caller change keys and values before they are stored. */
  async #replaceKeysAndValues(index: number): Promise<void> {
    if (!this.#plans()[index].direct) return;
    await this.#team.run();
    const { kvDim } = derivedSizes(this.#model.config);
    const count = this.#rows * kvDim;
    const keys = matrix(this.#rows, kvDim, this.#memory.readFloats(this.#keys, count));
    const values = matrix(this.#rows, kvDim, this.#memory.readFloats(this.#values, count));
    this.#options.onFreshKeysAndValues?.(index, { keys, values });
    this.#memory.write(this.#keys, keys.data);
    this.#memory.write(this.#values, values.data);
  }

  /** Residual, norm and tiles, chunk by chunk. */
  #recordNorm(add: boolean, gain: number, keepNormalized: boolean): void {
    const team = this.#team;
    const { hiddenSize, rmsNormEps } = this.#model.config;
    forEachChunk(this.#x, (first, count, chunk) => {
      const offset = first * hiddenSize * 4;
      team.task();
      if (add) team.call('addInto', this.#stream + offset, this.#delta + offset, count * hiddenSize);
      const normalized = keepNormalized ? this.#normalized + offset : 0;
      const x = this.#x.floats + offset;
      team.call('rmsNorm', this.#stream + offset, count, hiddenSize, gain, rmsNormEps, normalized, x);
      recordTile(team, this.#x, first, count, chunk);
    });
  }

  #recordLatents(index: number): void {
    const team = this.#team;
    const { plan } = this.#sequences[0].cache;
    const { down } = plan.layers[index];
    down.forEach((product, which) => {
      const parts = team.threads === 1 ? 1 : team.threads;
      const step = Math.max(8, Math.ceil(product.outputs / parts / 8) * 8);
      const tokens = plan.options.residualWindow;
      for (let first = 0; first < this.#rows; first += tokens) {
        const count = Math.min(tokens, this.#rows - first);
        const source = this.#x.floats + first * product.inputs * 4;
        const out = this.#latents[which] + first * product.outputs * 4;
        for (let from = 0; from < product.outputs; from += step) {
          const to = Math.min(from + step, product.outputs);
          team.task();
          product.recordRows(team, source, count, out, plan.scratch, { from, to });
        }
      }
    });
  }

  #passRows(): PassRows {
    return {
      keys: this.#keys,
      values: this.#values,
      x: this.#x.floats,
      normalized: this.#normalized,
      stream: this.#stream,
      keyLatent: this.#latents[0],
      valueLatent: this.#latents[1],
    };
  }

  /** Bias and norm of what is stored as keys and values; bias and norm of queries. */
  #recordFinishedRows(index: number): void {
    const team = this.#team;
    const { bQ, bK, bV, queryNorm, keyNorm } = this.#model.layers[index];
    const { numAttentionHeads, numKeyValueHeads, headDim, rmsNormEps } = this.#model.config;
    const { kvDim, queryDim } = derivedSizes(this.#model.config);
    const stored = this.#plans()[index].direct;
    if (!(bQ || queryNorm || (stored && (bK || bV || keyNorm)))) return;
    forEachChunk(this.#x, (first, count) => {
      team.task();
      const queries = this.#queries + first * queryDim * 4;
      if (bQ) team.call('addBias', queries, bQ, count, queryDim);
      const heads = count * numAttentionHeads;
      if (queryNorm) team.call('rmsNorm', queries, heads, headDim, queryNorm, rmsNormEps, 0, queries);
      if (!stored) return;
      const keys = this.#keys + first * kvDim * 4;
      if (bK) team.call('addBias', keys, bK, count, kvDim);
      const keyHeads = count * numKeyValueHeads;
      if (keyNorm) team.call('rmsNorm', keys, keyHeads, headDim, keyNorm, rmsNormEps, 0, keys);
      if (bV) team.call('addBias', this.#values + first * kvDim * 4, bV, count, kvDim);
    });
  }

  #recordRope(): void {
    const team = this.#team;
    const { numAttentionHeads: heads, headDim, ropeLayout } = this.#model.config;
    const { queryDim } = derivedSizes(this.#model.config);
    for (const sequence of this.#sequences) {
      for (let done = 0; done < sequence.count; done += 128) {
        const count = Math.min(128, sequence.count - done);
        const row = sequence.first + done;
        const { cos, sin } = this.#positions(sequence.position + done);
        const queries = this.#queries + row * queryDim * 4;
        team.task();
        team.call('rope', queries, count, heads, headDim, cos, sin, ROPE_CODES[ropeLayout]);
        const { maxima, sums, acc } = this.#softmaxAt(this.#dense, row, headDim);
        team.call('attendBegin', maxima, sums, acc, count * heads, headDim);
      }
    }
  }

  #positions(position: number): RopeTables {
    const offset = position * this.#model.config.headDim * 2;
    return { cos: this.#tables.cos + offset, sin: this.#tables.sin + offset };
  }

  #softmaxAt({ maxima, sums, acc }: Softmax, row: number, width: number, head = 0): Softmax {
    const pair = row * this.#model.config.numAttentionHeads + head;
    return { maxima: maxima + pair * 4, sums: sums + pair * 4, acc: acc + pair * width * 4 };
  }

  /** Brings the exact windows up to date with what is stored. */
  async #recordWindows(layers: readonly WasmLayerCache[]): Promise<void> {
    const team = this.#team;
    for (const [i, layer] of layers.entries()) {
      const { cache } = this.#sequences[i];
      const { plan, store } = layer;
      const first = layer.takeMissing();
      const { windowTokens, sealedTokens } = store;
      if (first >= windowTokens) continue;
      const window = store.window();
      const exact = cache.exactWindow(plan.layer);
      const { scratch } = cache.plan;
      const tokens = plan.options.residualWindow;
      for (let from = first; from < windowTokens; from += 16) {
        const count = Math.min(16, windowTokens - from);
        await team.makeRoom(16);
        team.task();
        const values = exact.values + from * plan.kvDim * 4;
        plan.recordReadWindow(team, window, from, count, scratch.keys, values, scratch);
        const positions = this.#positions(sealedTokens + from);
        plan.recordFinishKeys(team, scratch.keys, count, positions, scratch.keysT);
        const stride = Math.ceil(tokens / 8) * 8;
        team.call('placeKeys', scratch.keysT, plan.kvDim, count, exact.keysT, stride, from);
      }
    }
  }

  /**
   * Finished keys of the pass's own rows: into the exact window as far as the window's block goes, then in tiles.
   *
   * @returns what queries attend to besides sealed blocks
   */
  async #recordTail(
    layers: readonly WasmLayerCache[],
    before: readonly { blocks: number; tokens: number }[],
  ): Promise<TailTile[]> {
    const team = this.#team;
    const tiles: TailTile[] = [];
    let tail = this.#tailKeys;
    for (const [i, sequence] of this.#sequences.entries()) {
      const { plan } = layers[i];
      const { kvDim } = plan;
      const { scratch } = sequence.cache.plan;
      const tokens = plan.options.residualWindow;
      const slot = before[i].tokens;
      let done = 0;
      const finish = (count: number, target: number): void => {
        const source = this.#keys + (sequence.first + done) * kvDim * 4;
        team.task();
        team.call('copyBytes', source, scratch.keys, count * kvDim * 4);
        const positions = this.#positions(sequence.position + done);
        plan.recordFinishKeys(team, scratch.keys, count, positions, target);
      };
      await team.makeRoom(16 + 4 * Math.ceil(sequence.count / tokens));
      if (slot > 0) {
        const { keysT, values } = sequence.cache.exactWindow(plan.layer);
        const count = Math.min(sequence.count, tokens - slot);
        finish(count, scratch.keysT);
        const stride = Math.ceil(tokens / 8) * 8;
        team.call('placeKeys', scratch.keysT, kvDim, count, keysT, stride, slot);
        const source = this.#values + sequence.first * kvDim * 4;
        team.call('copyBytes', source, values + slot * kvDim * 4, count * kvDim * 4);
        tiles.push({ keysT, values, tokens, firstKey: before[i].blocks * tokens, sequence });
        done = count;
      }
      while (done < sequence.count) {
        const count = Math.min(tokens, sequence.count - done);
        finish(count, tail);
        const values = this.#values + (sequence.first + done) * kvDim * 4;
        tiles.push({ keysT: tail, values, tokens: count, firstKey: sequence.position + done, sequence });
        tail += Math.ceil(count / 8) * 8 * kvDim * 4;
        done += count;
      }
    }
    return tiles;
  }

  /** Attention over sealed blocks and the tail, up to the finished averages. */
  async #recordAttention(
    index: number,
    layers: readonly WasmLayerCache[],
    before: readonly { blocks: number; tokens: number }[],
    tiles: readonly TailTile[],
  ): Promise<void> {
    const { numAttentionHeads: heads, headDim } = this.#model.config;
    const plan = this.#plans()[index];
    const teacherForced = this.#options.mode === 'teacherForced';
    const runs = this.#blockRuns(
      layers,
      layers.map(({ store }, i) => (teacherForced ? store.blocks : before[i].blocks)),
    );
    // Averaging latents costs a query heads * width; values cost a block width * kvDim once, and a query less.
    const few = plan.direct
      ? this.#rows <= FEW_QUERIES
      : this.#rows * heads * (plan.latentWidth - headDim) <= plan.latentWidth * plan.kvDim &&
        this.#rows <= 4 * FEW_QUERIES;
    if (few) await this.#attendFew(index, runs, tiles);
    else await this.#attendMany(index, runs, tiles);
  }

  /** Which rows attend to which blocks; blocks that all sequences share come first and are read once. */
  #blockRuns(layers: readonly WasmLayerCache[], blocks: readonly number[]): BlockRun[] {
    const sequences = this.#sequences;
    let shared = 0;
    if (sequences.length > 1) {
      const [first] = layers;
      const same = (b: number) => layers.every(({ store }) => store.block(b) === first.store.block(b));
      while (shared < Math.min(...blocks) && same(shared)) shared++;
    }
    const runs: BlockRun[] = [];
    if (shared > 0) {
      const { cache } = sequences[0];
      const firstQuery = Math.min(...sequences.map(({ position }) => position));
      runs.push({
        layer: layers[0],
        cache,
        from: 0,
        to: shared,
        firstRow: 0,
        rows: this.#rows,
        firstQuery,
      });
    }
    sequences.forEach(({ cache, first, count, position }, i) => {
      if (blocks[i] === shared) return;
      const layer = layers[i];
      runs.push({
        layer,
        cache,
        from: shared,
        to: blocks[i],
        firstRow: first,
        rows: count,
        firstQuery: position,
      });
    });
    return runs;
  }

  /** Few queries: each part of the blocks has a running softmax over latents; they are merged and projected. */
  async #attendFew(index: number, runs: readonly BlockRun[], tiles: readonly TailTile[]): Promise<void> {
    const team = this.#team;
    const { config } = this.#model;
    const { numAttentionHeads: heads, numKeyValueHeads: kvHeads, headDim } = config;
    const { queryDim } = derivedSizes(config);
    const plan = this.#plans()[index];
    const width = plan.direct ? headDim : plan.latentWidth;
    const scale = 1 / Math.sqrt(headDim);
    const tokens = plan.options.residualWindow;
    const half = plan.halfPlaces;

    const pieces = runs.flatMap((run) => {
      const count = run.to - run.from;
      const parts = Math.min(count, PIECES);
      return Array.from({ length: parts }, (_, p) => ({
        ...run,
        from: run.from + Math.floor((p * count) / parts),
        to: run.from + Math.floor(((p + 1) * count) / parts),
      }));
    });
    const pairBytes = (run: BlockRun) => run.rows * heads * 4;
    const align = (bytes: number) => Math.ceil(bytes / 64) * 64;
    const bytes = pieces.reduce(
      (sum, run) => sum + 2 * align(pairBytes(run)) + align(pairBytes(run) * width),
      0,
    );
    this.#reservePieces(bytes);
    let at = this.#pieces;
    const states = pieces.map((run) => {
      const maxima = at;
      const sums = maxima + align(pairBytes(run));
      const acc = sums + align(pairBytes(run));
      at = acc + align(pairBytes(run) * width);
      return { maxima, sums, acc };
    });

    for (const sequence of this.#sequences) {
      team.task(); // one for all tiles: they bring the same running softmax up to date
      for (const tile of tiles) {
        if (tile.sequence === sequence) this.#recordTile(tile, 0, sequence.count, 0, kvHeads);
      }
    }
    for (const [p, run] of pieces.entries()) {
      const { maxima, sums, acc } = states[p];
      const { scratch } = run.cache.plan;
      await team.makeRoom(64);
      team.task();
      team.call('attendBegin', maxima, sums, acc, run.rows * heads, width);
      const queries = this.#queries + run.firstRow * queryDim * 4;
      for (let b = run.from; b < run.to; b++) {
        const block = run.layer.store.block(b);
        if (half) {
          await this.#makeRoomInTask(0);
          const { cos, sin } = this.#positions(b * tokens);
          team.call(
            'attendHalfBlock',
            queries,
            run.rows,
            heads,
            kvHeads,
            headDim,
            block + half.keys,
            block + half.values,
            tokens,
            cos,
            sin,
            ROPE_CODES[config.ropeLayout],
            scale,
            run.firstQuery,
            b * tokens,
            maxima,
            sums,
            acc,
            scratch.attend,
          );
          continue;
        }
        const context = run.cache.context(index, b, block, false);
        await this.#makeRoomInTask(context.below?.length ?? 0);
        const read = plan.recordRead(team, context, this.#positions(b * tokens), scratch.keysT, 0);
        team.call(
          'attendBlock',
          queries,
          run.rows,
          heads,
          kvHeads,
          headDim,
          scratch.keysT,
          tokens,
          read.values,
          read.stride,
          plan.direct ? headDim : 0,
          width,
          scale,
          run.firstQuery,
          b * tokens,
          maxima,
          sums,
          acc,
          0,
          kvHeads,
          0,
          run.rows,
          scratch.attend,
        );
      }
    }
    team.barrier();

    // Per row and KV head: all parts into one, projected, and together with the tail.
    const grouped = heads / kvHeads;
    const { scratch } = this.#sequences[0].cache.plan;
    for (let row = 0; row < this.#rows; row++) {
      for (let g = 0; g < kvHeads; g++) {
        const own = [...pieces.keys()].filter(
          (p) => row >= pieces[p].firstRow && row < pieces[p].firstRow + pieces[p].rows,
        );
        const place = (p: number) => this.#softmaxAt(states[p], row - pieces[p].firstRow, width, g * grouped);
        await team.makeRoom(PIECES * 2 + 8);
        team.task();
        const dense = this.#softmaxAt(this.#dense, row, headDim, g * grouped);
        if (own.length > 0) {
          const all = place(own[0]);
          for (const p of own.slice(1)) this.#recordMerge(all, place(p), grouped, width);
          if (plan.direct) {
            this.#recordMerge(dense, all, grouped, width);
          } else {
            const from = g * headDim;
            const out = scratch.projected - from * 4;
            const outputs = { from, to: from + headDim, stride: headDim };
            plan.valueProduct?.recordRows(team, all.acc, grouped, out, scratch, outputs);
            this.#recordMerge(dense, { ...all, acc: scratch.projected }, grouped, headDim);
          }
        }
        this.#recordFinish(index, dense, grouped, g);
      }
    }
  }

  /** Many queries: blocks are rematerialized in batches, then all queries attend to them. */
  async #attendMany(index: number, runs: readonly BlockRun[], tiles: readonly TailTile[]): Promise<void> {
    const team = this.#team;
    const { numAttentionHeads: heads, numKeyValueHeads: kvHeads, headDim } = this.#model.config;
    const { queryDim } = derivedSizes(this.#model.config);
    const plan = this.#plans()[index];
    const { kvDim } = plan;
    const scale = 1 / Math.sqrt(headDim);
    const tokens = plan.options.residualWindow;
    const padded = Math.ceil(tokens / 8) * 8;
    const slotBytes = (padded + tokens) * kvDim * 4;
    if (runs.length > 0 && this.#slots === 0) this.#slots = this.#take(BATCH * slotBytes);

    for (const run of runs) {
      const { scratch } = run.cache.plan;
      for (let from = run.from; from < run.to; from += BATCH) {
        const to = Math.min(from + BATCH, run.to);
        for (let b = from; b < to; b++) {
          const keysT = this.#slots + (b - from) * slotBytes;
          const values = keysT + padded * kvDim * 4;
          const context = run.cache.context(index, b, run.layer.store.block(b), false);
          await team.makeRoom(32 + 4 * (context.below?.length ?? 0));
          team.task();
          plan.recordRead(team, context, this.#positions(b * tokens), keysT, values);
        }
        team.barrier();
        for (let row = 0; row < run.rows; row += QUERY_ROWS) {
          const end = Math.min(row + QUERY_ROWS, run.rows);
          await team.makeRoom(kvHeads * BATCH);
          for (let g = 0; g < kvHeads; g++) {
            team.task();
            for (let b = from; b < to; b++) {
              if (run.firstQuery + end <= b * tokens) continue; // not visible yet
              const keysT = this.#slots + (b - from) * slotBytes;
              const { maxima, sums, acc } = this.#softmaxAt(this.#dense, run.firstRow, headDim);
              team.call(
                'attendBlock',
                this.#queries + run.firstRow * queryDim * 4,
                run.rows,
                heads,
                kvHeads,
                headDim,
                keysT,
                tokens,
                keysT + padded * kvDim * 4,
                kvDim,
                headDim,
                headDim,
                scale,
                run.firstQuery,
                b * tokens,
                maxima,
                sums,
                acc,
                g,
                g + 1,
                row,
                end,
                scratch.attend,
              );
            }
          }
        }
        team.barrier();
      }
    }
    for (const sequence of this.#sequences) {
      const own = tiles.filter((tile) => tile.sequence === sequence);
      for (let row = 0; row < sequence.count; row += QUERY_ROWS) {
        const end = Math.min(row + QUERY_ROWS, sequence.count);
        await team.makeRoom(kvHeads * own.length + kvHeads);
        for (let g = 0; g < kvHeads; g++) {
          team.task();
          for (const tile of own) {
            if (sequence.position + end > tile.firstKey) this.#recordTile(tile, row, end, g, g + 1);
          }
        }
      }
    }
    team.barrier();
    for (let row = 0; row < this.#rows; row += QUERY_ROWS) {
      await team.makeRoom(2 * QUERY_ROWS * kvHeads);
      team.task();
      const count = Math.min(QUERY_ROWS, this.#rows - row);
      const { sums, acc } = this.#softmaxAt(this.#dense, row, headDim);
      team.call('attendFinish', sums, acc, count * heads, headDim);
      for (let r = row; r < row + count; r++) this.#recordValueBias(index, r);
    }
  }

  /** Part of the tail into the running softmax of some queries. */
  #recordTile(
    tile: TailTile,
    queryStart: number,
    queryEnd: number,
    headStart: number,
    headEnd: number,
  ): void {
    const { numAttentionHeads: heads, numKeyValueHeads: kvHeads, headDim } = this.#model.config;
    const { kvDim, queryDim } = derivedSizes(this.#model.config);
    const { sequence } = tile;
    const { maxima, sums, acc } = this.#softmaxAt(this.#dense, sequence.first, headDim);
    this.#team.call(
      'attendBlock',
      this.#queries + sequence.first * queryDim * 4,
      sequence.count,
      heads,
      kvHeads,
      headDim,
      tile.keysT,
      tile.tokens,
      tile.values,
      kvDim,
      headDim,
      headDim,
      1 / Math.sqrt(headDim),
      sequence.position,
      tile.firstKey,
      maxima,
      sums,
      acc,
      headStart,
      headEnd,
      queryStart,
      queryEnd,
      sequence.cache.plan.scratch.attend,
    );
  }

  #recordMerge(into: Softmax, other: Softmax, count: number, width: number): void {
    const { maxima, sums, acc } = into;
    this.#team.call('attendMerge', maxima, sums, acc, other.maxima, other.sums, other.acc, count, width);
  }

  /** Divides by the sums. Averaging commutes with adding a bias, so values that lack it get it here. */
  #recordFinish(index: number, { sums, acc }: Softmax, grouped: number, g: number): void {
    const { headDim } = this.#model.config;
    const { bV } = this.#model.layers[index];
    this.#team.call('attendFinish', sums, acc, grouped, headDim);
    if (bV && !this.#plans()[index].direct) {
      this.#team.call('addBias', acc, bV + g * headDim * 4, grouped, headDim);
    }
  }

  #recordValueBias(index: number, row: number): void {
    const { bV } = this.#model.layers[index];
    if (!bV || this.#plans()[index].direct) return;
    const { numAttentionHeads, numKeyValueHeads, headDim } = this.#model.config;
    const grouped = numAttentionHeads / numKeyValueHeads;
    for (let g = 0; g < numKeyValueHeads; g++) {
      const { acc } = this.#softmaxAt(this.#dense, row, headDim, g * grouped);
      this.#team.call('addBias', acc, bV + g * headDim * 4, grouped, headDim);
    }
  }

  async #recordMlp(weights: PlacedLayer, first: number): Promise<void> {
    const team = this.#team;
    const { hiddenSize, intermediateSize } = this.#model.config;
    const rows = Math.min(this.#mlp.rows, this.#rows - first);
    const part = this.#part(this.#x, first, rows);
    const mlp = { ...this.#mlp, rows };
    await team.makeRoom(256);
    recordLinear(team, weights.wGate, part, this.#gate);
    recordLinear(team, weights.wUp, part, this.#up);
    team.barrier();
    forEachChunk(mlp, (at, count, chunk) => {
      const offset = at * intermediateSize * 4;
      const gate = this.#gate + offset;
      team.task();
      team.call('siluGate', gate, this.#up + offset, gate, count * intermediateSize);
      recordTile(team, mlp, at, count, chunk);
    });
    team.barrier();
    recordLinear(team, weights.wDown, mlp, this.#delta + first * hiddenSize * 4);
    team.barrier();
  }

  /** Some rows of activations; `first` is the start of a chunk. */
  #part(x: Activations, first: number, rows: number): Activations {
    return {
      ...x,
      floats: x.floats + first * x.columns * 4,
      tiles: x.tiles + Math.floor(first / x.chunk) * x.tileStride,
      rows,
    };
  }

  async #logits(): Promise<Matrix> {
    const team = this.#team;
    const { config, outputNorm, output } = this.#model;
    const { hiddenSize, vocabSize, rmsNormEps } = config;
    const all = this.#options.logits === 'all';
    const wanted = all
      ? Array.from({ length: this.#rows }, (_, row) => row)
      : this.#sequences.map(({ first, count }) => first + count - 1);
    const result = matrix(wanted.length, vocabSize);
    const step = Math.max(
      1,
      Math.min(wanted.length, Math.floor(LOGITS_BYTES / 4 / vocabSize), this.#x.chunk),
    );
    const out = this.#take(step * vocabSize * 4);
    for (let from = 0; from < wanted.length; from += step) {
      const count = Math.min(step, wanted.length - from);
      const x = { ...this.#x, rows: count };
      team.task();
      for (let i = 0; i < count; i++) {
        const row = this.#stream + wanted[from + i] * hiddenSize * 4;
        const delta = this.#delta + wanted[from + i] * hiddenSize * 4;
        const target = x.floats + i * hiddenSize * 4;
        team.call('addInto', row, delta, hiddenSize);
        team.call('rmsNorm', row, 1, hiddenSize, outputNorm, rmsNormEps, 0, target);
      }
      recordTile(team, x, 0, count, 0);
      team.barrier();
      recordLinear(team, output, x, out);
      await team.run();
      await pauseForEvents(this.#options.signal);
      const logits = this.#memory.f32.subarray(out / 4, out / 4 + count * vocabSize);
      result.data.set(logits, from * vocabSize);
    }
    return result;
  }

  #reservePieces(bytes: number): void {
    if (bytes <= this.#piecesBytes) return;
    this.#pieces = this.#take(bytes);
    this.#piecesBytes = bytes;
  }

  /** A task cannot be cut, but one that grows too long for a recording is run up to here and goes on alone. */
  async #makeRoomInTask(below: number): Promise<void> {
    await this.#team.makeRoom(32 + 4 * below);
  }

  async #show(
    layer: number,
    tensor: TappedTensor,
    pointer: number,
    rows: number,
    columns: number,
  ): Promise<void> {
    await this.#team.run();
    this.#tap(layer, tensor, matrix(rows, columns, this.#memory.readFloats(pointer, rows * columns)));
  }

  #tap(layer: number, tensor: TappedTensor, value: Matrix): void {
    const cache = this.#sequences[0].cache.layers[layer];
    this.#options.onTensor?.({ layer, tensor, value, cache });
  }

  async #showInputs(index: number): Promise<void> {
    const { hiddenSize } = this.#model.config;
    await this.#show(index, 'stream', this.#stream, this.#rows, hiddenSize);
    await this.#show(index, 'normalized', this.#normalized, this.#rows, hiddenSize);
    await this.#show(index, 'x', this.#x.floats, this.#rows, hiddenSize);
  }

  async #showQueries(
    index: number,
    layers: readonly WasmLayerCache[],
    teacherForced: boolean,
  ): Promise<void> {
    const { queryDim, kvDim } = derivedSizes(this.#model.config);
    await this.#show(index, 'queries', this.#queries, this.#rows, queryDim);
    if (teacherForced) return; // all keys come from the cache, once it has these tokens
    const past = layers[0].keysAndValues();
    const { host, plan } = this.#sequences[0].cache;
    const bytes = this.#rows * kvDim * 4;
    const keys = this.#take(bytes);
    const values = this.#take(bytes);
    this.#team.direct.call('copyBytes', this.#keys, keys, bytes);
    this.#team.direct.call('copyBytes', this.#values, values, bytes);
    host.finishRows(index, plan, keys, values, this.#rows);
    const own = (pointer: number) =>
      matrix(this.#rows, kvDim, this.#memory.readFloats(pointer, this.#rows * kvDim));
    this.#tap(index, 'keys', concatRows([past.keys, own(keys)], kvDim));
    this.#tap(index, 'values', concatRows([past.values, own(values)], kvDim));
  }

  async #showKeysAndValues(index: number, layers: readonly WasmLayerCache[]): Promise<void> {
    await this.#team.run();
    const { keys, values } = layers[0].keysAndValues();
    this.#tap(index, 'keys', keys);
    this.#tap(index, 'values', values);
  }
}
