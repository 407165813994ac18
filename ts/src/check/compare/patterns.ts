/**
 * Where the elements that differ lie: "every odd token", "channels from 32 up", "aligned runs of 16 bytes".
 *
 * A kernel that drops a lane, forgets a tail or starts the second block wrongly leaves a regular trace, which says more than any
 * single element. Each coordinate (token, channel, head, byte ...) is looked at by itself: a region of it is named if all differing
 * elements lie in it, it is much smaller than the tensor, and a good part of it does differ.
 *
 * @module
 */

/** Fewer elements than this lie regularly by chance. */
const FEWEST = 8;

/** A region larger than this part of the tensor says nothing. */
const LARGEST_REGION = 0.75;

/** Part of a region that has to differ. Codes of wrong values are often right by chance. */
const SMALLEST_SHARE = 0.2;

/** Periods that lanes, words and tiles have. */
const PERIODS = [2, 4, 8, 16, 32, 64] as const;

/** A region that holds all elements that differ. */
export interface Pattern {
  /** For instance `every odd token`. */
  readonly region: string;
  /** Elements of the region that differ: all that differ. */
  readonly differing: number;
  /** Elements of the region. */
  readonly elements: number;
}

/** Elements of a tensor by the values of one coordinate. */
interface Coordinate {
  readonly name: string;
  /** Elements at each value. */
  readonly total: readonly number[];
  /** Elements that differ at each value. */
  readonly differing: readonly number[];
}

/**
 * The smallest region that explains where elements differ.
 *
 * @param count elements of the tensor
 * @param differs whether element i differs
 * @param locate coordinates of element i, the same names for all
 * @returns `undefined` if the elements lie without a pattern, or are too few to tell
 */
export function findPattern(
  count: number,
  differs: (index: number) => boolean,
  locate: (index: number) => Readonly<Record<string, number>>,
): Pattern | undefined {
  const coordinates = countByCoordinate(count, differs, locate);
  const differing = coordinates[0]?.differing.reduce((sum, each) => sum + each, 0) ?? 0;
  if (differing < FEWEST) return undefined;
  let best: Pattern | undefined;
  for (const coordinate of coordinates) {
    for (const { region, holds } of regions(coordinate)) {
      const elements = coordinate.total.reduce((sum, each, value) => sum + (holds(value) ? each : 0), 0);
      if (elements > LARGEST_REGION * count || differing < SMALLEST_SHARE * elements) continue;
      if (!best || elements < best.elements) best = { region, differing, elements };
    }
  }
  return best;
}

function countByCoordinate(
  count: number,
  differs: (index: number) => boolean,
  locate: (index: number) => Readonly<Record<string, number>>,
): Coordinate[] {
  const found = new Map<string, { total: number[]; differing: number[] }>();
  for (let i = 0; i < count; i++) {
    const bad = differs(i) ? 1 : 0;
    for (const [name, value] of Object.entries(locate(i))) {
      let sums = found.get(name);
      if (!sums) {
        sums = { total: [], differing: [] };
        found.set(name, sums);
      }
      sums.total[value] = (sums.total[value] ?? 0) + 1;
      sums.differing[value] = (sums.differing[value] ?? 0) + bad;
    }
  }
  return Array.from(found, ([name, { total, differing }]) => ({
    name,
    total: Array.from(total, (each) => each ?? 0),
    differing: Array.from(differing, (each) => each ?? 0),
  }));
}

/** Regions of one coordinate that hold all differing elements, in words. */
function* regions({
  name,
  differing,
}: Coordinate): Iterable<{ region: string; holds: (value: number) => boolean }> {
  const bad = Array.from(differing.keys()).filter((value) => differing[value] > 0);
  const [first, last] = [bad[0], bad[bad.length - 1]];
  const end = differing.length - 1;
  if (first === last) yield { region: `only ${name} ${first}`, holds: (value) => value === first };
  else if (first > 0 && last === end) {
    yield { region: `${name}s from ${first} up`, holds: (value) => value >= first };
  } else if (first === 0 && last < end) {
    yield { region: `${name}s up to ${last}`, holds: (value) => value <= last };
  } else if (first > 0) {
    yield { region: `${name}s ${first} to ${last}`, holds: (value) => value >= first && value <= last };
  }
  for (const period of PERIODS) {
    if (end + 1 < 2 * period) break;
    const residues = [...new Set(bad.map((value) => value % period))].sort((a, b) => a - b);
    if (residues.length > period / 2) continue;
    yield {
      region: residueText(name, residues, period),
      holds: (value) => residues.includes(value % period),
    };
  }
}

function residueText(name: string, residues: readonly number[], period: number): string {
  if (period === 2) return `every ${residues[0] === 1 ? 'odd' : 'even'} ${name}`;
  const last = residues[residues.length - 1];
  const isRun = residues.length > 1 && last - residues[0] === residues.length - 1;
  if (!isRun) return `${name}s ${residues.join(', ')} of every ${period}`;
  const isAligned = residues[0] % residues.length === 0;
  return isAligned
    ? `aligned runs of ${residues.length} ${name}s, ${residues[0]} to ${last} of every ${period}`
    : `${name}s ${residues[0]} to ${last} of every ${period}`;
}
