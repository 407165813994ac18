/**
 * A random model of a few thousand parameters and a tokenizer of bytes: everything that generation and
 * perplexity need, in no time and without a file.
 *
 * @module
 */

import type { GenerationTokenizer } from '../../src/generate.js';
import { assertModelConfig, derivedSizes, type ModelConfig } from '../../src/model/config.js';
import type { ReferenceWeights } from '../../src/model/weights.js';
import { type Matrix, matrix } from '../../src/numerics/matrix.js';
import { ReferenceModel } from '../../src/reference-model.js';
import { Random } from '../../src/sampling.js';

/** The end-of-sequence id of {@link ByteTokenizer}: the one after the 256 bytes. */
export const END_OF_SEQUENCE = 256;

/** Four layers of 64 channels; one id per byte, and the end. */
export const TINY_CONFIG: ModelConfig = {
  architecture: 'llama',
  hiddenSize: 64,
  intermediateSize: 96,
  numHiddenLayers: 4,
  numAttentionHeads: 4,
  numKeyValueHeads: 4,
  headDim: 16,
  vocabSize: 257,
  maxPositionEmbeddings: 320,
  rmsNormEps: 1e-5,
  ropeTheta: 10000,
  ropeLayout: 'half',
  tieWordEmbeddings: false,
};

/** The same with two KV heads for four query heads. */
export const TINY_GQA_CONFIG: ModelConfig = { ...TINY_CONFIG, numKeyValueHeads: 2 };

/** Weights of about the size that keeps activations near one. */
export function randomWeights(config: ModelConfig, seed = 1): ReferenceWeights {
  assertModelConfig(config);
  const random = new Random(seed);
  const uniform = (scale: number) => (random.next() * 2 - 1) * scale;
  const linear = (rows: number, columns: number): Matrix => {
    const data = Float32Array.from({ length: rows * columns }, () => uniform(Math.sqrt(3 / columns)));
    return matrix(rows, columns, data);
  };
  const gain = () => Float32Array.from({ length: config.hiddenSize }, () => 1 + uniform(0.3));
  const { hiddenSize, intermediateSize, vocabSize } = config;
  const { queryDim, kvDim } = derivedSizes(config);
  const layers = Array.from({ length: config.numHiddenLayers }, () => ({
    attentionNorm: gain(),
    wQ: linear(queryDim, hiddenSize),
    wK: linear(kvDim, hiddenSize),
    wV: linear(kvDim, hiddenSize),
    wO: linear(hiddenSize, queryDim),
    mlpNorm: gain(),
    wGate: linear(intermediateSize, hiddenSize),
    wUp: linear(intermediateSize, hiddenSize),
    wDown: linear(hiddenSize, intermediateSize),
  }));
  const output = linear(vocabSize, hiddenSize);
  // Sharper than it would be, so that the likeliest token stands out and caches can disagree about it.
  for (let i = 0; i < output.data.length; i++) output.data[i] *= 3;
  return { embedding: linear(vocabSize, hiddenSize), layers, outputNorm: gain(), output };
}

/** Ids are the bytes of UTF-8, and the one after them ends a sequence. */
export class ByteTokenizer implements GenerationTokenizer {
  readonly eosTokenIds = [END_OF_SEQUENCE];

  encode(text: string): number[] {
    return [...new TextEncoder().encode(text)];
  }

  createDecoder() {
    const decoder = new TextDecoder();
    return {
      push: (id: number) => (id < 256 ? decoder.decode(Uint8Array.of(id), { stream: true }) : ''),
      flush: () => decoder.decode(),
    };
  }
}

/** A reference model with random weights. */
export function tinyModel(config: ModelConfig = TINY_CONFIG, seed = 1): ReferenceModel {
  return new ReferenceModel(config, randomWeights(config, seed));
}

/** `count` ids of bytes, reproducible. */
export function randomTokens(count: number, seed = 1): number[] {
  const random = new Random(seed);
  return Array.from({ length: count }, () => Math.floor(random.next() * 256));
}
