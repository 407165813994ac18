import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { cacheSize, NAMED_SHAPES } from '../../../src/analysis/memory.js';
import { CACHE_VARIANTS, type CacheRequest, OPTION_KEYS } from '../../../src/cache/options.js';
import {
  formatCacheOptions,
  parseCacheSpec,
  resolveCacheOptions,
  wantedInstead,
} from '../../../src/cache/presets.js';
import { ConfigError } from '../../../src/errors.js';
import { TINY_CONFIG, TINY_GQA_CONFIG } from '../../helpers/tiny-model.js';

/** What a user may type behind the name; much of it does not go together, and is refused. */
const query = fc.uniqueArray(
  fc.constantFrom(
    ...[
      'form=x',
      'form=latent',
      'group=16',
      'group=256',
      'window=64',
      'window=256',
      'range=minmax',
      'rotation=none',
    ],
    ...['grouping=perChannel', 'keyGrouping=perToken', 'keyGrouping=perChannel', 'keyBits=3', 'valueBits=2'],
    ...['outlier=f16', 'deltaSpace=x', 'deltaSpace=stream', 'accumulator=int8', 'baseLayers=2', 'baseBits=2'],
    ...['baseStore=latent', 'firstLayers=1', 'firstBits=8', 'lastLayers=2', 'outliers=0', 'outliers=2.5%'],
    ...['sinks=3', 'qnorm=on', 'calibration=file.safetensors', 'quantizer=identity'],
  ),
  { maxLength: 4, selector: (option) => option.split('=')[0] },
);

describe('hand-written requests', () => {
  const resolve = (request: Record<string, unknown>) =>
    resolveCacheOptions(request as unknown as CacheRequest, TINY_CONFIG);

  it.each([
    [{ variant: 'xquant', rotation: 'Hadamard' }, /"rotation" must be none or hadamard.*"hadamard"\?/],
    [{ variant: 'xquant', bits: '4' }, /"bits" must be one of 1, 2, 3, 4, 8/],
    [{ variant: 'xquant', bits: 2.25 }, /"bits" must be one of 1, 2, 3, 4, 8/],
    [{ variant: 'xquant', groupSize: 65_537 }, /"groupSize" must be an integer from 1 to 65536/],
    [{ variant: 'xquant', residualWindow: 16.5 }, /"residualWindow" must be an integer/],
    [{ variant: 'xquant', residualWindow: null }, /"residualWindow" must be an integer/],
    [{ variant: 'xquant-cl', baseLayers: '3' }, /"baseLayers" must be an integer/],
    [{ variant: 'kvquant', outlierFraction: 1 }, /"outlierFraction" must be a fraction/],
    [{ variant: 'xquant', rotaton: 'none' }, /"cache option" must be one of .*did you mean "rotation"\?/],
    [
      { variant: 'xquant', preset: 'papers' },
      /"preset" must be tuned or paper or calibrated.*did you mean "paper"\?/,
    ],
    [{ variant: 'kv', preset: 'paper' }, /without a preset/],
    [{ variant: 'XQuant' }, /"cache variant" must be one of .*did you mean "xquant"\?/],
    [{}, /"cache variant"/],
    [{ variant: 'kivi', preset: 'calibrated' }, /without a preset/],
    [{ variant: 'xquant', form: 'calibrated' }, /"rotation" must be none .* as preset "calibrated" has it/],
    [{ variant: 'kivi', form: 'calibrated' }, /"form" must be one of xquant, xquant-cl/],
    [{ variant: 'xquant-cl', predict: 1 }, /"predict" must be 0/],
    [{ variant: 'xquant', basis: 'head' }, /"basis" must be "joint"/],
  ])('%j is refused', (request, message) => {
    expect(() => resolve(request)).toThrow(ConfigError);
    expect(() => resolve(request)).toThrow(message);
  });

  it('leaves out what is given as undefined', () => {
    expect(resolve({ variant: 'xquant', rotation: undefined, preset: undefined })).toEqual(
      resolve({ variant: 'xquant' }),
    );
  });

  it.each(OPTION_KEYS)('of %s, all resolved values are allowed, and other types are not', (key) => {
    for (const variant of CACHE_VARIANTS) {
      for (const shape of [TINY_CONFIG, TINY_GQA_CONFIG]) {
        expect(wantedInstead(key, resolveCacheOptions({ variant }, shape)[key])).toBeUndefined();
      }
    }
    for (const value of [null, true, {}, [], Number.NaN, -1, () => 4]) {
      expect(wantedInstead(key, value)).toMatch(/./);
    }
  });
});

describe('mistyped arguments', () => {
  it.each([
    ['xqant:4', 'xquant'],
    ['xquantcl:2', 'xquant-cl'],
    ['kvi:2', 'kv'],
    ['xquant@tunde', 'tuned'],
    ['xquant?goup=64', 'group'],
    ['xquant-cl?deltaspace=x', 'deltaSpace'],
    ['xquant?rotation=hadamart', 'hadamard'],
  ])('%s: did you mean %s?', (spec, meant) => {
    expect(() => parseCacheSpec(spec)).toThrow(`did you mean "${meant}"?`);
  });

  it.each(['llama', 'xquant?zzz=1', `xquant?${'group'.repeat(100_000)}=1`])('%.20s: no guess', (spec) => {
    expect(() => parseCacheSpec(spec)).toThrow(ConfigError);
    expect(() => parseCacheSpec(spec)).not.toThrow(/did you mean/);
  });
});

describe('hostile arguments', () => {
  // The first five are inputs that once took minutes, or more memory than there is.
  const arguments_ = [
    'kvquant:4?window=32',
    'xquant@tuned?grouping=perToken&window=999999999&group=16',
    'xquant-cl?window=999999999',
    'kivi:8?group=100000000',
    'xquant-cl:3@tuned?form=latent&baseStore=latent',
    'kvquant?window=1',
    'xquant-cl?window=65536&group=65536',
    'kivi?group=65536',
    'xquant?group=1&window=1',
  ];

  it.each(arguments_)('%s is sized at once, or refused', (spec) => {
    const start = performance.now();
    for (const shape of [TINY_CONFIG, TINY_GQA_CONFIG, NAMED_SHAPES['llama-3.1-8b']]) {
      for (const tokens of [1, 131_072, Number.MAX_SAFE_INTEGER]) {
        try {
          expect(cacheSize(spec, shape, tokens).bytesPerToken).toBeGreaterThan(0);
        } catch (error) {
          expect(error).toBeInstanceOf(ConfigError);
        }
      }
    }
    expect(performance.now() - start).toBeLessThan(1000);
  });
});

describe('formatCacheOptions', () => {
  test.prop([
    fc.constantFrom(...CACHE_VARIANTS),
    fc.constantFrom('', ':1', ':2', ':3', ':8'),
    fc.constantFrom('', '@paper', '@tuned'),
    query,
    fc.constantFrom(TINY_CONFIG, TINY_GQA_CONFIG),
  ])('is the way back from resolving', (variant, bits, preset, options, shape) => {
    const spec = `${variant}${bits}${preset}${options.length > 0 ? `?${options.join('&')}` : ''}`;
    let resolved: ReturnType<typeof resolveCacheOptions>;
    try {
      resolved = resolveCacheOptions(spec, shape);
    } catch (error) {
      expect(error).toBeInstanceOf(ConfigError);
      return;
    }
    expect(resolveCacheOptions(formatCacheOptions(resolved, shape), shape)).toEqual(resolved);
  });

  it.each([
    ['kv', 'kv'],
    ['kivi', 'kivi:4'],
    ['xquant-cl:2', 'xquant-cl:2@tuned'],
    ['xquant:4@paper', 'xquant:4@paper'],
    ['xquant-cl:2@paper?group=64', 'xquant-cl:2@paper?group=64'],
    ['kvquant:3?sink=5&outliers=1%', 'kvquant:3?sinks=5'],
  ])('writes %s as %s', (spec, expected) => {
    expect(formatCacheOptions(resolveCacheOptions(spec, TINY_CONFIG), TINY_CONFIG)).toBe(expected);
  });
});
