import { fc, test } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { ShapeError } from '../../../src/errors.js';
import { type AllocationProblem, allocateBits, allocatedBits } from '../../../src/quant/allocate-bits.js';
import { CHANNEL_BITS, type ChannelBits } from '../../../src/quant/symmetric.js';

/** Of calibrated.md, measured on SmolLM2; convex in the cost. */
const DISTORTION = { 0: 1, 1: 0.425, 2: 0.15, 3: 0.047, 4: 0.014, 8: 1e-4 };

/** Small integers, so that gains are often equal. */
const anyImportance = fc.array(fc.array(fc.integer({ min: 0, max: 5 }), { minLength: 1, maxLength: 5 }), {
  minLength: 1,
  maxLength: 4,
});
/** Decreasing, convex or not. */
const anyDistortion = fc
  .uniqueArray(fc.integer({ min: 0, max: 99 }), { minLength: 5, maxLength: 5 })
  .map((values) => {
    const [one, two, three, four, eight] = values.sort((a, b) => b - a).map((value) => value / 100);
    return { 0: 1, 1: one, 2: two, 3: three, 4: four, 8: eight };
  });
const anyProblem: fc.Arbitrary<AllocationProblem> = fc.record({
  importance: anyImportance.map((layers) => layers.map((layer) => Float32Array.from(layer))),
  distortion: fc.oneof(fc.constant(DISTORTION), anyDistortion),
  budget: fc.integer({ min: 0, max: 320 }).map((eighths) => eighths / 8),
  scaleBits: fc.constantFrom(0.125, 0.5),
});

/** The definition: look at all channels, raise the best one, until the next one is too dear. */
function greedy({ importance, distortion, budget, scaleBits }: AllocationProblem): ChannelBits[][] {
  const allocated = importance.map((layer) => [...layer].map((): ChannelBits => 0));
  let spent = 0;
  for (;;) {
    let best: { layer: number; channel: number; next: ChannelBits; gain: number; cost: number } | undefined;
    for (const [layer, channels] of allocated.entries()) {
      for (const [channel, bits] of channels.entries()) {
        const next = CHANNEL_BITS[CHANNEL_BITS.indexOf(bits) + 1];
        if (next === undefined) continue;
        const cost = next - bits + (bits === 0 ? scaleBits : 0);
        const gain = (importance[layer][channel] * (distortion[bits] - distortion[next])) / cost;
        if (gain > (best?.gain ?? 0)) best = { layer, channel, next, gain, cost };
      }
    }
    if (!best || spent + best.cost > budget) return allocated;
    spent += best.cost;
    allocated[best.layer][best.channel] = best.next;
  }
}

const lossOf = (
  { importance, distortion }: AllocationProblem,
  allocation: readonly ChannelBits[][],
): number =>
  allocation.reduce(
    (sum, layer, i) =>
      sum + layer.reduce((part: number, bits, c) => part + importance[i][c] * distortion[bits], 0),
    0,
  );

/** All allocations of a few channels. */
function* allAllocations(channels: number): Generator<ChannelBits[]> {
  if (channels === 0) {
    yield [];
    return;
  }
  for (const rest of allAllocations(channels - 1)) for (const bits of CHANNEL_BITS) yield [...rest, bits];
}

describe('allocateBits', () => {
  test.prop([anyProblem], { numRuns: 300 })('is the greedy order, ties included', (problem) => {
    expect(allocateBits(problem)).toEqual(greedy(problem));
  });

  test.prop([anyProblem])('never spends more than the budget', (problem) => {
    expect(allocatedBits(allocateBits(problem), problem.scaleBits)).toBeLessThanOrEqual(problem.budget);
  });

  const fewChannels = fc.array(fc.float({ min: 0, max: 9, noNaN: true }), { minLength: 1, maxLength: 4 });
  test.prop([fewChannels, fc.integer({ min: 0, max: 200 })], { numRuns: 40 })(
    'no allocation that costs as much loses less, of all there are',
    (layer, eighths) => {
      const problem = {
        importance: [Float32Array.from(layer)],
        distortion: DISTORTION,
        budget: eighths / 8,
        scaleBits: 0.125,
      };
      const chosen = allocateBits(problem);
      const spent = allocatedBits(chosen, 0.125);
      const loss = lossOf(problem, chosen);
      for (const other of allAllocations(layer.length)) {
        if (allocatedBits([other], 0.125) > spent) continue;
        expect(lossOf(problem, [other])).toBeGreaterThanOrEqual(loss * (1 - 1e-12) - 1e-12);
      }
    },
  );

  test.prop([anyProblem])('a larger budget takes no bits away', (problem) => {
    const [less, more] = [problem, { ...problem, budget: problem.budget + 3 }].map(allocateBits);
    less.forEach((layer, i) => {
      for (const [channel, bits] of layer.entries()) expect(more[i][channel]).toBeGreaterThanOrEqual(bits);
    });
  });

  test.prop([anyProblem, fc.integer({ min: -20, max: 20 })])(
    'only the ratios of importances count',
    (problem, exponent) => {
      const scaled = problem.importance.map((layer) => layer.map((each) => each * 2 ** exponent));
      expect(allocateBits({ ...problem, importance: scaled })).toEqual(allocateBits(problem));
    },
  );

  it('spends nothing on a channel of no importance', () => {
    const importance = [Float32Array.of(1, 0)];
    expect(allocateBits({ importance, distortion: DISTORTION, budget: 100, scaleBits: 0.125 })).toEqual([
      [8, 0],
    ]);
  });

  it('refuses importances that are none', () => {
    const rest = { distortion: DISTORTION, budget: 1, scaleBits: 0.125 };
    expect(() => allocateBits({ importance: [], ...rest })).toThrow(ShapeError);
    for (const bad of [-1, Number.NaN, Number.POSITIVE_INFINITY]) {
      const importance = [Float32Array.of(1), Float32Array.of(1, bad)];
      expect(() => allocateBits({ importance, ...rest })).toThrow(/layer 1, channel 1/);
    }
  });
});
