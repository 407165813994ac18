import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { CalibratedPlan, Calibration } from '../../../src/cache/calibration.js';
import type { LayerInput, ModelCache } from '../../../src/cache/contract.js';
import { ReferenceCache } from '../../../src/cache/create.js';
import { ComputedFactors } from '../../../src/cache/factors.js';
import type { CacheOptions } from '../../../src/cache/options.js';
import { resolveCacheOptions } from '../../../src/cache/presets.js';
import type { KeyValueProjection } from '../../../src/cache/projection.js';
import type { LayerState } from '../../../src/cache/state.js';
import type { WasmModel } from '../../../src/engine/wasm-model.js';
import { CacheStateError, DisposedError, FormatError } from '../../../src/errors.js';
import { unpackMatrix } from '../../../src/quant/grouped.js';
import { symmetricCodes } from '../../../src/quant/symmetric.js';
import { expectSame } from '../../helpers/expect-same.js';
import { inputRows, randomInputs, randomProjections, SHAPES } from '../../helpers/random-layers.js';
import { sampleTransforms } from '../../helpers/transforms.js';
import { append, CACHES_UNDER_TEST, CALIBRATED_CACHES, cacheLaws, read } from '../../laws/cache-laws.js';
import { engineOfProjections } from './engines.js';

const ALL_CACHES = [...CACHES_UNDER_TEST, ...CALIBRATED_CACHES];

const calibrations: Partial<Record<keyof typeof SHAPES, Calibration>> = {};

/** Calibrated on other tokens than those that are cached. */
function calibrationOf(shape: keyof typeof SHAPES): Calibration {
  const projections = randomProjections(SHAPES[shape], 11, true);
  return (calibrations[shape] ??= sampleTransforms(
    projections,
    randomInputs(projections, 400, 77),
    SHAPES[shape],
  ));
}

const engines: Partial<Record<keyof typeof SHAPES, WasmModel>> = {};

beforeAll(async () => {
  for (const shape of Object.keys(SHAPES) as (keyof typeof SHAPES)[]) {
    const engine = await engineOfProjections(SHAPES[shape], randomProjections(SHAPES[shape], 11, true));
    engine.factors.presetCalibration('calibrated', calibrationOf(shape));
    engines[shape] = engine;
  }
});

afterAll(async () => {
  for (const engine of Object.values(engines)) await engine.dispose();
});

function create(options: CacheOptions, projections: readonly KeyValueProjection[]): ModelCache {
  const shape = projections[0].hiddenSize === SHAPES.mha.hiddenSize ? 'mha' : 'gqa';
  return (engines[shape] as WasmModel).createCache(options);
}

cacheLaws('wasm', create, ALL_CACHES);

describe.each(ALL_CACHES)('wasm and reference: $spec on $shape', ({ spec, shape }) => {
  const projections = randomProjections(SHAPES[shape], 11, true);
  const options = resolveCacheOptions(`${spec}${spec.includes('?') ? '&' : '?'}window=32`, SHAPES[shape]);
  const inputs = randomInputs(projections, 105, 5);
  const factors = new ComputedFactors(projections);
  if (options.form === 'calibrated') factors.presetCalibration('calibrated', calibrationOf(shape));
  const reference = () => new ReferenceCache(options, projections, factors);
  // What comes out of a float product may fall on the other side of a rounding.
  const exact = options.variant !== 'kv' && options.variant !== 'kivi' && options.form === 'x';
  // There a layer is predicted from what the layer below stored: one code on the other side changes all above it.
  const isPredicted = options.predict > 0;

  it(`the same input gives the same ${exact ? 'bytes' : 'codes, but for near-ties'}`, () => {
    const theirs = append(reference(), inputs).layers.map((layer) => layer.state());
    const cache = create(options, projections);
    const ours = isPredicted
      ? appendInStep(cache, theirs, inputs)
      : append(cache, inputs).layers.map((layer) => layer.state());
    if (exact) expectSame(ours, theirs);
    else expectNearlySame(ours, theirs, cache.calibrated?.channelBits);
  });

  it('counts the same bytes', () => {
    const ours = append(create(options, projections), inputs);
    const theirs = append(reference(), inputs);
    expect(ours.bytes()).toEqual(theirs.bytes());
    read(ours);
    read(theirs);
    expect(ours.bytes()).toEqual(theirs.bytes());
  });

  it('keys and values of the same stored bytes are those of the reference', () => {
    const theirs = append(reference(), inputs);
    const ours = create(options, projections);
    theirs.layers.forEach((layer, i) => {
      ours.layers[i].restore(layer.state());
    });
    expectSame(
      ours.layers.map((layer) => layer.state()),
      theirs.layers.map((layer) => layer.state()),
    );
    const expected = read(theirs);
    // Products of f32 rows take 14-bit integers; a code of an 8-bit accumulator may be off by one.
    const tolerance = options.accumulator === 'int8' && options.form === 'latent' ? 2e-2 : 5e-4;
    read(ours).forEach((layer, i) => {
      expectClose(layer.keys.data, expected[i].keys.data, tolerance);
      expectClose(layer.values.data, expected[i].values.data, tolerance);
    });
    // and on: what is sealed next is a difference to what was restored
    const more = inputRows(randomInputs(projections, 40, 9), 0, 40);
    const expectedAfter = append(theirs, more).layers.map((layer) => layer.state());
    const after = isPredicted
      ? appendInStep(ours, expectedAfter, more)
      : append(ours, more).layers.map((layer) => layer.state());
    expectNearlySame(after, expectedAfter, ours.calibrated?.channelBits);
  });
});

describe('a cache in linear memory', () => {
  const projections = randomProjections(SHAPES.mha, 11, true);
  const engine = () => engines.mha as WasmModel;
  const inputs = randomInputs(projections, 105, 5);
  const rows = (from: number, to: number) => inputRows(inputs, from, to);

  it('gives back what it took, shared blocks with their last holder', () => {
    const { memory } = engine();
    engine().createCache('xquant-cl:2?window=32').dispose();
    const before = memory.usedBytes;
    const cache = engine().createCache('xquant-cl:2?window=32');
    append(cache, rows(0, 105));
    read(cache);
    const full = memory.usedBytes;
    const copy = cache.clone();
    expect(memory.usedBytes - full).toBeLessThan((full - before) / 2);
    cache.dispose();
    expectSame(
      copy.layers[3].state(),
      append(engine().createCache('xquant-cl:2?window=32'), rows(0, 105)).layers[3].state(),
    );
    copy.dispose();
    cache.dispose();
    expect(() => cache.trim(0)).toThrow(DisposedError);
    expect(() => cache.layers[0].append(rows(0, 1)[0])).toThrow(DisposedError);
  });

  it('refuses the state of another kind of cache, and keeps its own', () => {
    const cache = engine().createCache('xquant:4?window=32');
    append(cache, rows(0, 40));
    const before = cache.layers[0].state();
    const other = append(engine().createCache('xquant:2?window=32'), rows(0, 40)).layers[0].state();
    expect(() => cache.layers[0].restore(other)).toThrow(FormatError);
    expect(() => cache.layers[0].restore({ ...before, length: 1000 })).toThrow(CacheStateError);
    expectSame(cache.layers[0].state(), before);
  });

  it('refuses layers out of order', () => {
    const cache = engine().createCache('xquant-cl:2?window=32');
    append(cache, rows(0, 40));
    cache.layers[2].keysAndValues();
    expect(() => cache.layers[4].keysAndValues()).toThrow(/layers must be visited in order/);
  });
});

/**
 * Appends layer by layer, each above layers that hold the states given.
 *
 * @returns what each layer made of it
 */
function appendInStep(
  cache: ModelCache,
  states: readonly LayerState[],
  inputs: readonly LayerInput[],
): LayerState[] {
  return cache.layers.map((layer, i) => {
    for (const below of cache.layers.slice(0, i)) below.keysAndValues();
    layer.append(inputs[i]);
    const state = layer.state();
    layer.restore(states[i]);
    return state;
  });
}

/** Equal but for codes that differ by one, and parameters by a little, in a small part of all places. */
function expectNearlySame(
  actual: readonly LayerState[],
  expected: readonly LayerState[],
  channelBits?: CalibratedPlan['channelBits'],
): void {
  let codes = 0;
  let off = 0;
  actual.forEach((state, layer) => {
    expect(state.length).toBe(expected[layer].length);
    expect(state.blocks.length).toBe(expected[layer].blocks.length);
    state.blocks.forEach((block, b) => {
      for (const [name, tensor] of Object.entries(block)) {
        const other = expected[layer].blocks[b][name];
        if ('channelCodes' in tensor && 'channelCodes' in other && channelBits) {
          const [mine, theirs] = [tensor, other].map((each) => symmetricCodes(each, channelBits[layer]));
          codes += mine.filter((_, k) => channelBits[layer][k % tensor.columns] > 0).length;
          off += mine.filter((code, k) => code !== theirs[k]).length;
        }
        if (!('packed' in tensor) || !('packed' in other)) continue;
        const [mine, theirs] = [unpackMatrix(tensor), unpackMatrix(other)];
        codes += mine.length;
        mine.forEach((code, i) => {
          if (code !== theirs[i]) off++;
        });
      }
    });
  });
  if (codes > 0) expect(off / codes).toBeLessThan(0.02);
}

function expectClose(actual: Float32Array, expected: Float32Array, tolerance: number): void {
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const worst = actual.reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i])), 0);
  expect(worst / largest).toBeLessThan(tolerance);
}
