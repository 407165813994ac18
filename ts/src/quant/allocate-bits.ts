/**
 * How many bits each channel of each layer is worth: one budget for the whole model.
 *
 *     start     every channel has 0 bits
 *     repeat    raise the channel with the largest  gain = L (D(b) - D(b')) / cost  from b bits to the next width b'
 *               cost = b' - b, plus the bits of its scales when a channel leaves 0
 *     until     the next raise would exceed the budget, or gains nothing
 *
 * L is the importance of a channel: its variance, in a space where every error matters equally. D(b) is the part of
 * a variance of 1 that b bits leave. This greedy order is the classical solution (Shoham and Gersho, "Efficient bit
 * allocation for an arbitrary set of quantizers", 1988): the best there is for what it spends, if D is convex.
 *
 * @module
 */

import { ShapeError } from '../errors.js';
import { CHANNEL_BITS, type ChannelBits } from './symmetric.js';

/** Mean squared error of a variable of variance 1 by the bits of its code. Decreasing; 1 for 0 bits. */
export type Distortion = Readonly<Record<ChannelBits, number>>;

/** The problem of allocating bits. */
export interface AllocationProblem {
  /** L of every channel of every layer, not negative. [layers][channels] */
  readonly importance: readonly Float32Array[];
  readonly distortion: Distortion;
  /** Bits a token may take in all layers together, scales included. */
  readonly budget: number;
  /** Bits of scales for each code of a channel that is stored: 16 / groupSize. */
  readonly scaleBits: number;
}

/** One step of one channel, and its place in the order of steps. */
interface Raise {
  readonly layer: number;
  readonly channel: number;
  readonly bits: ChannelBits;
  readonly cost: number;
  /** The smallest gain of this step and those before it: no step can be taken earlier than its predecessors. */
  readonly gain: number;
}

/**
 * The bits of every channel. Of equal gains the lower layer comes first, then the lower channel.
 *
 * @returns fresh, [layers][channels]
 * @throws {ShapeError} if there are no layers
 * @throws {RangeError} if an importance is negative or not finite
 */
export function allocateBits(problem: AllocationProblem): ChannelBits[][] {
  const { importance, budget } = problem;
  if (importance.length === 0) throw new ShapeError('allocateBits', 'importance', ['layers'], [0]);
  const raises = importance.flatMap((layer, i) =>
    Array.from(layer, (each, channel) => raisesOf(each, i, channel, problem)).flat(),
  );
  raises.sort((a, b) => b.gain - a.gain || a.layer - b.layer || a.channel - b.channel || a.bits - b.bits);
  const allocated = importance.map((layer) => new Array<ChannelBits>(layer.length).fill(0));
  let spent = 0;
  for (const { layer, channel, bits, cost } of raises) {
    spent += cost;
    if (spent > budget) break;
    allocated[layer][channel] = bits;
  }
  return allocated;
}

/**
 * Bits a token takes under an allocation, in all layers together.
 *
 * @param scaleBits as in {@link AllocationProblem}
 */
export function allocatedBits(allocation: readonly (readonly ChannelBits[])[], scaleBits: number): number {
  return allocation.flat().reduce((sum: number, bits) => sum + (bits === 0 ? 0 : bits + scaleBits), 0);
}

function raisesOf(
  importance: number,
  layer: number,
  channel: number,
  { distortion, scaleBits }: AllocationProblem,
): Raise[] {
  if (!(importance >= 0 && importance < Number.POSITIVE_INFINITY)) {
    const where = `layer ${layer}, channel ${channel}`;
    throw new RangeError(`the importance of ${where} must be a finite number from 0, got ${importance}`);
  }
  const raises: Raise[] = [];
  let gain = Number.POSITIVE_INFINITY;
  for (let step = 1; step < CHANNEL_BITS.length; step++) {
    const [from, bits] = [CHANNEL_BITS[step - 1], CHANNEL_BITS[step]];
    const cost = bits - from + (from === 0 ? scaleBits : 0);
    gain = Math.min(gain, (importance * (distortion[from] - distortion[bits])) / cost);
    if (gain <= 0) break;
    raises.push({ layer, channel, bits, cost, gain });
  }
  return raises;
}
