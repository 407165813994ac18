import type { Matrix } from '../../numerics/matrix.js';
import { dequantizeMatrix, type QuantizedMatrix } from '../../quant/grouped.js';
import type { CaseInputs } from '../case/inputs.js';
import { GROUPED_OPTIONS, type OptionDoc, type TensorDoc } from '../operation.js';

/** Stored rows of keys and values and the matrices that read them. */
export interface StoredSources {
  /** What the key matrix reads. [tokens, inner] */
  readonly keyRows: Matrix;
  readonly valueRows: Matrix;
  /** See {@link termSizes}. [tokens, inner] */
  readonly keyTerms: Matrix;
  readonly valueTerms: Matrix;
  /** The minimum of every value's group. [tokens, inner] */
  readonly keyMinima: Matrix;
  readonly valueMinima: Matrix;
  /** [kvDim, inner] */
  readonly keyWeights: Matrix;
  readonly valueWeights: Matrix;
}

export const FORM: OptionDoc = { name: 'form', values: 'x | latent' };

export const LATENT_OPTIONS: readonly OptionDoc[] = [
  FORM,
  ...GROUPED_OPTIONS,
  { name: 'grouping', values: 'perToken | perChannel (form x)', optional: true },
  { name: 'keyBits', values: 'bits of keys (form latent)', optional: true },
  { name: 'valueBits', values: 'bits of values (form latent)', optional: true },
  { name: 'keyGrouping', values: 'perToken | perChannel (form latent)', optional: true },
  { name: 'valueGrouping', values: 'perToken | perChannel (form latent)', optional: true },
];

export const STORED_INPUTS: readonly TensorDoc[] = [
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
    const minima = minimaOf(stored);
    return {
      keyRows: rows,
      valueRows: rows,
      keyTerms: terms,
      valueTerms: terms,
      keyMinima: minima,
      valueMinima: minima,
      keyWeights,
      valueWeights,
    };
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
    keyMinima: minimaOf(keys),
    valueMinima: minimaOf(values),
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

/** What values of code 0 are. */
function minimaOf(stored: QuantizedMatrix): Matrix {
  return dequantizeMatrix({ ...stored, scales: new Uint16Array(stored.scales.length) });
}
