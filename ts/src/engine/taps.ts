/**
 * The tensors that a pass shows to `onTensor`: those of transformer.ts, read back from linear memory.
 *
 * @module
 */

import { derivedSizes } from '../model/config.js';
import type { TappedTensor } from '../model/language-model.js';
import { concatRows, type Matrix, matrix } from '../numerics/matrix.js';
import { recordFinishRows } from './calls.js';
import type { Pointer } from './kernels.js';
import type { LayerStep, PassContext } from './pass-context.js';

/** Shows a tensor of the pass's rows, as it is after everything recorded so far. Nothing if nobody looks. */
export async function tap(
  context: PassContext,
  { index, caches }: LayerStep,
  tensor: TappedTensor,
  pointer: Pointer,
  columns: number,
): Promise<void> {
  const { onTensor } = context.options;
  if (!onTensor) return;
  await context.team.run();
  onTensor({ layer: index, tensor, value: readRows(context, pointer, columns), cache: caches[0] });
}

/**
 * Shows keys (before RoPE) and values of the whole sequence as the pass attends to them: those stored before it, and
 * its own exact ones; or all as stored, once it has stored its own.
 */
export async function tapKeysAndValues(context: PassContext, step: LayerStep): Promise<void> {
  const { onTensor } = context.options;
  if (!onTensor) return;
  await context.team.run();
  const { index, caches } = step;
  const { kvDim } = derivedSizes(context.model.config);
  let { keys, values } = caches[0].keysAndValues();
  if (context.options.mode !== 'teacherForced') {
    const own = exactKeysAndValues(context, step);
    keys = concatRows([keys, own.keys], kvDim);
    values = concatRows([values, own.values], kvDim);
  }
  onTensor({ layer: index, tensor: 'keys', value: keys, cache: caches[0] });
  onTensor({ layer: index, tensor: 'values', value: values, cache: caches[0] });
}

/** Keys before RoPE and values of the pass's rows. Bias and norm are there only where they are stored as such. */
function exactKeysAndValues(
  context: PassContext,
  { plan, weights }: LayerStep,
): { keys: Matrix; values: Matrix } {
  const { memory, team, model, rows, buffers } = context;
  const { kvDim } = plan;
  if (plan.storesFinished) {
    return { keys: readRows(context, buffers.keys, kvDim), values: readRows(context, buffers.values, kvDim) };
  }
  const bytes = rows * kvDim * 4;
  const copies = memory.allocate(2 * bytes, 'scratch of a pass');
  try {
    team.immediate.call('copyBytes', buffers.keys, copies, bytes);
    team.immediate.call('copyBytes', buffers.values, copies + bytes, bytes);
    recordFinishRows(team.immediate, model.config, weights, copies, copies + bytes, rows);
    return { keys: readRows(context, copies, kvDim), values: readRows(context, copies + bytes, kvDim) };
  } finally {
    memory.free(copies);
  }
}

/** A copy of f32 rows of the pass. */
export function readRows({ memory, rows }: PassContext, pointer: Pointer, columns: number): Matrix {
  return matrix(rows, columns, memory.readFloats(pointer, rows * columns));
}
