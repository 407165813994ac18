/**
 * Caches of keys and values whose heads are rotated by a Hadamard matrix: what users of llama.cpp have today, and the
 * idea of TurboQuant. Measured beside the caches of the paper, see key-value-simulation.ts.
 *
 *     q4_0, q8_0      keys after RoPE; blocks of 32 channels as in GGUF files       4.5, 8.5 bits
 *     lloyd-max:B     keys before RoPE; the norm of a head of a token in f16,       B + 16 / headDim bits
 *                     levels for a normal variable
 *
 * llama.cpp rotates heads of a multiple of 64 channels only; here all heads are rotated. Every token is quantized as
 * soon as it is there, and none is left out.
 *
 * @module
 */

import type { CacheBytes } from '../cache/contract.js';
import type { CacheModelShape } from '../cache/options.js';
import { zeroBytes } from '../cache/stored-matrix.js';
import { ConfigError } from '../errors.js';
import type { ModelConfig } from '../model/config.js';
import { applyRope, layerRope } from '../model/rope.js';
import { decodeFloat16, encodeFloat16 } from '../numerics/float16.js';
import { hadamardInto } from '../numerics/hadamard.js';
import type { Matrix } from '../numerics/matrix.js';
import { type BlockEncoder, encodeQ4_0, encodeQ8_0, GGML_BLOCK } from '../quant/ggml-quantize.js';
import { lloydMaxLevels, roundTripLloydMax } from '../quant/lloyd-max.js';
import { packedBytes } from '../quant/pack.js';
import { type BlockDecoder, decodeQ4_0, decodeQ8_0 } from '../quant/weight-formats.js';
import type { RoundTrip } from './round-trip.js';

/** How rotated heads are quantized. */
interface RotatedCache {
  /** Whether keys are stored with their positions. */
  readonly afterRope: boolean;
  /** Replaces one rotated head of one token. */
  readonly roundTrip: (head: Float32Array) => void;
  /** Bytes of one head of one token. */
  readonly codes: (headDim: number) => number;
  readonly scales: (headDim: number) => number;
}

/** By name. */
const ROTATED: Readonly<Record<string, RotatedCache>> = {
  q8_0: ggml(32, encodeQ8_0, decodeQ8_0),
  q4_0: ggml(16, encodeQ4_0, decodeQ4_0),
  'lloyd-max:4': lloydMax(4),
  'lloyd-max:3': lloydMax(3),
  'lloyd-max:2': lloydMax(2),
};

/** The names of these caches. */
export const ROTATED_CACHES: readonly string[] = Object.keys(ROTATED);

/** Whether a name is one of {@link ROTATED_CACHES}. */
export function isRotatedCache(name: string): boolean {
  return ROTATED_CACHES.includes(name);
}

/**
 * What a cache does to the keys and values of one layer.
 *
 * @param name one of {@link ROTATED_CACHES}
 * @throws {ConfigError} if heads are no whole blocks
 */
export function rotatedRoundTrip(name: string, config: ModelConfig, layer: number): RoundTrip {
  const { afterRope, roundTrip } = rotatedCache(name, config.headDim);
  const { headDim } = config;
  const { frequencies, magnitudes } = layerRope(config, layer);
  const eachHead = (rows: Matrix) => {
    for (let at = 0; at < rows.data.length; at += headDim) {
      const head = rows.data.subarray(at, at + headDim);
      hadamardInto(head);
      roundTrip(head);
      hadamardInto(head);
    }
  };
  return ({ keys, values }, position, bytes) => {
    for (const rows of [keys, values]) rows.data.set(decodeFloat16(encodeFloat16(rows.data)));
    if (afterRope) {
      const turned = applyRope(keys, position, frequencies, config.ropeLayout, magnitudes);
      eachHead(turned);
      // Turned back, since the engine turns what it stores: exact but for a rounding.
      const [back, inverse] = [frequencies.map((each) => -each), magnitudes?.map((each) => 1 / each)];
      keys.data.set(applyRope(turned, position, back, config.ropeLayout, inverse).data);
    } else {
      eachHead(keys);
    }
    eachHead(values);
    const added = rotatedLayerBytes(name, config, keys.rows);
    bytes.codes += added.codes;
    bytes.scales += added.scales;
  };
}

/**
 * Bytes of a cache by formula.
 *
 * @param name one of {@link ROTATED_CACHES}
 * @param tokens stored
 * @throws {ConfigError} if heads are no whole blocks
 */
export function rotatedBytes(name: string, shape: CacheModelShape, tokens: number): CacheBytes {
  const layer = rotatedLayerBytes(name, shape, tokens);
  const { numHiddenLayers: layers } = shape;
  return { ...layer, codes: layers * layer.codes, scales: layers * layer.scales };
}

function rotatedLayerBytes(name: string, shape: CacheModelShape, tokens: number): CacheBytes {
  const { headDim, numKeyValueHeads } = shape;
  const { codes, scales } = rotatedCache(name, headDim);
  const heads = tokens * 2 * numKeyValueHeads; // of keys and of values
  return { ...zeroBytes(), codes: heads * codes(headDim), scales: heads * scales(headDim) };
}

function rotatedCache(name: string, headDim: number): RotatedCache {
  if (!name.startsWith('lloyd-max') && headDim % GGML_BLOCK !== 0) {
    throw new ConfigError('cache', name, `one that suits heads of ${headDim}: its blocks have ${GGML_BLOCK}`);
  }
  return ROTATED[name];
}

/** @param codeBytes of a block, which has two more for its step */
function ggml(codeBytes: number, encode: BlockEncoder, decode: BlockDecoder): RotatedCache {
  const block = new Uint8Array(2 + codeBytes);
  return {
    afterRope: true,
    roundTrip: (head) => {
      for (let at = 0; at < head.length; at += GGML_BLOCK) {
        encode(head, at, block, 0);
        decode(block, 0, head, at);
      }
    },
    codes: (headDim) => (codeBytes * headDim) / GGML_BLOCK,
    scales: (headDim) => (2 * headDim) / GGML_BLOCK,
  };
}

function lloydMax(bits: 2 | 3 | 4): RotatedCache {
  let levels: Float32Array | undefined;
  return {
    afterRope: false,
    roundTrip: (head) => {
      levels ??= Float32Array.from(lloydMaxLevels(bits));
      roundTripLloydMax(head, levels);
    },
    codes: (headDim) => packedBytes(headDim, bits),
    scales: () => 2,
  };
}
