import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { CACHE_VARIANTS, formatCacheOptions, resolveCacheOptions } from '../../../src/cache/presets.js';
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
    ...['sink=3', 'qnorm=on', 'calibration=file.safetensors', 'quantizer=identity'],
  ),
  { maxLength: 4, selector: (option) => option.split('=')[0] },
);

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
    ['kvquant:3?sink=5&outliers=1%', 'kvquant:3?sink=5'],
  ])('writes %s as %s', (spec, expected) => {
    expect(formatCacheOptions(resolveCacheOptions(spec, TINY_CONFIG), TINY_CONFIG)).toBe(expected);
  });
});
