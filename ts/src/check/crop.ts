/**
 * Some tokens of a large case, from where it goes wrong: enough to recognize a mistake, few enough to try many.
 *
 * @module
 */

import { type GroupedFormat, groupedSizes } from '../quant/grouped.js';
import type { CaseInputs } from './case/inputs.js';
import { elementCount, type Tensor } from './case/tensor.js';
import type { TensorReport } from './compare/compare.js';

/** Elements that diagnoses look at. */
const ENOUGH_ELEMENTS = 2 ** 16;

/** Tokens `[from, to)` of a case of `of` tokens. */
export interface TokenRange {
  readonly from: number;
  readonly to: number;
  readonly of: number;
}

/** A part of a case, with its tokens if it is not the whole. */
export interface Cropped {
  readonly inputs: CaseInputs;
  readonly tokens?: TokenRange;
}

/**
 * Cuts a case to tokens from its first mismatch on. Operations whose tokens depend on each other are left whole.
 *
 * @param reports of the outputs
 */
export function cropCase(inputs: CaseInputs, reports: readonly TensorReport[]): Cropped {
  const size = sizeOf(inputs);
  if (!size) return { inputs };
  const { tokens, channels, unit } = size;
  const kept = Math.max(2 * unit, Math.ceil(ENOUGH_ELEMENTS / channels / unit) * unit);
  if (kept >= tokens) return { inputs };
  const firsts = reports
    .filter((report) => report.verdict === 'fail')
    .map(({ mismatches: [first] }) => first?.place.token ?? first?.place.group ?? Number.POSITIVE_INFINITY);
  const first = Math.min(...firsts);
  // A case that goes wrong from the start is cut at the start, where positions and groups are counted from.
  const from = first < kept ? 0 : Math.floor(first / unit) * unit;
  if (from >= tokens) return { inputs };
  const range = { from, to: Math.min(from + kept, tokens), of: tokens };

  const parts: Record<string, Tensor> = {};
  for (const [name, whole] of inputs.case.tensors) {
    const part = someTokens(name, whole, inputs, range);
    if (part) parts[name] = part;
  }
  const options: Record<string, number> = {};
  if (inputs.case.options.tokens !== undefined) options.tokens = range.to - from;
  if (inputs.case.operation === 'rope') options.firstPosition = inputs.number('firstPosition', 0) + from;
  return { inputs: inputs.with({ tensors: parts, options }), tokens: range };
}

/** Tokens of a case that can be cut, its channels, and of how many tokens cuts are a multiple. */
function sizeOf(inputs: CaseInputs): { tokens: number; channels: number; unit: number } | undefined {
  const { operation, tensors } = inputs.case;
  // Whole groups of tokens, so that groups per channel are cut between groups.
  const groupSize = inputs.case.options.groupSize ?? 128;
  const unit = typeof groupSize === 'number' ? groupSize : 128;
  const shapeOf = (name: string) => tensors.get(name)?.shape ?? [];
  switch (operation) {
    case 'quantize': {
      const [tokens, channels] = shapeOf('x');
      return { tokens, channels, unit };
    }
    case 'rotate':
    case 'rope': {
      const [tokens, channels] = shapeOf('x');
      return { tokens, channels, unit: 1 };
    }
    case 'pack': {
      const [tokens, channels] = shapeOf('codes');
      return { tokens, channels, unit: 1 };
    }
    case 'rematerialize': {
      const [tokens, channels] = tensors.has('keys') ? shapeOf('keys') : shapeOf('values');
      // A product costs as many multiplications as it has inputs: look at fewer.
      return { tokens, channels: channels * 16, unit };
    }
    default:
      return undefined;
  }
}

function someTokens(
  name: string,
  whole: Tensor,
  inputs: CaseInputs,
  { from, to, of }: TokenRange,
): Tensor | undefined {
  const elementBytes = whole.bytes.length / Math.max(1, elementCount(whole.shape));
  const part = (start: number, end: number, shape?: readonly number[]): Tensor => ({
    dtype: whole.dtype,
    shape: shape ?? [end - start],
    bytes: whole.bytes.subarray(start * elementBytes, end * elementBytes),
  });
  const [, prefix, kind] = /^(key_|value_|)(packed|scales|mins)$/.exec(name) ?? [];
  if (kind && inputs.case.operation !== 'pack') {
    // Both groupings store whole blocks of tokens one after the other.
    const sizes = (rows: number) =>
      groupedSizes(rows, storedColumns(inputs, prefix), storedFormat(inputs, prefix));
    const offset = (rows: number) =>
      kind === 'packed' ? sizes(rows).packedBytes / elementBytes : sizes(rows).groups;
    return part(offset(from), offset(to));
  }
  // Weights have sizes of their own, and one of them may be the number of tokens.
  if (whole.shape.length !== 2 || whole.shape[0] !== of || /^(w|up)_/.test(name)) return undefined;
  const columns = whole.shape[1];
  return part(from * columns, to * columns, [to - from, columns]);
}

function storedColumns(inputs: CaseInputs, prefix: string): number {
  if (inputs.case.operation === 'quantize') return inputs.tensor('x').shape[1];
  const weights = prefix === '' ? 'w_k' : prefix === 'key_' ? 'up_k' : 'up_v';
  return inputs.tensor(weights).shape[1];
}

function storedFormat(inputs: CaseInputs, prefix: string): GroupedFormat {
  if (prefix === '') return inputs.grouped();
  const bits = `${prefix.slice(0, -1)}Bits`;
  const given = inputs.case.options[bits] === undefined ? 'bits' : bits;
  return inputs.grouped(prefix === 'key_' ? 'keyGrouping' : 'valueGrouping', given);
}
