/**
 * The operations of the caches: rematerialize, cl-encode, cl-decode, attend.
 *
 * In all of them the rotation is already folded into the weights that are given, as a cache folds it once
 * when it is made (docs/numerics.md "The rotation").
 *
 * @module
 */

import { ConfigError, ShapeError, XQuantError } from '../errors.js';
import { causalAttention } from '../model/attention.js';
import { applyRope } from '../model/rope.js';
import { rotateRows } from '../numerics/hadamard.js';
import { add, linear, type Matrix, matrix, subtract, transpose } from '../numerics/matrix.js';
import {
  dequantizeMatrix,
  type GroupedOptions,
  type QuantizedMatrix,
  quantizeMatrix,
} from '../quant/grouped.js';
import { type AdoptedMatrix, adoptDecisions } from './adopt.js';
import type { Expected } from './compare.js';
import type { CaseInputs } from './inputs.js';
import { GROUPED_OPTIONS, type Operation, type OptionDoc, type TensorDoc } from './operation.js';
import { perturbedInputs } from './perturb.js';
import { expectedRows, expectedStored, ropeOptions } from './storage-operations.js';
import { F32_ROUNDOFF, productBound, rowNorms, spreadBound } from './tolerance.js';

/** Stored rows of keys and values and the matrices that read them. */
export interface StoredSources {
  /** What the key matrix reads. [tokens, inner] */
  readonly keyRows: Matrix;
  readonly valueRows: Matrix;
  /** See {@link termSizes}. [tokens, inner] */
  readonly keyTerms: Matrix;
  readonly valueTerms: Matrix;
  /** [kvDim, inner] */
  readonly keyWeights: Matrix;
  readonly valueWeights: Matrix;
}

const FORM: OptionDoc = { name: 'form', values: 'x | latent' };

const LATENT_OPTIONS: readonly OptionDoc[] = [
  FORM,
  ...GROUPED_OPTIONS,
  { name: 'grouping', values: 'perToken | perChannel (form x)', optional: true },
  { name: 'keyBits', values: 'bits of keys (form latent)', optional: true },
  { name: 'valueBits', values: 'bits of values (form latent)', optional: true },
  { name: 'keyGrouping', values: 'perToken | perChannel (form latent)', optional: true },
  { name: 'valueGrouping', values: 'perToken | perChannel (form latent)', optional: true },
];

const STORED_INPUTS: readonly TensorDoc[] = [
  ...['', 'key_', 'value_'].flatMap((prefix): TensorDoc[] => {
    const when = prefix === '' ? 'form x' : 'form latent';
    return [
      { name: `${prefix}packed`, role: 'input', dtype: 'U8', shape: '[bytes]', when },
      {
        name: `${prefix}scales`,
        role: 'input',
        dtype: 'F16',
        shape: '[tokens, groups] or [blocks, channels]',
        when,
      },
      { name: `${prefix}mins`, role: 'input', dtype: 'F16', shape: 'as scales', when },
    ];
  }),
  { name: 'w_k', role: 'input', dtype: 'F32', shape: '[kvDim, hiddenSize]', when: 'form x' },
  { name: 'w_v', role: 'input', dtype: 'F32', shape: '[kvDim, hiddenSize]', when: 'form x' },
  { name: 'up_k', role: 'input', dtype: 'F32', shape: '[kvDim, latentRank]', when: 'form latent' },
  { name: 'up_v', role: 'input', dtype: 'F32', shape: '[kvDim, latentRank]', when: 'form latent' },
];

/** Reads what `rematerialize` and `attend` store. */
export function storedSources(inputs: CaseInputs): StoredSources {
  const form = inputs.word('form', ['x', 'latent']);
  if (form === 'x') {
    const keyWeights = inputs.matrix('w_k', 'kvDim', 'hiddenSize');
    const valueWeights = inputs.matrix('w_v', 'kvDim', 'hiddenSize');
    const stored = inputs.quantized('', keyWeights.columns, inputs.grouped());
    const rows = dequantizeMatrix(stored);
    const terms = termSizes(stored);
    return { keyRows: rows, valueRows: rows, keyTerms: terms, valueTerms: terms, keyWeights, valueWeights };
  }
  const keyWeights = inputs.matrix('up_k', 'kvDim', 'latentRank');
  const valueWeights = inputs.matrix('up_v', 'kvDim', 'latentRank');
  const bits = (name: string) => (inputs.case.options[name] === undefined ? 'bits' : name);
  const keyFormat = inputs.grouped('keyGrouping', bits('keyBits'));
  const valueFormat = inputs.grouped('valueGrouping', bits('valueBits'));
  const keys = inputs.quantized('key_', keyWeights.columns, keyFormat);
  const values = inputs.quantized('value_', valueWeights.columns, valueFormat);
  return {
    keyRows: dequantizeMatrix(keys),
    valueRows: dequantizeMatrix(values),
    keyTerms: termSizes(keys),
    valueTerms: termSizes(values),
    keyWeights,
    valueWeights,
  };
}

/**
 * Sizes of the terms that a kernel sums which multiplies codes and adds the minima afterwards (docs/numerics.md "Products"):
 * `|code * scale| + |min|`, at least as large as the value. Its error grows with these.
 */
function termSizes(stored: QuantizedMatrix): Matrix {
  return dequantizeMatrix({ ...stored, mins: stored.mins.map((bits) => bits & 0x7fff) });
}

const rematerialize: Operation = {
  name: 'rematerialize',
  summary: 'keys (before RoPE) and values from stored codes',
  specification: 'docs/numerics.md "Products"',
  options: LATENT_OPTIONS,
  tensors: [
    ...STORED_INPUTS,
    { name: 'keys', role: 'output', dtype: 'F32', shape: '[tokens, kvDim]', comparison: 'bound' },
    { name: 'values', role: 'output', dtype: 'F32', shape: '[tokens, kvDim]', comparison: 'bound' },
  ],
  run(inputs) {
    const { keyRows, valueRows, keyTerms, valueTerms, keyWeights, valueWeights } = storedSources(inputs);
    return {
      keys: expectedRows(linear(keyRows, keyWeights), productBound(keyTerms, keyWeights)),
      values: expectedRows(linear(valueRows, valueWeights), productBound(valueTerms, valueWeights)),
    };
  },
};

const encode: Operation = {
  name: 'cl-encode',
  summary: 'XQuant-CL over layers: the base layer, then quantized differences against the reconstruction',
  specification: 'docs/numerics.md "The accumulator"',
  options: [
    FORM,
    ...GROUPED_OPTIONS,
    { name: 'baseBits', values: 'bits of layer 0' },
    { name: 'grouping', values: 'perToken | perChannel', optional: true },
  ],
  tensors: [
    { name: 'x', role: 'input', dtype: 'F32', shape: '[layers, tokens, hiddenSize]' },
    {
      name: 'down',
      role: 'input',
      dtype: 'F32',
      shape: '[layers, rank, hiddenSize]',
      when: 'form latent; layer 0 is not used',
    },
    { name: 'packed_<layer>', role: 'output', dtype: 'U8', shape: '[bytes]', comparison: 'exact' },
    {
      name: 'scales_<layer>',
      role: 'output',
      dtype: 'F16',
      shape: '[tokens, groups] or [blocks, channels]',
      comparison: 'exact',
    },
    { name: 'mins_<layer>', role: 'output', dtype: 'F16', shape: 'as scales', comparison: 'exact' },
    {
      name: 'accumulator',
      role: 'output',
      dtype: 'F32',
      shape: '[layers, tokens, hiddenSize]',
      comparison: 'bound',
    },
  ],
  run(inputs) {
    const { layers, formats, downs } = crossLayerInputs(inputs);
    const outputs: Record<string, Expected> = {};
    const sums: Matrix[] = [];
    const bounds: ((index: number) => number)[] = [];
    for (const [layer, x] of layers.entries()) {
      const below = sums.at(-1);
      const difference = below ? subtract(x, below) : x;
      const down = layer === 0 ? undefined : downs?.[layer]; // the base is stored in full width
      const source = down ? linear(difference, down) : difference;
      const noise = down ? productBound(difference, down) : undefined;
      const own = quantizeMatrix(source, formats(layer), { layer, tensor: 'delta' });
      const adopted = noise && adoptDumped(inputs, layer, own, source, noise, formats(layer));
      const quantized = adopted?.quantized ?? own;
      const { packed, scales, mins } = expectedStored(quantized, source, noise);
      outputs[`packed_${layer}`] = { ...packed, notes: adoptionNotes(adopted?.codes, 'codes') };
      outputs[`scales_${layer}`] = { ...scales, notes: adoptionNotes(adopted?.parameters, 'groups') };
      outputs[`mins_${layer}`] = mins;
      addIncrement(sums, bounds, quantized, down);
    }
    outputs.accumulator = expectedAccumulator(sums, bounds);
    return outputs;
  },
};

/** What the dump decided otherwise where rounding of the latents allows it; nothing if it lacks the layer. */
function adoptDumped(
  inputs: CaseInputs,
  layer: number,
  own: QuantizedMatrix,
  source: Matrix,
  noise: (index: number) => number,
  format: GroupedOptions,
): AdoptedMatrix | undefined {
  if (!['packed', 'scales', 'mins'].every((name) => inputs.has(`${name}_${layer}`))) return undefined;
  const dumped = inputs.with({ options: { tokens: own.rows } });
  try {
    return adoptDecisions(own, source, noise, dumped.quantized('', own.columns, format, `_${layer}`), format);
  } catch (error) {
    // Tensors of another size or with NaN are a mismatch, which the comparison reports.
    if (error instanceof XQuantError) return undefined;
    throw error;
  }
}

function adoptionNotes(count: number | undefined, what: string): string[] | undefined {
  if (!count) return undefined;
  return [
    `${count} ${what} are stored otherwise than by the reference, within the error of the product: as right`,
  ];
}

const decode: Operation = {
  name: 'cl-decode',
  summary: 'the sum of base and differences after every layer',
  specification: 'docs/numerics.md "The accumulator"',
  options: encode.options,
  tensors: [
    { name: 'packed_<layer>', role: 'input', dtype: 'U8', shape: '[bytes]' },
    { name: 'scales_<layer>', role: 'input', dtype: 'F16', shape: '[tokens, groups] or [blocks, channels]' },
    { name: 'mins_<layer>', role: 'input', dtype: 'F16', shape: 'as scales' },
    {
      name: 'down',
      role: 'input',
      dtype: 'F32',
      shape: '[layers, rank, hiddenSize]',
      when: 'form latent; layer 0 is not used',
    },
    {
      name: 'accumulator',
      role: 'output',
      dtype: 'F32',
      shape: '[layers, tokens, hiddenSize]',
      comparison: 'bound',
    },
  ],
  run(inputs) {
    const { sums, bounds } = decodeLayers(inputs);
    return { accumulator: expectedAccumulator(sums, bounds) };
  },
};

/** The sums after every layer, from stored tensors. */
export function decodeLayers(inputs: CaseInputs): {
  sums: Matrix[];
  bounds: ((index: number) => number)[];
  increments: Matrix[];
} {
  const downs = inputs.word('form', ['x', 'latent']) === 'latent' ? inputs.stack('down') : undefined;
  const sums: Matrix[] = [];
  const bounds: ((index: number) => number)[] = [];
  const increments: Matrix[] = [];
  for (let layer = 0; inputs.has(`packed_${layer}`); layer++) {
    const down = layer === 0 ? undefined : downs?.[layer]; // the base is stored in full width
    const columns = down
      ? down.rows
      : inputs.count('hiddenSize', downs?.[0].columns ?? crossLayerWidth(inputs));
    const format = inputs.grouped('grouping', layer === 0 ? 'baseBits' : 'bits');
    const quantized = inputs.quantized('', columns, format, `_${layer}`);
    addIncrement(sums, bounds, quantized, down);
    increments.push(
      down ? linear(dequantizeMatrix(quantized), transpose(down)) : dequantizeMatrix(quantized),
    );
  }
  if (sums.length === 0) throw new ShapeError('cl-decode', 'packed_0', ['bytes'], []);
  return { sums, bounds, increments };
}

/** Channels of a cross-layer case without projections: the accumulator or the shape of the parameters says it. */
function crossLayerWidth(inputs: CaseInputs): number | undefined {
  const accumulator = inputs.case.tensors.get('accumulator');
  if (accumulator) return accumulator.shape.at(-1);
  return inputs.grouping() === 'perChannel' ? inputs.tensor('scales_0').shape.at(-1) : undefined;
}

/** Inputs of `cl-encode`, in the rotated space. */
export function crossLayerInputs(inputs: CaseInputs): {
  layers: Matrix[];
  formats: (layer: number) => GroupedOptions;
  downs: Matrix[] | undefined;
} {
  const layers = inputs.stack('x').map((x) => rotateRows(x, inputs.rotation()));
  const downs = inputs.word('form', ['x', 'latent']) === 'latent' ? inputs.stack('down') : undefined;
  if (downs && downs.length !== layers.length) {
    throw new ShapeError('cl-encode', 'down', [layers.length, 'rank', 'hiddenSize'], [downs.length]);
  }
  const base = inputs.grouped('grouping', 'baseBits');
  const delta = inputs.grouped();
  return { layers, formats: (layer) => (layer === 0 ? base : delta), downs };
}

function addIncrement(
  sums: Matrix[],
  bounds: ((index: number) => number)[],
  quantized: QuantizedMatrix,
  down: Matrix | undefined,
): void {
  const stored = dequantizeMatrix(quantized);
  const back = down && transpose(down);
  const increment = back ? linear(stored, back) : stored;
  const below = sums.at(-1);
  const belowBound = bounds.at(-1);
  const sum = below ? add(below, increment) : increment;
  sums.push(sum);
  if (!back) {
    bounds.push(() => 0); // one addition of exact numbers, rounded once: the same bits everywhere
    return;
  }
  const product = productBound(stored, back);
  bounds.push(
    (index) => (belowBound?.(index) ?? 0) + product(index) + 2 * F32_ROUNDOFF * Math.abs(sum.data[index]),
  );
}

function expectedAccumulator(
  sums: readonly Matrix[],
  bounds: readonly ((index: number) => number)[],
): Expected {
  const [{ rows, columns }] = sums;
  const size = rows * columns;
  const values = new Float32Array(sums.length * size);
  sums.forEach((sum, layer) => {
    values.set(sum.data, layer * size);
  });
  const exact = bounds.every((bound) => bound(0) === 0);
  return {
    dtype: 'F32',
    values,
    shape: [sums.length, rows, columns],
    dimensions: ['layer', 'token', 'channel'],
    bound: exact ? undefined : (index) => bounds[Math.floor(index / size)](index % size),
  };
}

const attend: Operation = {
  name: 'attend',
  summary: 'one decode step of attention over stored tokens, RoPE included',
  specification: 'docs/numerics.md "Attention"',
  options: [
    ...LATENT_OPTIONS,
    { name: 'heads', values: 'query heads' },
    { name: 'kvHeads', values: 'key and value heads' },
    { name: 'headDim', values: 'channels of a head' },
    { name: 'layout', values: 'half | interleaved' },
    { name: 'theta', values: 'base of the frequencies' },
    { name: 'position', values: 'position of the query; stored tokens stand at 0, 1, ...' },
  ],
  tensors: [
    { name: 'query', role: 'input', dtype: 'F32', shape: '[heads, headDim], before RoPE' },
    ...STORED_INPUTS,
    { name: 'output', role: 'output', dtype: 'F32', shape: '[heads, headDim]', comparison: 'bound' },
  ],
  run(inputs) {
    const sources = storedSources(inputs);
    const baseline = attendOnce(inputs, sources);
    // A weight matrix is summed over its columns, with terms that may be larger than the values they make
    // up; the average over tokens adds a sum of that length.
    const keySum = sources.keyWeights.columns * termRatio(sources.keyRows, sources.keyTerms);
    const valueSum =
      sources.valueWeights.columns * termRatio(sources.valueRows, sources.valueTerms) + sources.keyRows.rows;
    const terms = { w_k: keySum, up_k: keySum, w_v: valueSum, up_v: valueSum };
    const perturbed = perturbedInputs(inputs, ['query', 'w_k', 'w_v', 'up_k', 'up_v'], terms).map(
      (other) => attendOnce(other).data,
    );
    const { columns: headDim } = inputs.matrix('query', 'head', 'channel');
    return {
      output: {
        dtype: 'F32',
        values: baseline.data,
        shape: [baseline.data.length / headDim, headDim],
        dimensions: ['head', 'channel'],
        bound: spreadBound(baseline.data, perturbed, headDim),
      },
    };
  },
  runOnce: (inputs) => ({ output: attendOnce(inputs).data }),
};

/** Attention of one query over all stored tokens. @returns [1, heads * headDim] */
export function attendOnce(inputs: CaseInputs, sources: StoredSources = storedSources(inputs)): Matrix {
  const { layout, headDim, frequencies } = ropeOptions(inputs);
  const heads = inputs.count('heads');
  const kvHeads = inputs.count('kvHeads', heads);
  const given = inputs.matrixOf('query', heads, headDim);
  const { keyRows, valueRows, keyWeights, valueWeights } = sources;
  if (keyWeights.rows !== kvHeads * headDim) {
    throw new ConfigError(
      'kvHeads * headDim',
      kvHeads * headDim,
      `the rows of the key matrix, ${keyWeights.rows}`,
    );
  }
  const query = matrix(1, heads * headDim, given.data);
  const keys = linear(keyRows, keyWeights);
  return causalAttention(
    applyRope(query, inputs.number('position'), frequencies, layout),
    applyRope(keys, 0, frequencies, layout),
    linear(valueRows, valueWeights),
    headDim,
  );
}

/** How much longer the rows of terms are than the rows of values, at most. */
function termRatio(rows: Matrix, terms: Matrix): number {
  const lengths = rowNorms(rows);
  return rowNorms(terms).reduce(
    (largest, length, t) => Math.max(largest, lengths[t] > 0 ? length / lengths[t] : 1),
    1,
  );
}

/** Operations of the caches. */
export const CACHE_OPERATIONS: readonly Operation[] = [rematerialize, encode, decode, attend];
