/**
 * Every option of every cache, one row each: its values, the variants that know it, its default and what presets
 * make of it. The type {@link CacheOptions}, the grammar of cache arguments, defaults, help texts and the checks of
 * requests and of snapshots all derive from this table; see presets.ts.
 *
 * A new option is one row here, and the place that reads it.
 *
 * @module
 */

import { ROTATIONS } from '../numerics/hadamard.js';
import { GROUPINGS, type Grouping } from '../quant/grouped.js';
import { BITS, RANGE_RULES } from '../quant/uniform.js';

/** Sizes of the model that decide which options make sense. */
export interface CacheModelShape {
  readonly hiddenSize: number;
  readonly numHiddenLayers: number;
  readonly numAttentionHeads: number;
  readonly numKeyValueHeads: number;
  readonly headDim: number;
}

/** Cache variants by the name a user types. */
export type CacheVariant = 'kv' | 'kivi' | 'kvquant' | 'xquant' | 'xquant-cl';

/** Variants that can be created, each with an example and its description for help texts. */
export const VARIANTS: Readonly<Record<CacheVariant, { readonly example: string; readonly about: string }>> =
  {
    kv: { example: 'kv', about: 'keys and values in f16: the baseline' },
    kivi: { example: 'kivi:2', about: 'quantized keys and values (KIVI*)' },
    kvquant: { example: 'kvquant:3', about: 'keys and values in calibrated levels (KVQuant)' },
    xquant: { example: 'xquant:4', about: 'quantized layer inputs, keys and values rebuilt from them' },
    'xquant-cl': { example: 'xquant-cl:2@tuned', about: 'quantized differences from layer to layer' },
  };

/** The names of all variants. */
export const CACHE_VARIANTS = Object.keys(VARIANTS) as readonly CacheVariant[];

/** Variants that store keys and values. */
const KEY_VALUE: readonly CacheVariant[] = ['kivi', 'kvquant'];
/** Variants that store layer inputs: the ones with presets. */
export const XQUANT: readonly CacheVariant[] = ['xquant', 'xquant-cl'];
/** Variants whose quantizer is the uniform one. */
const UNIFORM: readonly CacheVariant[] = ['kivi', ...XQUANT];

/**
 * `paper`: what the paper says. `tuned`: same bits, a fraction of the loss (our default). `calibrated`: coordinates
 * and bits chosen from activations.
 */
export type CachePreset = 'paper' | 'tuned' | 'calibrated';

/** Presets that can be asked for, the default first, with their description for help texts. */
export const PRESETS: Readonly<Partial<Record<CachePreset, string>>> = {
  tuned: 'default',
  paper: 'to the letter',
  calibrated: 'learned bases',
};

/** Forms of what XQuant stores: X itself, its projection on singular vectors of Wk and Wv, or calibrated coordinates. */
export const CACHE_FORMS = ['x', 'latent', 'calibrated'] as const;
/** A form of {@link CACHE_FORMS}. */
export type CacheForm = (typeof CACHE_FORMS)[number];

/** Spaces in which the cross-layer difference can be taken (XQuant §3.2 and our `normalized`). */
export const DELTA_SPACES = ['x', 'normalized', 'stream'] as const;
/** A space of {@link DELTA_SPACES}. */
export type DeltaSpace = (typeof DELTA_SPACES)[number];

/** Ways to keep the cross-layer accumulator during a forward pass. */
export const ACCUMULATOR_POLICIES = ['f32', 'int8', 'recompute'] as const;
/** A policy of {@link ACCUMULATOR_POLICIES}. */
export type AccumulatorPolicy = (typeof ACCUMULATOR_POLICIES)[number];

/** Largest count an option may be: sizes are computed, and memory is reserved, from these numbers. */
const COUNT_LIMIT = 2 ** 16;

/** Tokens of a block unless asked otherwise: the paper's group size. */
const DEFAULT_BLOCK = 128;

/** The values of an option. */
export interface OptionValues<T> {
  /** In words, for messages: `"rotation" must be ${allowed}`. */
  readonly allowed: string;
  /** The names of a choice; a mistyped one is compared with them. */
  readonly names?: readonly string[];
  /** The value of a text; `undefined` if it has none. */
  parse(text: string): T | undefined;
  /** Whether a value of any type is one of them. */
  accepts(value: unknown): value is T;
}

/** The inputs of a default: the request, the model, and the options of the rows above. */
export interface OptionsAbove {
  readonly variant: CacheVariant;
  readonly shape: CacheModelShape;
  readonly bits: number;
  readonly form: CacheForm;
  readonly groupSize: number;
  readonly grouping: Grouping;
  readonly keyGrouping: Grouping;
  readonly valueGrouping: Grouping;
  readonly residualWindow: number;
}

/** One option. */
export interface OptionRow<T> {
  /** Its name in a cache argument, if that is not its key. */
  readonly name?: string;
  /** An earlier name, still read in cache arguments and snapshots. */
  readonly formerly?: string;
  readonly values: OptionValues<T>;
  /** Variants that know the option; the others ignore it. */
  readonly variants: readonly CacheVariant[];
  readonly default: T | ((above: OptionsAbove) => T);
  /** Defaults under a preset, where they differ. */
  readonly presets?: Readonly<Partial<Record<CachePreset, T | ((above: OptionsAbove) => T)>>>;
  /** The value in snapshots that are older than the option. */
  readonly absent?: T;
}

/** The table. Rows are resolved from top to bottom. */
const OPTIONS = {
  /** Bits of a code (of a delta, in `xquant-cl`); with form `calibrated` the average an element of K and V takes. */
  bits: row({ values: bitsOrAverage(), variants: [...KEY_VALUE, ...XQUANT], default: 4 }),
  /** The form in which XQuant stores a layer input. */
  form: row({
    values: choice(CACHE_FORMS),
    variants: XQUANT,
    default: defaultForm,
    presets: { calibrated: 'calibrated' },
  }),
  /** Elements that share a scale. 128 in the paper. */
  groupSize: row({ name: 'group', values: count(1), variants: UNIFORM, default: DEFAULT_BLOCK }),
  /** Grouping of X or of deltas. */
  grouping: row({ values: choice(GROUPINGS), variants: XQUANT, default: 'perToken' }),
  /** Grouping of keys (`kivi`) or key latents. */
  keyGrouping: row({
    values: choice(GROUPINGS),
    variants: UNIFORM,
    default: 'perChannel',
    presets: { tuned: 'perToken' },
  }),
  /** Grouping of values (`kivi`) or value latents. */
  valueGrouping: row({ values: choice(GROUPINGS), variants: UNIFORM, default: 'perToken' }),
  /** Tokens of a block: kept in f16 until the block is complete, then sealed. */
  residualWindow: row({ name: 'window', values: count(1), variants: CACHE_VARIANTS, default: defaultBlock }),
  /** This many first positions of a sequence stay in f16, outside the statistic of every group. */
  sinks: row({
    formerly: 'sink',
    values: count(0),
    variants: [...KEY_VALUE, ...XQUANT],
    default: 0,
    presets: { tuned: sinksUpTo(1), calibrated: sinksUpTo(4) },
    absent: 0,
  }),
  /** How the range of a group is chosen. */
  range: row({
    values: choice(RANGE_RULES),
    variants: UNIFORM,
    default: 'minmax',
    presets: { tuned: 'mse' },
  }),
  /** Rotation of the rows before they are quantized. */
  rotation: row({
    values: choice(ROTATIONS),
    variants: XQUANT,
    default: 'none',
    presets: { tuned: 'hadamard' },
  }),
  /** Bits of keys or key latents, where they are stored apart. */
  keyBits: row({ values: choice(BITS), variants: ['kivi', 'xquant'], default: codeBits }),
  /** Bits of values or value latents, where they are stored apart. */
  valueBits: row({ values: choice(BITS), variants: ['kivi', 'xquant'], default: codeBits }),
  /** Whether channel 0 of the key latents stays in f16 (XQuant App. B). */
  outlierChannel: row({
    name: 'outlier',
    values: choice(['quantized', 'f16']),
    variants: ['xquant'],
    default: 'quantized',
  }),
  /** Space in which the cross-layer difference is taken. */
  deltaSpace: row({
    values: choice(DELTA_SPACES),
    variants: ['xquant-cl'],
    default: 'x',
    presets: { tuned: 'normalized' },
  }),
  /** How the cross-layer accumulator is kept during a forward pass. */
  accumulator: row({ values: choice(ACCUMULATOR_POLICIES), variants: ['xquant-cl'], default: 'f32' }),
  /** Layers stored without a difference; the last of them starts the accumulator. */
  baseLayers: row({
    values: count(1),
    variants: ['xquant-cl'],
    default: ({ shape }) => Math.min(3, shape.numHiddenLayers),
  }),
  /** Bits of the base layers. */
  baseBits: row({ values: choice(BITS), variants: ['xquant-cl'], default: 4 }),
  /** Tensor that the base layer of the latent cross-layer form stores: X in full width, or its latent. */
  baseStore: row({ values: choice(['x', 'latent']), variants: ['xquant-cl'], default: 'x' }),
  /** This many first layers get `firstBits` (the paper's Table 4). */
  firstLayers: row({ values: count(0), variants: ['kivi', 'xquant'], default: 0 }),
  /** Bits of the first layers. */
  firstBits: row({ values: choice(BITS), variants: ['kivi', 'xquant'], default: 4 }),
  /** This many last layers get `lastBits`. */
  lastLayers: row({ values: count(0), variants: ['kivi', 'xquant'], default: 0 }),
  /** Bits of the last layers. */
  lastBits: row({ values: choice(BITS), variants: ['kivi', 'xquant'], default: 4 }),
  /** Layers below that a calibrated cache predicts a layer from. */
  predict: row({
    values: count(0, 2),
    variants: ['xquant-cl'],
    default: ({ variant, form }) => (variant === 'xquant-cl' && form === 'calibrated' ? 1 : 0),
    absent: 0,
  }),
  /** Scope of a calibrated basis: keys and values of a layer together, each of the two, or each head. */
  basis: row({
    values: choice(['joint', 'tensor', 'head']),
    variants: XQUANT,
    default: 'joint',
    absent: 'joint',
  }),
  /** Fraction of values that `kvquant` keeps exactly: its -1% variant unless asked otherwise, 0 is its dense one. */
  outlierFraction: row({ name: 'outliers', values: fraction(), variants: ['kvquant'], default: 0.01 }),
  /** Whether levels of `kvquant` are read with Q-Norm's correction. */
  qNorm: row({ name: 'qnorm', values: choice(['off', 'on']), variants: ['kvquant'], default: 'off' }),
  /** File of the calibration of `kvquant` or of calibrated caches; empty for the one that is found by itself. */
  calibration: row({ values: path(), variants: ['kvquant', ...XQUANT], default: '' }),
  /** `identity` stores f32 everywhere: for tests, and to see what quantization alone costs. */
  quantizer: row({
    values: choice(['uniform', 'identity']),
    variants: CACHE_VARIANTS,
    default: 'uniform',
  }),
};

/** The key of an option. */
export type OptionKey = keyof typeof OPTIONS;

/** Keys of all options, in the order of the table. */
export const OPTION_KEYS = Object.keys(OPTIONS) as readonly OptionKey[];

type ValueOf<Row> = Row extends OptionRow<infer T> ? T : never;
type OptionsByKey = { readonly [K in OptionKey]: ValueOf<(typeof OPTIONS)[K]> };

/** Every choice of every variant, resolved for one model. A variant ignores what does not concern it. */
export interface CacheOptions extends OptionsByKey {
  readonly variant: CacheVariant;
}

/** Options as a user gives them: everything but the variant may be left out. */
export interface CacheRequest extends Partial<OptionsByKey> {
  readonly variant: CacheVariant;
  readonly preset?: CachePreset;
}

/** The row of an option. */
export function optionRow(key: OptionKey): OptionRow<unknown> {
  return OPTIONS[key] as OptionRow<unknown>;
}

/** The name of an option in a cache argument. */
export function optionName(key: OptionKey): string {
  return optionRow(key).name ?? key;
}

/** Whether some tensor of a cache is quantized along its tokens, so that groups must fit into blocks. */
export function usesPerChannel({
  variant,
  form,
  grouping,
  keyGrouping,
  valueGrouping,
}: OptionsAbove): boolean {
  const groupings: Grouping[] = [];
  if (form === 'calibrated') return true;
  if (variant === 'kivi' || form === 'latent') groupings.push(keyGrouping, valueGrouping);
  if (variant === 'xquant-cl' || (variant === 'xquant' && form === 'x')) groupings.push(grouping);
  return groupings.includes('perChannel');
}

/** Whether differences in latent form are no wider than X (XQuant §3.3.2). */
export function latentDeltasFit({ numKeyValueHeads, headDim, hiddenSize }: CacheModelShape): boolean {
  return 2 * numKeyValueHeads * headDim <= hiddenSize;
}

/** MHA stores X, GQA its latents, unless the latent of a difference would be wider than X (XQuant §3.3). */
function defaultForm({ variant, shape }: OptionsAbove): CacheForm {
  if (!XQUANT.includes(variant) || shape.numAttentionHeads === shape.numKeyValueHeads) return 'x';
  return variant === 'xquant-cl' && !latentDeltasFit(shape) ? 'x' : 'latent';
}

/** A per-channel group is a run of tokens and cannot reach over the end of a block. */
function defaultBlock(above: OptionsAbove): number {
  return usesPerChannel(above) ? Math.max(DEFAULT_BLOCK, above.groupSize) : DEFAULT_BLOCK;
}

/** So many sinks, or all positions of a block but one. */
function sinksUpTo(sinks: number): (above: OptionsAbove) => number {
  return ({ residualWindow }) => Math.min(sinks, residualWindow - 1);
}

/** The bits of the cache, where they are bits of a code. */
function codeBits({ bits }: OptionsAbove): (typeof BITS)[number] {
  return BITS.find((each) => each === bits) ?? 4;
}

function row<T>(
  options: Omit<OptionRow<T>, 'default' | 'presets' | 'absent'> & {
    readonly default: NoInfer<T | ((above: OptionsAbove) => T)>;
    readonly presets?: Readonly<Partial<Record<CachePreset, NoInfer<T | ((above: OptionsAbove) => T)>>>>;
    readonly absent?: NoInfer<T>;
  },
): OptionRow<T> {
  return options;
}

function choice<const T extends string | number>(values: readonly T[]): OptionValues<T> {
  const names = values.map(String);
  const allowed = typeof values[0] === 'string' ? names.join(' or ') : `one of ${names.join(', ')}`;
  return {
    allowed,
    names,
    parse: (text) => values[names.indexOf(text)],
    accepts: (value): value is T => values.includes(value as T),
  };
}

function count(least: number, most = COUNT_LIMIT): OptionValues<number> {
  const accepts = (value: unknown): value is number =>
    Number.isInteger(value) && (value as number) >= least && (value as number) <= most;
  return {
    allowed: `an integer from ${least} to ${most}`,
    parse: (text) => (/^\d{1,9}$/.test(text) && accepts(Number(text)) ? Number(text) : undefined),
    accepts,
  };
}

/** Bits of a code, or an average of them, which is for calibrated caches alone. */
function bitsOrAverage(): OptionValues<number> {
  const accepts = (value: unknown): value is number =>
    typeof value === 'number' && value >= 0.5 && value <= 8;
  return {
    allowed: `${choice(BITS).allowed} (calibrated caches: a number from 0.5 to 8)`,
    parse: (text) => (/^\d(\.\d{1,9})?$/.test(text) && accepts(Number(text)) ? Number(text) : undefined),
    accepts,
  };
}

/** `1%` or `0.01`. */
function fraction(): OptionValues<number> {
  const accepts = (value: unknown): value is number => typeof value === 'number' && value >= 0 && value < 1;
  return {
    allowed: 'a fraction from 0 to below 1, or a percentage',
    parse: (text) => {
      const [, digits, percent] = /^(\d{1,9}(?:\.\d{1,9})?)(%?)$/.exec(text) ?? [];
      const value = percent ? Number(digits) / 100 : Number(digits);
      return accepts(value) ? value : undefined;
    },
    accepts,
  };
}

function path(): OptionValues<string> {
  return {
    allowed: 'the path of a file',
    parse: (text) => text || undefined,
    accepts: (value): value is string => typeof value === 'string',
  };
}
