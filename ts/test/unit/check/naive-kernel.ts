/**
 * A kernel written from the specification for the tests of the diagnoses, with a hook at every step that can
 * go wrong. It shares no code with quant/ or with check/mistaken-quantizer.ts but the f16 conversions.
 */

import { fromFloat16Bits, toFloat16Bits } from '../../../src/numerics/float16.js';

const fround = Math.fround;
const f16 = (value: number) => fromFloat16Bits(toFloat16Bits(value));

export interface KernelOptions {
  rows: number;
  columns: number;
  bits: number;
  groupSize: number;
  grouping: 'perToken' | 'perChannel';
}

export interface Hooks {
  /** Elements of each group, as [token, channel]. */
  groups?: (options: KernelOptions) => [number, number][][];
  /** What the range is taken of. */
  statistics?: (values: number[], groupSize: number) => number[];
  parameters?: (min: number, max: number, last: number) => { scale: number; min: number };
  /** Codes from raw values; `stored` are f16, `exact` are not. */
  level?: (
    x: number,
    stored: { scale: number; min: number },
    exact: { scale: number; min: number },
  ) => number;
  round?: (level: number) => number;
  value?: (code: number, stored: { scale: number; min: number }) => number;
  pack?: (codes: number[], bits: number) => number[];
  keepNegativeZero?: boolean;
}

export interface KernelResult {
  packed: Uint8Array;
  scales: Uint16Array;
  mins: Uint16Array;
  codes: Uint8Array;
  x_hat: Float32Array;
}

export function kernel(x: Float32Array, options: KernelOptions, hooks: Hooks = {}): KernelResult {
  const { columns, bits, groupSize } = options;
  const last = 2 ** bits - 1;
  const codes = new Uint8Array(x.length);
  const values = new Float32Array(x.length);
  const packed: number[] = [];
  const scales: number[] = [];
  const mins: number[] = [];
  for (const group of (hooks.groups ?? specifiedGroups)(options)) {
    const raw = group.map(([t, c]) => x[t * columns + c]);
    const seen = hooks.statistics?.(raw, groupSize) ?? raw;
    let min = Math.min(...seen);
    const max = Math.max(...seen);
    if (min === 0) min = hooks.keepNegativeZero && seen.some((value) => Object.is(value, -0)) ? -0 : 0;
    const exact = hooks.parameters?.(min, max, last) ?? { scale: fround(fround(max - min) / last), min };
    const stored = { scale: f16(exact.scale), min: f16(exact.min) };
    scales.push(toFloat16Bits(exact.scale));
    mins.push(toFloat16Bits(exact.min));
    const groupCodes = raw.map((value) => {
      if (stored.scale === 0) return 0;
      const level = hooks.level?.(value, stored, exact) ?? fround(fround(value - stored.min) / stored.scale);
      return (hooks.round ?? halfEven)(Math.min(last, Math.max(0, level)));
    });
    group.forEach(([t, c], i) => {
      codes[t * columns + c] = groupCodes[i];
      values[t * columns + c] =
        hooks.value?.(groupCodes[i], stored) ?? groupCodes[i] * stored.scale + stored.min;
    });
    packed.push(...(hooks.pack ?? specifiedPacking)(groupCodes, bits));
  }
  return {
    packed: Uint8Array.from(packed),
    scales: Uint16Array.from(scales),
    mins: Uint16Array.from(mins),
    codes,
    x_hat: values,
  };
}

export function halfEven(level: number): number {
  const floor = Math.floor(level);
  const part = level - floor;
  if (part !== 0.5) return part < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

/** Runs of at most `size`, the first of which may have another length. */
export function runs(length: number, size: number, first = size): number[][] {
  const all = Array.from({ length }, (_, i) => i);
  const result = [all.slice(0, first)];
  for (let at = first; at < length; at += size) result.push(all.slice(at, at + size));
  return result.filter((run) => run.length > 0);
}

export function specifiedGroups(options: KernelOptions, first = options.groupSize): [number, number][][] {
  const { rows, columns, groupSize, grouping } = options;
  const tokens = Array.from({ length: rows }, (_, i) => i);
  const channels = Array.from({ length: columns }, (_, i) => i);
  if (grouping === 'perToken') {
    return tokens.flatMap((t) =>
      runs(columns, groupSize, first).map((run) => run.map((c): [number, number] => [t, c])),
    );
  }
  return runs(rows, groupSize, first).flatMap((run) =>
    channels.map((c) => run.map((t): [number, number] => [t, c])),
  );
}

/** Bits of a stream, the first bit of the first number first. */
export function bitsOf(numbers: readonly number[], width: number): number[] {
  return numbers.flatMap((number) => Array.from({ length: width }, (_, bit) => (number >> bit) & 1));
}

export function bytesOf(bits: readonly number[]): number[] {
  return runs(bits.length, 8).map((run) => run.reduce((byte, at, i) => byte | (bits[at] << i), 0));
}

export function specifiedPacking(codes: number[], bits: number): number[] {
  if (bits !== 3) return bytesOf(bitsOf(codes, bits));
  const low = codes.map((code) => code & 3);
  const high = codes.map((code) => code >> 2);
  return [...bytesOf(bitsOf(low, 2)), ...bytesOf(bitsOf(high, 1))];
}

/** `x W^T` in f32, one product after the other. [tokens, outChannels] */
export function product(x: Float32Array, w: Float32Array, inner: number): Float32Array {
  const [tokens, out] = [x.length / inner, w.length / inner];
  const result = new Float32Array(tokens * out);
  for (let t = 0; t < tokens; t++) {
    for (let j = 0; j < out; j++) {
      let sum = 0;
      for (let k = 0; k < inner; k++) sum = fround(sum + fround(x[t * inner + k] * w[j * inner + k]));
      result[t * out + j] = sum;
    }
  }
  return result;
}

/** RoPE with its angles in f32, as kernels compute them. */
export function rope(
  x: Float32Array,
  width: number,
  headDim: number,
  theta: number,
  layout: 'half' | 'interleaved',
  position: (row: number) => number,
): Float32Array {
  const result = new Float32Array(x.length);
  for (let row = 0; row < x.length / width; row++) {
    for (let head = 0; head < width; head += headDim) {
      for (let i = 0; i < headDim / 2; i++) {
        const frequency = fround(1 / fround(theta ** fround((2 * i) / headDim)));
        const angle = fround(position(row) * frequency);
        const [cos, sin] = [fround(Math.cos(angle)), fround(Math.sin(angle))];
        const at = row * width + head;
        const [a, b] = layout === 'half' ? [at + i, at + i + headDim / 2] : [at + 2 * i, at + 2 * i + 1];
        result[a] = fround(fround(x[a] * cos) - fround(x[b] * sin));
        result[b] = fround(fround(x[a] * sin) + fround(x[b] * cos));
      }
    }
  }
  return result;
}

/** The Walsh-Hadamard matrix applied to blocks of `size`, not normalized. */
export function hadamard(x: Float32Array, size: number): Float32Array {
  const result = new Float32Array(x);
  for (let start = 0; start < x.length; start += size) {
    for (let stride = 1; stride < size; stride *= 2) {
      for (let i = 0; i < size; i++) {
        if (Math.floor(i / stride) % 2 === 1) continue;
        const [a, b] = [result[start + i], result[start + i + stride]];
        result[start + i] = a + b;
        result[start + i + stride] = a - b;
      }
    }
  }
  return result;
}
