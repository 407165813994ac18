import { describe, expect, it } from 'vitest';
import { ReferenceCache } from '../../../src/cache/create.js';
import { ComputedFactors } from '../../../src/cache/factors.js';
import { project } from '../../../src/cache/fold.js';
import { parseCacheSpec, resolveCacheOptions } from '../../../src/cache/presets.js';
import type { KeyValueProjection } from '../../../src/cache/projection.js';
import { CacheStateError } from '../../../src/errors.js';
import type { Matrix } from '../../../src/numerics/matrix.js';
import { expectSame } from '../../helpers/expect-same.js';
import { inputRows, randomInputs, randomProjections, SHAPES } from '../../helpers/random-layers.js';
import { append, cacheLaws, read } from '../../laws/cache-laws.js';

const factorsOf = new WeakMap<readonly KeyValueProjection[], ComputedFactors>();

cacheLaws('reference', (options, projections) => {
  // Decomposed once for all the caches of a suite.
  const factors = factorsOf.get(projections) ?? new ComputedFactors(projections);
  factorsOf.set(projections, factors);
  return new ReferenceCache(options, projections, factors);
});

function makeCache(spec: string, shape: keyof typeof SHAPES, extras = false) {
  const projections = randomProjections(SHAPES[shape], 3, extras);
  const options = resolveCacheOptions(spec, SHAPES[shape]);
  return new ReferenceCache(options, projections, new ComputedFactors(projections));
}

/** Root mean square difference of all keys and values, relative to their own root mean square. */
function relativeError(spec: string, shape: keyof typeof SHAPES, extras = false): number {
  const projections = randomProjections(SHAPES[shape], 3, extras);
  const inputs = randomInputs(projections, 256, 9);
  const cache = append(makeCache(spec, shape, extras), inputs);
  let error = 0;
  let size = 0;
  read(cache).forEach(({ keys, values }, i) => {
    const exact = project(inputs[i].x, inputs[i].x, projections[i], projections[i]);
    for (const [a, b] of [
      [keys, exact.keys],
      [values, exact.values],
    ] as [Matrix, Matrix][]) {
      a.data.forEach((value, j) => {
        error += (value - b.data[j]) ** 2;
        size += b.data[j] ** 2;
      });
    }
  });
  return Math.sqrt(error / size);
}

describe.each(['mha', 'gqa'] as const)('identity quantizer on %s', (shape) => {
  const specs = [
    'kv',
    'kivi',
    'xquant',
    'xquant?form=x',
    'xquant?form=latent',
    'xquant@paper',
    'xquant-cl',
    'xquant-cl@paper',
  ];
  if (shape === 'mha') specs.push('xquant-cl?deltaSpace=stream', 'xquant-cl@paper?deltaSpace=stream');
  else specs.push('xquant-cl?baseStore=latent', 'xquant-cl@paper?baseStore=latent', 'xquant-cl?form=x');

  it.each(specs)('%s gives the exact keys and values', (spec) => {
    const identity = `${spec}${spec.includes('?') ? '&' : '?'}quantizer=identity`;
    // f32 rounding of stored rows, folded weights and accumulator: a few ulp, sqrt(layers) of them.
    expect(relativeError(identity, shape, true)).toBeLessThan(
      8 * 2 ** -24 * Math.sqrt(SHAPES[shape].numHiddenLayers),
    );
  });
});

describe.each(['mha', 'gqa'] as const)('quantization error on %s', (shape) => {
  it.each(['kivi:B', 'xquant:B@paper', 'xquant:B@tuned', 'xquant-cl:B@paper', 'xquant-cl:B@tuned'])(
    '%s: 8 bits are closer than 4, closer than 2',
    (spec) => {
      const [two, four, eight] = [2, 4, 8].map((bits) => {
        const sized = spec.replace('B', String(bits));
        return relativeError(sized.includes('-cl') ? `${sized}?baseBits=${bits}` : sized, shape);
      });
      expect(eight).toBeLessThan(four);
      expect(four).toBeLessThan(two);
      expect(two).toBeLessThan(1);
    },
  );

  it('a difference against the reconstruction does not add up over layers', () => {
    const projections = randomProjections(SHAPES[shape], 3);
    const inputs = randomInputs(projections, 128, 9);
    const errors = read(append(makeCache('xquant-cl:2@paper?form=x', shape), inputs)).map(({ keys }, i) => {
      const exact = project(inputs[i].x, inputs[i].x, projections[i], projections[i]).keys;
      return Math.hypot(...keys.data.map((value, j) => value - exact.data[j]));
    });
    // Layers 3 and 4 both carry the error of one 2-bit difference, whatever lies below them.
    expect(errors[4]).toBeLessThan(1.5 * errors[3]);
  });

  it('decoded tokens are really quantized', () => {
    // A block per decoded token would make each range zero and each "2-bit" key exact.
    const cache = makeCache('kivi:2', shape);
    const inputs = randomInputs(randomProjections(SHAPES[shape], 3), 128, 9);
    for (let t = 0; t < 128; t++) append(cache, inputRows(inputs, t, t + 1));
    expect(cache.bytes().window).toBe(0);
    const exact = project(
      inputs[0].x,
      inputs[0].x,
      randomProjections(SHAPES[shape], 3)[0],
      randomProjections(SHAPES[shape], 3)[0],
    );
    expect(read(cache)[0].keys.data).not.toEqual(exact.keys.data);
  });
});

describe('layer order', () => {
  const inputs = randomInputs(randomProjections(SHAPES.mha, 3), 128, 9);

  it('a cross-layer cache read out of order throws', () => {
    const cache = append(makeCache('xquant-cl:2', 'mha'), inputs);
    read(cache);
    expect(() => cache.layers[3].keysAndValues()).toThrow(CacheStateError);
    expect(() => cache.layers[3].keysAndValues()).toThrow(/in order/);
    expect(() => read(cache)).not.toThrow();
  });

  it('a cross-layer cache sealed out of order throws and keeps nothing', () => {
    const cache = makeCache('xquant-cl:2', 'mha');
    expect(() => cache.layers[4].append(inputs[4])).toThrow(CacheStateError);
    expect(cache.layers[4].length).toBe(0);
  });

  it('recompute needs no order to read', () => {
    const cache = append(makeCache('xquant-cl:2?accumulator=recompute', 'mha'), inputs);
    const inOrder = read(cache);
    expectSame(cache.layers[4].keysAndValues(), inOrder[4]);
    expectSame(cache.layers[3].keysAndValues(), inOrder[3]);
    expect(cache.bytes().scratch).toBe(0);
  });

  it('recompute gives what f32 gives, bit for bit', () => {
    const kept = read(append(makeCache('xquant-cl:2', 'mha'), inputs));
    expectSame(read(append(makeCache('xquant-cl:2?accumulator=recompute', 'mha'), inputs)), kept);
  });

  it('an f32 accumulator is counted once for all layers', () => {
    // All rows of a block but its sink.
    expect(makeCacheAfter('f32')).toBe(127 * 64 * 4);
    expect(makeCacheAfter('int8')).toBe(127 * (64 + 2 + 2));
  });

  function makeCacheAfter(accumulator: string): number {
    return append(makeCache(`xquant-cl:2?accumulator=${accumulator}`, 'mha'), inputs).bytes().scratch;
  }
});

describe('sizes by formula', () => {
  /** Bits per key or value element of f16 KV, of 128 sealed tokens on 32-layer shapes of width 128. */
  const bitsPerElement = (spec: string, kvHeads: number) => {
    const shape = {
      hiddenSize: 128,
      numHiddenLayers: 32,
      numAttentionHeads: 4,
      numKeyValueHeads: kvHeads,
      headDim: 32,
    };
    const projections = randomProjections(shape, 3);
    const cache = new ReferenceCache(
      resolveCacheOptions(spec, shape),
      projections,
      new ComputedFactors(projections),
    );
    const { codes, scales, mins, baseLayers } = append(cache, randomInputs(projections, 128, 9)).bytes();
    return ((codes + scales + mins + baseLayers) * 8) / (128 * 32 * 2 * kvHeads * 32);
  };

  it.each([
    ['kivi:4', 4, 4.25],
    ['kivi:3', 4, 3.25],
    ['kivi:2', 4, 2.25],
    ['xquant:4@paper', 4, 4.25 / 2],
    ['xquant:3@paper', 4, 3.25 / 2],
    ['xquant-cl:3@paper', 4, (3.25 * 29 + 4.25 * 3) / 32 / 2],
    ['xquant-cl:2@paper', 4, (2.25 * 29 + 4.25 * 3) / 32 / 2],
    ['xquant-cl:2@tuned?baseBits=2&sinks=0', 4, 2.25 / 2],
  ])('%s with %i KV heads of 4 takes %f bits an element', (spec, kvHeads, expected) => {
    expect(bitsPerElement(spec, kvHeads)).toBeCloseTo(expected, 10);
  });
});

describe('cache arguments', () => {
  it.each([
    ['kv', { variant: 'kv' }],
    ['kivi:2', { variant: 'kivi', bits: 2 }],
    ['xquant:4', { variant: 'xquant', bits: 4 }],
    ['xquant-cl:2@paper', { variant: 'xquant-cl', bits: 2, preset: 'paper' }],
    ['xquant-cl:2@tuned?group=256', { variant: 'xquant-cl', bits: 2, preset: 'tuned', groupSize: 256 }],
    ['xquant?form=latent&outlier=f16', { variant: 'xquant', form: 'latent', outlierChannel: 'f16' }],
  ])('%s', (text, request) => {
    expect(parseCacheSpec(text)).toEqual(request);
  });

  it.each([
    ['', /"cache" must be one of kv, kivi, kvquant, xquant, xquant-cl/],
    ['xquant2', /one of kv/],
    ['kv:4', /without bits/],
    ['kv@paper', /without a preset/],
    ['xquant:5', /"bits" must be one of 1, 2, 3, 4, 8, got 5/],
    ['xquant:four', /"bits"/],
    ['xquant:', /"bits"/],
    ['xquant@best', /"preset" must be tuned or paper/],
    ['xquant?group=0', /"group" must be an integer from 1 to 65536/],
    ['xquant?group=-3', /"group"/],
    ['xquant?groups=3', /"cache option of xquant" must be one of form, group/],
    ['kivi?form=x', /"cache option of kivi"/],
    ['xquant?group', /group=VALUE/],
    ['xquant?group=32&group=64', /given once/],
    ['xquant?toString=1', /cache option/],
  ])('%j is refused', (text, message) => {
    expect(() => parseCacheSpec(text)).toThrow(message);
  });

  it.each([
    ['xquant-cl?baseLayers=9', 'mha', /"baseLayers" must be from 0 to 5/],
    ['xquant-cl?form=latent', 'mha', /"form" must be "x"/],
    ['xquant-cl?form=latent&deltaSpace=stream', 'gqa', /"deltaSpace"/],
    ['xquant?outlier=f16', 'mha', /"outlier"/],
    ['xquant@tuned?outlier=f16', 'gqa', /"outlier"/],
    ['kivi?group=48', 'mha', /"window" must be a multiple/],
  ] as const)('%s on %s is refused', (text, shape, message) => {
    expect(() => resolveCacheOptions(text, SHAPES[shape])).toThrow(message);
  });

  it('the form follows the model', () => {
    expect(resolveCacheOptions('xquant', SHAPES.mha).form).toBe('x');
    expect(resolveCacheOptions('xquant', SHAPES.gqa).form).toBe('latent');
    expect(resolveCacheOptions('xquant-cl', SHAPES.gqa).form).toBe('latent');
    const wideHeads = { ...SHAPES.gqa, headDim: 128, numKeyValueHeads: 2 };
    expect(resolveCacheOptions('xquant-cl', wideHeads).form).toBe('x');
  });

  it('the block grows with a per-channel group', () => {
    expect(resolveCacheOptions('kivi?group=256', SHAPES.mha).residualWindow).toBe(256);
    expect(resolveCacheOptions('xquant?group=256', SHAPES.mha).residualWindow).toBe(128);
  });
});
