import { describe, expect, it } from 'vitest';
import { readNpyCase } from '../../../src/check/case/golden.js';
import { readNpy } from '../../../src/check/case/npy.js';
import { numbersOf } from '../../../src/check/case/tensor.js';
import { FormatError } from '../../../src/errors.js';
import { memorySource } from '../../../src/io/source.js';

function npy(header: string, data: ArrayBufferView, version = 1): Uint8Array {
  const text = new TextEncoder().encode(`${header}\n`);
  const lengthBytes =
    version === 1 ? [text.length & 255, text.length >> 8] : [text.length & 255, text.length >> 8, 0, 0];
  return Uint8Array.of(
    0x93,
    ...new TextEncoder().encode('NUMPY'),
    version,
    0,
    ...lengthBytes,
    ...text,
    ...new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
  );
}

const float = (shape: string, order = 'False') =>
  `{'descr': '<f4', 'fortran_order': ${order}, 'shape': ${shape}, }`;

describe('npy files', () => {
  it.each([1, 2, 3])('version %i', (version) => {
    const tensor = readNpy(npy(float('(2, 3)'), Float32Array.of(1, 2, 3, 4, 5, 6), version), 'a.npy');
    expect(tensor).toMatchObject({ dtype: 'F32', shape: [2, 3] });
    expect([...numbersOf(tensor)]).toEqual([1, 2, 3, 4, 5, 6]);
  });

  it.each([
    ['(3,)', [3]],
    ['()', []],
  ])('shape %s', (shape, sizes) => {
    const data = new Float32Array(sizes[0] ?? 1);
    expect(readNpy(npy(float(shape), data), 'a.npy').shape).toEqual(sizes);
  });

  it('64-bit integers', () => {
    const bytes = npy("{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }", BigInt64Array.of(5n, -3n));
    expect([...numbersOf(readNpy(bytes, 'a.npy'))]).toEqual([5, -3]);
    const huge = npy(
      "{'descr': '<i8', 'fortran_order': False, 'shape': (1,), }",
      BigInt64Array.of(2n ** 60n),
    );
    expect(() => numbersOf(readNpy(huge, 'a.npy'))).toThrow(/beyond 2\^53/);
  });

  it.each([
    ['not an npy file', Uint8Array.from({ length: 20 })],
    ['too short', Uint8Array.of(0x93, 0x4e)],
    ['a header longer than the file', npy(float('(1,)'), Float32Array.of(1)).subarray(0, 30)],
    ['an unknown version', npy(float('(1,)'), Float32Array.of(1), 9)],
    [
      'big-endian numbers',
      npy("{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }", Float32Array.of(1)),
    ],
    ['objects', npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", Float32Array.of(1))],
    [
      'a structure',
      npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", Float32Array.of(1)),
    ],
    ['Fortran order', npy(float('(2, 2)', 'True'), new Float32Array(4))],
    ['too few bytes', npy(float('(2, 2)'), new Float32Array(3))],
    ['too many bytes', npy(float('(2, 2)'), new Float32Array(5))],
    ['a shape of 2^53', npy(float('(9007199254740992, 4)'), new Float32Array(1))],
    ['no shape', npy("{'descr': '<f4', 'fortran_order': False}", new Float32Array(1))],
  ])('refuses %s', (_, bytes) => {
    expect(() => readNpy(bytes, 'a.npy')).toThrow(FormatError);
  });
});

describe('folders of arrays', () => {
  const folder = (files: Record<string, Uint8Array>) => ({
    name: 'dump',
    open: async (file: string) => (files[file] ? memorySource(files[file], file) : undefined),
    list: async () => Object.keys(files),
  });
  const text = (value: string) => new TextEncoder().encode(value);

  it('are a case', async () => {
    const source = await readNpyCase(
      folder({
        'case.json': text('{"operation": "rotate", "options": {}}'),
        'x.npy': npy(float('(1, 2)'), Float32Array.of(1, 2)),
        'notes.txt': text('hello'),
      }),
    );
    expect(source).toMatchObject({ operation: 'rotate', options: {} });
    expect([...source.tensors.keys()]).toEqual(['x']);
  });

  it.each([
    ['no case.json', {}],
    ['case.json is not JSON', { 'case.json': text('{') }],
    ['case.json without operation', { 'case.json': text('{"options": {}}') }],
    ['options that are no object', { 'case.json': text('{"operation": "rotate", "options": 3}') }],
  ])('refuses: %s', async (_, files) => {
    await expect(readNpyCase(folder(files as Record<string, Uint8Array>))).rejects.toThrow(FormatError);
  });
});
