/**
 * Errors of numbers that a cache cannot store, from the index that a kernel gives.
 *
 * @module
 */

import { NumericError } from '../../errors.js';
import { symmetricGroups } from '../../quant/symmetric.js';
import { isGrouped, type TensorPlace } from '../block-layout.js';

/** The layer, and which token of the sequence the first row is. */
export interface RowOrigin {
  readonly layer: number;
  readonly token: number;
}

/** The place of an element of some rows. */
export function elementPlace(
  tensor: string,
  element: number,
  columns: number,
  { layer, token }: RowOrigin,
): NumericError['place'] {
  return { layer, tensor, token: token + Math.floor(element / columns), channel: element % columns };
}

/**
 * The error for a group that the quantizer could not store.
 *
 * @param group of the tensor; an element, where it is not quantized
 * @param rows of the tensor
 */
export function groupError(
  { format, name, columns }: TensorPlace,
  group: number,
  rows: number,
  { layer, token: first }: RowOrigin,
): NumericError {
  if (typeof format === 'string') {
    const at = elementPlace(name, group, columns, { layer, token: first });
    return new NumericError('append', Number.NaN, at, 'the value does not fit in f16');
  }
  if (!isGrouped(format)) {
    const { token, channel } = symmetricGroups(rows, format)[group];
    const at = { layer, tensor: name, token: first + token, channel };
    return new NumericError('quantize', Number.NaN, at, 'the scale of the group does not fit in f16');
  }
  const perToken = format.grouping === 'perToken';
  const perRow = perToken ? Math.ceil(columns / format.groupSize) : columns;
  const at = {
    layer,
    tensor: name,
    token: first + Math.floor(group / perRow) * (perToken ? 1 : format.groupSize),
    channel: (group % perRow) * (perToken ? format.groupSize : 1),
  };
  return new NumericError('quantize', Number.NaN, at, 'the range of the group does not fit in f16');
}
