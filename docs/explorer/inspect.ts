/**
 * What a layer of a cache holds, next to what it would hold without quantization.
 *
 * The tokens go through the model in one pass. Tokens of a pass see each other exactly, so the inputs of every
 * layer are the same with any cache; the cache with quantizer `identity` keeps them as they are, under the same
 * names, and the difference between the two is what quantization costs and nothing else.
 *
 * @module
 */

import type { ModelCache } from '../../ts/src/cache/contract.js';
import { isSinkName } from '../../ts/src/cache/layout.js';
import type { CacheOptions, CacheRequest } from '../../ts/src/cache/options.js';
import { resolveCacheOptions } from '../../ts/src/cache/presets.js';
import type { SealedBlock, StoredMatrix } from '../../ts/src/cache/state.js';
import { loadMatrix } from '../../ts/src/cache/stored-matrix.js';
import { ConfigError } from '../../ts/src/errors.js';
import type { LanguageModel } from '../../ts/src/model/language-model.js';
import { rotateRows } from '../../ts/src/numerics/hadamard.js';
import { add, type Matrix } from '../../ts/src/numerics/matrix.js';
import { unpackMatrix } from '../../ts/src/quant/grouped.js';
import type { Inspection, StoredView } from './protocol.js';

/** What a tensor is, and the letter it has in the paper. */
const TITLES: Readonly<Record<string, readonly [title: string, symbol: string]>> = {
  keys: ['keys K, before RoPE', 'K'],
  values: ['values V', 'V'],
  x: ['layer input X', 'X'],
  normalized: ['layer input X before the gain of its norm', 'X'],
  keyLatent: ['X Uk: X on the singular vectors of Wk', 'XUk'],
  valueLatent: ['X Uv: X on the singular vectors of Wv', 'XUv'],
  delta: ['difference to the layer below, on the singular vectors of [Wk | Wv]', 'ΔX'],
};

/** Frees a cache, if its backend has something to free. */
export function disposeCache(cache: ModelCache): void {
  (cache as { dispose?(): void }).dispose?.();
}

/** Two caches of the same tokens. */
interface Pair {
  readonly key: string;
  readonly options: CacheOptions;
  readonly stored: ModelCache;
  readonly exact: ModelCache;
}

/** Looks into layers. The last text stays in its caches, so that going through the layers runs it once. */
export class LayerInspector {
  readonly #model: LanguageModel;
  #pair: Pair | undefined;

  constructor(model: LanguageModel) {
    this.#model = model;
  }

  /**
   * Looks at the first sealed block of a layer.
   *
   * @param tokens ids of a text, at least one block of the cache
   * @param tell says what is being done
   * @throws {ConfigError} if the text is too short, or the cache does not suit the model
   */
  async inspect(
    tokens: readonly number[],
    cache: string,
    layer: number,
    signal: AbortSignal,
    tell: (what: string) => void,
  ): Promise<Inspection> {
    const options = resolveCacheOptions(cache, this.#model.config);
    const block = options.residualWindow;
    if (tokens.length < block) {
      const allowed = `at least ${block} tokens: a block is sealed when it is full`;
      throw new ConfigError('text', `${tokens.length} tokens`, allowed);
    }
    const first = tokens.slice(0, block);
    const key = JSON.stringify([options, first]);
    if (this.#pair?.key !== key) {
      this.dispose();
      tell('Running the text through the model');
      this.#pair = await this.#run(key, options, first, signal);
    }
    const { stored, exact } = this.#pair;
    return { layer, tokens: block, views: viewsOf(stored, exact, layer, options) };
  }

  async #run(
    key: string,
    options: CacheOptions,
    tokens: readonly number[],
    signal: AbortSignal,
  ): Promise<Pair> {
    const stored = this.#model.createCache(options as CacheRequest);
    const exact = this.#model.createCache({ ...options, quantizer: 'identity' } as CacheRequest);
    try {
      await this.#model.forward(tokens, stored, { signal });
      await this.#model.forward(tokens, exact, { signal });
    } catch (error) {
      for (const cache of [stored, exact]) disposeCache(cache);
      throw error;
    }
    return { key, options, stored, exact };
  }

  /** Frees what it holds. */
  dispose(): void {
    if (this.#pair) for (const cache of [this.#pair.stored, this.#pair.exact]) disposeCache(cache);
    this.#pair = undefined;
  }
}

function viewsOf(stored: ModelCache, exact: ModelCache, layer: number, options: CacheOptions): StoredView[] {
  const found = firstBlock(stored, layer);
  const crossLayer = options.variant === 'xquant-cl' && options.form === 'x';
  if (crossLayer && layer >= options.baseLayers) {
    const [name] = Object.keys(found);
    const sum = (cache: ModelCache) => rotateRows(sumUpTo(cache, layer, options), options.rotation);
    const what = TITLES[options.deltaSpace === 'x' ? 'x' : 'normalized'];
    return [view(name, what, sum(exact), sum(stored), found[name], 'of the difference to the layer below')];
  }
  const originals = firstBlock(exact, layer);
  return Object.keys(found)
    .filter((name) => name in originals && name !== 'keyOutlier')
    .map((name) => {
      // What is stored is rotated; X is shown as the model knows it.
      const back = (matrix: Matrix) => (name === 'x' ? rotateRows(matrix, options.rotation) : matrix);
      const normalized =
        name === 'x' && options.variant === 'xquant-cl' && options.deltaSpace === 'normalized';
      const what = TITLES[normalized ? 'normalized' : name];
      const rotated = options.rotation === 'hadamard' && name === 'x' ? 'of the rotated X' : 'as stored';
      return view(
        name,
        what,
        back(loadMatrix(originals[name])),
        back(loadMatrix(found[name])),
        found[name],
        rotated,
      );
    });
}

/** The coded rows of the first block: the sinks before them are kept as they are, and there is nothing to see. */
function firstBlock(cache: ModelCache, layer: number): SealedBlock {
  const tensors = Object.entries(cache.layers[layer].state().blocks[0]);
  return Object.fromEntries(tensors.filter(([name]) => !isSinkName(name)));
}

/** A_i = X^ of the base layer and all differences up to layer i. */
function sumUpTo(cache: ModelCache, layer: number, { baseLayers }: CacheOptions): Matrix {
  let sum: Matrix | undefined;
  for (let i = baseLayers - 1; i <= layer; i++) {
    const [stored] = Object.values(firstBlock(cache, i));
    const increment = loadMatrix(stored);
    sum = sum ? add(sum, increment) : increment;
  }
  return sum as Matrix;
}

function view(
  name: string,
  [title, symbol]: readonly [title: string, symbol: string],
  exact: Matrix,
  restored: Matrix,
  stored: StoredMatrix,
  codesTitle: string,
): StoredView {
  const quantized = 'packed' in stored;
  return {
    name,
    title,
    symbol,
    rows: exact.rows,
    columns: exact.columns,
    exact: exact.data.slice() as Float32Array<ArrayBuffer>,
    restored: restored.data.slice() as Float32Array<ArrayBuffer>,
    ...(quantized ? { codes: unpackMatrix(stored) as Uint8Array<ArrayBuffer> } : {}),
    codeColumns: stored.columns,
    bits: quantized ? stored.bits : 16,
    codesTitle,
  };
}
