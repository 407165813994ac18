/**
 * Names that a user can type: `NAME[:BITS][@PRESET][?option=value&...]`, for instance `kv`, `kivi:2`,
 * `xquant-cl:2@paper`, `xquant-cl:2@tuned?group=256`.
 *
 * Resolving them fills in every option for one model; a wrong name, value or combination is an error that
 * says what would have been right.
 *
 * @module
 */

import { assertPositiveInteger, ConfigError } from '../errors.js';
import type { Rotation } from '../numerics/hadamard.js';
import { GROUPINGS, type Grouping } from '../quant/grouped.js';
import { assertNuqBits } from '../quant/nuq.js';
import { assertBits, BITS, type Bits, RANGE_RULES } from '../quant/uniform.js';
import type { AccumulatorPolicy, CacheForm, CacheOptions, CacheVariant, DeltaSpace } from './types.js';

/** Sizes of the model that decide which options make sense. */
export interface CacheModelShape {
  readonly hiddenSize: number;
  readonly numHiddenLayers: number;
  readonly numAttentionHeads: number;
  readonly numKeyValueHeads: number;
  readonly headDim: number;
}

/** Options as a user gives them: everything but the variant may be left out. */
export type CacheRequest = { readonly variant: CacheVariant; readonly preset?: CachePreset } & {
  readonly [K in Exclude<keyof CacheOptions, 'variant'>]?: CacheOptions[K];
};

/** `paper`: what the paper says. `tuned`: same bytes, a fraction of the loss (our default). */
export type CachePreset = 'paper' | 'tuned';

/** Variants that can be created. */
export const CACHE_VARIANTS: readonly CacheVariant[] = ['kv', 'kivi', 'kvquant', 'xquant', 'xquant-cl'];

/** Tokens of a block unless asked otherwise: the paper's group size. */
const DEFAULT_BLOCK = 128;

/** What `kvquant` keeps exactly unless asked otherwise: its -1% variant. */
const DEFAULT_OUTLIERS = 0.01;

const PRESETS: readonly CachePreset[] = ['paper', 'tuned'];
const FORMS: readonly CacheForm[] = ['x', 'latent'];
const ROTATIONS: readonly Rotation[] = ['none', 'hadamard'];
const DELTA_SPACES: readonly DeltaSpace[] = ['x', 'normalized', 'stream'];
const ACCUMULATORS: readonly AccumulatorPolicy[] = ['f32', 'int8', 'recompute'];

type OptionKey = Exclude<keyof CacheOptions, 'variant'>;

/** How one option is written in a cache argument and which variants know it. */
interface OptionSyntax {
  readonly key: OptionKey;
  readonly parse: (text: string, name: string) => unknown;
  readonly variants: readonly CacheVariant[];
}

const QUANTIZED: readonly CacheVariant[] = ['kivi', 'xquant', 'xquant-cl'];
const XQUANT: readonly CacheVariant[] = ['xquant', 'xquant-cl'];
const KVQUANT: readonly CacheVariant[] = ['kvquant'];

/** Every option by the name in the grammar. */
const SYNTAX: Readonly<Record<string, OptionSyntax>> = {
  form: { key: 'form', parse: oneOf(FORMS), variants: XQUANT },
  group: { key: 'groupSize', parse: parseCount, variants: QUANTIZED },
  window: { key: 'residualWindow', parse: parseCount, variants: ['kv', ...KVQUANT, ...QUANTIZED] },
  range: { key: 'range', parse: oneOf(RANGE_RULES), variants: QUANTIZED },
  rotation: { key: 'rotation', parse: oneOf(ROTATIONS), variants: XQUANT },
  grouping: { key: 'grouping', parse: oneOf(GROUPINGS), variants: XQUANT },
  keyGrouping: { key: 'keyGrouping', parse: oneOf(GROUPINGS), variants: QUANTIZED },
  valueGrouping: { key: 'valueGrouping', parse: oneOf(GROUPINGS), variants: QUANTIZED },
  keyBits: { key: 'keyBits', parse: parseBits, variants: ['kivi', 'xquant'] },
  valueBits: { key: 'valueBits', parse: parseBits, variants: ['kivi', 'xquant'] },
  outlier: { key: 'outlierChannel', parse: oneOf(['quantized', 'f16']), variants: ['xquant'] },
  deltaSpace: { key: 'deltaSpace', parse: oneOf(DELTA_SPACES), variants: ['xquant-cl'] },
  accumulator: { key: 'accumulator', parse: oneOf(ACCUMULATORS), variants: ['xquant-cl'] },
  baseLayers: { key: 'baseLayers', parse: parseCount, variants: ['xquant-cl'] },
  baseBits: { key: 'baseBits', parse: parseBits, variants: ['xquant-cl'] },
  baseStore: { key: 'baseStore', parse: oneOf(['x', 'latent']), variants: ['xquant-cl'] },
  firstLayers: { key: 'firstLayers', parse: parseNonNegative, variants: ['kivi', 'xquant'] },
  firstBits: { key: 'firstBits', parse: parseBits, variants: ['kivi', 'xquant'] },
  lastLayers: { key: 'lastLayers', parse: parseNonNegative, variants: ['kivi', 'xquant'] },
  lastBits: { key: 'lastBits', parse: parseBits, variants: ['kivi', 'xquant'] },
  outliers: { key: 'outlierFraction', parse: parseFraction, variants: KVQUANT },
  sink: { key: 'sink', parse: parseNonNegative, variants: KVQUANT },
  qnorm: { key: 'qNorm', parse: oneOf(['off', 'on']), variants: KVQUANT },
  calibration: { key: 'calibration', parse: parsePath, variants: KVQUANT },
  quantizer: {
    key: 'quantizer',
    parse: oneOf(['uniform', 'identity']),
    variants: ['kv', ...KVQUANT, ...QUANTIZED],
  },
};

/** Option names of the grammar with the variants that know them; for help texts. */
export function cacheOptionNames(): { name: string; variants: readonly CacheVariant[] }[] {
  return Object.entries(SYNTAX).map(([name, { variants }]) => ({ name, variants }));
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
  if (!CACHE_VARIANTS.includes(name as CacheVariant)) {
    throw new ConfigError(
      'cache',
      text,
      `one of ${CACHE_VARIANTS.join(', ')} with NAME[:BITS][@PRESET][?option=value]`,
    );
  }
  const variant = name as CacheVariant;
  const request: Record<string, unknown> = { variant };
  if (bits !== undefined) {
    if (variant === 'kv') throw new ConfigError('cache', text, '"kv" without bits: it always stores f16');
    request.bits = parseBits(bits, 'bits');
  }
  if (preset !== undefined) {
    if (!XQUANT.includes(variant)) {
      throw new ConfigError(
        'cache',
        text,
        `"${variant}" without a preset; only ${XQUANT.join(' and ')} have presets`,
      );
    }
    request.preset = oneOf(PRESETS)(preset, 'preset');
  }
  for (const part of query ? query.split('&') : []) {
    const equals = part.indexOf('=');
    const option = equals < 0 ? part : part.slice(0, equals);
    const syntax = Object.hasOwn(SYNTAX, option) ? SYNTAX[option] : undefined;
    if (!syntax?.variants.includes(variant)) {
      const known = Object.keys(SYNTAX).filter((key) => SYNTAX[key].variants.includes(variant));
      throw new ConfigError(`cache option of ${variant}`, option, `one of ${known.join(', ')}`);
    }
    if (equals < 0) throw new ConfigError(`cache option ${option}`, part, `${option}=VALUE`);
    if (syntax.key in request) throw new ConfigError(`cache option ${option}`, part, 'given once');
    request[syntax.key] = syntax.parse(part.slice(equals + 1), option);
  }
  return request as CacheRequest;
}

/**
 * Fills in every option for a model and checks that they go together.
 *
 * @param request a parsed or hand-written request, or the text of one
 * @throws {ConfigError | RangeError} names the option
 */
export function resolveCacheOptions(request: CacheRequest | string, shape: CacheModelShape): CacheOptions {
  const options = resolveUnchecked(request, shape);
  assertCacheOptions(options, shape);
  return options;
}

/** Every option, though perhaps not a combination that the model can have. */
function resolveUnchecked(request: CacheRequest | string, shape: CacheModelShape): CacheOptions {
  if (typeof request !== 'string' && (typeof request !== 'object' || request === null)) {
    throw new ConfigError('cache', request, 'a cache argument, or an object with a variant');
  }
  const given = typeof request === 'string' ? parseCacheSpec(request) : request;
  const { variant, preset = 'tuned' } = given;
  if (!CACHE_VARIANTS.includes(variant)) {
    throw new ConfigError('cache variant', variant, `one of ${CACHE_VARIANTS.join(', ')}`);
  }
  const tuned = preset === 'tuned' && XQUANT.includes(variant);
  const bits: Bits = given.bits ?? 4;
  const groupSize = given.groupSize ?? DEFAULT_BLOCK;
  const options: CacheOptions = {
    bits,
    keyBits: bits,
    valueBits: bits,
    form: defaultForm(variant, shape),
    groupSize,
    residualWindow: DEFAULT_BLOCK,
    grouping: 'perToken',
    keyGrouping: variant === 'kivi' || !tuned ? 'perChannel' : 'perToken',
    valueGrouping: 'perToken',
    range: tuned ? 'mse' : 'minmax',
    rotation: tuned ? 'hadamard' : 'none',
    outlierChannel: 'quantized',
    deltaSpace: tuned ? 'normalized' : 'x',
    accumulator: 'f32',
    baseLayers: Math.min(3, shape.numHiddenLayers),
    baseBits: 4,
    baseStore: 'x',
    firstLayers: 0,
    firstBits: 4,
    lastLayers: 0,
    lastBits: 4,
    outlierFraction: DEFAULT_OUTLIERS,
    sink: 0,
    qNorm: 'off',
    calibration: '',
    quantizer: 'uniform',
    ...definedOnly(given),
    variant,
  };
  return { ...options, residualWindow: given.residualWindow ?? defaultBlock(options) };
}

/**
 * The shortest cache argument that stands for these options: the way back from {@link resolveCacheOptions}.
 *
 * @param options resolved for a model
 * @param shape of that model
 */
export function formatCacheOptions(options: CacheOptions, shape: CacheModelShape): string {
  const { variant, bits } = options;
  const width = variant === 'kv' ? '' : `:${bits}`;
  const candidates = XQUANT.includes(variant) ? PRESETS.map((preset) => `@${preset}`) : [''];
  const specs = candidates.map((preset) => {
    const head = `${variant}${width}${preset}`;
    const query: string[] = [];
    for (const [name, { key, variants }] of Object.entries(SYNTAX)) {
      const defaults = resolveUnchecked([head, query.join('&')].filter(Boolean).join('?'), shape);
      if (variants.includes(variant) && options[key] !== defaults[key]) query.push(`${name}=${options[key]}`);
    }
    return query.length > 0 ? `${head}?${query.join('&')}` : head;
  });
  return specs.reduce((best, spec) => (spec.length < best.length ? spec : best));
}

/** MHA stores X, GQA its latents, unless the latent of a difference would be wider than X (XQuant §3.3). */
function defaultForm(variant: CacheVariant, shape: CacheModelShape): CacheForm {
  if (!XQUANT.includes(variant) || shape.numAttentionHeads === shape.numKeyValueHeads) return 'x';
  return variant === 'xquant-cl' && !latentDeltasFit(shape) ? 'x' : 'latent';
}

function latentDeltasFit({ numKeyValueHeads, headDim, hiddenSize }: CacheModelShape): boolean {
  return 2 * numKeyValueHeads * headDim <= hiddenSize;
}

/** A per-channel group is a run of tokens and cannot reach over the end of a block. */
function defaultBlock(options: CacheOptions): number {
  return usesPerChannel(options) ? Math.max(DEFAULT_BLOCK, options.groupSize) : DEFAULT_BLOCK;
}

function usesPerChannel({ variant, form, grouping, keyGrouping, valueGrouping }: CacheOptions): boolean {
  const groupings: Grouping[] = [];
  if (variant === 'kivi' || form === 'latent') groupings.push(keyGrouping, valueGrouping);
  if (variant === 'xquant-cl' || (variant === 'xquant' && form === 'x')) groupings.push(grouping);
  return groupings.includes('perChannel');
}

function assertCacheOptions(options: CacheOptions, shape: CacheModelShape): void {
  const { variant, form, groupSize, residualWindow, rotation } = options;
  for (const key of ['bits', 'keyBits', 'valueBits', 'baseBits', 'firstBits', 'lastBits'] as const) {
    assertBits(options[key], key);
  }
  assertPositiveInteger(groupSize, 'group');
  assertPositiveInteger(residualWindow, 'window');
  assertPositiveInteger(options.baseLayers, 'baseLayers');
  for (const key of ['firstLayers', 'lastLayers', 'baseLayers'] as const) {
    if (!Number.isInteger(options[key]) || options[key] < 0 || options[key] > shape.numHiddenLayers) {
      throw new ConfigError(key, options[key], `from 0 to ${shape.numHiddenLayers}, the layers of the model`);
    }
  }
  if (usesPerChannel(options) && residualWindow % groupSize !== 0) {
    throw new ConfigError('window', residualWindow, `a multiple of the per-channel group size ${groupSize}`);
  }
  if (options.outlierChannel === 'f16') {
    if (form !== 'latent') throw new ConfigError('outlier', 'f16', '"quantized" unless form is latent');
    if (rotation !== 'none') {
      throw new ConfigError('outlier', 'f16', '"quantized" with rotation, which leaves no outlier channel');
    }
  }
  if (variant === 'kvquant') {
    assertNuqBits(options.bits);
    const { outlierFraction, sink } = options;
    if (!(outlierFraction >= 0 && outlierFraction < 1)) {
      throw new ConfigError('outliers', outlierFraction, 'a fraction from 0 to below 1, or a percentage');
    }
    if (!Number.isInteger(sink) || sink < 0 || sink > residualWindow) {
      throw new ConfigError('sink', sink, `from 0 to ${residualWindow}, the tokens of a block`);
    }
  }
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

/** Drops what was given as undefined, so that it does not hide a default. */
function definedOnly(request: CacheRequest): Partial<CacheOptions> {
  const { preset: _preset, ...options } = request;
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}

function oneOf<T extends string>(allowed: readonly T[]): (text: string, name: string) => T {
  return (text, name) => {
    if (!allowed.includes(text as T)) throw new ConfigError(name, text, allowed.join(' or '));
    return text as T;
  };
}

function parseBits(text: string, name: string): Bits {
  const bits = parseInteger(text, name, `one of ${BITS.join(', ')}`);
  assertBits(bits, name);
  return bits;
}

/** `1%` or `0.01`. */
function parseFraction(text: string, name: string): number {
  const [, digits, percent] = /^(\d{1,9}(?:\.\d{1,9})?)(%?)$/.exec(text) ?? [];
  const fraction = percent ? Number(digits) / 100 : Number(digits);
  if (!(fraction >= 0 && fraction < 1)) {
    throw new ConfigError(name, text, 'a fraction from 0 to below 1, or a percentage');
  }
  return fraction;
}

function parsePath(text: string, name: string): string {
  if (text === '') throw new ConfigError(name, text, 'the path of a file');
  return text;
}

function parseCount(text: string, name: string): number {
  const count = parseInteger(text, name, 'a positive integer');
  if (count < 1) throw new ConfigError(name, text, 'a positive integer');
  return count;
}

function parseNonNegative(text: string, name: string): number {
  return parseInteger(text, name, 'an integer from 0');
}

function parseInteger(text: string, name: string, allowed: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new ConfigError(name, text, allowed);
  return Number(text);
}
