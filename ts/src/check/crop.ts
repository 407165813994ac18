/**
 * The first tokens of a large case: enough to recognize a mistake, few enough to try many.
 *
 * @module
 */

import { groupedSizes } from '../quant/grouped.js';
import type { TensorReport } from './compare.js';
import type { CaseInputs } from './inputs.js';
import { elementCount, type Tensor } from './tensor.js';

/** Elements that diagnoses look at. */
const ENOUGH_ELEMENTS = 2 ** 16;

/** A part of a case, with the count of its tokens if it is not the whole. */
export interface Cropped {
  readonly inputs: CaseInputs;
  readonly tokens?: number;
}

/**
 * Cuts a case of `quantize`, `rotate`, `rope` or `pack` to its first tokens. Other operations are left whole.
 *
 * @param reports of the outputs; if the first mismatch is beyond the part, the case is left whole
 */
export function cropCase(inputs: CaseInputs, reports: readonly TensorReport[]): Cropped {
  const { operation } = inputs.case;
  const source = operation === 'pack' ? 'codes' : 'x';
  const tensor = inputs.case.tensors.get(source);
  if (!['quantize', 'rotate', 'rope', 'pack'].includes(operation) || tensor?.shape.length !== 2)
    return { inputs };
  const [tokens, channels] = tensor.shape;
  // Whole groups of tokens, so that groups per channel are cut between groups.
  const unit = operation === 'quantize' ? inputs.count('groupSize', 128) : 1;
  const kept = Math.max(2 * unit, Math.ceil(ENOUGH_ELEMENTS / channels / unit) * unit);
  if (kept >= tokens) return { inputs };
  const firsts = reports
    .filter((report) => report.verdict === 'fail')
    .map(({ mismatches: [first] }) => first?.place.token ?? first?.place.group ?? Number.POSITIVE_INFINITY);
  if (Math.min(...firsts) >= kept) return { inputs };

  const parts: Record<string, Tensor> = {};
  for (const [name, whole] of inputs.case.tensors) {
    const rows = leadingRows(name, whole, inputs, kept, channels);
    if (rows !== undefined) parts[name] = rows;
  }
  return { inputs: inputs.with({ tensors: parts }), tokens: kept };
}

function leadingRows(
  name: string,
  whole: Tensor,
  inputs: CaseInputs,
  kept: number,
  channels: number,
): Tensor | undefined {
  const elementBytes = whole.bytes.length / Math.max(1, elementCount(whole.shape));
  const leading = (count: number): Tensor => ({
    dtype: whole.dtype,
    shape: [count],
    bytes: whole.bytes.subarray(0, count * elementBytes),
  });
  if (inputs.case.operation === 'quantize') {
    const sizes = groupedSizes(kept, channels, inputs.grouped());
    if (name === 'packed') return leading(sizes.packedBytes / elementBytes);
    if (name === 'scales' || name === 'mins') return leading(sizes.groups);
  }
  if (whole.shape.length !== 2) return undefined;
  const [, columns] = whole.shape;
  return { ...leading(kept * columns), shape: [kept, columns] };
}
