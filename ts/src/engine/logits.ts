/**
 * The end of a pass: the last norm and the product with the output matrix, for the rows that are wanted.
 *
 * @module
 */

import { pauseForEvents } from '../model/pause.js';
import { type Matrix, matrix } from '../numerics/matrix.js';
import { type PassContext, rowsFrom } from './pass-context.js';
import { recordLinear, recordTile } from './placed-weights.js';

/**
 * @returns fresh, [wanted rows, vocabSize]
 * @throws the signal's reason
 */
export async function computeLogits(context: PassContext): Promise<Matrix> {
  const { team, model, memory, buffers, options, sequences } = context;
  const { hiddenSize, vocabSize, rmsNormEps, logitScale = 1 } = model.config;
  const wanted =
    options.logits === 'all'
      ? Array.from({ length: context.rows }, (_, row) => row)
      : sequences.map(({ first, count }) => first + count - 1);
  const result = matrix(wanted.length, vocabSize);
  for (let from = 0; from < wanted.length; from += buffers.logitRows) {
    const x = rowsFrom(buffers.x, 0, Math.min(buffers.logitRows, wanted.length - from));
    team.task();
    for (let i = 0; i < x.rows; i++) {
      const offset = wanted[from + i] * hiddenSize * 4;
      const stream = buffers.stream + offset;
      team.call('addInto', stream, buffers.delta + offset, hiddenSize);
      const target = x.floats + i * hiddenSize * 4;
      team.call('rmsNorm', stream, 1, hiddenSize, model.outputNorm, rmsNormEps, 0, target);
    }
    recordTile(team, x, 0, x.rows, 0);
    team.barrier();
    recordLinear(team, model.output, x, buffers.logits);
    await team.run();
    await pauseForEvents(options.signal);
    const at = buffers.logits / 4;
    result.data.set(memory.f32.subarray(at, at + x.rows * vocabSize), from * vocabSize);
  }
  if (logitScale !== 1) for (let i = 0; i < result.data.length; i++) result.data[i] *= logitScale;
  return result;
}
