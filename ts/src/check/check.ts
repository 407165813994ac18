/**
 * Checks one case: recomputes its outputs with the reference, compares, and says what is wrong.
 *
 * A mismatch is a result, not an exception. What cannot be judged at all (a damaged file, a NaN among the
 * inputs, an option that does not exist) is a case with verdict `error`.
 *
 * @module
 */

import { ConfigError, FormatError } from '../errors.js';
import { nearestName } from '../nearest-name.js';
import { CaseInputs, type CheckCase } from './case/inputs.js';
import { compareTensor, missingTensor, type TensorReport, type Tolerance } from './compare/compare.js';
import { type Diagnosis, diagnose } from './diagnose.js';
import type { CheckContext, ExpectedTensors, Operation } from './operation.js';
import { findOperation } from './operations/index.js';

/** Outcome of a case. `error`: it could not be judged. */
export type CaseVerdict = 'pass' | 'fail' | 'inconclusive' | 'error';

/** What was found out about one case. */
export interface CaseReport {
  /** File or folder. */
  readonly name: string;
  readonly operation: string;
  readonly options: Readonly<Record<string, unknown>>;
  readonly verdict: CaseVerdict;
  readonly seconds: number;
  /** Outputs of the operation; those that the dump lacks have verdict `missing`. */
  readonly tensors: readonly TensorReport[];
  /** Known mistakes that explain the mismatches. */
  readonly diagnoses: readonly Diagnosis[];
  /** Whether mistakes were looked for, and whether there was time to try all. */
  readonly diagnosed: 'no' | 'yes' | 'stoppedEarly';
  /** Why the case could not be judged. */
  readonly error?: string;
}

/** Choices of a check. */
export interface CheckOptions {
  /** Instead of the derived bounds, for floats. */
  readonly tolerance?: Tolerance;
  /** Looks for known mistakes when something does not match. Default true. */
  readonly diagnose?: boolean;
  /** Seconds that the search may take. Default 20. */
  readonly diagnoseSeconds?: number;
  /** Outputs that the dump must have. */
  readonly require?: readonly string[];
  /** Every output must be in the dump, and an inconclusive comparison fails. */
  readonly strict?: boolean;
}

/**
 * Checks a case.
 *
 * @throws only what is a fault of this package; see `verdict` and `error` for the rest
 */
export async function checkCase(
  source: CheckCase,
  context: CheckContext,
  options: CheckOptions = {},
): Promise<CaseReport> {
  const start = performance.now();
  const base = { name: source.name, operation: source.operation, options: source.options };
  const seconds = () => (performance.now() - start) / 1000;
  try {
    const operation = findOperation(source.operation);
    assertKnownOptions(source, operation.options);
    assertKnownTensors(source, operation);
    const inputs = new CaseInputs(source);
    const expected = await operation.run(inputs, context);
    const tensors = compareOutputs(source, expected, options.tolerance);
    if (tensors.every((tensor) => tensor.verdict === 'missing')) {
      const names = Object.keys(expected).join(', ');
      throw new FormatError(
        source.name,
        'outputs',
        `the file has none of the outputs of ${source.operation}: ${names}`,
      );
    }
    assertRequired(source, tensors, options);
    const found = worst(tensors);
    const verdict = options.strict && found === 'inconclusive' ? 'fail' : found;
    const looks = verdict === 'fail' && options.diagnose !== false;
    const result = looks ? await diagnose(inputs, tensors, context, options.diagnoseSeconds) : undefined;
    return {
      ...base,
      verdict,
      seconds: seconds(),
      tensors,
      diagnoses: result?.diagnoses ?? [],
      diagnosed: !result ? 'no' : result.stoppedEarly ? 'stoppedEarly' : 'yes',
    };
  } catch (error) {
    return errorReport(source, error, seconds());
  }
}

/**
 * The report of a case that could not be judged.
 *
 * @throws `error` itself if it is a fault of this package
 */
export function errorReport(
  source: Pick<CheckCase, 'name'> & Partial<CheckCase>,
  error: unknown,
  seconds = 0,
): CaseReport {
  // What this package throws on purpose has a code or is about a range; anything else is a fault of ours.
  if (!(error instanceof RangeError || (error instanceof Error && 'code' in error))) throw error;
  const { name, operation = '', options = {} } = source;
  return {
    name,
    operation,
    options,
    verdict: 'error',
    seconds,
    tensors: [],
    diagnoses: [],
    diagnosed: 'no',
    error: error.message,
  };
}

/** Compares every output. */
function compareOutputs(source: CheckCase, expected: ExpectedTensors, tolerance?: Tolerance): TensorReport[] {
  return Object.entries(expected).flatMap(([name, tensor]) => {
    const found = tensor.computed ? tensor.computed() : source.tensors.get(name);
    if (found) return [compareTensor(name, tensor, found, tolerance)];
    return tensor.computed ? [] : [missingTensor(name, tensor)];
  });
}

function worst(tensors: readonly TensorReport[]): CaseVerdict {
  if (tensors.some(({ verdict }) => verdict === 'fail')) return 'fail';
  return tensors.some(({ verdict }) => verdict === 'inconclusive') ? 'inconclusive' : 'pass';
}

/** Options that only describe a case. */
const DESCRIPTIVE = [
  'promptStart',
  'promptStarts',
  'perplexity',

  'tokens',
  'hiddenSize',
  'seed',
  'source',
  'layer',
  'description',
  'tags',
  'flags',
  'comment',
];

/** A misspelt option would silently mean its default. */
function assertKnownOptions(source: CheckCase, known: readonly { name: string }[]): void {
  const names = known.map(({ name }) => name);
  for (const [name, value] of Object.entries(source.options)) {
    if (names.includes(name) || DESCRIPTIVE.includes(name)) continue;
    throw new ConfigError(
      `option "${name}" of ${source.operation}`,
      value,
      `absent; known are ${names.join(', ')}`,
    );
  }
}

/**
 * A misspelt output would be left out without a word.
 *
 * @throws {FormatError} if the dump has a tensor that the operation does not know; says which name is meant
 */
function assertKnownTensors(source: CheckCase, { name, tensors }: Operation): void {
  const known = tensors.map((tensor) => tensor.name);
  const pattern = (each: string) => new RegExp(`^${each.replace('<layer>', '\\d+')}$`);
  for (const found of source.tensors.keys()) {
    if (known.some((each) => pattern(each).test(found))) continue;
    const meant = nearestName(found.replace(/_\d+$/, '_<layer>'), known);
    const hint = meant ? `; did you mean "${meant}"?` : '.';
    throw new FormatError(
      source.name,
      `tensor "${found}"`,
      `${name} has no such tensor${hint} Known are ${known.join(', ')}`,
    );
  }
}

/** @throws {FormatError} if an output is missing that has to be there */
function assertRequired(
  source: CheckCase,
  tensors: readonly TensorReport[],
  { require = [], strict = false }: CheckOptions,
): void {
  const unknown = require.filter((name) => !tensors.some((tensor) => tensor.name === name));
  if (unknown.length > 0) {
    const outputs = tensors.map(({ name }) => name).join(', ');
    throw new FormatError(source.name, unknown.join(', '), `${source.operation} has the outputs ${outputs}`);
  }
  const missing = tensors
    .filter(({ name, verdict }) => verdict === 'missing' && (strict || require.includes(name)))
    .map(({ name }) => name);
  if (missing.length > 0) {
    throw new FormatError(source.name, missing.join(', '), 'the output is required and not in the file');
  }
}
