/**
 * Makes the calibration of a model: the order of things. The mathematics is in the files beside this one.
 *
 *     collect        covariances of carriers and second moments of queries, from exact activations of all windows
 *     probe          sensitivities: one part of one layer coded at a time, on a few short windows
 *     metric         Q of every layer, and its root
 *     no prediction  basis of every layer, from the exact covariances; what a bit is worth, measured on these channels
 *     prediction     twice, since bits need importances, importances what prediction leaves, and prediction what bits leave:
 *                      first   importances as if the layers below were exact, and from them bits
 *                      then    layer by layer: prediction and basis from reconstructed layers below, the layer coded
 *                              with these bits, reconstructed, and on to the next
 *
 * Work is shared by threads with windows of their own (worker.ts). What was computed is handed to a store, so that
 * an interrupted run goes on where it was; activations are not kept, but computed again.
 *
 * @module
 */

import {
  basisBlocks,
  type Calibration,
  type CalibrationBasis,
  type CalibrationSet,
  carrierOf,
  type LayerTransform,
} from '../../cache/calibration.js';
import { ConfigError } from '../../errors.js';
import { derivedSizes, type ModelConfig } from '../../model/config.js';
import { normalizesAfterRope } from '../../model/qk-norm.js';
import { type Dense, dense, multiply, toDense, transposeDense } from '../../numerics/dense.js';
import { concatRows, type Matrix } from '../../numerics/matrix.js';
import type { Distortion } from '../../quant/allocate-bits.js';
import type { ChannelBits } from '../../quant/symmetric.js';
import { bitsForAverage, meanDistortion } from './allocation.js';
import type { LayerBasis, MetricRoot } from './basis.js';
import { encodeOfStored, storedTransform } from './fit.js';
import { codedInputs, exactInputs } from './inputs.js';
import { inputMetric, keyMetric, keyValueMetric, valueMetric } from './metric.js';
import { type CodedPart, type Probe, sensitivity } from './sensitivities.js';
import { covariance, diagonalBlock } from './statistics.js';
import { combineCoded, combineLayers } from './windows.js';
import { ThreadPool, WorkMeter } from './work.js';
import type { CalibrationWorker, CodedLayer, CollectedLayer, FitRequest, LayerFit } from './worker.js';

/** A set of transforms to make. */
export type SetPlan = Omit<CalibrationSet, 'layers' | 'loss'>;

/** Results that an interrupted run need not compute again. */
export interface CalibrationState {
  /** What was put under a name; undefined if nothing was. */
  get(name: string): unknown;
  /** Keeps a result: probes, distortions, or a {@link LayerTransform}. */
  put(name: string, value: unknown): Promise<void>;
}

/** Weights of a layer through which an error is seen. */
export interface MetricWeights {
  /** [kvDim, hiddenSize] */
  readonly wK: Matrix;
  /** [kvDim, hiddenSize] */
  readonly wV: Matrix;
  /** [hiddenSize, queryDim] */
  readonly wO: Matrix;
  /** Gain of the norm of key heads, where there is one. [headDim] */
  readonly keyNorm?: Float32Array;
}

/** What a calibration is made of. */
export interface CalibrationInputs {
  readonly config: ModelConfig;
  /** Weights of a layer that its metric needs. */
  readonly weights: (layer: number) => MetricWeights;
  /** Threads, each with its windows. */
  readonly workers: readonly CalibrationWorker[];
  /** Tokens of all windows. */
  readonly tokens: number;
  /** Ids of the windows on which sensitivities are measured. */
  readonly probeWindows: readonly (readonly number[])[];
  readonly sets: readonly SetPlan[];
  readonly state: CalibrationState;
  /** Told how much of the work is done. */
  readonly onProgress: (done: number, total: number) => void;
}

/** What comes out. */
export type CalibrationResult = Pick<Calibration, 'distortion' | 'sets'>;

/** Statistics of a layer, and what its errors cost. */
interface KnownLayer {
  readonly collected: CollectedLayer;
  readonly covariance: Dense;
  /** Q, as the blocks along its diagonal. */
  readonly blocks: readonly Dense[];
  /** Of Q with one floor for all channels. */
  readonly metric: MetricRoot;
}

/**
 * See the module.
 *
 * @throws {ConfigError} for a model that normalizes queries after RoPE, which the metric does not describe
 */
export async function calibrateModel(inputs: CalibrationInputs): Promise<CalibrationResult> {
  const { qkNorm } = inputs.config;
  if (normalizesAfterRope(inputs.config))
    throw new ConfigError('qkNorm', qkNorm, 'before RoPE, to calibrate');
  return new Calibrator(inputs).run();
}

class Calibrator {
  readonly #inputs: CalibrationInputs;
  readonly #config: ModelConfig;
  readonly #pool: ThreadPool<CalibrationWorker>;
  readonly #work: WorkMeter;
  readonly #joint = new Map<KnownLayer, Promise<LayerFit>>();

  constructor(inputs: CalibrationInputs) {
    this.#inputs = inputs;
    this.#config = inputs.config;
    this.#pool = new ThreadPool(inputs.workers);
    const { config, tokens, probeWindows, sets, onProgress } = inputs;
    const probeTokens = probeWindows.reduce((sum, { length }) => sum + length, 0);
    const predicts = sets.map(({ predict }) => predict);
    this.#work = new WorkMeter({ config, tokens, probeTokens, predicts }, onProgress);
  }

  async run(): Promise<CalibrationResult> {
    const collected = await this.#collect();
    const layers = await this.#weigh(collected);
    const distortion = await this.#distortion(layers);
    const sets = await Promise.all(
      this.#inputs.sets.map(async (plan) => ({
        ...plan,
        layers:
          plan.predict === 0
            ? await this.#withoutPrediction(plan, layers)
            : await this.#withPrediction(plan, layers, distortion),
      })),
    );
    return { distortion, sets };
  }

  /** Statistics of all windows together. */
  async #collect(): Promise<CollectedLayer[]> {
    const depth = Math.max(...this.#inputs.sets.map(({ predict }) => predict));
    const parts = await Promise.all(
      this.#inputs.workers.map((worker) =>
        worker.collect(depth, (tokens) => this.#work.add('tokens', tokens)),
      ),
    );
    return parts.reduce((a, b) => a.map((layer, i) => combineLayers(layer, b[i])));
  }

  /** The metric of every layer, which takes the probes. */
  async #weigh(collected: readonly CollectedLayer[]): Promise<KnownLayer[]> {
    const parts = collected.map((each, layer) => this.#parts(each, layer));
    const bases = await Promise.all(
      parts.map(async ({ keys, values }) => ({
        keys: await this.#partBasis(keys),
        values: await this.#partBasis(values),
      })),
    );
    const probes = await this.#probe(parts, bases);
    return Promise.all(
      collected.map(async (each, layer): Promise<KnownLayer> => {
        const { keys, values } = parts[layer];
        const metric = keyValueMetric(keys.metric, values.metric, {
          keys: sensitivity(probes(layer, 'keys')),
          values: sensitivity(probes(layer, 'values')),
        });
        const blocks = this.#carrierMetric(metric, layer);
        const root = await this.#pool.run((worker) => worker.root(blocks, [each.own.meanA.length]));
        return { collected: each, covariance: covariance(each.own), blocks, metric: root };
      }),
    );
  }

  /** The metric of what the layer stores. */
  #carrierMetric(blocks: readonly Dense[], layer: number): readonly Dense[] {
    if (!this.#storesX()) return blocks;
    const { wK, wV } = this.#inputs.weights(layer);
    return [inputMetric(blocks, toDense(concatRows([wK, wV], wK.columns)))];
  }

  #storesX(): boolean {
    const sizes = { ...this.#config, ...derivedSizes(this.#config) };
    return carrierOf(sizes) === 'x';
  }

  /** Keys and values of a layer: moments, mean, and metric of each. */
  #parts({ own, queries, tokens }: CollectedLayer, layer: number) {
    const { kvDim } = derivedSizes(this.#config);
    const { wK, wV, wO, keyNorm } = this.#inputs.weights(layer);
    const whole = covariance(own);
    const part = (weights: Matrix, first: number) => {
      if (!this.#storesX())
        return {
          covariance: diagonalBlock(whole, first, kvDim),
          mean: own.meanA.slice(first, first + kvDim),
        };
      const w = transposeDense(toDense(weights));
      return {
        covariance: multiply(multiply(transposeDense(w), whole), w),
        mean: multiply(dense(1, own.meanA.length, own.meanA.slice()), w).data,
      };
    };
    const keys = part(wK, 0);
    const values = part(wV, kvDim);
    const moments = queries.map(({ rows, columns, data }) =>
      dense(
        rows,
        columns,
        data.map((x) => x / tokens),
      ),
    );
    const norm = keyNorm && { gain: keyNorm, rms: rmsOfKeys(keys, this.#config) };
    return {
      keys: { ...keys, metric: keyMetric(moments, this.#config, layer, norm) },
      values: { ...values, metric: valueMetric(wO, this.#config) },
    };
  }

  async #partBasis({
    covariance: own,
    metric,
  }: {
    covariance: Dense;
    metric: readonly Dense[];
  }): Promise<LayerBasis> {
    return this.#pool.run(async (worker) =>
      worker.basis(await worker.root(metric, [own.rows]), own, [own.rows]),
    );
  }

  /** Probes of all layers on all windows that are for it; each window goes to the threads that share it, by layers. */
  async #probe(
    parts: readonly { keys: { mean: Float64Array }; values: { mean: Float64Array } }[],
    bases: readonly { keys: LayerBasis; values: LayerBasis }[],
  ): Promise<(layer: number, part: CodedPart) => Probe[]> {
    const { workers, probeWindows, state } = this.#inputs;
    const key = (window: number, layer: number, part: CodedPart) => `probe ${window} ${layer} ${part}`;
    const missing = (w: number) =>
      parts.flatMap((means, layer) =>
        (['keys', 'values'] as const)
          .filter((part) => state.get(key(w, layer, part)) === undefined)
          .map((part) => ({ layer, part, basis: bases[layer][part], mean: means[part].mean })),
      );
    const { numHiddenLayers } = this.#config;
    const share = 1 / probeWindows.length; // of the probe of a part, which is done when all windows are
    const kept = probeWindows.reduce((sum, _, w) => sum + 2 * numHiddenLayers - missing(w).length, 0);
    this.#work.skip('probes', kept * share);
    await Promise.all(
      workers.map(async (worker, own) => {
        for (let w = own % probeWindows.length; w < probeWindows.length; w += workers.length) {
          const sharing = workers.filter((_, i) => i % probeWindows.length === w).length || 1;
          const which = Math.floor(own / probeWindows.length) % sharing;
          const requests = missing(w).filter((_, i) => i % sharing === which);
          if (requests.length === 0) continue;
          let at = 0;
          const puts: Promise<void>[] = [];
          await worker.probe(probeWindows[w], requests, (probe) => {
            const { layer, part } = requests[at++];
            puts.push(state.put(key(w, layer, part), probe));
            this.#work.add('probes', share);
          });
          await Promise.all(puts);
        }
      }),
    );
    return (layer, part) => probeWindows.map((_, w) => state.get(key(w, layer, part)) as Probe);
  }

  /** What bits are worth on the channels of a joint basis without prediction, in all layers. */
  async #distortion(layers: readonly KnownLayer[]): Promise<Distortion> {
    const { state } = this.#inputs;
    const known = state.get('distortion') as Distortion | undefined;
    if (known) return known;
    const measured = await Promise.all(
      layers.map(async (each, layer) => {
        const fit = await this.#jointFit(each);
        return this.#pool.run((worker) => worker.distortion(layer, fit));
      }),
    );
    const distortion = meanDistortion(measured);
    await state.put('distortion', distortion);
    return distortion;
  }

  /** All layers of a set without prediction: each is on its own. */
  async #withoutPrediction(
    { name, basis }: SetPlan,
    layers: readonly KnownLayer[],
  ): Promise<LayerTransform[]> {
    const { state } = this.#inputs;
    return Promise.all(
      layers.map(async (known, layer) => {
        const key = `${name} ${layer}`;
        const kept = state.get(key) as LayerTransform | undefined;
        if (kept) {
          this.#work.skip('layers', 0.1);
          return kept;
        }
        const fit = await (basis === 'joint' ? this.#jointFit(known) : this.#cutFit(known, basis));
        const stored = storedTransform(fit, basis);
        await state.put(key, stored);
        this.#work.add('layers', 0.1);
        return stored;
      }),
    );
  }

  /** A basis that is cut has a floor of the metric in each part. */
  #cutFit(known: KnownLayer, basis: CalibrationBasis): Promise<LayerFit> {
    const request = this.#request(known, basis);
    return this.#pool.run(async (worker) => {
      const metric = await worker.root(known.blocks, request.blocks);
      return worker.fit({ ...request, metric });
    });
  }

  /** Needed for a set and for the distortion. */
  #jointFit(known: KnownLayer): Promise<LayerFit> {
    let fit = this.#joint.get(known);
    if (!fit) {
      fit = this.#pool.run((worker) => worker.fit(this.#request(known, 'joint')));
      this.#joint.set(known, fit);
    }
    return fit;
  }

  /** All layers of a set with prediction, from the lowest upwards. */
  async #withPrediction(
    request: SetPlan,
    layers: readonly KnownLayer[],
    distortion: Distortion,
  ): Promise<LayerTransform[]> {
    const { name, predict, basis } = request;
    const bits = await this.#firstBits(request, layers, distortion);
    const fits: LayerTransform[] = [];
    let below: CodedLayer[] = []; // of the layer below first
    for (const [layer, known] of layers.entries()) {
      const fit = await this.#layerFit(request, known, layer, fits, below);
      fits.push(storedTransform(fit, basis));
      const parts = await Promise.all(
        this.#inputs.workers.map((worker) =>
          worker.code({ set: name, layer, fit, bits: bits[layer], predict }),
        ),
      );
      below = [parts.reduce(combineCoded), ...below].slice(0, predict);
      this.#work.add('layers', predict + 1);
    }
    return fits;
  }

  /** Bits of every channel, by importances as if the layers below were exact. */
  async #firstBits(
    { name, predict, basis, bits }: SetPlan,
    layers: readonly KnownLayer[],
    distortion: Distortion,
  ): Promise<ChannelBits[][]> {
    const known = this.#inputs.state.get(`${name} bits`) as ChannelBits[][] | undefined;
    if (known) return known;
    const collected = layers.map((each) => each.collected);
    const importance = await Promise.all(
      layers.map(async (known, layer) => {
        const inputs = exactInputs(collected, layer, Math.min(predict, layer));
        const fit = await this.#pool.run((worker) => worker.fit({ ...this.#request(known, basis), inputs }));
        return fit.importance;
      }),
    );
    const allocated = bitsForAverage(importance, bits ?? 0, this.#config, distortion);
    await this.#inputs.state.put(`${name} bits`, allocated);
    return allocated;
  }

  /** A layer fitted on reconstructed layers below, or as it was kept. */
  async #layerFit(
    { name, predict, basis }: SetPlan,
    known: KnownLayer,
    layer: number,
    fits: readonly LayerTransform[],
    below: readonly CodedLayer[],
  ): Promise<LayerFit> {
    const { state } = this.#inputs;
    const kept = state.get(`${name} ${layer}`) as LayerTransform | undefined;
    if (kept) return { ...kept, encode: encodeOfStored(known.metric, kept) };
    const decode = Array.from({ length: Math.min(predict, layer) }, (_, q) => fits[layer - 1 - q].decode);
    const inputs = codedInputs(below, decode);
    const fit = await this.#pool.run((worker) => worker.fit({ ...this.#request(known, basis), inputs }));
    await state.put(`${name} ${layer}`, storedTransform(fit, basis));
    return fit;
  }

  #request({ collected, covariance: own, metric }: KnownLayer, basis: CalibrationBasis): FitRequest {
    const { meanA: mean } = collected.own;
    return { metric, blocks: basisBlocks(basis, this.#config, mean.length), own, mean };
  }
}

/** Root mean square that QK-norm divides keys by: of each head, or the same for all of them. */
function rmsOfKeys(
  { covariance: { data, rows }, mean }: { covariance: Dense; mean: Float64Array },
  { numKeyValueHeads, headDim, qkNorm }: ModelConfig,
): Float64Array {
  const squares = mean.map((value, k) => data[k * (rows + 1)] + value ** 2);
  const width = qkNorm === 'width' ? rows : headDim;
  return Float64Array.from({ length: numKeyValueHeads }, (_, head) => {
    const first = qkNorm === 'width' ? 0 : head * headDim;
    const sum = squares.subarray(first, first + width).reduce((all, value) => all + value, 0);
    return Math.sqrt(sum / width);
  });
}
