/**
 * Engines for tests: models of f32 weights, and models whose layers have given projections.
 *
 * @module
 */

import type { KeyValueProjection } from '../../../src/cache/projection.js';
import { WasmModel, type WasmModelOptions } from '../../../src/engine/wasm-model.js';
import type { ModelConfig } from '../../../src/model/config.js';
import type { FileWeights, LayerWeights, ReferenceWeights } from '../../../src/model/weights.js';
import type { Matrix } from '../../../src/numerics/matrix.js';
import type { WeightTensor } from '../../../src/quant/weight-types.js';
import { gaussianMatrix } from '../../helpers/arbitraries.js';
import { RMS_EPSILON, type SHAPES } from '../../helpers/random-layers.js';

/** A matrix as a file of f32 would store it. */
export function tensorOf(name: string, { rows, columns, data }: Matrix): WeightTensor {
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return { name, type: 'F32', rows, columns, bytes };
}

/** Reference weights as a file of f32 would store them. */
export function fileWeights(weights: ReferenceWeights): FileWeights {
  const embedding = tensorOf('embedding', weights.embedding);
  return {
    embedding,
    layers: weights.layers.map((layer) => layerTensors(layer)),
    outputNorm: weights.outputNorm,
    output: weights.output === weights.embedding ? embedding : tensorOf('output', weights.output),
  };
}

function layerTensors(layer: LayerWeights<Matrix>): LayerWeights<WeightTensor> {
  const entries = Object.entries(layer).map(([name, value]) => [
    name,
    value && 'rows' in value ? tensorOf(name, value) : value,
  ]);
  return Object.fromEntries(entries) as LayerWeights<WeightTensor>;
}

/** Loads an engine with the weights of a reference model. */
export function engineOf(
  config: ModelConfig,
  weights: ReferenceWeights,
  options: WasmModelOptions = { threads: 1 },
): Promise<WasmModel> {
  return WasmModel.load(config, fileWeights(weights), options);
}

/** An engine whose layers have these projections; everything else about it is random. */
export function engineOfProjections(
  shape: (typeof SHAPES)[keyof typeof SHAPES],
  projections: readonly KeyValueProjection[],
  options: WasmModelOptions = { threads: 1 },
): Promise<WasmModel> {
  const { hiddenSize, headDim } = shape;
  const biased = projections[0].bK !== undefined;
  const config: ModelConfig = {
    ...shape,
    architecture: 'qwen3',
    intermediateSize: 64,
    vocabSize: 64,
    maxPositionEmbeddings: 4096,
    rmsNormEps: RMS_EPSILON,
    ropeTheta: 10000,
    ropeLayout: 'half',
    tieWordEmbeddings: true,
    ...(biased ? { qkvBias: true, qkNorm: 'head' } : {}),
  };
  const random = (rows: number, columns: number, seed: number) => gaussianMatrix(rows, columns, seed);
  const queryDim = shape.numAttentionHeads * headDim;
  const embedding = random(config.vocabSize, hiddenSize, 1);
  const layers = projections.map(({ wK, wV, bK, bV, normGain, keyNorm }, layer) => ({
    attentionNorm: normGain,
    wQ: random(queryDim, hiddenSize, layer),
    wK,
    wV,
    wO: random(hiddenSize, queryDim, layer + 50),
    bQ: biased ? new Float32Array(queryDim) : undefined,
    bK,
    bV,
    queryNorm: biased ? new Float32Array(headDim).fill(1) : undefined,
    keyNorm: keyNorm?.gain,
    mlpNorm: normGain,
    wGate: random(64, hiddenSize, layer + 100),
    wUp: random(64, hiddenSize, layer + 150),
    wDown: random(hiddenSize, 64, layer + 200),
  }));
  return WasmModel.load(
    config,
    fileWeights({ embedding, layers, outputNorm: projections[0].normGain, output: embedding }),
    options,
  );
}
