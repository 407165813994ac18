/**
 * A share of the calibration text, run on the engine: exact activations, probes, and layers coded one after another.
 *
 * Carriers of all layers are kept in f16, as the window of a cache keeps them: 2 n bytes a token and layer. The
 * first positions are left out everywhere, because calibrated caches keep them exactly (sinks).
 *
 * @module
 */

import { finishKeys } from '../../cache/fold.js';
import type { Float16Matrix } from '../../cache/state.js';
import type { FloatProducts } from '../../engine/float-products.js';
import type { WasmCache } from '../../engine/wasm-cache.js';
import type { WasmModel } from '../../engine/wasm-model.js';
import { NumericError } from '../../errors.js';
import { derivedSizes } from '../../model/config.js';
import { type Dense, dense, toDense } from '../../numerics/dense.js';
import { decodeFloat16, encodeFloat16 } from '../../numerics/float16.js';
import { linearTiled } from '../../numerics/linear-tiled.js';
import { concatRows, type Matrix, matrix, rowRange, transpose } from '../../numerics/matrix.js';
import { type ChannelBits, dequantizeSymmetric, quantizeSymmetric } from '../../quant/symmetric.js';
import { BaselineLogits, TokenScores } from '../../scoring.js';
import { measureDistortion } from './allocation.js';
import { type LayerBasis, layerBasis, type MetricRoot, metricRoot } from './basis.js';
import { fitLayer } from './fit.js';
import { GROUP_TOKENS, type Probe, probeRows } from './sensitivities.js';
import { type CoMoments, combineMoments } from './statistics.js';
import type {
  CalibrationWorker,
  CodedLayer,
  CodeRequest,
  CollectedLayer,
  FitRequest,
  LayerFit,
  ProbeRequest,
} from './worker.js';

/** First positions of a window that are in no statistic. */
export const SINKS = 4;

/** Rows on which the worth of bits is measured, in each layer. */
const DISTORTION_ROWS = 512;

/** What a set has reconstructed last: carriers and coordinates of a layer, window by window. */
interface Reconstruction {
  readonly carriers: readonly Matrix[];
  readonly coordinates: readonly Matrix[];
}

/** Rows about their means. */
interface Centered {
  readonly rows: Matrix;
  readonly mean: Float64Array;
}

/** See the module. */
export class CalibrationWindows implements CalibrationWorker {
  readonly #model: WasmModel;
  readonly #products: FloatProducts;
  readonly #windows: readonly (readonly number[])[];
  readonly #signal: AbortSignal | undefined;
  readonly #cache: WasmCache;
  /** f16 bits, [windows][layers], [tokens - SINKS, n] each */
  readonly #carriers: Uint16Array[][] = [];
  /** Of each set, the newest layer first. */
  readonly #reconstructed = new Map<string, Reconstruction[]>();

  /**
   * @param model kept; its owner disposes of it
   * @param windows ids of each window, longer than {@link SINKS}
   */
  constructor(
    model: WasmModel,
    products: FloatProducts,
    windows: readonly (readonly number[])[],
    signal?: AbortSignal,
  ) {
    this.#model = model;
    this.#products = products;
    this.#windows = windows;
    this.#signal = signal;
    this.#cache = model.createCache('kv');
  }

  async collect(depth: number, onTokens: (count: number) => void): Promise<CollectedLayer[]> {
    const layers: (CollectedLayer | undefined)[] = [];
    const { numHiddenLayers } = this.#model.config;
    const projections = Array.from({ length: numHiddenLayers }, (_, layer) => this.#projection(layer));
    this.#carriers.length = 0;
    for (const ids of this.#windows) {
      const carriers: Uint16Array[] = [];
      const below: Centered[] = []; // the layer below first
      let own: CollectedLayer | undefined;
      this.#cache.trim(0);
      await this.#model.forward(ids, this.#cache, {
        signal: this.#signal,
        onTensor: ({ layer, tensor, value }) => {
          if (tensor === 'x') {
            const rows = rowRange(value, SINKS, value.rows);
            const carrier = projections[layer] ? this.#products.multiply(rows, projections[layer]) : rows;
            carriers.push(toFloat16(carrier, layer));
            const centered = center(carrier);
            own = {
              own: this.#moments(centered, centered),
              below: below.map((each) => this.#moments(each, centered)),
              queries: [],
              tokens: 0,
            };
            below.unshift(centered);
            below.splice(depth);
          } else if (tensor === 'queries' && own) {
            const rows = rowRange(value, SINKS, value.rows);
            const collected = { ...own, queries: this.#headMoments(rows), tokens: rows.rows };
            const before = layers[layer];
            layers[layer] = before ? combineLayers(before, collected) : collected;
          }
        },
      });
      this.#carriers.push(carriers);
      onTokens(ids.length);
    }
    return layers as CollectedLayer[];
  }

  async probe(
    ids: readonly number[],
    requests: readonly ProbeRequest[],
    onProbe: (probe: Probe) => void,
  ): Promise<void> {
    const inputs: Matrix[] = [];
    const streams: Matrix[] = [];
    this.#cache.trim(0);
    const exact = await this.#model.forward(ids, this.#cache, {
      logits: 'all',
      mode: 'teacherForced',
      signal: this.#signal,
      onTensor: ({ layer, tensor, value }) => {
        if (tensor === 'x') inputs[layer] = value;
        if (tensor === 'stream') streams[layer] = value;
      },
    });
    const baseline = new BaselineLogits(exact, ids.slice(1), 0);
    for (const { layer, part, basis, mean } of requests) {
      const projection = this.#model.projections[layer];
      const rows = linearTiled(inputs[layer], part === 'keys' ? projection.wK : projection.wV);
      const sinks = rowRange(rows, 0, SINKS);
      const probed = probeRows(rowRange(rows, SINKS, rows.rows), basis, mean);
      const coded = concatRows([sinks, probed.rows], rows.columns);
      const bias = part === 'keys' ? projection.bK : projection.bV;
      if (bias) for (let i = 0; i < coded.data.length; i++) coded.data[i] += bias[i % coded.columns];
      const finished = part === 'keys' ? finishKeys(coded, projection) : coded;
      this.#cache.trim(0);
      const logits = await this.#model.forward(ids, this.#cache, {
        logits: 'all',
        mode: 'teacherForced',
        signal: this.#signal,
        start: { layer, stream: streams[layer] },
        onFreshKeysAndValues: (at, fresh) => {
          if (at === layer) fresh[part].data.set(finished.data);
        },
      });
      const scores = new TokenScores();
      scores.add(baseline, logits);
      onProbe({ divergence: scores.klDivergence * scores.tokens, error: probed.error });
    }
    this.#cache.trim(0);
  }

  async root(blocks: readonly Dense[], cuts: readonly number[]): Promise<MetricRoot> {
    return metricRoot(blocks, cuts);
  }

  async basis(metric: MetricRoot, residual: Dense, blocks: readonly number[]): Promise<LayerBasis> {
    return layerBasis(metric, residual, blocks);
  }

  async fit(request: FitRequest): Promise<LayerFit> {
    return fitLayer(request);
  }

  async distortion(layer: number, fit: LayerFit): Promise<Record<ChannelBits, number>> {
    const carrier = this.#carrier(0, layer);
    const rows = rowRange(carrier, 0, Math.min(DISTORTION_ROWS, carrier.rows));
    return measureDistortion(subtractRow(this.#products.multiply(rows, fit.encode), fit.offset));
  }

  async code({ set, layer, fit, bits, predict }: CodeRequest): Promise<CodedLayer> {
    const below = this.#reconstructed.get(set) ?? [];
    const n = fit.offset.length;
    const plain = ({ float16 }: Float16Matrix) => matrix(n, n, decodeFloat16(float16));
    const decode = plain(fit.decode);
    const matrices = fit.predict.map(plain);
    const coordinates: Matrix[] = [];
    const carriers: Matrix[] = [];
    for (const w of this.#windows.keys()) {
      const z = this.#products.multiply(this.#carrier(w, layer), fit.encode);
      const y = matrix(z.rows, n);
      for (let i = 0; i < y.data.length; i++) y.data[i] = fit.offset[i % n];
      for (const [q, each] of matrices.entries()) {
        addInto(y, this.#products.multiply(below[q].coordinates[w], each));
      }
      for (let i = 0; i < z.data.length; i++) z.data[i] -= y.data[i];
      const coded = quantizeSymmetric(z, { groupSize: GROUP_TOKENS, channelBits: bits }, { layer });
      addInto(y, dequantizeSymmetric(coded, bits));
      coordinates.push(y);
      carriers.push(this.#products.multiply(y, decode));
    }
    const newest = [{ carriers, coordinates }, ...below].slice(0, predict);
    this.#reconstructed.set(set, newest);
    return this.#codedMoments(newest, layer);
  }

  /** Moments of what was reconstructed with itself and with what comes next. */
  #codedMoments(newest: readonly Reconstruction[], layer: number): CodedLayer {
    const parts = Array.from(this.#windows.keys(), (w): CodedLayer => {
      const inputs = newest.map(({ carriers }) => center(carriers[w]));
      if (layer + 1 === this.#model.config.numHiddenLayers) return { inputs: [], cross: [] };
      const next = center(this.#carrier(w, layer + 1));
      return {
        inputs: inputs.map((each) => this.#moments(inputs[0], each)),
        cross: inputs.map((each) => this.#moments(each, next)),
      };
    });
    return parts.reduce(combineCoded);
  }

  /** `[Wk | Wv]`, [hiddenSize, 2 kvDim]; undefined if the carrier is X itself. */
  #projection(layer: number): Matrix | undefined {
    const { hiddenSize } = this.#model.config;
    const { kvDim } = derivedSizes(this.#model.config);
    if (2 * kvDim > hiddenSize) return undefined;
    const { wK, wV } = this.#model.projections[layer];
    return transpose(concatRows([wK, wV], hiddenSize));
  }

  #carrier(window: number, layer: number): Matrix {
    const values = decodeFloat16(this.#carriers[window][layer]);
    const tokens = this.#windows[window].length - SINKS;
    return matrix(tokens, values.length / tokens, values);
  }

  #moments(a: Centered, b: Centered): CoMoments {
    const product = toDense(this.#products.multiplyTransposed(a.rows, b.rows));
    return { count: a.rows.rows, meanA: a.mean, meanB: b.mean, product };
  }

  #headMoments(queries: Matrix): Dense[] {
    const { headDim, numAttentionHeads } = this.#model.config;
    return Array.from({ length: numAttentionHeads }, (_, head) => {
      const rows = matrix(queries.rows, headDim);
      for (let t = 0; t < queries.rows; t++) {
        const from = t * queries.columns + head * headDim;
        rows.data.set(queries.data.subarray(from, from + headDim), t * headDim);
      }
      return toDense(this.#products.multiplyTransposed(rows, rows));
    });
  }
}

/** Statistics of one layer over two sets of windows. */
export function combineLayers(a: CollectedLayer, b: CollectedLayer): CollectedLayer {
  return {
    own: combineMoments(a.own, b.own),
    below: a.below.map((each, q) => combineMoments(each, b.below[q])),
    queries: a.queries.map(({ rows, columns, data }, head) =>
      dense(
        rows,
        columns,
        data.map((value, i) => value + b.queries[head].data[i]),
      ),
    ),
    tokens: a.tokens + b.tokens,
  };
}

/** Moments of one coded layer over two sets of windows. */
export function combineCoded(a: CodedLayer, b: CodedLayer): CodedLayer {
  return {
    inputs: a.inputs.map((each, q) => combineMoments(each, b.inputs[q])),
    cross: a.cross.map((each, q) => combineMoments(each, b.cross[q])),
  };
}

function center({ rows, columns, data }: Matrix): Centered {
  const mean = new Float64Array(columns);
  for (let i = 0; i < data.length; i++) mean[i % columns] += data[i] / rows;
  const centered = matrix(rows, columns);
  for (let i = 0; i < data.length; i++) centered.data[i] = data[i] - mean[i % columns];
  return { rows: centered, mean };
}

function addInto(target: Matrix, source: Matrix): void {
  for (let i = 0; i < target.data.length; i++) target.data[i] += source.data[i];
}

function subtractRow(source: Matrix, row: Float32Array): Matrix {
  return matrix(
    source.rows,
    source.columns,
    source.data.map((value, i) => value - row[i % source.columns]),
  );
}

function toFloat16(rows: Matrix, layer: number): Uint16Array {
  const bits = encodeFloat16(rows.data);
  const bad = bits.findIndex((each) => (each & 0x7c00) === 0x7c00);
  if (bad >= 0) {
    const place = { layer, token: SINKS + Math.floor(bad / rows.columns), channel: bad % rows.columns };
    throw new NumericError('calibrate', rows.data[bad], place, 'does not fit in f16');
  }
  return bits;
}
