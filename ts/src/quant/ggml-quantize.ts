/**
 * Numbers into blocks of ggml, for the types that llama.cpp keeps keys and values in: the other direction of
 * weight-formats.ts, which has the layouts.
 *
 * Codes are taken against the step in f32, while the reader has it in f16: that is how ggml does it, unlike the
 * quantizers of this package.
 *
 * @module
 */

import { toFloat16Bits } from '../numerics/float16.js';

const fround = Math.fround;

/** Numbers in a block of `Q4_0` and `Q8_0`. */
export const GGML_BLOCK = 32;

/** Encodes the numbers from `values[from]` as the block that starts at `out[at]`. */
export type BlockEncoder = (values: Float32Array, from: number, out: Uint8Array, at: number) => void;

/** One step is 1/127 of the largest magnitude; halves are rounded away from zero. 34 bytes. */
export function encodeQ8_0(values: Float32Array, from: number, out: Uint8Array, at: number): void {
  let largest = 0;
  for (let i = 0; i < GGML_BLOCK; i++) largest = Math.max(largest, Math.abs(values[from + i]));
  const inverse = writeStep(fround(largest / 127), out, at);
  for (let i = 0; i < GGML_BLOCK; i++) {
    const scaled = fround(values[from + i] * inverse);
    out[at + 2 + i] = Math.sign(scaled) * Math.floor(Math.abs(scaled) + 0.5);
  }
}

/**
 * The number of the largest magnitude, with its sign, is -8 steps, so there are only 7 steps on the other side. 18
 * bytes.
 */
export function encodeQ4_0(values: Float32Array, from: number, out: Uint8Array, at: number): void {
  let extreme = 0;
  for (let i = 0; i < GGML_BLOCK; i++) {
    if (Math.abs(values[from + i]) > Math.abs(extreme)) extreme = values[from + i];
  }
  const inverse = writeStep(fround(extreme / -8), out, at);
  const code = (i: number) => Math.min(15, Math.trunc(fround(fround(values[from + i] * inverse) + 8.5)));
  for (let j = 0; j < GGML_BLOCK / 2; j++) out[at + 2 + j] = code(j) | (code(j + GGML_BLOCK / 2) << 4);
}

/** Writes the f16 of a step; returns what numbers are multiplied by to be counted in steps. */
function writeStep(step: number, out: Uint8Array, at: number): number {
  const bits = toFloat16Bits(step);
  out[at] = bits & 255;
  out[at + 1] = bits >> 8;
  return step === 0 ? 0 : fround(1 / step);
}
