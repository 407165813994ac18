import { fc, test as propertyTest } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import {
  cacheBytes,
  cacheSize,
  elementsPerToken,
  float16KeyValueBytes,
  namedShape,
  TABLE_CACHES,
} from '../../../src/analysis/memory.js';
import { resolveCacheOptions } from '../../../src/cache/presets.js';
import { ConfigError } from '../../../src/errors.js';
import type { ModelConfig } from '../../../src/model/config.js';
import { randomTokens, TINY_CONFIG, TINY_GQA_CONFIG, tinyModel } from '../../helpers/tiny-model.js';

/** A width of 96, so that groups of 64 are ragged. */
const RAGGED: ModelConfig = { ...TINY_CONFIG, hiddenSize: 96, numAttentionHeads: 6, numKeyValueHeads: 2 };

const MODELS = {
  mha: tinyModel(TINY_CONFIG),
  gqa: tinyModel(TINY_GQA_CONFIG),
  ragged: tinyModel(RAGGED),
};

/** Every variant and form, and every option that changes bytes. */
const CACHES: [model: keyof typeof MODELS, cache: string][] = [
  ['mha', 'kv'],
  ['mha', 'kv?quantizer=identity'],
  ['mha', 'kivi:2?group=16'],
  ['mha', 'kivi:3?keyBits=4&valueBits=2&group=16'],
  ['ragged', 'kivi:3?group=16'],
  ['mha', 'xquant:1'],
  ['mha', 'xquant:2@paper'],
  ['mha', 'xquant:3'],
  ['mha', 'xquant:8?grouping=perChannel&group=8'],
  ['mha', 'xquant:4?form=latent&quantizer=identity'],
  ['mha', 'xquant:2@paper?firstLayers=1&lastLayers=2&lastBits=8'],
  ['ragged', 'xquant:4?form=x&group=64'],
  ['ragged', 'xquant:2'],
  ['gqa', 'xquant:4@paper?group=16'],
  ['gqa', 'xquant:2@paper?outlier=f16&group=8'],
  ['gqa', 'xquant:2@paper?outlier=f16&group=8&sinks=3'],
  ['mha', 'kivi:3?group=16&sinks=15'],
  ['gqa', 'xquant:2?keyBits=4&firstLayers=2'],
  ['mha', 'xquant-cl:2@paper'],
  ['mha', 'xquant-cl:2@tuned?accumulator=int8'],
  ['mha', 'xquant-cl:2?accumulator=recompute&baseLayers=1'],
  ['mha', 'xquant-cl:3?deltaSpace=stream&baseBits=8'],
  ['mha', 'xquant-cl:2?baseLayers=4'],
  ['ragged', 'xquant-cl:2'],
  ['gqa', 'xquant-cl:2'],
  ['gqa', 'xquant-cl:2@paper?baseStore=latent&group=16'],
  ['gqa', 'xquant-cl:2?form=x&accumulator=int8'],
  ['gqa', 'xquant-cl:2?quantizer=identity'],
];

describe('the formula', () => {
  it.each(CACHES)('gives the bytes that are counted: %s %s', async (name, text) => {
    const model = MODELS[name];
    for (const window of [16, 32]) {
      const cache = model.createCache(`${text}${text.includes('?') ? '&' : '?'}window=${window}`);
      for (const tokens of [0, 1, 15, 16, 33, 64]) {
        cache.trim(Math.min(cache.length, tokens));
        const missing = tokens - cache.length;
        if (missing > 0) await model.forward(randomTokens(missing), cache);
        expect(cacheBytes(cache.options, model.config, tokens)).toEqual(cache.bytes());
      }
    }
  });

  it.each(CACHES)('knows how many numbers are stored for a token: %s %s', async (name, text) => {
    const model = MODELS[name];
    const cache = model.createCache(`${text}${text.includes('?') ? '&' : '?'}window=16`);
    await model.forward(randomTokens(32), cache);
    let stored = 0;
    for (const layer of cache.layers) {
      // The first block has sinks, which are stored in another width.
      for (const { rows, columns } of Object.values(layer.state().blocks[1])) stored += rows * columns;
    }
    expect(elementsPerToken(cache.options, model.config)).toBe(stored / 16);
  });

  it('is b + 32/G bits for each stored number, and what that is against 16-bit K and V', () => {
    const mha = namedShape('llama-2-7b');
    const gqa = namedShape('llama-3.1-8b');
    for (const bits of [2, 3, 4]) {
      for (const [cache, shape, fraction] of [
        [`kivi:${bits}`, gqa, (bits + 0.25) / 16],
        [`xquant:${bits}?sinks=0`, gqa, (bits + 0.25) / 16],
        [`xquant:${bits}?sinks=0`, mha, (bits + 0.25) / 32],
      ] as const) {
        const size = cacheSize(cache, shape, 4096);
        expect(size.bitsPerElement).toBe(bits + 0.25);
        expect(size.fraction).toBe(fraction);
        expect(size.compression).toBe(1 / fraction);
      }
    }
    const size = cacheSize('kv', mha, 1000);
    expect(size).toMatchObject({ fraction: 1, bitsPerElement: 16, storedBytes: 1000 * 2 * 4096 * 32 * 2 });
  });

  it('charges the window: tokens that are not sealed take 16 bits', () => {
    const shape = namedShape('llama-2-7b');
    const sealed = cacheSize('xquant:2', shape, 128);
    const { bytes } = cacheSize('xquant:2', shape, 129);
    expect(bytes).toEqual({ ...sealed.bytes, window: 2 * shape.hiddenSize * shape.numHiddenLayers });
  });

  it('charges sinks in f16, and no codes for them', () => {
    const shape = namedShape('llama-2-7b');
    const { numHiddenLayers: layers, hiddenSize } = shape;
    const [none, some] = ['xquant:2?sinks=0', 'xquant:2?sinks=5'].map((cache) =>
      cacheSize(cache, shape, 256),
    );
    const groups = hiddenSize / 128;
    expect(some.bytes.outliers).toBe(5 * 2 * hiddenSize * layers);
    expect(none.bytes.codes - some.bytes.codes).toBe((5 * hiddenSize * layers * 2) / 8);
    expect(none.bytes.scales - some.bytes.scales).toBe(5 * groups * layers * 2);
  });

  it('charges the full width of the base layer, which the paper does not', () => {
    const shape = namedShape('llama-3.1-8b');
    const full = cacheSize('xquant-cl:2', shape, 2048);
    const latent = cacheSize('xquant-cl:2?baseStore=latent', shape, 2048);
    const extraChannels = shape.hiddenSize - 2 * shape.numKeyValueHeads * shape.headDim;
    // The sink of either is as wide as X, and not coded.
    expect(full.storedBytes - latent.storedBytes).toBe((2047 * extraChannels * 4.25) / 8);
    expect(full.paperFraction).toBe(latent.paperFraction);
  });

  propertyTest.prop([fc.constantFrom(...TABLE_CACHES), fc.integer({ min: 0, max: 3000 })])(
    'counts whole blocks: a block more is a block more',
    (text, tokens) => {
      const shape = namedShape('smollm2-135m');
      const options = resolveCacheOptions(text, shape);
      const block = options.residualWindow;
      const bytes = (count: number) => cacheBytes(options, shape, count);
      // The first block may have sinks; from then on, all are alike.
      const [first, second] = [bytes(block), bytes(2 * block)];
      const [before, after] = [bytes(block + tokens), bytes(2 * block + tokens)];
      for (const kind of Object.keys(first) as (keyof typeof first)[]) {
        expect(after[kind] - before[kind]).toBe(second[kind] - first[kind]);
      }
    },
  );
});

describe('the table of the paper', () => {
  // Sizes that XQuant prints in its Tables 1 and 4.
  it.each([
    ['llama-2-7b', 'xquant:4@paper', 0.13],
    ['llama-2-7b', 'xquant:3@paper', 0.1],
    ['llama-2-7b', 'xquant:2@paper?firstLayers=3', 0.08],
    ['llama-2-7b', 'xquant-cl:4@paper', 0.13],
    ['llama-2-7b', 'xquant-cl:3@paper', 0.1],
    ['llama-2-7b', 'xquant-cl:2@paper', 0.08],
    ['llama-2-7b', 'kivi:4', 0.27],
    ['llama-2-7b', 'kivi:3', 0.2],
    ['llama-2-7b', 'kivi:2', 0.14],
    ['llama-2-7b', 'kivi:3?firstLayers=3', 0.21],
    ['llama-2-7b', 'kivi:2?firstLayers=3', 0.15],
    ['llama-2-13b', 'xquant-cl:2@paper', 0.08],
    ['llama-3.1-8b', 'xquant:4@paper', 0.27],
    ['llama-3.1-8b', 'xquant:3@paper', 0.2],
    ['llama-3.1-8b', 'xquant:2@paper', 0.14],
    ['llama-3.1-8b', 'xquant:2@paper?outlier=f16', 0.14],
    ['mistral-7b', 'xquant-cl:4@paper', 0.27],
    ['mistral-7b', 'xquant-cl:3@paper', 0.21],
    ['mistral-7b', 'xquant-cl:2@paper', 0.15],
  ])('%s %s is %d', (shape, cache, printed) => {
    expect(cacheSize(cache, namedShape(shape), 2048).paperFraction).toBe(printed);
  });

  it('rounds before it divides: 7.7x and 12.5x', () => {
    const shape = namedShape('llama-2-7b');
    expect(cacheSize('xquant:4@paper', shape, 2048)).toMatchObject({ paperCompression: 7.7 });
    expect(cacheSize('xquant-cl:2@paper', shape, 2048)).toMatchObject({ paperCompression: 12.5 });
    expect(cacheSize('xquant:4@paper', shape, 2048).compression).toBeCloseTo(7.53, 2);
    expect(cacheSize('xquant-cl:2@paper', shape, 2048).compression).toBeCloseTo(13.1, 1);
  });
});

describe('named shapes', () => {
  it.each([
    ['llama-2-7b', 32 * 2 * 4096],
    ['llama-2-13b', 40 * 2 * 5120],
    ['llama-3.1-8b', 32 * 2 * 1024],
    ['mistral-7b', 32 * 2 * 1024],
    ['smollm2-135m', 30 * 2 * 192],
  ])('%s caches %d numbers for a token', (name, numbers) => {
    expect(float16KeyValueBytes(namedShape(name), 1)).toBe(2 * numbers);
  });
});

describe('bad input', () => {
  it('names what would have been right', () => {
    expect(() => namedShape('gpt-5')).toThrow(/llama-2-7b/);
    expect(() => namedShape('toString')).toThrow(ConfigError);
    expect(() => cacheSize('xquant:5', namedShape('llama-2-7b'), 128)).toThrow(ConfigError);
    expect(() => cacheSize('kv', namedShape('llama-2-7b'), 0)).toThrow(RangeError);
    expect(() => cacheSize('kv', namedShape('llama-2-7b'), -1)).toThrow(RangeError);
    expect(() => cacheSize('kv', namedShape('llama-2-7b'), 1.5)).toThrow(RangeError);
  });
});
