import { describe, expect, it } from 'vitest';
import { calibratedPlan, findSet } from '../../../src/cache/calibration.js';
import { ConfigError, FormatError } from '../../../src/errors.js';
import { readCalibrationFile, writeCalibrationFile } from '../../../src/io/calibration-file.js';
import {
  readSafetensors,
  type SafeTensor,
  toSafeTensor,
  writeSafetensors,
} from '../../../src/io/safetensors.js';
import { derivedSizes, type ModelConfig } from '../../../src/model/config.js';
import { allocatedBits } from '../../../src/quant/allocate-bits.js';
import { expectSame } from '../../helpers/expect-same.js';
import { randomInputs, randomProjections, SHAPES } from '../../helpers/random-layers.js';
import { sampleTransforms } from '../../helpers/transforms.js';

const FINGERPRINT = '0123456789abcdef';

/** As much of a config as files of calibrations look at. */
const configOf = (shape: keyof typeof SHAPES) => ({ ...SHAPES[shape] }) as ModelConfig;
const owner = { config: configOf('gqa'), fingerprint: FINGERPRINT };

const sample = (shape: keyof typeof SHAPES, withEncode = true) => {
  const projections = randomProjections(SHAPES[shape], 3);
  return sampleTransforms(projections, randomInputs(projections, 200, 4), SHAPES[shape], withEncode);
};
const calibration = sample('gqa');
const bytes = writeCalibrationFile(calibration, FINGERPRINT);

describe('a calibration in a file', () => {
  it.each(['mha', 'gqa'] as const)('of %s is read as it was written', (shape) => {
    for (const withEncode of [true, false]) {
      const written = sample(shape, withEncode);
      const own = { config: configOf(shape), fingerprint: FINGERPRINT };
      expectSame(readCalibrationFile(writeCalibrationFile(written, FINGERPRINT), 'f', own), written);
    }
  });

  it('keeps what a set was measured to lose', () => {
    const loss = { text: 'books', percent: 0.71, standardError: 0.03 };
    const measured = { ...calibration, sets: calibration.sets.map((set) => ({ ...set, loss })) };
    expectSame(readCalibrationFile(writeCalibrationFile(measured, FINGERPRINT), 'f', owner), measured);
  });

  it('can be at an odd address', () => {
    const shifted = new Uint8Array(bytes.length + 1);
    shifted.set(bytes, 1);
    expectSame(readCalibrationFile(shifted.subarray(1), 'f', owner), calibration);
  });

  it('has the layout that docs/format.md promises to other readers', () => {
    const { metadata, tensors } = readSafetensors(bytes, 'f');
    expect(metadata.format).toBe('xquant-calibration');
    expect(JSON.parse(metadata.sets)[2]).toEqual({
      name: 'p2-joint',
      predict: 2,
      basis: 'joint',
      bits: 2.25,
    });
    const names = [...tensors.keys()].filter((name) => name.startsWith('p2-joint.layers.1.'));
    expect(names.sort()).toEqual(
      ['decode', 'encode', 'importance', 'offset', 'predict.1'].map((name) => `p2-joint.layers.1.${name}`),
    );
    expect(tensors.get('p2-joint.layers.1.decode')).toMatchObject({ dtype: 'F16', shape: [64, 64] });
    expect(tensors.get('p2-joint.layers.1.offset')).toMatchObject({ dtype: 'F32', shape: [64] });
  });
});

describe('files that are refused', () => {
  const { metadata, tensors } = readSafetensors(bytes, 'f');
  const read = (
    change: Record<string, string | undefined>,
    replaced: Record<string, SafeTensor | undefined> = {},
  ) => {
    const changed = Object.entries({ ...metadata, ...change }).filter(([, value]) => value !== undefined);
    const kept = Object.entries({ ...Object.fromEntries(tensors), ...replaced }).filter(
      ([, tensor]) => tensor,
    );
    const file = writeSafetensors(
      Object.fromEntries(kept) as Record<string, SafeTensor>,
      Object.fromEntries(changed) as Record<string, string>,
    );
    return () => readCalibrationFile(file, 'my-file', owner);
  };
  const sets = JSON.parse(metadata.sets);
  const withSet = (change: object) => JSON.stringify([{ ...sets[0], ...change }, ...sets.slice(1)]);

  it.each<[string, Record<string, string | undefined>, RegExp]>([
    ['another format', { format: 'xquant-svd-factors' }, /my-file: metadata "format": expected/],
    ['another version', { version: '2' }, /metadata "version": expected "1", got "2"/],
    ['no fingerprint', { fingerprint: undefined }, /metadata "fingerprint"/],
    ['another model', { fingerprint: 'fedcba9876543210' }, /belongs to model fedcba9876543210/],
    ['windows that are no number', { windows: 'many' }, /metadata "windows": must be an integer/],
    ['no maker', { madeBy: undefined }, /metadata "madeBy": is missing/],
    ['texts that are not JSON', { texts: '[' }, /metadata "texts": is not JSON/],
    ['texts without a hash', { texts: '[{"name":"a","tokens":3}]' }, /metadata "texts": must be a list/],
    [
      'a distortion that grows',
      { distortion: '{"0":1,"1":0.4,"2":0.5,"3":0.3,"4":0.2,"8":0.1}' },
      /"distortion"/,
    ],
    ['a distortion of other widths', { distortion: '{"0":1,"1":0.4,"2":0.3}' }, /"distortion"/],
    ['no sets', { sets: '[]' }, /"sets": must be a list/],
    ['sets of null', { sets: '[null]' }, /"sets"/],
    ['two sets of one name', { sets: withSet({ name: sets[1].name }) }, /"sets"/],
    ['an unknown basis', { sets: withSet({ basis: 'token' }) }, /"sets"/],
    ['prediction from three layers', { sets: withSet({ predict: 3 }) }, /"sets"/],
    ['bits of a set without prediction', { sets: withSet({ bits: 2 }) }, /"sets"/],
    ['a loss without a number', { sets: withSet({ loss: { text: 'a' } }) }, /"sets"/],
  ])('%s', (_, change, message) => {
    expect(read(change)).toThrow(FormatError);
    expect(read(change)).toThrow(message);
  });

  const zeros = (...shape: number[]) =>
    toSafeTensor(new Uint16Array(shape.reduce((a, b) => a * b)), shape, 'F16');
  const odd = (value: number) => toSafeTensor(new Float32Array(64).fill(value, 7, 8));
  it.each<[string, string, SafeTensor | undefined, RegExp]>([
    ['a missing matrix', 'p1-joint.layers.2.decode', undefined, /layers\.2\.decode: the tensor is missing/],
    ['a missing prediction', 'p2-joint.layers.3.predict.2', undefined, /predict\.2: the tensor is missing/],
    [
      'prediction of the lowest layer',
      'p1-joint.layers.0.predict.1',
      zeros(64, 64),
      /no tensor of a calibration/,
    ],
    ['another width', 'p1-joint.layers.2.decode', zeros(64, 32), /must be \[64, 64\], got \[64, 32\]/],
    ['another type', 'p1-joint.layers.2.offset', zeros(64), /must be F32, got F16/],
    [
      'infinity',
      'p1-joint.layers.2.encode',
      toSafeTensor(new Uint16Array(4096).fill(0x7c00), [64, 64], 'F16'),
      /encode: element 0 is not a finite number/,
    ],
    [
      'an element outside of the blocks of the basis',
      'p0-head.layers.2.decode',
      toSafeTensor(new Uint16Array(4096).fill(0x3c00), [64, 64], 'F16'),
      /decode: element 32 must be zero: row 0 and column 32 belong to different blocks/,
    ],
    ['NaN', 'p1-joint.layers.2.offset', odd(Number.NaN), /offset: element 7 is not a finite number/],
    ['negative importance', 'p1-joint.layers.2.importance', odd(-1), /importance: element 7 is negative/],
  ])('%s', (_, name, tensor, message) => {
    expect(read({}, { [name]: tensor })).toThrow(FormatError);
    expect(read({}, { [name]: tensor })).toThrow(message);
  });

  it('a model of other sizes', () => {
    const other = { ...owner, config: configOf('mha') };
    expect(() => readCalibrationFile(bytes, 'f', other)).toThrow(/stores is X|must be/);
    const shorter = { ...owner, config: { ...owner.config, numHiddenLayers: 4 } };
    expect(() => readCalibrationFile(bytes, 'f', shorter)).toThrow(/layers\.4\.\w+: is no tensor/);
  });
});

describe('sets', () => {
  const two = calibration.sets[2];
  const several = { ...calibration, sets: [...calibration.sets, { ...two, name: 'other', bits: 4.25 }] };

  it('the one with the nearest bits in ratio is taken', () => {
    const bitsFor = (bits: number) => findSet(several, { predict: 2, basis: 'joint', bits }).bits;
    expect([0.5, 2.25, 3, 3.1, 8].map(bitsFor)).toEqual([2.25, 2.25, 2.25, 4.25, 4.25]);
    expect(findSet(several, { predict: 0, basis: 'head', bits: 3 }).name).toBe('p0-head');
  });

  it('one that is missing is an error that says which there are', () => {
    const find = () => findSet(calibration, { predict: 1, basis: 'head', bits: 3 });
    expect(find).toThrow(ConfigError);
    expect(find).toThrow(/predict=2, basis=joint, 2.25 bits.*xquant calibrate.*got "predict=1, basis=head/);
  });

  it('bits are given out over all layers and never more than wished for', () => {
    const { kvDim } = derivedSizes(owner.config);
    for (const bits of [0.5, 1.25, 2.25, 4.25, 8]) {
      const request = { predict: 2, basis: 'joint', bits, groupSize: 128 } as const;
      const { set, channelBits } = calibratedPlan(calibration, request, kvDim);
      expect(set).toBe(two);
      expect(channelBits.map(({ length }) => length)).toEqual(new Array(5).fill(2 * kvDim));
      const average = allocatedBits(channelBits, 1 / 8) / (2 * kvDim * 5);
      expect(average).toBeLessThanOrEqual(bits);
      expect(average).toBeGreaterThan(bits - 4 / (2 * kvDim * 5));
      expect(calibratedPlan(calibration, request, kvDim).channelBits).toBe(channelBits);
    }
  });
});
