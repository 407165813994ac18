import { expect, it } from 'vitest';
import { readSafetensors, toFloat32, toSafeTensor, writeSafetensors } from '../../../src/io/safetensors.js';
import { alignedCopy } from '../../../src/numerics/bytes.js';

it('copies a view, also when it is a Node Buffer', () => {
  const whole = Buffer.from([9, 9, 9, 1, 2, 3, 4]);
  const view = whole.subarray(3);
  expect([...new Uint8Array(alignedCopy(view))]).toEqual([1, 2, 3, 4]);
});

it('a file read into a Buffer has the same numbers', () => {
  const data = Float32Array.of(1, -2, 3.5);
  const file = writeSafetensors({ a: toSafeTensor(new Float32Array(3)), b: toSafeTensor(data) });
  const { tensors } = readSafetensors(Buffer.from(file), 'buffer');
  expect([...toFloat32(tensors.get('b')!)]).toEqual([...data]);
});
