import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { FormatError, ShapeError, UnsupportedModelError } from '../../../src/errors.js';
import {
  parseSafetensorsHeader,
  readSafetensors,
  readSafetensorsHeader,
  SAFETENSORS_DTYPES,
  type SafeTensor,
  type SafetensorsDtype,
  toFloat32,
  toSafeTensor,
  writeSafetensors,
} from '../../../src/io/safetensors.js';
import { memorySource } from '../../../src/io/source.js';
import { encodeFloat16 } from '../../../src/numerics/float16.js';

/** A file with any header and any data. */
function raw(header: string | object, dataBytes = 0, claimedLength?: bigint): Uint8Array {
  const json = new TextEncoder().encode(typeof header === 'string' ? header : JSON.stringify(header));
  const file = new Uint8Array(8 + json.length + dataBytes);
  new DataView(file.buffer).setBigUint64(0, claimedLength ?? BigInt(json.length), true);
  file.set(json, 8);
  return file;
}

const f32 = (shape: number[], begin: number, end: number) => ({
  dtype: 'F32',
  shape,
  data_offsets: [begin, end],
});

const tensors = fc
  .tuple(
    fc.constantFrom(...(Object.keys(SAFETENSORS_DTYPES) as SafetensorsDtype[])),
    fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 3 }),
    fc.infiniteStream(fc.integer({ min: 0, max: 255 })),
  )
  .map(([dtype, shape, stream]): SafeTensor => {
    const length = shape.reduce((product, size) => product * size, 1) * SAFETENSORS_DTYPES[dtype];
    return { dtype, shape, bytes: Uint8Array.from({ length }, () => stream.next().value as number) };
  });
const names = fc.string({ unit: 'grapheme', maxLength: 12 }).filter((name) => name !== '__metadata__');

describe('safetensors', () => {
  property.prop([
    fc.array(fc.tuple(names, tensors), { maxLength: 6 }),
    fc.dictionary(fc.string(), fc.string(), { maxKeys: 3 }),
  ])('reading gives what was written', (entries, metadata) => {
    const written = new Map(entries);
    const bytes = writeSafetensors(written, metadata);
    const file = readSafetensors(bytes, 'x');
    expect({ ...file.metadata }).toEqual({ ...metadata });
    expect(new Map([...file.tensors].sort())).toEqual(new Map([...written].sort()));
  });

  property.prop([fc.array(fc.tuple(names, tensors), { maxLength: 6 })])(
    'equal content gives equal bytes, in any order, and every tensor is aligned',
    (entries) => {
      const bytes = writeSafetensors(new Map(entries));
      expect(writeSafetensors(new Map([...new Map(entries)].reverse()))).toEqual(bytes);
      for (const { dtype, bytes: view } of readSafetensors(bytes, 'x').tensors.values()) {
        expect(view.byteOffset % SAFETENSORS_DTYPES[dtype]).toBe(0);
      }
    },
  );

  it('gives views, and the header alone', async () => {
    const bytes = writeSafetensors({ a: toSafeTensor(Float32Array.of(1, 2, 3, 4), [2, 2]) }, { note: 'hi' });
    expect(readSafetensors(bytes, 'x').tensors.get('a')!.bytes.buffer).toBe(bytes.buffer);
    const header = await readSafetensorsHeader(memorySource(bytes, 'x'));
    expect(header.metadata).toEqual({ note: 'hi' });
    expect(header.tensors).toEqual([
      { name: 'a', dtype: 'F32', shape: [2, 2], offset: header.dataOffset, byteLength: 16 },
    ]);
  });

  it('decodes every type to f32', () => {
    const decode = (data: Parameters<typeof toSafeTensor>[0], dtype?: SafetensorsDtype) =>
      Array.from(toFloat32(toSafeTensor(data, [data.length], dtype)));
    expect(decode(Float32Array.of(1.5, -2))).toEqual([1.5, -2]);
    expect(decode(Float64Array.of(0.1))).toEqual([Math.fround(0.1)]);
    expect(decode(encodeFloat16([0.5, -65504]), 'F16')).toEqual([0.5, -65504]);
    expect(decode(Uint16Array.of(0x3f80, 0xc000), 'BF16')).toEqual([1, -2]);
    expect(decode(BigInt64Array.of(-3n, 2n ** 40n))).toEqual([-3, 2 ** 40]);
    expect(decode(Int32Array.of(-7))).toEqual([-7]);
    expect(decode(Uint32Array.of(2 ** 31))).toEqual([2 ** 31]);
    expect(decode(Int16Array.of(-300))).toEqual([-300]);
    expect(decode(Uint16Array.of(65535))).toEqual([65535]);
    expect(decode(Int8Array.of(-128, 127))).toEqual([-128, 127]);
    expect(decode(Uint8Array.of(255))).toEqual([255]);
    expect(decode(Uint8Array.of(0, 1, 2), 'BOOL')).toEqual([0, 1, 1]);
  });

  it('keeps a tensor that is called __proto__', () => {
    const tensor = toSafeTensor(Uint8Array.of(1));
    const file = readSafetensors(writeSafetensors(new Map([['__proto__', tensor]])), 'x');
    expect(file.tensors.get('__proto__')).toEqual(tensor);
  });

  it('refuses to write what does not fit together', () => {
    const short = { dtype: 'F32' as const, shape: [2], bytes: new Uint8Array(4) };
    expect(() => writeSafetensors({ short })).toThrow(ShapeError);
    expect(() => toSafeTensor(Float32Array.of(1), [2])).toThrow(ShapeError);
    expect(() => toSafeTensor(Float32Array.of(1), [1], 'F16')).toThrow(ShapeError);
    expect(() => writeSafetensors({ __metadata__: toSafeTensor(Uint8Array.of(1)) })).toThrow(RangeError);
  });

  it.each(['F8_E4M3', 'F8_E5M2', 'U64'])('names type %s, which is not read, and the tensor', (dtype) => {
    const bytes = raw({ w: { dtype, shape: [8], data_offsets: [0, 8] } }, 8);
    expect(() => readSafetensors(bytes, 'x')).toThrow(UnsupportedModelError);
    expect(() => readSafetensors(bytes, 'x')).toThrow(`type ${dtype} of tensor "w"`);
  });

  it('reads offsets beyond 2 GB', () => {
    // Only the header is looked at here; nothing of that size is allocated.
    const size = 3 * 2 ** 30;
    const json = new TextEncoder().encode(
      JSON.stringify({ a: f32([size / 4 - 1], 0, size - 4), b: f32([1], size - 4, size) }),
    );
    const header = parseSafetensorsHeader(json, 8 + json.length + size, 'big');
    expect(header.tensors[1].offset).toBe(8 + json.length + size - 4);
  });

  it.each<[string, Uint8Array, RegExp]>([
    ['is too short for a header', new Uint8Array(7), /too short/],
    ['claims a header longer than the file', raw({}, 0, 3n), /claims a header of 3 bytes in a file of 10/],
    ['claims a header of 2^63 bytes', raw({}, 0, 2n ** 63n), /claims a header of 9223372036854775808/],
    ['has no JSON', raw('{"a": '), /is not JSON/],
    [
      'has a header that is not UTF-8',
      Uint8Array.of(3, 0, 0, 0, 0, 0, 0, 0, 0x22, 0xff, 0x22),
      /is not JSON/,
    ],
    ['has a list as header', raw('[]'), /must be a JSON object/],
    ['has an entry that is no object', raw({ a: 1 }), /a: must be an object/],
    ['has an unknown type', raw({ a: { dtype: 'F9', shape: [1], data_offsets: [0, 1] } }, 1), /got "F9"/],
    [
      'has a type called toString',
      raw({ a: { dtype: 'toString', shape: [1], data_offsets: [0, 1] } }, 1),
      /dtype/,
    ],
    [
      'has bytes that do not fit the type',
      raw({ a: f32([2], 0, 4) }, 4),
      /\[2\] of F32 is 8 bytes, but its offsets hold 4/,
    ],
    ['has a negative size', raw({ a: f32([-1], 0, 4) }, 4), /shape must be/],
    ['has a shape of 2^53', raw({ a: f32([2 ** 53], 0, 4) }, 4), /shape must be/],
    [
      'has a shape that multiplies to more',
      raw({ a: f32([2 ** 40, 2 ** 40], 0, 4) }, 4),
      /its offsets hold 4/,
    ],
    ['has offsets in the wrong order', raw({ a: f32([0], 4, 0) }, 4), /not inside/],
    ['has offsets behind the end', raw({ a: f32([2], 0, 8) }, 4), /not inside the 4 bytes/],
    ['has overlapping tensors', raw({ a: f32([2], 0, 8), b: f32([1], 4, 8) }, 8), /b: overlaps/],
    ['has a tensor inside another', raw({ a: f32([3], 0, 12), b: f32([1], 4, 8) }, 12), /b: overlaps/],
    ['has a gap', raw({ a: f32([1], 0, 4), b: f32([1], 8, 12) }, 12), /b: leaves a gap/],
    ['has a gap at the start', raw({ a: f32([1], 4, 8) }, 8), /a: leaves a gap/],
    ['has bytes of nobody at the end', raw({ a: f32([1], 0, 4) }, 7), /3 bytes at the end/],
    [
      'has a name twice',
      raw(
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\\u0061":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}',
        1,
      ),
      /a: the name occurs twice/,
    ],
    ['has metadata that is not strings', raw({ __metadata__: { a: 1 } }), /must map strings to strings/],
  ])('refuses a file that %s', (_, bytes, message) => {
    expect(() => readSafetensors(bytes, 'x.safetensors')).toThrow(FormatError);
    expect(() => readSafetensors(bytes, 'x.safetensors')).toThrow(message);
  });

  it.each(Array.from({ length: 15 }, (_, i) => i + 1))('refuses a file cut at %d/16', (sixteenths) => {
    const bytes = writeSafetensors({
      a: toSafeTensor(new Float32Array(64)),
      b: toSafeTensor(new Uint8Array(9)),
    });
    const cut = bytes.subarray(0, Math.floor((bytes.length * sixteenths) / 16));
    expect(() => readSafetensors(cut, 'x')).toThrow(FormatError);
  });

  property.prop([fc.string({ unit: 'binary', maxLength: 80 })])('refuses any other header', (text) => {
    try {
      readSafetensors(raw(text), 'x');
    } catch (error) {
      expect(error).toBeInstanceOf(FormatError);
    }
  });
});
