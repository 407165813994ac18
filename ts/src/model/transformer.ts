/**
 * The whole forward pass of a decoder-only transformer on one page, with a cache that stores layer inputs.
 *
 * This is the reference: every dot product is summed in f64 and every stored tensor is rounded to f32 once.
 * It is slow on purpose (see the README for how slow) and is what the WebAssembly engine is held to.
 *
 * Shapes: T tokens of this pass, L tokens in the cache afterwards.
 *
 * @module
 */

import type { KeysAndValues, LayerCache, LayerInput, ModelCache } from '../cache/contract.js';
import type { CacheRequest } from '../cache/options.js';
import { ConfigError, DisposedError } from '../errors.js';
import { linearTiled } from '../numerics/linear-tiled.js';
import { add, concatRows, type Matrix, matrix, row, rowRange, scale } from '../numerics/matrix.js';
import { applyGain, normalizeHeads, normalizeRows, rmsNorm } from '../numerics/rms-norm.js';
import { causalAttentionBlocked } from './attention-blocked.js';
import { assertModelConfig, type ModelConfig, slidingWindow } from './config.js';
import type { BatchOptions, ForwardOptions, LanguageModel, TappedTensor } from './language-model.js';
import { mlp } from './mlp.js';
import { pauseForEvents } from './pause.js';
import { normalizesAfterRope, withScoreGains } from './qk-norm.js';
import { applyRope, layerRope, type Rope } from './rope.js';
import { assertBatch, assertForwardOptions, assertMode, assertTokens } from './tokens.js';
import { assertWeightShapes, type ReferenceWeights } from './weights.js';

/** A model that knows caches by their contract; which ones it has is up to reference-model.ts. */
export abstract class Transformer implements LanguageModel {
  readonly backend = 'reference';
  readonly config: ModelConfig;
  /** RoPE of each layer. */
  readonly #ropes: readonly Rope[];
  #weights: ReferenceWeights | undefined;

  /** @throws {ConfigError | ShapeError | NumericError} if config and weights do not fit together */
  constructor(config: ModelConfig, weights: ReferenceWeights) {
    assertModelConfig(config);
    assertWeightShapes(weights, config);
    this.config = config;
    this.#weights = { ...weights, layers: weights.layers.map((layer) => withScoreGains(layer, config)) };
    this.#ropes = weights.layers.map((_, layer) => layerRope(config, layer));
  }

  abstract createCache(request: CacheRequest | string): ModelCache;

  /**
   * Requires a cache that {@link createCache} has made, and that can still be used.
   *
   * @throws {TypeError} if it is no cache
   * @throws {CacheStateError} if it is of another backend
   * @throws {DisposedError} if it was disposed of
   */
  protected abstract assertOwn(cache: ModelCache): void;

  async forward(tokens: ArrayLike<number>, cache: ModelCache, options: ForwardOptions = {}): Promise<Matrix> {
    const weights = this.#weights;
    if (!weights) throw new DisposedError('model');
    assertForwardOptions(options);
    if (options.attention === 'recent') {
      throw new ConfigError('attention', 'recent', 'all on the reference backend');
    }
    this.assertOwn(cache);
    const ids = assertTokens(tokens, cache, this.config);
    assertMode(ids.length, cache, options);
    return undoOnError([cache], async () => {
      if (options.mode !== 'stepwise') return this.#pass(ids, weights, cache, options);
      const logits: Matrix[] = [];
      for (const id of ids) logits.push(await this.#pass([id], weights, cache, options));
      return concatRows(options.logits === 'all' ? logits : logits.slice(-1), this.config.vocabSize);
    });
  }

  async #pass(
    ids: readonly number[],
    weights: ReferenceWeights,
    cache: ModelCache,
    options: ForwardOptions,
  ): Promise<Matrix> {
    const { rmsNormEps, embeddingScale, logitScale } = this.config;
    let stream = scale(embed(ids, weights.embedding), embeddingScale); // [T, hiddenSize]
    for (const [index, layer] of weights.layers.entries()) {
      await pauseForEvents(options.signal);
      stream = this.#layer(index, stream, layer, cache.layers[index], options);
    }
    const last = options.logits === 'all' ? stream : rowRange(stream, stream.rows - 1, stream.rows);
    const logits = linearTiled(rmsNorm(last, weights.outputNorm, rmsNormEps), weights.output); // [1 or T, vocabSize]
    return scale(logits, logitScale);
  }

  /** One sequence after another. */
  async forwardBatch(
    tokens: readonly ArrayLike<number>[],
    caches: readonly ModelCache[],
    options: BatchOptions = {},
  ): Promise<Matrix> {
    assertBatch(tokens, caches);
    assertForwardOptions(options);
    for (const cache of caches) this.assertOwn(cache);
    return undoOnError(caches, async () => {
      const logits: Matrix[] = [];
      for (const [i, cache] of caches.entries()) logits.push(await this.forward(tokens[i], cache, options));
      return concatRows(logits, this.config.vocabSize);
    });
  }

  dispose(): void {
    this.#weights = undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
  }

  /**
   * One layer: attention over the cache, then the MLP, each added to the stream.
   *
   * @param stream [T, hiddenSize]
   * @returns fresh, [T, hiddenSize]
   */
  #layer(
    index: number,
    stream: Matrix,
    weights: ReferenceWeights['layers'][number],
    cache: LayerCache,
    { mode = 'generation', onTensor }: ForwardOptions,
  ): Matrix {
    const { headDim, rmsNormEps, ropeLayout, activation, residualScale, attentionScale } = this.config;
    const { frequencies, magnitudes } = this.#ropes[index];
    const show = (tensor: TappedTensor, value: Matrix) => onTensor?.({ layer: index, tensor, value, cache });

    // The X of the paper; without an input norm it is the stream itself.
    const normalized = weights.attentionNorm ? normalizeRows(stream, rmsNormEps) : stream; // [T, hiddenSize]
    const x = weights.attentionNorm ? applyGain(normalized, weights.attentionNorm) : stream;
    show('stream', stream);
    show('normalized', normalized);
    show('x', x);

    const position = cache.length;
    const afterRope = normalizesAfterRope(this.config);
    const normQueries = (rows: Matrix) =>
      weights.queryNorm ? normalizeHeads(rows, weights.queryNorm, rmsNormEps) : rows;
    let queries = linearTiled(x, weights.wQ, weights.bQ); // [T, queryDim]
    if (!afterRope) queries = normQueries(queries);
    show('queries', queries);

    // Keys (before RoPE) and values of the whole sequence: [L, kvDim] each.
    const input = { x, normalized, stream };
    const { keys, values } =
      mode === 'teacherForced'
        ? storeThenRead(cache, input)
        : readThenStore(cache, input, keysAndValuesOf(x, weights, rmsNormEps));
    show('keys', keys);
    show('values', values);

    const rotated = applyRope(queries, position, frequencies, ropeLayout, magnitudes);
    const attended = causalAttentionBlocked(
      afterRope ? normQueries(rotated) : rotated,
      applyRope(keys, 0, frequencies, ropeLayout, magnitudes),
      values,
      headDim,
      { scale: attentionScale, window: slidingWindow(this.config, index) },
    );
    let attentionOutput = linearTiled(attended, weights.wO, weights.bO);
    if (weights.attentionPostNorm)
      attentionOutput = rmsNorm(attentionOutput, weights.attentionPostNorm, rmsNormEps);
    attentionOutput = scale(attentionOutput, residualScale);
    show('attentionOutput', attentionOutput);
    const middle = add(stream, attentionOutput);

    const mlpInput = weights.mlpNorm ? rmsNorm(middle, weights.mlpNorm, rmsNormEps) : middle;
    let mlpOutput = mlp(mlpInput, weights, activation);
    if (weights.mlpPostNorm) mlpOutput = rmsNorm(mlpOutput, weights.mlpPostNorm, rmsNormEps);
    mlpOutput = scale(mlpOutput, residualScale);
    show('mlpOutput', mlpOutput);
    return add(middle, mlpOutput);
  }
}

/** Evaluation: every token, the newest included, is seen as the cache stores it (XQuant §4.1). */
function storeThenRead(cache: LayerCache, input: LayerInput): KeysAndValues {
  cache.append(input);
  return cache.keysAndValues();
}

/** Generation: tokens of this pass see each other exactly, and the past as the cache stores it (XQuant §4). */
function readThenStore(cache: LayerCache, input: LayerInput, exact: KeysAndValues): KeysAndValues {
  const past = cache.keysAndValues();
  cache.append(input);
  return {
    keys: concatRows([past.keys, exact.keys], exact.keys.columns),
    values: concatRows([past.values, exact.values], exact.values.columns),
  };
}

/** Keys before RoPE and values of rows of x: [T, kvDim] each. */
function keysAndValuesOf(
  x: Matrix,
  { wK, wV, bK, bV, keyNorm }: ReferenceWeights['layers'][number],
  epsilon: number,
): KeysAndValues {
  const keys = linearTiled(x, wK, bK);
  return { keys: keyNorm ? normalizeHeads(keys, keyNorm, epsilon) : keys, values: linearTiled(x, wV, bV) };
}

/** Does some work on caches; if it fails, they hold again what they held before. */
async function undoOnError<T>(caches: readonly ModelCache[], work: () => Promise<T>): Promise<T> {
  const before = caches.map(({ layers }) => layers.map((layer) => layer.state()));
  try {
    return await work();
  } catch (error) {
    for (const [i, { layers }] of caches.entries()) {
      for (const [index, layer] of layers.entries()) layer.restore(before[i][index]);
    }
    throw error;
  }
}

/**
 * @param embedding [vocabSize, hiddenSize]
 * @returns fresh, [tokens, hiddenSize]
 */
function embed(tokens: readonly number[], embedding: Matrix): Matrix {
  const stream = matrix(tokens.length, embedding.columns);
  for (let t = 0; t < tokens.length; t++) stream.data.set(row(embedding, tokens[t]), t * stream.columns);
  return stream;
}
