import { readFileSync } from 'node:fs';
import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { ShapeError } from '../../../src/errors.js';
import {
  dequantizeWeights,
  findNonFiniteBlock,
  rewriteBlocks,
  WEIGHT_BLOCKS,
  WEIGHT_TYPES,
  type WeightTensor,
  type WeightType,
  weightBytes,
} from '../../../src/quant/weight-types.js';

interface Case {
  type: WeightType;
  columns: number;
  bytes: string;
  values: string;
}

const fixture = new URL('../../fixtures/weight-formats/weight-formats.json', import.meta.url);
const cases: Case[] = JSON.parse(readFileSync(fixture, 'utf8'));

const fromHex = (hex: string) => new Uint8Array(Buffer.from(hex, 'hex'));
const bitsOf = (values: Float32Array) => Array.from(new Uint32Array(values.slice().buffer));

describe('dequantizeWeights equals the gguf package, bit for bit', () => {
  it.each(cases)('$type', ({ type, columns, bytes, values }) => {
    const decoded = dequantizeWeights({ name: 'w', type, rows: 1, columns, bytes: fromHex(bytes) });
    expect(bitsOf(decoded.data)).toEqual(bitsOf(new Float32Array(fromHex(values).buffer)));
  });

  it('covers every type but F32', () => {
    expect([...new Set(cases.map((each) => each.type)), 'F32'].sort()).toEqual([...WEIGHT_TYPES].sort());
  });
});

describe('a type that the engine multiplies as another one', () => {
  const rewritten = cases.filter(({ type }) => WEIGHT_BLOCKS[type].rewrite !== undefined);

  it.each(rewritten)('$type means the same weights, bit for bit', ({ type, columns, bytes }) => {
    const original = { name: 'w', type, rows: 1, columns, bytes: fromHex(bytes) };
    const product = {
      ...original,
      type: WEIGHT_BLOCKS[type].product,
      bytes: rewriteBlocks(type, fromHex(bytes)),
    };
    // -0 and 0 are one number: a code of 0 under a negative scale
    const numbers = (tensor: WeightTensor) =>
      bitsOf(dequantizeWeights(tensor).data.map((value) => value + 0));
    expect(numbers(product)).toEqual(numbers(original));
  });

  it('others stay as they are', () => {
    const bytes = new Uint8Array(144);
    expect(rewriteBlocks('Q4_K', bytes)).toBe(bytes);
  });
});

describe('findNonFiniteBlock', () => {
  it.each(WEIGHT_TYPES)('finds each float of a block of %s', (type) => {
    const { elements, bytes, floats } = WEIGHT_BLOCKS[type];
    const columns = 3 * elements;
    for (const at of floats.at) {
      const file = new Uint8Array(3 * bytes);
      const tensor = { name: 'w', type, rows: 1, columns, bytes: file };
      expect(findNonFiniteBlock(tensor)).toBe(-1);
      // all bits of a float: NaN, or for a bare exponent beyond f32
      file.fill(
        255,
        2 * bytes + at,
        2 * bytes + at + (floats.kind === 'e8m0' ? 1 : floats.kind === 'f32' ? 4 : 2),
      );
      expect(findNonFiniteBlock(tensor)).toBe(2 * elements);
      if (floats.kind === 'e8m0') file[2 * bytes + at + 1] = 0x77;
      const values = dequantizeWeights(tensor).data;
      expect(values.slice(2 * elements).some((value) => !Number.isFinite(value))).toBe(true);
      expect(values.slice(0, 2 * elements).every((value) => value === 0)).toBe(true);
    }
  });
});

describe('dequantizeWeights', () => {
  it('reads F32 from an unaligned place', () => {
    const values = Float32Array.of(1, -2.5, 3e-8, 0);
    const file = new Uint8Array(1 + values.byteLength);
    file.set(new Uint8Array(values.buffer), 1);
    const tensor = { name: 'w', type: 'F32' as const, rows: 2, columns: 2, bytes: file.subarray(1) };
    expect(dequantizeWeights(tensor).data).toEqual(values);
  });

  it('refuses bytes that do not fit the shape, and names the tensor', () => {
    const tensor = { name: 'blk.3.attn_q.weight', type: 'Q8_0' as const, rows: 2, columns: 64 };
    expect(() => dequantizeWeights({ ...tensor, bytes: new Uint8Array(135) })).toThrow(ShapeError);
    expect(() => dequantizeWeights({ ...tensor, bytes: new Uint8Array(135) })).toThrow(/blk\.3\.attn_q/);
  });

  it.each(WEIGHT_TYPES.filter((type) => WEIGHT_BLOCKS[type].elements > 1))(
    '%s refuses rows that are not whole blocks',
    (type) => {
      expect(() => weightBytes(type, 2, WEIGHT_BLOCKS[type].elements + 1)).toThrow(ShapeError);
    },
  );

  property.prop([
    fc.constantFrom(...WEIGHT_TYPES),
    fc.integer({ min: 1, max: 4 }),
    fc.integer({ min: 1, max: 3 }),
    fc.infiniteStream(fc.integer({ min: 0, max: 255 })),
  ])('every row decodes as it does alone', (type, rows, blocks, stream) => {
    const columns = blocks * WEIGHT_BLOCKS[type].elements;
    const rowBytes = weightBytes(type, 1, columns);
    const bytes = Uint8Array.from({ length: rows * rowBytes }, () => stream.next().value as number);
    const whole = dequantizeWeights({ name: 'w', type, rows, columns, bytes });
    for (let r = 0; r < rows; r++) {
      const part = bytes.subarray(r * rowBytes, (r + 1) * rowBytes);
      const alone = dequantizeWeights({ name: 'w', type, rows: 1, columns, bytes: part });
      expect(bitsOf(whole.data.subarray(r * columns, (r + 1) * columns))).toEqual(bitsOf(alone.data));
    }
  });

  property.prop([fc.constantFrom(...WEIGHT_TYPES)])('zero bytes are zeros', (type) => {
    const columns = WEIGHT_BLOCKS[type].elements;
    const bytes = new Uint8Array(weightBytes(type, 1, columns));
    const { data } = dequantizeWeights({ name: 'w', type, rows: 1, columns, bytes });
    expect(data.every((value) => value === 0)).toBe(true);
  });
});
