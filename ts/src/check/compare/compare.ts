/**
 * Compares one tensor of a dump with what the reference computes, element by element.
 *
 * Integers, bytes and stored parameters must be equal. Floats that come out of sums are held to a bound of
 * their own per element (tolerance.ts); a bound over the whole tensor would let a few wrong elements
 * through. NaN and infinities must stand where the reference has them: they are never skipped. A number that
 * the dump stores in f16 or bf16 gets the rounding of that type on top, and nothing more.
 *
 * @module
 */

import {
  bitsText,
  type Dtype,
  elementCount,
  HALF_SUBNORMAL_STEP,
  isFloating,
  type Numbers,
  numbersOf,
  rankOf,
  roundTo,
  type Tensor,
  UNIT_ROUNDOFF,
} from '../case/tensor.js';
import { findPattern, type Pattern } from './patterns.js';

/** Mismatches that a report lists. */
const LISTED = 10;

/** Upper ends of the ULP buckets: 0, 1, 2, up to 4, 16, 256, 65536, and beyond. */
const ULP_BUCKETS = [0, 1, 2, 4, 16, 256, 65536, Number.POSITIVE_INFINITY] as const;

/** Where an element stands: `{ layer: 2, token: 17, channel: 200, group: 35 }`. */
export type Place = Readonly<Record<string, number>>;

/** Packed or unpacked codes, so that differences can be counted in codes and looked at one by one. */
export interface CodeView {
  /** Codes of the whole tensor in the order of the matrix. [tokens * channels] */
  unpack(stored: Uint8Array): Uint8Array;
  /** Whether the value of a code lies so near the middle between two levels that rounding noise decides. */
  isNearTie(index: number): boolean;
  /** Where a code stands. */
  locate(index: number): Place;
}

/** What the reference says about one output tensor. */
export interface Expected {
  /** Type of the golden file; a dump may use another one. */
  readonly dtype: Dtype;
  /** [product of shape] */
  readonly values: Numbers;
  readonly shape: readonly number[];
  /** Names of the sizes in `shape`, for messages: `['token', 'channel']`. */
  readonly dimensions: readonly string[];
  /** Largest error of a correct kernel, per element. Absent: the tensor must be equal. */
  readonly bound?: (index: number) => number;
  /** Whether bits count, so that -0 is not +0, and no tolerance may be put in place of equality. */
  readonly stored?: boolean;
  /** Overrides the place that follows from `dimensions`. */
  readonly locate?: (index: number) => Place;
  readonly codes?: CodeView;
  /** What a report should say about how these values came about. */
  readonly notes?: readonly string[];
  /** Whether either of two answers is right at an element, for instance a greedy id between equal logits. */
  readonly isUndecided?: (index: number, found: number) => boolean;
  /**
   * For a property of several tensors of a dump together, which is no tensor of the dump itself: computes it from them.
   * Undefined if one of them is missing or has another size.
   */
  readonly computed?: () => Tensor | undefined;
}

/** An error that a user allows: `|found - expected| <= absolute + relative * |expected|`. */
export interface Tolerance {
  readonly absolute: number;
  readonly relative: number;
}

/** `missing`: the dump has no such tensor. */
export type Verdict = 'pass' | 'fail' | 'inconclusive' | 'missing';

/** One element that differs. */
export interface Mismatch {
  readonly index: number;
  readonly place: Place;
  readonly expected: number;
  readonly found: number;
  readonly expectedBits: string;
  readonly foundBits: string;
  /** What would have been allowed; 0 where equality is asked for. */
  readonly allowed: number;
}

/** A largest error and where it is. */
export interface LargestError {
  readonly value: number;
  readonly place: Place;
}

/** Everything the comparison found about one tensor. */
export interface TensorReport {
  readonly name: string;
  readonly verdict: Verdict;
  readonly comparison: 'exact' | 'bound' | 'tolerance';
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly elements: number;
  /** Elements that are not equal. */
  readonly differing: number;
  /** Elements beyond what is allowed. */
  readonly failing: number;
  readonly largestAbsolute?: LargestError;
  /** Of elements whose expected value is not zero. */
  readonly largestRelative?: LargestError;
  /** Largest error as a fraction of what is allowed there; above 1 fails. */
  readonly largestOfAllowed?: LargestError;
  /** Counts per distance in units in the last place of the dump's type; floats only. */
  readonly ulpHistogram?: readonly { readonly upTo: number; readonly count: number }[];
  /** The first ten failing elements, otherwise the first ten that differ. */
  readonly mismatches: readonly Mismatch[];
  /** Codes that differ, and those among them that are off by one where the value is almost a tie. */
  readonly codes?: { readonly differing: number; readonly nearTies: number };
  /** Elements where either answer is right. */
  readonly undecided: number;
  /** NaN or infinity on one side only, or of different kind. */
  readonly nonFinite: number;
  /** The dump has another number of elements, or numbers of another kind: nothing could be compared. */
  readonly unusable?: 'shape' | 'type';
  /** Where the failing elements lie, if regularly. */
  readonly pattern?: Pattern;
  /** The output does not depend on anything: nothing was written, or the wrong buffer was dumped. */
  readonly dead?: 'zero' | 'constant';
  readonly notes: readonly string[];
}

/**
 * Compares a dumped tensor with the expected one.
 *
 * @param tolerance a user's, instead of the derived bounds; stored codes and parameters stay exact
 */
export function compareTensor(
  name: string,
  expected: Expected,
  found: Tensor,
  tolerance?: Tolerance,
): TensorReport {
  const notes: string[] = [...(expected.notes ?? [])];
  const comparison = expected.stored
    ? 'exact'
    : tolerance && isFloating(expected.dtype)
      ? 'tolerance'
      : expected.bound
        ? 'bound'
        : 'exact';
  const common = { name, comparison, dtype: found.dtype, shape: found.shape } as const;
  const unusable = (reason: 'shape' | 'type', note: string): TensorReport => ({
    ...common,
    verdict: 'fail',
    unusable: reason,
    elements: elementCount(found.shape),
    differing: 0,
    failing: 0,
    mismatches: [],
    undecided: 0,
    nonFinite: 0,
    notes: [...notes, note],
  });
  if (!isReadableAs(expected, found.dtype)) {
    const kind = isFloating(expected.dtype) ? 'floating-point numbers' : 'integers';
    return unusable('type', `the tensor must hold ${kind} (${expected.dtype}), got ${found.dtype}`);
  }
  const foundValues = foundNumbers(expected, found, name);
  const expectedCount = elementCount(expected.shape);
  const [want, got] = [expected.shape.join(', '), found.shape.join(', ')];
  if (foundValues.length !== expectedCount) {
    return unusable(
      'shape',
      `the shape must be [${want}], got [${got}]: ${expectedCount} and ${foundValues.length} elements`,
    );
  }
  if (expectedCount === 0) notes.push('there are no elements to compare');
  if (want !== got && !expected.dimensions.includes('byte')) {
    notes.push(`the shape is [${got}], read as [${want}] in the same order`);
  }
  if (expected.stored && found.dtype === 'BF16') {
    notes.push('the dump holds bf16 numbers: equal here means equal after rounding to 8 bits of precision');
  }

  const scan = scanElements(expected, found.dtype, foundValues, comparison, tolerance);
  const codes = scan.differing > 0 ? countCodes(expected, foundValues) : undefined;
  if (scan.signedZeros > 0) {
    notes.push(`${scan.signedZeros} zeros differ in sign only, which is not counted`);
  }
  const dead = deadness(expected.values, foundValues);
  if (dead) notes.push(dead === 'zero' ? 'every element is zero' : 'every element is the same');

  let verdict: Verdict = scan.failing > 0 ? 'fail' : scan.undecided > 0 ? 'inconclusive' : 'pass';
  if (verdict === 'pass' && expectedCount === 0) verdict = 'inconclusive';
  if (verdict === 'pass' && comparison === 'bound' && scan.boundSquares > scan.expectedSquares) {
    verdict = 'inconclusive';
    notes.push('the error bound is larger than the values: any kernel would pass');
  }
  if (scan.undecided > 0) notes.push(`${scan.undecided} elements where either answer is right`);
  const pattern = scan.failing > 0 ? patternOf(expected, foundValues, scan.failed) : undefined;
  return { ...common, ...scan.report, verdict, pattern, codes, dead, notes };
}

/** Where elements fail; for packed codes, where codes differ or, if that says nothing, bytes. */
function patternOf(expected: Expected, found: Numbers, failed: Uint8Array): Pattern | undefined {
  const { codes, shape, dimensions } = expected;
  if (codes && dimensions.includes('byte')) {
    const want = codes.unpack(Uint8Array.from(expected.values));
    const got = codes.unpack(Uint8Array.from(found));
    const ofCodes = findPattern(want.length, (i) => want[i] !== got[i], codes.locate);
    if (ofCodes) return ofCodes;
  }
  return findPattern(
    failed.length,
    (i) => failed[i] === 1,
    (i) => placeOf(i, shape, dimensions),
  );
}

/** Numbers of one kind may come in any width; f16 numbers also as their 16 bits, packed codes as words. */
function isReadableAs(expected: Expected, found: Dtype): boolean {
  if (expected.dimensions.includes('byte')) return !isFloating(found);
  if (expected.dtype === 'F16' && (found === 'U16' || found === 'I16')) return true;
  return isFloating(expected.dtype) === isFloating(found);
}

/** A report of a tensor that the dump does not hold. */
export function missingTensor(name: string, expected: Expected): TensorReport {
  return {
    name,
    verdict: 'missing',
    comparison: expected.bound ? 'bound' : 'exact',
    dtype: expected.dtype,
    shape: expected.shape,
    elements: 0,
    differing: 0,
    failing: 0,
    mismatches: [],
    undecided: 0,
    nonFinite: 0,
    notes: [],
  };
}

/** The place of an element of a row-major tensor. */
export function placeOf(
  index: number,
  shape: readonly number[],
  dimensions: readonly string[],
): Record<string, number> {
  const place: Record<string, number> = {};
  let rest = index;
  for (let d = shape.length - 1; d >= 0; d--) {
    place[dimensions[d] ?? `axis ${d}`] = rest % shape[d];
    rest = Math.floor(rest / shape[d]);
  }
  return Object.fromEntries(Object.entries(place).reverse());
}

/** Bytes that a kernel wrote as words are the same bytes, and f16 numbers may be dumped as their 16 bits. */
function foundNumbers(expected: Expected, found: Tensor, name: string): Numbers {
  if (expected.dimensions.includes('byte')) return found.bytes;
  const isBits = expected.dtype === 'F16' && (found.dtype === 'U16' || found.dtype === 'I16');
  return numbersOf(isBits ? { ...found, dtype: 'F16' } : found, name);
}

interface Scan {
  report: Pick<
    TensorReport,
    | 'elements'
    | 'differing'
    | 'failing'
    | 'largestAbsolute'
    | 'largestRelative'
    | 'largestOfAllowed'
    | 'ulpHistogram'
    | 'mismatches'
    | 'undecided'
    | 'nonFinite'
  >;
  differing: number;
  failing: number;
  undecided: number;
  signedZeros: number;
  boundSquares: number;
  expectedSquares: number;
  /** 1 where an element fails. */
  failed: Uint8Array;
}

function scanElements(
  expected: Expected,
  foundType: Dtype,
  foundValues: Numbers,
  comparison: TensorReport['comparison'],
  tolerance: Tolerance | undefined,
): Scan {
  const { values, bound } = expected;
  const floats = isFloating(expected.dtype);
  const narrow = floats && isFloating(foundType) && foundType !== expected.dtype;
  const roundoff = narrow ? (UNIT_ROUNDOFF[foundType] ?? 0) : 0;
  const step = narrow ? (HALF_SUBNORMAL_STEP[foundType] ?? 0) : 0;
  const ulpType = isFloating(foundType) ? foundType : expected.dtype;
  const histogram = new Array<number>(ULP_BUCKETS.length).fill(0);

  let differing = 0;
  let failing = 0;
  let undecided = 0;
  let nonFinite = 0;
  let signedZeros = 0;
  let boundSquares = 0;
  let expectedSquares = 0;
  let absolute = { value: 0, index: -1 };
  let relative = { value: 0, index: -1 };
  let ofAllowed = { value: 0, index: -1 };
  const failed = new Uint8Array(values.length);
  const failures: number[] = [];
  const differences: number[] = [];
  const allowedAt = (index: number): number => {
    if (comparison === 'exact') return 0;
    const size = Math.abs(values[index]);
    const allowed =
      tolerance && !expected.stored ? tolerance.absolute + tolerance.relative * size : bound!(index);
    // A bound may be infinite, and zero times infinity is no number.
    return narrow ? allowed + roundoff * (size + allowed) + step : allowed;
  };

  for (let i = 0; i < values.length; i++) {
    const found = foundValues[i];
    // An exact result in a narrower type is the exact result, rounded once.
    const want = comparison === 'exact' && narrow ? roundTo(foundType, values[i]) : values[i];
    const allowed = allowedAt(i);
    if (comparison === 'bound') {
      boundSquares += allowed * allowed;
      expectedSquares += want * want;
    }
    const equal = expected.stored ? Object.is(found, want) : found === want;
    if (equal || (Number.isNaN(found) && Number.isNaN(want))) {
      if (found === 0 && !Object.is(found, want)) signedZeros++;
      histogram[0]++;
      continue;
    }
    differing++;
    if (expected.isUndecided?.(i, found)) {
      undecided++;
      continue;
    }
    if (!Number.isFinite(found) || !Number.isFinite(want)) {
      nonFinite++;
      failing++;
      failed[i] = 1;
      histogram[histogram.length - 1]++;
      if (failures.length < LISTED) failures.push(i);
      continue;
    }
    const error = Math.abs(found - want);
    if (error > absolute.value) absolute = { value: error, index: i };
    if (want !== 0 && error / Math.abs(want) > relative.value) {
      relative = { value: error / Math.abs(want), index: i };
    }
    if (floats) {
      const ulps = ulpType === 'F64' ? Math.ceil(error / 2 ** -53) : ulpDistance(ulpType, want, found);
      histogram[ULP_BUCKETS.findIndex((end) => ulps <= end)]++;
    }
    if (comparison !== 'exact' && error / allowed > ofAllowed.value) {
      ofAllowed = { value: error / allowed, index: i };
    }
    if (comparison !== 'exact' && error <= allowed) {
      if (differences.length < LISTED) differences.push(i);
    } else {
      failing++;
      failed[i] = 1;
      if (failures.length < LISTED) failures.push(i);
    }
  }

  const locate = expected.locate ?? ((i: number) => placeOf(i, expected.shape, expected.dimensions));
  const listed = failing > 0 ? failures : differences;
  const largest = ({ value, index }: { value: number; index: number }): LargestError | undefined =>
    index < 0 ? undefined : { value, place: locate(index) };
  const elementType = floats && isFloating(foundType) ? foundType : expected.dtype;
  return {
    report: {
      elements: values.length,
      differing,
      failing,
      largestAbsolute: largest(absolute),
      largestRelative: largest(relative),
      largestOfAllowed: largest(ofAllowed),
      ulpHistogram: floats ? ULP_BUCKETS.map((upTo, i) => ({ upTo, count: histogram[i] })) : undefined,
      mismatches: listed.map((index) => ({
        index,
        place: locate(index),
        expected: values[index],
        found: foundValues[index],
        expectedBits: bitsText(elementType, values[index]),
        foundBits: bitsText(elementType, foundValues[index]),
        allowed: allowedAt(index),
      })),
      undecided,
      nonFinite,
    },
    differing,
    failing,
    undecided,
    signedZeros,
    boundSquares,
    expectedSquares,
    failed,
  };
}

function ulpDistance(dtype: Dtype, a: number, b: number): number {
  return Math.abs(rankOf(dtype, a) - rankOf(dtype, b));
}

function countCodes(expected: Expected, found: Numbers): TensorReport['codes'] {
  const { codes } = expected;
  if (!codes) return undefined;
  const want = codes.unpack(Uint8Array.from(expected.values));
  const got = codes.unpack(Uint8Array.from(found));
  let differing = 0;
  let nearTies = 0;
  for (let i = 0; i < want.length; i++) {
    if (want[i] === got[i]) continue;
    differing++;
    if (Math.abs(want[i] - got[i]) === 1 && codes.isNearTie(i)) nearTies++;
  }
  return { differing, nearTies };
}

function deadness(expected: Numbers, found: Numbers): TensorReport['dead'] {
  if (found.length < 2 || isConstant(expected) || !isConstant(found)) return undefined;
  return found[0] === 0 ? 'zero' : 'constant';
}

function isConstant(values: Numbers): boolean {
  for (let i = 1; i < values.length; i++) if (values[i] !== values[0]) return false;
  return true;
}
