/**
 * What a layer of a cache holds, next to what it would hold without quantization.
 *
 * The tokens go through the model in one pass. Tokens of a pass see each other exactly, so the inputs of every
 * layer are the same with any cache; the cache with quantizer `identity` keeps them as they are, under the same
 * names, and the difference between the two is what quantization costs and nothing else.
 *
 * @module
 */

import { planOf } from '../../ts/src/cache/calibrated-plan.js';
import type { CalibratedPlan, CalibrationSet } from '../../ts/src/cache/calibration.js';
import type { ModelCache } from '../../ts/src/cache/contract.js';
import type { ComputedFactors } from '../../ts/src/cache/factors.js';
import { isSinkName } from '../../ts/src/cache/layout.js';
import type { CacheOptions, CacheRequest } from '../../ts/src/cache/options.js';
import { resolveCacheOptions } from '../../ts/src/cache/presets.js';
import type { SealedBlock, StoredMatrix } from '../../ts/src/cache/state.js';
import { loadMatrix } from '../../ts/src/cache/stored-matrix.js';
import { Transform } from '../../ts/src/cache/transform.js';
import { ConfigError } from '../../ts/src/errors.js';
import { derivedSizes } from '../../ts/src/model/config.js';
import type { LanguageModel } from '../../ts/src/model/language-model.js';
import { rotateRows } from '../../ts/src/numerics/hadamard.js';
import { add, type Matrix } from '../../ts/src/numerics/matrix.js';
import { unpackMatrix } from '../../ts/src/quant/grouped.js';
import { unpackCodes } from '../../ts/src/quant/pack.js';
import {
  type ChannelBits,
  dequantizeSymmetric,
  type SymmetricMatrix,
  symmetricGroups,
} from '../../ts/src/quant/symmetric.js';
import { maxCode } from '../../ts/src/quant/uniform.js';
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
  readonly #factors: ComputedFactors;
  #pair: Pair | undefined;

  constructor(model: LanguageModel, factors: ComputedFactors) {
    this.#model = model;
    this.#factors = factors;
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
    if (options.form !== 'calibrated')
      return { layer, tokens: block, views: viewsOf(stored, exact, layer, options) };
    const { config } = this.#model;
    const plan = planOf(options, { ...config, ...derivedSizes(config) }, this.#factors);
    return { layer, tokens: block, ...calibratedLayer(stored, exact, layer, plan) };
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

/** A layer of a calibrated cache: its coordinates, the codes of the channels that have bits, and why they have them. */
function calibratedLayer(
  stored: ModelCache,
  exact: ModelCache,
  layer: number,
  { set, channelBits }: CalibratedPlan,
): Pick<Inspection, 'views' | 'spectrum'> {
  const bits = channelBits[layer];
  const { delta } = firstBlock(stored, layer);
  const { data: was, rows, columns } = coordinatesOf(exact, layer, set, channelBits);
  const { data: comesBack } = coordinatesOf(stored, layer, set, channelBits);
  const coded = bits.flatMap((width, channel) => (width > 0 ? [channel] : []));
  const [title, symbol] = ['coordinates y of the layer input in its learned basis', 'y'];
  return {
    views: [
      {
        ...{ name: 'coordinates', title, symbol, rows, columns },
        exact: was.slice() as Float32Array<ArrayBuffer>,
        restored: comesBack.slice() as Float32Array<ArrayBuffer>,
        codes: shadesOf(delta as SymmetricMatrix, bits, coded),
        codeColumns: coded.length,
        bits: 8,
        codesTitle: 'of what prediction leaves, in the channels that have bits',
      },
    ],
    spectrum: {
      importance: set.layers[layer].importance.slice() as Float32Array<ArrayBuffer>,
      bits: Uint8Array.from(bits),
    },
  };
}

/** y_i = p_i + z^_i of the first block, from layer 0 up. */
function coordinatesOf(
  cache: ModelCache,
  layer: number,
  set: CalibrationSet,
  channelBits: CalibratedPlan['channelBits'],
): Matrix {
  let below: Matrix[] = [];
  for (let i = set.predict === 0 ? layer : 0; ; i++) {
    const { delta } = firstBlock(cache, i);
    const z = 'channelCodes' in delta ? dequantizeSymmetric(delta, channelBits[i]) : loadMatrix(delta);
    const y = add(Transform.of(set.layers[i]).predict(below, z.rows), z);
    if (i === layer) return y;
    below = [y, ...below].slice(0, set.predict);
  }
}

/** Codes of some channels, each stretched to 0 to 255. [rows, channels] */
function shadesOf(
  { rows, groupSize, channelCodes }: SymmetricMatrix,
  channelBits: readonly ChannelBits[],
  channels: readonly number[],
): Uint8Array<ArrayBuffer> {
  const shades = new Uint8Array(rows * channels.length);
  const placeOf = new Map(channels.map((channel, i) => [channel, i]));
  for (const group of symmetricGroups(rows, { groupSize, channelBits })) {
    const bytes = channelCodes.subarray(group.byteOffset, group.byteOffset + group.byteLength);
    const codes = new Uint8Array(group.count);
    unpackCodes(bytes, group.bits, codes);
    const place = placeOf.get(group.channel) as number;
    codes.forEach((code, t) => {
      shades[(group.token + t) * channels.length + place] = Math.round((255 * code) / maxCode(group.bits));
    });
  }
  return shades;
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
