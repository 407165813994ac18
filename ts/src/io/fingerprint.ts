/**
 * A short name for a set of weights, so that a saved cache is not continued with another model.
 *
 * @module
 */

import type { ModelConfig } from '../model/config.js';
import type { UnreadTensor, UnreadWeights } from '../model/weights.js';

const SAMPLE_BYTES = 256;

/**
 * 64 bits of FNV-1a over the config, over name, type and shape of every matrix, and over the first, middle and
 * last 256 bytes of each. Any training changes all weights, so a sample tells models apart; it is no
 * protection against somebody who wants two models to look alike. The same weights in another file format
 * or type have another fingerprint: a cache does depend on the exact weights.
 *
 * @returns 16 hexadecimal digits
 * @throws {LoadError} if a sample cannot be read
 */
export async function fingerprintModel(config: ModelConfig, weights: UnreadWeights): Promise<string> {
  const hash = new Fnv1a64();
  // Which biases and norms there are shows in the tensors below.
  const { qkvBias: _, outputBias: _o, mlpBias: _m, qkNorm: _n, contextLimit: _c, ...sizes } = config;
  const divisors = config.ropeFrequencyDivisors && Array.from(config.ropeFrequencyDivisors);
  const sorted = Object.entries({ ...sizes, ropeFrequencyDivisors: divisors }).sort(([a], [b]) =>
    a < b ? -1 : 1,
  );
  hash.add(new TextEncoder().encode(JSON.stringify(sorted)));
  await addTensor(hash, weights.embedding);
  for (const layer of weights.layers) {
    for (const value of Object.values(layer)) {
      if (value instanceof Float32Array) {
        hash.add(new Uint8Array(value.buffer, value.byteOffset, value.byteLength).subarray(0, SAMPLE_BYTES));
      } else if (value) await addTensor(hash, value);
    }
  }
  if (weights.output !== weights.embedding) await addTensor(hash, weights.output);
  return hash.hex();
}

async function addTensor(hash: Fnv1a64, tensor: UnreadTensor): Promise<void> {
  const { name, type, rows, columns, byteLength } = tensor;
  hash.add(new TextEncoder().encode(`${name} ${type} ${rows} ${columns}`));
  for (const start of [0, Math.floor(byteLength / 2), Math.max(0, byteLength - SAMPLE_BYTES)]) {
    hash.add(await tensor.read(start, Math.min(SAMPLE_BYTES, byteLength - start)));
  }
}

/** FNV-1a with 64 bits: hash = (hash xor byte) * (2^40 + 0x1b3), in two halves of 32 bits. */
class Fnv1a64 {
  private high = 0xcbf29ce4;
  private low = 0x84222325;

  add(bytes: Uint8Array): void {
    for (const byte of bytes) {
      const low = (this.low ^ byte) >>> 0;
      // low * 0x1b3 has up to 41 bits, which a number holds exactly; what exceeds 32 is carried.
      const product = low * 0x1b3;
      const carried = Math.floor(product / 2 ** 32);
      // 2^40 = 2^8 in the high half.
      this.high = (Math.imul(this.high, 0x1b3) + carried + (low << 8)) >>> 0;
      this.low = product >>> 0;
    }
  }

  hex(): string {
    return [this.high, this.low].map((half) => half.toString(16).padStart(8, '0')).join('');
  }
}
