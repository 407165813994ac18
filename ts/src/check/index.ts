/**
 * The checker as a library: `import { checkCase } from 'xquant/check'`. Reads dumps of a kernel, recomputes them with the
 * reference, compares every element within a bound of its own, and names the mistake. `xquant check` is this with a
 * command line around it. Runs in a browser, too.
 *
 * @module xquant/check
 */

// biome-ignore-all assist/source/organizeImports: the sections follow a check from the file to the report

// A case, and its file.

export type { CheckCase } from './case/inputs.js';
export { type Dtype, type Numbers, numbersOf, type Tensor, tensorOf } from './case/tensor.js';
export {
  CASE_FILE,
  CASE_VERSION,
  LARGEST_CASE,
  type Manifest,
  type ManifestCase,
  type ManifestComparison,
  manifestProblems,
  parseCase,
  parseManifest,
  readCase,
  readNpyCase,
  readNpzCase,
  writeCase,
} from './case/golden.js';
export type { FileFolder } from '../io/source.js';
export { type CaseRequest, MADE_OPERATIONS, makeCase } from './make-case.js';

// Checking it.

export {
  type CaseReport,
  type CaseVerdict,
  type CheckOptions,
  checkCase,
  errorReport,
} from './check.js';
export type { CheckContext } from './operation.js';
export { COMPUTE_TYPES, type ComputeType } from './compare/rounding-noise.js';
export { type ModelContext, type ModelContextOptions, modelContext } from './context.js';
export type {
  LargestError,
  Mismatch,
  Place,
  TensorReport,
  Tolerance,
  Verdict,
} from './compare/compare.js';
export type { Pattern } from './compare/patterns.js';
export { DIAGNOSE_SECONDS, type Diagnosis } from './diagnose.js';
export type { TokenRange } from './crop.js';

// The report.

export {
  type CheckSummary,
  formatCase,
  formatJson,
  formatJunit,
  formatOperations,
  formatSummary,
  summarize,
} from './report.js';
