/**
 * Fresh cases for any shape: heavy-tailed random inputs and what the reference makes of them.
 *
 * Inputs look like activations do and not like noise: a Student t distribution with four degrees of freedom,
 * a size of its own for every channel, and one channel in 64 that is 20 times as large. Gaussian noise hides
 * half of the mistakes of check/mistakes/.
 *
 * @module
 */

import { ConfigError } from '../errors.js';
import { toFloat16Bits } from '../numerics/float16.js';
import { Random } from '../sampling.js';
import { CaseInputs, type CheckCase } from './case/inputs.js';
import { type Numbers, type Tensor, tensorOf } from './case/tensor.js';
import type { Expected } from './compare/compare.js';
import type { CheckContext } from './operation.js';
import { findOperation } from './operations/index.js';

/** What to make. */
export interface CaseRequest {
  readonly operation: string;
  /** [tokens, channels]; of `pack` [groups, groupSize], of `svd` [hiddenSize, outDim]. */
  readonly rows: number;
  readonly columns: number;
  /** From 0. The same seed gives the same bytes. */
  readonly seed: number;
  /** Options of the operation; those left out get a default. */
  readonly options?: Readonly<Record<string, unknown>>;
}

/** Layers of a cross-layer case. */
const CROSS_LAYERS = 5;

const STORAGE_DEFAULTS = { bits: 4, groupSize: 128, grouping: 'perToken', range: 'minmax', rotation: 'none' };

/**
 * Makes a case.
 *
 * @throws {ConfigError | RangeError | ShapeError} if the operation is unknown, needs a model, or its options do not fit the shape
 */
export async function makeCase(request: CaseRequest, context: CheckContext): Promise<CheckCase> {
  const { operation, rows, columns, seed } = request;
  const { run } = findOperation(operation);
  const random = new Random(seed);
  const made = MAKERS[operation];
  if (!made) throw new ConfigError('op', operation, `one of ${Object.keys(MAKERS).join(', ')}`);
  const { options, inputs } = await made(rows, columns, random, request.options ?? {}, context);
  const name = `${operation}-${rows}x${columns}-seed${seed}`;
  const source: CheckCase = {
    name,
    operation,
    options: { ...options, seed },
    tensors: new Map(Object.entries(inputs)),
  };
  const expected = await run(new CaseInputs(source), context);
  const tensors = new Map(source.tensors);
  for (const [key, tensor] of Object.entries(expected)) {
    if (!tensor.computed) tensors.set(key, expectedTensor(tensor));
  }
  return { ...source, tensors };
}

/**
 * An expected output as a tensor of its type.
 *
 * @returns fresh
 */
export function expectedTensor({ dtype, values, shape }: Expected): Tensor {
  switch (dtype) {
    case 'F16':
      return tensorOf(Uint16Array.from(values, toFloat16Bits), shape, 'F16');
    case 'U8':
      return tensorOf(Uint8Array.from(values), shape);
    case 'I32':
      return tensorOf(Int32Array.from(values), shape);
    default:
      return tensorOf(Float32Array.from(values), shape);
  }
}

/**
 * Heavy-tailed values with outlier channels.
 *
 * @returns fresh, [rows, columns]
 */
export function heavyTailed(rows: number, columns: number, random: Random): Float32Array {
  const sizes = Float64Array.from({ length: columns }, () => Math.exp(0.5 * gaussian(random)));
  for (let c = Math.floor(random.next() * 64) % columns; c < columns; c += 64) sizes[c] *= 20;
  return Float32Array.from({ length: rows * columns }, (_, i) => studentT(random) * sizes[i % columns]);
}

interface Made {
  readonly options: Readonly<Record<string, unknown>>;
  readonly inputs: Readonly<Record<string, Tensor>>;
}

type Maker = (
  rows: number,
  columns: number,
  random: Random,
  options: Readonly<Record<string, unknown>>,
  context: CheckContext,
) => Made | Promise<Made>;

const MAKERS: Readonly<Record<string, Maker>> = {
  quantize: (rows, columns, random, options) => ({
    options: { ...STORAGE_DEFAULTS, ...options },
    inputs: { x: tensorOf(heavyTailed(rows, columns, random), [rows, columns]) },
  }),
  pack(rows, columns, random, options) {
    const all = { bits: 4, ...options };
    const codes = Uint8Array.from(
      { length: rows * columns },
      () => random.nextUint32() & (2 ** Number(all.bits) - 1),
    );
    return { options: all, inputs: { codes: tensorOf(codes, [rows, columns]) } };
  },
  rotate: (rows, columns, random, options) => ({
    options,
    inputs: { x: tensorOf(heavyTailed(rows, columns, random), [rows, columns]) },
  }),
  rope: (rows, columns, random, options) => ({
    options: { layout: 'half', headDim: headDimOf(columns), theta: 10_000, firstPosition: 0, ...options },
    inputs: { x: tensorOf(heavyTailed(rows, columns, random), [rows, columns]) },
  }),
  svd: (rows, columns, random, options) => ({
    options,
    inputs: { w: weights(rows, columns, random) },
  }),
  rematerialize: storedCase,
  async attend(rows, columns, random, options, context) {
    const { kvDim, kvHeads, headDim } = keyValueSizes(columns, options);
    const heads = Number(options.heads ?? kvHeads);
    if (!Number.isSafeInteger(heads / kvHeads)) {
      throw new ConfigError('heads', heads, `a multiple of the ${kvHeads} key and value heads`);
    }
    const stored = await storedCase(rows, columns, random, { ...options, kvDim }, context);
    const query = Float32Array.from({ length: heads * headDim }, () => gaussian(random));
    return {
      options: { layout: 'half', theta: 10_000, position: rows, ...stored.options, heads, kvHeads, headDim },
      inputs: { ...stored.inputs, query: tensorOf(query, [heads, headDim]) },
    };
  },
  'cl-encode': crossLayerCase,
  async 'cl-decode'(rows, columns, random, options, context) {
    const { options: all, inputs } = await crossLayerCase(rows, columns, random, options);
    const source: CheckCase = {
      name: '',
      operation: 'cl-encode',
      options: all,
      tensors: new Map(Object.entries(inputs)),
    };
    const encoded = await findOperation('cl-encode').run(new CaseInputs(source), context);
    const { x: _, ...weightsOnly } = inputs;
    const stored = Object.entries(encoded).filter(([name]) => name !== 'accumulator');
    return {
      options: all,
      inputs: {
        ...weightsOnly,
        ...Object.fromEntries(stored.map(([name, tensor]) => [name, expectedTensor(tensor)])),
      },
    };
  },
  layer(rows, columns, random, options) {
    const headDim = Number(options.headDim ?? headDimOf(columns));
    const heads = Number(options.heads ?? columns / headDim);
    const kvHeads = Number(options.kvHeads ?? heads);
    const ff = 2 * columns;
    const gain = () => Float32Array.from({ length: columns }, () => Math.exp(0.3 * gaussian(random)));
    return {
      options: {
        cache: 'xquant:4@paper',
        layout: 'half',
        theta: 10_000,
        rmsNormEps: 1e-5,
        ...options,
        heads,
        kvHeads,
        headDim,
      },
      inputs: {
        hidden: tensorOf(heavyTailed(rows, columns, random), [rows, columns]),
        attention_norm: tensorOf(gain(), [columns]),
        mlp_norm: tensorOf(gain(), [columns]),
        w_q: weights(heads * headDim, columns, random),
        w_k: weights(kvHeads * headDim, columns, random),
        w_v: weights(kvHeads * headDim, columns, random),
        w_o: weights(columns, heads * headDim, random),
        w_gate: weights(ff, columns, random),
        w_up: weights(ff, columns, random),
        w_down: weights(columns, ff, random),
      },
    };
  },
};

/** Operations that cases can be made for. */
export const MADE_OPERATIONS: readonly string[] = Object.keys(MAKERS);

/** Stored rows of keys and values with weights of their width. `kvDim` is not an option of the case. */
async function storedCase(
  rows: number,
  columns: number,
  random: Random,
  given: Readonly<Record<string, unknown>>,
  context: CheckContext,
): Promise<Made> {
  const { kvDim: kvDimGiven, ...options } = given;
  const kvDim = Number(kvDimGiven ?? columns);
  const { grouping, ...defaults } = STORAGE_DEFAULTS;
  const latent = options.form === 'latent';
  const all = {
    form: 'x',
    ...defaults,
    ...(latent ? { keyGrouping: 'perChannel', valueGrouping: 'perToken' } : { grouping }),
    ...options,
  } as Record<string, unknown>;
  const store = async (prefix: string, groupingName: string): Promise<Record<string, Tensor>> => {
    const x = tensorOf(heavyTailed(rows, columns, random), [rows, columns]);
    const source: CheckCase = {
      name: '',
      operation: 'quantize',
      options: { ...all, grouping: all[groupingName] },
      tensors: new Map([['x', x]]),
    };
    const stored = await findOperation('quantize').run(new CaseInputs(source), context);
    return Object.fromEntries(
      ['packed', 'scales', 'mins'].map((name) => [`${prefix}${name}`, expectedTensor(stored[name])]),
    );
  };
  const described = { ...all, tokens: rows };
  if (!latent) {
    const inputs = {
      ...(await store('', 'grouping')),
      w_k: weights(kvDim, columns, random),
      w_v: weights(kvDim, columns, random),
    };
    return { options: described, inputs };
  }
  return {
    options: described,
    inputs: {
      ...(await store('key_', 'keyGrouping')),
      ...(await store('value_', 'valueGrouping')),
      up_k: weights(kvDim, columns, random),
      up_v: weights(kvDim, columns, random),
    },
  };
}

/** Inputs of neighbouring layers: each the one below and a little more. */
function crossLayerCase(
  rows: number,
  columns: number,
  random: Random,
  options: Readonly<Record<string, unknown>>,
): Made {
  const all: Record<string, unknown> = {
    form: 'x',
    ...STORAGE_DEFAULTS,
    bits: 2,
    baseBits: 4,
    hiddenSize: columns,
    ...options,
  };
  const size = rows * columns;
  const x = new Float32Array(CROSS_LAYERS * size);
  for (let layer = 0; layer < CROSS_LAYERS; layer++) {
    const step = heavyTailed(rows, columns, random);
    for (let i = 0; i < size; i++) {
      x[layer * size + i] = layer === 0 ? step[i] : x[(layer - 1) * size + i] + 0.1 * step[i];
    }
  }
  const inputs: Record<string, Tensor> = { x: tensorOf(x, [CROSS_LAYERS, rows, columns]) };
  if (all.form === 'latent') {
    const rank = Number(all.rank ?? columns / 2);
    delete all.rank;
    const down = new Float32Array(CROSS_LAYERS * rank * columns);
    for (let layer = 0; layer < CROSS_LAYERS; layer++) {
      down.set(orthonormalRows(rank, columns, random), layer * rank * columns);
    }
    inputs.down = tensorOf(down, [CROSS_LAYERS, rank, columns]);
  }
  return { options: all, inputs };
}

/** Gaussian rows made orthonormal, one after the other (Gram-Schmidt, twice for precision). */
function orthonormalRows(rows: number, columns: number, random: Random): Float64Array {
  if (rows > columns) throw new RangeError(`"rank" must be at most ${columns}, got ${rows}`);
  const q = Float64Array.from({ length: rows * columns }, () => gaussian(random));
  for (let r = 0; r < rows; r++) {
    const line = q.subarray(r * columns, (r + 1) * columns);
    for (let pass = 0; pass < 2; pass++) {
      for (let s = 0; s < r; s++) {
        const other = q.subarray(s * columns, (s + 1) * columns);
        let product = 0;
        for (let c = 0; c < columns; c++) product += line[c] * other[c];
        for (let c = 0; c < columns; c++) line[c] -= product * other[c];
      }
    }
    const length = Math.hypot(...line);
    for (let c = 0; c < columns; c++) line[c] /= length;
  }
  return q;
}

/** Gaussian weights that keep the size of what they multiply. */
function weights(rows: number, columns: number, random: Random): Tensor {
  const scale = 1 / Math.sqrt(columns);
  const values: Numbers = Float32Array.from({ length: rows * columns }, () => gaussian(random) * scale);
  return tensorOf(values, [rows, columns]);
}

/** The widest common head that divides a width. */
/**
 * Sizes of keys and values that agree: `kvDim` = `kvHeads` * `headDim`.
 *
 * @throws {ConfigError} if the given ones do not
 */
function keyValueSizes(
  columns: number,
  { kvDim: dimGiven, kvHeads: headsGiven, headDim: headGiven }: Readonly<Record<string, unknown>>,
): { kvDim: number; kvHeads: number; headDim: number } {
  const kvDim = Number(
    dimGiven ?? (headsGiven && headGiven ? Number(headsGiven) * Number(headGiven) : columns),
  );
  const headDim = Number(headGiven ?? (headsGiven ? kvDim / Number(headsGiven) : headDimOf(kvDim)));
  const kvHeads = Number(headsGiven ?? kvDim / headDim);
  const isWhole = [kvHeads, headDim].every((size) => Number.isSafeInteger(size) && size > 0);
  if (!isWhole || kvHeads * headDim !== kvDim) {
    throw new ConfigError('kvHeads * headDim', `${kvHeads} * ${headDim}`, `kvDim, ${kvDim}`);
  }
  if (headDim % 2 !== 0) throw new ConfigError('headDim', headDim, 'even, since RoPE rotates pairs');
  return { kvDim, kvHeads, headDim };
}

function headDimOf(width: number): number {
  return [64, 32, 128, 16, 8, 4, 2].find((headDim) => width % headDim === 0) ?? width;
}

/** A normal number (Box and Muller). */
function gaussian(random: Random): number {
  return Math.sqrt(-2 * Math.log(1 - random.next())) * Math.cos(2 * Math.PI * random.next());
}

/** Student t with four degrees of freedom. */
function studentT(random: Random): number {
  const chiSquared = -2 * Math.log((1 - random.next()) * (1 - random.next()));
  return gaussian(random) / Math.sqrt(chiSquared / 4);
}
