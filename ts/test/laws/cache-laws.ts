/**
 * The laws of a cache, for any implementation: call {@link cacheLaws} with a way to make one.
 *
 * @module
 */

import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import type { LayerInput, ModelCache } from '../../src/cache/contract.js';
import type { CacheOptions } from '../../src/cache/options.js';
import { resolveCacheOptions } from '../../src/cache/presets.js';
import type { KeyValueProjection } from '../../src/cache/projection.js';
import { storedBytes, totalBytes } from '../../src/cache/stored-matrix.js';
import { CacheStateError, NumericError } from '../../src/errors.js';
import type { Matrix } from '../../src/numerics/matrix.js';
import { expectSame } from '../helpers/expect-same.js';
import { inputRows, randomInputs, randomProjections, SHAPES } from '../helpers/random-layers.js';

/** Makes an empty cache for the given layers. */
export type CacheFactory = (options: CacheOptions, projections: readonly KeyValueProjection[]) => ModelCache;

/** Every variant and form, with blocks of 32 tokens so that a test crosses several. */
export const CACHES_UNDER_TEST: readonly { spec: string; shape: keyof typeof SHAPES }[] = [
  'kv',
  'kivi:2?group=32',
  'kivi:4?group=32&keyBits=3&firstLayers=2&firstBits=8',
  'kivi:3?group=32&sinks=1',
  'xquant:1@tuned',
  'xquant:2@tuned?sinks=3',
  'xquant:2@paper?group=32',
  'xquant:3@tuned?group=32',
  'xquant:4@paper?grouping=perChannel&group=32',
  'xquant:4@paper?grouping=perChannel&group=16&sinks=5',
  'xquant:8@paper?form=latent&group=32',
  'xquant-cl:2@paper',
  'xquant-cl:2@tuned',
  'xquant-cl:2@tuned?sinks=1',
  'xquant-cl:3@paper?accumulator=int8&sinks=4',
  'xquant-cl:2@tuned?accumulator=recompute&sinks=2',
  'xquant-cl:4@tuned?deltaSpace=stream&sinks=1',
  'xquant-cl:1@tuned?accumulator=recompute&baseLayers=1&baseBits=2',
  'xquant-cl:3@tuned?accumulator=int8',
  'xquant-cl:4@paper?deltaSpace=stream&grouping=perChannel&group=32',
  'xquant-cl:4@tuned?deltaSpace=stream',
]
  .map((spec) => ({ spec, shape: 'mha' as keyof typeof SHAPES }))
  .concat(
    [
      'kv',
      'kivi:3?group=32',
      'xquant:4@paper?group=32',
      'xquant:2@paper?outlier=f16&group=32',
      'xquant:2@tuned?sinks=1',
      'xquant:2@paper?outlier=f16&group=32&sinks=31',
      'xquant:2@tuned',
      'xquant:4@tuned?form=x',
      'xquant-cl:2@paper?group=32',
      'xquant-cl:2@tuned',
      'xquant-cl:3@tuned?baseStore=latent&accumulator=int8',
      'xquant-cl:2@tuned?accumulator=recompute&baseLayers=2',
      'xquant-cl:2@tuned?form=x',
      'xquant-cl:2@tuned?sinks=1',
      'xquant-cl:3@tuned?baseStore=latent&accumulator=int8&sinks=2',
      'xquant-cl:2@paper?grouping=perChannel&group=16&accumulator=int8&baseStore=latent&sinks=3',
    ].map((spec) => ({ spec, shape: 'gqa' as const })),
  );

/** Calibrated caches; whoever runs them has to make a calibration known. */
export const CALIBRATED_CACHES: readonly { spec: string; shape: keyof typeof SHAPES }[] = [
  { spec: 'xquant:2.25@calibrated?group=32', shape: 'mha' },
  { spec: 'xquant-cl:3@calibrated?predict=2&sinks=0&group=32', shape: 'mha' },
  { spec: 'xquant:4.25@calibrated?basis=head&sinks=1&group=32', shape: 'gqa' },
  { spec: 'xquant:1.25@calibrated?basis=head&group=16', shape: 'gqa' },
  { spec: 'xquant:3@calibrated?basis=tensor&group=32', shape: 'gqa' },
  { spec: 'xquant-cl:1.6@calibrated?group=16', shape: 'gqa' },
];

const BLOCK = 32;

/**
 * Runs all laws for every cache under test.
 *
 * @param caches instead of all that every backend has
 */
export function cacheLaws(
  backend: string,
  create: CacheFactory,
  caches: readonly { spec: string; shape: keyof typeof SHAPES }[] = CACHES_UNDER_TEST,
): void {
  describe.each(caches)(`${backend}: $spec on $shape`, ({ spec, shape }) => {
    const projections = randomProjections(SHAPES[shape], 11, true);
    const withWindow = `${spec}${spec.includes('?') ? '&' : '?'}window=${BLOCK}`;
    const options = resolveCacheOptions(withWindow, SHAPES[shape]);
    const empty = () => create(options, projections);
    const inputs = randomInputs(projections, 3 * BLOCK + 9, 5);
    const filled = (length: number) => append(empty(), inputRows(inputs, 0, length));
    // What a cache holds and gives back when nothing but these tokens was ever appended; made once.
    const statesAt = remembered((length) => states(filled(length)));
    const readAt = remembered((length) => read(filled(length)));
    const lengths = fc.integer({ min: 0, max: inputs[0].x.rows });
    const laws = { numRuns: 8 };

    it('one by one, in chunks and at once give the same bytes', () => {
      const total = inputs[0].x.rows;
      const atOnce = statesAt(total);
      fc.assert(
        fc.property(fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 8 }), (cuts) => {
          const cache = empty();
          let from = 0;
          for (const cut of cuts) {
            const to = Math.min(from + cut, total);
            if (to > from) append(cache, inputRows(inputs, from, to));
            from = to;
          }
          if (from < total) append(cache, inputRows(inputs, from, total));
          expectSame(states(cache), atOnce);
        }),
        laws,
      );
      const oneByOne = empty();
      for (let t = 0; t < total; t++) append(oneByOne, inputRows(inputs, t, t + 1));
      expectSame(states(oneByOne), atOnce);
    });

    // Where whole blocks go, too: a random cut is nearly always inside one.
    const cuts = fc.oneof(lengths, fc.constantFrom(0, BLOCK, 2 * BLOCK));
    test.prop([cuts, lengths], laws)('what was trimmed off was never there', (a, b) => {
      const [kept, length] = [Math.min(a, b), Math.max(a, b)];
      const cache = filled(length);
      const sealed = Math.floor(length / BLOCK) * BLOCK;
      if (kept < sealed && kept % BLOCK !== 0) {
        const before = states(cache);
        expect(() => cache.trim(kept)).toThrow(CacheStateError);
        expect(() => cache.trim(kept)).toThrow(/inside a sealed block/);
        expectSame(states(cache), before);
        return;
      }
      cache.trim(kept);
      expect(cache.length).toBe(kept);
      expectSame(states(cache), statesAt(kept));
      expect(cache.bytes()).toEqual(filled(kept).bytes());
      append(cache, inputRows(inputs, kept, inputs[0].x.rows));
      expectSame(states(cache), statesAt(inputs[0].x.rows));
    });

    const fewMore = fc.integer({ min: 0, max: BLOCK + 9 }); // enough to seal another block
    test.prop([lengths, fewMore], laws)('a clone goes its own way', (length, more) => {
      const cache = filled(length);
      const copy = cache.clone();
      append(copy, inputRows(inputs, 0, more));
      expectSame(states(cache), statesAt(length));
      expectSame(read(cache), readAt(length));
      const twin = append(filled(length), inputRows(inputs, 0, more));
      expectSame(read(copy), read(twin));
    });

    test.prop([lengths], laws)('restoring a state gives the cache back', (length) => {
      const cache = filled(length);
      const copy = empty();
      for (const [i, layer] of cache.layers.entries()) copy.layers[i].restore(layer.state());
      expect(copy.length).toBe(length);
      expectSame(read(copy), readAt(length));
      append(copy, inputRows(inputs, length, inputs[0].x.rows));
      expectSame(states(copy), statesAt(inputs[0].x.rows));
    });

    it('reading twice gives the same', () => {
      const cache = filled(inputs[0].x.rows);
      expectSame(read(cache), read(cache));
    });

    it('the pass that writes reads what every later pass will read', () => {
      // For a difference this is the closed loop: it was taken against the sum that readers add it to.
      const cache = empty();
      const whileWriting = cache.layers.map((layer, i) => {
        layer.append(inputs[i]);
        return layer.keysAndValues();
      });
      expectSame(whileWriting, readAt(inputs[0].x.rows));
    });

    it('counts the bytes of the arrays it holds', () => {
      for (const length of [0, 1, BLOCK, 2 * BLOCK + 5]) {
        const cache = filled(length);
        expect(storedBytes(cache.bytes())).toBe(bytesOfStates(states(cache)));
        expect(totalBytes(cache.bytes())).toBeGreaterThanOrEqual(storedBytes(cache.bytes()));
      }
    });

    it('refuses values it could not store, and keeps what it had', () => {
      const cache = filled(BLOCK + 3);
      const before = states(cache);
      for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
        const broken = inputRows(inputs, 0, 2).map(({ x, normalized, stream }) => ({
          x: withValue(x, 40, bad),
          normalized: withValue(normalized, 40, bad),
          stream: withValue(stream, 40, bad),
        }));
        expect(() => cache.layers[0].append(broken[0])).toThrow(NumericError);
        expect(() => cache.layers[0].append(broken[0])).toThrow(/layer 0/);
        expectSame(states(cache), before);
      }
    });

    it('holds fewer bytes than f16 keys and values once sealed, unless it is kv', () => {
      const cache = filled(3 * BLOCK);
      const { kvDim } = projections[0];
      const full = 3 * BLOCK * projections.length * 2 * kvDim * 2;
      if (options.variant === 'kv') expect(storedBytes(cache.bytes())).toBe(full);
      else expect(storedBytes(cache.bytes())).toBeLessThan(full);
    });
  });
}

/** Appends the rows to every layer, in order. */
export function append(cache: ModelCache, rows: readonly LayerInput[]): ModelCache {
  if (rows[0].x.rows === 0) return cache;
  for (const [i, layer] of cache.layers.entries()) layer.append(rows[i]);
  return cache;
}

/** Keys and values of every layer, in order. */
export function read(cache: ModelCache) {
  return cache.layers.map((layer) => layer.keysAndValues());
}

const states = (cache: ModelCache) => cache.layers.map((layer) => layer.state());

/** A function of a length that is computed once for each. */
function remembered<T>(compute: (length: number) => T): (length: number) => T {
  const known = new Map<number, T>();
  return (length) => {
    if (!known.has(length)) known.set(length, compute(length));
    return known.get(length) as T;
  };
}

/** Sums the byte lengths of all typed arrays in a nested value. */
function bytesOfStates(value: unknown): number {
  if (ArrayBuffer.isView(value)) return value.byteLength;
  if (typeof value !== 'object' || value === null) return 0;
  return Object.values(value).reduce((sum: number, part) => sum + bytesOfStates(part), 0);
}

function withValue(source: Matrix, at: number, value: number): Matrix {
  const data = source.data.slice();
  data[at] = value;
  return { ...source, data };
}
