import { fc, test as propertyTest } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { ConfigError, NumericError } from '../../src/errors.js';
import {
  assertSamplingOptions,
  logSumExp,
  Random,
  Sampler,
  type SamplingOptions,
} from '../../src/sampling.js';

const logits = (...values: number[]) => Float32Array.from(values);

/** Logits whose softmax is the given distribution. */
const logProbabilities = (...p: number[]) => Float32Array.from(p, Math.log);

/** How often each token comes up in `draws` draws, as fractions. */
function frequencies(values: Float32Array, options: SamplingOptions, draws = 20_000): number[] {
  const sampler = new Sampler(options);
  const counts = Array.from(values, () => 0);
  for (let i = 0; i < draws; i++) counts[sampler.sample(values).id]++;
  return counts.map((count) => count / draws);
}

const someLogits = fc
  .array(fc.float({ min: -20, max: 20, noNaN: true }), { minLength: 1, maxLength: 40 })
  .map((values) => Float32Array.from(values));

describe('random numbers', () => {
  it('are those of the reference implementation of xoshiro128** 1.1', () => {
    const random = new Random([1, 2, 3, 4]);
    const published = [
      11520, 0, 5927040, 70819200, 2031721883, 1637235492, 1287239034, 3734860849, 3729100597, 4258142804,
    ];
    expect(published.map(() => random.nextUint32())).toEqual(published);
  });

  it('start from the words that splitmix32 gives for a seed', () => {
    const words = {
      0: [1684164658, 3653269916, 2939563536, 2141751570],
      42: [551831576, 144025891, 322543647, 3034809370],
    };
    for (const [seed, state] of Object.entries(words)) {
      const fromSeed = new Random(Number(seed));
      const fromState = new Random(state as [number, number, number, number]);
      for (let i = 0; i < 5; i++) expect(fromSeed.nextUint32()).toBe(fromState.nextUint32());
    }
  });

  it('use all 53 bits of a seed', () => {
    const first = (seed: number) => new Random(seed).nextUint32();
    expect(new Set([1, 1 + 2 ** 32, 1 + 2 ** 52, 2 ** 32].map(first)).size).toBe(4);
  });

  propertyTest.prop([fc.maxSafeNat()])('lie in [0, 1)', (seed) => {
    const random = new Random(seed);
    for (let i = 0; i < 50; i++) {
      const value = random.next();
      expect(value).toBeGreaterThanOrEqual(0);
      expect(value).toBeLessThan(1);
    }
  });

  it('are uniform', () => {
    const random = new Random(7);
    const buckets = new Array(16).fill(0);
    const draws = 64_000;
    for (let i = 0; i < draws; i++) buckets[Math.floor(random.next() * 16)]++;
    const expected = draws / 16;
    const chiSquared = buckets.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
    expect(chiSquared).toBeLessThan(44.3); // 15 degrees of freedom, p = 1e-4
  });

  it('refuse a seed that is not a whole number, and a state of zeros', () => {
    for (const seed of [-1, 0.5, Number.NaN, 2 ** 53]) expect(() => new Random(seed)).toThrow(RangeError);
    expect(() => new Random([0, 0, 0, 0])).toThrow(RangeError);
  });
});

describe('greedy', () => {
  propertyTest.prop([someLogits])('takes the largest logit, the first among equals', (values) => {
    const { id } = new Sampler().sample(values);
    expect(id).toBe(values.indexOf(Math.max(...values)));
  });
});

describe('filters', () => {
  const distribution = logProbabilities(0.1, 0.5, 0.15, 0.25);

  it('without any, tokens come up as often as the model says', () => {
    const seen = frequencies(distribution, { temperature: 1 });
    // Three standard deviations of a fraction of 20000 draws are at most 0.0107.
    for (const [i, p] of [0.1, 0.5, 0.15, 0.25].entries()) expect(Math.abs(seen[i] - p)).toBeLessThan(0.0107);
  });

  it('temperature raises the odds to the power 1 / temperature', () => {
    const seen = frequencies(distribution, { temperature: 0.5 });
    const squares = [0.01, 0.25, 0.0225, 0.0625];
    const total = squares.reduce((a, b) => a + b);
    for (const [i, p] of squares.entries()) expect(Math.abs(seen[i] - p / total)).toBeLessThan(0.0107);
  });

  const kept = (options: SamplingOptions) =>
    frequencies(distribution, { temperature: 1, ...options }, 2000).flatMap((f, id) => (f > 0 ? [id] : []));

  it('top-k keeps the k most likely', () => {
    expect(kept({ topK: 1 })).toEqual([1]);
    expect(kept({ topK: 2 })).toEqual([1, 3]);
    expect(kept({ topK: 99 })).toEqual([0, 1, 2, 3]);
    expect(kept({ topK: 0 })).toEqual([0, 1, 2, 3]);
  });

  it('top-p keeps the shortest run that reaches p', () => {
    expect(kept({ topP: 0.4 })).toEqual([1]);
    expect(kept({ topP: 0.7 })).toEqual([1, 3]);
    expect(kept({ topP: 0.8 })).toEqual([1, 2, 3]);
    expect(kept({ topP: 1e-9 })).toEqual([1]);
  });

  it('min-p drops what is less likely than that fraction of the best', () => {
    expect(kept({ minP: 0.4 })).toEqual([1, 3]);
    expect(kept({ minP: 0.25 })).toEqual([1, 2, 3]);
    expect(kept({ minP: 1 })).toEqual([1]);
  });

  it('filters come before temperature: heat does not bring back what they dropped', () => {
    expect(kept({ topP: 0.7, temperature: 100 })).toEqual([1, 3]);
    expect(kept({ minP: 0.4, temperature: 100 })).toEqual([1, 3]);
  });

  it('top-p counts within what top-k left', () => {
    // Of 0.5 and 0.25 the first is two thirds.
    expect(kept({ topK: 2, topP: 0.6 })).toEqual([1]);
    expect(kept({ topK: 2, topP: 0.7 })).toEqual([1, 3]);
  });

  propertyTest.prop([
    someLogits,
    fc.record({
      temperature: fc.double({ min: 0.01, max: 5, noNaN: true }),
      topK: fc.nat(50),
      topP: fc.double({ min: 0.001, max: 1, noNaN: true }),
      minP: fc.double({ min: 0, max: 1, noNaN: true }),
      seed: fc.maxSafeNat(),
    }),
  ])('whatever is drawn passed every filter, and the same seed draws the same', (values, options) => {
    const { id } = new Sampler(options).sample(values);
    expect(new Sampler(options).sample(values).id).toBe(id);
    const more = values.filter((value) => value > values[id]);
    if (options.topK > 0) expect(more.length).toBeLessThan(options.topK);
    const relative = Math.exp(values[id] - Math.max(...values));
    expect(relative).toBeGreaterThanOrEqual(options.minP * (1 - 1e-12));
  });
});

describe('repetition penalty', () => {
  const penalty = (values: Float32Array, history: number[], window = 64) =>
    new Sampler({ repetitionPenalty: 2, repetitionWindow: window }).sample(values, history).id;

  it('divides positive logits and multiplies negative ones', () => {
    expect(penalty(logits(3, 2), [])).toBe(0);
    expect(penalty(logits(3, 2), [0])).toBe(1);
    expect(penalty(logits(-2, -3), [0])).toBe(1);
  });

  it('counts a token once, however often it occurs', () => {
    expect(penalty(logits(8, 3), [0, 0, 0, 0])).toBe(0);
  });

  it('looks at the newest tokens only', () => {
    expect(penalty(logits(3, 2, 0), [0, 2, 2], 2)).toBe(0);
    expect(penalty(logits(3, 2, 0), [0, 2, 2], 3)).toBe(1);
    expect(penalty(logits(3, 2, 0), [0, ...new Array(500).fill(2)], 0)).toBe(1);
  });
});

describe('logit bias', () => {
  it('is added, and can forbid a token', () => {
    expect(new Sampler({ logitBias: new Map([[1, 2]]) }).sample(logits(1, 0)).id).toBe(1);
    expect(new Sampler({ logitBias: new Map([[0, Number.NEGATIVE_INFINITY]]) }).sample(logits(9, 0)).id).toBe(
      1,
    );
    const never = frequencies(logits(3, 0), {
      temperature: 1,
      logitBias: new Map([[0, Number.NEGATIVE_INFINITY]]),
    });
    expect(never).toEqual([0, 1]);
  });

  it('must leave a token', () => {
    const all = new Map([0, 1].map((id) => [id, Number.NEGATIVE_INFINITY]));
    expect(() => new Sampler({ logitBias: all }).sample(logits(1, 2))).toThrow(ConfigError);
  });

  it('must name tokens that there are', () => {
    expect(() => new Sampler({ logitBias: new Map([[2, 1]]) }).sample(logits(1, 2))).toThrow(RangeError);
  });
});

describe('log probabilities', () => {
  propertyTest.prop([someLogits])('are those of the model, whatever shaped the choice', (values) => {
    const total = values.reduce((sum, value) => sum + Math.exp(value), 0);
    const sampler = new Sampler({
      temperature: 3,
      logitBias: new Map([[0, 5]]),
      repetitionPenalty: 1.5,
      topLogprobs: 3,
    });
    const { id, logprob, topLogprobs } = sampler.sample(values, [0]);
    expect(logprob).toBeCloseTo(Math.log(Math.exp(values[id]) / total), 9);
    const best = [...values].sort((a, b) => b - a).slice(0, 3);
    expect(topLogprobs.map((top) => values[top.id])).toEqual(best);
    for (const top of topLogprobs) {
      expect(top.logprob).toBeCloseTo(Math.log(Math.exp(values[top.id]) / total), 9);
    }
  });

  it('do not overflow', () => {
    expect(logSumExp(logits(1000, 1000))).toBeCloseTo(1000 + Math.log(2), 9);
    expect(logSumExp(logits(-1000, -1000))).toBeCloseTo(-1000 + Math.log(2), 9);
  });
});

describe('bad input', () => {
  it.each<[string, unknown]>([
    ['temperature', -1],
    ['temperature', Number.NaN],
    ['topP', 0],
    ['topP', 1.1],
    ['minP', -0.1],
    ['minP', 1.1],
    ['repetitionPenalty', 0],
    ['logitBias', new Map([[0, Number.POSITIVE_INFINITY]])],
    ['logitBias', new Map([[0, Number.NaN]])],
  ])('%s %s is a ConfigError that names it', (name, value) => {
    const options = { [name]: value };
    expect(() => assertSamplingOptions(options)).toThrow(ConfigError);
    expect(() => assertSamplingOptions(options)).toThrow(name);
  });

  it.each<[string, number]>([
    ['topK', -1],
    ['topK', 1.5],
    ['repetitionWindow', -1],
    ['seed', -1],
    ['seed', 0.5],
    ['topLogprobs', -1],
  ])('%s %d is a RangeError that names it', (name, value) => {
    expect(() => new Sampler({ [name]: value })).toThrow(RangeError);
    expect(() => new Sampler({ [name]: value })).toThrow(name);
  });

  it('a wrong type is a TypeError', () => {
    for (const name of ['temperature', 'topK', 'seed']) {
      expect(() => new Sampler({ [name]: '1' as unknown as number })).toThrow(TypeError);
    }
  });

  it('undefined means the default', () => {
    expect(new Sampler({ temperature: undefined, seed: undefined }).sample(logits(0, 1)).id).toBe(1);
  });

  it('a logit that is not finite is refused', () => {
    expect(() => new Sampler().sample(logits(0, Number.NaN))).toThrow(NumericError);
    expect(() => new Sampler().sample(logits(0, Number.POSITIVE_INFINITY))).toThrow(/channel 1/);
  });
});
