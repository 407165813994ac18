/**
 * Golden cases of whole models against any implementation, in one run each: ids exactly, floats within the
 * tolerance of the manifest.
 *
 * `xquant check` finds a bound of its own by running models with moved weights, which takes the reference
 * hours. The manifest's tolerance was measured the same way on the GPU. An implementation that keeps
 * activations more coarsely than f32 (the engine cuts them to 15 bits) may be off by more; for it the moved
 * models decide, where they are needed.
 *
 * @module
 */

import { ConfigError } from '../errors.js';
import type { ManifestCase } from './case/golden.js';
import { CaseInputs, type CheckCase } from './case/inputs.js';
import { type Numbers, numbersOf, tensorOf } from './case/tensor.js';
import { compareTensor, type TensorReport } from './compare/compare.js';
import type { CheckContext } from './operation.js';
import { generateGreedily } from './operations/decode.js';
import { logitRows } from './operations/logits.js';
import { windowLosses } from './operations/perplexity.js';
import { largestDifference, VARIATIONS } from './operations/whole-model.js';

/** Operations that run a whole model. */
export const WHOLE_MODEL_OPERATIONS: readonly string[] = ['logits', 'decode', 'perplexity'];

/**
 * Compares what an implementation gives with a golden case.
 *
 * @param source the golden case; its outputs are what is expected
 * @param tensors their tolerances
 * @param context its models are those of the implementation
 * @param windows of `perplexity`, from the first; default all
 * @throws {ConfigError} if the operation runs no whole model
 */
export async function compareWholeModel(
  source: CheckCase,
  tensors: ManifestCase['tensors'],
  context: CheckContext,
  windows?: number,
): Promise<TensorReport[]> {
  const inputs = new CaseInputs(source);
  switch (source.operation) {
    case 'logits':
      return [await compareLogits(inputs, tensors, context)];
    case 'decode':
      return compareDecode(inputs, tensors, context);
    case 'perplexity':
      return [await comparePerplexity(inputs, tensors, context, windows)];
    default:
      throw new ConfigError('operation', source.operation, `one of ${WHOLE_MODEL_OPERATIONS.join(', ')}`);
  }
}

async function compareLogits(
  inputs: CaseInputs,
  tensors: ManifestCase['tensors'],
  context: CheckContext,
): Promise<TensorReport> {
  const { shape } = inputs.tensor('logits');
  const flat = async (variation: number) => {
    const rows = await logitRows(inputs, context, variation);
    return Float32Array.from(rows.flatMap((each) => [...each]));
  };
  const found = await flat(0);
  const bound = await boundOf(golden(inputs, 'logits'), found, absolute(tensors, 'logits'), flat);
  return compare('logits', golden(inputs, 'logits'), found, shape, ['prompt', 'position', 'id'], bound);
}

async function compareDecode(
  inputs: CaseInputs,
  tensors: ManifestCase['tensors'],
  context: CheckContext,
): Promise<TensorReport[]> {
  const prompt = Array.from(inputs.integers('prompt').data);
  const ids = Int32Array.from(inputs.integers('ids').data);
  const gaps = golden(inputs, 'top_gap');
  const tolerance = absolute(tensors, 'last_logits');
  const last = async (variation: number) => {
    const moved = await generateGreedily(inputs, context, variation, prompt, ids.length, ids);
    return moved[ids.length - 1].logits;
  };

  // The golden ids are fed, so that one near-tie does not end the comparison.
  const steps = await generateGreedily(inputs, context, 0, prompt, ids.length, ids);
  const own = Int32Array.from(steps, ({ first }) => first);
  const notes = steps.flatMap(({ logits, first }, step) => {
    if (first === ids[step]) return [];
    const [theirs, ours] = [logits[ids[step]], logits[first]].map((logit) => logit.toFixed(4));
    return [
      `step ${step}: golden id ${ids[step]}, ${gaps[step].toFixed(4)} ahead of the next; here logit ${theirs}, and ${ours} of id ${first}`,
    ];
  });
  const compared = compareTensor(
    'ids',
    {
      dtype: 'I32',
      values: ids,
      shape: [ids.length],
      dimensions: ['step'],
      stored: true,
      notes,
      isUndecided: (step) => gaps[step] <= 2 * tolerance,
    },
    tensorOf(own, [ids.length]),
  );
  const { logits } = steps[ids.length - 1];
  const expected = golden(inputs, 'last_logits');
  const bound = await boundOf(expected, logits, tolerance, last);
  return [compared, compare('last_logits', expected, logits, [logits.length], ['id'], bound)];
}

async function comparePerplexity(
  inputs: CaseInputs,
  tensors: ManifestCase['tensors'],
  context: CheckContext,
  count?: number,
): Promise<TensorReport> {
  const windows = count ?? inputs.count('windows');
  const some = inputs.with({ options: { windows } });
  const expected = golden(inputs, 'window_nll').slice(0, windows);
  const found = await windowLosses(some, context, 0);
  const bound = await boundOf(expected, found, absolute(tensors, 'window_nll'), (variation) =>
    windowLosses(some, context, variation),
  );
  return compare('window_nll', expected, found, [windows], ['window'], bound);
}

/** The manifest's tolerance, or, if that is not enough, twice what the implementation's own moved models show. */
async function boundOf(
  expected: Float32Array,
  found: Float32Array,
  tolerance: number,
  moved: (variation: number) => Promise<Float32Array>,
): Promise<number> {
  if (largestDifference(expected, found) <= tolerance) return tolerance;
  let noise = 0;
  for (const variation of VARIATIONS) {
    noise = Math.max(noise, largestDifference(await moved(variation), found));
  }
  return Math.max(tolerance, 2 * noise);
}

function golden(inputs: CaseInputs, name: string): Float32Array {
  return Float32Array.from(numbersOf(inputs.tensor(name)));
}

function absolute(tensors: ManifestCase['tensors'], name: string): number {
  const comparison = tensors[name]?.comparison;
  return typeof comparison === 'object' ? comparison.absolute : 0;
}

function compare(
  name: string,
  values: Numbers,
  found: Float32Array,
  shape: readonly number[],
  dimensions: readonly string[],
  bound: number,
): TensorReport {
  return compareTensor(
    name,
    { dtype: 'F32', values, shape, dimensions, bound: () => bound },
    tensorOf(found, shape),
  );
}
