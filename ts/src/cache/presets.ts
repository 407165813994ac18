/**
 * Names that a user can type: `NAME[:BITS][@PRESET][?option=value&...]`, for instance `kv`, `kivi:2`,
 * `xquant-cl:2@paper`, `xquant-cl:2@tuned?group=256`.
 *
 * Resolving them fills in every option for one model, by the table of options.ts; a wrong name, value or combination
 * is an error that says what would have been right.
 *
 * @module
 */

import { ConfigError } from '../errors.js';
import { nearestName } from '../nearest-name.js';
import { assertNuqBits } from '../quant/nuq.js';
import { assertBits } from '../quant/uniform.js';
import { carrierOf } from './calibration.js';
import { AUTO_CACHE, type CalibrationFinder, chooseCache } from './default-cache.js';
import {
  CACHE_VARIANTS,
  type CacheModelShape,
  type CacheOptions,
  type CachePreset,
  type CacheRequest,
  type CacheVariant,
  latentDeltasFit,
  OPTION_KEYS,
  type OptionKey,
  type OptionsAbove,
  type OptionValues,
  optionName,
  optionRow,
  PRESETS,
  usesPerChannel,
  XQUANT,
} from './options.js';

const PRESET_NAMES = Object.keys(PRESETS);
const [DEFAULT_PRESET] = PRESET_NAMES;

/** Options that follow the question mark; bits have a place of their own. */
const QUERY_KEYS = OPTION_KEYS.filter((key) => key !== 'bits');

/** Option names of the grammar with the variants that know them; for help texts. */
export function cacheOptionNames(): { name: string; variants: readonly CacheVariant[] }[] {
  return QUERY_KEYS.map((key) => ({ name: optionName(key), variants: optionRow(key).variants }));
}

/**
 * Parses a cache argument.
 *
 * @param text `NAME[:BITS][@PRESET][?option=value&...]`
 * @throws {ConfigError} names the part that is wrong and what is allowed there
 */
export function parseCacheSpec(text: string): CacheRequest {
  const match = /^([^:@?]*)(?::([^@?]*))?(?:@([^?]*))?(?:\?(.*))?$/s.exec(text);
  const [, name = '', bits, preset, query] = match ?? [];
  const variant = CACHE_VARIANTS.find((each) => each === name);
  if (!variant) {
    const allowed = `one of ${CACHE_VARIANTS.join(', ')} with NAME[:BITS][@PRESET][?option=value]`;
    throw new ConfigError('cache', text, allowed, nearestName(name, CACHE_VARIANTS));
  }
  const request: Record<string, unknown> = { variant };
  if (bits !== undefined) {
    if (variant === 'kv') throw new ConfigError('cache', text, '"kv" without bits: it always stores f16');
    request.bits = parseValue('bits', bits);
  }
  if (preset !== undefined) {
    assertPreset(preset, variant, text);
    request.preset = preset;
  }
  if (bits !== undefined && preset !== 'calibrated') assertBits(Number(bits));
  for (const part of query ? query.split('&') : []) {
    const equals = part.indexOf('=');
    const option = equals < 0 ? part : part.slice(0, equals);
    const key = queryKey(option, variant);
    if (equals < 0) throw new ConfigError(`cache option ${option}`, part, `${option}=VALUE`);
    if (key in request) throw new ConfigError(`cache option ${option}`, part, 'given once');
    request[key] = parseValue(key, part.slice(equals + 1));
  }
  return request as unknown as CacheRequest;
}

/**
 * Fills in every option for a model and checks that they go together.
 *
 * @param request a parsed or hand-written request, the text of one, or `auto`, see `chooseCache`
 * @param finder where `auto` looks for a calibration; without it the choice is by the shape alone
 * @throws {ConfigError} names the option
 * @throws {FormatError | LoadError} if `auto` finds a calibration that cannot be used; names it
 */
export function resolveCacheOptions(
  request: CacheRequest | string,
  shape: CacheModelShape,
  finder?: CalibrationFinder,
): CacheOptions {
  const chosen = request === AUTO_CACHE ? chooseCache(shape, finder?.findCalibration()).cache : request;
  const given = typeof chosen === 'string' ? parseCacheSpec(chosen) : chosen;
  if (typeof request !== 'string') assertRequest(request);
  const options = resolveUnchecked(given, shape);
  assertCacheOptions(options, shape);
  return options;
}

/** Every option, though perhaps not a combination that the model can have. */
function resolveUnchecked(given: CacheRequest, shape: CacheModelShape): CacheOptions {
  const { variant } = given;
  const preset = XQUANT.includes(variant) ? (given.preset ?? DEFAULT_PRESET) : undefined;
  const options: Record<string, unknown> = { variant };
  for (const key of OPTION_KEYS) {
    const row = optionRow(key);
    const byPreset = preset === undefined ? undefined : row.presets?.[preset as CachePreset];
    const chosen = given[key] ?? byPreset ?? row.default;
    options[key] = typeof chosen === 'function' ? chosen({ ...options, shape } as OptionsAbove) : chosen;
  }
  return options as unknown as CacheOptions;
}

/**
 * The shortest cache argument for these options: the inverse of {@link resolveCacheOptions}.
 *
 * @param options resolved for a model
 * @param shape of that model
 */
export function formatCacheOptions(options: CacheOptions, shape: CacheModelShape): string {
  const { variant, bits } = options;
  const width = variant === 'kv' ? '' : `:${bits}`;
  const candidates = XQUANT.includes(variant) ? PRESET_NAMES : [undefined];
  const specs = candidates.map((preset) => {
    let request = { variant, bits, preset } as CacheRequest;
    const query: string[] = [];
    for (const key of QUERY_KEYS) {
      const value = options[key];
      if (!optionRow(key).variants.includes(variant)) continue;
      if (resolveUnchecked(request, shape)[key] === value) continue;
      query.push(`${optionName(key)}=${value}`);
      request = { ...request, [key]: value };
    }
    const head = `${variant}${width}${preset ? `@${preset}` : ''}`;
    return query.length > 0 ? `${head}?${query.join('&')}` : head;
  });
  return specs.reduce((best, spec) => (spec.length < best.length ? spec : best));
}

/**
 * The allowed values of an option in words, if a value of any type is not one of them.
 *
 * @param key one of {@link OPTION_KEYS}, or `variant`
 * @returns `undefined` if the value is allowed
 */
export function wantedInstead(key: OptionKey | 'variant', value: unknown): string | undefined {
  if (key === 'variant') {
    return CACHE_VARIANTS.includes(value as CacheVariant) ? undefined : `one of ${CACHE_VARIANTS.join(', ')}`;
  }
  const { values } = optionRow(key);
  return values.accepts(value) ? undefined : values.allowed;
}

/** The key of an option by its name in the grammar, or by its earlier name. */
function queryKey(name: string, variant: CacheVariant): OptionKey {
  const known = QUERY_KEYS.filter((key) => optionRow(key).variants.includes(variant));
  const key = known.find((each) => optionName(each) === name || optionRow(each).formerly === name);
  if (key) return key;
  const names = known.map(optionName);
  const allowed = `one of ${names.join(', ')}`;
  throw new ConfigError(`cache option of ${variant}`, name, allowed, nearestName(name, names));
}

function parseValue(key: OptionKey, text: string): unknown {
  const { values } = optionRow(key);
  const value = values.parse(text);
  if (value === undefined) throw wrongValue(optionName(key), text, values);
  return value;
}

function wrongValue(name: string, value: unknown, values: OptionValues<unknown>): ConfigError {
  const meant = typeof value === 'string' ? nearestName(value, values.names ?? []) : undefined;
  return new ConfigError(name, value, values.allowed, meant);
}

/** @param text the whole request, for messages */
function assertPreset(preset: unknown, variant: CacheVariant, text: unknown): void {
  if (!XQUANT.includes(variant)) {
    const allowed = `"${variant}" without a preset; only ${XQUANT.join(' and ')} have presets`;
    throw new ConfigError('cache', text, allowed);
  }
  if (PRESET_NAMES.includes(preset as string)) return;
  const meant = typeof preset === 'string' ? nearestName(preset, PRESET_NAMES) : undefined;
  throw new ConfigError('preset', preset, PRESET_NAMES.join(' or '), meant);
}

/** Requires the values of a hand-written request to be of the types and in the ranges of their rows. */
function assertRequest(request: CacheRequest): void {
  if (typeof request !== 'object' || request === null) {
    throw new ConfigError('cache', request, 'the text of a cache argument, or an object with a variant');
  }
  const { variant, preset, ...options } = request;
  if (wantedInstead('variant', variant)) {
    const meant = typeof variant === 'string' ? nearestName(variant, CACHE_VARIANTS) : undefined;
    throw new ConfigError('cache variant', variant, `one of ${CACHE_VARIANTS.join(', ')}`, meant);
  }
  if (preset !== undefined) assertPreset(preset, variant, preset);
  for (const [key, value] of Object.entries(options)) {
    const known = OPTION_KEYS.find((each) => each === key);
    if (!known) {
      const allowed = `one of ${OPTION_KEYS.join(', ')}`;
      throw new ConfigError('cache option', key, allowed, nearestName(key, OPTION_KEYS));
    }
    const { values } = optionRow(known);
    if (value !== undefined && !values.accepts(value)) throw wrongValue(key, value, values);
  }
}

/** Requires options that are each allowed to go together, and with the model. */
function assertCacheOptions(options: CacheOptions, shape: CacheModelShape): void {
  const { variant, form, groupSize, residualWindow } = options;
  if (form === 'calibrated') assertCalibratedOptions(options, shape);
  else assertUncalibratedOptions(options);
  for (const key of ['firstLayers', 'lastLayers', 'baseLayers'] as const) {
    if (options[key] > shape.numHiddenLayers) {
      throw new ConfigError(key, options[key], `from 0 to ${shape.numHiddenLayers}, the layers of the model`);
    }
  }
  if (usesPerChannel({ ...options, shape }) && residualWindow % groupSize !== 0) {
    throw new ConfigError('window', residualWindow, `a multiple of the per-channel group size ${groupSize}`);
  }
  if (options.sinks >= residualWindow) {
    const allowed = `from 0 to ${residualWindow - 1}: fewer than the tokens of a block`;
    throw new ConfigError('sinks', options.sinks, allowed);
  }
  if (options.sinks > 0 && variant === 'kv') {
    throw new ConfigError('sinks', options.sinks, '0 for cache kv, which stores every position in f16');
  }
  if (options.outlierChannel === 'f16') {
    if (form !== 'latent') throw new ConfigError('outlier', 'f16', '"quantized" unless form is latent');
    if (options.rotation !== 'none') {
      throw new ConfigError('outlier', 'f16', '"quantized" with rotation, which leaves no outlier channel');
    }
  }
  if (variant === 'kvquant') assertNuqBits(options.bits);
  if (variant === 'xquant-cl' && form === 'latent') {
    if (!latentDeltasFit(shape)) {
      throw new ConfigError('form', form, `"x": 2 * kvDim is more than hiddenSize (${shape.hiddenSize})`);
    }
    if (options.deltaSpace === 'stream') {
      const allowed = '"x" or "normalized" with form latent: keys are not linear in the stream';
      throw new ConfigError('deltaSpace', 'stream', allowed);
    }
  }
}

/** Requires of a calibrated cache what it can be, and that nothing is asked for that it would ignore. */
function assertCalibratedOptions(options: CacheOptions, shape: CacheModelShape): void {
  const { variant, predict, basis } = options;
  if (!XQUANT.includes(variant)) throw new ConfigError('form', 'calibrated', `one of ${XQUANT.join(', ')}`);
  if (variant === 'xquant-cl' && predict === 0) {
    throw new ConfigError('predict', predict, '1 or 2; without prediction the cache is "xquant"');
  }
  const kvDim = shape.numKeyValueHeads * shape.headDim;
  if (basis !== 'joint' && (variant === 'xquant-cl' || carrierOf({ ...shape, kvDim }) === 'x')) {
    throw new ConfigError(
      'basis',
      basis,
      '"joint" with prediction, and where X is stored, not keys and values',
    );
  }
  for (const [key, only] of Object.entries(WITHOUT_MEANING_IF_CALIBRATED)) {
    const value = options[key as OptionKey];
    if (value !== only)
      throw new ConfigError(
        optionName(key as OptionKey),
        value,
        `${only} with form "calibrated", as preset "calibrated" has it`,
      );
  }
}

/** Options that a calibrated cache replaces or lacks, and the only value that they may have. */
const WITHOUT_MEANING_IF_CALIBRATED = {
  rotation: 'none',
  range: 'minmax',
  outlierChannel: 'quantized',
  accumulator: 'f32',
  firstLayers: 0,
  lastLayers: 0,
} as const satisfies Partial<CacheOptions>;

/** Refuses options that only a calibrated cache can have. */
function assertUncalibratedOptions({ bits, predict, basis }: CacheOptions): void {
  assertBits(bits);
  if (predict !== 0) throw new ConfigError('predict', predict, '0 unless the cache is calibrated');
  if (basis !== 'joint') throw new ConfigError('basis', basis, '"joint" unless the cache is calibrated');
}
